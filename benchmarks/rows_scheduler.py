"""The scheduler alone, on a simulated engine: what a task costs it with many workers and many queued tasks."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from time import perf_counter

from benchmarks.measuring import OURS, Contender, Once, Row, Target
from fullcourt._core.model import Chunk, Estimate
from fullcourt._core.scheduler import Scheduler

__all__ = ["SimulatedStream", "rows", "simulate"]


class SimulatedStream:
    """Single calls that wait, as a count."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.next_id = 1
        self.queued = False
        self.last_size = 1
        self.estimate = Estimate()

    def available(self) -> int:
        return self.n

    def remaining(self) -> int | None:
        return None

    def fixed_size(self) -> int | None:
        return 1

    def take(self, n_tasks: int) -> Chunk:
        self.n -= 1
        self.next_id += 1
        return Chunk(self.next_id, 0, 1, self.estimate)


def simulate(n_workers: int, n_queued: int, n_tasks: int) -> float:
    """Run tasks through a scheduler whose workers answer at once, in turn. Returns seconds per task."""
    scheduler = Scheduler(n_workers, 1)
    scheduler.opened(0.0)
    scheduler.actions.clear()
    stream = SimulatedStream(n_queued + n_tasks)
    scheduler.stream_filled(stream, 0.0)
    held: deque[Chunk] = deque()
    now = 0.0
    began = perf_counter()
    for _ in range(n_tasks):
        if scheduler.actions:
            actions, scheduler.actions = scheduler.actions, []
            held.extend(action[2] for action in actions if action[0] == "send")
        now += 1e-5
        scheduler.ended(held.popleft(), 1, 1e-3, now)
    return (perf_counter() - began) / n_tasks


def growth(few: tuple[int, int], many: tuple[int, int], n_tasks: int) -> Contender:
    @contextlib.contextmanager
    def make() -> Iterator[Once]:
        yield lambda: simulate(*many, n_tasks) / simulate(*few, n_tasks)

    return Contender(OURS, f"cost per task with (workers, queued) {many} / with {few}", make)


def rows(*, quick: bool) -> list[Row]:
    n = 5_000 if quick else 50_000
    return [
        Row("workers", "scheduler's cost per task: 1,000 workers against 2", "ratio",
            [growth((2, 1000), (1000, 5000), n)], [Target(None, 1.5)]),
        Row("queued", "scheduler's cost per task: 1,000,000 queued against 1,000", "ratio",
            [growth((2, 1000), (2, 1_000_000), n)], [Target(None, 1.5)]),
    ]  # fmt: skip
