"""The pool as its own tasks see it, in a worker process or a sub-interpreter.

There the pool is a driver like any other, whose engine is the pool itself: a chunk that it "sends to a worker" is a
request to the pool, which has it run (see :mod:`nested`), and the answers are those that a worker gives. So all that a
pool can do (futures, callbacks, lazy maps, chunk sizes that are found) is the same code here.

Over the fast link the answers come on a socket of their own, which the worker makes and gives to the pool when it is
first needed, and which a thread reads; over the portable link they come like tasks, and its reading thread hands them
over. A worker whose tasks never use their own pool pays nothing for any of this.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Any

from fullcourt._core.model import Stream
from fullcourt._core.scheduler import Scheduler
from fullcourt._engines import face
from fullcourt._engines.calls import runs_event_loop
from fullcourt._engines.driver import Driver
from fullcourt._engines.face import Face, Place
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import Call, MapChunk, MapJob
from fullcourt._engines.linked import Event, FrameArrived, with_function_rights
from fullcourt._engines.mailbox import Mailbox
from fullcourt._engines.nested import STOPPING, Request
from fullcourt._os.interrupts import Shield
from fullcourt._os.locks import Letter, make_lock
from fullcourt._os.threads import make_thread
from fullcourt._transport import frames
from fullcourt._transport.frames import unpack
from fullcourt._transport.journal import Journal
from fullcourt._transport.link import receive_with_fd
from fullcourt.errors import NotSupported, PicklingError, PoolClosed, TaskCancelled

__all__ = ["driver_inside"]

ANSWER_S = 5.0  # the pool answers within microseconds, unless its process is stopped


making = make_lock()  # held while the driver is made, once


def driver_inside(key: str, name: str) -> Driver:
    """The driver of the pool with this key, whose task calls.

    Raises:
        PoolClosed: this is no task of that pool.
    """
    place = face.here
    if place is None or place.face.key != key:
        raise PoolClosed(
            f"the pool {name!r} was sent to another process, which is none of its workers. It can be used by the "
            f"process that made it, and by its own tasks; elsewhere, make a pool"
        )
    if place.pid != os.getpid():
        raise PoolClosed(
            f"this pool belongs to process {place.pid}, its worker; a forked process cannot use it, but can open one "
            f"of its own"
        )
    if not place.is_ready:
        raise PoolClosed(f"the initializer of pool {name!r} uses the pool itself: only its tasks can do that")
    if place.driver is not None:
        return place.driver  # type: ignore[no-any-return]
    with TaskShield(place.journal), making:  # a task that is stopped here must not leave half of it
        if place.driver is None:
            driver = NestedDriver(NestedEngine(place), NestedScheduler(place.face), place.face.name)
            driver.open()
            place.driver = driver
    return place.driver  # type: ignore[no-any-return]


class NestedScheduler(Scheduler):
    """Has single calls sent at once: so they run even if their task ends without waiting for them."""

    def __init__(self, of: Face) -> None:
        super().__init__(1, of.n_slots, may_take_back=False)
        self._chunk_limit = of.chunk_limit

    def stream_filled(self, stream: Stream, now: float) -> None:
        if stream.remaining() is not None or stream.fixed_size() != 1:
            super().stream_filled(stream, now)
            return
        worker = self.workers[1]
        while stream.available():
            self._give(worker, stream.take(1), now)

    def _size(self, stream: Stream, worker: Any, now: float) -> int:
        size = super()._size(stream, worker, now)
        return size if self._chunk_limit is None else min(size, self._chunk_limit)


class NestedHandle:
    """The pool, as the one "worker" of its driver in a worker."""

    def __init__(self, name: str, pid: int) -> None:
        self.id = 1
        self.name = name
        self.pid = pid  # of the worker that answered last
        self.known: set[int] = set()
        self.ready = True
        self.n_done = 0
        self.busy_s = 0.0
        self.started_at = monotonic()


class TaskShield(Shield):
    """Holds back, beside SIGINT, the exception that stops the task which uses its own pool.

    Else it would come in the midst of the driver's work, whose state outlives the task; and where the driver passes
    over an OSError, which TaskTimeout is, it would be lost.
    """

    __slots__ = ("_journal",)

    def __init__(self, journal: Callable[[], Journal | None]) -> None:
        super().__init__()
        self._journal = journal

    def __enter__(self) -> None:
        journal = self._journal()
        if journal is not None:
            journal.hold()  # first: an exception that comes just before it has changed nothing yet
        super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        super().__exit__(kind, error, tb)
        journal = self._journal()
        if journal is not None:
            journal.resume()

    def wait_begins(self) -> None:
        """As of any shield."""
        super().wait_begins()
        journal = self._journal()
        if journal is not None and journal.n_holds:
            try:
                journal.let_through()
            except BaseException:
                super().wait_ends()
                raise

    def wait_ends(self) -> None:
        """As of any shield."""
        try:
            journal = self._journal()
            if journal is not None and journal.n_holds:
                journal.hold_again()
        finally:
            super().wait_ends()


class NestedDriver(Driver):
    """The pool's driver in one of its workers."""

    is_nested = True

    def start_job(self, job: MapJob) -> None:
        job.outer = None
        job.asked_by = self.engine.current()
        super().start_job(job)

    def _frame(self, event: FrameArrived, value: Any, problem: BaseException | None, now: float) -> Any:
        kind, _, pid, chunk_id, start, _, _, _ = event.fields
        if pid:
            event.handle.pid = pid
        if kind != frames.GIVEN_BACK:
            return super()._frame(event, value, problem, now)
        chunk: Any = self.scheduler.workers[1].sent.get(chunk_id)
        if chunk is None or start <= chunk.start:
            return []
        rest = chunk.cut(start - chunk.start)
        self.scheduler.n_sent_tasks -= rest.count
        if chunk.done >= chunk.count:
            self.scheduler.withdrawn(chunk, now)
        if rest.job.open:
            self.scheduler.came_back([rest], now)
        return []

    def __init__(self, engine: NestedEngine, scheduler: Scheduler, name: str) -> None:
        super().__init__(engine, scheduler, name)
        self.roles.shield = TaskShield(engine.journal)
        self._stopping: set[int] = set()  # calls that the pool has said it is stopping

    def _watch(self, chunk: Any, worker_id: int) -> None:
        """The pool looks at the clock for it."""

    def _stop_sent_items(self, job: MapJob) -> None:
        for chunk in list(self.scheduler.workers[1].sent.values()):
            if type(chunk) is MapChunk and chunk.job is job:
                self.engine.stop_started(chunk.id)

    def _stop_running(self, future: Future[Any], call: Call, waits: bool) -> bool:
        if call.id not in self._stopping:
            return future.cancelled()
        self._stopping.discard(call.id)
        if waits and runs_event_loop():
            with self._lock:
                is_open, call.future = call.future is not None, None
            if is_open:
                self._settle([(future, None, TaskCancelled("cancelled"))])
        elif waits:
            self.wait(future, None)
        return future.cancelled()

    def _cancel_sent(self, call: Call, worker_id: int) -> bool:
        with self.roles.shield:  # or the answer to this question would be taken for that to the next
            answer = self.engine.ask_to_cancel(call.id)
            if answer == STOPPING:
                self._stopping.add(call.id)
        if answer != 1:
            return False
        with self._lock:
            if call.worker_id is None or call.future is None:
                return False
            self.scheduler.withdrawn(call, monotonic())
            call.future = None
            self._n_open -= 1
        self._perform()
        return True

    def broadcast(self, value: Any) -> Any:
        raise NotSupported(
            f"a task cannot broadcast a value to the workers of the pool that runs it ({self.name}): broadcast it "
            f"before, where the pool was opened, or give it to the nested tasks as an argument"
        )

    def close(self) -> None:
        raise NotSupported(f"a task cannot close the pool that runs it ({self.name}); it can use it")

    terminate = close

    def leave(self) -> None:
        """The worker ends: so do our threads."""
        self.ended._settle(None, None)  # first: nothing is left for which anybody should lead
        with self._lock:
            self.closed = True
            self._n_open = 0
        self.engine.close()
        self.engine.wake()
        self.roles.join()


class NestedEngine:
    """The pool, as an engine of its driver in a worker."""

    needs_driving = True
    runs_inline = False
    can_take_back = False
    can_stop = False  # by its driver's own means: the pool does it
    can_kill = True
    abandons_at_once = False
    awaits_one = False
    takes_back_at_once = True
    has_lane = False

    def __init__(self, place: Place) -> None:
        self.n_slots = place.face.n_slots
        self.name = place.face.name
        self.codec = place.codec
        self.current = place.current
        self.journal = place.journal
        self.handles: dict[int, Any] = {}
        self._pool_pid = place.pool_pid
        self._end = place.end
        self._mailbox = Mailbox()
        self._answer = Letter()
        self._asking = make_lock()  # held from a question to its answer
        self._socket: socket.socket | None = None
        self._reader: threading.Thread | None = None

    def open(self, first: Sequence[int] = ()) -> None:
        """See to it that answers arrive."""
        if hasattr(self._end, "open_replies"):
            self._socket = self._end.open_replies()
            self._reader = make_thread(self._read, f"{self.name}-nested")
            self._reader.start()
        else:
            self._end.on_reply = self._reply_came

    def _read(self) -> None:
        assert self._socket is not None
        while True:
            try:
                data, fd = receive_with_fd(self._socket)
            except OSError:
                return
            if not data:
                return
            self._arrived(unpack(data), data, fd)

    def _reply_came(self, received: Any) -> None:
        self._arrived(*received)

    def _arrived(self, fields: Any, data: bytes, attached: Any) -> None:
        if fields[0] == frames.CANCEL_ANSWER:
            self._answer.put(fields[5])
        else:
            self._mailbox.put(FrameArrived(self.handles[1], fields, data, attached))

    def wait(self, timeout: float | None) -> Sequence[Any]:
        self._mailbox.wait(timeout)
        return ()

    def collect(self, ready: Sequence[Any]) -> list[Event]:
        return self._mailbox.empty()

    def wake(self) -> None:
        self._mailbox.put(None)

    def start(self, worker_id: int) -> None:
        self.handles[worker_id] = NestedHandle(self.name, self._pool_pid)

    def let_go(self) -> None:
        """Nothing: the pool itself does."""

    def look(self) -> None:
        """Nothing: the pool itself looks before it sends."""

    def send(self, worker_id: int, chunk: Any) -> PicklingError | None:
        """Ask the pool to run a chunk."""
        job: Any = getattr(chunk, "job", None)  # None: a single call
        try:
            payload, buffers = chunk.payload if job is None else self.codec.encode_items(chunk.items)
        except PicklingError as error:
            return error
        function, data, known = chunk.function, b"", self.handles[worker_id].known
        if function.id == 0 or function.id not in known:
            data = function.data
            known.add(function.id)
            if function.rights is not None:
                buffers = with_function_rights(buffers, function)
        outer: int = self.current() if job is None else job.asked_by
        request = Request(
            chunk.kind,
            chunk.id,
            chunk.start,
            chunk.count,
            function.id,
            function.name,
            data,
            payload,
            outer,
            None if chunk.options is None else replace(chunk.options, retries=0, retry_on=(), priority=0),
        )
        self._ask(frames.NESTED, chunk.id, chunk.start, chunk.count, pickle.dumps(request, 5), buffers)
        return None

    def _ask(self, kind: int, chunk_id: int, start: int, count: int, payload: bytes, buffers: list[Any]) -> None:
        frame = self._end.make_frame(kind, 0, chunk_id, start, count, 0.0, b"", payload, buffers)
        try:
            self._end.send(frame)
        except OSError:  # the pool is gone, and this process is about to be
            return

    def ask_to_cancel(self, chunk_id: int) -> int:
        """Cancel a call that was sent. 1: it will not run. STOPPING: it runs, and is being stopped. 0: neither."""
        with self._asking:
            self._answer = Letter()
            self._ask(frames.NESTED_CANCEL, chunk_id, 0, 0, b"", [])
            return self._answer.get(ANSWER_S) or 0

    def stop_started(self, chunk_id: int) -> None:
        """Have what runs of a chunk stopped."""
        self._ask(frames.NESTED_STOP, chunk_id, 0, 0, b"", [])

    def take_back(self, worker_id: int) -> list[int]:
        """Nothing is taken back: the pool itself sees to it that no slot is free while something waits."""
        return []

    def revoke(self, worker_id: int, chunk_ids: list[int]) -> None:
        """A map is over: have no more of its items run."""
        for chunk_id in chunk_ids:
            self._ask(frames.NESTED_REVOKE, chunk_id, 0, 0, b"", [])

    def stop(self, worker_id: int) -> None:
        """The pool ends by itself."""

    def kill(self, worker_id: int) -> bool:
        """The pool cannot be killed from here."""
        return False

    def end(self) -> None:
        """As stop."""

    def close(self) -> None:
        """Have the reading thread end."""
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            assert self._reader is not None
            self._reader.join()
            self._socket.close()
