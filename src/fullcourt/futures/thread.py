"""``concurrent.futures.thread`` on fullcourt's threads."""

from __future__ import annotations

import concurrent.futures.thread as standard
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.thread import BrokenThreadPool
from typing import Any, ParamSpec, TypeVar

from fullcourt._engines.future import Future
from fullcourt._faces.pools import FacePool
from fullcourt._faces.start import break_thread_pool
from fullcourt.futures._executors import Shared, check_map_arguments, map_by_futures

__all__ = ["BrokenThreadPool", "ThreadPoolExecutor"]

P = ParamSpec("P")
R = TypeVar("R")


def usual_count() -> int:
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    return min(32, count + 4)


class ThreadPoolExecutor(Shared, standard.ThreadPoolExecutor):  # type: ignore[misc, override]  # its state is replaced
    """Runs calls on threads of this process, as the standard library's class of this name.

    Threads are started when a task finds none free. All methods may be called from any thread. What was submitted is
    done before the program ends.
    """

    _counter = itertools.count().__next__
    _guard: Callable[[BaseException], BaseException] = staticmethod(break_thread_pool)

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if max_workers is None:
            max_workers = usual_count()
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = max_workers
        self._thread_name_prefix = thread_name_prefix or f"{type(self)._usual_prefix}-{self._counter()}"
        self._initializer: Any = initializer
        self._initargs = initargs
        self._prepare()

    _usual_prefix = "ThreadPoolExecutor"

    def _open(self) -> FacePool:
        return FacePool(
            threads=math.ceil(self._max_workers),  # a fraction is no error there: they count up to it
            name=self._thread_name_prefix,
            initializer=self._initializer,
            initargs=self._initargs,
            guard=self._guard,
            engine_options={"on_demand": True, "thread_names": "{name}_{index}"},
        )

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have ``fn(*args, **kwargs)`` run on a thread; returns its future.

        Raises:
            RuntimeError: after :meth:`shutdown`, or while the interpreter shuts down.
            BrokenThreadPool: the initializer has failed.
        """
        return self._submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """The results of ``fn`` for the items of the iterables, in their order.

        All calls are submitted at once; with `buffersize`, so many ahead of the results taken. If one fails, if the
        timeout (seconds from this call) is over, or if the iterator is closed, what has not started is cancelled.
        """
        check_map_arguments(buffersize)
        return map_by_futures(self, fn, zip(*iterables, strict=False), timeout, buffersize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. `wait`: return when all have ended. `cancel_futures`: cancel those not begun."""
        self._shut(wait, cancel_futures)

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override]
        """The threads that were started."""
        pool = self._pool
        return set() if pool is None else set(getattr(pool.driver.engine, "threads", ()))

    @property
    def _shutdown(self) -> bool:  # type: ignore[override]
        return self._closed


def __getattr__(name: str) -> Any:
    return getattr(standard, name)
