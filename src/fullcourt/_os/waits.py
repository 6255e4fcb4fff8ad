"""How long one system call may wait, and how a wait misses no signal.

The race that was thought about. CPython runs a signal's handler between two instructions, or when a system call ends
because of the signal. One that comes after the last instruction before a call that blocks, and before the kernel is in
that call, does neither: the handler, and so Ctrl-C, waits until something else ends the call. The moment is less than a
microsecond, but a signal may be sent just then with good reason: when a task says that it has begun, the thread that
sent it is about to wait. So a long wait is divided in two, once: a short one, after which the handler runs, and the
rest. That there is such a moment before the rest, too, matters no more: nothing happens just then.
"""

from __future__ import annotations

from threading import TIMEOUT_MAX, Lock
from time import monotonic

__all__ = ["LOOK_UP_S", "acquire", "bounded", "checked", "deadline"]

LONGEST_S = 86_400.0  # epoll and poll take no more than 24 days; whoever waits for longer looks again
LOOK_UP_S = 0.05  # the first part of a long wait


def checked(timeout: float) -> float:
    """The seconds that somebody wants to wait, if they are a number: nan never comes to its end.

    Raises:
        TypeError, ValueError: they are not.
    """
    if not hasattr(timeout, "__float__"):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if timeout != timeout:  # noqa: PLR0124
        raise ValueError(f"timeout must be a number of seconds or None, not {timeout!r}")
    return timeout


def deadline(timeout: float | None) -> float | None:
    """When that many seconds will be over, by the monotonic clock. Raises what :func:`checked` raises."""
    return None if timeout is None else monotonic() + checked(timeout)


def bounded(timeout: float | None) -> float | None:
    """The seconds that one wait may take of these; the caller waits again if they were not all."""
    return timeout if timeout is None or timeout < LONGEST_S else LONGEST_S


def acquire(lock: Lock, timeout: float | None) -> bool:
    """Acquire a lock within so many seconds (None: whenever that is); in two parts, see the module's head."""
    if timeout is None:
        return lock.acquire(timeout=LOOK_UP_S) or lock.acquire()
    if timeout <= LOOK_UP_S:
        return lock.acquire(timeout=max(0.0, timeout))
    return lock.acquire(timeout=LOOK_UP_S) or lock.acquire(timeout=min(timeout - LOOK_UP_S, TIMEOUT_MAX))
