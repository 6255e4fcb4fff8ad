"""Chunks and streams for the scheduler's tests: the smallest that keep the protocol of `fullcourt._core.model`.

They check the scheduler's side of that protocol too: that it takes only from a stream that has something, and at
least one task at a time.
"""

from __future__ import annotations

import itertools

from fullcourt._core.model import Chunk, Estimate

Task = tuple[int, int]  # number of the stream, index in it

chunk_ids = itertools.count(1)


class Piece(Chunk):
    """A chunk that knows its tasks."""

    __slots__ = ("stream",)

    def __init__(self, stream: Work, start: int, count: int) -> None:
        super().__init__(next(chunk_ids), start, count, stream.estimate_of_next())
        self.stream = stream

    def __repr__(self) -> str:
        return f"Piece {self.id} (stream {self.stream.number}, {self.start}+{self.count}, {self.done} done)"

    @property
    def tasks(self) -> list[Task]:
        return [(self.stream.number, self.start + i) for i in range(self.count)]

    @property
    def open_tasks(self) -> list[Task]:
        return self.tasks[self.done :]

    def yields_to(self, priority: int) -> bool:
        return self.stream.estimates is None and self.stream.priority <= priority

    def may_part(self) -> bool:
        return self.stream.estimates is None and self.stream.fixed is None

    def priority_of_rest(self) -> int:
        return self.stream.priority

    def is_wanted(self) -> bool:
        return not self.stream.is_over

    def cut(self, n_tasks: int) -> Piece:
        assert 0 <= n_tasks < self.count
        rest = Piece(self.stream, self.start + n_tasks, self.count - n_tasks)
        self.count = n_tasks
        return rest


class Work:
    """A stream of ``total`` tasks, to which more may come.

    Args:
        fixed: the caller's chunk size.
        estimates: given for a stream of calls: each chunk has the next of these for its own, as calls of several
            functions do. Else all chunks share one, as those of a map do.
    """

    priority = 0
    is_over = False  # whether what was given back of it shall not run any more

    def __init__(
        self,
        total: int,
        fixed: int | None = None,
        *,
        estimates: list[Estimate] | None = None,
        length_known: bool = True,
        priority: int = 0,
    ) -> None:
        self.number = next(chunk_ids)
        self.total = total
        self.taken = 0
        self.fixed = fixed
        self.length_known = length_known
        self.estimate = Estimate()
        self.estimates = itertools.cycle(estimates) if estimates else None
        self.queued = False
        self.priority = priority
        self.last_size = 0

    def estimate_of_next(self) -> Estimate:
        return self.estimate if self.estimates is None else next(self.estimates)

    def available(self) -> int:
        return self.total - self.taken

    def remaining(self) -> int | None:
        return self.total - self.taken if self.length_known else None

    def fixed_size(self) -> int | None:
        return self.fixed

    def is_awaited_whole(self) -> bool:
        return self.length_known and self.estimates is None and self.fixed is None

    def take(self, n_tasks: int) -> Piece:
        assert self.available() > 0, "taken from a stream that has nothing"
        assert n_tasks >= 1, "a chunk of nothing"
        piece = Piece(self, self.taken, min(n_tasks, self.available()))
        self.taken += piece.count
        return piece


def timed(mean_s: float) -> Estimate:
    """An estimate of so many seconds a task."""
    estimate = Estimate()
    estimate.add(1, mean_s)
    return estimate
