"""What /proc says of processes and threads (proc(5)). For the sampler: imports little."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "children_of", "command_of", "cpu_of", "inner_tid", "is_zombie", "machine_cpu_s", "name_of", "read_link",
    "stack_of",
]  # fmt: skip


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and waits to be reaped, or is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split(None, 1)[0] in (b"Z", b"X")
    except OSError:
        return True


def children_of(pid: int, tids: Iterable[int]) -> list[int]:
    """The processes that a process has started and that live."""
    found: list[int] = []
    for tid in tids:
        try:
            with open(f"/proc/{pid}/task/{tid}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
        except OSError:
            continue
    return found


def cpu_of(pid: int) -> float:
    """CPU seconds of a process with all its threads, also those that ended; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def stack_of(pid: int) -> int:
    """Where a process's stack begins: a fork has its parent's, a new program one of its own; 0 if that is not told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[25])
    except (OSError, ValueError, IndexError):
        return 0


def machine_cpu_s() -> float:
    """CPU seconds that all programs together have used; 0 where /proc does not say."""
    try:
        with open("/proc/stat", "rb") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0


def command_of(pid: int) -> str:
    """A process's command line, cut to a readable length."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(2048).decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    text = " ".join(" ".join([os.path.basename(words[0]), *words[1:]]).split())
    return text if len(text) <= 80 else text[:77] + "..."


def name_of(pid: int, tid: int) -> str:
    """What the system calls a thread; from Python 3.14 on, what Python calls it."""
    try:
        with open(f"/proc/{pid}/task/{tid}/comm", "rb") as file:
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def inner_tid(pid: int, tid: int) -> int:
    """A thread's number in its own PID namespace (proc(5): NSpid)."""
    try:
        with open(f"/proc/{pid}/task/{tid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"NSpid:"):
                    return int(line.split()[-1])
    except (OSError, ValueError):
        pass
    return tid


def read_link(pid: int) -> str:
    """Which executable a process runs; empty where that may not be seen."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
