"""What a recording says, in numbers: frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fullcourt._gil.waits import STATES

__all__ = ["GilReport", "ProcessReport", "Report", "ThreadReport", "Times", "Waits"]


@dataclass(frozen=True, slots=True)
class Times:
    """A stretch of wall time, split: the parts add up to `wall_s`. All in seconds.

    Attributes:
        held_s: held the GIL, on a core. On a Python that runs without a GIL this is 0.
        native_s: on a core without the GIL: native code that let go of it, or Python code where there is none.
        gil_wait_s: waited for the GIL.
        queued_s: could have run, but had no core.
        lock_s: blocked by another lock.
        sleep_s: asleep.
        network_s: blocked by a socket or a pipe, or waiting for one of several.
        file_s: blocked by a file.
        other_s: blocked by something else, such as the end of a process.
    """

    held_s: float = 0.0
    native_s: float = 0.0
    gil_wait_s: float = 0.0
    queued_s: float = 0.0
    lock_s: float = 0.0
    sleep_s: float = 0.0
    network_s: float = 0.0
    file_s: float = 0.0
    other_s: float = 0.0

    @property
    def wall_s(self) -> float:
        """All parts together."""
        return self.cpu_s + self.gil_wait_s + self.queued_s + self.blocked_s

    @property
    def cpu_s(self) -> float:
        """On a core."""
        return self.held_s + self.native_s

    @property
    def blocked_s(self) -> float:
        """Blocked by something else than the GIL."""
        return self.lock_s + self.sleep_s + self.network_s + self.file_s + self.other_s

    def shares(self) -> dict[str, float]:
        """Each part's share of the whole, by the state's name; all 0 where there was no time."""
        wall_s = self.wall_s or 1.0
        return {name: getattr(self, f"{name}_s") / wall_s for name in STATES}

    def __add__(self, other: Times) -> Times:
        return Times(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Waits:
    """How long a thread waited for the GIL, each time: estimated from what the samples saw of each wait.

    Attributes:
        n: about how many waits of a millisecond or more there were.
        p50_ms: half of them were shorter.
        p95_ms: 95 of 100 were shorter.
        max_ms: about the longest one.
    """

    n: float
    p50_ms: float
    p95_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class ThreadReport:
    """A thread, as it was observed.

    Attributes:
        pid: its process.
        tid: its number (`threading.get_native_id`); 0 for several that ended, taken together.
        name: its name.
        python: whether it runs Python; None where that cannot be told.
        began_s: when it was first seen, in seconds since the recording began.
        ended_s: when it was last seen.
        times: its time, split.
        gil_held_s: seconds for which it held the GIL, on a core or not.
        held_off_core_s: those of them for which it had no core, or was blocked: nobody can run meanwhile.
        waits: its waits for the GIL.
        uncertainty: of the share of time with the GIL, as a share: 0.02 says two points of 100 up or down. It is what
            the samples leave to chance, or by how much the two ways to compute it differ, whichever is more.
        n_samples: how often it was looked at.
    """

    pid: int
    tid: int
    name: str
    python: bool | None
    began_s: float
    ended_s: float
    times: Times
    gil_held_s: float
    held_off_core_s: float
    waits: Waits
    uncertainty: float
    n_samples: int


@dataclass(frozen=True, slots=True)
class GilReport:
    """A GIL: of a process, or of one of its sub-interpreters.

    Attributes:
        held_share: the share of the time for which somebody held it.
        handovers_per_s: how often it went from one thread to another, counted by Python itself.
    """

    held_share: float
    handovers_per_s: float


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """A process, as it was observed.

    Attributes:
        pid: its number.
        parent: that of the process which started it; 0 for the observed program itself.
        name: its command line, or a worker's name.
        python: as ``"3.13"``, ``"3.13t"`` for a free-threaded build; empty if no Python that we know was found in it.
        method: ``"sampled"``: its GIL was seen. ``"counters"``: the system did not let us look; only the kernel's
            counters of its threads' time were. ``"estimated"``: neither; see `Report.method`.
        began_s: when it was first seen, in seconds since the recording began.
        ended_s: when it was last seen.
        threads: its threads, the busiest first.
        times: their times, added up.
        gils: its GILs: none on a Python that runs without.
        n_threads: how many threads it had in all; those that were too short to be seen are not among `threads`.
        unseen_cpu_s: CPU seconds of threads that were too short to be seen.
    """

    pid: int
    parent: int
    name: str
    python: str
    method: str
    began_s: float
    ended_s: float
    threads: tuple[ThreadReport, ...]
    times: Times
    gils: tuple[GilReport, ...]
    n_threads: int
    unseen_cpu_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What was observed.

    Attributes:
        wall_s: for how long.
        method: ``"sampled"``, ``"counters"`` or ``"estimated"``: the best that any process allowed.
        processes: the program first, then what it started, in the order in which they were seen.
        times: all threads' times, added up.
        n_samples: how often all was looked at.
        rate_hz: the same, a second.
        uncertainty: the largest one of a thread that was seen for at least a tenth of the time.
        flags: what makes the numbers less certain, in words.
        n_cores: cores that could be used.
        foreign_cores: cores that other programs took meanwhile, on average.
        own_cpu_s: CPU seconds that looking took.
    """

    wall_s: float
    method: str
    processes: tuple[ProcessReport, ...]
    times: Times
    n_samples: int
    rate_hz: float
    uncertainty: float
    flags: tuple[str, ...]
    n_cores: int
    foreign_cores: float
    own_cpu_s: float

    def thread(self, tid: int, pid: int | None = None) -> ThreadReport | None:
        """The thread of that number (`threading.get_native_id`), which may since have been used again: the last one."""
        for process in self.processes:
            for thread in process.threads:
                if thread.tid == tid and pid in (None, process.pid):
                    return thread
        return None
