"""Runs the jobs of `fullcourt demo` in each way, and measures them.

A job's serial run comes first and picks its own files: as many as fit into the time. The other ways then do the same
files. The start of a pool is measured by itself: it is paid once, however long the job.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import sysconfig
import time
import warnings
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fullcourt.cli import demo_jobs, demo_server
from fullcourt.cli.demo_jobs import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


__all__ = ["DELAY_S", "Job", "Run", "Way", "run_all", "source_files", "ways"]

DELAY_S: Final = 0.020
_N_THREADS: Final = 16
# Looks a second at the pool: few, so that what is compared is not slowed; a run takes a second or more.
_RATE_HZ: Final = 50.0
# More would spend the demonstration on starting them.
_MAX_PROCESSES: Final = 16
# A bigger file is one long task, which would keep one core busy at the end while the others stand idle.
_MAX_FILE_BYTES: Final = 100_000


@dataclass(frozen=True)
class Way:
    """A way to run a job.

    Attributes:
        name: Such as `threads`.
        pool: Keyword arguments of the pool; empty for the plain loop.
        n_slots: Tasks at once.
        n_gils: How many GILs its threads are spread over; 0 where there is none.
    """

    name: str
    pool: dict[str, int]
    n_slots: int
    n_gils: int


@dataclass(frozen=True)
class Run:
    """What one way of running a job took.

    Attributes:
        seconds: From the first call to the last result, without the start of the pool.
        start_s: The start of the pool.
        cpu_s: CPU seconds in the tasks.
        in_tasks_s: Seconds from begin to end of each task, added up.
        queued_s: Of these, seconds in which a task could have run but had no core; `None` if that could not be seen.
        others: Cores that other programs used meanwhile; `None` if that could not be seen.
        equal: Whether the results equal the serial ones.
        records: The tasks; empty if it failed.
        begun: Clock reading at which it began.
        error: Why it could not run.
        gil_wait_s: Seconds that the slots waited for a GIL, as `pool.observe` measured it; `None` if it could not.
    """

    way: Way
    seconds: float = 0.0
    start_s: float = 0.0
    cpu_s: float = 0.0
    in_tasks_s: float = 0.0
    queued_s: float | None = None
    others: float | None = None
    equal: bool = True
    records: list[Record] = field(default_factory=list, repr=False)
    begun: float = 0.0
    error: str = ""
    gil_wait_s: float | None = None

    @property
    def cores_busy(self) -> float:
        """How many cores worked in the tasks, on average."""
        return self.cpu_s / self.seconds if self.seconds else 0.0

    @property
    def slots_queued(self) -> float | None:
        """How many slots waited for a core, on average."""
        return self.queued_s / self.seconds if self.seconds and self.queued_s is not None else None

    @property
    def slots_waiting_for_gil(self) -> float | None:
        """How many slots waited for a GIL, on average, as it was measured."""
        return self.gil_wait_s / self.seconds if self.seconds and self.gil_wait_s is not None else None

    @property
    def slots_blocked(self) -> float:
        """How many slots were blocked, on average (by the GIL, a socket, a file); without `queued_s` also queued."""
        return max(0.0, self.slots_busy - self.cores_busy - (self.slots_queued or 0.0))

    @property
    def slots_busy(self) -> float:
        """How many slots had a task, on average."""
        return self.in_tasks_s / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Job:
    """A job with all its runs; the first one is serial."""

    name: str
    n_files: int
    runs: list[Run]

    def speed_up(self, run: Run) -> float:
        """Return how many times faster than the serial run it was."""
        return self.runs[0].seconds / run.seconds if run.seconds else 0.0


def source_files() -> list[str]:
    """Return the source files of the running Python's standard library, in a mixed order that is always the same."""
    root = Path(sysconfig.get_path("stdlib"))
    found = sorted(str(path) for path in root.rglob("*.py") if "site-packages" not in path.parts and path.is_file())
    random.Random(1).shuffle(found)
    return found


def ways(n_cores: int) -> list[Way]:
    """Return the ways that this Python has, the plain loop first."""
    n = min(max(2, n_cores), _MAX_PROCESSES)
    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    gil = 0 if free else 1
    found = [
        Way("serial", {}, 1, gil),
        Way("free threads" if free else "threads", {"threads": _N_THREADS}, _N_THREADS, gil),
        Way("processes", {"processes": n}, n, gil * n),
        Way("both", {"processes": n, "threads": _N_THREADS}, n * _N_THREADS, gil * n),
    ]
    if sys.version_info >= (3, 14):
        found.append(Way("interpreters", {"interpreters": n}, n, gil * n))
    return found


def run_all(seconds: float, n_cores: int, tell: Callable[[str], None]) -> list[Job]:
    """Run the three jobs in every way; `tell` hears what is being done.

    Args:
        seconds: How long each job should take serially, about.
        n_cores: Cores that may be used.
        tell: Called before each step with a few words.
    """
    tell("reading the standard library")
    files = [path for path in source_files() if _warm(path) <= _MAX_FILE_BYTES]
    n_fetches = max(20, round(seconds / DELAY_S * 4 / 3))
    with warnings.catch_warnings(), _server(files[:n_fetches], DELAY_S) as (base, server_pid):
        demo_jobs.quiet()
        urls = [f"{base}/{number}" for number in range(min(n_fetches, len(files)))]
        jobs: list[Job] = []
        for name, items, limit_s in (("compute", files, seconds), ("native", files, seconds), ("wait", urls, 1e9)):
            tell(f"{name}: serial")
            first, *others = ways(n_cores)
            serial, items_done = _serial(first, name, items, limit_s, server_pid)
            runs = [serial]
            for way in others:
                tell(f"{name}: {way.name}")
                runs.append(_parallel(way, name, items_done, serial, server_pid))
            jobs.append(Job(name, len(items_done), runs))
        return jobs


def _serial(way: Way, job: str, items: Sequence[str], limit_s: float, server_pid: int) -> tuple[Run, list[str]]:
    """Run one after the other until the time is over; return the items that were done."""
    busy = _Busy(server_pid)
    begun = time.monotonic()
    records: list[Record] = []
    for item in items:
        records.append(demo_jobs.timed(job, item))
        if records[-1].ended - begun > limit_s:
            break
    seconds = time.monotonic() - begun
    return _run(way, seconds, 0.0, records, busy.others(), True, begun), list(items[: len(records)])


def _parallel(way: Way, job: str, items: list[str], serial: Run, server_pid: int) -> Run:
    from fullcourt import Pool, errors

    options: dict[str, Any] = dict(way.pool)
    busy = _Busy(server_pid)
    starting = time.monotonic()
    try:
        with Pool(initializer=demo_jobs.quiet, name="demo", **options) as pool:
            pool.map(demo_jobs.ready, range(way.n_slots), chunksize=1)
            with pool.observe(rate=_RATE_HZ) as seen:
                begun = time.monotonic()
                records = pool.map(partial(demo_jobs.timed, job), items)
                seconds = time.monotonic() - begun
            gil_wait_s = seen.facts.gil_wait_s if seen.report.method == "sampled" else None
    except (errors.FullcourtError, OSError, RuntimeError, NotImplementedError) as error:
        return Run(way, equal=False, error=f"{type(error).__name__}: {error}")
    equal = [record.result for record in records] == [record.result for record in serial.records]
    return _run(way, seconds, begun - starting, records, busy.others(), equal, begun, gil_wait_s)


def _run(
    way: Way,
    seconds: float,
    start_s: float,
    records: list[Record],
    others: float | None,
    equal: bool,
    begun: float,
    gil_wait_s: float | None = None,
) -> Run:
    cpu_s = sum(record.cpu_s for record in records)
    in_tasks_s = sum(record.ended - record.started for record in records)
    queued = [record.queued_s for record in records if record.queued_s is not None]
    queued_s = sum(queued) if len(queued) == len(records) else None
    return Run(way, seconds, start_s, cpu_s, in_tasks_s, queued_s, others, equal, records, begun, gil_wait_s=gil_wait_s)


class _Busy:
    """Tells how many cores other programs used since it was made: the machine's CPU time less that of our processes."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._started = time.monotonic()
        self._machine = _machine_cpu_s()
        self._ours = self._our_cpu_s()

    def others(self) -> float | None:
        machine = _machine_cpu_s()
        if machine is None or self._machine is None:
            return None
        foreign_s = (machine - self._machine) - (self._our_cpu_s() - self._ours)
        return max(0.0, foreign_s / (time.monotonic() - self._started))

    def _our_cpu_s(self) -> float:
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in parentheses may hold spaces; utime and stime are fields 14 and 15 (proc(5)).
            after = Path(f"/proc/{self._server_pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            own += (int(after[11]) + int(after[12])) / os.sysconf("SC_CLK_TCK")
        return own


def _machine_cpu_s() -> float | None:
    """Return the CPU seconds that all programs together have used; `None` where /proc does not say."""
    try:
        with open("/proc/stat", encoding="utf-8") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None


def _warm(path: str) -> int:
    """Read a file, so that no run pays for the disk; return its size."""
    try:
        with open(path, "rb") as file:
            return len(file.read())
    except OSError:
        return _MAX_FILE_BYTES + 1


@contextlib.contextmanager
def _server(paths: list[str], delay_s: float) -> Iterator[tuple[str, int]]:
    """Run the web server in a process of its own, so that it does not share our GIL; yield its address and pid."""
    command = [sys.executable, "-P", str(Path(demo_server.__file__)), str(delay_s)]
    pipe = subprocess.PIPE
    # A session of its own: a Ctrl-C is for us, and we end it in good order.
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8", start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write("".join(f"{path}\n" for path in paths) + "\n")
            process.stdin.flush()
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError("the demonstration's web server on 127.0.0.1 did not start; see above")
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()  # it ends with its input
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
