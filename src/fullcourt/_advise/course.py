"""How one map goes in an auto pool: tried on threads, then where it should run, and there watched.

Each map has a thread of its own that conducts: it sleeps but for a few moments of decision.

1. *Alone:* the first items run one at a time in the pool's trial threads. Most small jobs end here, after some
   milliseconds, and no process was ever started.
2. *In pairs:* two at a time.
3. *Decided:* from what was measured follow predictions. The map moves to the driver of the mode that will be done the
   soonest, its start included; what runs ends where it runs. Where much is waited for, that is many threads first: they
   are there at once, and show how far the GIL holds them up, which two of them do not. Processes follow if it does.
4. *Watched:* if it does less than was predicted, it goes back to the trial for a quarter of a second, and moves once
   more, to where it is then expected to be faster; once. Where it runs in this process, and processes would do more if
   the items had nothing in common but the cores, and enough is left, they are tried for a moment: threads of one
   process cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic, perf_counter, process_time
from typing import TYPE_CHECKING, Any, cast

from fullcourt._advise.explain import Choice
from fullcourt._advise.facts import Facts, Stretch
from fullcourt._advise.legs import Leg, MeteredEstimate, Strays
from fullcourt._advise.model import Mode, Prediction, choose, demands_of, hoped_of_processes, predict, waits_much
from fullcourt._advise.trial import Trial
from fullcourt._advise.words import reason
from fullcourt._engines.jobs import MapJob, StreamJob
from fullcourt._os.cpus import usable_cores
from fullcourt._os.locks import Bell
from fullcourt._transport.functions import function_name
from fullcourt.errors import PoolClosed

if TYPE_CHECKING:
    from fullcourt._advise.hub import Hub

__all__ = ["Course"]

QUICK_S = 0.02  # jobs that end within this are not looked at
ALONE_S = 0.1
PAIR_S = 0.12
WORTH_S = 0.12  # less is left: not worth another mode
WIDE_S = 0.1
WINDOW_S = 0.4  # of watching, doubled up to
LONGEST_WINDOW_S = 5.0
TRY_LEFT_S = 5.0  # so much must be left for processes to be tried where they were not predicted to be faster
TRY_S = 0.3
TRY_GAIN = 1.2  # what they would do at best, to what is done now
LEAST_GAIN = 1.05  # what they are predicted to do, to what threads do
HELD_UP_CORES = 0.75  # with fewer at work, threads of one process do not wait for the GIL for long
LEAST_RATE = 1e-3  # items a second: it may be that none has ended while it was looked
STUCK_S = 0.1  # where items run one at a time, none has waited for longer behind one that does not end
SERIAL = Mode(0, 1)
BEGUN = "It has only begun."
OVER_SOON = "It was over before it was known what it is like."


class Course:
    """One map, from its begin to its end.

    Attributes:
        source: the map, as `Pool` made it.
        is_serial: whether it was decided that its items run one at a time.
    """

    def __init__(self, hub: Hub, source: MapJob) -> None:
        self.hub = hub
        self.source = source
        self.is_serial = False
        self.leg: Leg | None = None  # the one that is attached
        self.strays: Strays | None = None
        self.legs: list[Leg] = []
        self.choice = Choice(function_name(source.fn), SERIAL, BEGUN)
        self._bell = Bell()  # the collector rings, too

    # -- called from anywhere --------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Something has happened: the conductor looks."""
        self._bell.ring()

    def pump(self, leg: Leg) -> None:
        """A leg with a limit may take more. Without locks."""
        driver = leg.driver
        with driver.roles.shield, driver._lock:
            driver.scheduler.stream_filled(cast("Any", leg), monotonic())
        driver._perform()

    def so_far(self) -> Choice:
        """The choice, with the items that have ended by now: a map returns a little before its course has ended."""
        choice = replace(self.choice, n_items=self.source.n_done)
        return replace(choice, reason=OVER_SOON) if choice.reason == BEGUN and self.is_over() else choice

    def is_over(self) -> bool:
        """Whether there is nothing left to do."""
        source = self.source
        return not source.open or (isinstance(source, StreamJob) and source.abandoned)

    # -- the conductor ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Conduct, to the end."""
        try:
            self._conduct()
            while not self._sleep(None):
                pass
        except BaseException as error:  # noqa: BLE001  the map must not hang for it
            self.hub.fail(self, error)
        finally:
            self.hub.course_ended(self)

    def _sleep(self, seconds: float | None, comes: Callable[[], object] | None = None) -> bool:
        """Sleep for so long, or until it is over, or that comes. Returns whether it is over."""
        until = None if seconds is None else perf_counter() + seconds
        while not self.is_over() and not (comes is not None and comes()):
            left = None if until is None else until - perf_counter()
            if left is not None and left <= 0:
                break
            leg = self.leg
            if leg is None or not self.is_serial:
                self._bell.wait(left)
                continue
            n_before = leg.n_ended
            if not self._bell.wait(STUCK_S if left is None else min(left, STUCK_S)) and leg.n_ended == n_before:
                self._widen(leg)
        return self.is_over()

    def _widen(self, leg: Leg) -> None:
        """One item at a time was right for those that were seen, but others must not wait behind a long one."""
        if leg.limit == 1 and leg.is_running():
            leg.limit = 2
            self.pump(leg)

    def _conduct(self) -> None:
        hub, source = self.hub, self.source
        if source.options is not None and source.options.is_watched:
            why = "Its tasks have a limit of time or memory, which is kept best in processes."
            self._settle_on(Mode(max(1, usable_cores().count), 1), why)
            return
        facts = hub.known(source.fn)
        if facts is None:
            self._attach(Leg(self, hub.drivers.trial(), 1))
            self._sleep(None, lambda: hub.drivers.initialized)
            if hub.drivers.error is not None:
                raise hub.drivers.error
            if self._sleep(QUICK_S):
                self._tell("It was over before it was worth a look.", SERIAL)
                return
            facts = self._calibrate()
            if facts is None:
                return
        self._decide(facts)
        if not self.is_over():
            self._watch(facts)

    def _calibrate(self) -> Facts | None:
        """Alone, and in pairs. None: it is over, or hardly anything is left."""
        leg = self.leg
        if leg is None:
            return None
        trial = Trial(self.hub, leg, self._sleep)
        alone = trial.phase(1, ALONE_S)
        if alone is None or self.is_over() or self._is_nearly_done(alone):
            return None
        leg.limit = 2
        self.pump(leg)
        pair = trial.phase(2, PAIR_S)
        if self.is_over():
            return None
        facts = trial.facts(alone, pair)
        if alone.n_items:
            self.hub.remember(self.source.fn, facts)
        return facts

    def _n_left(self) -> int | None:
        """How many items have not ended; None: it is not known."""
        source = self.source
        if isinstance(source, StreamJob):
            if not source.exhausted:
                return None
            return max(0, source.n_total - source.n_done)
        return max(0, source._total - source.n_done)

    def _is_nearly_done(self, alone: Stretch) -> bool:
        """Whether so little is left that no other mode could gain anything."""
        n_left = self._n_left()
        if n_left is None or not alone.n_items or n_left * alone.wall_s > WORTH_S:
            return False
        self._tell("What was left when it had been looked at was too little for another mode.", SERIAL)
        self.is_serial = True
        return True

    # -- decisions -------------------------------------------------------------------------------------------------

    def _decide(self, facts: Facts, *, tried: Prediction | None = None, did: float = 0.0) -> None:
        """Go where it will be done the soonest. ``tried``: where it was, and did so many items a second."""
        n_left = self._n_left()
        predictions = predict(facts, n_items=n_left)
        if tried is not None:
            predictions = [self._corrected(p, tried, did) for p in predictions]
        chosen = choose(predictions, facts, n_items=n_left)
        if tried is None and chosen.mode.processes and waits_much(facts):
            self._begin_in_threads(facts, chosen, predictions)
            return
        words = reason(facts, demands_of(facts), chosen, predictions)
        before = None
        if tried is not None:
            before = self.choice.mode
            words = f"In {before} it did {self.choice.measured:.3g} items a second, fewer than predicted. {words}"
        self._settle_on(chosen.mode, words, chosen, facts, tuple(predictions), before)

    def _begin_in_threads(self, facts: Facts, chosen: Prediction, predictions: list[Prediction]) -> None:
        """See what many threads do; go on to worker processes if these should still be faster."""
        n_left = self._n_left()
        threads = choose([p for p in predictions if p.mode.kind == "threads"], facts, n_items=n_left)
        words = reason(facts, demands_of(facts), threads, predictions)
        self._settle_on(threads.mode, words, threads, facts, tuple(predictions))
        began, used = perf_counter(), process_time()
        did = self._see(threads, WIDE_S)
        if did is None:
            return
        cores = (process_time() - used) / (perf_counter() - began)
        self.choice = replace(self.choice, measured=did)
        is_held_up = cores > HELD_UP_CORES or chosen.mode.n_slots > threads.mode.n_slots
        gain = chosen.rate / threads.rate if is_held_up else 1.0
        hoped = replace(chosen, rate=did * gain)
        if gain > LEAST_GAIN and (n_left is None or n_left / did > LEAST_GAIN * hoped.seconds_for(n_left)):
            self._try(chosen, facts, did, f"{words} They did {did:.3g} items a second")

    @staticmethod
    def _corrected(prediction: Prediction, tried: Prediction, did: float) -> Prediction:
        """What was seen counts for more than what was predicted, for that mode and others of its kind.

        Processes of one thread and of several count as one: what the first have in common, the others have, too.
        """
        kinds = {"both" if mode.processes else mode.kind for mode in (prediction.mode, tried.mode)}
        if len(kinds) > 1 or did <= 0:
            return prediction
        factor = min(1.0, did / tried.rate)
        return replace(
            prediction, rate=prediction.rate * factor, low=prediction.low * factor, high=prediction.high * factor
        )

    def _settle_on(
        self,
        mode: Mode,
        words: str,
        predicted: Prediction | None = None,
        facts: Facts | None = None,
        predictions: tuple[Prediction, ...] = (),
        before: Mode | None = None,
    ) -> None:
        driver, mode = self.hub.drivers.for_mode(mode)
        self.choice = Choice(function_name(self.source.fn), mode, words, 0, predicted, None, before, facts, predictions)
        limit = 1 if mode == SERIAL else None
        self.is_serial = mode == SERIAL
        leg = self.leg
        if leg is not None and leg.driver is driver:
            leg.limit = limit
            assert isinstance(leg.estimate, MeteredEstimate)
            leg.estimate.note = None
            self.pump(leg)
        else:
            self._attach(Leg(self, driver, limit))

    def _attach(self, leg: Leg) -> None:
        """Have another driver take the items from now on."""
        if self.leg is not None:
            self._detach(self.leg)
        self.leg = leg
        self.legs.append(leg)
        source = self.source
        if isinstance(source, StreamJob):
            source.n_slots = leg.driver.scheduler.n_workers * leg.driver.scheduler.n_slots
        while True:
            try:
                leg.driver.start_job(leg)
                break
            except PoolClosed:
                now = self.hub.drivers.instead_of(leg.driver)
                if now is leg.driver:
                    raise
                self.legs.remove(leg)  # its worker processes were exchanged for others just now
                leg.attached = False
                self.leg = leg = Leg(self, now, leg.limit)
                self.legs.append(leg)
        if source.open:
            leg.driver.will_wait_elsewhere()
            if isinstance(source, StreamJob) and source.refill is not None:
                source.refill()  # its window may be wider now
        self.hub.wake_sleepers()

    def _detach(self, leg: Leg) -> None:
        """Have a driver take no more items; those that it has taken end there."""
        driver = leg.driver
        with driver.roles.shield, driver._lock:
            leg.attached = False
            if leg.queued:
                driver.scheduler.streams.remove(cast("Any", leg))
                leg.queued = False
            if leg.held:
                driver._held.remove(cast("Any", leg))
                leg.held = False
            driver._close_job(leg)
            driver._after_event()
        source = self.source
        source.queued = False
        if isinstance(source, StreamJob):
            source.held = False
        driver._perform()
        driver._settle([])

    # -- watching --------------------------------------------------------------------------------------------------

    def _watch(self, facts: Facts) -> None:
        """See whether it does what was predicted. If not, look again what it is like, and change over, once."""
        window_s = WINDOW_S
        has_tried = False
        while True:
            chosen, leg = self.choice.predicted, self.leg
            if chosen is None or leg is None:
                return
            each_s = self._wait_for_begin(leg, chosen)
            rate, busy = self._measure(leg, max(window_s, 3 * each_s))
            if rate is None:
                return
            self.choice = replace(self.choice, measured=rate, n_items=self.source.n_done)
            may_change = busy and self.choice.changed_from is None
            if may_change and not has_tried and self._try_processes(facts, rate):
                has_tried = True
            elif may_change and rate < chosen.low and self._is_worth_more(rate):
                self._change_over(facts, chosen, rate)
            else:
                window_s = min(2 * window_s, LONGEST_WINDOW_S)
                leg.is_settled = True
                continue
            if self.is_over():
                return
            window_s = WINDOW_S

    def _try_processes(self, facts: Facts, rate: float) -> bool:
        """If they may be much faster than what is done now, see whether they are, and stay or go back.

        Returns whether it was tried.
        """
        if self.choice.mode.processes:
            return False
        n_left = self._n_left()
        hoped = hoped_of_processes(facts, n_items=n_left)
        if hoped is None:
            return False
        now_s = (1.0 if n_left is None else n_left) / rate
        then_s = 1.0 / hoped.rate if n_left is None else hoped.seconds_for(n_left)
        if (n_left is not None and now_s < TRY_LEFT_S) or now_s < TRY_GAIN * then_s:
            return False
        self._try(hoped, facts, rate, f"{self.choice.reason} It did {rate:.3g} items a second in {self.choice.mode}")
        return True

    def _try(self, hoped: Prediction, facts: Facts, rate: float, words: str) -> None:
        """Have worker processes do it; go back if they do less than these items a second."""
        before = self.choice
        words += ", and processes might do more."
        self._settle_on(hoped.mode, words, hoped, facts, before.predictions, before.mode)
        did = self._see(hoped, TRY_S)
        if did is None:
            return
        if did > rate:
            self.choice = replace(self.choice, reason=f"{words} They do: {did:.3g}.", measured=did)
        else:
            words = f"{words} They were tried, and did not: {did:.3g}."
            self._settle_on(before.mode, words, before.predicted, facts, before.predictions)

    def _see(self, predicted: Prediction, least_s: float) -> float | None:
        """Items a second where it has just gone, over so long, or two rounds of items. None: it is over."""
        leg = self.leg
        assert leg is not None
        window_s = max(least_s, 2 * self._wait_for_begin(leg, predicted))
        rate = self._measure(leg, window_s)[0]
        took_s = leg.estimate.mean_s or 0.0
        if rate and 2 * took_s > window_s:  # a round that ended just then counts for more than it is
            rate = self._measure(leg, 2 * took_s)[0]
        return rate

    def _wait_for_begin(self, leg: Leg, predicted: Prediction) -> float:
        """Wait while workers start. Returns what an item should take there, in seconds."""
        each_s = predicted.mode.n_slots / predicted.rate
        if not leg.n_ended:
            self._sleep(2.0 + 2 * predicted.start_s + 5 * each_s, leg.has_begun)
        return each_s

    def _is_worth_more(self, rate: float) -> bool:
        """Whether enough is left to look again."""
        n_left = self._n_left()
        return n_left is None or n_left / rate > 1.0

    def _measure(self, leg: Leg, window_s: float) -> tuple[float | None, bool]:
        """Items a second (more than 0) over a while, and whether there was work all the time. None: it is over."""
        self._sleep(0.1)  # what was begun elsewhere ends, workers start
        if self.is_over():
            return None, False
        began, n_before = perf_counter(), leg.n_ended
        busy = True
        for _ in range(4):
            if self._sleep(window_s / 4):
                return None, False
            if leg.limit is None:
                busy = busy and not leg.driver.scheduler.idle and leg.queued
            else:
                busy = busy and leg.source.available() > 0
        return max(LEAST_RATE, (leg.n_ended - n_before) / (perf_counter() - began)), busy

    def _change_over(self, facts: Facts, chosen: Prediction, rate: float) -> None:
        """It does less than was predicted: items have changed, or the prediction was wrong."""
        self.is_serial = False
        self._attach(Leg(self, self.hub.drivers.trial(), 1))
        self._sleep(0.01)
        again = self._calibrate()
        if again is None:
            if not self.is_over():  # hardly anything is left
                self.choice = replace(self.choice, mode=SERIAL, changed_from=chosen.mode)
            return
        # Items that take as long as before: then it was the prediction that was wrong.
        same = 0.5 < again.alone.own_wall_s / facts.alone.own_wall_s < 2.0
        self._decide(again, tried=chosen, did=rate if same else 0.0)

    def _tell(self, words: str, mode: Mode) -> None:
        self.choice = replace(self.choice, mode=mode, reason=words)

    def end(self) -> None:
        """It is over, or shall be: the legs let go."""
        self.choice = self.so_far()
        for leg in self.legs:
            if leg is self.leg and leg.attached:
                self._detach(leg)
            leg.driver.stop_job(cast("Any", leg))
