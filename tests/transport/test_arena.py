"""Blocks that are used again when the kernel says that nobody reads them any more."""

from __future__ import annotations

import gc
import mmap
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("memfd is Linux's", allow_module_level=True)

import fcntl

import fullcourt
from fullcourt._transport import arena as arena_module
from fullcourt._transport import blocks
from fullcourt._transport.arena import Arena
from fullcourt._transport.blocks import open_block, write_block

MB = 1 << 20


@pytest.fixture
def arena() -> Iterator[Arena]:
    found = Arena(64 * MB)
    probe = arena_module.open_kept()
    if probe is None:
        pytest.skip("no leases or no /proc here: blocks are fresh each time")
    probe.close()
    yield found
    found.close()


def send(arena: Arena, content: bytes) -> list[memoryview]:
    fd, table = write_block([content], arena)
    return open_block(fd, table)


def inode_of(parts: list[memoryview]) -> int:
    """Of the file that a mapping is of, by /proc: two blocks have two."""
    address = memory_address(parts[0])
    with open("/proc/self/maps") as file:
        for line in file:
            first, _, rest = line.partition("-")
            last = rest.partition(" ")[0]
            if int(first, 16) <= address < int(last, 16):
                return int(line.split()[4])
    raise AssertionError


def memory_address(view: memoryview) -> int:
    import ctypes

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def test_a_block_is_used_again_when_its_reader_has_gone(arena: Arena) -> None:
    parts = send(arena, b"a" * MB)
    first = inode_of(parts)
    assert bytes(parts[0][:3]) == b"aaa"
    del parts
    gc.collect()
    parts = send(arena, b"b" * MB)
    assert inode_of(parts) == first
    assert bytes(parts[0]) == b"b" * MB
    assert arena.n_warm == 1


def test_a_block_that_somebody_reads_is_left_alone(arena: Arena) -> None:
    held = send(arena, b"a" * MB)
    others = [send(arena, bytes([i]) * MB) for i in range(5)]
    assert arena.n_warm == 0
    assert bytes(held[0]) == b"a" * MB
    assert [bytes(parts[0]) for parts in others] == [bytes([i]) * MB for i in range(5)]


def test_a_part_of_a_block_keeps_it(arena: Arena) -> None:
    fd, table = write_block([b"a" * MB, b"b" * MB], arena)
    second = open_block(fd, table)[1][100:200]
    for _ in range(3):
        send(arena, b"c" * MB)
    assert bytes(second) == b"b" * 100


def test_a_block_under_way_is_not_used_again(arena: Arena) -> None:
    fd, table = write_block([b"a" * MB], arena)  # its descriptor may lie in a socket
    send(arena, b"b" * MB)
    assert bytes(open_block(fd, table)[0]) == b"a" * MB


def test_a_forked_child_that_still_reads_keeps_the_block(arena: Arena) -> None:
    parts = send(arena, b"a" * MB)
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if not pid:
        os.read(to_child, 1)
        os.write(from_child, b"+" if bytes(parts[0]) == b"a" * MB else b"-")
        os._exit(0)
    del parts
    gc.collect()
    send(arena, b"b" * MB)
    assert arena.n_warm == 0
    os.write(from_parent, b"1")
    assert os.read(to_parent, 1) == b"+"
    os.waitpid(pid, 0)
    for fd in (to_child, from_parent, to_parent, from_child):
        os.close(fd)
    send(arena, b"c" * MB)
    assert arena.n_warm == 1  # that of "b" or that of "a": both are free now


def test_what_the_receiver_writes_is_its_own(arena: Arena) -> None:
    (mine,) = send(arena, b"a" * MB)
    mine[0] = ord("x")
    assert bytes(mine[:2]) == b"xa"
    del mine
    gc.collect()
    (again,) = send(arena, b"b" * MB)
    assert bytes(again[:2]) == b"bb"


def test_a_shorter_and_a_longer_body_fit_into_the_same_block(arena: Arena) -> None:
    for i, size in enumerate([2 * MB, 300_000, 5 * MB + 1, MB, 5 * MB]):
        content = bytes([i + 1]) * size
        parts = send(arena, content)
        assert bytes(parts[0]) == content
        del parts
    assert arena.n_warm == 4


def test_the_parts_lie_where_the_receiver_looks_for_them(arena: Arena) -> None:
    contents = [b"a" * 3, b"", b"b" * MB, b"c" * 65, b"d" * 100_000]
    for _ in range(2):
        fd, table = write_block(contents, arena)
        assert [bytes(part) for part in open_block(fd, table)] == contents
    assert arena.n_warm == 1


def test_no_more_is_kept_than_allowed(arena: Arena) -> None:
    small = Arena(3 * MB)
    try:
        held = [send(small, bytes([i]) * MB) for i in range(6)]
        assert sum(block.size for block in small._blocks) <= 3 * MB
        assert [bytes(parts[0][:1]) for parts in held] == [bytes([i]) for i in range(6)]
        assert bytes(send(small, b"z" * 10 * MB)[0][:2]) == b"zz"  # too large to be kept
        assert sum(block.size for block in small._blocks) <= 3 * MB
    finally:
        small.close()


def test_what_was_long_unused_is_given_back(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (MB, 2 * MB):
        send(arena, bytes(size))
    later = arena._blocks[-1].used_at + arena_module.MAX_AGE_S + 1
    monkeypatch.setattr(arena_module, "monotonic", lambda: later)
    send(arena, bytes(MB))
    assert len(arena._blocks) == 1


def test_small_bodies_are_not_the_arenas(arena: Arena) -> None:
    send(arena, bytes(arena_module.SMALLEST - 64))
    assert not arena._blocks


def test_without_leases_blocks_are_fresh(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(22, "no leases")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    for content in (b"a" * MB, b"b" * MB):
        assert bytes(send(arena, content)[0]) == content
    assert not arena._blocks


def test_a_failed_write_leaves_nothing_open(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError, match="no space"):
        send(arena, b"a" * MB)
    assert not arena._blocks


def test_a_closed_arena_keeps_nothing(arena: Arena) -> None:
    held = send(arena, b"a" * MB)
    arena.close()
    arena.close()
    assert bytes(held[0]) == b"a" * MB
    send(arena, b"b" * MB)
    assert not arena._blocks


def test_threads_at_once_get_blocks_of_their_own(arena: Arena) -> None:
    wrong: list[int] = []

    def use(i: int) -> None:
        for j in range(30):
            content = bytes([i * 30 + j]) * (300_000 + 1000 * j)
            if bytes(send(arena, content)[0]) != content:
                wrong.append(i)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert arena.n_warm > 10


def test_many_living_bodies_do_not_use_up_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAX_MAPPED", len(blocks.mapped) + 5)
    before = len(os.listdir("/proc/self/fd"))
    contents = [bytes([i]) * 70_000 for i in range(20)]
    held = [open_block(*write_block([content])) for content in contents]
    assert len(os.listdir("/proc/self/fd")) <= before + 5
    assert [bytes(parts[0]) for parts in held] == contents
    held[19][0][0] = 7  # copied or mapped, it is the receiver's own


# -- in a pool --------------------------------------------------------------------------------------------------------


def fill(value: int) -> bytearray:
    return bytearray([value]) * MB


def first_and_last(data: Any) -> tuple[int, int]:
    return data[0], data[-1]


def keep(data: Any) -> None:
    kept.append(data)


def check_kept(_: int) -> list[bool]:
    return [bytes(data) == bytes([i]) * len(data) for i, data in enumerate(kept)]


kept: list[Any] = []


class Large:
    """Pickles out of band."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        import pickle

        return Large, (pickle.PickleBuffer(self.data),)

    def __getitem__(self, i: int) -> Any:
        return self.data[i]

    def __len__(self) -> int:
        return len(self.data)

    def __bytes__(self) -> bytes:
        return bytes(self.data)


def fill_large(value: int) -> Large:
    return Large(fill(value))


def test_results_that_are_kept_stay_as_they_are() -> None:
    with fullcourt.Pool(1) as pool:
        results = pool.map(fill_large, range(30))
        assert all(bytes(result) == bytes([i]) * MB for i, result in enumerate(results))


def test_arguments_that_a_worker_keeps_stay_as_they_are() -> None:
    with fullcourt.Pool(1) as pool:
        for i in range(20):
            pool.apply(keep, (Large(fill(i)),))
        assert pool.apply(check_kept, (0,)) == [True] * 20


def test_arguments_one_after_the_other_travel_in_one_block() -> None:
    with fullcourt.Pool(1) as pool:
        for i in range(10):
            assert pool.apply(first_and_last, (Large(fill(i)),)) == (i, i)
        warm = pool._driver.engine._arena
        if warm._blocks:  # there are leases here
            assert len(warm._blocks) <= 2
            assert warm.n_warm >= 8


def test_a_killed_reader_gives_its_blocks_back() -> None:
    with fullcourt.Pool(1) as pool:
        for i in range(3):
            pool.apply(keep, (Large(fill(i)),))
        pid = pool.apply(os.getpid)
        with pytest.raises(fullcourt.WorkerDied):
            pool.apply(os.kill, (pid, signal.SIGKILL))
        before = pool._driver.engine._arena.n_warm
        assert pool.apply(first_and_last, (Large(fill(9)),)) == (9, 9)
        if pool._driver.engine._arena._blocks:
            assert pool._driver.engine._arena.n_warm == before + 1


def test_a_second_pool_does_not_hold_the_blocks_of_the_first() -> None:
    def blocks_of(pid: int) -> int:
        return sum(
            "memfd:fullcourt (" in os.readlink(f"/proc/{pid}/fd/{fd}")
            for fd in os.listdir(f"/proc/{pid}/fd")
        )  # fmt: skip

    with fullcourt.Pool(1) as first:
        first.apply(first_and_last, (Large(fill(1)),))
        with fullcourt.Pool(1, start_method="fork") as second:
            assert blocks_of(second.apply(os.getpid)) == 0


def test_a_mapping_of_a_page_is_enough_to_keep_a_block(arena: Arena) -> None:
    fd, _ = write_block([b"a" * MB], arena)
    page = mmap.mmap(fd, mmap.PAGESIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    os.close(fd)
    send(arena, b"b" * MB)
    assert page[:1] == b"a"
    page.close()
