"""The operating system, as far as the package needs it: process ends, process trees, parent's death.

The only door to ctypes, signals and /proc. Linux first; each function says what it does elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys

__all__ = ["become_subreaper", "descendants", "die_with_parent", "die_with_peer", "kill_tree", "open_pidfd"]

PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36


def open_pidfd(pid: int) -> int:
    """A descriptor that becomes readable when that process ends; -1 where the system has none (before Linux 5.3)."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        import ctypes

        result: int = ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return False
    return result == 0


def become_subreaper() -> bool:
    """Make this process the one to which its orphaned descendants fall. False where the system has no such thing."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent does end.

    Only for a child of a single-threaded process: the signal comes when the *thread* that forked ends (prctl(2)).
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)


def die_with_peer(lifeline: int) -> None:
    """Have the kernel end this process when the process that holds this socket's other end is gone.

    Nothing is ever sent through it: the only event is its end, and the default for SIGIO is to end the process. It
    needs no thread, which would get no turn while the GIL is held, and no ctypes, whose import takes 10 ms.
    """
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(AttributeError, OSError):  # not on every Unix
            signal.signal(signal.SIGIO, signal.SIG_DFL)
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([lifeline], [], [], 0)[0]:  # it went before the call
            os.kill(os.getpid(), signal.SIGKILL)


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


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """Kill a process and all below it with SIGKILL. It is stopped first, so that it cannot start others meanwhile."""
    if itself:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGSTOP)
    below = descendants(pid)
    if itself:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    for child in below:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
