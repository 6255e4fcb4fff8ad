"""The portable link by itself: both ends in this process, a worker's part played by the test."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fullcourt._transport import frames, portable_link
from fullcourt._transport.codec import Codec
from fullcourt._transport.link import read_body
from fullcourt._transport.portable_link import Message, Page, PoolEnd, WorkerEnd, make_link, make_message, open_page

pytestmark = pytest.mark.timeout(30)


class Pair:
    """A link, its pool's threads, and its worker's end; what reaches the pool is in ``arrived``, None at the end."""

    def __init__(self, n_slots: int = 1) -> None:
        self.worker_saw_the_end = threading.Event()
        self.pool, inherited = make_link(n_slots)
        self.worker = WorkerEnd(os.dup(inherited.numbers[0]), self.worker_saw_the_end.set)
        inherited.close()
        self.arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self.pool.write)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        while (received := self.pool.receive()) is not None:
            self.arrived.put(received)
        self.arrived.put(None)

    def begin(self) -> None:
        """The worker has got its first message, reads, and is ready."""
        self.pool.start(b"setup")
        assert self.worker.receive_start() == b"setup"
        self.worker.start_reading()
        self.worker.send(answer(frames.READY, 0, 0))
        assert self.arrived.get(timeout=10)[0][0] == frames.READY

    def end(self) -> None:
        self.pool.hang_up()
        self.pool.end_writing()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self.pool.close()
        assert self.worker_saw_the_end.wait(10)
        self.worker._connection.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.end()


def call(chunk_id: int, payload: bytes = b"") -> Message:
    return make_message(frames.CALL, 0, chunk_id, 0, 1, 0.0, b"", payload, [])


def answer(kind: int, chunk_id: int, count: int = 1) -> Message:
    return make_message(kind, 0, chunk_id, 0, count, 0.0, b"", b"", [])


def ids_that_come(pair: Pair, n: int) -> list[int]:
    return [pair.worker._frames.get(timeout=10)[0][3] for _ in range(n)]


@pytest.mark.parametrize("n_bytes", [0, 1, frames.MAX_INLINE, frames.MAX_INLINE + 1, 3 * portable_link.PIECE_BYTES + 5])
def test_a_frame_arrives_as_it_was_sent_both_ways(n_bytes: int) -> None:
    pair = Pair()
    pair.begin()
    array = bytearray(os.urandom(100_000))
    payload, buffers = Codec().encode((bytes(n_bytes), pickle.PickleBuffer(array)))
    assert len(buffers) == 1
    pair.pool.send(make_message(frames.CALL, 3, 7, 0, 1, 0.0, b"function", payload, buffers))
    for received in (pair.worker.receive(), None):
        if received is None:
            pair.worker.send(make_message(frames.RESULT, 3, 7, 0, 1, 0.5, b"function", payload, buffers))
            received = pair.arrived.get(timeout=10)
        fields, data, attached = received
        body = read_body(data, fields, attached)
        assert bytes(body.function) == b"function"
        zeros, copy = pickle.loads(body.payload, buffers=body.buffers)
        assert zeros == bytes(n_bytes)
        assert copy == array
        copy[0] ^= 255  # what arrives is the receiver's
    assert pair.pool.bytes_out > n_bytes + 100_000
    assert pair.pool.bytes_in > n_bytes + 100_000
    pair.end()


def test_nothing_flies_before_the_worker_is_ready_and_few_after(pair: Pair) -> None:
    for chunk_id in range(1, 11):
        pair.pool.send(call(chunk_id))
    assert pair.pool.take_back() == list(range(1, 11))
    for chunk_id in range(1, 11):
        pair.pool.send(call(chunk_id))
    pair.begin()
    assert ids_that_come(pair, 3) == [1, 2, 3]  # one slot, and two more
    for chunk_id in range(1, 8):
        pair.worker.send(answer(frames.RESULT, chunk_id))
        assert ids_that_come(pair, 1) == [chunk_id + 3]
    assert pair.worker._frames.empty()


def test_an_answered_chunk_makes_room_only_when_its_last_task_has_ended(pair: Pair) -> None:
    pair.begin()
    for chunk_id in range(1, 6):
        pair.pool.send(make_message(frames.MAP, 0, chunk_id, 0, 4, 0.0, b"", b"", []))
    assert ids_that_come(pair, 3) == [1, 2, 3]
    pair.worker.send(answer(frames.RESULTS, 1, 3))
    pair.arrived.get(timeout=10)
    assert len(pair.pool._in_flight) == 3
    pair.worker.send(answer(frames.ERROR, 1, 1))
    assert ids_that_come(pair, 1) == [4]
    pair.worker.send(answer(frames.UNLOADABLE, 2, 4))
    assert ids_that_come(pair, 1) == [5]


def test_what_no_slot_has_begun_is_taken_back_from_here_and_from_there(pair: Pair) -> None:
    pair.begin()
    for chunk_id in range(1, 8):
        pair.pool.send(call(chunk_id))
    assert pair.worker.receive()[0][3] == 1
    assert sorted(pair.pool.take_back()) == [2, 3, 4, 5, 6, 7]
    assert pair.pool.take_back() == []
    pair.pool.send(call(8))
    assert ids_that_come(pair, 1) == [8]
    assert set(pair.pool._in_flight) == {1, 8}


def test_a_nested_task_s_number_is_not_the_pool_s(pair: Pair) -> None:
    pair.begin()
    for chunk_id in (1, 2, 3):
        pair.pool.send(call(chunk_id))
    assert pair.worker.receive()[0][3] == 1
    for kind in (frames.NESTED, frames.NESTED_CANCEL, frames.NESTED_REVOKE, frames.NESTED_STOP):
        pair.worker.send(answer(kind, 2))
        pair.arrived.get(timeout=10)
    assert set(pair.pool._in_flight) == {1, 2, 3}
    assert sorted(pair.pool.take_back()) == [2, 3]


def test_a_worker_told_to_stop_stops_also_when_work_was_taken_back(pair: Pair) -> None:
    pair.begin()
    for chunk_id in (1, 2, 3):
        pair.pool.send(call(chunk_id))
    pair.pool.send(answer(frames.STOP, 0, 0))
    assert pair.worker.receive()[0][3] == 1
    assert sorted(pair.pool.take_back()) == [2, 3]
    assert pair.worker.receive()[0][0] == frames.STOP


def test_what_comes_back_late_comes_as_missing() -> None:
    pair = Pair()
    pair.pool.start(b"setup")
    pair.worker.receive_start()
    pair.worker.send(answer(frames.READY, 0, 0))
    pair.arrived.get(timeout=10)
    for chunk_id in range(1, 6):
        pair.pool.send(call(chunk_id))
    assert pair.pool.take_back() == [4, 5]  # nobody reads there: the question waits
    assert pair.pool.take_back() == []  # and is not asked twice
    pair.worker.start_reading()
    late = [pair.arrived.get(timeout=10)[0] for _ in range(3)]
    assert [(fields[0], fields[3]) for fields in late] == [(frames.MISSING, i) for i in (1, 2, 3)]
    assert pair.pool.take_back() == []
    pair.end()


def test_sending_never_blocks_though_nobody_reads(pair: Pair) -> None:
    pair.pool.start(b"setup")
    pair.worker.receive_start()
    pair.worker.send(answer(frames.READY, 0, 0))
    pair.arrived.get(timeout=10)
    done = threading.Event()

    def send() -> None:
        for chunk_id in range(1, 200):
            pair.pool.send(call(chunk_id, bytes(1 << 20)))
        done.set()

    sender = threading.Thread(target=send)
    sender.start()
    assert done.wait(10)
    sender.join()
    assert pair.pool.take_back() == list(range(4, 200))
    pair.worker.start_reading()
    assert ids_that_come(pair, 3) == [1, 2, 3]


def test_large_frames_both_ways_at_once_do_not_deadlock(pair: Pair) -> None:
    pair.begin()
    n, size = 20, 4 << 20

    def work() -> None:
        for _ in range(n):
            fields, _, attached = pair.worker.receive()
            assert isinstance(attached, list)
            pair.worker.send(make_message(frames.RESULT, 0, fields[3], 0, 1, 0.0, b"", bytes(attached[1]), []))

    worker = threading.Thread(target=work)
    worker.start()
    for chunk_id in range(1, n + 1):
        pair.pool.send(call(chunk_id, bytes([chunk_id]) * size))
    for chunk_id in range(1, n + 1):
        fields, _, attached = pair.arrived.get(timeout=20)
        assert fields[3] == chunk_id
        assert attached[1].tobytes() == bytes([chunk_id]) * size
    worker.join()


def test_what_a_worker_wrote_before_its_death_arrives_though_another_holds_its_end(pair: Pair) -> None:
    pair.begin()
    for chunk_id in (1, 2, 3):
        pair.worker.send(answer(frames.RESULT, chunk_id))
    # The worker's end is still open here, as a grandchild would hold it.
    pair.pool.hang_up()
    assert [pair.arrived.get(timeout=10)[0][3] for _ in range(3)] == [1, 2, 3]
    assert pair.arrived.get(timeout=10) is None


def test_parts_for_which_there_is_no_memory_are_an_error_of_that_frame_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.begin()

    def no_memory(n: int) -> bytearray:
        if n > 2_000_000:
            raise MemoryError
        return bytearray(n)

    monkeypatch.setattr(portable_link, "bytearray", no_memory, raising=False)
    pair.worker.send(make_message(frames.RESULT, 0, 1, 0, 1, 0.0, b"", bytes(5_000_000), []))
    pair.worker.send(make_message(frames.RESULT, 0, 2, 0, 1, 0.0, b"", bytes(1_000_000), []))
    fields, data, attached = pair.arrived.get(timeout=10)
    with pytest.raises(OSError, match="could not be received"):
        read_body(data, fields, attached)
    fields, data, attached = pair.arrived.get(timeout=10)
    assert read_body(data, fields, attached).payload == bytes(1_000_000)


def test_the_page_is_shared_and_has_no_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    page = Page(100_000)
    assert list(tmp_path.iterdir()) == []
    other = open_page(os.dup(page.token), 100_000)
    page.close()
    other[99_999] = 7
    assert page.memory[99_999] == 7
    assert page.memory[0] == 0
    other.close()
    page.memory.close()


@pytest.mark.skipif(not hasattr(signal, "SIGIO"), reason="a signal of Unix")
def test_an_unused_link_closes_whole() -> None:
    end, inherited = make_link(1)
    inherited.close()
    inherited.close()
    assert isinstance(end, PoolEnd)
    end.close()
    end.close()


def settings(size: int = 8) -> Message:
    return make_message(frames.SETTINGS, 0, 0, 0, 0, 0.0, b"", bytes(size), [])


def test_what_is_told_is_not_taken_back(pair: Pair) -> None:
    pair.begin()
    for message in (call(1), settings(), call(2), call(3), settings(), call(4)):
        pair.pool.send(message)
    assert pair.worker.receive()[0][3] == 1
    assert sorted(pair.pool.take_back()) == [2, 3, 4]
    assert [pair.worker.receive()[0][0] for _ in range(2)] == [frames.SETTINGS] * 2


def test_what_is_told_does_not_make_the_link_seem_full_for_ever(pair: Pair) -> None:
    pair.begin()
    for i in range(1, 20):
        pair.pool.send(settings(1000))
        pair.pool.send(call(i))
        assert pair.worker.receive()[0][0] == frames.SETTINGS
        assert pair.worker.receive()[0][3] == i
        pair.worker.send(answer(frames.RESULT, i))
        assert pair.arrived.get(timeout=10)[0][3] == i
    assert pair.pool._unread_bytes == 0


def test_a_send_inside_of_a_send_comes_after_it(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.begin()
    real = portable_link.write_message

    def write(target: Any, message: Message) -> None:
        if message.chunk_id == 1:
            pair.worker.send(answer(frames.RESULT, 2))
        real(target, message)

    monkeypatch.setattr(portable_link, "write_message", write)
    pair.worker.send(answer(frames.RESULT, 1))
    assert [pair.arrived.get(timeout=10)[0][3] for _ in range(2)] == [1, 2]
