"""What the conformance and the fault tests stand on: the engines, gates, and a look at /proc.

`fullcourt` is never imported here, so that collection never depends on the package.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance_tasks import Turnstile

from tests.methods import start_methods

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Engine:
    """One way to run tasks, and what a test may expect of it."""

    name: str
    options: dict[str, Any] = field(hash=False)
    n_slots: int
    n_processes: int = 0
    isolated: bool = False  # arguments and results are copies, because they travel

    @property
    def inline(self) -> bool:
        return self.n_slots == 0

    @property
    def forks(self) -> bool:
        return self.n_processes > 0

    def __str__(self) -> str:
        return self.name


def engines() -> list[Engine]:
    found = [Engine("inline", {"processes": 0}, n_slots=0), Engine("threads", {"threads": 2}, n_slots=2)]
    if "fork" in start_methods():  # tasks so short stay in its two trial threads
        found.append(Engine("auto", {"mode": "auto"}, n_slots=2))
    for method in start_methods():
        options = {"processes": 2, "start_method": method}
        found.append(Engine(method, options, n_slots=2, n_processes=2, isolated=True))
    if "fork" in start_methods():
        options = {"processes": 2, "threads": 2, "start_method": "fork"}
        found.append(Engine("fork-x-threads", options, n_slots=4, n_processes=2, isolated=True))
    if sys.version_info >= (3, 14):
        # Not the last: the shared pool of the last engine lives on, and no test could fork beside its interpreters.
        found.insert(2, Engine("interpreters", {"interpreters": 2}, n_slots=2, isolated=True))
    return found


class Gate:
    """The test's side of a `Turnstile`: learn which tasks run, and let them go on.

    Permits are bytes in a named pipe, not its end-of-file, because forked workers inherit the open ends.
    """

    def __init__(self, folder: Path) -> None:
        self.turnstile = Turnstile(str(folder / "arrivals"), str(folder / "permits"))
        os.mkfifo(self.turnstile.arrivals)
        os.mkfifo(self.turnstile.permits)
        self._arrivals_fd = os.open(self.turnstile.arrivals, os.O_RDWR | os.O_NONBLOCK)
        self._permits_fd = os.open(self.turnstile.permits, os.O_RDWR | os.O_NONBLOCK)
        self._unread = b""
        self.arrived: list[str] = []

    def wait_arrivals(self, n: int, timeout_s: float = DEADLINE_S) -> list[str]:
        """Block until ``n`` tasks in all have arrived; their tags in order of arrival."""
        end = time.monotonic() + timeout_s
        while len(self.arrived) < n:
            if not select.select([self._arrivals_fd], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"{len(self.arrived)} of {n} tasks started within {timeout_s} s: {self.arrived}")
            self._read_arrivals()
        return self.arrived

    def arrivals_so_far(self) -> list[str]:
        if select.select([self._arrivals_fd], [], [], 0)[0]:
            self._read_arrivals()
        return self.arrived

    def _read_arrivals(self) -> None:
        *lines, self._unread = (self._unread + os.read(self._arrivals_fd, 65536)).split(b"\n")
        self.arrived += [line.decode() for line in lines]

    def permit(self, n: int = 1) -> None:
        """Let ``n`` waiting (or later) tasks pass."""
        os.write(self._permits_fd, b"." * n)

    def release(self) -> None:
        """Let everybody pass: whoever still waits in a thread of this process must not wait for ever."""
        with contextlib.suppress(BlockingIOError):
            self.permit(4096)

    def close(self) -> None:
        os.close(self._arrivals_fd)
        os.close(self._permits_fd)


def descendant_pids(*, servants: bool = False) -> set[int]:
    """Live descendants of this process; with the two servants that multiprocessing keeps for ever, or without."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent, *_ = stat.read_text().rpartition(")")[2].split()
            if state not in "ZX":
                parents[int(stat.parent.name)] = int(parent)
    found: set[int] = set()
    generation = {os.getpid()}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation} - found
        found |= generation
    return {pid for pid in found if servants or not _is_multiprocessing_servant(pid)}


def _is_multiprocessing_servant(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
    return b"multiprocessing.resource_tracker" in command or b"multiprocessing.forkserver" in command


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descends_from_here(pid: int) -> bool:
    """Whether this process is among the ancestors of ``pid``: only such a one may a test kill."""
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False
        if pid == os.getpid():
            return True
    return False
