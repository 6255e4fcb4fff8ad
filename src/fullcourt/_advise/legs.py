"""A job's leg: the part of a map that one driver runs, while the map as a whole may change drivers.

The map that `Pool` made, the *source*, is known to no driver. Each driver that works on it has a leg of it: a job whose
items are taken from the source, and whose results are put there. So what a map promises (order, laziness, `Failure`,
progress, its future) is the source's, whoever runs it; an item is taken once, by one leg.

Locks: a leg's methods are called under its driver's lock, and take the hub's, which protects all sources. Whoever holds
the hub's lock takes no other. Only one leg of a source is attached at a time: so what `available` said, `take` finds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fullcourt._core.model import Chunk, Estimate
from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import MapChunk, MapJob, Settlement, StreamJob

if TYPE_CHECKING:
    from fullcourt._advise.course import Course

__all__ = ["Leg", "MeteredEstimate", "Strays"]


class MeteredEstimate(Estimate):
    """An estimate that tells somebody what is measured, in the thread that ran it."""

    __slots__ = ("note",)

    def __init__(self) -> None:
        super().__init__()
        self.note: Callable[[int, float], None] | None = None

    def add(self, n_tasks: int, seconds: float) -> None:
        super().add(n_tasks, seconds)
        if self.note is not None:
            self.note(n_tasks, seconds)


class Leg(MapJob):
    """What one driver runs of a source.

    Attributes:
        limit: how many chunks run at a time; None: as many as the driver likes.
        attached: whether it takes more items.
        n_ended: items that have ended here.
        is_settled: whether it is not looked any more at what it does in a moment.
    """

    def __init__(self, course: Course, driver: Driver, limit: int | None = None) -> None:
        source = course.source
        function = driver.functions.get(source.fn) if driver.functions is not None else None
        self.course = course
        self.source = source
        self.driver = driver
        self.limit = limit
        self.attached = True
        self.n_ended = 0
        self.is_settled = False
        self.fed_at = 0.0
        self._lock = course.hub._lock
        self._n_out = 0  # items that were taken and have not ended
        # The chunks that they were taken in, for the limit: index of the first item that has not ended, how many have
        # not. A chunk may be divided later on, and then end in any order; its entry goes with the last of all.
        self._chunks: dict[int, int] = {}
        self._dead = self._begun = False
        self._queued = self._held = False
        self._last_size = 0
        super().__init__(
            source.kind, source.fn, function, (), None, driver.new_id, Future(driver), source.return_failures, None
        )
        self.options = source.options
        self.is_timed = source.is_timed
        self.priority = source.priority
        self.alone = driver.cannot_part(source.options)
        self.estimate = MeteredEstimate()
        self.estimate.durations = source.estimate.durations
        self.estimate.mean_s = source.estimate.mean_s

    # -- what the source's feeder looks at -------------------------------------------------------------------------

    @property
    def queued(self) -> bool:
        """Whether the scheduler has it in its row."""
        return self._queued

    @queued.setter
    def queued(self, value: bool) -> None:
        self._queued = value
        if self.attached:
            self.source.queued = value

    @property
    def held(self) -> bool:
        """Whether its items wait for more to travel with."""
        return self._held

    @held.setter
    def held(self, value: bool) -> None:
        self._held = value
        if self.attached and isinstance(self.source, StreamJob):
            self.source.held = value

    @property
    def last_size(self) -> int:
        """The size of its last chunk."""
        return self._last_size

    @last_size.setter
    def last_size(self, value: int) -> None:
        self._last_size = value
        if self.attached:
            self.source.last_size = value

    @property
    def input(self) -> Any:
        """What is there to be taken."""
        return self.source.input if isinstance(self.source, StreamJob) else ()

    # -- the scheduler's side --------------------------------------------------------------------------------------

    def available(self) -> int:
        if not self.attached or self._dead or (self.limit is not None and len(self._chunks) >= self.limit):
            return 0
        return self.source.available()

    def remaining(self) -> int | None:
        return self.source.remaining()

    def fixed_size(self) -> int | None:
        return 1 if self.alone else self.source.fixed_size()

    def may_part(self) -> bool:
        return self.limit is None and bool(self.source.may_part())

    def is_awaited_whole(self) -> bool:
        return self.is_settled and self.source.is_awaited_whole()

    def take(self, n_tasks: int) -> Chunk:
        with self._lock:
            taken: Any = self.source.take(n_tasks)
        chunk = MapChunk(self, self.new_id(), taken.start, taken.items)
        if chunk.count:  # else the source was stopped just now
            self._n_out += chunk.count
            self._chunks[chunk.start] = chunk.count
        return chunk

    # -- results ---------------------------------------------------------------------------------------------------

    def put(self, start: int, values: list[Any]) -> list[Settlement]:
        self._ended(start, len(values))
        with self._lock:
            if not self.source.open:  # it was stopped meanwhile
                return []
            settlements = self.source.put(start, values)
        return self._after(settlements)

    def fail(self, index: int, error: BaseException, attempt: int = 1) -> list[Settlement]:
        self._ended(index, 1)
        with self._lock:
            if not self.source.open:
                return []
            settlements = self.source.fail(index, error, attempt)
        return self._after(settlements)

    def is_running(self) -> bool:
        """Whether items that were taken have not ended."""
        return self._n_out > 0

    def has_begun(self) -> bool:
        """Whether an item has ended here."""
        return self.n_ended > 0

    def forget(self, index: int) -> None:
        """An item that was taken has not run, and will not here."""
        self._ended(index, 1)
        self.n_ended -= 1

    def _ended(self, start: int, n: int) -> None:
        self.n_ended += n
        self._n_out -= n
        left = self._chunks.pop(start, 0) - n
        if left > 0:
            self._chunks[start + n] = left
        if not self._n_out:
            self._chunks.clear()

    def _after(self, settlements: list[Settlement]) -> list[Settlement]:
        course = self.course
        if not self.source.open or not self._begun:
            self._begun = True
            course.ring()
        if self.limit is not None and self.attached and self.source.open:
            settlements = [*settlements, (None, partial(course.pump, self), None)]
        return self._told(settlements)

    def _told(self, settlements: list[Settlement]) -> list[Settlement]:
        """Each with word to others when it is done: who waits for it may lead another driver.

        In one, since a driver's threads share what there is to settle: two in a row may be done by two of them at once.
        """
        tell = self.course.hub.settle_and_tell
        return [one if one[0] is None else (None, partial(tell, self.driver, one), None) for one in settlements]

    def input_ended(self, error: BaseException | None) -> list[Settlement]:
        """The source's input is exhausted, or raised."""
        source = self.source
        assert isinstance(source, StreamJob)
        with self._lock:
            settlements = source.input_ended(error)
        return self._after(settlements)

    # -- the end ---------------------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        return not self._dead and self.source.open and (self.attached or self._n_out > 0)

    @property
    def stopped(self) -> bool:
        """Whether what has not begun shall not run."""
        return self._dead or not self.source.open

    @stopped.setter
    def stopped(self, value: bool) -> None:
        pass  # the base class's begin

    @property
    def stopped_early(self) -> bool:
        return self._dead or self.source.stopped_early

    @stopped_early.setter
    def stopped_early(self, value: bool) -> None:
        pass

    def ends_with(self, count: int, *, failed: bool) -> bool:
        return self.source.ends_with(count, failed=failed)

    def abort(self, error: BaseException | None) -> list[Settlement]:
        """The driver gives it up; with an error, the whole source ends so. Without, the source is over already."""
        if error is None:
            self._dead = True
            return []
        with self._lock:
            settlements = self.source.abort(error)
        self.course.ring()
        return self._told(settlements)


class Strays(Leg):
    """The items of a source that could not be sent to where the others run."""

    def __init__(self, course: Course, driver: Driver) -> None:
        super().__init__(course, driver)
        self.items: list[tuple[int, Any]] = []

    def available(self) -> int:
        return 0 if self._dead else len(self.items)

    def remaining(self) -> int | None:
        return None

    def fixed_size(self) -> int | None:
        return 1

    def take(self, n_tasks: int) -> Chunk:
        index, item = self.items.pop(0)
        chunk = MapChunk(self, self.new_id(), index, [item])
        self._n_out += 1
        self._chunks[index] = 1
        return chunk

    @property
    def open(self) -> bool:
        return not self._dead and self.source.open and bool(self._n_out or self.items)

    # The feeder must not take this row for the source's.
    @property
    def queued(self) -> bool:
        return self._queued

    @queued.setter
    def queued(self, value: bool) -> None:
        self._queued = value

    @property
    def last_size(self) -> int:
        return 1

    @last_size.setter
    def last_size(self, value: int) -> None:
        pass
