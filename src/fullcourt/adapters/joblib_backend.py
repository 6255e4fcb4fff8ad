"""A backend for joblib: its batches run as single calls of a :class:`fullcourt.Pool`.

The pool belongs to the backend. Where that is the one of a ``parallel_config`` block, it is kept from one call of
``Parallel`` to the next, and ends with the block. Else it ends with its ``Parallel`` call, or its ``with`` block.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

import joblib.parallel
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    cpu_count,
    get_active_backend,
)

from fullcourt.adapters.arrays import SharedArrays
from fullcourt.errors import TaskCancelled
from fullcourt.pool import Future, Pool

__all__ = ["FullcourtBackend"]

# Arrays from this size on are shared by the tasks that take them, as joblib has it by default.
SHARED_BYTES = 1_000_000

# What is the pool's, and what joblib hands to every backend for others: this one shares arrays without files.
OPTIONS = frozenset(("initializer", "initargs", "max_tasks_per_child", "preload", "start_method"))
IGNORED = frozenset(
    ("max_nbytes", "temp_folder", "mmap_mode", "verbose", "context", "idle_worker_timeout", "prefer", "require")
)


class FullcourtBackend(AutoBatchingMixin, ParallelBackendBase):
    """What ``backend="fullcourt"`` makes. Made and called by joblib; see :func:`fullcourt.joblib.register`."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **options: Any
    ) -> None:
        check_options(options)
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._options = options
        self._pool: Pool | None = None  # while a call, or a block of calls, of Parallel is under way
        self._idle: Pool | None = None  # between them
        self._arrays = SharedArrays()
        self._made_for: object = None  # what the pool was made for; another need gets another one

    # -- joblib's questions ----------------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many workers there will be; as with joblib's own backends, also within other backends' workers."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs < 0:
            return max(cpu_count() + 1 + n_jobs, 1)
        return n_jobs

    # -- a call's life -----------------------------------------------------------------------------------------------

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        """Have a pool; returns the number of its workers."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        check_options(options)
        self.parallel = parallel
        self._arrays.least_bytes = options.get("max_nbytes", SHARED_BYTES)
        context = options.get("context")
        chosen = {name: value for name, value in (self._options | options).items() if name in OPTIONS}
        chosen["start_method"] = start_method_of(chosen.get("start_method"), context)
        environment = self._prepare_worker_env(n_jobs=n_jobs)
        need = (n_jobs, chosen, environment, self.inner_max_num_threads)
        pool, self._idle = self._idle, None
        if pool is not None and (need != self._made_for or not is_usable(pool)):
            pool.close()
            pool = None
        if pool is None:
            pool = self._make_pool(n_jobs, chosen, environment)
            self._made_for = need
        self._pool = pool
        return n_jobs

    def _make_pool(self, n_jobs: int, chosen: Mapping[str, Any], environment: dict[str, str]) -> Pool:
        n_threads = self.inner_max_num_threads
        initializer, initargs = chosen.get("initializer"), tuple(chosen.get("initargs", ()))
        return Pool(
            n_jobs,
            prepare_worker,
            (environment, n_threads or int(environment["OMP_NUM_THREADS"]), n_threads, initializer, initargs),
            chosen.get("max_tasks_per_child"),
            start_method=chosen["start_method"],
            preload=chosen.get("preload", ()),
            name="joblib",
        )

    def submit(self, func: Callable[[], Any], callback: Callable[[Future[Any]], object] | None = None) -> Future[Any]:
        """Have a batch run; the callback gets its future."""
        pool = self._pool
        assert pool is not None
        codec = pool._driver.engine.codec
        if codec.reducers is None:
            codec.reducers = self._arrays.reducers()
        batch = Batch(func)
        self._arrays.hold_for(batch.held)
        future: Future[Any] = pool.submit(run_batch, batch)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch, or what it raised. `out` has ended."""
        try:
            return out.result()
        except TaskCancelled:
            raise RuntimeError(
                "the workers of this Parallel call were stopped before this batch had run: the call was aborted, or "
                "the generator that it returned is gone"
            ) from None

    def stop_call(self) -> None:
        """A call of Parallel is over. What it shared may have changed by the next one."""
        self._arrays.clear()

    def terminate(self) -> None:
        """The call, or the block of calls, is over."""
        pool, self._pool = self._pool, None
        self.parallel = None  # whoever drops its Parallel shall drop the workers, too, without a garbage collection
        self.reset_batch_stats()
        self._arrays.clear()
        if pool is None:
            return
        if get_active_backend()[0] is self and is_usable(pool):
            self._idle = pool
        else:
            pool.close()
            pool.join()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Kill what runs, since one batch has failed, or nobody wants the results any more."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.terminate()
            pool.join()
        self._arrays.clear()
        if ensure_ready:
            parallel = self.parallel
            # joblib leaves batches there that were cut but not sent, and its next call would run them as its own.
            with contextlib.suppress(AttributeError, queue.Empty):
                while True:
                    parallel._ready_batches.get_nowait()
            name = "_backend_kwargs" if hasattr(parallel, "_backend_kwargs") else "_backend_args"  # before joblib 1.5
            options: dict[str, Any] = getattr(parallel, name)
            self.configure(n_jobs=parallel.n_jobs, parallel=parallel, **options)


def check_options(options: Iterable[str]) -> None:
    unknown = sorted(set(options) - OPTIONS - IGNORED)
    if unknown:
        raise TypeError(
            f"the fullcourt backend has no parameter {', '.join(unknown)}; it has {', '.join(sorted(OPTIONS))}"
        )


def is_usable(pool: Pool) -> bool:
    """Whether a pool that lay idle still takes work: it may have broken, or be another process's."""
    driver = pool._driver
    return not driver.closed and driver._broken is None and not driver.is_foreign()


def start_method_of(chosen: str | None, context: Any) -> str | None:
    """The start method: as asked for, here or by ``JOBLIB_START_METHOD``; else one that is safe beside OpenMP."""
    if chosen is not None:
        return chosen
    if context is not None and context is joblib.parallel.DEFAULT_MP_CONTEXT:
        method: str = context.get_start_method()
        return method
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else None


def prepare_worker(
    environment: dict[str, str],
    n_threads: int,
    demanded: int | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Limit the threads of BLAS and OpenMP in a worker: by the environment what is loaded later, at once what is."""
    os.environ.update(environment)
    if "numpy" in sys.modules or "torch" in sys.modules:  # forked, or preloaded
        try:
            threadpoolctl = import_module("threadpoolctl")
        except ImportError:
            if demanded is not None:
                warnings.warn(
                    f"inner_max_num_threads={demanded} cannot be set in libraries that are loaded already; install "
                    "threadpoolctl, or leave start_method and preload as they are",
                    stacklevel=1,
                )
        else:
            limited.append(threadpoolctl.threadpool_limits(n_threads))
    if initializer is not None:
        initializer(*initargs)


limited: list[object] = []  # in a worker: the limits hold as long as this object lives


class Batch:
    """What joblib wants called, and here the arrays whose blocks its pickle names."""

    __slots__ = ("calls", "held")

    def __init__(self, calls: Callable[[], Any]) -> None:
        self.calls = calls
        self.held: list[Any] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, (self.calls,)


def run_batch(batch: Batch) -> Any:
    """A task: a batch is the argument and not the function, since functions are kept by the workers."""
    return batch.calls()
