"""The pool: one for processes, threads, both, sub-interpreters, and the caller itself."""

from __future__ import annotations

import atexit
import concurrent.futures
import itertools
import os
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar, Unpack, cast, overload

from fullcourt._core.options import OptionFields, Options, merge, parse_bytes
from fullcourt._engines.broadcast import Broadcast
from fullcourt._engines.build import build_driver
from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import MAP, STARMAP, Failure, MapJob, StreamJob
from fullcourt._engines.methods import START_METHODS
from fullcourt._engines.streams import Feeder, ResultIterator
from fullcourt._engines.supervisor import Limits
from fullcourt._groups import TaskGroup
from fullcourt._os.cpus import usable_cores
from fullcourt._os.locks import make_lock
from fullcourt._pipelines import Pipeline, PipelineIterator, Stage, StageStatistics
from fullcourt._transport.mainspace import is_being_run
from fullcourt.errors import NotSupported, PicklingError, PoolClosed, TaskCancelled

if TYPE_CHECKING:
    from fullcourt._advise.explain import Explanation
    from fullcourt._aio import AsyncResultIterator
    from fullcourt._gil.pool_view import PoolObservation

__all__ = [
    "Broadcast",
    "Failure",
    "Future",
    "Pipeline",
    "PipelineIterator",
    "Pool",
    "PoolStatistics",
    "ResultIterator",
    "Stage",
    "StageStatistics",
    "TaskGroup",
    "WorkerStatistics",
    "map",
]

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
T = TypeVar("T")
P = ParamSpec("P")
AnyStage = Stage[A, R] | Callable[[A], R]
OnError = Literal["raise", "return"]
OutputMode = Literal["forward", "tag", "inherit"]

pool_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What one worker did so far.

    Attributes:
        pid: its process; the caller's own for threads and the inline pool. None while it starts.
        name: the pool's name and the worker's number.
        n_done: tasks that gave a result there.
        busy_s: seconds its slots spent in tasks, added up.
        waiting_s: seconds for which work for it was under way (in its link or being pickled) but did not run.
        idle_s: seconds for which its slots had nothing to do.
        bytes_in: bytes sent to it, beside large buffers that went as descriptors.
        bytes_out: bytes received from it, likewise.
    """

    pid: int | None
    name: str
    n_done: int
    busy_s: float
    waiting_s: float
    idle_s: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool did so far: a snapshot that does not change any more.

    Attributes:
        n_done: tasks that gave a result.
        n_failed: tasks that raised, died or could not travel.
        n_in_flight: tasks that were submitted (or read from an `imap`'s input) and have not ended.
        n_retried: attempts that failed and were followed by another.
        n_abandoned: tasks whose time was over, but which could not be stopped: the future ended, the task ran on.
        workers: the workers that serve now.
        in_tasks_s: seconds spent in the user's functions, over all workers that ever were.
        pickling_s: seconds spent pickling and unpickling in this process.
        waiting_for_input_s: seconds for which a worker was free and no work was there, over the workers that serve.
    """

    n_done: int
    n_failed: int
    n_in_flight: int
    n_retried: int
    n_abandoned: int
    workers: tuple[WorkerStatistics, ...]
    in_tasks_s: float
    pickling_s: float
    waiting_for_input_s: float


class Pool(concurrent.futures.Executor):
    """Workers that run functions: processes, threads, both, sub-interpreters, or the caller.

    Args:
        processes: worker processes. None: as many as there are usable cores (affinity and the container's quota
            respected), or none where `threads` or `interpreters` is given. 0: no process; without `threads`, tasks run
            in the caller, at once, for debugging.
        initializer: called once in each worker before its first task. If it raises, the pool fails with that error.
        initargs: its arguments.
        max_tasks_per_child: after so many tasks a worker process is replaced. None: never.
        threads: slots of each worker; with no `processes`, threads of this process.
        interpreters: sub-interpreters of this process (Python 3.14 and later).
        start_method: ``"fork"``, ``"forkserver"`` or ``"spawn"``; None: the running Python's default, but with
            ``mode="auto"`` ``"forkserver"`` rather than ``"fork"``.
            Inside of a task of a worker with several slots, or of a pool of threads, ``"fork"`` means
            ``"forkserver"``: other tasks run there.
        preload: names of modules that are imported before workers are started from the template.
        output: what becomes of what tasks in processes and interpreters print, log and warn of. ``"forward"``: it goes
            to this process's current `sys.stdout` and `sys.stderr`, log handlers and warning filters, before the
            task's result is seen. ``"tag"``: likewise, with the worker's name before each printed line.
            ``"inherit"``: it stays in the worker, whose streams and handlers are as the start method gives them.
        name: for thread names, logs and statistics.
        max_memory_per_child: a worker process that has more than so many bytes resident (a number, or as in
            ``"500M"``) is replaced when its tasks have ended. None: never.
        max_age_per_child: likewise, after so many seconds.
        mode: ``"auto"``: it is found for each function which of all these suits it, and with how many workers, by
            running the first items in threads while they are measured; see :meth:`explain`. None: as told.
        memory_limit: bytes that all workers together may have resident. Near it no further task starts; above it, the
            task that started last is stopped and runs again later; one that takes too much alone fails with
            `TaskMemoryExceeded`. Memory is looked at every 20 ms while tasks run.

    It is a `concurrent.futures.Executor`, and taken wherever one is; its `map` is that of `multiprocessing.Pool`.

    All methods may be called from any thread. A forked child cannot use its parent's pool. A worker's death costs the
    tasks that it had started (`WorkerDied`), and nothing else.
    A task may use its own pool, and wait for it: its slot is lent meanwhile. It is given the pool as an argument, in a
    closure, or as a global of ``__main__``.

    Raises:
        ValueError, TypeError: an argument is out of its range; nothing was started.
        NotSupported: this Python or system lacks what was asked for.

    Example:
        >>> from fullcourt import Pool
        >>> with Pool(2) as pool:
        ...     pool.map(abs, [-1, 2, -3])
        [1, 2, 3]
    """

    mode: str | None = None  # of one that was made in a worker, too
    _engine_options: Mapping[str, Any] = {}  # what the faces of the standard library ask of the engine beside

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks_per_child: int | None = None,
        *,
        threads: int | None = None,
        interpreters: int | None = None,
        start_method: str | None = None,
        preload: Sequence[str] = (),
        output: OutputMode = "forward",
        name: str | None = None,
        max_memory_per_child: int | str | None = None,
        max_age_per_child: float | None = None,
        memory_limit: int | str | None = None,
        mode: Literal["auto"] | None = None,
    ) -> None:
        if is_being_run():
            raise RuntimeError(
                "a worker runs the program's file for its definitions, and must not make a pool meanwhile: make it "
                'under `if __name__ == "__main__":`'
            )
        check_mode(mode, processes, threads, interpreters, max_tasks_per_child)
        at_least("processes", processes, 0)
        at_least("threads", threads, 1)
        at_least("interpreters", interpreters, 1)
        at_least("max_tasks_per_child", max_tasks_per_child, 1)
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be callable, not {initializer!r}")
        if interpreters is not None and (processes or threads is not None):
            raise ValueError("interpreters= goes without processes= and threads=: they are three kinds of workers")
        if start_method is not None and start_method not in START_METHODS:
            raise ValueError(
                f"start_method={start_method!r} is unknown: it is one of {', '.join(START_METHODS)}, or None"
            )
        if isinstance(preload, str) or not hasattr(preload, "__iter__"):
            raise TypeError(f"preload takes a sequence of module names, not {preload!r}")
        preload = tuple(preload)
        if not all(isinstance(cast("object", module), str) for module in preload):
            raise TypeError(f"preload takes the names of modules, not {preload!r}")
        if output not in ("forward", "tag", "inherit"):
            raise ValueError(f'output must be "forward", "tag" or "inherit", not {output!r}')
        if not isinstance(cast("object", name), (str, type(None))):
            raise TypeError(f"name must be a string, not {name!r}")
        if processes is None and mode is None:
            processes = 0 if threads is not None or interpreters is not None else usable_cores().count
        if max_tasks_per_child is not None and not processes:
            raise ValueError("max_tasks_per_child needs worker processes: threads and interpreters are not replaced")
        limits = check_limits(memory_limit, max_memory_per_child, max_age_per_child, processes or 0)
        if start_method is not None and not processes and mode is None:
            raise ValueError("start_method is for worker processes; this pool has none")
        if isinstance(initargs, (str, bytes)) or not hasattr(initargs, "__iter__"):
            raise TypeError(f"initargs must be a tuple of the initializer's arguments, not {initargs!r}")
        self.name = name or f"pool-{next(pool_numbers)}"
        self.processes = processes
        self.threads = threads
        self.interpreters = interpreters
        self.mode = mode
        self._opened_at = monotonic()
        self._key = os.urandom(8).hex()
        setup: dict[str, Any] = {
            "name": self.name,
            "interpreters": interpreters,
            "start_method": start_method,
            "initializer": initializer,
            "initargs": tuple(initargs),
            "max_tasks": max_tasks_per_child,
            "preload": preload,
            "output": output,
            "limits": limits,
            "key": self._key,
            "adopt": partial(call_if_alive, weakref.WeakMethod(self._enter_worker)),
            **self._engine_options,
        }
        if processes is None:
            from fullcourt._advise.hub import Hub

            self._driver = cast("Driver", Hub(self.name, setup))
        else:
            self._driver = build_driver(processes=processes, threads=threads, **setup)
        self._options: Options | None = None
        pools[self._key] = self
        self._finalizer = weakref.finalize(self, self._driver.abandon)  # also if nobody gets the pool: an interrupt
        self._finalizer.atexit = False
        self._driver.open()
        end_at_exit = EndAtExit(self._driver, self._finalizer)
        atexit.register(end_at_exit)

    # -- in its own tasks ------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        known = {name: vars(self).get(name) for name in ("_key", "name", *KINDS)}
        return find_pool, (type(self), known, self._options)

    def _enter_worker(self) -> None:
        """This process was forked off the pool's and is one of its workers: what we do goes through the pool now."""
        vars(self).pop("_driver", None)

    if not TYPE_CHECKING:  # type checkers take it to mean that a pool has whatever attribute

        def __getattr__(self, name: str) -> Any:
            """In a worker, the driver is made when it is first used."""
            if name != "_driver" or "_key" not in vars(self):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            from fullcourt._engines.inside import driver_inside

            self._driver = driver_inside(self._key, self.name)
            return self._driver

    # -- options ---------------------------------------------------------------------------------------------------

    def options(self, **options: Unpack[OptionFields]) -> Self:
        """A view of this pool whose calls and maps have these options; the `map` family takes them as keywords, too.

        Args:
            timeout: seconds that one attempt of a task may run, or a multiple of the running median of the durations of
                its function or map, as ``"3x"`` (which takes effect when three have ended). Then the task is stopped
                and fails with :class:`TaskTimeout`. Waiting for a free worker does not count.
            retries: how many times a task that failed is tried again.
            backoff: seconds before the first retry; twice as many before each further one (at most 60), less up to half
                of it by chance.
            retry_on: the exception class, or several, after which a task is tried again; the default is `Exception`,
                which includes `WorkerDied`, `TaskTimeout` and `TaskMemoryExceeded`. Cancelled tasks are not.
            max_memory: bytes (a number, or as in ``"500M"``) that the task's worker and what it started may have
                resident; a task that takes more is stopped and fails with :class:`TaskMemoryExceeded`. Worker processes
                only; looked at every 20 ms.
            priority: tasks of a higher priority (an integer, 0 by default) start first; what a worker already holds is
                not overtaken.
            grace: seconds (1 by default) between the steps by which a task is stopped: an exception raised in it, at
                which it may still give a result; SIGTERM to its worker; SIGKILL to its worker and all that this
                started. With 0, the last step comes at once.

        A worker with several slots is not killed for one of them: if the soft step does not end the task, it is
        abandoned, its worker is replaced, and is killed when its other tasks have ended. Threads and sub-interpreters
        cannot be killed: there the future ends when the time is over, and the task runs on beside
        (`PoolStatistics.n_abandoned`), in threads with an exception raised in it when it next runs Python code.

        Raises:
            TypeError, ValueError: an option is unknown or out of its range.
            NotSupported: these workers cannot do that.
        """
        return self._view(self._merged(options))

    def _view(self, options: Options | None) -> Self:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view.__dict__["_viewed"] = self  # the pool lives as long as its views
        view._options = options
        return view

    def _merged(self, fields: OptionFields) -> Options | None:
        if not fields:
            return self._options
        options = merge(self._options, fields)
        if options is not None and options.is_watched and not self.processes and self.mode is None:
            if self._driver.engine.runs_inline:
                raise NotSupported(
                    "timeout= and max_memory= need workers: with processes=0 tasks run in the caller, who cannot stop "
                    "itself. Use processes= or, for timeouts, threads=."
                )
            if options.max_memory is not None:
                raise NotSupported(
                    "max_memory= needs worker processes: threads and interpreters share this process's memory"
                )
        return options

    def task_group(self, deadline: float | None = None) -> TaskGroup:
        """Tasks that live and end together; a context manager, see :class:`TaskGroup`.

        Args:
            deadline: seconds from entering it; then what has not ended is cancelled.
        """
        return TaskGroup(self.submit, deadline)

    # -- single calls ----------------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have ``fn(*args, **kwargs)`` run in a worker; returns its future at once.

        Raises:
            PoolClosed: the pool takes no more work.
        """
        must_be_callable(fn)
        future: Future[R] = Future(self._driver)
        self._driver.submit(fn, args, kwargs, future, options=self._options)
        return future

    def apply(self, func: Callable[..., R], args: Iterable[Any] = (), kwds: Mapping[str, Any] | None = None) -> R:
        """Call ``func(*args, **kwds)`` in a worker, wait, and return its result or raise its exception."""
        must_be_callable(func)
        return self._driver.call(func, tuple(args), dict(kwds) if kwds else {}, self._options)

    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[R], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> Future[R]:
        """As :meth:`submit`.

        The callback gets the result, or the error_callback the exception, before anyone who waits.
        """
        must_be_callable(func)
        future: Future[R] = Future(self._driver)
        if callback is not None or error_callback is not None:
            self._add_callbacks(future, callback, error_callback)
        self._driver.submit(func, tuple(args), dict(kwds) if kwds else {}, future, options=self._options)
        return future

    def _add_callbacks(
        self,
        future: Future[Any],
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[Any], object] | None,
    ) -> None:
        for name, function in (("callback", callback), ("error_callback", error_callback)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be callable, not {function!r}")
        future._on_end = (callback, error_callback)
        self._driver.hurry()

    # -- maps ------------------------------------------------------------------------------------------------------

    def map(  # type: ignore[override]  # of one iterable, and a list: as `multiprocessing.Pool`
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        progress: bool = False,
        on_error: OnError = "raise",
        **options: Unpack[OptionFields],
    ) -> list[R]:
        """Call the function with each item; returns the results in the items' order.

        Args:
            func: called with one item at a time.
            iterable: read to its end before the first task starts; see :meth:`imap` for what does not fit in memory.
            chunksize: items that travel together; None: found from the time that tasks take. To worker processes they
                go in one pickle: an object that several of them hold arrives as one, so a task that changes its
                argument in place should change a copy, or 1 be given here.
            progress: show a bar on stderr.
            on_error: ``"raise"``: the first failure stops the map and is raised. ``"return"``: a :class:`Failure`
                stands in the place of each item that failed.
            options: as of :meth:`options`, for this map.
        """
        return cast("list[R]", self._map(MAP, func, iterable, chunksize, progress, on_error, options))

    def starmap(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        *,
        progress: bool = False,
        on_error: OnError = "raise",
        **options: Unpack[OptionFields],
    ) -> list[R]:
        """As :meth:`map`, with each item's elements as the arguments."""
        return cast("list[R]", self._map(STARMAP, func, iterable, chunksize, progress, on_error, options))

    def _map(
        self,
        kind: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        progress: bool,
        on_error: str,
        options: OptionFields,
    ) -> Any:
        future: Future[Any] = Future(self._driver)
        close_bar = nothing
        try:
            close_bar = self._start_map(
                future, kind, func, iterable, chunksize, None, None, on_error, options, progress=progress, waits=True
            )
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: what has not started shall not
            raise
        finally:
            close_bar()

    def map_async(
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: OnError = "raise",
        **options: Unpack[OptionFields],
    ) -> Future[list[R]]:
        """As :meth:`map`, but returns the future of the list at once."""
        future: Future[list[R]] = Future(self._driver)
        self._start_map(future, MAP, func, iterable, chunksize, callback, error_callback, on_error, options)
        return future

    def starmap_async(
        self,
        func: Callable[..., R],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[list[R]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        *,
        on_error: OnError = "raise",
        **options: Unpack[OptionFields],
    ) -> Future[list[R]]:
        """As :meth:`starmap`, but returns the future of the list at once."""
        future: Future[list[R]] = Future(self._driver)
        self._start_map(future, STARMAP, func, iterable, chunksize, callback, error_callback, on_error, options)
        return future

    def _start_map(
        self,
        future: Future[Any],
        kind: int,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[Any], object] | None,
        error_callback: Callable[[Any], object] | None,
        on_error: str,
        options: OptionFields,
        progress: bool = False,
        waits: bool = False,
    ) -> Callable[[], None]:
        """Returns what closes the progress bar."""
        check_map_arguments(func, chunksize, on_error)
        merged = self._merged(options)
        driver = self._driver
        driver._check_open()
        items = iterable if isinstance(iterable, (list, tuple, range)) else items_of(iterable)
        if callback is not None or error_callback is not None:
            self._add_callbacks(future, callback, error_callback)
        report, close_bar = progress_of(func, len(items)) if progress else (None, nothing)
        try:
            function = driver.functions.get(func) if driver.functions is not None else None
        except PicklingError as error:
            driver.end_at_once(future, None, error)
            return close_bar
        if not items:
            future._settle([], None)
            return close_bar
        job = MapJob(
            kind, func, function, items, chunksize, driver.new_id, future, on_error == "return", report, merged
        )
        job.alone = driver.cannot_part(merged)
        driver.start_job(job)
        if not waits:
            driver.will_wait_elsewhere()
        return close_bar

    def imap(
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        buffersize: int | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
        **options: Unpack[OptionFields],
    ) -> ResultIterator[R]:
        """As :meth:`map`, lazily: an iterator of the results in the items' order.

        The input is read as results are taken: never more than `buffersize` items are between the two (None: a few
        chunks for each slot), so an endless generator runs in constant memory. It is read in a thread of its own,
        unless it is a list, tuple, range or the like.
        """
        return self._imap(func, iterable, chunksize, buffersize, progress, on_error, options, ordered=True)

    def imap_unordered(
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        *,
        buffersize: int | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
        **options: Unpack[OptionFields],
    ) -> ResultIterator[R]:
        """As :meth:`imap`, with the results in whatever order they come."""
        return self._imap(func, iterable, chunksize, buffersize, progress, on_error, options, ordered=False)

    def _imap(
        self,
        func: Callable[[Any], R],
        iterable: Iterable[Any],
        chunksize: int | None,
        buffersize: int | None,
        progress: bool,
        on_error: str,
        options: OptionFields,
        *,
        ordered: bool,
    ) -> ResultIterator[R]:
        if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__getitem__"):
            raise TypeError(f"imap needs an iterable, not {iterable!r}")
        job, close_bar = self._start_stream(func, iterable, chunksize, buffersize, progress, on_error, options, ordered)
        driver = self._driver
        known = isinstance(iterable, (list, tuple, range, str, bytes, dict, set, frozenset))
        job.finite = known
        feeder = Feeder(driver, job, iterable, own_thread=not known and not driver.engine.runs_inline)
        driver.will_wait_elsewhere()
        return ResultIterator(driver, job, feeder.refill, close_bar)

    def _start_stream(
        self,
        func: Callable[..., Any],
        iterable: object,
        chunksize: int | None,
        buffersize: int | None,
        progress: bool,
        on_error: str,
        options: OptionFields,
        ordered: bool,
    ) -> tuple[StreamJob, Callable[[], None]]:
        check_map_arguments(func, chunksize, on_error)
        at_least("buffersize", buffersize, 1)
        merged = self._merged(options)
        driver = self._driver
        driver._check_open()
        total = len(iterable) if isinstance(iterable, Sized) else None
        report, close_bar = progress_of(func, total) if progress else (None, nothing)
        function = driver.functions.get(func) if driver.functions is not None else None
        n_slots = driver.scheduler.n_workers * driver.scheduler.n_slots
        job = StreamJob(
            MAP,
            func,
            function,
            chunksize,
            driver.new_id,
            ordered,
            on_error == "return",
            report,
            n_slots,
            buffersize,
            merged,
        )
        job.alone = driver.cannot_part(merged)
        if driver.engine.runs_inline:
            job.buffersize = 1
        driver.start_job(job)
        if report is None:
            return job, nothing

        def close_with_all() -> None:  # the last result may be taken before it is reported, by another thread
            report(job.n_done, job.n_failed)
            close_bar()

        return job, close_with_all

    def aimap(
        self,
        func: Callable[[Any], R],
        items: Iterable[Any] | AsyncIterable[Any],
        chunksize: int | None = None,
        *,
        ordered: bool = True,
        buffersize: int | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
        **options: Unpack[OptionFields],
    ) -> AsyncResultIterator[R]:
        """As :meth:`imap`, for ``async for``; with ``ordered=False``, as :meth:`imap_unordered`.

        The loop is never blocked: not by an input that blocks, which is read in a thread, nor by pickling. An
        asynchronous input is read in the loop, from now on, or from the first result asked for if none runs now; it is
        closed when the iteration ends, or is closed, cancelled or dropped.

        Example:
            >>> import asyncio, fullcourt
            >>> async def main():
            ...     async with fullcourt.Pool(threads=2) as pool:
            ...         return [square async for square in pool.aimap(lambda x: x * x, range(4))]
            >>> asyncio.run(main())
            [0, 1, 4, 9]
        """
        from fullcourt._aio import AsyncFeeder, AsyncResultIterator, in_loop

        plain = not isinstance(items, AsyncIterable)
        if plain and not hasattr(items, "__iter__") and not hasattr(items, "__getitem__"):
            raise TypeError(f"aimap needs an iterable or an asynchronous one, not {items!r}")
        job, close_bar = self._start_stream(func, items, chunksize, buffersize, progress, on_error, options, ordered)
        driver = self._driver
        if isinstance(items, AsyncIterable):
            source = AsyncFeeder(driver, job, items)
            if in_loop():
                source.start()
            return AsyncResultIterator(driver, job, source.refill, source, close_bar)
        job.finite = isinstance(items, (list, tuple, range, str, bytes, dict, set, frozenset))
        feeder = Feeder(driver, job, items, own_thread=not driver.engine.runs_inline)
        return AsyncResultIterator(driver, job, feeder.refill, None, close_bar)

    # -- values for all workers ------------------------------------------------------------------------------------

    def broadcast(self, obj: T) -> Broadcast[T]:
        """Send an object to every worker once, also to those that replace others; returns a handle for tasks.

        Tasks get the handle as an argument, or capture it, and find the object in its ``value``: for lookup tables,
        models, whatever many tasks read. Each worker process has a copy; large buffers in it (NumPy, Arrow) are one
        memory for all until a worker writes to them.

        Raises:
            PicklingError: it cannot be sent.
            PoolClosed: the pool takes no more work.

        Example:
            >>> from fullcourt import Pool
            >>> with Pool(2) as pool:
            ...     prices = pool.broadcast({"ball": 30, "net": 12})
            ...     pool.map(lambda name: prices.value[name], ["net", "ball"])
            [12, 30]
        """
        return self._driver.broadcast(obj)

    # -- pipelines -------------------------------------------------------------------------------------------------

    @overload
    def pipeline(self, stage: AnyStage[A, R], /) -> Pipeline[A, R]: ...
    @overload
    def pipeline(self, stage1: AnyStage[A, B], stage2: AnyStage[B, R], /) -> Pipeline[A, R]: ...
    @overload
    def pipeline(self, stage1: AnyStage[A, B], stage2: AnyStage[B, C], stage3: AnyStage[C, R], /) -> Pipeline[A, R]: ...
    @overload
    def pipeline(self, stage1: AnyStage[A, Any], /, *stages: AnyStage[Any, Any]) -> Pipeline[A, Any]: ...
    def pipeline(self, *stages: AnyStage[Any, Any]) -> Pipeline[Any, Any]:
        """Functions in a row, each with its own kind of workers; items flow from one to the next.

        Args:
            stages: functions of one item, which run on this pool, or a :class:`Stage` each, which says how it runs:
                ``Stage(download, threads=16), Stage(parse, processes=4, retries=3), Stage(write, threads=2)``.

        Returns:
            A :class:`Pipeline`, with ``imap``, ``imap_unordered`` and ``map``. Reading, computing and writing overlap;
            the number of items on their way is bounded.

        Example:
            >>> from fullcourt import Pool, Stage
            >>> with Pool(2) as pool:
            ...     pool.pipeline(Stage(str.strip, threads=2), int, abs).map([" -1", "2 "])
            [1, 2]
        """
        if not stages:
            raise TypeError("a pipeline needs at least one stage")
        full: list[Stage[Any, Any]] = [as_stage(stage) for stage in stages]
        name = " | ".join(stage.name for stage in full)
        return Pipeline(self, full, lambda total: progress_of(name, total))

    # -- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more work. The workers end when all that was submitted has ended. Does not wait; idempotent."""
        self._driver.close()

    def terminate(self) -> None:
        """Cancel what is open, and end the workers at once. Idempotent.

        Processes are killed, with what they started. Threads cannot be: they end after the task that each is in, and
        one that takes more than half a second to do so is not waited for.
        """
        self._driver.terminate()
        self._finalizer.detach()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As :meth:`close`, in the words of the standard library's executors.

        Args:
            wait: whether to :meth:`join`, too.
            cancel_futures: whether to cancel the calls that no worker has begun.

        Raises:
            NotSupported: `cancel_futures` of a pool that chooses its mode.
        """
        if cancel_futures and self.mode is not None:
            raise NotSupported('a pool with mode="auto" cannot cancel what waits: cancel the futures, or terminate()')
        if cancel_futures and isinstance(cast("object", self._driver), Driver):  # in its own tasks it is not
            self._driver.end_unstarted(TaskCancelled("cancelled by shutdown"))
        self.close()
        if wait:
            self.join()

    def join(self) -> None:
        """Wait until the workers have ended. Call :meth:`close` or :meth:`terminate` first.

        What is left of an ``imap``'s input is read to its end, as the standard library has it, so that its results can
        be taken afterwards: with an endless input, close its iterator first.

        Raises:
            ValueError: the pool is still open.
        """
        if self._driver.is_foreign():
            return
        if not self._driver.closed:
            raise ValueError("Pool is still running: call close() or terminate() before join()")
        self._driver.lift_windows(all_inputs=True)
        self._wait_for_end()

    def _wait_for_end(self) -> None:
        self._driver.ended.wait()
        self._driver.roles.join()
        self._driver.timekeeper.join()
        self._finalizer.detach()

    def __enter__(self) -> Self:
        self._check_begun()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Wait for what was submitted; if the body raised, cancel the rest and stop the workers.

        An ``imap`` whose iterator is still held, and whose input may be endless (it is no list, tuple, range or the
        like), ends with what was read of it; its iterator then raises :class:`PoolClosed`.
        """
        try:
            if kind is not None:
                self.terminate()
            else:
                self.close()
            if self._driver.is_foreign():
                return
            self._driver.lift_windows(all_inputs=False)
            self._wait_for_end()
        except BaseException:
            self.terminate()
            raise

    async def __aenter__(self) -> Self:
        """As ``with``. The workers start aside; what blocks is the constructor's fork, for some milliseconds."""
        self._check_begun()
        return self

    def _check_begun(self) -> None:
        """Raise what is wrong with it. If it is broken, end it first: its ``__exit__`` will not be called."""
        try:
            self._driver._check_open()
        except PoolClosed:  # what was submitted to it goes on
            raise
        except BaseException:
            self.terminate()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """As leaving ``with``, without blocking the loop. If this is cancelled meanwhile, what runs is stopped."""
        from fullcourt._aio import leave

        await leave(lambda: self.__exit__(kind, error, tb), self.terminate)

    # -- questions -------------------------------------------------------------------------------------------------

    @property
    def _max_workers(self) -> int:
        """How many tasks run at once: what dask, among others, asks an executor for."""
        return self._driver.scheduler.n_workers * self._driver.scheduler.n_slots

    def explain(self) -> Explanation:
        """Tell what a pool with ``mode="auto"`` chose, why, and what was measured there against what was predicted.

        ``print`` it. Of other pools it tells nothing: they were told their mode.

        Example:
            >>> with Pool(mode="auto") as pool:
            ...     _ = pool.map(len, ["one", "three"])
            ...     pool.explain().choices[-1].function
            'len'
        """
        from fullcourt._advise.explain import Explanation

        explain = getattr(self._driver, "explain", None)
        return explain() if explain is not None else Explanation(())

    def statistics(self) -> PoolStatistics:
        """A frozen snapshot of what the pool did so far. Waits until the workers that are being started have pids."""
        fields = self._driver.statistics()
        workers = tuple(WorkerStatistics(**worker) for worker in fields.pop("workers"))
        return PoolStatistics(workers=workers, **fields)

    def observe(self, *, rate: float = 250.0) -> PoolObservation:
        """Watch the pool at work: its processes and threads, the GILs, its tasks, its pickling; a context manager.

        As :func:`fullcourt.observe`; besides, its `why` says in one sentence what the pool loses most time with. A pool
        that is not observed pays nothing for it.

        Args:
            rate: looks a second, from 1 to 1000.

        Raises:
            NotSupported: in a task of the pool: it is observed from where it was made; and of a pool that chooses its
                mode: `fullcourt.observe` around it shows its threads and workers.
            ValueError: the rate is out of its range.

        Example:
            >>> import fullcourt
            >>> with fullcourt.Pool(threads=2) as pool, pool.observe() as observation:
            ...     results = pool.map(sum, [range(100_000)] * 20)
            >>> len(observation.why) > 0
            True
        """
        from fullcourt._gil.observing import check_rate
        from fullcourt._gil.pool_view import PoolObservation

        if not hasattr(self._driver, "scheduler"):
            raise NotSupported("a task cannot observe the pool that runs it: observe it from where it was made")
        if self.mode is not None:
            raise NotSupported(
                'a pool with mode="auto" cannot be observed as one pool: use fullcourt.observe() around it'
            )
        return PoolObservation(self._driver, rate_hz=check_rate(rate))

    def __repr__(self) -> str:
        parts = [f"{key}={value}" for key, value in vars(self).items() if key in KINDS and value is not None]
        state = "ended" if self._driver.ended.done() else "closed" if self._driver.closed else "open"
        return f"<Pool {self.name} {' '.join(parts)} {state}>"


KINDS = ("mode", "processes", "threads", "interpreters")

# Those made in this process: a pool that comes back from a worker is itself again.
pools: weakref.WeakValueDictionary[str, Pool] = weakref.WeakValueDictionary()


def find_pool(kind: type[Pool], known: dict[str, Any], options: Options | None) -> Pool:
    """What a pickled pool is read back as: itself in its own process, in a worker what leads to it."""
    pool = pools.get(known["_key"])
    if pool is None:
        pool = kind.__new__(kind)
        vars(pool).update(known, _options=None)
        pools[known["_key"]] = pool
    return pool if options is None else pool._view(options)


def call_if_alive(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    function = method()
    if function is not None:
        function()


class EndAtExit:
    """Ends a pool that is still open when the interpreter exits. Holds nothing alive."""

    def __init__(self, driver: Driver, finalizer: weakref.finalize[..., Any]) -> None:
        self._driver = weakref.ref(driver)
        self._finalizer = finalizer  # it holds the driver, and so what has broken that, with its traceback and the pool
        driver.ended.call_back(self._ended, hurries=False)  # nobody is to lead for it

    def _ended(self, _: object) -> None:
        atexit.unregister(self)
        self._finalizer.detach()

    def __call__(self) -> None:
        driver = self._driver()
        if driver is not None and not driver.is_foreign():
            driver.terminate()
            driver.ended.wait(5.0 if driver.engine.needs_driving else 0)
            driver.let_go()


def map(  # noqa: A001  the module's own map, as `fullcourt.map`
    fn: Callable[[Any], R],
    items: Iterable[Any],
    *,
    processes: int | None = None,
    threads: int | None = None,
    interpreters: int | None = None,
    start_method: str | None = None,
    chunksize: int | None = None,
    progress: bool = False,
    on_error: OnError = "raise",
    mode: Literal["auto"] | None = "auto",
) -> list[R]:
    """Call ``fn`` with each item, in parallel; returns the results in the items' order. A pool in one line.

    Where no number of workers is given, it is measured which of processes and threads suit the function, and how many,
    while its first items run, in threads of this process; see :class:`Pool`. With ``mode=None`` the workers are
    processes, one for each usable core, as in a pool; then the program survives whatever a task does.

    Example:
        >>> import fullcourt
        >>> fullcourt.map(str.upper, ["a", "b"])
        ['A', 'B']
        >>> fullcourt.map(str.upper, ["a", "b"], threads=2)
        ['A', 'B']
    """
    if processes is not None or threads is not None or interpreters is not None:
        mode = None
    with Pool(processes, threads=threads, interpreters=interpreters, start_method=start_method, mode=mode) as pool:
        return pool.map(fn, items, chunksize, progress=progress, on_error=on_error)


# -- checks at the edge -----------------------------------------------------------------------------------------------


def as_stage(stage: Any) -> Any:
    made: Any = stage
    if not isinstance(stage, Stage):
        made = Stage(stage)
    return made


def at_least(name: str, value: int | None, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def check_mode(
    mode: object, processes: object, threads: object, interpreters: object, max_tasks_per_child: object
) -> None:
    if mode is None:
        return
    if mode != "auto":
        raise ValueError(f'mode must be "auto" or None, not {mode!r}')
    if processes is not None or threads is not None or interpreters is not None:
        raise ValueError(
            'mode="auto" finds the number of workers itself: leave out processes=, threads=, interpreters='
        )
    if max_tasks_per_child is not None:
        raise ValueError('max_tasks_per_child needs worker processes, and mode="auto" may take threads: use processes=')


def check_limits(
    memory_limit: int | str | None, memory_per_child: int | str | None, age_per_child: float | None, processes: int
) -> Limits | None:
    if memory_limit is None and memory_per_child is None and age_per_child is None:
        return None
    if not processes:
        raise ValueError("memory_limit, max_memory_per_child and max_age_per_child need worker processes")
    if age_per_child is not None:
        if isinstance(age_per_child, bool) or not isinstance(cast("object", age_per_child), (int, float)):
            raise TypeError(f"max_age_per_child must be a number of seconds, not {age_per_child!r}")
        if not age_per_child > 0:
            raise ValueError(f"max_age_per_child must be more than 0 seconds, not {age_per_child}")
    return Limits(
        memory=parse_bytes("memory_limit", memory_limit),
        memory_per_child=parse_bytes("max_memory_per_child", memory_per_child),
        age_per_child=age_per_child,
    )


def must_be_callable(fn: object) -> None:
    if not callable(fn):
        raise TypeError(f"the function to run must be callable, not {fn!r}")


def items_of(iterable: Iterable[Any]) -> list[Any]:
    if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__getitem__"):
        raise TypeError(f"a map needs an iterable, not {iterable!r}")
    return list(iterable)


def check_map_arguments(func: object, chunksize: int | None, on_error: str) -> None:
    must_be_callable(func)
    at_least("chunksize", chunksize, 1)
    if on_error not in ("raise", "return"):
        raise ValueError(f'on_error must be "raise" or "return", not {on_error!r}')


def nothing() -> None:
    pass


def progress_of(
    func: Callable[..., Any] | str, total: int | None
) -> tuple[Callable[[int, int], None], Callable[[], None]]:
    """A progress bar's two functions: report counts, close."""
    from fullcourt._progress import ProgressBar
    from fullcourt._transport.functions import function_name

    bar = ProgressBar(total, description=func if isinstance(func, str) else function_name(func))
    lock = make_lock()  # results come from several threads, so a count may come after a later one
    most = 0

    def report(n_done: int, n_failed: int) -> None:
        nonlocal most
        with lock:
            if n_done >= most:
                most = n_done
                bar.update(n_done, n_failed)

    def close() -> None:
        with lock:
            bar.close()

    return report, close
