"""What a stage is, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from fullcourt._core.options import OptionFields, merge
from fullcourt._transport.functions import function_name

if TYPE_CHECKING:
    from fullcourt.pool import PoolStatistics

__all__ = ["Stage", "StageStatistics", "check_count"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    processes: int | None = None
    threads: int | None = None
    interpreters: int | None = None
    start_method: str | None = None
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    max_tasks_per_child: int | None = None


class Stage(Generic[T, R]):
    """One stage of a pipeline: a function of one item, and how it runs.

    Args:
        fn: called with each item that the stage before gave; what it returns goes to the next one.
        processes: worker processes for this stage; as for `Pool`, and so are the next six.
        threads: threads of this process; with `processes`, of each worker.
        interpreters: sub-interpreters (Python 3.14 and later).
        start_method: of its processes.
        initializer: called once in each of its workers.
        initargs: its arguments.
        max_tasks_per_child: after so many items a worker process is replaced.
        chunksize: items that travel together; None: found from the time that they take.
        name: for statistics and notes; None: the function's.
        options: of its tasks: timeout, retries, backoff, retry_on, max_memory, priority, grace; see `Pool.options`.
            Without ``retries``, an item whose worker died while it ran has failed, for it may have had effects.

    A stage without processes, threads and interpreters runs on the pool that the pipeline is made with.

    Example:
        >>> from fullcourt import Stage
        >>> Stage(str.upper, threads=2)
        <Stage upper threads=2>
    """

    def __init__(
        self,
        fn: Callable[[T], R],
        *,
        processes: int | None = None,
        threads: int | None = None,
        interpreters: int | None = None,
        start_method: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks_per_child: int | None = None,
        chunksize: int | None = None,
        name: str | None = None,
        **options: Unpack[OptionFields],
    ) -> None:
        if not callable(fn):
            raise TypeError(f"a stage's function must be callable, not {fn!r}")
        check_count("processes", processes, 1)
        check_count("threads", threads, 1)
        check_count("interpreters", interpreters, 1)
        check_count("chunksize", chunksize, 1)
        merge(None, options)  # checks them
        self.fn = fn
        self.chunksize = chunksize
        self.options: OptionFields = options
        self.name = name or function_name(fn).rpartition(".")[2]
        self._options = _Options(
            processes=processes,
            threads=threads,
            interpreters=interpreters,
            start_method=start_method,
            initializer=initializer,
            initargs=tuple(initargs),
            max_tasks_per_child=max_tasks_per_child,
        )
        self.has_own_workers = not (processes is None and threads is None and interpreters is None)
        if not self.has_own_workers and self._options != _Options():
            raise ValueError(
                "this stage has no processes=, threads= or interpreters=, so it runs on the pool's workers: "
                "start_method=, initializer= and max_tasks_per_child= are the pool's"
            )

    def pool_options(self) -> dict[str, Any]:
        """The keyword arguments of its pool."""
        return {key: getattr(self._options, key) for key in _Options.__slots__}

    @property
    def starts_processes(self) -> bool:
        """Whether it has worker processes of its own."""
        return bool(self._options.processes)

    def __repr__(self) -> str:
        kinds = ("processes", "threads", "interpreters")
        parts = [f"{kind}={getattr(self._options, kind)}" for kind in kinds if getattr(self._options, kind) is not None]
        return f"<Stage {' '.join([self.name, *parts])}>"


def check_count(name: str, value: object, least: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


@dataclass(frozen=True, slots=True)
class StageStatistics:
    """What one stage of a run did so far.

    Attributes:
        name: the stage's.
        n_done: items that it gave a result for.
        n_failed: items that failed there for good.
        n_here: items that are in it: waiting or running.
        pool: the statistics of its pool; that of the whole pool where the stage has no workers of its own.
    """

    name: str
    n_done: int
    n_failed: int
    n_here: int
    pool: PoolStatistics
