"""The driver of a pool that chooses its mode: several drivers behind one face.

What `Pool` asks of a driver is here, and is passed on to those that do the work: two *trial* threads, in which the
first items run while it is measured; a driver of threads, or of worker processes, once one was chosen. Each is opened
when it is first needed. Maps go by way of a :class:`Course`, single calls of a :class:`Calls`.

`_lock` protects what the courses and calls share, and the sources. It may be taken under a driver's lock, never the
other way round: whoever holds it takes no other lock and runs no code of the user's.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import FunctionType
from typing import Any, cast

from fullcourt._advise.calls import Calls, Pending
from fullcourt._advise.course import Course
from fullcourt._advise.drivers import Drivers
from fullcourt._advise.explain import Choice, Explanation
from fullcourt._advise.facts import Facts
from fullcourt._advise.legs import Strays
from fullcourt._advise.model import Mode
from fullcourt._core.options import Options
from fullcourt._engines.broadcast import Broadcast
from fullcourt._engines.build import usable_start_method
from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future, let_go
from fullcourt._engines.jobs import MapJob, Settlement, StreamJob
from fullcourt._os.cpus import usable_cores
from fullcourt._os.interrupts import Shield
from fullcourt._os.locks import make_lock
from fullcourt._os.threads import make_thread
from fullcourt._os.waits import acquire
from fullcourt._transport.functions import innermost
from fullcourt.errors import PoolClosed, TaskCancelled

__all__ = ["Hub"]

MAX_KEPT = 100  # choices that `explain` tells, and functions whose facts are kept


class Everyone:
    """The drivers' threads, to be waited for at the end."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def join(self) -> None:
        """Wait for them."""
        for thread in list(self._hub.threads):
            if thread is not threading.current_thread():
                thread.join()
        for driver in self._hub.drivers.all:
            driver.roles.join()
            driver.timekeeper.join()


class Nobody:
    """Where there is nothing to wait for."""

    def join(self) -> None:
        """Return."""


class Face:
    """What `Pool` asks of the engine and the scheduler, before anything is chosen."""

    runs_inline = False
    needs_driving = True
    codec = None

    def __init__(self) -> None:
        self.n_workers = max(1, usable_cores().count)
        self.n_slots = 1


class Hub:
    """Runs one pool's work, by the drivers that suit it. As :class:`Driver`, for `Pool` and what it hands out."""

    functions = None  # nothing is pickled before it is known where it goes

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.pid = os.getpid()
        # Tasks run in threads of this process, and leave there what threads and connections they please: a fork in the
        # midst of that, or after it, is not safe.
        method = usable_start_method(options["start_method"])
        self.start_method = "forkserver" if method == "fork" else method
        self._lock = make_lock()
        self._ids = itertools.count(1)
        self.new_id = self._ids.__next__
        self.engine = self.scheduler = Face()
        self.roles = Everyone(self)
        self.timekeeper = Nobody()
        self.closed = False
        self.ended: Future[None] = Future(cast("Any", self))
        self.facts: dict[object, Facts] = {}
        self.threads: set[threading.Thread] = set()
        self.drivers = Drivers(self, options)
        self._courses: dict[MapJob, Course] = {}
        self._direct: weakref.WeakKeyDictionary[MapJob, Driver] = weakref.WeakKeyDictionary()
        self._calls: dict[object, Calls] = {}
        self._past: deque[Choice] = deque(maxlen=MAX_KEPT)
        self._sleepers: dict[Any, None] = {}
        self.shield = Shield()  # against interrupts while calls are handed on
        self._closing = False
        self._terminated = False
        self._abandoned = False

    def open(self) -> None:
        """Nothing is started before there is work, unless its processes shall be forked."""
        with self.shield:  # what is half open nobody could end
            self.drivers.open()

    def let_go(self) -> None:
        """As a driver's."""
        for driver in list(self.drivers.all):
            driver.let_go()
        self.drivers.let_go()
        self._calls.clear()

    # -- single calls ----------------------------------------------------------------------------------------------

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: Future[Any],
        *,
        options: Options | None = None,
    ) -> bool:
        """As a driver's."""
        within = self.drivers.within()
        call = Pending(fn, args, kwargs, future, options)
        if within is not None:
            self.route(call, within)
            return True
        self._check_open()
        if options is not None and options.is_watched:  # limits are kept best in processes
            self.route(call, self.drivers.for_mode(Mode(self.scheduler.n_workers, 1))[0], is_submit=True)
            return True
        key = key_of(fn)
        with self._lock:
            calls = self._calls.get(key)
            if calls is None:
                if len(self._calls) >= MAX_KEPT:
                    for old, those in list(self._calls.items())[: MAX_KEPT // 2]:
                        if those.is_idle():
                            del self._calls[old]
                calls = self._calls[key] = Calls(self, fn)
            driver = calls.driver
            calls.n_handed_on += driver is not None
        if driver is not None and driver.closed:
            driver = calls.driver = self.drivers.instead_of(driver)
        if driver is not None:
            self.route(call, driver, is_submit=True)
        else:
            future.work = call
            calls.add(call)
        return True

    def call(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options | None = None
    ) -> Any:
        """As a driver's."""
        future: Future[Any] = Future(cast("Any", self))
        self.submit(fn, args, kwargs, future, options=options)
        return future.result()

    def route(
        self, call: Pending, driver: Driver, instead: Callable[..., Any] | None = None, *, is_submit: bool = False
    ) -> None:
        """Hand a call to a driver: from now on the future is that one's.

        What the driver has against it is raised where ``is_submit`` says that the caller is whoever submits it;
        elsewhere its future tells it.
        """
        future = call.future
        future._settler = driver
        future.work = None
        try:
            while True:
                try:
                    driver.submit(instead or call.fn, call.args, call.kwargs, future, options=call.options)
                    break
                except PoolClosed:
                    now = self.drivers.instead_of(driver)
                    if now is driver:
                        raise
                    future._settler = driver = now
        except Exception as error:
            if is_submit and not self.closed:
                raise
            if self._terminated:
                future._settle_cancelled()
            else:
                future._settle(None, error)
        self.wake_sleepers()

    # -- maps ------------------------------------------------------------------------------------------------------

    def start_job(self, job: MapJob) -> None:
        """Have a map run."""
        within = self.drivers.within()
        if within is not None:
            job.new_id = within.new_id
            job.future._settler = within
            self._direct[job] = within
            within.start_job(job)
            return
        self._check_open()
        course = Course(self, job)
        job.future.work = job
        with self._lock:
            self._courses[job] = course
        self.start(course.run)

    def feed(self, job: StreamJob) -> None:
        """As a driver's."""
        driver = self._direct.get(job)
        if driver is not None:
            driver.feed(job)
            return
        course = self._courses.get(job)
        leg = course.leg if course is not None else None
        if leg is not None and leg.attached:
            leg.driver.feed(cast("Any", leg))

    def input_ended(self, job: StreamJob, error: BaseException | None) -> None:
        """As a driver's."""
        driver = self._direct.get(job)
        course = self._courses.get(job)
        if driver is not None:
            driver.input_ended(job, error)
            return
        leg = course.leg if course is not None else None
        if leg is not None:
            leg.driver.input_ended(cast("Any", leg), error)
            return
        with self._lock:
            settlements = job.input_ended(error)
        self._settle(settlements)
        if course is not None:
            course.ring()

    def run_stray(self, course: Course, index: int, item: Any) -> None:
        """An item cannot be sent: it runs in a thread."""
        driver = self.drivers.trial()
        strays = course.strays
        if strays is None:
            strays = course.strays = Strays(course, driver)
            course.legs.append(strays)
        with driver.roles.shield, driver._lock:
            strays.items.append((index, item))
            if strays not in driver._jobs:
                driver._jobs.add(strays)
                driver._n_open += 1
            driver.scheduler.stream_filled(cast("Any", strays), monotonic())
        driver._perform()

    def fail(self, course: Course, error: BaseException) -> None:
        """A course cannot be conducted."""
        with self._lock:
            settlements = course.source.abort(error)
        self._settle(settlements)

    def course_ended(self, course: Course) -> None:
        """A map is over, or nobody takes its results: stop what is left of it."""
        source = course.source
        with self._lock:
            settlements = source.abort(None) if source.open else []
        try:
            course.end()
        finally:
            with self._lock:
                self._courses.pop(source, None)
                self._past.append(course.choice)
            self._settle([one for one in settlements if one[0] is not None])
            self.look_at_end()

    def abandon_job(self, job: StreamJob) -> None:
        """As a driver's: for the garbage collector."""
        driver = self._direct.get(job)
        course = self._courses.get(job)
        if driver is not None:
            driver.abandon_job(job)
        elif course is not None:
            course.ring()

    def stop_job(self, job: StreamJob) -> None:
        """As a driver's."""
        driver = self._direct.get(job)
        if driver is not None:
            driver.stop_job(job)
            return
        course = self._courses.get(job)
        if course is None or self.is_foreign():
            return
        with self._lock:
            settlements = job.abort(None)
        for leg in list(course.legs):
            leg.driver.stop_job(cast("Any", leg))
        self._settle([one for one in settlements if one[0] is not None])
        course.ring()

    def lift_windows(self, *, all_inputs: bool) -> None:
        """As a driver's."""
        for job in list(self._courses):
            if not isinstance(job, StreamJob):
                continue
            if all_inputs or job.finite:
                job.unbounded = True
            else:
                self.input_ended(job, PoolClosed("the pool was left before the input of this imap was read to its end"))
            if job.refill is not None:
                job.refill()
        for driver in list(self.drivers.all):
            driver.lift_windows(all_inputs=all_inputs)

    def cannot_part(self, options: Options | None) -> bool:
        """As a driver's."""
        return options is not None and options.is_timed

    def broadcast(self, value: Any) -> Broadcast[Any]:
        """As a driver's."""
        self._check_open()
        return self.drivers.broadcast(value)

    # -- what courses use ------------------------------------------------------------------------------------------

    def start(self, run: Callable[[], None]) -> None:
        """Run something in a thread of its own."""

        def run_and_leave() -> None:
            try:
                run()
            finally:
                self.threads.discard(thread)

        thread = make_thread(run_and_leave, f"{self.name}-auto")
        self.threads.add(thread)
        thread.start()

    def ring(self) -> None:
        """Something has happened that all who conduct should know."""
        with self._lock:
            rings = [course.ring for course in self._courses.values()] + [calls.ring for calls in self._calls.values()]
        for ring in rings:
            ring()

    def remember(self, fn: Callable[..., Any], facts: Facts) -> None:
        """Keep what was measured, for the next map with the same function."""
        with self._lock:
            if len(self.facts) >= MAX_KEPT:
                self.facts.pop(next(iter(self.facts)))
            self.facts[key_of(fn)] = facts

    def known(self, fn: Callable[..., Any]) -> Facts | None:
        """What was measured of a function before."""
        return self.facts.get(key_of(fn))

    def wake_sleepers(self) -> None:
        """Something changed its driver: who waits for it should look who drives it now."""
        for lock in list(self._sleepers):
            let_go(lock)

    def tell_leaders(self, _: object = None) -> None:
        """Something has ended: whoever leads looks whether it was his."""
        self._tell_others(None)

    def _tell_others(self, driver: Driver | None) -> None:
        for other in self.drivers.all:
            if other is not driver and other.engine.needs_driving:
                other.roles.tell()

    def settle_and_tell(self, driver: Driver | None, settlement: Settlement) -> None:
        """End a future, from that driver's threads, and have whoever leads another one look whether it was his."""
        self._end(settlement)
        self._tell_others(driver)

    def _settle(self, settlements: list[Settlement]) -> None:
        for settlement in settlements:
            self._end(settlement)
        self.tell_leaders()

    def _end(self, settlement: Settlement) -> None:
        future, result, error = settlement
        if future is None:
            result()
        elif error is None:
            future._settle(result, None)
        elif isinstance(error, TaskCancelled):
            future._settle_cancelled()
        else:
            future._settle(None, error)

    # -- waiting and cancelling ------------------------------------------------------------------------------------

    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        """As a driver's. Whoever waits drives, if the work is with a driver that needs it."""
        if future is self.ended and not future.done():
            for driver in list(self.drivers.all):
                driver.check_waits_for_others()
        work = future.work
        return self._wait(future, timeout, self._courses.get(work) if isinstance(work, MapJob) else None)

    def _wait(self, future: Future[Any], timeout: float | None, course: Course | None) -> bool:
        if self.is_foreign() and not future.done():
            raise PoolClosed(self._foreign_message())
        deadline = None if timeout is None else monotonic() + timeout
        while not future.done():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                break
            settler = future._settler
            leg = course.leg if course is not None else None
            driver = leg.driver if leg is not None else None
            if settler is not cast("Any", self) and settler is not None:
                settler.wait(future, left)
            elif driver is not None and driver.engine.needs_driving and not driver.closed:
                driver.wait(future, left)
            else:
                self._sleep(future, left, course, driver)
        return future.done()

    def _sleep(self, future: Future[Any], timeout: float | None, course: Course | None, driver: Driver | None) -> None:
        """Until it has ended, or goes by another driver."""
        mine = threading.Lock()
        mine.acquire()
        self._sleepers[mine] = None
        try:
            leg = course.leg if course is not None else None
            moved = leg is not None and leg.driver is not driver
            if not moved and future._settler is cast("Any", self) and future.block(mine):
                acquire(mine, timeout)
        finally:
            self._sleepers.pop(mine, None)
            future.unblock(mine)

    def wait_for_result(self, job: StreamJob, timeout: float | None) -> bool:
        """As a driver's."""
        driver = self._direct.get(job)
        if driver is not None:
            return driver.wait_for_result(job, timeout)
        waiting: Future[Any] = Future(cast("Any", self))
        with self._lock:
            if job.ready or job.finished or job.stopped:
                return True
            job.waiting.append(waiting)
        if job.refill is not None and not job.exhausted:
            job.refill()
        if self._wait(waiting, timeout, self._courses.get(job)):
            return True
        with self._lock:
            if waiting in job.waiting:
                job.waiting.remove(waiting)
        return waiting.done()

    def will_wait_elsewhere(self) -> None:
        """As a driver's."""
        for driver in self.drivers.all:
            driver.will_wait_elsewhere()

    def hurry(self) -> None:
        """As a driver's."""
        for driver in self.drivers.all:
            driver.hurry()

    def is_running(self, future: Future[Any]) -> bool:
        """As a driver's."""
        return False

    def cancel(self, future: Future[Any], *, waits: bool = True) -> bool:
        """As a driver's."""
        if self.is_foreign():
            return False
        work = future.work
        if isinstance(work, Pending):
            calls = self._calls.get(key_of(work.fn))
            if calls is not None and calls.withdraw(work):
                future._settle_cancelled()
                self.look_at_end()
                return True
        settler = future._settler
        if settler is not None and settler is not cast("Any", self):
            return settler.cancel(future, waits=waits)
        if isinstance(work, MapJob):
            course = self._courses.get(work)
            with self._lock:
                settlements = work.abort(TaskCancelled("cancelled"))
            for leg in list(course.legs) if course is not None else []:
                leg.driver.cancel(leg.future, waits=waits)
            self._settle(settlements)
            if course is not None:
                course.ring()
        return future.cancelled()

    # -- the end ---------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self.is_foreign():
            raise PoolClosed(self._foreign_message())
        broken = self.drivers.error
        if broken is not None:
            raise broken
        if self.closed and self.drivers.within() is None:
            raise PoolClosed("the pool is closed and takes no more work; open a new one, or submit before close()")

    def is_foreign(self) -> bool:
        """As a driver's."""
        return self.pid != os.getpid()

    def _foreign_message(self) -> str:
        return f"this pool belongs to process {self.pid}; a forked process cannot use it, but can open one of its own"

    def close(self) -> None:
        """As a driver's."""
        if not self.is_foreign():
            self.closed = True
            self.look_at_end()

    def look_at_end(self) -> None:
        """Close the drivers when the last work has been given to them, if no more will come."""
        if not (self.closed or self._abandoned):
            return
        with self._lock:
            if self._closing or self._courses or any(not calls.is_idle() for calls in self._calls.values()):
                return
            self._closing = self.closed = True
        with self.drivers.opening:
            drivers = list(self.drivers.all)
        self.drivers.close_seed()
        for driver in drivers:
            driver.close()
        self._driver_ended(None)

    def will_open(self) -> None:
        """A driver is about to be opened: until it is there, this pool's end waits for it."""
        with self._lock:
            if self._terminated and self.ended.done():
                raise PoolClosed("the pool was terminated")
            self.drivers.is_opening = True

    def _driver_ended(self, _: object) -> None:
        if self._closing and all(driver.ended.done() for driver in self.drivers.all):
            with self._lock:
                if self.ended.done():
                    return
                if self._terminated and self.drivers.is_opening:
                    return  # it ends at once, and comes here
            try:
                self.ended.set_result(None)
            except Exception:  # noqa: BLE001  another thread was here just before
                return

    def terminate(self) -> None:
        """As a driver's."""
        if self.is_foreign():
            return
        with self._lock:
            if self._terminated:
                return
            self._terminated = self.closed = self._closing = True
            pending = [call for calls in self._calls.values() for call in calls.drain()]
            settlements: list[Settlement] = []
            for job in self._courses:
                settlements += job.abort(TaskCancelled("the pool was terminated"))
            courses = list(self._courses.values())
        self.drivers.close_seed()
        for driver in list(self.drivers.all):
            driver.terminate()
        for call in pending:
            call.future._settle_cancelled()
        self._settle(settlements)
        for course in courses:
            if isinstance(course.source, StreamJob) and course.source.refill is not None:
                course.source.refill()
            course.ring()
        self._driver_ended(None)

    def abandon(self) -> None:
        """As a driver's: for the garbage collector."""
        self._abandoned = True
        if not self._courses and not any(not calls.is_idle() for calls in self._calls.values()):
            self._closing = self.closed = True
            self.drivers.close_seed()
            for driver in self.drivers.all:
                driver.abandon()

    # -- questions -------------------------------------------------------------------------------------------------

    def explain(self) -> Explanation:
        """What was chosen, and how it turned out."""
        with self._lock:
            now = [course.so_far() for course in self._courses.values()]
            calls = [those.so_far() for those in self._calls.values()]
            return Explanation((*self._past, *calls, *now))

    def statistics(self) -> dict[str, Any]:
        """As a driver's, of all together."""
        total: dict[str, Any] = {}
        for driver in list(self.drivers.all):
            for name, value in driver.statistics().items():
                total[name] = total[name] + value if name in total else value
        if not total:
            names = ("n_done", "n_failed", "n_in_flight", "n_retried", "n_abandoned")
            total = dict.fromkeys(names, 0)
            total.update(workers=[], in_tasks_s=0.0, pickling_s=0.0, waiting_for_input_s=0.0)
        with self._lock:
            # Its legs each count the items that wait.
            total["n_in_flight"] += sum(len(calls.waiting) for calls in self._calls.values())
        return total


def key_of(fn: Any) -> object:
    """What calls of a function have in common, though each may bring a function object of its own."""
    fn = innermost(fn)
    if isinstance(fn, FunctionType):
        return fn.__code__
    kind = type(cast("object", fn))
    try:
        hash(fn)
    except TypeError:
        return kind
    return fn if hasattr(fn, "__qualname__") else kind
