"""Workers at the other end of a link: what processes and sub-interpreters have in common.

:class:`RemoteEngine` sends chunks and reads journals, over whatever kind of link. :class:`LinkedEngine` adds what the
fast links of Linux need: it receives frames under epoll and keeps each worker's page in a memfd block. How a worker is
started and ended is the subclasses'.
"""

from __future__ import annotations

import _socket
import abc
import contextlib
import mmap
import os
import pickle
import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from fullcourt._core.chunking import HEAVY_BYTES
from fullcourt._core.model import Chunk
from fullcourt._engines.jobs import MapChunk
from fullcourt._engines.output import Output
from fullcourt._engines.output_settings import OutputSettings
from fullcourt._os.inherited import note_holder
from fullcourt._os.locks import make_lock
from fullcourt._os.soft_stop import STOP_SIGNAL
from fullcourt._os.spinning import SPIN_S, Spinner
from fullcourt._os.waits import LOOK_UP_S, bounded
from fullcourt._transport import frames
from fullcourt._transport.arena import pool_arena
from fullcourt._transport.blocks import raw_views
from fullcourt._transport.codec import Buffers, Codec, Encoded
from fullcourt._transport.frames import MAX_INLINE, pack
from fullcourt._transport.journal import (
    page_bytes,
    read_phase,
    read_results,
    read_running,
    request_stop,
    revoke,
    started_chunk,
)
from fullcourt._transport.link import Attached, Fields, PoolEnd, Replies, make_frame, make_link
from fullcourt.errors import PicklingError

__all__ = ["Broken", "FrameArrived", "Handle", "LinkedEngine", "Lost", "Orphaned", "RemoteEngine"]


class Handle:
    """One worker, as its engine sees it."""

    def __init__(self, worker_id: int, name: str, link: Any, page: mmap.mmap) -> None:
        self.id = worker_id
        self.name = name
        self.link: Any = link  # the pool's end, of its engine's kind of link
        self.page = page
        self.pid: int | None = None
        self.pidfd = -1
        self.replies: Replies | None = None  # where answers to its nested tasks go, over the fast link
        self.known: set[int] = set()  # functions that it has
        self.settings_version = 0  # of the output settings that it was sent last
        self.mid_line: set[int] = set()  # of its streams, those whose last line has not ended
        self.at_end = False  # its link has reported end-of-file
        self.ready = False
        self.exitcode: int | None = None  # once it has ended, where that is known
        self.orphaned = False
        self.failure: Exception | None = None  # why it could not be started, where that is known
        self.n_due = 0  # frames sent less frames received: about how many answers may be expected
        self.n_done = 0
        self.busy_s = 0.0
        self.started_at = monotonic()


@dataclass(slots=True)
class FrameArrived:
    """A worker answered."""

    handle: Handle
    fields: Fields
    data: bytes
    fd: Attached
    call: str | None = None  # which task it is of, in words, where that was asked for
    chunk: Any = None  # whose items' finalizers, which are the user's, are not to run with the driver's lock held


@dataclass(slots=True)
class Lost:
    """A worker has ended; everything that it had written was delivered before this.

    ``left``: results that were read from its journal, by chunk.
    """

    handle: Handle
    exitcode: int | None
    peak_bytes: int | None
    left: dict[int, list[Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Orphaned:
    """A worker goes on for now, but can no longer be looked after: it must be replaced."""

    handle: Handle


@dataclass(slots=True)
class Broken:
    """No worker can be started any more."""

    error: BaseException


Event = FrameArrived | Lost | Orphaned | Broken

# After so many frames from one link the others have their turn.
MAX_FRAMES = 128

LOW_HALF = 0xFFFF_FFFF  # of a broadcast value's number


class RemoteEngine(abc.ABC):
    """Runs workers behind links. ``wait`` and ``collect`` from the thread that drives; the rest from any."""

    needs_driving = True
    runs_inline = False
    can_take_back = True
    can_stop = True  # whether a running task can be ended
    can_kill = True  # whether a worker can be
    abandons_at_once = False  # whether not even a soft way is tried, or its end waited for
    awaits_one = False  # whether it has `sole_frame`
    has_lane = False
    takes_back_at_once = True  # without waiting for the worker
    _setup: Any
    _make_frame: Callable[..., Any]
    _make_frame_for_all: Callable[..., Any]  # for more than one receiver, so not in a block that comes back

    def __init__(self, n_slots: int, name: str, codec: Codec) -> None:
        self.n_slots = n_slots
        self.name = name
        self.codec = codec
        self.handles: dict[int, Handle] = {}
        self._broadcasts: dict[int, Any] = {}  # frames of values that every worker gets, by key
        self.version_at_start = 0
        self._version_now = 0  # of the output settings, when they were last looked at
        self.output: Output | None = None  # what workers print and log goes there; None: they keep it

    def settings_now(self) -> OutputSettings | None:
        """What workers that start from now on are told at their start; None: they forward nothing."""
        if self.output is None:
            return None
        self.output.look()
        settings = self.output.settings
        self.version_at_start = settings.version
        return settings

    def look(self) -> None:
        """Before something is sent: see whether the program wants other logs and warnings than it did."""
        if self.output is not None:
            self._version_now = self.output.look()

    def send(self, worker_id: int, chunk: Any) -> PicklingError | None:
        """Send a chunk to a worker. Returns what is wrong with it if it will not pickle; a dead worker is no error."""
        handle = self.handles.get(worker_id)
        if handle is None:
            return None
        try:
            if type(chunk) is not MapChunk:
                payload, buffers = chunk.payload
            else:
                payload, buffers = self.codec.encode_items(chunk.items)
        except PicklingError as error:
            return error
        return self._send_encoded(handle, chunk, payload, buffers)

    def _send_encoded(self, handle: Handle, chunk: Any, payload: bytes, buffers: Any) -> PicklingError | None:
        """:meth:`send` for what is pickled."""
        function = chunk.function
        if chunk.count > 1 and not chunk.estimate.is_heavy:
            n_bytes = len(payload) + sum(view.nbytes for view in raw_views(buffers))
            chunk.estimate.is_heavy = n_bytes > HEAVY_BYTES
        data = b""
        if function.id not in handle.known:
            data = function.data
            if function.id:  # those without a number are not kept
                handle.known.add(function.id)
            if function.rights is not None:
                buffers = with_function_rights(buffers, function)
        if handle.settings_version != self._version_now and self.output is not None:
            self._tell_settings(handle, self.output)
        try:
            n_said = handle.link.n_said
            frame = self._make_frame(
                chunk.kind, function.id, chunk.id, chunk.start, chunk.count, n_said, data, payload, buffers
            )
        except OSError as error:  # no descriptor or no memory left for a block
            problem = PicklingError(f"a task's arguments could not be put into a memory block: {error}")
            problem.__cause__ = error
            return problem
        handle.n_due += 1
        handle.link.send(frame)
        return None

    def _tell_settings(self, handle: Handle, output: Output) -> None:
        """What the program wants to have of logs and warnings has changed: the worker learns of it before the task."""
        settings = output.settings
        frame = self._make_frame(frames.SETTINGS, 0, 0, 0, 0, 0.0, b"", pickle.dumps(settings), [])
        handle.link.say(frame)
        # After it was sent: no other thread's task may come before it.
        handle.settings_version = self._version_now = settings.version

    def let_go(self) -> None:
        """Hold nothing of the program's any more."""
        self._setup.initializer, self._setup.initargs = None, ()

    def take_back(self, worker_id: int) -> list[int]:
        """Take back what a worker has not read. Returns the chunks' ids."""
        handle = self.handles.get(worker_id)
        if handle is None:
            return []
        ids: list[int] = handle.link.take_back()
        handle.n_due -= len(ids)
        return ids

    def started(self, handle: Handle) -> dict[int, int]:
        """The chunks that the worker's slots started last: chunk id to slot index."""
        return {started_chunk(handle.page, i): i for i in range(self.n_slots)}

    def results_of(self, handle: Handle, chunk: Chunk, slot_index: int) -> list[Any]:
        """The results of a dead worker's unfinished chunk that it left in its journal, from the first not yet sent.

        As :func:`read_results` reads them.
        """
        return read_results(handle.page, slot_index, chunk.done, chunk.count)

    def phase(self, handle: Handle, slot_index: int) -> int:
        """What a slot did with its chunk: one of the journal's phases."""
        return read_phase(handle.page, slot_index)

    def running(self, worker_id: int, chunk_id: int) -> tuple[int, float] | None:
        """Which task of a chunk runs (its offset), and since when (``perf_counter``). None: none that is known."""
        handle = self.handles.get(worker_id)
        if handle is not None:
            for slot_index in range(self.n_slots):
                found = read_running(handle.page, slot_index, chunk_id)
                if found is not None:
                    return found
        return None

    def started_by(self, worker_id: int, chunk_id: int) -> bool:
        """Whether a worker has begun a chunk."""
        handle = self.handles.get(worker_id)
        return handle is not None and chunk_id in self.started(handle)

    def interrupt(self, worker_id: int, chunk_id: int, stop: int) -> None:
        """Have an exception raised in a task; ``stop`` names it, see the journal."""
        handle = self.handles.get(worker_id)
        if handle is None:
            return
        for slot_index in range(self.n_slots):
            if started_chunk(handle.page, slot_index) == chunk_id:
                request_stop(handle.page, slot_index, stop)
                self.signal(worker_id, STOP_SIGNAL)

    def abandon(self, worker_id: int, chunk_id: int, kind: type[BaseException]) -> bool:
        """A slot will not be waited for any more. False: it does not run that chunk."""
        return self.started_by(worker_id, chunk_id)

    @abc.abstractmethod
    def signal(self, worker_id: int, number: int) -> None:
        """Send a signal to a worker's process, if it has one of its own."""

    def revoke(self, worker_id: int, chunk_ids: list[int]) -> None:
        """Have a worker run no more items of chunks that it holds and has begun. It says REVOKED for the rest."""
        handle = self.handles.get(worker_id)
        if handle is None:
            return
        for slot_index in range(self.n_slots):
            chunk_id = chunk_ids[0] if self.n_slots == 1 else started_chunk(handle.page, slot_index)
            if chunk_id in chunk_ids:
                revoke(handle.page, slot_index, chunk_id)

    def part(self, worker_id: int, chunk: Any) -> bool:
        """Have a worker run no more items of a chunk. It says REVOKED for the rest. False: it has not begun it."""
        handle = self.handles.get(worker_id)
        if handle is not None:
            for slot_index in range(self.n_slots):
                if self.n_slots == 1 or started_chunk(handle.page, slot_index) == chunk.id:
                    revoke(handle.page, slot_index, chunk.id)
                    return True
        return False

    # -- values that every worker has --------------------------------------------------------------------------------

    def frame_of(self, key: int, encoded: Encoded) -> Any:
        """The frame that brings a value to workers. Raises OSError."""
        return self._make_frame_for_all(frames.BROADCAST, key & LOW_HALF, 0, key >> 32, 1, 0.0, b"", *encoded)

    def broadcast(self, key: int, frame: Any) -> None:
        """Send a value to all workers, and to those that are started later. No worker is started meanwhile."""
        self._broadcasts[key] = frame
        for handle in list(self.handles.values()):
            handle.link.say(frame.copy())

    def forget(self, key: int) -> None:
        """Have all workers forget a value. No worker is started meanwhile."""
        frame = self._broadcasts.pop(key, None)
        if frame is not None:
            frame.close()
            for handle in list(self.handles.values()):
                handle.link.say(self._make_frame(frames.BROADCAST, key & LOW_HALF, 0, key >> 32, 0, 0.0, b"", b"", []))

    def _greet(self, link: Any) -> None:
        """Send a new worker the values that the others have."""
        for frame in self._broadcasts.values():
            link.say(frame.copy())

    def _forget_all(self) -> None:
        while self._broadcasts:
            self._broadcasts.popitem()[1].close()

    def worker_ready(self, handle: Handle, pid: int) -> None:  # noqa: B027  most engines have nothing to do
        """A worker has said that it is ready, and its process."""

    @abc.abstractmethod
    def reply(
        self,
        handle: Handle,
        kind: int,
        pid: int,
        chunk_id: int,
        start: int,
        count: int,
        seconds: float,
        payload: bytes,
        buffers: list[Any],
    ) -> None:
        """Send a worker the answer to a nested task. Never blocks; a dead worker is no error.

        Raises:
            OSError: no descriptor or no memory was left for a block.
        """

    @abc.abstractmethod
    def open(self, first: Sequence[int] = ()) -> None:
        """Prepare for starting workers. ``first``: those that :meth:`start` is called for next, which may start now."""

    @abc.abstractmethod
    def wait(self, timeout: float | None) -> Sequence[Any]:
        """Wait at most so many seconds (None: for ever) for something to happen; returns what is ready.

        Nothing is received yet, so an interrupt of this loses nothing.
        """

    @abc.abstractmethod
    def collect(self, ready: Sequence[Any]) -> list[Event]:
        """Receive from what :meth:`wait` found ready; returns what happened."""

    @abc.abstractmethod
    def wake(self) -> None:
        """Make a thread that is in :meth:`poll` return."""

    @abc.abstractmethod
    def start(self, worker_id: int) -> None:
        """Start a worker; frames may be sent to it at once."""

    @abc.abstractmethod
    def stop(self, worker_id: int) -> None:
        """Have a worker end when it has done what it was sent."""

    @abc.abstractmethod
    def kill(self, worker_id: int) -> bool:
        """Kill a worker and what it started. False: this kind of worker cannot be killed."""

    @abc.abstractmethod
    def end(self) -> None:
        """Have all workers end now; their losses are reported by :meth:`poll`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give back everything. All workers have ended, or are killed."""


def with_function_rights(buffers: list[Any], function: Any) -> Buffers:
    """The payload's buffers, with the descriptors of what the function takes along."""
    both = Buffers(buffers)
    both.rights = getattr(buffers, "rights", None)
    both.function_rights = function.rights
    return both


class Ends:
    """The two ends of what lies between the pool and a worker: the link, and the page, which both map."""

    def __init__(self, link: PoolEnd, tasks: _socket.socket, results: _socket.socket, page_fd: int) -> None:
        self.link = link
        self.page_fd = page_fd
        self._results = results
        # The descriptors for the worker. The first stays open in the link: the pool takes back through it.
        self.given = [tasks.fileno(), results.fileno(), page_fd]

    def close_given(self) -> None:
        """The worker has its end, or will not be there."""
        self._results.close()
        os.close(self.page_fd)

    def close(self) -> None:
        """There will be no worker."""
        self.link.close()
        self.close_given()


class LinkedEngine(RemoteEngine):
    """Workers behind the fast links of Linux."""

    awaits_one = True

    def __init__(self, n_slots: int, name: str, codec: Codec, *, spins: bool) -> None:
        super().__init__(n_slots, name, codec)
        self._arena = pool_arena()
        self._make_frame = partial(make_frame, arena=self._arena)
        self._make_frame_for_all = make_frame
        self._epoll = select.epoll()
        self._spinner = Spinner(may_spin=spins)
        self._look = partial(self._epoll.poll, 0)
        self._sources: dict[int, Callable[[list[Event]], None]] = {}
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = make_lock()  # protects _wake_fd: its number may be another file's after closing
        self._watch(self._wake_fd, self._woken)
        note_holder(self)

    def give_up(self) -> None:
        """In a forked child: close the descriptors, and tell nobody. The kernel's epoll is the parent's, too."""
        for handle in self.handles.values():
            handle.link.give_up()
            if handle.replies is not None:
                handle.replies.give_up()
            if handle.pidfd >= 0:
                os.close(handle.pidfd)
                handle.pidfd = -1
        if self._wake_fd >= 0:
            self._epoll.close()
            os.close(self._wake_fd)
            self._wake_fd = -1
        self._sources.clear()
        self.handles = {}
        self._forget_all()

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> Sequence[tuple[int, int]]:
        """Wait for something to happen."""
        if len(self._sources) <= 1:  # only the wake-up: another thread is ending the pool, and may close it under us
            timeout = 0.05 if timeout is None else min(timeout, 0.05)
        try:
            if timeout is None or timeout > SPIN_S:
                ready: list[tuple[int, int]] = self._spinner.wait(self._look)
                if ready:
                    return ready
            if timeout is None or timeout > LOOK_UP_S:
                ready = self._epoll.poll(LOOK_UP_S)
                if ready:
                    return ready
                if timeout is not None:
                    timeout -= LOOK_UP_S
            return self._epoll.poll(bounded(timeout))
        except ValueError:
            if not self._epoll.closed:  # it is what a signal's handler has raised
                raise
            return ()  # another thread closed it, which saw the last worker end

    def collect(self, ready: Sequence[tuple[int, int]]) -> list[Event]:
        """Receive what has come."""
        events: list[Event] = []
        for fd, _ in ready:
            source = self._sources.get(fd)
            if source is not None:
                source(events)
        return events

    def sole_frame(self, ready: Sequence[tuple[int, int]], handle: Handle) -> FrameArrived | None:
        """Receive what this worker has sent, if that is all that has come. None: nothing was received."""
        if len(ready) != 1 or ready[0][0] != handle.link.fileno():
            return None
        try:
            received = handle.link.receive()
        except BlockingIOError:
            return None
        if received is None:  # its end, which is told again
            return None
        handle.n_due -= 1
        return FrameArrived(handle, *received)

    def wake(self) -> None:
        """Make a thread that is in :meth:`poll` return."""
        with self._lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def _woken(self, events: list[Event]) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def send(self, worker_id: int, chunk: Any) -> PicklingError | None:
        """As in :class:`RemoteEngine`; written out for what is small, of a function that the worker has."""
        handle = self.handles.get(worker_id)
        if handle is None:
            return None
        try:
            payload, buffers = chunk.payload if type(chunk) is not MapChunk else self.codec.encode_items(chunk.items)
        except PicklingError as error:
            return error
        function_id = chunk.function.id
        if buffers or function_id not in handle.known or len(payload) > MAX_INLINE:
            return self._send_encoded(handle, chunk, payload, buffers)
        if handle.settings_version != self._version_now and self.output is not None:
            self._tell_settings(handle, self.output)
        handle.n_due += 1
        frame = pack(chunk.kind, 0, function_id, chunk.id, chunk.start, chunk.count, 0, handle.link.n_said) + payload
        handle.link.send_small(frame, chunk.id)
        return None

    def _watch(self, fd: int, source: Callable[[list[Event]], None]) -> None:
        self._epoll.register(fd, select.EPOLLIN)
        self._sources[fd] = source

    def _unwatch(self, fd: int) -> None:
        if self._sources.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _receive(self, handle: Handle, events: list[Event]) -> None:
        link: PoolEnd = handle.link
        try:
            # As many as may be there, so that the last call is seldom one that finds nothing; epoll tells of others.
            for _ in range(min(max(handle.n_due, 1), MAX_FRAMES)):
                received = link.receive()
                if received is None:
                    handle.at_end = True
                    self._unwatch(link.fileno())
                    self._link_ended(handle, events)
                    return
                fields, data, fd = received
                handle.n_due -= 1
                events.append(FrameArrived(handle, fields, data, fd))
        except BlockingIOError:
            handle.n_due = max(handle.n_due, 0)
        link.flush()

    def _drain(self, handle: Handle, events: list[Event]) -> None:
        """Receive all that a dead worker had written: an answer that was written counts."""
        link: PoolEnd = handle.link
        with contextlib.suppress(BlockingIOError):
            while not handle.at_end:
                received = link.receive()
                if received is None:
                    break
                events.append(FrameArrived(handle, *received))

    def _close_epoll(self) -> None:
        self._forget_all()
        self._arena.close()
        with self._lock:
            if self._wake_fd >= 0:
                self._epoll.close()
                os.close(self._wake_fd)
                self._wake_fd = -1

    def frame_of(self, key: int, encoded: Encoded) -> Any:
        """As in :class:`RemoteEngine`. While it is kept for workers to come, it makes no process a user of queues."""
        frame = super().frame_of(key, encoded)
        frame.let_go()
        return frame

    # -- nested tasks ----------------------------------------------------------------------------------------------

    def open_replies(self, handle: Handle, fd: Attached) -> None:
        """A worker has sent a socket for the answers to its nested tasks."""
        if isinstance(fd, int) and fd >= 0:
            handle.replies = Replies(fd, self._watch_writable)

    def _watch_writable(self, replies: Replies) -> None:
        self._sources[replies.fileno()] = lambda _: self._write_on(replies)
        self._epoll.register(replies.fileno(), select.EPOLLOUT)

    def _write_on(self, replies: Replies) -> None:
        if replies.flush():
            self._unwatch(replies.fileno())

    def reply(
        self,
        handle: Handle,
        kind: int,
        pid: int,
        chunk_id: int,
        start: int,
        count: int,
        seconds: float,
        payload: bytes,
        buffers: list[Any],
    ) -> None:
        if handle.replies is not None:
            handle.replies.send(make_frame(kind, pid, chunk_id, start, count, seconds, b"", payload, buffers))

    # -- workers ---------------------------------------------------------------------------------------------------

    def _make_ends(self) -> Ends:
        """Make what lies between the pool and a worker."""
        link, tasks, results = make_link()
        try:
            page_fd = os.memfd_create("fullcourt-page", os.MFD_CLOEXEC)
        except BaseException:
            link.close()
            results.close()
            raise
        ends = Ends(link, tasks, results, page_fd)
        try:
            os.ftruncate(page_fd, page_bytes(self.n_slots))
        except BaseException:
            ends.close()
            raise
        return ends

    def _add(self, worker_id: int, ends: Ends) -> Handle:
        """Take up a new worker."""
        page = mmap.mmap(ends.page_fd, page_bytes(self.n_slots))
        handle = Handle(worker_id, f"{self.name}-{worker_id}", ends.link, page)
        handle.settings_version = self.version_at_start
        self._watch(ends.link.fileno(), lambda events: self._receive(handle, events))
        self.handles[worker_id] = handle
        return handle

    def _remove(self, handle: Handle) -> None:
        self.handles.pop(handle.id, None)
        if not handle.at_end:
            self._unwatch(handle.link.fileno())
        handle.link.close()
        if handle.replies is not None:
            self._unwatch(handle.replies.fileno())
            handle.replies.close()
        if handle.pidfd >= 0:
            os.close(handle.pidfd)
            handle.pidfd = -1

    @abc.abstractmethod
    def _link_ended(self, handle: Handle, events: list[Event]) -> None:
        """A worker's link reported end-of-file."""
