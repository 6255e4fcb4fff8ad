"""The pools under torture, each behind the same few methods, by the calls that its users would make.

What a pool does not offer raises :class:`NotOffered`: that cell says so, and counts neither way.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from benchmarks.torture import work

__all__ = ["POOLS", "NotOffered", "Outcome", "Tortured"]

Outcome = tuple[bool, Any]  # (True, value) or (False, exception)
Call = tuple[Any, ...]  # (function, argument, ...)


class NotOffered(Exception):
    """This pool has no such feature."""


class Tortured:
    """A pool of two workers (or so many). A context manager whose end waits for the workers."""

    module: str | None = None

    def __init__(self, n: int = 2, *, initializer: Any = None, max_tasks: int | None = None) -> None:
        self.n = n
        self.pool = self.open(n, initializer, max_tasks)

    def open(self, n: int, initializer: Any, max_tasks: int | None) -> Any:
        raise NotImplementedError

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.submit(fn, *args)

    def wait(self, handle: Any) -> Any:
        return handle.result()

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.wait(self.submit(fn, *args))

    def batch(self, calls: list[Call]) -> list[Outcome]:
        """Submit all, then take each one's outcome."""
        handles: list[Any] = []
        for call in calls:
            try:
                handles.append(self.submit(*call))
            except NotOffered:
                raise
            except BaseException as error:
                handles.append(error)
        return [self.outcome(handle) for handle in handles]

    def hold(self, calls: list[Call]) -> None:
        """Submit all and wait; nothing is caught."""
        for handle in [self.submit(*call) for call in calls]:
            self.wait(handle)

    def outcome(self, handle: Any) -> Outcome:
        if isinstance(handle, BaseException):
            return False, handle
        try:
            return True, self.wait(handle)
        except BaseException as error:
            return False, error

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, items))

    def map_of_tiny(self, fn: Callable[[Any], Any], n: int) -> list[Outcome]:
        """A map of tiny tasks, batched as the pool does it or lets its users do it; each one's outcome."""
        results = iter(self.pool.map(fn, range(n), chunksize=50))
        return take_all(results, n)

    def lazily(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        raise NotOffered

    def run_limited(self, seconds: float, fn: Callable[..., Any], *args: Any) -> Any:
        """Run a task that may take so long."""
        raise NotOffered

    def cancel_running(self, handle: Any) -> bool:
        return bool(handle.cancel())

    def run_in_memory(self, megabytes: int, fn: Callable[..., Any], *args: Any) -> Any:
        raise NotOffered

    def reentrant_call(self, x: int) -> Call:
        """A call of a task that submits to this very pool and waits for it."""
        return work.use_own_pool, x

    def close(self) -> None:
        self.pool.shutdown(wait=True)

    def terminate(self) -> None:
        raise NotOffered

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.pool.__exit__(kind, error, trace)


def take_all(results: Iterator[Any], n: int) -> list[Outcome]:
    """Take results one by one; an iterator that ends early leaves the rest without an outcome."""
    found: list[Outcome] = []
    for _ in range(n):
        try:
            found.append((True, next(results)))
        except StopIteration:
            found.append((False, RuntimeError("no outcome: the results ended with an earlier failure")))
        except BaseException as error:
            found.append((False, error))
    return found


class Ours(Tortured):
    def open(self, n: int, initializer: Any, max_tasks: int | None) -> Any:
        import fullcourt

        return fullcourt.Pool(n, initializer, max_tasks_per_child=max_tasks)

    def map_of_tiny(self, fn: Callable[[Any], Any], n: int) -> list[Outcome]:
        import fullcourt

        found = self.pool.map(fn, range(n), on_error="return")
        return [(False, x.exception) if isinstance(x, fullcourt.Failure) else (True, x) for x in found]

    def lazily(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.imap(fn, items))

    def options(self, **options: Any) -> Any:
        if not hasattr(self.pool, "options"):
            raise NotOffered
        return self.pool.options(**options)

    def run_limited(self, seconds: float, fn: Callable[..., Any], *args: Any) -> Any:
        return self.options(timeout=seconds, grace=0.2).submit(fn, *args).result()

    def run_in_memory(self, megabytes: int, fn: Callable[..., Any], *args: Any) -> Any:
        return self.options(max_memory=megabytes * 1_000_000).submit(fn, *args).result()

    def reentrant_call(self, x: int) -> Call:
        return work.use_given_pool, self.pool, x

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def terminate(self) -> None:
        self.pool.terminate()
        self.pool.join()


class MpPool(Tortured):
    def open(self, n: int, initializer: Any, max_tasks: int | None) -> Any:
        return multiprocessing.Pool(n, initializer, maxtasksperchild=max_tasks)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.apply_async(fn, args)

    def wait(self, handle: Any) -> Any:
        return handle.get()

    def map_of_tiny(self, fn: Callable[[Any], Any], n: int) -> list[Outcome]:
        return take_all(self.pool.imap(fn, range(n), chunksize=50), n)

    def lazily(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.imap(fn, items))

    def cancel_running(self, handle: Any) -> bool:
        raise NotOffered

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def terminate(self) -> None:
        self.pool.terminate()
        self.pool.join()


class Executor(Tortured):
    def open(self, n: int, initializer: Any, max_tasks: int | None) -> Any:
        if max_tasks is None:
            return concurrent.futures.ProcessPoolExecutor(n, initializer=initializer)

        context = multiprocessing.get_context("spawn")  # max_tasks_per_child refuses fork
        return concurrent.futures.ProcessPoolExecutor(
            n, initializer=initializer, max_tasks_per_child=max_tasks, mp_context=context
        )

    def lazily(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return self.pool.map(fn, items)  # type: ignore[no-any-return]


class Loky(Executor):
    module = "loky"

    def open(self, n: int, initializer: Any, max_tasks: int | None) -> Any:
        if max_tasks is not None:
            raise NotOffered
        from loky import ProcessPoolExecutor

        return ProcessPoolExecutor(n, initializer=initializer)

    def terminate(self) -> None:
        self.pool.shutdown(wait=True, kill_workers=True)


class Joblib(Tortured):
    """One call of Parallel is one batch: a failure takes all of its results."""

    module = "joblib"

    def open(self, n: int, initializer: Any, max_tasks: int | None) -> Any:
        if initializer is not None or max_tasks is not None:
            raise NotOffered
        from joblib import Parallel

        return Parallel(n_jobs=n)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        raise NotOffered

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        from joblib import delayed

        return self.pool([delayed(fn)(*args)])[0]

    def batch(self, calls: list[Call]) -> list[Outcome]:
        from joblib import delayed

        try:
            return [(True, value) for value in self.pool(delayed(call[0])(*call[1:]) for call in calls)]
        except BaseException as error:
            return [(False, error)] * len(calls)

    def hold(self, calls: list[Call]) -> None:
        from joblib import delayed

        self.pool(delayed(call[0])(*call[1:]) for call in calls)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        from joblib import delayed

        return list(self.pool(delayed(fn)(item) for item in items))

    def map_of_tiny(self, fn: Callable[[Any], Any], n: int) -> list[Outcome]:
        return self.batch([(fn, x) for x in range(n)])

    def lazily(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        from joblib import Parallel, delayed

        return iter(Parallel(n_jobs=self.n, return_as="generator")(delayed(fn)(item) for item in items))

    def run_limited(self, seconds: float, fn: Callable[..., Any], *args: Any) -> Any:
        from joblib import Parallel, delayed

        return Parallel(n_jobs=self.n, timeout=seconds)([delayed(fn)(*args)])[0]

    def close(self) -> None:
        pass

    def __enter__(self) -> Tortured:
        self.pool.__enter__()
        return self


class Mpire(Tortured):
    module = "mpire"

    def open(self, n: int, initializer: Any, max_tasks: int | None) -> Any:
        from mpire import WorkerPool

        self.initializer, self.max_tasks = initializer, max_tasks
        return WorkerPool(n_jobs=n, keep_alive=max_tasks is None)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        options = {} if self.initializer is None else {"worker_init": self.initializer}
        if self.max_tasks is not None:
            raise NotOffered
        return self.pool.apply_async(fn, args, **options)

    def wait(self, handle: Any) -> Any:
        return handle.get()

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        options = {} if self.initializer is None else {"worker_init": self.initializer}
        return list(self.pool.map(fn, list(items), worker_lifespan=self.max_tasks, **options))

    def map_of_tiny(self, fn: Callable[[Any], Any], n: int) -> list[Outcome]:
        return take_all(iter(self.pool.imap(fn, range(n), chunk_size=50)), n)

    def lazily(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.imap(fn, items))

    def run_limited(self, seconds: float, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.apply(fn, args, task_timeout=seconds)

    def cancel_running(self, handle: Any) -> bool:
        raise NotOffered

    def close(self) -> None:
        self.pool.stop_and_join()

    def terminate(self) -> None:
        self.pool.terminate()


class Pebble(Tortured):
    module = "pebble"

    def open(self, n: int, initializer: Any, max_tasks: int | None) -> Any:
        from pebble import ProcessPool

        return ProcessPool(max_workers=n, max_tasks=max_tasks or 0, initializer=initializer)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.schedule(fn, args=args)

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return list(self.pool.map(fn, items).result())

    def map_of_tiny(self, fn: Callable[[Any], Any], n: int) -> list[Outcome]:
        return take_all(self.pool.map(fn, range(n), chunksize=50).result(), n)

    def lazily(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        return iter(self.pool.map(fn, items).result())

    def run_limited(self, seconds: float, fn: Callable[..., Any], *args: Any) -> Any:
        return self.pool.schedule(fn, args=args, timeout=seconds).result()

    def close(self) -> None:
        self.pool.close()
        self.pool.join()

    def terminate(self) -> None:
        self.pool.stop()
        self.pool.join()


POOLS: dict[str, type[Tortured]] = {
    "fullcourt": Ours,
    "mp.Pool": MpPool,
    "PPE": Executor,
    "loky": Loky,
    "joblib": Joblib,
    "mpire": Mpire,
    "pebble": Pebble,
}
