"""The pool under a face: :class:`fullcourt.Pool`, with what the standard library's classes have beside it.

Work is handed to the driver with futures of the face's own kind; workers can start on demand; workers take themselves
for processes of ``multiprocessing``.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import MapJob, StreamJob
from fullcourt._engines.streams import Feeder, ResultIterator, abandon_iterator
from fullcourt._faces.children import ChildProcess, children_of
from fullcourt._faces.start import Start
from fullcourt.errors import PicklingError
from fullcourt.pool import Pool, nothing

__all__ = ["AHEAD", "Backlog", "FacePool", "stop_stream"]

# An `imap` over an input of unknown length reads at most so many items ahead of its consumer. The standard library
# reads all of it; this is enough for programs that look at the results late, and bounded for those whose input has
# no end.
AHEAD = 10_000


class FacePool(Pool):
    """A pool for a face.

    Args:
        options: those of :class:`fullcourt.Pool`.
        guard: what the initializer's failure becomes; None: itself.
        engine_options: see :func:`fullcourt._engines.build.build_driver`.
    """

    def __init__(
        self,
        *,
        guard: Callable[[BaseException], BaseException] | None = None,
        engine_options: Mapping[str, Any] = MappingProxyType({}),
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        **options: Any,
    ) -> None:
        self._engine_options = engine_options
        self._children: dict[int, ChildProcess] = {}
        begin: Callable[[], None] | None = None
        if options.get("processes"):
            begin = child_start(initializer, tuple(initargs), guard, options.get("start_method"))
        elif initializer is not None:
            begin = Start(b"", 0, "", initializer, tuple(initargs), guard).initialize
        super().__init__(initializer=begin, **options)

    @property
    def driver(self) -> Driver:
        """The driver."""
        return self._driver

    def children(self) -> list[ChildProcess]:
        """The worker processes that are there now; waits until those that are being started have their pids.

        Without those that have done their share, and end, while a successor is at work.
        """
        driver = self._driver
        driver.statistics()
        children = children_of(driver.engine.handles, self._children)
        with driver._lock:
            if driver.closed:
                return children
            leaving = {number for number, worker in driver.scheduler.workers.items() if worker.stopping}
        return [child for child in children if child.number not in leaving]

    def start_map(
        self, kind: int, func: Callable[..., Any], items: list[Any], chunksize: int | None, future: Future[Any]
    ) -> None:
        """Have a map run; all its items run, whatever some of them raise, and the list of outcomes is the result."""
        driver = self._driver
        driver._check_open()
        try:
            function = driver.functions.get(func) if driver.functions is not None else None
        except PicklingError as error:
            driver.end_at_once(future, None, error)
            return
        if not items:
            future._on_end = None  # the standard library's are not called, either
            future._settle([], None)
            return
        driver.start_job(MapJob(kind, func, function, items, chunksize, driver.new_id, future, True, None))
        driver.will_wait_elsewhere()

    def start_stream(
        self,
        kind: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        *,
        ordered: bool,
        buffersize: int | None,
    ) -> ResultIterator[Any]:
        """Have a lazy map run.

        A list, tuple, range or the like is read at once; of another input, `buffersize` items ahead of the results that
        were taken.

        Dropping the iterator does not stop the map: that is :func:`stop_stream`.
        """
        driver = self._driver
        driver._check_open()
        function = driver.functions.get(func) if driver.functions is not None else None
        n_slots = driver.scheduler.n_workers * driver.scheduler.n_slots
        job = StreamJob(kind, func, function, chunksize, driver.new_id, ordered, False, None, n_slots, buffersize)
        known = isinstance(iterable, (list, tuple, range, str, bytes, dict, set, frozenset))
        job.finite = job.unbounded = known
        driver.start_job(job)
        feeder = Feeder(driver, job, iterable, own_thread=not known)
        driver.will_wait_elsewhere()
        iterator: ResultIterator[Any] = ResultIterator(driver, job, feeder.refill, nothing)
        iterator._finalizer.detach()
        return iterator


def stop_stream(iterator: ResultIterator[Any]) -> None:
    """Stop the map of an iterator that :meth:`FacePool.start_stream` gave."""
    abandon_iterator(iterator._driver, iterator._job, iterator._refill)


def child_start(
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    guard: Callable[[BaseException], BaseException] | None,
    start_method: str | None,
) -> Start:
    from multiprocessing import process, resource_tracker

    if start_method != "fork":  # workers must share it; a fork has it, where it is running
        resource_tracker.ensure_running()
    parent = process.current_process()
    return Start(bytes(parent.authkey), os.getpid(), parent.name, initializer, initargs, guard)


class Backlog:
    """How much work waits, for programs that look at the standard library's queues of it to hold themselves back.

    It has what they ask: ``qsize``, ``empty``, ``len``, truth. It does not keep the pool alive.

    Args:
        count: a bound method of whoever knows.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = weakref.WeakMethod(count)

    def qsize(self) -> int:
        """How many."""
        count = self._count()
        return 0 if count is None else count()

    __len__ = qsize

    def empty(self) -> bool:
        """Whether there is none."""
        return not self.qsize()

    def __iter__(self) -> Any:
        return iter(range(self.qsize()))

    def join_thread(self) -> None:
        """Nothing to wait for."""

    close = cancel_join_thread = join_thread
