"""The operating system, as far as the package needs it: process ends, process trees, parent's death.

The only door to ctypes, signals and /proc. Linux first; each function says what it does elsewhere.
"""

from __future__ import annotations

import _signal  # the C module under `signal`
import os
import sys

TYPE_CHECKING = False  # a fresh template imports this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "become_subreaper",
    "children",
    "descendants",
    "die_with_parent",
    "kill_tree",
    "let_trace",
    "n_oom_kills",
    "occupy_standard_descriptors",
    "open_pidfd",
    "private_bytes",
    "punch_hole",
    "resident_bytes",
    "send_signal",
    "started_at",
    "wake_promptly",
]

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36
PR_SET_PTRACER = 0x59616D61  # "Yama"
PR_SET_TIMERSLACK = 29
SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # the numbers of that system call; glibc has no function for it


def occupy_standard_descriptors() -> None:
    """Open the null device as 0, 1 and 2 where the program has closed these, as daemons do.

    Else a socket of ours would get such a number, and what the program prints would be written into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(opened, True)
            else:  # another thread was faster
                os.close(opened)


def open_pidfd(pid: int) -> int:
    """A descriptor that becomes readable when that process ends; -1 where the system has none (before Linux 5.3)."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _call(function: str, *arguments: int | bytes) -> bool:
    """Call a function of the C library. Returns whether it did what it was to do."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        import _ctypes  # the C module under `ctypes`, whose own import takes ten times as long: 10 ms

        c: Any = _ctypes
        result: int = c.call_cdeclfunction(c.dlsym(c.dlopen(None, os.RTLD_NOW), function), arguments)
    except (ImportError, OSError, AttributeError):
        return False
    return result == 0


def _prctl(option: int, value: int) -> bool:
    return _call("prctl", option, value, 0, 0, 0)


def become_subreaper() -> bool:
    """Make this process the one to which its orphaned descendants fall. False where the system has no such thing."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1)


def let_trace(pid: int) -> bool:
    """Let that process look into this one's memory, where the Yama security module would not. False: no such module."""
    return _prctl(PR_SET_PTRACER, pid)


def wake_promptly() -> bool:
    """Have the kernel wake this thread when its time has come, and not up to 3 ms later where all cores are busy.

    The thread asks for little time at once: slices of 0.1 ms, the least there is (sched(7); before Linux 6.12 those of
    ordinary threads cannot be chosen), and for no slack in its timers. False where the system has no such thing.
    """
    number = SCHED_SETATTR.get(os.uname().machine)
    if number is None:
        return False
    # struct sched_attr: size, policy (SCHED_OTHER), flags, nice, priority, runtime, deadline, period
    attributes = b"".join(
        value.to_bytes(n_bytes, sys.byteorder)
        for value, n_bytes in ((48, 4), (0, 4), (0, 8), (0, 4), (0, 4), (100_000, 8), (0, 8), (0, 8))
    )
    prompt = _prctl(PR_SET_TIMERSLACK, 1)
    return _call("syscall", number, 0, attributes, 0) and prompt


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent does end.

    Only for a child of a single-threaded process: the signal comes when the *thread* that forked ends (prctl(2)).
    """
    _prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the call
        os.kill(os.getpid(), _signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The direct children of a process, zombies included; empty where /proc has no such list."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    """All processes below one, nearest first."""
    found = children(pid)
    for child in found:  # grows while it is walked
        found.extend(children(child))
    return found


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone, or be another user's by now."""
    try:  # noqa: SIM105  a fresh template imports no `contextlib`
        os.kill(pid, number)
    except OSError:
        pass


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """Kill a process and all below it with SIGKILL. It is stopped first, so that it cannot start others meanwhile."""
    if itself:
        send_signal(pid, _signal.SIGSTOP)
    below = descendants(pid)
    for each in (pid, *below) if itself else below:
        send_signal(each, _signal.SIGKILL)


def punch_hole(fd: int, start: int, n_bytes: int) -> bool:
    """Give a range of a file's memory back to the system; it reads as zeros. False where that cannot be done."""
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        call = libc.fallocate
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
        # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, fallocate(2)
        result: int = call(fd, 3, start, n_bytes)
    except (ImportError, OSError, AttributeError):
        return False
    return result == 0


def private_bytes(pid: int) -> int:
    """The memory that a process has resident and shares with nobody, in bytes; 0 where that cannot be told.

    Pages of the process that it was forked from, while neither writes, do not count. Costs up to a millisecond for each
    gigabyte.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return 1024 * sum(int(line.split()[1]) for line in file if line.startswith(b"Private_"))
    except (OSError, ValueError, IndexError):
        return resident_bytes(pid)


def resident_bytes(pid: int) -> int:
    """The memory that a process has resident, without that of files and shared memory; 0 where that cannot be told.

    An upper bound of :func:`private_bytes`, for a tenth of a millisecond.
    """
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            fields = file.read().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def started_at(pid: int) -> float | None:
    """When a process was started, in seconds since the system's boot; None if it is gone."""
    try:
        return int(_status_of(pid)[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (SIGSTOP and the like) and not continued; False if it is gone."""
    try:
        return _status_of(pid)[0] == b"T"
    except (OSError, IndexError):
        return False


def _status_of(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on: what comes before may hold spaces. Raises OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def n_oom_kills() -> int:
    """How often the kernel's out-of-memory killer has struck: in our memory cgroup, or else on this machine."""
    for path in (*_memory_events(), "/proc/vmstat"):
        try:
            with open(path, encoding="utf-8") as file:
                for line in file:
                    name, _, value = line.partition(" ")
                    if name == "oom_kill":
                        return int(value)
        except (OSError, ValueError):
            continue
    return 0


def _memory_events() -> list[str]:
    """The file of cgroup v2 that counts such kills, if there is one."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            for line in file:
                if line.startswith("0::"):
                    return [f"/sys/fs/cgroup{line[3:].strip()}/memory.events"]
    except OSError:
        pass
    return []
