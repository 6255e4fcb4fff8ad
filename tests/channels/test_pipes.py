"""Pipes keep their promises, whoever is at the other end."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from typing import Any

import pytest
from channel_tasks import echo_pipe
from endpoints import QUICK_KINDS, endpoint, fork, reap

import fullcourt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes need Linux")


@pytest.mark.parametrize("kind", QUICK_KINDS)
def test_objects_of_every_size_go_there_and_back(kind: str) -> None:
    numpy = pytest.importorskip("numpy") if kind != "pool-interpreters" else None
    items: list[Any] = [1, "two", None, b"", bytes(100_000), {"a": [1, 2]}, "x" * 70_000]
    with endpoint(kind) as there:
        mine, its = fullcourt.Pipe()
        there.start(echo_pipe, its)
        if kind not in {"thread", "pool-threads"}:
            its.close()
        for item in items:
            mine.send(item)
            assert mine.recv() == item
        if numpy is not None:
            array = numpy.arange(100_000)
            mine.send(array)
            arrived = mine.recv()
            assert (arrived == array).all()
            assert arrived.flags.writeable
        mine.send("stop")
        mine.close()


def test_bytes_and_objects_understand_each_other() -> None:
    one, other = fullcourt.Pipe()
    with one, other:
        one.send([1, 2])
        import pickle

        raw = other.recv_bytes()
        assert pickle.loads(raw) == [1, 2]
        other.send_bytes(raw)
        assert one.recv() == [1, 2]
        one.send_bytes(b"abcdef", 2, 3)
        assert other.recv_bytes() == b"cde"
        one.send_bytes(b"")
        assert other.recv_bytes() == b""
        one.send_bytes(bytes(200_000))
        buffer = bytearray(200_010)
        assert other.recv_bytes_into(buffer, 10) == 200_000
        one.send_bytes(b"too long")
        with pytest.raises(multiprocessing.BufferTooShort) as caught:
            other.recv_bytes_into(bytearray(3))
        assert caught.value.args[0] == b"too long"
        one.send_bytes(b"too long")
        with pytest.raises(OSError, match="maxlength is 3"):
            other.recv_bytes(3)
        other.send("it can still send")
        assert one.recv() == "it can still send"
        with pytest.raises(OSError, match="write-only"):
            other.recv()
    reads, writes = fullcourt.Pipe(duplex=False)
    with reads, writes:
        writes.send_bytes(b"too long")
        with pytest.raises(OSError, match="maxlength is 3"):
            reads.recv_bytes(3)
        assert reads.closed


def test_a_one_way_pipe_refuses_the_other_way() -> None:
    reads, writes = fullcourt.Pipe(duplex=False)
    with reads, writes:
        assert (reads.readable, reads.writable, writes.readable, writes.writable) == (True, False, False, True)
        with pytest.raises(OSError, match="read-only"):
            reads.send(1)
        with pytest.raises(OSError, match="write-only"):
            writes.recv()
        writes.send(1)
        assert reads.recv() == 1


def test_the_end_comes_after_what_was_sent() -> None:
    one, other = fullcourt.Pipe()
    one.send(1)
    other.send("unread")
    one.close()
    assert list(other) == [1]
    with pytest.raises(EOFError):
        other.recv()
    with pytest.raises(BrokenPipeError):
        other.send(1)
    other.close()
    with pytest.raises(OSError, match="closed"):
        other.recv()


def test_the_death_of_the_other_end_is_the_end() -> None:
    one, other = fullcourt.Pipe()

    def child() -> None:
        one.close()
        other.send("last words")
        os.kill(os.getpid(), signal.SIGKILL)

    pid = fork(child)
    other.close()
    assert list(one) == ["last words"]
    assert reap(pid) == -signal.SIGKILL
    one.close()


def test_poll_and_the_standard_librarys_wait() -> None:
    one, other = fullcourt.Pipe()
    with one, other:
        assert not one.poll()
        assert not one.poll(0.01)
        other.send(1)
        assert one.poll()
        assert one.poll(None)
        assert multiprocessing.connection.wait([one, other]) == [one]


def test_several_threads_share_an_end_without_mixing_messages() -> None:
    one, other = fullcourt.Pipe()
    got: list[bytes] = []

    def write(letter: bytes) -> None:
        for i in range(50):
            one.send_bytes(letter * (i * 700 + 1))

    def read() -> None:
        got.extend(other.recv_bytes() for _ in range(100))

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 200
    assert all(len(set(message)) == 1 for message in got)
    one.close()
    other.close()


def test_an_end_goes_through_a_pipe() -> None:
    one, other = fullcourt.Pipe()
    far, near = fullcourt.Pipe()
    one.send(near)
    near.close()
    arrived = other.recv()
    arrived.send("hello")
    assert far.recv() == "hello"
    for end in (one, other, far, arrived):
        end.close()


def test_coroutines_exchange_messages() -> None:
    async def main() -> list[int]:
        one, other = fullcourt.Pipe()
        with one, other:

            async def serve() -> None:
                for _ in range(20):
                    await other.asend(1 + await other.arecv())

            server = asyncio.create_task(serve())
            got = []
            for i in range(20):
                await one.asend(i)
                got.append(await one.arecv())
            await server
            return got

    assert asyncio.run(main()) == list(range(1, 21))


def test_several_coroutines_receive_from_one_end() -> None:
    async def main() -> list[int]:
        one, other = fullcourt.Pipe()
        with one, other:
            receivers = [asyncio.create_task(other.arecv()) for _ in range(3)]
            await asyncio.sleep(0)  # all wait
            for number in range(3):
                await one.asend(number)
            return await asyncio.gather(*receivers)

    assert sorted(asyncio.run(asyncio.wait_for(main(), 60))) == [0, 1, 2]


def test_several_coroutines_send_through_one_end_that_is_full() -> None:
    async def main() -> list[int]:
        one, other = fullcourt.Pipe()
        with one, other:

            async def send(number: int) -> None:
                for _ in range(100):
                    await one.asend((number, "x" * 8000))

            senders = [asyncio.create_task(send(number)) for number in range(3)]
            for _ in range(120):  # each has sent what there was room for, and waits
                await asyncio.sleep(0)
            got = [(await other.arecv())[0] for _ in range(300)]
            await asyncio.gather(*senders)
            return got

    got = asyncio.run(asyncio.wait_for(main(), 60))
    assert [got.count(number) for number in range(3)] == [100] * 3
