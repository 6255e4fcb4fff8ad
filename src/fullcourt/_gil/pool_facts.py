"""From what was seen of a pool and of its processes to the facts that its one sentence is made of: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fullcourt._gil.pool_watch import Lane, Span
from fullcourt._gil.pool_words import PoolFacts
from fullcourt._gil.report import Report, ThreadReport

__all__ = ["dilation", "facts_of"]

ENOUGH = 5  # spans of a kind, to say something of them
MAX_COMPARED = 2_000


def facts_of(
    lanes: Sequence[Lane],
    pickling: Sequence[Span],
    report: Report,
    *,
    n_slots: int,
    n_workers: int,
    n_messages: int,
    from_iterator: bool,
) -> PoolFacts:
    """The facts.

    Args:
        lanes: the slots' tasks.
        pickling: when the pool's process pickled.
        report: of the pool's process and its workers.
        n_slots: of the pool.
        n_workers: its worker processes; 0 for threads.
        n_messages: in which tasks' results came back.
        from_iterator: whether an input was read lazily.
    """
    spans = [span for lane in lanes for span in lane.spans]
    if not spans:
        return PoolFacts(0.0, n_slots, 0, 0, 0.0)
    began, ended = min(span.began for span in spans), max(span.ended for span in spans)
    active_s = max(1e-9, ended - began)
    in_tasks_s = sum(span.seconds for span in spans)
    # A slot that never had a task was free from the begin.
    ends = sorted([max(span.ended for span in lane.spans) for lane in lanes if lane.spans])
    ends = [began] * (n_slots - len(ends)) + ends[-n_slots:]
    tail_idle_s = sum(ended - end for end in ends)
    longest = max(spans, key=lambda span: span.longest_s)
    threads = list(_threads_of_tasks(lanes, report))
    on_core_s = sum(thread.times.cpu_s for thread in threads)
    gil_wait_s = sum(thread.times.gil_wait_s for thread in threads)
    queued_s = sum(thread.times.queued_s for thread in threads)
    return PoolFacts(
        active_s=active_s,
        n_slots=n_slots,
        n_tasks=sum(span.n_tasks for span in spans),
        n_messages=n_messages,
        in_tasks_s=in_tasks_s,
        tail_s=ended - ends[(n_slots + 1) // 2 - 1],
        tail_idle_s=tail_idle_s,
        longest_s=longest.longest_s,
        longest_name=longest.name,
        longest_ended_last=longest.ended >= ended - 0.02 * active_s,
        pickling_s=covered(pickling, began, ended),
        starved_s=starved(spans, n_slots),
        from_iterator=from_iterator,
        on_core_s=on_core_s,
        gil_wait_s=gil_wait_s,
        queued_s=queued_s,
        blocked_s=max(0.0, in_tasks_s - on_core_s - gil_wait_s - queued_s),
        n_native_threads=sum(thread.python is False and thread.times.cpu_s > 0.02 * active_s for thread in threads),
        n_workers=n_workers,
        n_cores=report.n_cores,
        foreign_cores=report.foreign_cores,
        dilation=dilation(spans, n_slots),
    )


def _threads_of_tasks(lanes: Sequence[Lane], report: Report) -> Iterable[ThreadReport]:
    """The threads that ran the tasks: all of a worker process; of the pool's own process those of its slots."""
    pids = {lane.pid for lane in lanes}
    own = report.processes[0].pid if report.processes else 0
    names = {lane.name for lane in lanes if lane.pid == own}
    for process in report.processes:
        for thread in process.threads:
            if process.pid in pids and (process.pid != own or thread.name in names):
                yield thread


def starved(spans: Sequence[Span], n_slots: int) -> float:
    """The seconds, over all slots, in which one was free and tasks were still to come."""
    began, last = min(span.began for span in spans), max(span.began for span in spans)
    in_tasks_s = sum(
        span.seconds * min(1.0, (last - span.began) / max(1e-9, span.ended - span.began)) for span in spans
    )
    return max(0.0, (last - began) * n_slots - in_tasks_s)


def covered(spans: Iterable[Span], began: float, ended: float) -> float:
    """The seconds between these two in which at least one of the spans was under way."""
    total, until = 0.0, began
    for span in sorted(spans, key=lambda span: span.began):
        total += max(0.0, min(span.seconds, min(ended, span.ended) - max(until, span.began)))
        until = max(until, span.ended)
    return total


def dilation(spans: Sequence[Span], n_slots: int) -> float:
    """By what a task took longer while three quarters of the slots were busy than while a quarter was; 0: not seen."""
    if n_slots < 2 or len(spans) > MAX_COMPARED:
        return 0.0
    few: list[float] = []
    many: list[float] = []
    for span in spans:
        length = span.ended - span.began
        if length <= 0 or not span.n_tasks:
            continue
        beside = sum(
            max(0.0, min(other.ended, span.ended) - max(other.began, span.began))
            for other in spans
            if other is not span
        )
        at_once = 1.0 + beside / length
        if at_once <= max(1.1, 0.25 * n_slots):
            few.append(span.seconds / span.n_tasks)
        elif at_once >= 0.75 * n_slots:
            many.append(span.seconds / span.n_tasks)
    if len(few) < ENOUGH or len(many) < ENOUGH:
        return 0.0
    alone = sorted(few)[len(few) // 2]
    return sorted(many)[len(many) // 2] / alone if alone > 0 else 0.0
