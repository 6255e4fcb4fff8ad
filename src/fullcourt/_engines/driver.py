"""The driver: where scheduler and engine meet.

It takes work from the callers, feeds events to the scheduler, has the engine do what the scheduler decided, and
settles futures. It has no thread of its own while callers wait: see :mod:`roles`.

One object, whose class is written in parts, each upon the next: here waiting and the end; :mod:`calls` and :mod:`maps`,
by which work comes in; :mod:`arrivals`, what workers report; :mod:`sending`, what the scheduler decided;
:mod:`outcomes`, how tasks end; and :mod:`driver_base`, what all of them share.

Cost per call with processes (submit and result): two pickles, two system calls here, one wait, no thread switch; some
320 lines of Python here if it goes alone and the long way, 225 by the lane, 205 in a burst; and 76 in the worker. Per
item of a map: its share of a chunk's pickle, 0.05 us, and of one list slice.

``_lock`` protects the scheduler, the open jobs and the counts. It is held for microseconds; no user code runs under it:
pickling, callbacks and iterators are outside. What the scheduler wants done is done outside, too, by whichever thread
takes the actions; only workers are started under it, since other threads may be told to send to them.

Invariants:

1. Every future is settled exactly once, by whoever took its chunk out of the scheduler under ``_lock``.
2. While work is open and somebody waits, somebody leads; while work is open and nobody waits, the background thread
   is armed.
3. A chunk that a worker may have begun is never sent again; one that it cannot have begun always is.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import Any

from fullcourt._core.model import Rest
from fullcourt._core.scheduler import Scheduler
from fullcourt._engines.accounts import take_statistics
from fullcourt._engines.broadcast import Broadcast, new_key
from fullcourt._engines.calls import Calls
from fullcourt._engines.future import Future
from fullcourt._engines.lane import Lane
from fullcourt._engines.linked import FrameArrived
from fullcourt._engines.roles import Roles, wait_aside
from fullcourt._engines.supervisor import NEVER, Limits
from fullcourt._engines.thread_lane import ThreadLane
from fullcourt._engines.timekeeper import Timekeeper
from fullcourt._os.sleepers import Sleepers
from fullcourt._os.system import n_oom_kills
from fullcourt._transport import frames
from fullcourt.errors import NotSupported, PoolClosed, TaskCancelled

__all__ = ["Driver"]

# So many tiny calls to each slot, which nobody waits for yet, are a burst: further ones gather until the next look for
# results. A call that wakes a sleeping worker costs 11 us, one that goes after it 2.
BURST = 2


class Driver(Calls):
    """Runs one pool's work on one engine. All public methods may be called from any thread."""

    def __init__(self, engine: Any, scheduler: Scheduler, name: str, limits: Limits | None = None) -> None:
        super().__init__(engine, scheduler, name, limits)
        self.ended = Future(self)
        self.roles = Roles(self._step, engine.wake, self._has_work, self.ended.done, name)
        gathers = engine.needs_driving and not self.is_nested
        self._burst = BURST * engine.n_slots * scheduler.n_workers if gathers else 1 << 60
        self.sleepers = Sleepers()  # where no caller drives
        self._lane = Lane(self) if Lane.fits(self) else None
        self.thread_lane = ThreadLane(self) if engine.has_lane and limits is None else None
        # An engine whose own threads settle futures has nobody who waits for the moment that something is due.
        self.timekeeper = Timekeeper(self.tend, lambda: self.supervisor.due, name)

    def open(self) -> None:
        """Start the workers."""
        with self.roles.shield:  # what is half open nobody could end
            with self._lock:
                self.scheduler.opened(monotonic())
            try:
                self.engine.open([action[1] for action in self.scheduler.actions])
            except BaseException:
                self.closed = self.scheduler.closing = True
                self.scheduler.actions.clear()
                self._forget_unstarted()
                self._finish()
                raise
            if self.engine.needs_driving:
                self._n_oom_kills = n_oom_kills()  # meanwhile workers start
            self._perform()

    def want_worker(self) -> None:
        """Have one worker more be started, if it waits for demand."""
        if self.is_foreign():
            raise PoolClosed(self._foreign_message())
        with self.roles.shield, self._lock:
            if not self.closed:
                self.scheduler.worker_wanted(monotonic())
        self._perform()

    def broadcast(self, value: Any) -> Broadcast[Any]:
        """Give a value to every worker, also to those that come later; returns its handle. Raises PicklingError."""
        key = new_key()
        self._check_open()
        if self.functions is not None:
            frame = self.engine.frame_of(key, self.engine.codec.encode(value))  # runs user code: without the lock
            with self.roles.shield, self._lock:
                self._check_open()
                self.engine.broadcast(key, frame)
        return Broadcast(key, value, self._forget_value)

    def _forget_value(self, key: int) -> None:
        if self.functions is not None and not self.is_foreign():
            with self.roles.shield, self._lock:
                self.engine.forget(key)

    # -- Waiting ------------------------------------------------------------------------------------------------------

    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait for a future of this pool, driving it if nobody else does. Returns whether it has ended."""
        if future.done():
            return True
        if self.is_foreign():
            raise PoolClosed(self._foreign_message())
        if self._outcomes or self._deferred:
            self._settle([])  # what an outer step of this thread has yet to hand out
        if self.engine.needs_driving:
            if self._inbox:
                self._empty_inbox()
            return self.roles.wait(future, timeout)
        if future is self.ended:
            self.check_waits_for_others()
        self.roles.shield.wait_begins()
        try:
            return self.sleepers.wait(future, timeout)
        finally:
            self.roles.shield.wait_ends()

    def check_waits_for_others(self) -> None:
        """Before the pool's end is waited for: this must not be one of the threads that end with it."""
        if not self.engine.needs_driving and self.engine.serves_here():
            raise NotSupported(
                f"{self.name} cannot be joined by one of its own tasks or their callbacks: it would wait for itself. "
                "Close it here, and join it from where it was opened."
            )

    def _step(self, timeout: float | None) -> None:
        """Wait for something to happen, and deal with it. Only the leader calls this."""
        self._since_driven = 0
        if self.scheduler.actions:  # an interrupt left them
            self._perform_shielded()
        if self._inbox:
            self._empty_inbox()
        if self._outcomes or self._deferred:  # what was just sent, an interrupt, or a thread that submits, left them
            self._settle([])
            timeout = 0.0  # what is waited for may have been among them
        if self._abandoned and not self.closed:
            self._settle([])
            self.close()
        look_again_at = self.scheduler.look_again_at
        if self._arrived:
            timeout = 0.0  # an interrupt left them
        due = self.supervisor.due if look_again_at is None else min(look_again_at, self.supervisor.due)
        if due < NEVER:
            left = max(0.0, due - monotonic())
            timeout = left if timeout is None else min(timeout, left)
        shield = self.roles.shield
        shield.wait_begins()
        try:
            ready = self.engine.wait(timeout)
        finally:
            shield.wait_ends()
        if self._abandoned and self._deferred:
            self._settle([])  # before what has come makes room for what shall not be run any more
        events = self.engine.collect(ready)
        if (
            len(events) == 1
            and type(events[0]) is FrameArrived
            and events[0].fields[0] < frames.OUTPUT
            and not self._arrived
        ):
            self._handle_frame(events[0])
        else:
            self.handle_events(events)

    def _has_work(self) -> bool:
        is_ending = (self.closed or self._abandoned) and not self.ended.done()
        has_calls = bool(self._inbox) and not self.closed  # else who entered them is about to take them out again
        return self._n_open > 0 or bool(self._outcomes) or has_calls or is_ending

    # -- The end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more work; end the workers when all is done. Does not wait."""
        if self.is_foreign():
            return  # a forked child leaves its parent's pool alone
        with self.roles.shield:
            with self._lock:
                if self.closed:
                    return
                self.closed = True
                self._take_inbox(monotonic())
            with self._lock:  # who uses the lane looks for that word after it has entered a call
                if self.thread_lane is not None:
                    self.thread_lane.fold(monotonic())
                self._after_event()
            self._perform_held()
            if not self.ended.done():
                self.will_wait_elsewhere()
        self._perform()
        self._settle([])

    def terminate(self) -> None:
        """Cancel all that is open and end the workers now. Does not wait."""
        if self.is_foreign():
            return
        with self.roles.shield:  # half of this would leave a pool that nobody can end
            with self._lock:
                if self._terminated:
                    return
                self._terminated = True
                self.closed = True
                self._outcomes.extend(self._fail_all(TaskCancelled("the pool was terminated")))
                self.scheduler.closing = True
                self.scheduler.actions.clear()
                self._forget_unstarted()
            self.engine.end()
            with self._lock:
                self._after_event()
            self._settle([])
            if not self.ended.done():
                self.will_wait_elsewhere()

    def abandon(self, error: BaseException | None = None) -> None:
        """Nobody holds the pool any more. Called by the garbage collector: takes no lock that another may hold.

        With an error, what has not started ends with it; else all that was submitted is done.
        """
        if self.is_foreign():
            return
        self._abandoned = True
        if error is not None:
            self._deferred.append(partial(self.end_unstarted, error))
        if self.engine.needs_driving:
            self.roles.ring()
        else:
            self.engine.call_soon(self.close)  # by a slot's thread: closing takes the lock

    # -- How it stands ------------------------------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        """Take a snapshot; see :func:`take_statistics`. Waits until the workers that are being started have pids."""
        if self.is_foreign():
            raise PoolClosed(self._foreign_message())
        until = monotonic() + 5.0
        while self.engine.needs_driving and not self.closed and monotonic() < until:
            if all(handle.pid is not None for handle in list(self.engine.handles.values())):
                break
            if not self.roles.try_step(0.1):
                wait_aside(Future(), 0.01)
        with self._lock:
            if self.thread_lane is not None:
                self.thread_lane.settle_tallies()
            return take_statistics(self, monotonic())

    def n_unfinished(self) -> int:
        """How many tasks were submitted (or read from an input) and have not ended. Under the lock."""
        scheduler = self.scheduler
        waiting = sum(stream.n_live for stream in self._streams.values())
        returned = sum(chunk.count - chunk.done for chunk in scheduler.returned)
        returned += sum(stream.available() for stream in scheduler.streams if type(stream) is Rest)
        returned += self.supervisor.n_waiting()
        waiting += len(self._inbox) + (len(self.thread_lane.open) if self.thread_lane is not None else 0)
        return scheduler.n_sent_tasks + waiting + returned + sum(job.available() for job in self._jobs)
