"""The short way of calls on threads, while nothing but such calls of one thread is open in the pool.

A call goes straight into the queue that the slots' threads take from, and the thread that has run it settles its
future: nobody has to choose between workers, streams or priorities, so the scheduler is not asked, and no lock of the
pool is taken. What is open is kept in one set; a thread that has run a call takes it out, and so knows that it is still
the lane's.

As soon as anything else is to be done with the pool (another thread submits, a map starts, a task asks for nested ones,
somebody cancels, looks whether a task runs, or closes), the lane is folded: under the driver's lock, all that is open
becomes the scheduler's, what waits in the order in which it was submitted. From then on, until all has ended, calls go
the general way.

Races that were thought about. A call that was entered but not yet put into the queue when the lane is folded, or that
a thread has just taken from it, counts as running: it is entered with the scheduler as sent, and so is what its thread
reports. A pool that is closed while a call is being put: who puts it looks again afterwards, and takes it out if it
came after the word to end; who closes says so before it looks whether anything is open.

Cost of a call: 70 lines of Python in both threads together rather than 217, and no lock that they share.
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from operator import is_
from threading import get_ident
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any

from fullcourt._core.model import Estimate
from fullcourt._engines.jobs import Call

if TYPE_CHECKING:
    from collections.abc import Callable

    from fullcourt._engines.driver import Driver
    from fullcourt._engines.future import Future
    from fullcourt._engines.local import LocalHandle

__all__ = ["Tally", "ThreadLane"]

UNKNOWN = Estimate()  # until a call is the scheduler's


def is_of_lane(what: Any) -> bool:
    """Whether something in the queue is a call of the lane."""
    return type(what) is Call and not what.id


class Tally:
    """What one thread has done for the lane. Only that thread writes the first two."""

    __slots__ = ("busy_s", "counted", "counted_s", "n_done")

    def __init__(self) -> None:
        self.n_done = 0
        self.busy_s = 0.0
        self.counted = 0  # of those, what the statistics know of
        self.counted_s = 0.0


class ThreadLane:
    """One driver's. Any thread may use it."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._engine = driver.engine
        self._give = driver.engine.give
        self._here = driver.engine.here
        self._pid = os.getpid()
        self._owner = 0  # the thread whose calls are open
        self._tallies: list[Tally] = []
        self.open: set[Call] = set()

    def submit(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], future: Future[Any]
    ) -> bool:
        """Have it run. False: it has to go the general way."""
        driver = self._driver
        me = get_ident()
        if driver._n_open or driver.closed is True or self._here.chunk is not None or self._pid != os.getpid():
            return False
        if self._owner != me:
            if self.open:
                return False
            self._owner = me
        call = Call(0, UNKNOWN, future, fn, args, kwargs)
        future.work = call
        try:
            self.open.add(call)
            self._give(call)
        except BaseException:  # an interrupt: nobody will have the future
            self._drop(call)
            raise
        closed: bool = driver.closed  # by now
        if closed and self._is_too_late(call):
            driver._check_open()
        return True

    def run(self, handle: LocalHandle, call: Call, tally: Tally) -> None:
        """Run a call that was taken from the queue."""
        here = self._here
        here.chunk = call
        began = perf_counter()
        try:
            value = call.fn(*call.args, **call.kwargs)
        except BaseException as error:  # noqa: BLE001  SystemExit too is that task's outcome
            here.chunk = None
            seconds = perf_counter() - began
            with self._driver._lock:
                self.fold(monotonic())
            self._report(handle, call, [], error, seconds)
            return
        here.chunk = None
        seconds = perf_counter() - began
        try:
            self.open.remove(call)
        except KeyError:  # it is the scheduler's by now, or the pool was terminated
            self._report(handle, call, [value], None, seconds)
            return
        tally.n_done += 1
        tally.busy_s += seconds
        future, call.future = call.future, None
        future._settle(value, None)  # type: ignore[union-attr]
        if self._driver._outcomes or self._driver._deferred:  # by its callback
            self._driver._settle([])

    def _report(
        self, handle: LocalHandle, call: Call, values: list[Any], error: BaseException | None, seconds: float
    ) -> None:
        try:
            self._driver.finished(handle, call, 0, values, error, seconds)
        finally:
            handle.running.pop(call.id, None)

    def fold(self, now: float) -> None:
        """Make all that is open the scheduler's. Under the driver's lock; actions may be left over."""
        if not self.open:
            return
        driver, scheduler = self._driver, self._driver.scheduler
        waiting = [call for call in self._engine.drain(is_of_lane) if self._claim(call)]
        for call in list(self.open):
            if self._claim(call):
                worker = scheduler.adopt(call, now)
                self._engine.handles[worker].running[call.id] = 0
        if not waiting:
            return
        stream = driver.stream_of(self._owner, 0)
        for call in waiting:
            call.stream = stream
            stream.append(call)
        if not stream.queued:
            scheduler.stream_filled(stream, now)

    def take_all(self) -> list[Call]:
        """Take all that is open away: the pool ends. Under the driver's lock. What runs will end unheard."""
        self._engine.drain(is_of_lane)
        calls: list[Call] = []
        while self.open:
            with contextlib.suppress(KeyError):  # the last has just ended
                calls.append(self.open.pop())
        return calls

    def _claim(self, call: Call) -> bool:
        """Take a call out of the lane, for the scheduler. False: it has just ended."""
        try:
            self.open.remove(call)
        except KeyError:
            return False
        driver = self._driver
        call.estimate = driver._estimate_of(call.fn)
        call.id = driver.new_id()
        driver._n_open += 1
        return True

    def _is_too_late(self, call: Call) -> bool:
        """The pool was closed meanwhile: whether the call came after the word to end. Then it is taken out again."""
        with self._driver._lock:
            if not call.id and self._engine.drain(partial(is_, call)):
                self.open.discard(call)
                return True
        return False

    def _drop(self, call: Call) -> None:
        """Take a call out wherever it is. If it runs, its end will be passed over."""
        driver = self._driver
        with driver._lock:
            self._engine.drain(partial(is_, call))
            self.open.discard(call)
            if call.worker_id is not None:
                driver.scheduler.withdrawn(call, monotonic())
            elif call.stream is not None and call.future is not None:
                driver._withdraw_waiting(call)
                return
            if call.id and call.future is not None:
                call.future = None
                driver._n_open -= 1

    def new_tally(self) -> Tally:
        """For a thread that begins to serve."""
        tally = Tally()
        self._tallies.append(tally)
        return tally

    def settle_tallies(self) -> None:
        """Add what has been done to the worker's and the pool's figures. Under the driver's lock."""
        driver = self._driver
        handle = next(iter(self._engine.handles.values()), None)  # None: the pool has ended
        for tally in self._tallies:
            n_done, busy_s = tally.n_done - tally.counted, tally.busy_s - tally.counted_s
            tally.counted += n_done
            tally.counted_s += busy_s
            driver.n_done += n_done
            if handle is None:
                driver.busy_of_lost_s += busy_s
            else:
                handle.n_done += n_done
                handle.busy_s += busy_s
