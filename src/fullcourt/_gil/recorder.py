"""Samples in, a recording out: pure, and bounded in memory. For the sampler: imports little.

What a thread did between two samples is told by two sources. The kernel's counters (schedstat) say exactly for how long
it was on a core and for how long it could have been but was not; the rest of the time it was blocked. The sample says
whether it held the GIL, or in which call it was blocked. So

    wall = run + queued + blocked           exact
    run = held + native                     in the proportion of the samples that saw it runnable
    blocked = gil_wait + lock + sleep + ... in the proportion of the samples that saw it blocked

and the parts add up, whatever the samples saw. A runnable thread is either on a core or in the queue for one: each
sample counts as much as the counters' change from the sample before it to the one after it says that it was on a core
(done for all samples together instead, it shows 6 to 10 % of native code that is not there). One that has just been
woken counts for neither: the kernel serves timers together, so samples meet threads that wake up more often than by
chance, and one that wakes up to take the GIL does not hold it yet (counted as native code, it was 3 to 11 points).

A recording is made of plain lists, dictionaries and numbers, so that it can be marshalled and kept as a file:

    {"version", "began_ns", "wall_ns", "rate_hz", "n_samples", "cell_ns", "own_cpu_s", "foreign_cores", "n_cores",
     "processes": {pid: {"parent", "name", "python", "method", "began_ns", "ended_ns", "unseen_cpu_s", "n_threads",
                         "gils": [{"switches", "seen_ns", "held_share", "owners"}]}},
     "threads": [{"pid", "tid", "name", "python", "began_ns", "ended_ns", "last_ns", "total", "cells", "waits"}]}

All times are counted from the recording's begin. A cell is a list in the order of `CELL`, in microseconds, and so is a
thread's total.
"""

from __future__ import annotations

from array import array

from fullcourt._gil.cells import (
    EMPTY,
    HELD_OFF,
    HOLDER,
    N_CELL,
    QUEUE,
    RUN,
    RUNNABLE,
    TIME,
    W_BLOCKED,
    W_HELD,
    W_NATIVE,
    W_WOKEN,
    WAITS,
    WOKEN,
    N,
)
from fullcourt._gil.waits import GIL_WAIT, LOCK

__all__ = ["Recorder"]

FIRST_CELL_NS = 5_000_000  # the default switch interval: a hand-over is one cell
MAX_CELLS = 100_000  # of 100 bytes or so: 10 MB, and half a megabyte of page
MAX_OWNERS = 20_000
MAX_LANES = 400  # of threads; what comes later is added to its process's last lane


class Lane:
    """What is kept of a thread."""

    __slots__ = (
        "began", "blocked_since", "cells", "ended", "last", "name", "off_core", "on_core", "pending", "pid", "python",
        "queued", "run", "tid", "total", "waits",
    )  # fmt: skip

    def __init__(self, pid: int, tid: int, name: str, at: int, run: int, queued: int) -> None:
        self.pid = pid
        self.tid = tid
        self.name = name
        self.python: bool | None = None
        self.began = self.last = at
        self.ended = -1
        self.run = run
        self.queued = queued
        self.total = [0.0] * N_CELL
        self.cells: dict[int, array[float]] = {}
        self.waits = [0.0] * (len(WAITS) + 1)
        self.blocked_since = -1
        self.pending = 0.0  # the time that the last sample stands for if the thread was runnable, negative if it held
        self.on_core = self.off_core = 0.0  # the changes of the counters before that sample


class Recorder:
    """Takes samples. One thread only; times are nanoseconds of one clock."""

    def __init__(self, began_ns: int) -> None:
        self.began = self.last = began_ns
        self.cell_ns = FIRST_CELL_NS
        self.n_samples = 0
        self.processes: dict[int, dict[str, object]] = {}
        self.lanes: dict[int, Lane] = {}
        self._gils: dict[tuple[int, int], Owners] = {}
        self._folded: dict[int, Lane] = {}
        self._n_cells = 0
        self._cpu_s: dict[int, float] = {}

    def process(self, pid: int, parent: int, name: str, python: str, method: str) -> None:
        """A process came into view, or became another program."""
        known = self.processes.get(pid)
        began = known["began_ns"] if known is not None else self.last - self.began
        self.processes[pid] = {
            "parent": parent, "name": name, "python": python, "method": method, "began_ns": began, "ended_ns": -1,
            "unseen_cpu_s": 0.0, "n_threads": known["n_threads"] if known is not None else 0,
        }  # fmt: skip

    def process_ended(self, pid: int, at: int, cpu_s: float = 0.0) -> None:
        """It is gone, or is a zombie; it had used so many CPU seconds."""
        self.processes[pid]["ended_ns"] = at - self.began
        self._cpu_s[pid] = cpu_s

    def forget(self, pid: int) -> None:
        """A process is none of the program's."""
        self.processes.pop(pid, None)
        for key in [key for key, lane in self.lanes.items() if lane.pid == pid]:
            del self.lanes[key]

    def thread(self, key: int, pid: int, tid: int, name: str, at: int, run: int, queued: int) -> None:
        """A thread came into view; `run` and `queued` are its counters then."""
        process = self.processes[pid]
        process["n_threads"] = int(process["n_threads"]) + 1  # type: ignore[call-overload]
        self.lanes[key] = Lane(pid, tid, name, at, run, queued)

    def thread_ended(self, key: int, at: int) -> None:
        """It is gone; what it did since its last sample is not known."""
        lane = self.lanes[key]
        lane.ended = lane.last
        if len(self.lanes) <= MAX_LANES:
            return
        folded = self._folded.get(lane.pid)
        if folded is None:
            folded = self._folded[lane.pid] = Lane(lane.pid, 0, "threads that ended", lane.began, 0, 0)
            self.lanes[-lane.pid] = folded
        folded.ended = max(folded.ended, lane.ended)
        _add(folded.total, lane.total)
        for index, cell in lane.cells.items():
            _add(self._cell(folded, index), cell)
        self._n_cells -= len(lane.cells)
        del self.lanes[key]

    def sample(self, key: int, at: int, state: int, holds: bool, run: int, queued: int) -> None:
        """One thread, looked at.

        Args:
            key: the thread.
            at: when.
            state: `RUNNABLE`, `WOKEN`, or of the blocked ones in `waits.STATES`.
            holds: whether it holds a GIL; with a blocked one, confirmed by a second look.
            run: its counter of nanoseconds on a core.
            queued: the same of those in which it could have run.
        """
        lane = self.lanes[key]
        time = (at - lane.last) * 1e-3
        if time <= 0:
            return
        on_core, off_core = max(0, run - lane.run) * 1e-3, max(0, queued - lane.queued) * 1e-3
        lane.run, lane.queued = run, queued
        parts = [(TIME, time), (RUN, on_core), (QUEUE, off_core), (N, 1.0)]
        if lane.pending:
            self._resolve(lane, on_core, off_core, parts)
        if state == RUNNABLE:
            lane.pending = time if not holds else -time
            lane.on_core, lane.off_core = on_core, off_core
            if holds:
                parts.append((HOLDER, time))
        elif state == WOKEN:
            parts.append((W_WOKEN, time))
        else:
            parts.append((W_BLOCKED if state == GIL_WAIT else W_BLOCKED + 1 + state - LOCK, time))
            if holds:
                parts += ((HELD_OFF, time), (HOLDER, time))
        total = lane.total
        for index, amount in parts:
            total[index] += amount
        self._spread(lane, lane.last - self.began, at - self.began, parts)
        self._wait(lane, state, at)
        lane.last = at

    def _resolve(self, lane: Lane, on_core: float, off_core: float, parts: list[tuple[int, float]]) -> None:
        """Say of the last sample, in which the thread was runnable, how likely it was on a core."""
        on_core += lane.on_core
        off_core += lane.off_core
        share = on_core / (on_core + off_core) if on_core + off_core else 1.0
        if lane.pending < 0:
            parts += ((W_HELD, -lane.pending * share), (HELD_OFF, -lane.pending * (1.0 - share)))
        else:
            parts.append((W_NATIVE, lane.pending * share))
        lane.pending = 0.0

    def _wait(self, lane: Lane, state: int, at: int) -> None:
        """Keep how long waits for the GIL are.

        A wait is seen from about half an interval before its first sample to half an interval before the sample after
        it. One that is shorter than the interval is seen by chance only, and counts for those that were not.
        """
        if state == GIL_WAIT:
            if lane.blocked_since < 0:
                lane.blocked_since = (lane.last + at) // 2
        elif lane.blocked_since >= 0 and state != WOKEN:  # whoever waits for the GIL is woken now and then, to ask
            interval = at - lane.last
            length = (lane.last + at) // 2 - lane.blocked_since
            length_ms = length * 1e-6
            index = next((i for i, upper in enumerate(WAITS) if length_ms <= upper), len(WAITS))
            lane.waits[index] += max(1.0, interval / length) if length > 0 else 1.0
            lane.blocked_since = -1

    def gil(self, pid: int, number: int, at: int, owner: int, switches: int) -> None:
        """A GIL, looked at: the key of the thread that holds it (0: nobody), and its counter of switches."""
        owners = self._gils.get((pid, number))
        if owners is None:
            owners = self._gils[pid, number] = Owners(at - self.began, switches)
        owners.see(at - self.began, owner, switches)

    def sampled(self, at: int) -> None:
        """All threads were looked at."""
        self.last = at
        self.n_samples += 1

    def _spread(self, lane: Lane, begin: int, end: int, parts: list[tuple[int, float]]) -> None:
        width = self.cell_ns
        first, last = begin // width, (end - 1) // width
        if first == last:
            cell = self._cell(lane, first)
            for index, amount in parts:
                cell[index] += amount
        else:
            length = end - begin
            for number in range(first, last + 1):
                share = (min(end, (number + 1) * width) - max(begin, number * width)) / length
                cell = self._cell(lane, number)
                for index, amount in parts:
                    cell[index] += amount * share
        while self._n_cells > MAX_CELLS:
            self._coarsen()

    def _cell(self, lane: Lane, number: int) -> array[float]:
        cell = lane.cells.get(number)
        if cell is None:
            cell = lane.cells[number] = array("f", EMPTY)
            self._n_cells += 1
        return cell

    def _coarsen(self) -> None:
        """Make two cells one, everywhere."""
        self.cell_ns *= 2
        self._n_cells = 0
        for lane in self.lanes.values():
            cells: dict[int, array[float]] = {}
            for number, cell in lane.cells.items():
                half = cells.get(number // 2)
                if half is None:
                    cells[number // 2] = cell
                else:
                    _add(half, cell)
            lane.cells = cells
            self._n_cells += len(cells)

    def recording(self, at: int, cpu_s: dict[int, float] | None = None) -> dict[str, object]:
        """All that was seen up to now; the sampler adds what it knows of itself and of the machine.

        Args:
            at: now.
            cpu_s: CPU seconds of the processes that live, as the system counts them.
        """
        processes = {pid: dict(process, gils=[]) for pid, process in self.processes.items()}
        seen_s = dict.fromkeys(processes, 0.0)
        for lane in self.lanes.values():
            seen_s[lane.pid] += lane.total[RUN] * 1e-6
        for pid, used_s in {**self._cpu_s, **(cpu_s or {})}.items():
            processes[pid]["unseen_cpu_s"] = max(0.0, used_s - seen_s[pid])
        keys = {key: index for index, key in enumerate(self.lanes)}
        for (pid, _), owners in sorted(self._gils.items()):
            processes[pid]["gils"].append(owners.plain(keys))  # type: ignore[attr-defined]
        return {
            "version": 1,
            "began_ns": self.began,
            "wall_ns": at - self.began,
            "n_samples": self.n_samples,
            "cell_ns": self.cell_ns,
            "processes": processes,
            "threads": [_plain(lane, self.began) for lane in self.lanes.values()],
        }


class Owners:
    """Who held a GIL when: a list of changes, coarsened when it grows long."""

    __slots__ = ("_changes", "_first", "_free", "_held", "_last", "_step", "_switches", "_then")

    def __init__(self, at: int, switches: int) -> None:
        self._changes: list[tuple[int, int]] = []
        self._first = self._switches = switches
        self._held = self._free = 0
        self._then = self._last = at
        self._step = 0

    def see(self, at: int, owner: int, switches: int) -> None:
        if owner:
            self._held += at - self._last
        else:
            self._free += at - self._last
        self._last = at
        self._switches = switches
        changes = self._changes
        if changes and (changes[-1][1] == owner or at - changes[-1][0] < self._step):
            return
        changes.append((at, owner))
        if len(changes) > MAX_OWNERS:
            self._step = max(FIRST_CELL_NS, 2 * self._step)
            kept = changes[:1]
            for change in changes:
                if change[0] - kept[-1][0] >= self._step and change[1] != kept[-1][1]:
                    kept.append(change)
            self._changes = kept if len(kept) <= MAX_OWNERS // 2 else kept[::2]

    def plain(self, keys: dict[int, int]) -> dict[str, object]:
        """Owners as places in the recording's list of threads, -1 for nobody."""
        seen = self._held + self._free
        return {
            "switches": self._switches - self._first,
            "seen_ns": seen,
            "held_share": self._held / seen if seen else 0.0,
            "owners": [[at // 1000, keys.get(owner, -1)] for at, owner in self._changes],
        }


def _add(to: list[float] | array[float], cell: list[float] | array[float]) -> None:
    for index in range(N_CELL):
        to[index] += cell[index]


def _plain(lane: Lane, began: int) -> dict[str, object]:
    return {
        "pid": lane.pid,
        "tid": lane.tid,
        "name": lane.name,
        "python": lane.python,
        "began_ns": lane.began - began,
        "ended_ns": lane.ended - began if lane.ended >= 0 else -1,
        "last_ns": lane.last - began,
        "total": lane.total,
        "waits": lane.waits,
        "cells": {number: [round(amount, 1) for amount in cell] for number, cell in sorted(lane.cells.items())},
    }
