"""Workers inside this process: threads, and the caller itself.

Nothing is pickled and nobody drives: a slot's thread takes its own results to the scheduler. Cost per task with
threads: one queue put and get, the scheduler, one thread switch.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from queue import Empty
from time import monotonic, perf_counter
from typing import Any, Protocol

from fullcourt._core.chunking import FLUSH_S, LOOK_N, LOOK_S, WHOLE_FLUSH_S
from fullcourt._core.model import Chunk
from fullcourt._engines.jobs import STARMAP, Call
from fullcourt._engines.state import WorkerState, enter_slot, leave_slot
from fullcourt._engines.thread_lane import ThreadLane
from fullcourt._os.budget import limit_this_thread, set_share
from fullcourt._os.locks import make_lock
from fullcourt._os.sleepers import Handover, Sleeper
from fullcourt._os.soft_stop import Slot
from fullcourt._os.threads import make_thread

__all__ = ["InlineEngine", "LocalHandle", "ThreadEngine"]


class LocalDriver(Protocol):
    """What these engines call."""

    @property
    def thread_lane(self) -> ThreadLane | None: ...
    def finished(
        self, handle: Any, chunk: Any, start: int, values: list[Any], error: BaseException | None, seconds: float
    ) -> None: ...
    def gave_up(self, chunk: Any, n_left: int) -> None: ...
    def initializer_failed(self, error: BaseException) -> None: ...
    def worker_ended(self, worker_id: int) -> None: ...


class LocalHandle:
    """A worker in this process, for the statistics."""

    def __init__(self, worker_id: int, name: str) -> None:
        self.id = worker_id
        self.name = name
        self.pid = os.getpid()
        self.ready = True
        self.n_done = 0
        self.busy_s = 0.0
        self.started_at = monotonic()
        self.running: dict[int, int] = {}  # the calls that run now, by id


class WatchedCall:
    """A running task with a time limit. Made in the thread that runs it."""

    def __init__(self) -> None:
        self.slot = Slot()
        self.slot.is_main = False  # also there, another thread raises
        self.since = perf_counter()


def starred(fn: Callable[..., Any]) -> Callable[[Any], Any]:
    """The function of one item whose elements are the arguments."""
    return lambda item: fn(*item)


class Here(threading.local):
    """What the calling thread does."""

    chunk: Any = None  # the chunk that it runs


class LocalEngine:
    """What threads and the caller have in common."""

    needs_driving = False
    runs_inline = False
    can_take_back = True
    can_stop = False
    can_kill = False
    abandons_at_once = True
    awaits_one = False
    takes_back_at_once = True
    has_lane = False
    codec = None

    def __init__(
        self, n_slots: int, name: str, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> None:
        self.n_slots = n_slots
        self.name = name
        self.handles: dict[int, LocalHandle] = {}
        self.driver: LocalDriver
        self.here = Here()
        self._initializer = initializer
        self._initargs = initargs
        self.state = WorkerState()
        self._watched: dict[int, WatchedCall] = {}  # running tasks with a time limit, by chunk id

    def open(self, first: Sequence[int] = ()) -> None:
        """Nothing to prepare."""

    def look(self) -> None:
        """Nothing: here tasks print and log as all does."""

    def kill(self, worker_id: int) -> bool:
        """Threads cannot be killed."""
        return False

    def close(self) -> None:
        """All has ended."""
        self.handles.clear()

    def let_go(self) -> None:
        """Hold nothing of the program's any more."""
        self._initializer, self._initargs = None, ()

    def running(self, worker_id: int, chunk_id: int) -> tuple[int, float] | None:
        """Since when a chunk of one task with a time limit runs (``perf_counter``), as offset 0."""
        watched = self._watched.get(chunk_id)
        return (0, watched.since) if watched is not None else None

    def started_by(self, worker_id: int, chunk_id: int) -> bool:
        """Whether such a chunk runs."""
        return chunk_id in self._watched

    def abandon(self, worker_id: int, chunk_id: int, kind: type[BaseException]) -> bool:
        """Do not wait for such a chunk any more: raise in its thread, which may hear it, and go on without."""
        watched = self._watched.pop(chunk_id, None)
        if watched is None:
            return False
        watched.slot.raise_in_thread(lambda running: running == chunk_id, kind)
        return True

    def run_watched(self, handle: LocalHandle, chunk: Any) -> bool:
        """Run a chunk of one task that has a time limit. False: it was abandoned, and so is this thread."""
        watched = WatchedCall()
        fn: Callable[..., Any]
        if type(chunk) is Call:
            fn, args, kwargs = chunk.fn, chunk.args, chunk.kwargs
        else:
            fn = starred(chunk.job.fn) if chunk.job.kind == STARMAP else chunk.job.fn
            args, kwargs = (chunk.items[0],), {}
        error: BaseException | None = None
        values: list[Any] = []
        self.here.chunk = chunk
        try:
            try:
                watched.slot.running = chunk.id  # before it can be found: an exception for it would be lost
                self._watched[chunk.id] = watched
                values.append(fn(*args, **kwargs))
            finally:
                watched.slot.leave()
        except BaseException as problem:  # noqa: BLE001  it is that task's outcome
            error = problem
        self.here.chunk = None
        if self._watched.pop(chunk.id, None) is None:
            return False
        self.driver.finished(handle, chunk, chunk.start, values, error, perf_counter() - watched.since)
        return True

    def revoke(self, worker_id: int, chunk_ids: list[int]) -> None:
        """Slots here see for themselves that a job has stopped."""

    def part(self, worker_id: int, chunk: Any) -> bool:
        """Have a slot run no more items of a chunk, also if it has yet to begin it. It gives the rest back."""
        chunk.parts = True
        return True

    def started(self, handle: LocalHandle) -> dict[int, int]:
        """The calls that run now, by id."""
        return handle.running

    def wake(self) -> None:
        """Nobody sleeps here."""

    def call_soon(self, act: Callable[[], None]) -> None:
        """Have a slot's thread call this, where there is one. Takes no lock: for the garbage collector."""

    def current_chunk(self) -> Any:
        """The chunk that the calling thread runs, None if it is none of the pool's."""
        return self.here.chunk

    def serves_here(self) -> bool:
        """Whether the calling thread runs a task, or is a slot's: the engine's end waits for it."""
        return self.here.chunk is not None

    def grow(self, worker_id: int) -> None:
        """A slot is lent by a task that waits for nested ones: another shall run them."""

    def shrink(self, worker_id: int) -> None:
        """A lent slot is back."""

    def run_chunk(self, handle: LocalHandle, chunk: Any) -> None:
        """Run a chunk's tasks and report them."""
        here = self.here
        outer, here.chunk = here.chunk, chunk
        try:
            self._run_chunk(handle, chunk)
        finally:
            here.chunk = outer

    def _run_chunk(self, handle: LocalHandle, chunk: Any) -> None:
        report = self.driver.finished
        if type(chunk) is Call:
            handle.running[chunk.id] = 0
            began = perf_counter()
            try:
                value = chunk.fn(*chunk.args, **chunk.kwargs)
            except BaseException as error:  # noqa: BLE001  SystemExit too is that task's outcome
                report(handle, chunk, 0, [], error, perf_counter() - began)
            else:
                report(handle, chunk, 0, [value], None, perf_counter() - began)
            finally:
                handle.running.pop(chunk.id, None)
            return
        fn: Callable[[Any], Any] = starred(chunk.job.fn) if chunk.job.kind == STARMAP else chunk.job.fn
        items = chunk.items
        count = chunk.count
        index = first = 0
        values: list[Any] = []  # of the items from the first that was not reported
        n_next = 1  # so many until the clock is read, and whether to go on
        flush_s = WHOLE_FLUSH_S if chunk.job.is_awaited_whole() else FLUSH_S
        began = flushed = perf_counter()
        while index < count and not (chunk.job.stopped or chunk.parts):
            try:
                for item in items[index : index + n_next]:
                    values.append(fn(item))  # noqa: PERF401  not in a comprehension: what ended before an error counts
            except BaseException as error:  # noqa: BLE001
                now = perf_counter()
                failed = first + len(values)
                if values:
                    report(handle, chunk, chunk.start + first, values, None, 0.0)
                report(handle, chunk, chunk.start + failed, [], error, now - flushed)
                values, first, flushed = [], failed + 1, now
            now = perf_counter()
            n_done, index = first + len(values) - index, first + len(values)
            if values and now - flushed > flush_s:
                report(handle, chunk, chunk.start + first, values, None, now - flushed)
                values, first, flushed = [], index, now
            n_next = max(1, min(LOOK_N, int(LOOK_S * n_done / (now - began + 1e-9))))
            began = now
        if values:
            report(handle, chunk, chunk.start + first, values, None, perf_counter() - flushed)
        if index < count:
            self.driver.gave_up(chunk, count - index)


# Of a pool that is terminated, for how long threads are waited for that are in a task.
PATIENCE_S = 0.5


class ThreadEngine(LocalEngine):
    """Runs tasks on threads of this process: all of them from the start, or each when a task finds none free."""

    has_lane = True

    def __init__(
        self,
        n_slots: int,
        name: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        share: int,
        *,
        on_demand: bool = False,
        names: str = "{name}-{index}",
    ) -> None:
        super().__init__(n_slots, name, initializer, initargs)
        self._share = share  # cores that each thread may use
        self._queue: Handover[Any] = Handover()
        self.give: Callable[[Any], None] = self._give_on_demand if on_demand else self._queue.put  # to a free thread
        self.threads: list[threading.Thread] = []
        self._n_grown = 0  # threads beyond its slots, in place of those that wait for nested tasks
        self._names = names
        self._on_demand = on_demand
        self._free = threading.Semaphore(0)  # on demand: threads that wait and were not yet counted on
        self._n_left = 0
        self._stopped = False
        self._has_ended = False  # as far as the driver was told
        self._impatience: threading.Timer | None = None
        self._count_lock = make_lock()  # protects the counts, and the list of threads

    def start(self, worker_id: int) -> None:
        handle = self.handles[worker_id] = LocalHandle(worker_id, self.name)
        if not self._on_demand:
            with self._count_lock:  # one whose initializer fails at once must not take itself for the last
                for _ in range(self.n_slots):
                    self._start_thread(handle)

    def _start_thread(self, handle: LocalHandle) -> None:
        self._n_left += 1
        name = self._names.format(name=self.name, index=len(self.threads))
        # An executor's is no daemon: threads that its tasks start inherit that, and the program's end waits for them.
        thread = make_thread(self._serve, name, (handle,), daemon=not self._on_demand)
        self.threads.append(thread)
        thread.start()

    def serves_here(self) -> bool:
        return threading.current_thread() in self.threads  # also in a callback, when the task has ended

    def grow(self, worker_id: int) -> None:
        with self._count_lock:
            self._n_grown += 1
            if not self._stopped:
                self._start_thread(self.handles[worker_id])

    def shrink(self, worker_id: int) -> None:
        with self._count_lock:
            self._n_grown -= 1
        self._queue.put(None)  # whichever thread gets it ends

    def _serve(self, handle: LocalHandle) -> None:
        before = enter_slot(self.state, self.n_slots)
        set_share(self._share, of_thread=True)
        sleeper = Sleeper()
        is_replaced = False
        try:
            if self._initializer is not None:
                self._initializer(*self._initargs)
        except BaseException as error:  # noqa: BLE001
            self.driver.initializer_failed(error)
        else:
            is_replaced = not self._run_all(handle, sleeper)
        finally:
            sleeper.close()
            leave_slot(before)
        if is_replaced:
            return
        with self._count_lock:
            self._n_left -= 1
            last = not self._n_left
            was_left = self._has_ended
            self._has_ended = self._has_ended or last
            if not self._stopped:
                self.threads.remove(threading.current_thread())
        if last:
            if self._impatience is not None:
                self._impatience.cancel()
            self.state.close()
            if not was_left:
                self.driver.worker_ended(handle.id)

    def _run_all(self, handle: LocalHandle, sleeper: Sleeper) -> bool:
        """Run what comes until the word to end. False: another thread has taken this one's place meanwhile."""
        get_nowait = self._queue.get_nowait
        get = self._get_on_demand if self._on_demand else self._queue.get
        run = self.run_chunk
        lane = self.driver.thread_lane
        tally = lane.new_tally() if lane is not None else None
        n_modules = 0
        while True:
            try:
                chunk = get_nowait()
            except Empty:
                chunk = get(sleeper)
            if chunk is None:
                return True
            if len(sys.modules) != n_modules:  # a library with threads of its own may have come
                n_modules = len(sys.modules)
                limit_this_thread()
            if lane is not None and tally is not None and type(chunk) is Call and not chunk.id:
                lane.run(handle, chunk, tally)
            elif callable(chunk):
                chunk()
            elif chunk.options is not None and chunk.options.is_timed:
                if not self.run_watched(handle, chunk):
                    return False
            else:
                run(handle, chunk)
            chunk = None  # hold nothing while waiting

    def abandon(self, worker_id: int, chunk_id: int, kind: type[BaseException]) -> bool:
        if not super().abandon(worker_id, chunk_id, kind):
            return False
        with self._count_lock:
            self._n_left -= 1  # the abandoned one
            self._start_thread(self.handles[worker_id])
        return True

    def _get_on_demand(self, sleeper: Sleeper) -> Any:
        self._free.release()
        return self._queue.get(sleeper)

    def send(self, worker_id: int, chunk: Any) -> None:
        """Give a chunk to whichever thread is free."""
        self.give(chunk)

    def _give_on_demand(self, chunk: Any) -> None:
        self._queue.put(chunk)
        n_threads = self.n_slots + self._n_grown
        if len(self.threads) < n_threads and not self._free.acquire(blocking=False):
            with self._count_lock:
                if not self._stopped and len(self.threads) < n_threads:
                    self._start_thread(next(iter(self.handles.values())))

    def call_soon(self, act: Callable[[], None]) -> None:
        self._queue.put_whole(act)

    def take_back(self, worker_id: int) -> list[int]:
        """Take back what no thread has begun, but for the lane's calls."""
        return [chunk.id for chunk in self.drain(lambda what: isinstance(what, Chunk) and what.id != 0)]

    def drain(self, is_meant: Callable[[Any], bool]) -> list[Any]:
        """Take what is meant out of the queue of what no thread has begun; the rest stays, in its order."""
        taken: list[Any] = []
        others: list[Any] = []
        while True:
            try:
                what = self._queue.get_nowait()
            except Empty:
                break
            (taken if is_meant(what) else others).append(what)
        for what in others:
            self._queue.put(what)
        return taken

    def stop(self, worker_id: int) -> None:
        """Have the threads end when they have done what they were given."""
        with self._count_lock:
            self._stopped = True
            n_threads = len(self.threads)
        for _ in range(n_threads):
            self._queue.put(None)
        if not n_threads:
            self.driver.worker_ended(worker_id)

    def end(self) -> None:
        """Have the threads end after the task that each is in. One that takes long is left behind, and ends later."""
        self.take_back(0)
        for worker_id in list(self.handles):
            self.stop(worker_id)
            with self._count_lock:
                if self._n_left and self._impatience is None:
                    self._impatience = threading.Timer(PATIENCE_S, self._leave_behind, (worker_id,))
                    with contextlib.suppress(RuntimeError):  # in a sub-interpreter there are no such threads
                        self._impatience.daemon = True
                    self._impatience.name = f"{self.name}-time"
                    self._impatience.start()

    def _leave_behind(self, worker_id: int) -> None:
        """Threads cannot be killed, and nobody shall wait for what they run."""
        with self._count_lock:
            if self._has_ended:
                return
            self._has_ended = True
        self.driver.worker_ended(worker_id)


class InlineEngine(LocalEngine):
    """Runs tasks in the caller, at once: for the debugger."""

    runs_inline = True

    def __init__(self, name: str, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> None:
        super().__init__(1, name, initializer, initargs)

    def start(self, worker_id: int) -> None:
        self.handles[worker_id] = LocalHandle(worker_id, self.name)
        if self._initializer is not None:
            before = enter_slot(self.state, 1)
            try:
                self._initializer(*self._initargs)
            finally:
                leave_slot(before)

    def send(self, worker_id: int, chunk: Any) -> None:
        """Run it."""
        before = enter_slot(self.state, 1)
        try:
            self.run_chunk(self.handles[worker_id], chunk)
        finally:
            leave_slot(before)

    def take_back(self, worker_id: int) -> list[int]:
        """Nothing ever waits here."""
        return []

    def stop(self, worker_id: int) -> None:
        """The worker is the caller."""
        self.state.close()
        self.driver.worker_ended(worker_id)

    def end(self) -> None:
        """As stop."""
        self.state.close()
        for worker_id in list(self.handles):
            self.driver.worker_ended(worker_id)
