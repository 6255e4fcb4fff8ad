"""One run of a pipeline: items flow from stage to stage.

A run is a :class:`Flow`. Each stage is one open job (:class:`StageJob`) of a pool's driver: of the pool that the
pipeline was made with, or of one that the run opened for this stage. Whoever settles a stage's results (that pool's
driving thread, or the slot's thread itself) puts them into the next stage's input; so a stage has no thread and no
queue of its own beside its pool's. A thread reads the input.

*Bounds.* One number bounds all: items that were read and not yet given to the consumer. Wherever the slow stage is,
what waits for it is at most that.

*Order.* Between stages items flow in whatever order they come; each bears its number, and where order was asked for,
the results are put into it at the end.

*Deaths.* A stage's options are a map's: with ``retries`` an item whose worker died while it ran is run again there.
What had not started goes elsewhere anyway.

``Flow._lock`` protects the flow's fields and the order in which items and their tags are appended. It is held for a
batch's bookkeeping; no user code and no driver is called under it.

Cost per item and stage, beside that of a map's item: about 1 us of bookkeeping in the pool's process.
"""

from __future__ import annotations

import _thread
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from fullcourt._engines.driver import Driver
from fullcourt._engines.jobs import MAP, Failure, Settlement, StreamJob
from fullcourt._os.locks import Condition, make_rlock
from fullcourt._os.threads import make_thread
from fullcourt._os.waits import deadline
from fullcourt._pipelines.stages import Stage, StageStatistics
from fullcourt._transport.remote_errors import add_note

if TYPE_CHECKING:
    from fullcourt.pool import Pool

__all__ = ["Flow", "Report", "StageRun"]

Report = Callable[[int, int], None]


class StageJob(StreamJob):
    """A stage's work on its pool. What it delivers goes to the flow, not to a consumer."""

    def __init__(self, stage: Stage[Any, Any], pool: Pool) -> None:
        driver: Driver = pool._driver
        options = pool._merged(stage.options)
        function = driver.functions.get(stage.fn) if driver.functions is not None else None
        n_slots = driver.scheduler.n_workers * driver.scheduler.n_slots
        super().__init__(
            MAP,
            stage.fn,
            function,
            stage.chunksize,
            driver.new_id,
            ordered=False,
            return_failures=False,
            report=None,
            n_slots=n_slots,
            buffersize=None,
            options=options,
        )
        self.alone = driver.cannot_part(options)
        self.arrived: deque[tuple[int, list[Any]]] = deque()
        self.hand_on: Callable[[], None]  # takes what has arrived to where it goes
        self.broke: Callable[[BaseException], None]  # the pool has ended or cannot go on

    def fail(self, index: int, error: BaseException, attempt: int = 1) -> list[Settlement]:
        self.n_failed += 1
        return self._deliver(index, [(False, Failure(error, index, attempt))])

    def _deliver(self, start: int, new: list[Any]) -> list[Settlement]:
        self.n_delivered += len(new)
        self.arrived.append((start, new))
        self.n_done += len(new)
        return [(None, self.hand_on, None)]

    def _notify(self) -> list[Settlement]:
        return []

    def input_ended(self, error: BaseException | None) -> list[Settlement]:
        super().input_ended(error)
        return [] if error is None else [(None, partial(self.broke, error), None)]

    def abort(self, error: BaseException | None) -> list[Settlement]:
        if self.stopped or self.finished:
            return []
        settlements = super().abort(error)  # it tells nobody, but lets go of its items
        return settlements if error is None else [*settlements, (None, partial(self.broke, error), None)]


class StageRun:
    """A stage in a run: its job, and what is known of the items that are in it."""

    def __init__(self, stage: Stage[Any, Any], pool: Pool, owned: bool) -> None:
        self.stage = stage
        self.pool = pool
        self.owned = owned
        self.driver: Driver = pool._driver
        self.job = StageJob(stage, pool)
        self.tags: dict[int, int] = {}  # index in the job: number in the input, of the items that are here
        self.n_added = 0
        self.n_done = 0
        self.n_failed = 0

    def add(self, number: int, item: Any) -> bool:
        """Append an item. Under the flow's lock. Returns whether the driver must be told."""
        job = self.job
        self.tags[self.n_added] = number
        self.n_added += 1
        job.input.append(item)
        job.n_pulled += 1
        return not job.queued or len(job.input) <= 1

    def statistics(self) -> StageStatistics:
        return StageStatistics(self.stage.name, self.n_done, self.n_failed, len(self.tags), self.pool.statistics())


class Flow:
    """One run of a pipeline. See the module's head."""

    def __init__(
        self,
        stages: list[StageRun],
        iterable: Iterable[Any],
        *,
        ordered: bool,
        return_failures: bool,
        buffersize: int | None,
        report: Report | None,
    ) -> None:
        self.stages = stages
        self._iterator = iter(iterable)
        self._ordered = ordered
        self._return_failures = return_failures
        self._buffersize = buffersize
        self._report = report
        self._lock = make_rlock()  # re-entrant: the garbage collector may end a flow from within
        self._has_output = Condition(self._lock)
        self._has_room = Condition(self._lock)
        self._ready: deque[tuple[bool, Any]] = deque()
        self._early: dict[int, tuple[bool, Any]] = {}
        self._turn = 0
        self._n_in = 0
        self._n_out = 0
        self._n_failed = 0
        self._n_given = 0
        self._exhausted = False
        self._input_error: BaseException | None = None
        self._error: BaseException | None = None
        self.over = False  # nothing will be added to the output any more
        self._closed = False  # the consumer wants no results any more, nor those that are there
        if isinstance(iterable, (list, tuple, range, str, bytes, dict, set, frozenset)):
            self._input_is_finite()
        self.inline = all(run.driver.engine.runs_inline for run in stages)

    def _input_is_finite(self) -> None:
        """Who leaves the pool's `with` waits for all of it."""
        for run in self.stages:
            run.job.finite = True

    def start(self) -> None:
        """Start the jobs and the reading."""
        for place, run in enumerate(self.stages):
            run.job.hand_on = partial(self._hand_on, place)
            run.job.broke = self._broke
            run.job.refill = self._refill
            run.driver.start_job(run.job)
            run.driver.will_wait_elsewhere()
        if not self.inline:
            make_thread(self._read, f"{self.stages[0].driver.name}-pipeline").start()

    # -- input -----------------------------------------------------------------------------------------------------

    def _window(self) -> int:
        return self._buffersize or sum(run.job.window() for run in self.stages)

    def _room(self) -> int:
        if any(run.job.unbounded for run in self.stages):  # somebody joins the pool: read all
            return 1 << 30
        return self._window() - (self._n_in - self._n_given)

    def _refill(self) -> None:
        """A driver lifts the bounds, or ends: the reader shall look again."""
        with self._lock:
            self._has_room.notify()

    def _read(self) -> None:
        """The reading thread."""
        while True:
            with self._lock:
                while not self.over and self._room() <= 0:
                    self._has_room.wait()
                room = self._room()
            if self.over or not self.read_some(room):
                self._iterator = iter(())  # hold nothing of the user's; a generator is closed
                return

    def read_some(self, n_items: int) -> bool:
        """Read so many items, and put each into the first stage as it comes. False: there are no more."""
        first = self.stages[0]
        error: BaseException | None = None
        try:
            for _ in range(n_items):
                item = next(self._iterator)
                with self._lock:
                    if self.over:
                        return False
                    tell = first.add(self._n_in, item)
                    self._n_in += 1
                if tell:
                    first.driver.feed(first.job)
            return True
        except StopIteration:
            pass
        except BaseException as problem:  # noqa: BLE001  it reaches the consumer, after the results of what was read
            error = problem
        with self._lock:
            self._exhausted = True
            self._input_error = error
            self._input_is_finite()
        self._end_if_done()
        return False

    # -- between the stages ----------------------------------------------------------------------------------------

    def _hand_on(self, place: int) -> None:
        """Take a stage's results to the next stage, or to the output."""
        run = self.stages[place]
        following = self.stages[place + 1] if place + 1 < len(self.stages) else None
        tell = False
        n_before = self._n_out
        with self._lock:
            while run.job.arrived:
                start, outcomes = run.job.arrived.popleft()
                for index, (good, value) in enumerate(outcomes, start):
                    number = run.tags.pop(index)
                    if good:
                        run.n_done += 1
                        if following is None:
                            self._put(number, True, value)
                        elif following.add(number, value):
                            tell = True
                    else:
                        run.n_failed += 1
                        self._fail(run, number, value)
            if self._ready:
                self._has_output.notify_all()
        if tell and following is not None:
            following.driver.feed(following.job)
        if self._n_out != n_before:
            if self._report is not None:
                self._report(self._n_out, self._n_failed)
            self._end_if_done()

    def _fail(self, run: StageRun, number: int, failure: Failure) -> None:
        self._n_failed += 1
        error = failure.exception
        add_note(error, f"fullcourt: in stage {run.stage.name} of a pipeline, with item {number} of its input")
        if self._return_failures:
            self._put(number, True, Failure(error, number, failure.attempt))
        else:
            self._put(number, False, error)

    def _put(self, number: int, good: bool, value: Any) -> None:
        """An item has come to its end. Under the lock."""
        self._n_out += 1
        if not self._ordered:
            self._ready.append((good, value))
            return
        self._early[number] = (good, value)
        while self._turn in self._early:
            self._ready.append(self._early.pop(self._turn))
            self._turn += 1

    # -- the end ---------------------------------------------------------------------------------------------------

    def _end_if_done(self) -> None:
        with self._lock:
            if self.over or not self._exhausted or self._n_out < self._n_in:
                return
            self.over = True
            self._has_output.notify_all()
        for run in self.stages:
            run.driver.input_ended(run.job, None)
            if run.owned:
                run.pool.close()

    def _broke(self, error: BaseException) -> None:
        """One of the pools was ended, or cannot go on: neither can the others."""
        with self._lock:
            if self._error is None:
                self._error = error
        self.stop()

    def abandon(self) -> None:
        """Nobody will take results any more, nor shut this. Waits for nobody: for the garbage collector."""
        self.stop()
        with contextlib.suppress(RuntimeError):  # the interpreter ends
            # Below `threading`, one of whose locks the thread may hold that was interrupted for the collection.
            _thread.start_new_thread(make_thread(self.shut, "pipeline-end").start, ())

    def stop(self) -> None:
        """No more results are wanted. Waits for nobody."""
        with self._lock:
            self.over = True
            self._has_output.notify_all()
            self._has_room.notify()
        for run in self.stages:
            run.driver.abandon_job(run.job)

    def close(self) -> None:
        """The consumer wants no more results, nor those that are there. Waits for the pools' ends."""
        with self._lock:
            self._closed = True
        self.stop()
        self.shut()

    def shut(self) -> None:
        """Have the pools of the stages end, and wait for it: at once if there is something left to do."""
        for run in self.stages:
            if not run.owned:
                run.driver.input_ended(run.job, None)
                continue
            if self._error is not None or not self._exhausted or run.tags:
                run.pool.terminate()
            else:
                run.pool.close()
            run.pool.join()

    # -- the consumer ----------------------------------------------------------------------------------------------

    def take(self, timeout: float | None) -> tuple[bool, Any] | None:
        """The next result: whether it is good, and what it is. None: there is none any more.

        Raises:
            TimeoutError: it has not come within so many seconds.
        """
        until = deadline(timeout)
        while self.inline and not self._ready and not self.over:
            self.read_some(1)
        with self._lock:
            while not self._ready and not self.over:
                left = None if until is None else until - monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no result within {timeout} s; the pipeline goes on")
                self._has_output.wait(left)
            if self._closed or not self._ready:
                return None
            outcome = self._ready.popleft()
            self._n_given += 1
            if not self._exhausted and 2 * self._room() >= self._window():
                self._has_room.notify()
            return outcome

    def take_error(self) -> BaseException | None:
        """What ended the run before its end, once."""
        with self._lock:
            error = self._error or self._input_error
            self._error = self._input_error = None
            return error
