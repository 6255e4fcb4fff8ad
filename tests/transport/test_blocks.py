"""Blocks of memory that travel as descriptors."""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import pickle
import sys
from typing import Any

import pytest

from fullcourt._transport import blocks
from fullcourt._transport.blocks import ALIGN, open_block, raw_views, write_block

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd is Linux's")

PAGE = mmap.PAGESIZE


def there_and_back(*parts: bytes | memoryview) -> list[bytes]:
    fd, table = write_block(parts)
    return [bytes(part) for part in open_block(fd, table)]


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, PAGE - 1, PAGE, PAGE + 1, 1_000_000])
def test_parts_of_every_size_arrive(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    part = content[:size]
    assert there_and_back(part) == [part]
    assert there_and_back(b"before", part, b"", part, b"after") == [b"before", part, b"", part, b"after"]


def test_a_block_of_nothing_and_of_empty_parts() -> None:
    assert there_and_back() == []
    assert there_and_back(b"", b"") == [b"", b""]


def test_parts_of_other_types_arrive_as_bytes() -> None:
    numbers = array.array("d", [1.5, 2.5])
    assert there_and_back(memoryview(numbers)) == [numbers.tobytes()]
    assert there_and_back(memoryview(b"abcdef")[1:4]) == [b"bcd"]


def test_arrays_of_all_orders_arrive() -> None:
    numpy = pytest.importorskip("numpy")
    square = numpy.arange(12.0).reshape(3, 4)
    views = raw_views([pickle.PickleBuffer(square), pickle.PickleBuffer(numpy.asfortranarray(square))])
    assert there_and_back(*views) == [square.tobytes(), square.tobytes("F")]


def test_the_table_has_the_length_of_each_part() -> None:
    fd, table = write_block([b"abc", b"", bytes(1000)])
    os.close(fd)
    assert memoryview(table).cast("Q").tolist() == [3, 0, 1000]


def test_each_part_starts_at_a_cache_line() -> None:
    fd, table = write_block([b"a", bytes(65), b"b" * 3])
    parts = open_block(fd, table)
    places = [ctypes.addressof(ctypes.c_char.from_buffer(part)) for part in parts]
    assert ALIGN == 64
    assert [place % 64 for place in places] == [0, 0, 0]
    assert [place - places[0] for place in places] == [0, 64, 192]


def test_the_receiver_may_write_and_nobody_else_sees_it() -> None:
    fd, table = write_block([b"shared"])
    again = os.dup(fd)
    (mine,) = open_block(fd, table)
    mine[0:1] = b"X"
    (theirs,) = open_block(again, table)
    assert (bytes(mine), bytes(theirs)) == (b"Xhared", b"shared")


def test_the_descriptor_is_closed_when_the_block_is_open() -> None:
    fd, table = write_block([b"abc"])
    assert is_open(fd)
    parts = open_block(fd, table)
    assert not is_open(fd)
    assert bytes(parts[0]) == b"abc"
    empty_fd, empty_table = write_block([b""])
    open_block(empty_fd, empty_table)
    assert not is_open(empty_fd)


def test_the_descriptor_is_closed_when_the_block_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    fd, table = write_block([b"abc"])

    def no_memory(*args: object, **options: object) -> object:
        raise OSError(12, "no memory")

    monkeypatch.setattr(blocks.mmap, "mmap", no_memory)
    with pytest.raises(OSError, match="no memory"):
        open_block(fd, table)
    assert not is_open(fd)


def test_a_block_that_cannot_be_written_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def full(fd: int, data: Any, at: int) -> int:
        seen.append(fd)
        raise OSError(28, "no space")

    monkeypatch.setattr(blocks.os, "pwrite", full)
    with pytest.raises(OSError, match="no space"):
        write_block([b"abc"])
    assert not is_open(seen[0])


def test_a_write_that_stops_short_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(blocks.os, "pwrite", lambda fd, data, at: whole(fd, data[:1000], at))
    content = os.urandom(2500)
    assert there_and_back(b"x", content, b"y") == [b"x", content, b"y"]


def test_a_block_does_not_pass_to_programs_that_we_start() -> None:
    fd, _ = write_block([b"abc"])
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_block_is_gone_with_the_last_view_of_it() -> None:
    def n_mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum("memfd:fullcourt" in line for line in maps)

    before = n_mapped()
    fd, table = write_block([bytes(PAGE), bytes(PAGE)])
    first, second = open_block(fd, table)
    assert n_mapped() == before + 1
    del first
    assert n_mapped() == before + 1
    assert second[0] == 0
    del second
    assert n_mapped() == before
