"""Why a pool is as slow as it is, in one sentence with numbers: a pure function of what was measured."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PoolFacts", "why"]

SHORT_S = 0.1  # some 25 looks at its workers
HEAVY_S = 0.0005  # pickling a small call and its result takes some 20 us


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """What was measured of a pool while it was observed. Seconds are of the wall unless they say otherwise.

    Attributes:
        active_s: from the first task's begin to the last one's end; the rest of the facts are about that time.
        n_slots: tasks that can run at once.
        n_tasks: that ended.
        n_messages: in how many messages they travelled back.
        in_tasks_s: seconds in tasks, over all slots.
        tail_s: seconds at the end for which at least half of the slots had nothing to do.
        tail_idle_s: seconds, over all slots, from the last task of each to the end.
        longest_s: of the message (a task, or some short ones) that took longest.
        longest_name: its function.
        longest_ended_last: whether it was the one that ended last.
        pickling_s: seconds in which the pool's process pickled, sent and read.
        starved_s: seconds, over all slots, for which a slot was free while tasks were still to come.
        from_iterator: whether an input was read lazily, by `imap` or `aimap`.
        on_core_s: CPU seconds of the workers.
        gil_wait_s: seconds that the workers' threads waited for a GIL.
        queued_s: seconds that they could have run and had no core.
        blocked_s: seconds that they were blocked otherwise, in tasks.
        n_native_threads: threads in the workers that are not Python's, as of BLAS, and that worked.
        n_workers: worker processes; 0 for threads.
        n_cores: cores that could be used.
        foreign_cores: cores that other programs took.
        dilation: by what a task took longer with all slots busy than with few; 0 where that was not seen.
    """

    active_s: float
    n_slots: int
    n_tasks: int
    n_messages: int
    in_tasks_s: float
    tail_s: float = 0.0
    tail_idle_s: float = 0.0
    longest_s: float = 0.0
    longest_name: str = ""
    longest_ended_last: bool = False
    pickling_s: float = 0.0
    starved_s: float = 0.0
    from_iterator: bool = False
    on_core_s: float = 0.0
    gil_wait_s: float = 0.0
    queued_s: float = 0.0
    blocked_s: float = 0.0
    n_native_threads: int = 0
    n_workers: int = 0
    n_cores: int = 1
    foreign_cores: float = 0.0
    dilation: float = 0.0

    @property
    def busy(self) -> float:
        """The share of the slots' time that was in tasks."""
        return self.in_tasks_s / (self.active_s * self.n_slots) if self.active_s and self.n_slots else 0.0

    @property
    def pickling_each_s(self) -> float:
        """Seconds of pickling, sending and reading for each task."""
        return self.pickling_s / self.n_tasks if self.n_tasks else 0.0


def why(facts: PoolFacts) -> str:
    """The one sentence: what costs most of the slots' time, and what would mend it."""
    if not facts.n_tasks or facts.active_s <= 0:
        return "The pool ran no task while it was observed."
    if facts.active_s < SHORT_S:
        return (
            f"The pool was in use for {facts.active_s:.3f} s while it was observed, which is too short to tell what "
            f"slows it: observe it with more work."
        )
    slot_s = facts.active_s * facts.n_slots
    candidates = [
        _tail(facts),
        _small(facts),
        _pickling(facts),
        _input(facts),
        _blas(facts),
        _gil(facts),
        _memory(facts),
        _slots(facts),
    ]
    found = [(cost, sentence) for cost, sentence in candidates if sentence and cost > 0.1 * slot_s]
    if found:
        return max(found)[1]
    if facts.busy < 0.6:
        return (
            f"The {facts.n_slots} slots were in tasks {facts.busy:.0%} of the time: for the rest they had nothing to"
            f" do,"
            " since too little was submitted at a time."
        )
    if facts.foreign_cores > 0.5:
        return (
            f"Other programs took {facts.foreign_cores:.1f} of the {facts.n_cores} cores; for the rest the pool is well"
            f" used: its {facts.n_slots} slots were in tasks {facts.busy:.0%} of the time."
        )
    return (
        f"The pool is well used: its {facts.n_slots} slots were in tasks {facts.busy:.0%} of the time, and"
        f" {facts.on_core_s / facts.active_s:.1f} of {facts.n_cores} cores worked for it."
    )


def _tail(facts: PoolFacts) -> tuple[float, str]:
    if not facts.longest_ended_last or facts.n_slots < 2 or facts.longest_s < 0.5 * facts.tail_s:
        return 0.0, ""
    return facts.tail_idle_s, (
        f"One long task at the end: {facts.longest_name} ran for {facts.longest_s:.2f} s,"
        f" {min(facts.tail_s, facts.longest_s):.2f} s of it"
        f" while at least half of the {facts.n_slots} slots had nothing to do ({facts.tail_s / facts.active_s:.0%} of"
        f" the"
        " time): give long tasks first, or cut them."
    )


def _small(facts: PoolFacts) -> tuple[float, str]:
    mean_s = facts.in_tasks_s / facts.n_tasks
    message_s = facts.in_tasks_s / facts.n_messages
    overhead_s = facts.active_s * facts.n_slots - facts.in_tasks_s
    if (
        message_s > 0.001
        or facts.n_tasks < 50
        or facts.pickling_each_s > HEAVY_S
        or overhead_s < 0.3 * facts.active_s * facts.n_slots
    ):
        return 0.0, ""
    each = facts.n_tasks / facts.n_messages
    travel = f"travelled {each:.0f} at a time" if each >= 1.5 else "travelled one by one"
    return overhead_s, (
        f"Tasks too small: {facts.n_tasks:,} tasks took {_duration(mean_s)} each and {travel}, so the slots were in"
        f" tasks"
        f" only {facts.busy:.0%} of the time: use map, which sends many together, or do more in each task."
    )


def _pickling(facts: PoolFacts) -> tuple[float, str]:
    share = facts.pickling_s / facts.active_s
    idle_s = facts.active_s * facts.n_slots - facts.in_tasks_s
    if share < 0.25 or not facts.n_workers or facts.pickling_each_s <= HEAVY_S:
        return 0.0, ""
    return min(idle_s, facts.pickling_s * facts.n_slots), (
        f"Pickling too heavy: the pool's process pickled, sent and read for {facts.pickling_s:.2f} of"
        f" {facts.active_s:.2f} s ({share:.0%}), and the slots were in tasks {facts.busy:.0%} of the time: send less,"
        f" such"
        " as a file's name instead of its contents, or use threads."
    )


def _input(facts: PoolFacts) -> tuple[float, str]:
    if facts.starved_s < 0.2 * facts.active_s * facts.n_slots or not facts.from_iterator:
        return 0.0, ""
    rate, could = facts.n_tasks / facts.active_s, facts.n_slots / max(1e-9, facts.in_tasks_s / facts.n_tasks)
    return facts.starved_s, (
        f"Input too slow: it gave {rate:,.0f} items a second, and the {facts.n_slots} slots could take {could:,.0f};"
        f" they"
        f" waited for it {facts.starved_s / (facts.active_s * facts.n_slots):.0%} of the time."
    )


def _blas(facts: PoolFacts) -> tuple[float, str]:
    if facts.n_native_threads < 2 or facts.queued_s < 0.3 * facts.active_s:
        return 0.0, ""
    wanted = (facts.on_core_s + facts.queued_s) / facts.active_s
    return facts.queued_s, (
        f"Threads of native libraries fight each other: {facts.n_native_threads} of them worked in the tasks (as BLAS"
        f" and"
        f" OpenMP start them), and {wanted:.1f} threads wanted one of {facts.n_cores} cores: set OMP_NUM_THREADS=1, or"
        " install threadpoolctl, so that the pool can limit them."
    )


def _gil(facts: PoolFacts) -> tuple[float, str]:
    if facts.gil_wait_s < 0.2 * facts.in_tasks_s:
        return 0.0, ""
    return facts.gil_wait_s, (
        f"The GIL: tasks waited for it {facts.gil_wait_s:.1f} of the {facts.in_tasks_s:.1f} s that they took, since"
        f" {_threads_of(facts)} share one: use more processes."
    )


def _threads_of(facts: PoolFacts) -> str:
    if not facts.n_workers:
        return f"{facts.n_slots} threads"
    return f"the {facts.n_slots // facts.n_workers} threads of each worker"


def _memory(facts: PoolFacts) -> tuple[float, str]:
    on_core = facts.on_core_s / facts.in_tasks_s if facts.in_tasks_s else 0.0
    if facts.dilation < 1.3 or on_core < 0.8 or facts.foreign_cores > 0.5:
        return 0.0, ""
    return facts.in_tasks_s * (1.0 - 1.0 / facts.dilation), (
        f"Memory-bound: a task takes {facts.dilation:.1f} times as long with all {facts.n_slots} slots busy as with"
        f" few,"
        f" though it is on a core {on_core:.0%} of the time: the slots share caches and memory, and more of them will"
        f" not"
        " help."
    )


def _slots(facts: PoolFacts) -> tuple[float, str]:
    cores = facts.on_core_s / facts.active_s
    if facts.busy < 0.85:
        return 0.0, ""
    said = f"Too few slots: all {facts.n_slots} were in tasks {facts.busy:.0%} of the time, while"
    waited = facts.blocked_s / facts.in_tasks_s if facts.in_tasks_s else 0.0
    if waited > 0.5 and cores < 0.7 * facts.n_cores:
        return facts.blocked_s, (
            f"{said} {cores:.2f} cores worked for them: tasks wait {waited:.0%} of their time, so many more can be"
            f" under"
            " way at once; threads= gives slots for little."
        )
    free = facts.n_cores - facts.foreign_cores - cores
    if facts.n_slots >= facts.n_cores or free < 0.3 * facts.n_cores:
        return 0.0, ""
    return free * facts.active_s, f"{said} {cores:.1f} of {facts.n_cores} cores worked: use more workers."


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us" if seconds < 0.001 else f"{seconds * 1e3:.1f} ms"
