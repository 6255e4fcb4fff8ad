"""Running a function on a few items, alone and two at a time, and measuring: for `advise`.

The time: a part alone, a part in pairs, 0.4 s each; of items that take longer than that, one alone and beside it a
second one, whose clocks are read while they run: so at most two items that are long.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from fullcourt._advise.facts import Facts, Stretch, Transport
from fullcourt._advise.log import Machine, Part, SlotLog, stretch_of, with_gil
from fullcourt._advise.transport import measure_transport
from fullcourt._engines.build import usable_start_method
from fullcourt._os.cpus import usable_cores
from fullcourt._os.locks import Bell, make_lock
from fullcourt._os.threads import make_thread

__all__ = ["Calibration", "calibrate", "facts_of", "is_free_threaded"]

PHASE_S = 0.4
BATCH_S = 0.002
MIN_ITEMS = 3
N_SAMPLES_KEPT = 8  # items whose pickling is tried
N_RESULTS_KEPT = 1_000_000


@dataclass(frozen=True, slots=True)
class Calibration:
    """What calibrating gave.

    Attributes:
        facts: what was measured.
        results: of the items that ran for it: the first ones, in their order.
        rest: the items that did not run, those after them.
    """

    facts: Facts
    results: list[Any]
    rest: Iterator[Any]


def is_free_threaded() -> bool:
    """Whether this Python runs without a GIL now."""
    return not getattr(sys, "_is_gil_enabled", lambda: True)()


def facts_of(
    alone: Stretch, pair: Stretch | None, transport: Transport, foreign_cores: float, start_method: str | None = None
) -> Facts:
    """The facts, with what is known of this Python and this machine."""
    return Facts(
        alone=alone,
        pair=pair,
        transport=transport,
        cores=usable_cores().count,
        free_threaded=is_free_threaded(),
        foreign_cores=round(foreign_cores, 3),
        method="sampled" if alone.gil_s is not None else "clocks",
        python=sys.version.split()[0],
        start_method=usable_start_method(start_method),
    )


class Supply:
    """The items, handed out in portions to the threads that run them, and their results. Any thread may use it."""

    def __init__(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> None:
        self.fn = fn
        self.n_known = len(items) if isinstance(items, Sized) else None
        self.iterator = iter(items)
        self.samples: list[Any] = []
        self.results: list[Any] = []
        self.error: BaseException | None = None
        self.exhausted = False
        self.n_taken = 0
        self._each_s: float | None = None
        self._lock = make_lock()  # the iterator and the results; the iterator may be the user's generator
        self._most = N_RESULTS_KEPT

    def limit(self, n_items: int) -> None:
        """Hand out no more than so many in all."""
        self._most = min(n_items, N_RESULTS_KEPT)

    def take(self, n_threads: int) -> tuple[int, list[Any]]:
        """The next portion: where it begins, and the items; none at the end."""
        with self._lock:
            each_s = self._each_s
            n = 1 if each_s is None else max(1, min(4096, int(BATCH_S / max(each_s, 1e-8))))
            n = min(n, self._most - self.n_taken)
            if self.n_known is not None:
                n = min(n, max(1, (self.n_known - self.n_taken) // (4 * n_threads)))
            if n <= 0 or self.error is not None or self.exhausted:
                return 0, []
            try:
                items = list(itertools.islice(self.iterator, n))
            except BaseException as error:  # noqa: BLE001  the input's own
                self.error = error
                return 0, []
            start = self.n_taken
            self.n_taken += len(items)
            self.exhausted = len(items) < n
            self.results.extend([None] * len(items))
            if len(self.samples) < N_SAMPLES_KEPT:
                self.samples.extend(items[:1])
            return start, items

    def put(self, start: int, values: list[Any], seconds: float) -> None:
        """These are the results."""
        with self._lock:
            self.results[start : start + len(values)] = values
            self._each_s = seconds / len(values)

    def failed(self, error: BaseException) -> None:
        """An item failed: no more are handed out."""
        with self._lock:
            if self.error is None:
                self.error = error


class Runner:
    """A thread that runs items until it is told to stop."""

    def __init__(self, supply: Supply, n_threads: int, ready: Bell) -> None:
        self.log: SlotLog | None = None
        self._supply = supply
        self._n_threads = n_threads
        self._ready = ready  # rung when it has begun, and at the end
        self._stop = False
        self.is_over = False
        self.thread = make_thread(self._run, "fullcourt-advise")
        self.thread.start()

    def stop(self) -> None:
        """Begin no other portion."""
        self._stop = True

    def _run(self) -> None:
        supply, fn = self._supply, self._supply.fn
        self.log = log = SlotLog()
        self._ready.ring()
        try:
            while not self._stop:
                start, items = supply.take(self._n_threads)
                if not items:
                    break
                values: list[Any] = []
                log.begins()
                began = perf_counter()
                for item in items:
                    values.append(fn(item))  # noqa: PERF401  as a pool's slot does it
                seconds = perf_counter() - began
                supply.put(start, values, seconds)
                log.ended(len(items), seconds)  # nobody is woken: who wakes wants the GIL
        except BaseException as error:  # noqa: BLE001  `advise` raises it
            supply.failed(error)
        self.is_over = True
        self._ready.ring()


class Phase:
    """Some threads at work for a while, watched."""

    def __init__(self, supply: Supply, machine: Machine, meter: Any, phase_s: float) -> None:
        self._supply = supply
        self._machine = machine
        self._meter = meter
        self._phase_s = phase_s
        self.foreign: list[tuple[float, float]] = []
        self.runners: list[Runner] = []  # all that were ever started

    def run(self, n_threads: int) -> Stretch | None:
        """Have so many threads run, those that are still in a long item among them."""
        bell = Bell()
        self._machine.look()
        self._lap()
        carried = [runner for runner in self.runners if not runner.is_over]
        before = {id(runner): runner.log.so_far() for runner in carried if runner.log is not None}
        since = perf_counter()
        runners = carried + [Runner(self._supply, n_threads, bell) for _ in range(n_threads - len(carried))]
        self.runners += runners[len(carried) :]
        while any(runner.log is None for runner in runners):
            bell.wait()
        until = perf_counter() + self._phase_s
        while perf_counter() < until and not all(runner.is_over for runner in runners):
            bell.wait(until - perf_counter())
            if any(runner.is_over for runner in runners) and n_threads > 1:
                break
        report = self._lap()  # while the threads are there
        for runner in runners:
            runner.stop()
        logs = [runner.log for runner in runners if runner.log is not None]
        n_parts = sum(part.ended >= since for log in logs for part in log.parts)
        own = 0.0
        if n_parts and not carried:
            # What runs ends soon: no item has been seen to take long.
            each = max(part.wall_s for log in logs for part in log.parts)
            for runner in runners:
                runner.thread.join(0.5 * self._phase_s + 2 * each)
        now = perf_counter()
        so_far = [log.so_far() for log in logs]
        elapsed, own, foreign = self._machine.look()
        self.foreign.append((elapsed, foreign))
        stretch = stretch_of(logs, since, now, own) if not carried else None
        if stretch is None:
            at_begin = [before.get(id(runner), (0.0, 0.0, 0.0)) for runner in runners]
            stretch = partial_stretch(so_far, at_begin, now - since, n_threads)
        if stretch is not None and report is not None:
            stretch = with_gil(stretch, report, [log.clock.thread_id for log in logs])
        return stretch

    def _lap(self) -> Any:
        if self._meter is None:
            return None
        try:
            return self._meter.lap()
        except OSError:  # somebody killed the sampler
            self._meter = None
            return None


def partial_stretch(
    so_far: list[tuple[float, float, float]], before: list[tuple[float, float, float]], elapsed: float, n_threads: int
) -> Stretch | None:
    """What was seen of items that have not ended: the time that passed counts as one."""
    if elapsed <= 0 or not so_far:
        return None
    cpu_s = sum(now[1] - then[1] for now, then in zip(so_far, before, strict=True)) / len(so_far)
    queued = sum(now[2] - then[2] for now, then in zip(so_far, before, strict=True)) / len(so_far)
    return Stretch(0, n_threads, elapsed, min(cpu_s, elapsed), min(queued, elapsed))


def scaled(pair: Stretch, alone: Stretch) -> Stretch | None:
    """A part of items beside a part of one: by how much slower it went on, by its CPU time, in the same unit.

    None: there is no ground to compare them.
    """
    if alone.n_items and not pair.n_items:  # its items are longer than the first ones were
        return None
    if alone.n_items or pair.n_items:
        return pair
    if alone.cpu_s < 0.02 * alone.wall_s or pair.cpu_s <= 0:
        return replace(pair, wall_s=alone.wall_s, cpu_s=alone.cpu_s, queued_s=0.0)
    slower = (alone.cpu_s / alone.own_wall_s) / (pair.cpu_s / pair.own_wall_s)
    factor = alone.wall_s * slower / pair.own_wall_s
    return replace(
        pair,
        wall_s=alone.wall_s * slower,
        cpu_s=alone.cpu_s,
        queued_s=0.0,
        gil_wait_s=None if pair.gil_wait_s is None else pair.gil_wait_s * factor,
        gil_s=None if pair.gil_s is None else pair.gil_s * factor,
    )


def in_full(seen: Stretch, parts: list[Part]) -> float:
    """How much longer items took in all, as it turned out, than the part of one that was seen of it alone.

    By their CPU time, if they use it: that is the same beside another item. Else by the wall's.
    """
    n_items = sum(part.n_items for part in parts)
    if not n_items:
        return 1.0
    if seen.cpu_s > 0.1 * seen.wall_s:
        return max(1.0, sum(part.cpu_s for part in parts) / n_items / seen.cpu_s)
    return max(1.0, sum(part.wall_s for part in parts) / n_items / seen.wall_s)


def times(stretch: Stretch, factor: float) -> Stretch:
    """The same with items that take so many times as long."""
    return replace(
        stretch,
        wall_s=stretch.wall_s * factor,
        cpu_s=stretch.cpu_s * factor,
        queued_s=stretch.queued_s * factor,
        gil_s=None if stretch.gil_s is None else stretch.gil_s * factor,
        gil_wait_s=None if stretch.gil_wait_s is None else stretch.gil_wait_s * factor,
    )


def calibrate(fn: Callable[[Any], Any], items: Iterable[Any], *, phase_s: float | None = None) -> Calibration:
    """Run the function on the first few items, and measure.

    Raises:
        ValueError: there are no items.
        Exception: what the function, or the input, raised.
    """
    supply = Supply(fn, items)
    with contextlib.ExitStack() as stack:
        meter = stack.enter_context(open_meter())
        phase = Phase(supply, Machine(), meter, PHASE_S if phase_s is None else phase_s)
        n = supply.n_known
        if n is not None:
            supply.limit(max(1, n // 3))
        alone = phase.run(1)
        supply.limit(N_RESULTS_KEPT)
        pair = None
        left = n is None or supply.n_taken < n
        if supply.error is None and left and not supply.exhausted and alone is not None:
            pair = phase.run(2)
        for runner in phase.runners:
            runner.thread.join()
    if supply.error is not None:
        raise supply.error
    if alone is None or not supply.n_taken:
        raise ValueError("there are no items to try the function on: give at least one, better a few dozen")
    if pair is not None:
        pair = None if pair.n_items == 1 else scaled(pair, alone)  # one ran beside nothing
    if not alone.n_items:
        logs = [runner.log for runner in phase.runners if runner.log is not None]
        factor = in_full(alone, [part for log in logs for part in log.parts])
        alone = replace(times(alone, factor), n_items=1)
        pair = None if pair is None else times(pair, factor)
    every = max(1, len(supply.results) // N_SAMPLES_KEPT)
    transport = measure_transport(fn, supply.samples, supply.results[::every])
    total = sum(elapsed for elapsed, _ in phase.foreign) or 1.0
    foreign = sum(elapsed * cores for elapsed, cores in phase.foreign) / total
    return Calibration(facts_of(alone, pair, transport, foreign), supply.results, supply.iterator)


@contextlib.contextmanager
def open_meter() -> Iterator[Any]:
    """A meter of this process's threads, or None where the GIL cannot be seen."""
    if is_free_threaded() or os.environ.get("FULLCOURT_SAMPLER") == "off":
        yield None
        return
    from fullcourt._gil.measuring import ThreadMeter

    meter = ThreadMeter()
    try:
        meter.__enter__()
    except OSError:
        yield None
        return
    try:
        yield meter
    finally:
        meter.__exit__(None, None, None)
