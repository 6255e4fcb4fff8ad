"""What items took, noted as they end; and the stretch that follows from it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from time import perf_counter, thread_time
from typing import TYPE_CHECKING

from fullcourt._advise.facts import Stretch
from fullcourt._os.clocks import ThreadClock, machine_busy_s, own_cpu_s, queued_s

if TYPE_CHECKING:
    from fullcourt._gil.report import Report

__all__ = ["Machine", "Part", "SlotLog", "stretch_of", "with_gil"]

# Below this an item's own wait for a core is not worth reading a file.
QUEUED_FROM_S = 0.0005


@dataclass(frozen=True, slots=True)
class Part:
    """Some items that one thread has run, one after the other."""

    ended: float
    n_items: int
    wall_s: float
    cpu_s: float
    queued_s: float


class SlotLog:
    """What one thread does. Told of the ends in that thread; looked at from another. Made in it, or with it."""

    def __init__(self, thread: threading.Thread | None = None) -> None:
        self.clock = ThreadClock(thread)
        self.parts: list[Part] = []
        self.began = perf_counter()
        self._cpu_s, self._queued_s = self.clock.read() if thread is not None else (thread_time(), queued_s())
        self._cpu_at_begin, self._queued_at_begin = self._cpu_s, self._queued_s
        self._looked = self.began

    def ended(self, n_items: int, wall_s: float) -> None:
        """So many items have ended, in so many seconds together."""
        cpu_s = thread_time()
        waited_s = queued_s() if wall_s > QUEUED_FROM_S else self._queued_s
        own_s = min(cpu_s - self._cpu_s, wall_s)
        part = Part(perf_counter(), n_items, wall_s, own_s, min(waited_s - self._queued_s, wall_s - own_s))
        self.parts.append(part)
        self._queued_s = waited_s
        self._looked = part.ended
        self.begins()  # what it took to look is nobody's

    def begins(self) -> None:
        """What is spent from here on is the next items'."""
        if perf_counter() - self._looked > QUEUED_FROM_S:  # it waited for work meanwhile, and then for a core
            self._queued_s = queued_s()
        self._cpu_s = thread_time()

    def so_far(self) -> tuple[float, float, float]:
        """Wall, CPU and queued seconds since this was made; from any thread, also while an item runs."""
        cpu_s, waited_s = self.clock.read()
        if not cpu_s:
            cpu_s = self._cpu_s
        return (
            perf_counter() - self.began,
            max(0.0, cpu_s - self._cpu_at_begin),
            max(0.0, waited_s - self._queued_at_begin),
        )


class Machine:
    """The whole machine's and this process's clocks, from one look to the next."""

    def __init__(self) -> None:
        self._at = perf_counter()
        self._busy_s = machine_busy_s()
        self._own_s = own_cpu_s()

    def look(self) -> tuple[float, float, float]:
        """Since the last look: seconds, CPU seconds of this process and its ended children, foreign cores."""
        now, busy_s, own_s = perf_counter(), machine_busy_s(), own_cpu_s()
        elapsed, own = now - self._at, own_s - self._own_s
        foreign = 0.0
        if busy_s is not None and self._busy_s is not None and elapsed > 0:
            # Both count in ticks of 10 ms: of a short time they say little.
            foreign = max(0.0, busy_s - self._busy_s - own - 0.02) / elapsed
        self._at, self._busy_s, self._own_s = now, busy_s, own_s
        return elapsed, own, foreign


def stretch_of(logs: list[SlotLog], since: float, until: float, own_cpu_s: float) -> Stretch | None:
    """What items took that began and ended between two moments; None: none did."""
    parts = [part for log in logs for part in log.parts if since <= part.ended - part.wall_s and part.ended <= until]
    n_items = sum(part.n_items for part in parts)
    if not n_items:
        return None
    wall_s = sum(part.wall_s for part in parts)
    cpu_s = sum(part.cpu_s for part in parts)
    each = [(part.wall_s - part.queued_s) / part.n_items for part in parts]
    mean = sum(each) / len(each)
    # Two threads that take turns at the GIL need not both run: one may come to all of the items.
    elapsed = max(part.ended for part in parts) - min(part.ended - part.wall_s for part in parts)
    helper_s = own_cpu_s - cpu_s
    if helper_s < 0.15 * elapsed + 0.02:  # that may be our own looking, and ticks of 10 ms
        helper_s = 0.0
    return Stretch(
        n_items=n_items,
        at_work=max(1.0, wall_s / max(elapsed, 1e-9)),
        wall_s=wall_s / n_items,
        cpu_s=cpu_s / n_items,
        queued_s=sum(part.queued_s for part in parts) / n_items,
        helper_s=helper_s / n_items,
        spread=(sum((one - mean) ** 2 for one in each) / len(each)) ** 0.5 / mean if mean > 0 else 0.0,
    )


def with_gil(stretch: Stretch, report: Report, thread_ids: list[int]) -> Stretch:
    """The stretch with what a sampler saw of its threads' GIL."""
    threads = [thread for process in report.processes for thread in process.threads if thread.tid in thread_ids]
    wall_s = sum(thread.times.wall_s for thread in threads)
    cpu_s = sum(thread.times.cpu_s for thread in threads)
    n_samples = sum(thread.n_samples for thread in threads)
    if report.method != "sampled" or wall_s <= 0 or n_samples < 15:
        return stretch
    off_s = sum(thread.held_off_core_s for thread in threads)
    held_s = sum(thread.times.held_s for thread in threads)
    on = min(1.0, held_s / cpu_s) if cpu_s > 0.002 else 1.0
    off_s -= sum(thread.times.queued_s for thread in threads)  # for want of a core, which tells nothing of the function
    off = off_s / wall_s if off_s > 0.1 * wall_s else 0.0  # less is chance
    return replace(
        stretch,
        gil_s=stretch.cpu_s * on + stretch.wall_s * off,
        gil_wait_s=stretch.wall_s * sum(thread.times.gil_wait_s for thread in threads) / wall_s,
    )
