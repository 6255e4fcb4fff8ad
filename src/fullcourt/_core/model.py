"""The words that the scheduler and the engines share: chunks, streams, estimates, workers, and a task's states.

A *task* is one call of the user's function. Tasks travel in *chunks*: a chunk is one task of ``submit``, or some
consecutive items of one ``map``. A *stream* is where chunks come from, in order. A task's life::

    waiting --take--> sent --(worker reads it)--> started --> result | error
       ^                |                            |
       |   taken back,  |                            +-- worker died: WorkerDied
       +-- worker died -+

"Sent" and "started" are different facts: a chunk that lies unread in a worker's link has not started, and runs
elsewhere at no cost; a task that has started is never run again unless the caller allowed it.
"""

from __future__ import annotations

from typing import Protocol

from fullcourt._core.options import Durations

__all__ = ["NESTED", "Chunk", "Estimate", "Rest", "Stream", "Worker"]

# The least priority of a stream of nested tasks: others wait for them, and hold what they need meanwhile.
NESTED = 1 << 40


class Estimate:
    """The running mean of the seconds that one function's tasks take; None until one has been measured."""

    __slots__ = ("durations", "is_heavy", "mean_s")

    def __init__(self) -> None:
        self.mean_s: float | None = None
        self.is_heavy = False  # whether chunks of them are large
        self.durations: Durations | None = None  # kept where a time limit is a multiple of their median

    def add(self, n_tasks: int, seconds: float) -> None:
        """Take in that n tasks took so many seconds together. Half the weight goes to the newest measurement."""
        per_task = seconds / n_tasks
        if self.durations is not None:
            self.durations.add(per_task)
        mean = self.mean_s
        self.mean_s = per_task if mean is None else mean + 0.5 * (per_task - mean)


class Chunk:
    """Some consecutive tasks of one stream that travel together.

    Attributes:
        id: unique in the pool, from 1 on (0 in a worker's record means "nothing yet").
        start: index of its first task in its job.
        count: how many tasks.
        estimate: what is known of the time that its tasks take.
        worker_id: where it was sent, or None while it waits.
        expected_s: what it added to that worker's load.
        done: how many of its tasks, from the first on, have ended.
    """

    __slots__ = ("count", "done", "estimate", "expected_s", "id", "start", "worker_id")

    def __init__(self, chunk_id: int, start: int, count: int, estimate: Estimate) -> None:
        self.id = chunk_id
        self.start = start
        self.count = count
        self.estimate = estimate
        self.worker_id: int | None = None
        self.expected_s = 0.0
        self.done = 0

    def may_part(self) -> bool:
        """Whether what its worker has not begun of it may go to others: items of a map that we put together."""
        return False

    def priority_of_rest(self) -> int:
        """The priority of what is given back of it when it is parted."""
        return 0

    def is_wanted(self) -> bool:
        """Whether what of it has not begun shall still run."""
        return True

    def yields_to(self, priority: int) -> bool:
        """Whether a single task of that priority may go before this where it lies unread: before items of maps."""
        return False

    def cut(self, n_tasks: int) -> Chunk:
        """Keep the first n tasks; give back a new chunk with the others. Only chunks of a map are ever cut."""
        raise NotImplementedError


class Stream(Protocol):
    """Where chunks come from. The scheduler owns ``queued`` and ``last_size``, and asks the rest."""

    queued: bool
    last_size: int
    estimate: Estimate
    priority: int  # streams of a higher one come first

    def available(self) -> int:
        """How many tasks can be taken now (0 or more)."""
        ...

    def remaining(self) -> int | None:
        """How many tasks are still to come, if that is known."""
        ...

    def fixed_size(self) -> int | None:
        """The chunk size that the caller asked for; None where the scheduler may choose."""
        ...

    def is_awaited_whole(self) -> bool:
        """Whether nobody waits for anything but its end, and its chunks may be parted: then they may be long."""
        ...

    def take(self, n_tasks: int) -> Chunk:
        """Give a chunk of at most so many tasks, at least one. Only called while some are available."""
        ...


class Rest:
    """What workers have given back of a map's chunks, as a stream.

    It is divided when its turn comes, by what is known then of the time that its tasks take; it has its map's turns
    as long as there is any of it; and what is left of it goes to nobody when its map is over.
    """

    __slots__ = ("_chunks", "estimate", "last_size", "priority", "queued")

    def __init__(self, chunk: Chunk) -> None:
        self._chunks: list[Chunk] = [chunk]
        self.estimate = chunk.estimate
        self.priority = chunk.priority_of_rest()
        self.last_size = 0
        self.queued = False

    def add(self, chunk: Chunk) -> None:
        """More of the same map came back."""
        self._chunks.append(chunk)

    def available(self) -> int:
        return sum(chunk.count for chunk in self._chunks) if self._chunks and self._chunks[0].is_wanted() else 0

    def remaining(self) -> int | None:
        return self.available()

    def fixed_size(self) -> int | None:
        return None

    def is_awaited_whole(self) -> bool:
        return False

    def take(self, n_tasks: int) -> Chunk:
        taken = self._chunks.pop(0)
        if n_tasks < taken.count:
            self._chunks.insert(0, taken.cut(n_tasks))
        return taken


class Worker:
    """What the scheduler knows of one worker.

    Attributes:
        sent: the chunks that it holds, by id, oldest first.
        load_s: how long they are expected to take.
        n_given: tasks it was given in its life.
        progress_at: when it last told of an end, or was given work while it had none.
        holding_since: since when it has held chunks without a break; meaningless while it holds none.
        held_s: for how long it held chunks before that.
        stopping: whether it was told to end.
        lent: ids of chunks that it holds whose task waits for nested tasks: their slots are lent.
        resting: whether it shall get nothing now: it is in reserve, or all its slots are lent.
        overdue: whether what it runs takes much longer than expected: then nothing is sent ahead to it.
    """

    __slots__ = (
        "held_s",
        "holding_since",
        "id",
        "lent",
        "load_s",
        "n_given",
        "n_grown",
        "overdue",
        "overtaken_by",
        "progress_at",
        "resting",
        "retiring",
        "sent",
        "stopping",
    )

    def __init__(self, worker_id: int, now: float) -> None:
        self.id = worker_id
        self.sent: dict[int, Chunk] = {}
        self.load_s = 0.0
        self.n_given = 0
        self.progress_at = now
        self.holding_since = now
        self.held_s = 0.0
        self.retiring = False
        self.stopping = False
        self.lent: dict[int, None] = {}
        self.n_grown = 0  # slots that it has in place of lent ones
        self.overtaken_by = 0  # the last chunk that went before what it had not read
        self.resting = False
        self.overdue = False
