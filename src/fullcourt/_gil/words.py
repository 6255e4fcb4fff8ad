"""What a report means and what to do about it, in sentences with the numbers in them: a pure function of a report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fullcourt._gil.palette import STYLES
from fullcourt._gil.report import ProcessReport, Report, ThreadReport

__all__ = ["advice"]

FEW_LOOKS = 10
SIDE_JOB = 0.1  # a thread that works for less than this share of its time waits because it has nothing to do

FREE = " What threads share (reference counts, lists, dictionaries) costs them CPU time there, and no waiting."


class Said(NamedTuple):
    """A sentence, and the seconds that it is about: the more, the more important."""

    seconds: float
    sentence: str


def advice(report: Report) -> tuple[str, ...]:
    """The sentences, the most important first; at least one."""
    found: list[Said] = []
    for process in report.processes:
        if process.times.wall_s > 0 and process.python and process.method != "counters":
            found += _of_process(process, report)
    found += _of_machine(report)
    found.sort(key=lambda said: -said.seconds)
    said = list(dict.fromkeys(each.sentence for each in found))[:6]
    if said or report.n_samples >= FEW_LOOKS:
        return tuple(said) or ("Nothing held the program up for long.",)
    return (f"With {report.n_samples} looks at the program it cannot be told what held it up: observe it for longer.",)


def _of_process(process: ProcessReport, report: Report) -> Iterable[Said]:
    wall_s = max(1e-9, process.ended_s - process.began_s)
    where = "" if len(report.processes) == 1 else f" in {_title(process)}"
    times = process.times
    starved = [thread for thread in process.threads if is_starved(thread, process)]
    if starved:
        worst = max(starved, key=lambda thread: thread.times.gil_wait_s)
        yield Said(worst.times.gil_wait_s + wall_s, _convoy(worst, _who(worst, process), len(starved) - 1, where))
    contenders = [t for t in process.threads if t.gil_held_s > 0.05 * wall_s]
    if process.gils and len(contenders) > 1 and times.gil_wait_s > 0.2 * wall_s:
        busy = max(gil.held_share for gil in process.gils)
        n = len(contenders)
        yield Said(
            times.gil_wait_s,
            f"One thread at a time can hold the GIL{where}: it was held {busy:.0%} of the time, and {n} threads waited"
            f" for it for {times.gil_wait_s:.1f} s in all. Worker processes have a GIL each; so have interpreters, and"
            " free-threaded Python has none.",
        )
    off_s = sum(blocked_with_gil_s(thread) for thread in process.threads)
    if off_s > 0.05 * wall_s:
        yield Said(
            off_s + wall_s,
            f"The GIL was held for {off_s:.1f} s by threads that were blocked{where}: native code that waits without"
            " letting go of it, so nobody else can run. Put that call into a process of its own.",
        )
    if times.native_s > 0.5 * wall_s and process.method == "sampled":
        gil = "without the GIL" if process.gils else "and there is no GIL in this process"
        yield Said(
            0.5 * times.native_s,
            f"{times.native_s / wall_s:.1f} cores worked {gil}{where}, on average: that part runs in parallel on"
            f" threads.{'' if process.gils else FREE}",
        )
    lock_s = sum(t.times.lock_s for t in process.threads if t.times.cpu_s > SIDE_JOB * t.times.wall_s)
    if lock_s > 0.3 * wall_s:
        yield Said(
            0.8 * lock_s,
            f"Threads that also work waited {lock_s:.1f} s for another lock than the GIL{where}: a queue that is empty"
            " or full, or a lock that is held for long.",
        )
    waited_s = times.network_s + times.file_s
    if process.n_threads > 1 and waited_s > 0.5 * wall_s * len(process.threads) and times.cpu_s < 0.3 * wall_s:
        kind = "network" if times.network_s >= times.file_s else "file"
        yield Said(
            0.3 * waited_s,
            f"The threads{where} mostly {STYLES[kind].meaning} ({waited_s / times.wall_s:.0%} of their time), and used"
            f" {times.cpu_s / wall_s:.2f} cores: more threads, or asyncio, would have more under way at once.",
        )


def is_starved(thread: ThreadReport, process: ProcessReport) -> bool:
    """Whether a thread needs the GIL little, but waits for it much, beside others that hold it long: a convoy."""
    wall_s = thread.times.wall_s
    others_s = sum(other.gil_held_s for other in process.threads if other is not thread)
    return (
        thread.gil_held_s + thread.times.cpu_s < 0.25 * wall_s
        and thread.times.gil_wait_s > 0.15 * wall_s
        and thread.times.gil_wait_s > 2.0 * thread.gil_held_s
        and others_s > 0.5 * wall_s
        and thread.python is not False
        and thread.n_samples > 20
    )


def _who(thread: ThreadReport, process: ProcessReport) -> str:
    """A thread's name, and its number where others have that name too."""
    if sum(other.name == thread.name for other in process.threads) > 1:
        return f"{thread.name} {thread.tid}".strip()
    return thread.name or str(thread.tid)


def _convoy(thread: ThreadReport, who: str, n_others: int, where: str) -> str:
    wall_s = thread.times.wall_s
    waits = thread.waits
    each = ""
    if waits.n:
        each = f" (about {waits.p50_ms:.0f} ms each time, more than {waits.p95_ms:.0f} ms one time in twenty)"
    others = f", and so do {n_others} others" if n_others > 1 else ", and so does another thread" if n_others else ""
    return (
        f"Convoy{where}: {who} needs the GIL {thread.gil_held_s / wall_s:.0%} of the time but"
        f" waits for it {thread.times.gil_wait_s / wall_s:.0%}{each}, behind threads that compute{others}. A shorter"
        " sys.setswitchinterval (0.0005) helps it; moving the computing into processes cures it."
    )


def blocked_with_gil_s(thread: ThreadReport) -> float:
    """Seconds for which a thread held the GIL and was blocked, as far as they are not the queue for a core."""
    return max(0.0, thread.held_off_core_s - thread.times.queued_s)


def _of_machine(report: Report) -> Iterable[Said]:
    queued_s, wall_s = report.times.queued_s, max(1e-9, report.wall_s)
    if queued_s > 0.3 * wall_s:
        working = (report.times.cpu_s + queued_s) / wall_s
        if report.foreign_cores > 0.5:
            why = f"other programs took {report.foreign_cores:.1f} of the {report.n_cores} cores"
        else:
            why = f"{working:.1f} threads wanted one of the {report.n_cores} cores on average: fewer workers would do"
        yield Said(queued_s, f"Threads that could have run had no core for {queued_s:.1f} s: {why}.")


def _title(process: ProcessReport) -> str:
    return f"process {process.pid}" if not process.name else f"process {process.pid} ({process.name[:40]})"
