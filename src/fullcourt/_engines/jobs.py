"""The work that a pool has: single calls, and maps, and where their results go.

A job is settled by the driver, under its lock; what user code must see (futures, callbacks) is collected in a list of
:class:`Settlement` and done after the lock is released.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fullcourt._core.model import Chunk, Estimate
from fullcourt._core.options import Durations, Options
from fullcourt._engines.future import Future, Wake

__all__ = ["Call", "CallStream", "Failure", "MapChunk", "MapJob", "Settlement", "StreamJob"]

# (future, result, exception); with a future of None: call the second with no arguments
Settlement = tuple[Any, Any, BaseException | None]

CALL, MAP, STARMAP = 1, 2, 3  # as the frames' kinds
TIMED = 4  # added to MAP and STARMAP: each item's start is recorded, since its time is limited
WHOLE = 8  # likewise: nobody waits for a result by itself


@dataclass(frozen=True, slots=True)
class Failure:
    """Stands in the place of an item whose task failed, with ``on_error="return"``.

    Attributes:
        exception: what the task raised, with the worker's traceback as its cause.
        index: the item's position in the input, from 0.
        attempt: which attempt this was, from 1.
    """

    exception: BaseException
    index: int
    attempt: int = 1

    def __bool__(self) -> bool:
        """False, so that ``filter(None, results)`` and ``if result`` pass over failures."""
        return False


SENT: tuple[bytes, list[Any]] = (b"", [])  # the payload of a call that has ended


class Call(Chunk):
    """One call by ``submit`` or ``apply_async``: a chunk of a single task."""

    kind = CALL
    # What is the same for most calls stands in the class: this is made for every task. (So it has no __slots__.)
    start = 0
    count = 1
    worker_id: int | None = None
    expected_s = 0.0
    done = 0
    function: Any = None
    payload: Any = None
    stream: Any = None
    cancelled = False
    attempt = 1
    only_deaths = True
    options: Options | None = None

    def __init__(
        self,
        chunk_id: int,
        estimate: Estimate,
        future: Future[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.id = chunk_id
        self.estimate = estimate
        self.future: Future[Any] | None = future  # None once its outcome is decided
        self.fn = fn
        self.args = args
        self.kwargs = kwargs


class CallStream:
    """The calls of one submitting thread that have one priority, first in, first out.

    ``sending``: a thread is about to send some that were taken; until it has, none that came later may be taken, since
    another thread could send it first.
    """

    __slots__ = ("_calls", "estimate", "last_size", "n_live", "priority", "queued", "sending")

    def __init__(self, estimate: Estimate, priority: int = 0) -> None:
        self.priority = priority
        self._calls: deque[Call] = deque()
        self.estimate = estimate  # of no use here: each call has its function's own
        self.last_size = 1
        self.n_live = 0
        self.queued = False
        self.sending = False

    def is_empty(self) -> bool:
        """Whether all of its calls were sent."""
        return not self.n_live and not self.sending

    def append(self, call: Call) -> None:
        self._calls.append(call)
        self.n_live += 1

    def cancel(self, call: Call) -> None:
        """A call that waits here shall not run. It is passed over when its turn comes."""
        call.cancelled = True
        self.n_live -= 1

    def available(self) -> int:
        if not self.n_live and self._calls:
            self._calls.clear()
        return 0 if self.sending else self.n_live

    def remaining(self) -> int | None:
        return None

    def fixed_size(self) -> int | None:
        return 1

    def is_awaited_whole(self) -> bool:
        return False

    def take(self, n_tasks: int) -> Chunk:
        while True:
            call = self._calls.popleft()
            if not call.cancelled:
                self.n_live -= 1
                return call

    def drain(self) -> list[Call]:
        """Take all that waits."""
        calls = [call for call in self._calls if not call.cancelled]
        self._calls.clear()
        self.n_live = 0
        return calls


class MapChunk(Chunk):
    """Some consecutive items of a map.

    ``only_deaths``, here and of a call: whether each attempt before this one has ended its worker. ``parts``: whether
    its worker, a thread of this process, is to give back what it has not begun.
    """

    __slots__ = ("attempt", "items", "job", "only_deaths", "parts")

    def __init__(self, job: MapJob, chunk_id: int, start: int, items: Sequence[Any], attempt: int = 1) -> None:
        super().__init__(chunk_id, start, len(items), job.estimate)
        self.attempt = attempt
        self.only_deaths = True
        self.parts = False
        self.job = job
        self.items = items

    def may_part(self) -> bool:
        return self.count > 1 and self.job.may_part()

    def priority_of_rest(self) -> int:
        return self.job.priority

    def is_wanted(self) -> bool:
        return self.job.open

    def yields_to(self, priority: int) -> bool:
        return self.job.priority <= priority

    @property
    def kind(self) -> int:
        job = self.job
        if job.is_timed:
            return job.kind + TIMED
        return job.kind + WHOLE if job.is_awaited_whole() else job.kind

    @property
    def options(self) -> Options | None:
        return self.job.options

    @property
    def function(self) -> Any:
        return self.job.function

    def cut(self, n_tasks: int) -> MapChunk:
        rest = MapChunk(self.job, self.job.new_id(), self.start + n_tasks, self.items[n_tasks:], self.attempt)
        self.items = self.items[:n_tasks]
        self.count = n_tasks
        return rest


class MapJob:
    """A map over items that are all at hand: ``map``, ``starmap`` and their ``_async`` forms."""

    outer: Any = None  # with threads: which task of the same pool started it, where one did
    asked_by = 0  # in a worker: the number of the chunk whose task started it

    def __init__(
        self,
        kind: int,
        fn: Callable[..., Any],
        function: Any,
        items: Sequence[Any],
        chunksize: int | None,
        new_id: Callable[[], int],
        future: Future[Any],
        return_failures: bool,
        report: Callable[[int, int], None] | None,
        options: Options | None = None,
    ) -> None:
        self.options = options
        self.is_timed = options is not None and options.is_timed
        self.priority = options.priority if options is not None else 0
        self.kind = kind
        self.fn = fn
        self.function = function
        self.estimate = Estimate()
        if options is not None and options.factor is not None:
            self.estimate.durations = Durations()
        self.alone = False  # items travel one by one: where one that hangs could not be parted from the others
        self.new_id = new_id
        self.future: Future[Any] = future
        self.return_failures = return_failures
        self.report: Callable[[int, int], None] | None = report
        self.queued = False
        self.last_size = 0
        self.stopped = False
        self.stopped_early = False  # by a failure or a cancellation: the rest shall not run
        self.n_done: int = 0
        self.n_failed: int = 0
        self._chunksize = chunksize
        self._items = items
        self._next = 0
        self._total = len(items)
        self._results: list[Any] = [None] * self._total

    def begin(self) -> None:
        """A driver has taken it on. Who has what its function takes along, counts as a user of it until the end."""
        if self.function is not None and self.function.rights is not None:
            self.function.rights.stay()

    def end(self) -> None:
        """It is over: nothing of it will be sent any more. The job may live on with its results."""
        if self.function is not None and self.function.rights is not None:
            self.function.rights.end()

    # -- the stream's side ----------------------------------------------------------------------------------------

    def available(self) -> int:
        return 0 if self.stopped else self._total - self._next

    def remaining(self) -> int | None:
        return self._total - self._next

    def fixed_size(self) -> int | None:
        return 1 if self.alone or self._has_no_median() else self._chunksize

    def may_part(self) -> bool:
        """Whether what a worker has not begun of a chunk may go to others."""
        return self.options is None and self._chunksize is None

    def is_awaited_whole(self) -> bool:
        return self.may_part()

    def take(self, n_tasks: int) -> Chunk:
        start = self._next
        self._next = min(start + n_tasks, self._total)
        return MapChunk(self, self.new_id(), start, self._items[start : self._next])

    def _has_no_median(self) -> bool:
        """Whether its time limit is a multiple of a median that is not known yet: each end must be told at once."""
        durations = self.estimate.durations
        return durations is not None and self.is_timed and durations.median() is None

    # -- results --------------------------------------------------------------------------------------------------

    def put(self, start: int, values: list[Any]) -> list[Settlement]:
        """The items from ``start`` on gave these results."""
        if not self.stopped_early:
            self._results[start : start + len(values)] = values
        self.n_done += len(values)
        return self._progress()

    def fail(self, index: int, error: BaseException, attempt: int = 1) -> list[Settlement]:
        """The item at ``index`` failed, for good."""
        self.n_done += 1
        self.n_failed += 1
        if self.return_failures:
            if not self.stopped_early:
                self._results[index] = Failure(error, index, attempt)
            return self._progress()
        if self.stopped:
            return []
        self.stopped = self.stopped_early = True
        return [*self._progress(), *self._let_go(error)]

    def _progress(self) -> list[Settlement]:
        out: list[Settlement] = []
        if self.report is not None:
            out.append((None, partial(self.report, self.n_done, self.n_failed), None))
        if self.n_done == self._total and not self.stopped:
            self.stopped = True
            out.append((self.future, self._results, None))
        return out

    def ends_with(self, count: int, *, failed: bool) -> bool:
        """Whether it is over when so many more of its tasks have ended."""
        return (failed and not self.return_failures) or self.n_done + count >= self._total

    @property
    def open(self) -> bool:
        """Whether results are still to come."""
        return not self.stopped

    def abort(self, error: BaseException | None) -> list[Settlement]:
        """Stop it: what has not been sent is not sent. With None, it counts as cancelled."""
        if self.stopped:
            return []
        self.stopped = self.stopped_early = True
        return self._let_go(error)

    def _let_go(self, error: BaseException | None) -> list[Settlement]:
        """Give the future away: its error holds frames, perhaps with the pool, and workers hold chunks of this.

        What workers have need not hold all that they will not get either. It goes without the lock, as callbacks do:
        its finalizers are the user's.
        """
        future, self.future = self.future, Future()
        held: list[Any] = [self._items, self._results]
        self._items, self._results = (), []
        return [(future, None, error), (None, held.clear, None)]


class StreamJob(MapJob):
    """``imap`` and ``imap_unordered``: items come from an iterator, results go to one, both bounded.

    A feeder thread pulls the input (it may block, and it must not hold up the pool); a list, tuple or range needs
    none. ``window``: how many items may be taken from the input and not yet be handed to the consumer.
    """

    def __init__(
        self,
        kind: int,
        fn: Callable[..., Any],
        function: Any,
        chunksize: int | None,
        new_id: Callable[[], int],
        ordered: bool,
        return_failures: bool,
        report: Callable[[int, int], None] | None,
        n_slots: int,
        buffersize: int | None,
        options: Options | None = None,
    ) -> None:
        super().__init__(kind, fn, function, (), chunksize, new_id, Future(), return_failures, report, options)
        self.ordered = ordered
        self.n_slots = n_slots
        self.input: deque[Any] = deque()
        self.n_pulled = 0  # items taken from the iterator
        self.n_taken = 0  # items given to workers
        self.n_delivered = 0  # results that have come to `ready`
        self.exhausted = False
        self.fed_at = 0.0
        self.held = False  # its items wait for more to travel with; see Driver.feed
        self.abandoned = False  # nobody holds its iterator any more; set without a lock
        self.n_total = 0  # items in all, once it is exhausted
        self.finite = False  # whether the input surely ends
        self.input_error: BaseException | None = None
        self.buffersize = buffersize
        self.ready: deque[Any] = deque()  # results for the consumer, in its order
        self._early: dict[int, list[Any]] = {}  # ordered: results that came before their turn, by index
        self._turn = 0
        self.waiting: deque[Future[Any] | Wake] = (
            deque()
        )  # of consumers; one is settled when a result is ready, all at the end
        self.refill: Callable[[], None] | None = None  # has more items pulled, if there is room
        self.unbounded = False  # somebody joins the pool: pull all

    def window(self) -> int:
        """How many items may be between the input and the consumer now."""
        if self.buffersize is not None:
            return self.buffersize
        return self.n_slots * (3 * max(self.last_size, self._chunksize or 1, 2))

    def room(self) -> int:
        """How many items may be pulled now."""
        if self.unbounded:
            return 1 << 30
        n_given = self.n_delivered - len(self.ready)  # to consumers, of which there may be several at once
        return self.window() - (self.n_pulled - n_given)

    def available(self) -> int:
        return 0 if self.stopped else len(self.input)

    def remaining(self) -> int | None:
        return len(self.input) if self.exhausted else None

    def is_awaited_whole(self) -> bool:
        return False  # its results are taken one by one

    def take(self, n_tasks: int) -> Chunk:
        n = min(n_tasks, len(self.input))
        popleft = self.input.popleft
        items = [popleft() for _ in range(n)]
        start = self.n_taken
        self.n_taken += n
        return MapChunk(self, self.new_id(), start, items)

    def put(self, start: int, values: list[Any]) -> list[Settlement]:
        return self._deliver(start, [(True, value) for value in values])

    def fail(self, index: int, error: BaseException, attempt: int = 1) -> list[Settlement]:
        self.n_failed += 1
        if self.return_failures:
            return self._deliver(index, [(True, Failure(error, index, attempt))])
        return self._deliver(index, [(False, error)])

    def _deliver(self, start: int, new: list[Any]) -> list[Settlement]:
        outcomes = new
        if not self.ordered:
            self.ready.extend(outcomes)
            self.n_delivered += len(outcomes)
        elif start != self._turn:
            self._early[start] = outcomes
        else:
            while True:
                self.ready.extend(outcomes)
                self.n_delivered += len(outcomes)
                self._turn += len(outcomes)
                following = self._early.pop(self._turn, None)
                if following is None:
                    break
                outcomes = following
        self.n_done += len(new)  # last: a consumer that sees the end, without a lock, must find all that is ready
        return self._notify()

    def _notify(self) -> list[Settlement]:
        out: list[Settlement] = []
        if self.report is not None:
            out.append((None, partial(self.report, self.n_done, self.n_failed), None))
        over = self.finished or self.stopped
        n_woken = len(self.waiting) if over else min(len(self.waiting), len(self.ready))
        out.extend((self.waiting.popleft(), None, None) for _ in range(n_woken))
        return out

    @property
    def finished(self) -> bool:
        """Whether all items have ended (their results may still lie in ``ready``)."""
        return self.exhausted and self.n_done >= self.n_total

    def ends_with(self, count: int, *, failed: bool) -> bool:
        return self.exhausted and self.n_done + count >= self.n_total

    @property
    def open(self) -> bool:
        return not self.stopped and not self.finished

    def input_ended(self, error: BaseException | None) -> list[Settlement]:
        """The iterator is exhausted, or raised."""
        if not self.exhausted:
            self.n_total = self.n_pulled
            if not self.stopped:  # else what has stopped it is what the consumer is told
                self.input_error = error
            self.exhausted = True
        return self._notify()

    def abort(self, error: BaseException | None) -> list[Settlement]:
        if self.stopped or self.finished:
            return []
        self.input_error = error  # first: the consumer looks for it, without a lock, when it sees that this is stopped
        self.stopped = self.stopped_early = True
        held = [self.input]
        self.input = deque()
        return [*self._notify(), (None, held.clear, None)]
