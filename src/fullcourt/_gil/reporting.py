"""From a recording to its report: a pure function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fullcourt._gil.cells import HELD_OFF, HOLDER, TIME, WAITS, N, states_of
from fullcourt._gil.report import GilReport, ProcessReport, Report, ThreadReport, Times, Waits

__all__ = ["report_of"]

# Above so many hand-overs a second, what a sample sees of the holder is old before the threads are read.
MAX_HANDOVERS_HZ = 20_000.0
# Above so many cores taken by other programs, their share of our numbers is not small any more.
BUSY_CORES = 0.5
# A flag names so many processes at most.
MAX_NAMED = 4


def report_of(
    recording: Mapping[str, Any],
    names: Mapping[tuple[int, int], str] | None = None,
    workers: Mapping[int, str] | None = None,
) -> Report:
    """Compute the report of a recording.

    Args:
        recording: as `Recorder.recording` gives it.
        names: what threads are called, by process and number; the system's names elsewhere.
        workers: what processes are called; their command lines elsewhere.
    """
    by_process: dict[int, list[ThreadReport]] = {pid: [] for pid in recording["processes"]}
    for thread in recording["threads"]:
        by_process[thread["pid"]].append(_thread(thread, names or {}))
    processes = tuple(
        _process(pid, process, by_process[pid], recording, workers or {})
        for pid, process in recording["processes"].items()
    )
    methods = {process.method for process in processes}
    wall_s = recording["wall_ns"] * 1e-9
    long = [t for p in processes for t in p.threads if t.times.wall_s >= 0.1 * wall_s]
    return Report(
        wall_s=wall_s,
        method=next((m for m in ("sampled", "counters", "estimated") if m in methods), "estimated"),
        processes=processes,
        times=_sum(process.times for process in processes),
        n_samples=recording["n_samples"],
        rate_hz=recording["rate_hz"],
        uncertainty=max((thread.uncertainty for thread in long), default=1.0),
        flags=tuple(_flags(recording, processes)),
        n_cores=recording["n_cores"],
        foreign_cores=recording["foreign_cores"],
        own_cpu_s=recording["own_cpu_s"],
    )


def _thread(thread: Mapping[str, Any], names: Mapping[tuple[int, int], str]) -> ThreadReport:
    total = thread["total"]
    times = Times(*(state * 1e-6 for state in states_of(total, total)))
    wall_s = total[TIME] * 1e-6
    held_s = min(wall_s, max(times.held_s, total[HOLDER] * 1e-6))
    other_way_s = times.held_s + total[HELD_OFF] * 1e-6
    n = int(total[N])
    share = held_s / wall_s if wall_s else 0.0
    by_chance = 2.0 * (max(share * (1.0 - share), 0.01) / n) ** 0.5 if n else 1.0
    ended = thread["ended_ns"] if thread["ended_ns"] >= 0 else thread["last_ns"]
    return ThreadReport(
        pid=thread["pid"],
        tid=thread["tid"],
        name=names.get((thread["pid"], thread["tid"]), thread["name"]),
        python=thread["python"],
        began_s=thread["began_ns"] * 1e-9,
        ended_s=ended * 1e-9,
        times=times,
        gil_held_s=held_s,
        held_off_core_s=held_s - times.held_s,
        waits=_waits(thread["waits"]),
        uncertainty=min(1.0, max(by_chance, abs(other_way_s - held_s) / wall_s if wall_s else 0.0)),
        n_samples=n,
    )


def _waits(histogram: list[float]) -> Waits:
    n = sum(histogram)
    uppers = [*WAITS, 2 * WAITS[-1]]
    longest = max((upper for upper, count in zip(uppers, histogram, strict=True) if count), default=0)

    def quantile(share: float) -> float:
        left = share * n
        lower = 0.0
        for upper, count in zip(uppers, histogram, strict=True):
            if count and left <= count:
                return lower + (upper - lower) * left / count
            left -= count
            lower = float(upper)
        return float(longest)

    return Waits(n, quantile(0.5), quantile(0.95), float(longest)) if n else Waits(0.0, 0.0, 0.0, 0.0)


def _process(
    pid: int,
    process: Mapping[str, Any],
    threads: list[ThreadReport],
    recording: Mapping[str, Any],
    workers: Mapping[int, str],
) -> ProcessReport:
    threads.sort(key=lambda thread: (-thread.times.cpu_s - thread.times.gil_wait_s, thread.began_s))
    ended = process["ended_ns"] if process["ended_ns"] >= 0 else recording["wall_ns"]
    gils = tuple(
        GilReport(gil["held_share"], gil["switches"] / (gil["seen_ns"] * 1e-9))
        for gil in process["gils"]
        if gil["seen_ns"]
    )
    return ProcessReport(
        pid=pid,
        parent=process["parent"],
        name=workers.get(pid, process["name"]),
        python=process["python"],
        method=process["method"],
        began_s=process["began_ns"] * 1e-9,
        ended_s=ended * 1e-9,
        threads=tuple(threads),
        times=_sum(thread.times for thread in threads),
        gils=gils,
        n_threads=process["n_threads"],
        unseen_cpu_s=process["unseen_cpu_s"],
    )


def _sum(times: Iterable[Times]) -> Times:
    total = Times()
    for each in times:
        total += each
    return total


def _flags(recording: Mapping[str, Any], processes: tuple[ProcessReport, ...]) -> Iterable[str]:
    if recording["n_samples"] < 100:
        yield f"only {recording['n_samples']} samples were taken: the shares are rough"
    foreign = recording["foreign_cores"]
    if foreign > BUSY_CORES:
        yield (
            f"other programs took {foreign:.1f} of {recording['n_cores']} cores meanwhile: the time with the GIL may be"
            " 5 points off, the split of CPU time 15"
        )
    for process in processes:
        for gil in process.gils:
            if gil.handovers_per_s > MAX_HANDOVERS_HZ:
                yield (
                    f"the GIL of process {process.pid} changed hands {gil.handovers_per_s:,.0f} times a second: more"
                    " than can be followed; its split may be 15 points off"
                )
        if process.method == "sampled" and not process.python and process.pid == recording["pid"]:
            yield f"no Python from 3.11 to 3.15 was found in process {process.pid}: of its GIL nothing is known"
    closed = [process for process in processes if process.method == "counters"]
    if closed:
        yield f"the system does not let us look into {_named(closed)}: of the GIL there nothing is known"
    unseen = [process for process in processes if process.unseen_cpu_s > 0.05 * max(process.times.cpu_s, 0.01)]
    if unseen:
        yield (
            f"threads of {_named(unseen)} that were too short to be seen used"
            f" {sum(process.unseen_cpu_s for process in unseen):.2f} s of CPU time, which is not in the table"
        )


def _named(processes: Sequence[ProcessReport]) -> str:
    """Some processes, in few words."""
    pids = [str(process.pid) for process in processes]
    if len(pids) > MAX_NAMED:
        pids[MAX_NAMED - 1 :] = [f"{len(pids) - MAX_NAMED + 1} others"]
    return (
        f"process{'es' if len(pids) > 1 else ''} {' and '.join([', '.join(pids[:-1]), pids[-1]] if pids[1:] else pids)}"
    )
