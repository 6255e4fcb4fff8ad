"""``multiprocessing.pool`` on fullcourt's workers."""

from __future__ import annotations

import itertools
import multiprocessing.context
import multiprocessing.pool as standard
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.pool import CLOSE, INIT, RUN, TERMINATE
from pickle import PicklingError
from types import FunctionType, GenericAlias, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fullcourt import errors
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import MAP, STARMAP, Failure, MapJob
from fullcourt._engines.methods import START_METHODS
from fullcourt._engines.streams import ResultIterator
from fullcourt._faces.children import ChildProcess
from fullcourt._faces.outcomes import as_standard, unwrapped
from fullcourt._faces.pools import AHEAD, Backlog, FacePool
from fullcourt._os.cpus import usable_cores

__all__ = ["Pool", "ThreadPool"]

R = TypeVar("R")
NOT_RUNNING = "Pool not running"
_private: Any = standard  # with what the type stubs leave out
MaybeEncodingError = _private.MaybeEncodingError


def translated(error: BaseException) -> BaseException:
    """An exception as the standard library's pool raises it."""
    if isinstance(error, errors.PicklingError):
        if type(error.__cause__) is errors.RemoteTraceback:  # a result
            shown: BaseException = MaybeEncodingError(error, "(the result stayed in the worker)")
            shown.__cause__ = error
            return shown
        return unwrapped(error)
    return as_standard(error, _private.RemoteTraceback)


class ApplyResult(Future[R], standard.ApplyResult):  # type: ignore[type-arg, misc]
    """The outcome of a call: ``get``, ``wait``, ``ready``, ``successful``; and a future, which can be awaited."""

    def get(self, timeout: float | None = None) -> R:
        """Wait and return the result, or raise the exception.

        Raises:
            multiprocessing.TimeoutError: it is not there within so many seconds; the task goes on.
        """
        if not self.wait(timeout):
            raise NotReady(f"no result within {timeout} s; the task goes on")
        return self.result()

    def _settle(self, result: Any, exception: BaseException | None) -> None:
        if exception is not None:
            exception = translated(exception)
        elif type(result) is FunctionType and self._is_remote and "<" in result.__qualname__:
            # It came by value; the standard library refuses it, for what it refers to would be another's.
            exception = MaybeEncodingError(PicklingError(f"{result.__qualname__} is local"), result)
            result = None
        super()._settle(result, exception)

    @property
    def _is_remote(self) -> bool:
        settler: Any = self._settler
        return settler.functions is not None

    def _settle_cancelled(self) -> bool:
        self._on_end = None  # the pool was terminated: callbacks are not for that
        return super()._settle_cancelled()


AsyncResult = ApplyResult


class NotReady(multiprocessing.context.TimeoutError, TimeoutError):
    """The time is over: ``multiprocessing.TimeoutError``, and the built-in one."""


class MapResult(ApplyResult[R]):
    """The outcome of a whole map. All items run, whatever some of them raise; then the first exception is raised."""

    def _settle(self, result: Any, exception: BaseException | None) -> None:
        if exception is None and isinstance(self.work, MapJob) and self.work.n_failed:
            exception = next(value.exception for value in result if type(value) is Failure)
            result = None
        super()._settle(result, exception)

    @property
    def _number_left(self) -> int:
        """How many items have not ended."""
        work = self.work
        return work._total - work.n_done if isinstance(work, MapJob) else 0

    _chunksize = 1


if TYPE_CHECKING:
    from multiprocessing.pool import IMapIterator as StandardIterator
    from multiprocessing.pool import IMapUnorderedIterator as StandardUnorderedIterator
else:  # generic only for the type checkers

    class StandardIterator(standard.IMapIterator):
        __class_getitem__ = classmethod(GenericAlias)

    class StandardUnorderedIterator(standard.IMapUnorderedIterator):
        __class_getitem__ = classmethod(GenericAlias)


class IMapIterator(StandardIterator[R]):
    """What ``imap`` returns. Several threads may read from one."""

    def __init__(self, stream: ResultIterator[R]) -> None:
        self._stream = stream

    def __iter__(self) -> Self:
        return self

    def next(self, timeout: float | None = None) -> R:
        """The next result; raises that item's exception, and can go on then.

        Raises:
            StopIteration: there is none any more.
            multiprocessing.TimeoutError: it has not come within so many seconds.
        """
        try:
            return self._stream.next(timeout)
        except Exception as error:  # noqa: BLE001
            raise translated(error)  # noqa: B904  its cause is set

    __next__ = next  # noqa: A003


class IMapUnorderedIterator(IMapIterator[R], StandardUnorderedIterator[R]):
    """What ``imap_unordered`` returns."""


class Pool(standard.Pool):
    """Worker processes that run functions, as the standard library's class of this name.

    Args:
        processes: how many; None: as many as this program may use cores.
        initializer: called once in each worker. If it raises, the pool fails with that error.
        initargs: its arguments; locks, queues and shared values may be among them.
        maxtasksperchild: after so many tasks a worker is replaced.
        context: of :func:`get_context`; its start method is used.

    All methods may be called from any thread. A worker that dies costs the tasks that it had started: they raise
    :class:`fullcourt.WorkerDied`; the pool goes on. `with` terminates the pool.
    """

    _state = INIT

    if not TYPE_CHECKING:

        def __new__(
            cls,
            processes: int | None = None,
            initializer: Callable[..., object] | None = None,
            initargs: Iterable[Any] = (),
            maxtasksperchild: int | None = None,
            context: Any = None,
        ) -> Any:
            """A context with a start method of its own (of another library) gets the standard library's pool."""
            if context is not None and context.get_start_method(allow_none=False) not in START_METHODS:
                return standard.Pool(processes, initializer, initargs, maxtasksperchild, context)
            return super().__new__(cls)

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        self._ctx = context or multiprocessing.context._default_context.get_context()
        if processes is None:
            processes = usable_cores().count
        check_arguments(processes, initializer, maxtasksperchild)
        self._method: str = self._ctx.get_start_method(allow_none=False)
        self._processes = processes
        self._initializer = initializer
        self._initargs = initargs
        self._maxtasksperchild = maxtasksperchild
        self._inner = self._open()
        self._state = RUN

    def _open(self) -> FacePool:
        return FacePool(
            processes=self._processes,
            start_method=self._method,
            name=f"{self._method.capitalize().replace('server', 'Server')}PoolWorker",
            initializer=self._initializer,
            initargs=self._initargs,
            max_tasks_per_child=self._maxtasksperchild,
        )

    # -- calls -----------------------------------------------------------------------------------------------------

    def apply(self, func: Callable[..., R], args: Iterable[Any] = (), kwds: Mapping[str, Any] = {}) -> R:
        """Call ``func(*args, **kwds)`` in a worker; wait, and return its result or raise its exception."""
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] = {},
        callback: Callable[[R], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> ApplyResult[R]:
        """As :meth:`apply`, but returns the result's :class:`AsyncResult` at once.

        The callback gets the result, or the error_callback the exception, before anyone who waits.
        """
        self._check_running()
        driver = self._inner.driver
        result: ApplyResult[R] = ApplyResult(driver)
        self._inner._add_callbacks(result, callback, error_callback)
        driver.submit(func, tuple(args), dict(kwds), result)
        return result

    # -- maps ------------------------------------------------------------------------------------------------------

    def map(self, func: Callable[[Any], R], iterable: Iterable[Any], chunksize: int | None = None) -> list[R]:
        """Call the function with each item; the list of results. All run; then the first exception is raised."""
        return self._waited(self._start_map(MAP, func, iterable, chunksize, None, None))

    def starmap(
        self, func: Callable[..., R], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[R]:
        """As :meth:`map`, with each item's elements as the arguments."""
        return self._waited(self._start_map(STARMAP, func, iterable, chunksize, None, None))

    def _waited(self, result: MapResult[list[R]]) -> list[R]:
        try:
            return result.get()
        except BaseException:
            result.cancel()  # Ctrl-C: what has not started shall not
            raise

    def map_async(  # type: ignore[override]  # of the list, not of its items
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[list[R]]:
        """As :meth:`map`, but returns the list's :class:`AsyncResult` at once."""
        return self._start_map(MAP, func, iterable, chunksize, callback, error_callback)

    def starmap_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> MapResult[list[R]]:
        """As :meth:`starmap`, but returns the list's :class:`AsyncResult` at once."""
        return self._start_map(STARMAP, func, iterable, chunksize, callback, error_callback)

    def _start_map(
        self,
        kind: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[Any], object] | None,
    ) -> MapResult[Any]:
        self._check_running()
        check_chunksize(chunksize)
        result: MapResult[Any] = MapResult(self._inner.driver)
        self._inner._add_callbacks(result, callback, error_callback)
        self._inner.start_map(kind, func, list(iterable), chunksize, result)
        return result

    def imap(self, func: Callable[[Any], R], iterable: Iterable[Any], chunksize: int | None = 1) -> IMapIterator[R]:
        """As :meth:`map`, with an iterator of the results in the items' order, each as soon as it is there."""
        return IMapIterator(self._start_stream(func, iterable, chunksize, ordered=True))

    def imap_unordered(
        self, func: Callable[[Any], R], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapUnorderedIterator[R]:
        """As :meth:`imap`, with the results in whatever order they come."""
        return IMapUnorderedIterator(self._start_stream(func, iterable, chunksize, ordered=False))

    def _start_stream(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None, *, ordered: bool
    ) -> ResultIterator[Any]:
        self._check_running()
        check_chunksize(chunksize)
        size = self._single if chunksize == 1 else chunksize
        if chunksize is not None and chunksize > 1 and not isinstance(iterable, (list, tuple, range)):
            iterable = whole_chunks(iterable, chunksize)
        try:
            return self._inner.start_stream(MAP, func, iterable, size, ordered=ordered, buffersize=AHEAD)
        except errors.PicklingError as error:
            raise translated(error)  # noqa: B904  its cause is set

    _single: int | None = None  # what a chunksize of 1, the default, means: found from the time that tasks take

    # -- the end ---------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._state != RUN:
            raise ValueError(NOT_RUNNING)

    def close(self) -> None:
        """Take no more work; the workers end when all that was submitted has ended."""
        if self._state == RUN:
            self._state = CLOSE
            self._inner.close()

    def terminate(self) -> None:
        """End the workers at once, whatever they do. Results that are not there yet are cancelled."""
        self._state = TERMINATE
        self._inner.terminate()
        driver = self._inner.driver
        if driver.engine.needs_driving and not driver.is_foreign():
            driver.ended.wait(10.0)

    def join(self) -> None:
        """Wait until the workers have ended.

        Raises:
            ValueError: neither :meth:`close` nor :meth:`terminate` was called before.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        self._inner.join()

    def __enter__(self) -> Self:
        self._check_running()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.terminate()

    def __del__(self, _warn: Any = warnings.warn, _running: str = RUN) -> None:
        if self._state == _running:
            _warn(f"unclosed running multiprocessing pool {self!r}", ResourceWarning, source=self)

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def __repr__(self) -> str:
        kind = type(self)
        return f"<{kind.__module__}.{kind.__qualname__} state={self._state} pool_size={self._processes}>"

    # -- what programs look at, beside the documentation ------------------------------------------------------------

    @property
    def _pool(self) -> list[Any]:
        """The workers."""
        workers: list[ChildProcess] = self._inner.children()
        return list(workers)

    def _repopulate_pool(self) -> None:
        """Workers that ended were replaced at once."""

    @property
    def _cache(self) -> dict[int, None]:
        """One entry for each call or map that has not ended: programs ask for its length."""
        self._inner.driver.fold_in()
        return dict.fromkeys(range(self._inner.driver._n_open))

    @property
    def _taskqueue(self) -> Backlog:
        """How much work waits: programs ask for its ``qsize()``."""
        return Backlog(self._n_waiting)

    def _n_waiting(self) -> int:
        driver = self._inner.driver
        driver.fold_in()
        with driver._lock:
            return max(0, driver.n_unfinished() - driver.scheduler.n_sent_tasks)


class ThreadPool(Pool, standard.ThreadPool):  # pyright: ignore[reportIncompatibleMethodOverride]
    """Threads that run functions, as the standard library's class of this name."""

    _single = 1

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        Pool.__init__(self, processes, initializer, initargs)

    def _open(self) -> FacePool:
        return FacePool(
            threads=self._processes, name="ThreadPool", initializer=self._initializer, initargs=self._initargs
        )

    @property
    def _pool(self) -> list[Any]:
        return list(self._inner.driver.engine.threads)


def check_arguments(processes: int, initializer: object, maxtasksperchild: object) -> None:
    if processes < 1:
        raise ValueError("Number of processes must be at least 1")
    if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
        raise ValueError("maxtasksperchild must be a positive int or None")
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")


def whole_chunks(iterable: Iterable[Any], size: int) -> Iterator[Any]:
    """The items; where the input raises, without those that were to travel with the missing one."""
    iterator = iter(iterable)
    while chunk := list(itertools.islice(iterator, size)):
        yield from chunk


def check_chunksize(chunksize: int | None) -> None:
    if chunksize is not None and operator.index(chunksize) < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")


def __getattr__(name: str) -> Any:
    return getattr(standard, name)
