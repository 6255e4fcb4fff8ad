"""The face of a pipeline: what is run, and the iterator of a run's results."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from fullcourt._engines.streams import no_end
from fullcourt._pipelines.flow import Flow, Report, StageRun
from fullcourt._pipelines.stages import Stage, StageStatistics, check_count

if TYPE_CHECKING:
    from fullcourt.pool import Pool

__all__ = ["Pipeline", "PipelineIterator"]

T = TypeVar("T")
R = TypeVar("R")
OnError = Literal["raise", "return"]


class PipelineIterator(Generic[R]):
    """The results of a run. Several threads may read from one; each result goes to one of them.

    Dropping it, or :meth:`close`, ends the run: no more input is read, and the stages' own workers are ended.
    """

    def __init__(self, flow: Flow, close_bar: Callable[[], None]) -> None:
        self._flow = flow
        self._close_bar = close_bar
        self._finalizer = weakref.finalize(self, flow.abandon)
        self._finalizer.atexit = False

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        return self.next()

    def next(self, timeout: float | None = None) -> R:
        """The next result.

        Raises:
            StopIteration: there is none any more.
            TimeoutError: it has not come within so many seconds.
            Exception: what a stage raised for that item; the iteration can go on. (A StopIteration as a RuntimeError,
                whose cause it is, as generators have it.)
        """
        outcome = self._flow.take(timeout)
        if outcome is None:
            self._end()
        good, value = cast("tuple[bool, Any]", outcome)
        if good:
            return cast("R", value)
        value = no_end(value, "a stage")
        try:
            raise value
        finally:
            del value, outcome, self

    def _end(self) -> None:
        self._finalizer.detach()
        self._close_bar()
        self._flow.shut()
        error = self._flow.take_error()
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """End the run: it gives no more results. Idempotent. Stages' own workers are ended at once, and waited for."""
        self._finalizer.detach()
        self._close_bar()
        self._flow.close()

    def statistics(self) -> tuple[StageStatistics, ...]:
        """What each stage did so far."""
        return tuple(run.statistics() for run in self._flow.stages)


class Pipeline(Generic[T, R]):
    """Stages, ready to be run over any input. Made by :meth:`Pool.pipeline`; holds nothing, and can be run often.

    Workers of stages that have their own are started when a run starts and ended when it ends.
    """

    def __init__(
        self,
        pool: Pool,
        stages: Sequence[Stage[Any, Any]],
        make_bar: Callable[[int | None], tuple[Report, Callable[[], None]]],
    ) -> None:
        self._pool = pool
        self.stages = tuple(stages)
        self._make_bar = make_bar

    def imap(
        self,
        iterable: Iterable[T],
        *,
        buffersize: int | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
    ) -> PipelineIterator[R]:
        """Run it over an input; returns an iterator of the last stage's results, in the input's order.

        Args:
            iterable: read in a thread of its own, as results are taken; may be endless.
            buffersize: so many items at the most are between input and consumer. None: a few chunks for each slot of
                each stage.
            progress: show a bar on stderr, of the items that have come to their end.
            on_error: ``"raise"``: where an item has failed, the iterator raises that error at the item's place, and can
                go on. ``"return"``: a `Failure` stands in its place, with its index in the input.
        """
        return self._run(iterable, buffersize, progress, on_error, ordered=True)

    def imap_unordered(
        self,
        iterable: Iterable[T],
        *,
        buffersize: int | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
    ) -> PipelineIterator[R]:
        """As :meth:`imap`, with the results in whatever order they come."""
        return self._run(iterable, buffersize, progress, on_error, ordered=False)

    def map(
        self,
        iterable: Iterable[T],
        *,
        buffersize: int | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
    ) -> list[R]:
        """As :meth:`imap`, all at once: the list of results. The first failure ends the run, and is raised."""
        results = self._run(iterable, buffersize, progress, on_error, ordered=True)
        try:
            return list(results)
        except BaseException:
            results.close()
            raise

    def _run(
        self, iterable: Iterable[T], buffersize: int | None, progress: bool, on_error: str, *, ordered: bool
    ) -> PipelineIterator[R]:
        check_count("buffersize", buffersize, 1)
        if on_error not in ("raise", "return"):
            raise ValueError(f'on_error must be "raise" or "return", not {on_error!r}')
        if not hasattr(iterable, "__iter__") and not hasattr(iterable, "__getitem__"):
            raise TypeError(f"a pipeline needs an iterable, not {iterable!r}")
        self._pool._driver._check_open()
        runs = self._open_stages()
        bar: tuple[Report | None, Callable[[], None]] = (None, nothing)
        try:
            if progress:
                bar = self._make_bar(len(iterable) if isinstance(iterable, Sized) else None)
            flow = Flow(
                runs,
                iterable,
                ordered=ordered,
                return_failures=on_error == "return",
                buffersize=buffersize,
                report=bar[0],
            )
            flow.start()
        except BaseException:
            for run in runs:
                if run.owned:
                    run.pool.terminate()
                    run.pool.join()
            raise
        return PipelineIterator(flow, bar[1])

    def _open_stages(self) -> list[StageRun]:
        """Open the pools of the stages that have their own: first those of processes, before there are threads."""
        opened: dict[int, StageRun] = {}
        order = sorted(range(len(self.stages)), key=lambda place: not self.stages[place].starts_processes)
        try:
            for place in order:
                stage = self.stages[place]
                pool = self._pool
                if stage.has_own_workers:
                    pool = type(pool)(name=f"{pool.name}-{stage.name}", **stage.pool_options())
                opened[place] = StageRun(stage, pool, stage.has_own_workers)
        except BaseException:
            for run in opened.values():
                if run.owned:
                    run.pool.terminate()
                    run.pool.join()
            raise
        return [opened[place] for place in range(len(self.stages))]

    def __repr__(self) -> str:
        return f"<Pipeline {' | '.join(repr(stage)[7:-1] for stage in self.stages)}>"


def nothing() -> None:
    pass
