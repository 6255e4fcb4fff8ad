"""What the executors have in common: their futures, ``map``, ``shutdown``, and the end of the program."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import Any, ClassVar, TypeVar

from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future
from fullcourt._faces.pools import Backlog, FacePool
from fullcourt._os.locks import make_rlock
from fullcourt.errors import PoolClosed, TaskCancelled

__all__ = ["ExecutorFuture", "Shared", "check_map_arguments", "map_by_futures"]

R = TypeVar("R")

AFTER_SHUTDOWN = "cannot schedule new futures after shutdown"
AFTER_EXIT = "cannot schedule new futures after interpreter shutdown"


class ExecutorFuture(Future[R]):
    """The outcome of a call that an executor was given."""

    def cancel(self) -> bool:
        """Cancel the call unless a worker has begun it. Returns whether it was."""
        settler: Any = self._settler
        return self.cancelled() if self.done() else settler.cancel(self, running=False)


class Shared:
    """An executor's pool, opened with the first task, and what follows from that.

    A base beside the standard library's executor class, whose methods and state are all replaced: so `isinstance` (and
    ``asyncio``'s ``set_default_executor``) take one of ours for what it is.
    """

    _max_workers: int
    future_class: ClassVar[type[Future[Any]]] = ExecutorFuture

    def _prepare(self) -> None:
        self._shutdown_lock = make_rlock()  # protects the opening and the closing of the pool
        self._pool: FacePool | None = None
        self._closed = False

    def _open(self) -> FacePool:
        """Open the pool: with what the class at hand was asked for."""
        raise NotImplementedError

    def _driver(self) -> Driver:
        """The pool's driver, for a new task."""
        pool = self._pool
        if pool is None or self._closed or at_exit.is_over:
            with self._shutdown_lock:
                if self._pool is not None and self._pool.driver._broken is not None:
                    raise self._pool.driver._broken.with_traceback(None)
                if self._closed:
                    raise RuntimeError(AFTER_SHUTDOWN)
                if at_exit.is_over:
                    raise RuntimeError(AFTER_EXIT)
                if self._pool is None:
                    self._pool = self._open()
                    at_exit.watch(self._pool.driver)
                pool = self._pool
        return pool.driver

    def _submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        driver = self._driver()
        future = self.future_class(driver)
        try:
            submitted = driver.submit(fn, args, kwargs, future)
        except PoolClosed:
            if driver._broken is not None or not self._closed:
                raise
            raise RuntimeError(AFTER_SHUTDOWN) from None
        if not submitted and driver.scheduler.n_unasked:  # it could not be pickled; its worker is there, as is usual
            driver.want_worker()
        return future

    def _shut(self, wait: bool, cancel_futures: bool) -> None:
        with self._shutdown_lock:
            self._closed = True
            pool = self._pool
        if pool is None:
            return
        if cancel_futures:
            pool.driver.end_unstarted(TaskCancelled("cancelled by shutdown"))
        pool.close()
        if wait:
            pool.join()

    @property
    def _broken(self) -> Any:
        """Why the executor takes no more tasks, or False."""
        pool = self._pool
        return False if pool is None or pool.driver._broken is None else str(pool.driver._broken)

    def _n_waiting(self) -> int:
        pool = self._pool
        if pool is None:
            return 0
        driver = pool.driver
        driver.fold_in()
        with driver._lock:
            n_running = sum(len(set(driver.engine.started(h)) - {0}) for h in list(driver.engine.handles.values()))
            return max(0, driver.n_unfinished() - n_running)

    @property
    def _work_queue(self) -> Backlog:
        """How many tasks wait: ``_work_queue.qsize()``."""
        return Backlog(self._n_waiting)


def check_map_arguments(buffersize: int | None) -> None:
    """Raise what the standard library raises for a wrong buffersize."""
    if buffersize is not None and not isinstance(buffersize, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def map_by_futures(
    executor: Any,
    fn: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    timeout: float | None,
    buffersize: int | None,
) -> Iterator[Any]:
    """An executor's ``map``, a future for each call: all submitted at once, or `buffersize` of them ahead."""
    deadline = None if timeout is None else timeout + monotonic()
    source = iter(calls)
    first = source if buffersize is None else islice(source, buffersize)
    futures = deque(executor.submit(fn, *args) for args in first)
    whose = weakref.ref(executor)  # the iterator must not keep the executor alive

    def results() -> Iterator[Any]:
        try:
            while futures:
                owner = whose() if buffersize is not None else None
                if owner is not None:
                    args = next(source, None)
                    if args is not None:
                        futures.append(owner.submit(fn, *args))
                    del args
                del owner
                yield result_or_cancel(futures.popleft(), None if deadline is None else deadline - monotonic())
        finally:
            for future in futures:
                future.cancel()

    return results()


def result_or_cancel(future: Future[Any], timeout: float | None) -> Any:
    try:
        try:
            return future.result(timeout)
        finally:
            future.cancel()
    finally:
        del future  # break the cycle of exception, traceback, frame and future


class AtExit:
    """At the end of the program, all that was submitted is done, and only then its executors' workers end.

    Held by this module: the standard library's executors have such a hook, one for all of them, too.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._drivers: dict[Driver, None] = {}  # no lock: a fork could take it along locked

    def watch(self, driver: Driver) -> None:
        """Wait for this pool at the end."""
        self._drivers[driver] = None
        driver.ended.add_done_callback(lambda _: self._drivers.pop(driver, None))

    def __call__(self) -> None:
        self.is_over = True
        drivers = [driver for driver in list(self._drivers) if not driver.is_foreign()]
        for driver in drivers:
            driver.close()
        for driver in drivers:
            driver.ended.wait()
            driver.roles.join()


at_exit = AtExit()
with contextlib.suppress(RuntimeError):  # imported while the program ends: nothing will be submitted
    threading._register_atexit(at_exit)  # type: ignore[attr-defined]
