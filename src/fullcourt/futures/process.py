"""``concurrent.futures.process`` on fullcourt's worker processes."""

from __future__ import annotations

import concurrent.futures.process as standard
import itertools
import operator
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fullcourt._engines.future import Future
from fullcourt._engines.jobs import MAP, STARMAP
from fullcourt._engines.methods import START_METHODS
from fullcourt._engines.streams import ResultIterator
from fullcourt._faces.children import ChildProcess
from fullcourt._faces.outcomes import TaskUnreadable, as_standard, is_unreadable, unwrapped
from fullcourt._faces.pools import Backlog, FacePool, stop_stream
from fullcourt._faces.start import break_process_pool
from fullcourt._os.cpus import usable_cores
from fullcourt.errors import PicklingError
from fullcourt.futures._executors import ExecutorFuture, Shared, check_map_arguments, map_by_futures

__all__ = ["BrokenProcessPool", "ProcessPoolExecutor", "TaskUnreadable"]

P = ParamSpec("P")
R = TypeVar("R")

_TERMINATE, _KILL = "terminate", "kill"
_RemoteTraceback = standard._RemoteTraceback


def translated(error: BaseException) -> BaseException:
    """An exception as the standard library's executor raises it."""
    if isinstance(error, PicklingError):
        error = unwrapped(error)
    elif is_unreadable(error):
        lost = TaskUnreadable(f"{'; '.join(error.__notes__)}: {error!r}. Only this task is lost.")
        lost.__cause__ = error
        return lost
    return as_standard(error, _RemoteTraceback)


class ProcessFuture(ExecutorFuture[Any]):
    """The outcome of a call in a worker process. Its callbacks are called by a thread of the executor's, as there."""

    _calls_aside = True

    def _settle(self, result: Any, exception: BaseException | None) -> None:
        if exception is not None:
            exception = translated(exception)
        super()._settle(result, exception)


class ProcessPoolExecutor(Shared, standard.ProcessPoolExecutor):  # type: ignore[misc, override]  # its state is replaced
    """Runs calls in worker processes, as the standard library's class of this name.

    Workers are started with the first call (with ``fork`` all of them, else as many as calls find none free). A worker
    that dies costs the calls that it had started: they raise :class:`fullcourt.WorkerDied`, which is a
    ``BrokenProcessPool``; the executor goes on. All methods may be called from any thread. What was submitted is done
    before the program ends.
    """

    future_class = ProcessFuture

    if not TYPE_CHECKING:

        def __new__(cls, max_workers: int | None = None, mp_context: Any = None, *args: Any, **kwargs: Any) -> Any:
            """A context with a start method of its own (of another library) gets the standard library's executor."""
            if mp_context is not None and mp_context.get_start_method(allow_none=False) not in START_METHODS:
                return standard.ProcessPoolExecutor(max_workers, mp_context, *args, **kwargs)
            return super().__new__(cls)

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        standard._check_system_limits()
        if max_workers is None:
            max_workers = usable_cores().count
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        self._max_workers = operator.index(max_workers)
        if mp_context is None:
            import multiprocessing

            mp_context = multiprocessing.get_context("spawn" if max_tasks_per_child is not None else None)
        self._mp_context = mp_context
        self._start_method: str = mp_context.get_start_method(allow_none=False)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._initializer: Any = initializer
        self._initargs = initargs
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
            if self._start_method == "fork":
                raise ValueError(
                    "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method;"
                    " supply a different mp_context."
                )
        self._max_tasks_per_child = max_tasks_per_child
        self._prepare()

    def _open(self) -> FacePool:
        pool = self._make_pool()
        if self._max_tasks_per_child is not None:
            # As the standard library: nobody is left who would replace workers that have done their share.
            lost = BrokenProcessPool("The executor was garbage collected while calls waited; they were not run.")
            weakref.finalize(self, pool.driver.abandon, lost).atexit = False
        return pool

    def _make_pool(self) -> FacePool:
        return FacePool(
            processes=self._max_workers,
            start_method=self._start_method,
            name=f"{self._start_method.capitalize().replace('server', 'Server')}Process",
            initializer=self._initializer,
            initargs=self._initargs,
            guard=break_process_pool,
            max_tasks_per_child=self._max_tasks_per_child,
            engine_options={"on_demand": self._start_method != "fork"},
        )

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have ``fn(*args, **kwargs)`` run in a worker; returns its future.

        Raises:
            RuntimeError: after :meth:`shutdown`, or while the interpreter shuts down.
            BrokenProcessPool: the initializer has failed, or workers cannot be started.
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

        All calls are submitted at once; with `buffersize`, so many chunks ahead of the results taken. If one fails, if
        the timeout (seconds from this call) is over, or if the iterator is closed, what has not started is cancelled.

        Args:
            fn: called with one item of each iterable.
            iterables: read to the end of the shortest before this returns, unless there is a buffersize.
            timeout: seconds; None: no limit.
            chunksize: items that travel together. 1, the default: found from the time that the calls take.
            buffersize: None, or at least 1.
        """
        if operator.index(chunksize) < 1:
            raise ValueError("chunksize must be >= 1.")
        check_map_arguments(buffersize)
        calls = zip(*iterables, strict=False)
        if buffersize is not None or type(self).submit is not ProcessPoolExecutor.submit:
            batches = iter(lambda: tuple(itertools.islice(calls, chunksize)), ())
            lists = map_by_futures(self, partial(run_batch, fn), ((batch,) for batch in batches), timeout, buffersize)
            return flat(lists)
        deadline = None if timeout is None else timeout + monotonic()
        items: list[Any] = list(calls)
        self._driver()
        pool = self._pool
        assert pool is not None
        kind = STARMAP
        if len(iterables) == 1:
            kind, items = MAP, [item for (item,) in items]
        if not items:
            return flat(iter(()))
        try:
            size = None if chunksize == 1 else chunksize
            stream = pool.start_stream(kind, fn, items, size, ordered=True, buffersize=None)
        except PicklingError as error:
            return raising(translated(error))
        return results_of(stream, deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls. `wait`: return when all have ended. `cancel_futures`: cancel those not begun."""
        self._shut(wait, cancel_futures)

    def terminate_workers(self) -> None:
        """Send SIGTERM to each worker, cancel what waits, and take no more calls. Does not wait."""
        self._force_shutdown(operation=_TERMINATE)

    def kill_workers(self) -> None:
        """Send SIGKILL to each worker, cancel what waits, and take no more calls. Does not wait."""
        self._force_shutdown(operation=_KILL)

    def _force_shutdown(self, operation: str) -> None:
        if operation not in (_TERMINATE, _KILL):
            raise ValueError(f"Unsupported operation: {operation!r}")
        children = list((self._processes or {}).values())
        self.shutdown(wait=False, cancel_futures=True)
        for child in children:
            if child.is_alive():
                (child.terminate if operation == _TERMINATE else child.kill)()

    # -- what programs look at, beside the documentation ------------------------------------------------------------

    @property
    def _processes(self) -> dict[int, ChildProcess]:  # type: ignore[override]
        """The workers that are there now, by pid."""
        pool = self._pool
        if pool is None:
            return {}
        return {child.pid: child for child in pool.children() if child.pid is not None}

    @property
    def _executor_manager_thread(self) -> Any:  # type: ignore[override]
        """The thread that drives the pool while nobody waits for it; it ends when the pool has ended."""
        pool = self._pool
        return None if pool is None else pool.driver.roles.background()

    @property
    def _call_queue(self) -> Backlog:
        return Backlog(self._n_waiting)

    @property
    def _pending_work_items(self) -> Backlog:  # type: ignore[override]
        """How many calls have not ended: ``len(executor._pending_work_items)``."""
        return Backlog(self._n_unfinished)

    def _n_unfinished(self) -> int:
        pool = self._pool
        if pool is None:
            return 0
        with pool.driver._lock:
            return pool.driver.n_unfinished()

    @property
    def _force_shutting_down(self) -> bool:
        """Whether its workers are being terminated or killed: what waits is not run any more."""
        return self._forced

    @_force_shutting_down.setter
    def _force_shutting_down(self, value: bool) -> None:
        self._forced = value
        if value and self._pool is not None:
            self._pool.driver.end_unstarted(BrokenProcessPool("The executor was forcefully shut down."))

    _forced = False

    @property
    def _shutdown_thread(self) -> bool:  # type: ignore[override]
        return self._closed


def run_batch(fn: Callable[..., R], batch: Iterable[tuple[Any, ...]]) -> list[R]:
    """In the worker: some calls of a map."""
    return [fn(*args) for args in batch]


def flat(lists: Iterator[list[Any]]) -> Iterator[Any]:
    for values in lists:
        values.reverse()
        while values:
            yield values.pop()  # hold nothing that was given out


def raising(error: BaseException) -> Iterator[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    futures = [future]
    del error, future  # or exception, traceback and this frame would be a cycle
    yield futures.pop().result()


def results_of(stream: ResultIterator[Any], deadline: float | None) -> Iterator[Any]:
    """What a stream gives, until the deadline; its end, however it comes, stops the stream."""
    try:
        while True:
            yield following(stream, deadline)  # no name for it here: nothing that was given out is held
    except NoMore:
        pass
    finally:
        stop_stream(stream)


class NoMore(Exception):  # a signal, as StopIteration is, which a generator may not let through
    """A stream has ended."""


def following(stream: ResultIterator[Any], deadline: float | None) -> Any:
    try:
        return stream.next(None if deadline is None else max(0.0, deadline - monotonic()))
    except StopIteration:
        raise NoMore from None
    except Exception as error:  # noqa: BLE001
        raise translated(error)  # noqa: B904  its cause is set


def __getattr__(name: str) -> Any:
    return getattr(standard, name)
