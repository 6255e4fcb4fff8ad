"""A link, both of its ends in this process: frames in order, large ones, taking back, a full link, the end."""

from __future__ import annotations

import _socket
import os
import pickle
import select
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fullcourt._transport import codec, frames
from fullcourt._transport.link import Frame, PoolEnd, WorkerEnd, make_frame, make_link, read_body

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="SOCK_SEQPACKET socket pairs are Linux's")


@dataclass
class Link:
    pool: PoolEnd
    worker: WorkerEnd
    tasks: socket.socket  # the worker's, of which the pool has a duplicate
    results: _socket.socket

    def end_worker(self) -> None:
        """As its death does."""
        self.worker.close()


def new_link() -> Link:
    pool, tasks, results = make_link()
    own = socket.socket(fileno=os.dup(tasks.fileno()))  # in another process it would be another descriptor too
    return Link(pool, WorkerEnd(own, results, spins=False), own, results)


@pytest.fixture
def link() -> Iterator[Link]:
    link = new_link()
    yield link
    link.worker.close()
    link.pool.close()


def call(chunk_id: int, payload: bytes = b"payload", function: bytes = b"") -> Frame:
    return make_frame(frames.CALL, 7, chunk_id, 3, 5, 0.0, function, payload, [])


def large_call(chunk_id: int, size: int = 100_000) -> Frame:
    return make_frame(frames.CALL, 7, chunk_id, 0, 1, 0.0, b"", bytes(size), [])


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def worker_reads(link: Link) -> int:
    """Read one frame; returns its chunk's id."""
    received = link.worker.receive()
    assert received is not None
    fields, data, fd = received
    read_body(data, fields, fd)
    return fields[3]


def fill(link: Link, size: int = 20_000) -> list[int]:
    """Send frames until one has to wait; returns the ids of those in the link."""
    for chunk_id in range(1, 1000):
        if not link.pool.send(call(chunk_id, bytes(size))):
            return list(range(1, chunk_id))
    raise AssertionError("the link is never full")


# -- frames -----------------------------------------------------------------------------------------------------------


def test_a_frames_fields_arrive(link: Link) -> None:
    frame = make_frame(frames.MAP, 2**32 - 1, 2**63 + 1, 2**32 - 2, 2**32 - 3, 1.25, b"", b"payload", [])
    assert link.pool.send(frame)
    received = link.worker.receive()
    assert received is not None
    fields, data, fd = received
    assert fields == (frames.MAP, 0, 2**32 - 1, 2**63 + 1, 2**32 - 2, 2**32 - 3, 0, 1.25)
    assert fd == -1
    body = read_body(data, fields, fd)
    assert (bytes(body.function), bytes(body.payload), body.buffers) == (b"", b"payload", [])


@pytest.mark.parametrize(
    ("function", "payload"), [(b"function", b"payload"), (b"function", b""), (b"", b""), (b"", b"p")]
)
def test_function_and_payload_are_kept_apart(link: Link, function: bytes, payload: bytes) -> None:
    link.pool.send(call(1, payload, function))
    received = link.worker.receive()
    assert received is not None
    body = read_body(received[1], received[0], received[2])
    assert (bytes(body.function), bytes(body.payload)) == (function, payload)


@pytest.mark.parametrize("extra", [-1, 0, 1, 100_000, 3_000_000])
@pytest.mark.parametrize("with_function", [False, True])
def test_bodies_of_every_size_arrive_both_ways(link: Link, extra: int, with_function: bool) -> None:
    payload = os.urandom(frames.MAX_INLINE + extra - (10 if with_function else 0))
    function = b"0123456789" if with_function else b""
    frame = call(9, payload, function)
    assert (frame.fd >= 0) == (extra > 0)
    link.pool.send(frame)
    received = link.worker.receive()
    assert received is not None
    link.worker.send(call(9, payload, function))
    answer = link.pool.receive()
    assert answer is not None
    for fields, data, fd in (received, answer):
        body = read_body(data, fields, fd)
        assert fields[3] == 9
        assert (bytes(body.function), bytes(body.payload)) == (function, payload)


def test_buffers_arrive_beside_their_pickle(link: Link) -> None:
    buffers = [pickle.PickleBuffer(bytes([n]) * (n * 1000)) for n in (1, 0, 3)]
    link.pool.send(make_frame(frames.CALL, 0, 1, 0, 1, 0.0, b"f", b"payload", buffers))
    received = link.worker.receive()
    assert received is not None
    body = read_body(received[1], received[0], received[2])
    assert (bytes(body.function), bytes(body.payload)) == (b"f", b"payload")
    assert [bytes(buffer) for buffer in body.buffers] == [b"\1" * 1000, b"", b"\3" * 3000]
    body.buffers[0][0] = 99  # a task may write into what it was given


class Bytes:
    """Offers its memory out of band."""

    def __init__(self, content: object) -> None:
        self.content = content

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Bytes, (pickle.PickleBuffer(b"x"),)


@pytest.mark.parametrize("n_buffers", [5_000, 9_000, 30_000])
def test_an_object_of_very_many_buffers_arrives(link: Link, n_buffers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of that many arrays: 160 MB to 1 GB in all, were they as large as real ones."""
    monkeypatch.setattr(codec, "OUT_OF_BAND_BYTES", 1)
    payload, buffers = codec.Codec().encode([Bytes(None) for _ in range(n_buffers)])
    assert link.pool.send(make_frame(frames.CALL, 0, 1, 0, 1, 0.0, b"", payload, buffers))
    received = link.worker.receive()
    assert received is not None
    body = read_body(received[1], received[0], received[2])
    assert len(codec.decode(body.payload, body.buffers)) == n_buffers


def test_no_two_kinds_of_frames_have_one_number() -> None:
    others = {"BLOCK", "PARTS", "RIGHTS", "HEADER_BYTES", "MAX_INLINE", "RECEIVE_BYTES"}
    kinds = {name: value for name, value in vars(frames).items() if name.isupper() and type(value) is int}
    kinds = {name: value for name, value in kinds.items() if name not in others}
    assert len(kinds) >= 11
    assert len(set(kinds.values())) == len(kinds)


def test_frames_arrive_in_order_whatever_their_size(link: Link) -> None:
    for chunk_id in range(1, 7):
        link.pool.send(large_call(chunk_id) if chunk_id % 2 else call(chunk_id))
        link.worker.send(large_call(chunk_id) if chunk_id % 2 else call(chunk_id))
    assert [worker_reads(link) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    for chunk_id in range(1, 7):
        answer = link.pool.receive()
        assert answer is not None
        read_body(answer[1], answer[0], answer[2])
        assert answer[0][3] == chunk_id


def test_descriptors_are_closed_by_whoever_has_sent_them(link: Link) -> None:
    before = n_descriptors()
    for _ in range(3):
        link.pool.send(large_call(1))
        worker_reads(link)
        link.worker.send(large_call(1))
        answer = link.pool.receive()
        assert answer is not None
        assert not os.get_inheritable(answer[2])
        read_body(answer[1], answer[0], answer[2])
    assert n_descriptors() == before


def test_the_bytes_that_went_through_are_counted(link: Link) -> None:
    frame = call(1)
    size = len(frame.data)
    link.pool.send(frame)
    link.worker.send(call(1))
    link.worker.send(call(2))
    link.pool.receive()
    link.pool.receive()
    assert (link.pool.bytes_out, link.pool.bytes_in) == (size, 2 * size)


# -- receiving in the pool --------------------------------------------------------------------------------------------


def test_when_nothing_has_come_the_pool_does_not_wait(link: Link) -> None:
    with pytest.raises(BlockingIOError):
        link.pool.receive()
    link.worker.send(call(1))
    assert link.pool.receive() is not None
    with pytest.raises(BlockingIOError):
        link.pool.receive()


def test_the_pools_descriptor_becomes_readable_with_an_answer(link: Link) -> None:
    assert select.select([link.pool.fileno()], [], [], 0)[0] == []
    link.worker.send(call(1))
    assert select.select([link.pool.fileno()], [], [], 0)[0] == [link.pool.fileno()]


def test_an_announced_descriptor_may_come_later(link: Link) -> None:
    frame = large_call(4)
    link.results.send(frames.DESCRIPTOR_FOLLOWS)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            link.pool.receive()
    socket.send_fds(link.results, [frame.data], [frame.fd])
    frame.close()
    link.worker.send(call(5))
    answer = link.pool.receive()
    assert answer is not None
    assert len(read_body(answer[1], answer[0], answer[2]).payload) == 100_000
    following = link.pool.receive()
    assert following is not None
    assert (following[0][3], following[2]) == (5, -1)


def test_answers_of_several_slots_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the announcement of a descriptor and the descriptor no other slot's answer comes."""
    link = new_link()
    plain = link.worker._send
    other = threading.Thread(target=lambda: link.worker.send(call(2)))

    def send(data: bytes) -> int:
        n_bytes = plain(data)
        if data == frames.DESCRIPTOR_FOLLOWS:
            other.start()
            other.join(0.2)  # as far as it gets
        return n_bytes

    monkeypatch.setattr(link.worker, "_send", send)
    link.worker.send(large_call(1))
    other.join()
    for chunk_id, size in ((1, 100_000), (2, 7)):
        answer = link.pool.receive()
        assert answer is not None
        assert answer[0][3] == chunk_id
        assert len(read_body(answer[1], answer[0], answer[2]).payload) == size
    link.worker.close()
    link.pool.close()


# -- taking back ------------------------------------------------------------------------------------------------------


def test_what_the_worker_has_not_read_comes_back_in_order(link: Link) -> None:
    for chunk_id in (5, 3, 4):
        link.pool.send(call(chunk_id))
    assert link.pool.take_back() == [5, 3, 4]
    assert link.pool.take_back() == []


def test_what_the_worker_has_read_stays_with_it(link: Link) -> None:
    for chunk_id in (1, 2, 3):
        link.pool.send(call(chunk_id))
    assert worker_reads(link) == 1
    assert link.pool.take_back() == [2, 3]
    link.pool.send(call(4))
    assert worker_reads(link) == 4


def test_each_frame_goes_to_the_worker_or_comes_back_and_never_both() -> None:
    """The kernel arbitrates: a worker reads for its life while the pool takes back for its own."""
    link = new_link()
    read: list[int] = []

    def work() -> None:
        while (received := link.worker.receive()) is not None:
            if received[0][0] == frames.STOP:
                return
            read_body(received[1], received[0], received[2])
            read.append(received[0][3])

    worker = threading.Thread(target=work)
    worker.start()
    before = n_descriptors()
    back: list[int] = []
    for chunk_id in range(1, 501):
        link.pool.send(large_call(chunk_id, 61_000) if chunk_id % 5 == 0 else call(chunk_id))
        if chunk_id % 3 == 0:
            back += link.pool.take_back()
    back += link.pool.take_back()
    link.pool.send(make_frame(frames.STOP, 0, 0, 0, 0, 0.0, b"", b"", []))
    worker.join(30)
    assert not worker.is_alive()
    assert sorted(read + back) == list(range(1, 501))
    assert read == sorted(read)
    assert back == sorted(back)
    assert n_descriptors() == before
    link.worker.close()
    link.pool.close()


def test_descriptors_of_what_comes_back_are_closed(link: Link) -> None:
    before = n_descriptors()
    link.pool.send(large_call(1))
    link.pool.send(call(2))
    link.pool.send(large_call(3))
    assert link.pool.take_back() == [1, 2, 3]
    assert n_descriptors() == before


def test_what_waits_for_room_comes_back_after_what_lies_in_the_link(link: Link) -> None:
    in_link = fill(link)
    before = n_descriptors()
    for chunk_id in (2001, 2002):
        assert not link.pool.send(large_call(chunk_id))
    assert link.pool.take_back() == [*in_link, len(in_link) + 1, 2001, 2002]
    assert n_descriptors() == before
    assert link.pool.send(call(1))


def test_an_order_to_stop_does_not_come_back(link: Link) -> None:
    """One thread tells the worker to stop while another takes back: the worker must still be told."""
    link.pool.send(call(1))
    link.pool.send(make_frame(frames.STOP, 0, 0, 0, 0, 0.0, b"", b"", []))
    assert link.pool.take_back() == [1]
    link.tasks.setblocking(False)
    received = link.worker.receive()
    assert received is not None
    assert received[0][0] == frames.STOP


def test_what_a_dead_worker_has_not_read_comes_back(link: Link) -> None:
    link.pool.send(large_call(1))
    link.pool.send(call(2))
    link.end_worker()
    assert link.pool.take_back() == [1, 2]


# -- a full link ------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_waits_and_goes_out_in_order_when_there_is_room(link: Link) -> None:
    in_link = fill(link)
    following = len(in_link) + 1  # the one that had to wait
    assert not link.pool.send(call(2001))  # small: it would fit, but must not overtake
    assert not link.pool.send(large_call(2002))
    link.pool.flush()
    assert [worker_reads(link) for _ in in_link] == in_link
    link.pool.flush()
    assert [worker_reads(link) for _ in range(3)] == [following, 2001, 2002]
    assert link.pool.send(call(2003))
    assert worker_reads(link) == 2003


def test_what_waits_goes_out_as_far_as_there_is_room(link: Link) -> None:
    in_link = fill(link)
    for chunk_id in range(2001, 2021):
        link.pool.send(call(chunk_id, bytes(20_000)))
    expected = [*in_link, len(in_link) + 1, *range(2001, 2021)]
    seen = []
    for _ in expected:
        seen.append(worker_reads(link))
        link.pool.flush()
    assert seen == expected
    link.pool.flush()


def test_a_descriptor_that_waited_is_closed_once_it_is_sent(link: Link) -> None:
    in_link = fill(link)
    before = n_descriptors()
    link.pool.send(large_call(2001))
    for _ in in_link:
        worker_reads(link)
    link.pool.flush()
    assert worker_reads(link) == len(in_link) + 1
    assert worker_reads(link) == 2001
    assert n_descriptors() == before


def test_flushing_a_link_whose_worker_is_gone_gives_up_what_waited(link: Link) -> None:
    fill(link)
    before = n_descriptors()
    link.pool.send(large_call(2001))
    link.end_worker()
    link.pool._unread.close()  # the last that could have read it
    link.pool.flush()
    assert n_descriptors() == before - 3


# -- the end ----------------------------------------------------------------------------------------------------------


def test_the_end_of_the_worker_is_seen_after_all_that_it_has_written(link: Link) -> None:
    link.worker.send(call(1))
    link.worker.send(large_call(2))
    link.end_worker()
    first = link.pool.receive()
    assert first is not None
    assert first[0][3] == 1
    answer = link.pool.receive()
    assert answer is not None
    read_body(answer[1], answer[0], answer[2])
    assert link.pool.receive() is None
    assert link.pool.receive() is None


def test_the_end_of_the_worker_is_seen_though_the_pool_can_still_read_its_tasks(link: Link) -> None:
    link.pool.send(call(1))
    link.end_worker()
    assert link.pool.receive() is None


def test_a_frame_for_a_worker_that_is_gone_is_no_error_and_its_descriptor_is_closed(link: Link) -> None:
    link.end_worker()
    link.pool._unread.close()
    before = n_descriptors()
    assert not link.pool.send(call(1))
    assert not link.pool.send(large_call(2))
    assert n_descriptors() == before


def test_the_worker_sees_the_end_of_the_pool_after_all_that_it_was_sent() -> None:
    link = new_link()
    link.pool.send(call(1))
    link.pool.close()
    assert worker_reads(link) == 1
    assert link.worker.receive() is None
    with pytest.raises(OSError):
        link.worker.send(call(2))
    link.worker.close()
    assert link.worker.receive() is None


def test_closing_gives_up_what_waited_and_can_be_done_twice() -> None:
    before = n_descriptors()
    link = new_link()
    fill(link)
    link.pool.send(large_call(2001))
    link.pool.close()
    link.pool.close()
    assert link.pool.closed
    link.worker.close()
    assert n_descriptors() == before


def test_a_frame_is_closed_once() -> None:
    frame = large_call(1)
    fd = frame.fd
    frame.close()
    other = os.open("/dev/null", os.O_RDONLY)
    assert other == fd  # the number is in use again
    frame.close()
    os.fstat(other)
    os.close(other)


def test_a_large_body_whose_descriptor_did_not_arrive_is_an_error_of_the_system() -> None:
    """The kernel drops a descriptor when the receiver has too many."""
    frame = large_call(1)
    fields = frames.unpack(frame.data)
    frame.close()
    with pytest.raises(OSError):
        read_body(frame.data, fields, -1)


def settings(payload: bytes = b"settings") -> Frame:
    return make_frame(frames.SETTINGS, 0, 0, 0, 0, 0.0, b"", payload, [])


def test_what_is_told_is_not_taken_back(link: Link) -> None:
    link.pool.send(call(1))
    link.pool.send(settings())
    link.pool.send(settings(bytes(100_000)))  # in a block
    link.pool.send(call(2))
    assert link.pool.take_back() == [1, 2]
    link.pool.send(call(3))
    kinds = []
    for _ in range(3):
        received = link.worker.receive()
        assert received is not None
        fields, data, fd = received
        kinds.append((fields[0], len(read_body(data, fields, fd).payload)))
    assert kinds == [(frames.SETTINGS, 8), (frames.SETTINGS, 100_000), (frames.CALL, 7)]


def test_a_send_inside_of_a_send_comes_after_it(link: Link) -> None:
    """As when the garbage collector runs in the midst of one, and a finalizer prints."""
    worker = link.worker
    real = worker._send

    def send(data: bytes) -> int:
        if data == frames.DESCRIPTOR_FOLLOWS:
            worker.send(make_frame(frames.OUTPUT, 0, 0, 1, 0, 0.0, b"", b"inner", []))
        return real(data)

    worker._send = send  # type: ignore[method-assign, assignment]
    worker.send(make_frame(frames.RESULT, 0, 1, 0, 1, 0.0, b"", bytes(100_000), []))
    first, second = link.pool.receive(), link.pool.receive()
    assert first is not None
    assert second is not None
    assert (first[0][0], len(read_body(first[1], first[0], first[2]).payload)) == (frames.RESULT, 100_000)
    assert (second[0][0], second[2]) == (frames.OUTPUT, -1)
