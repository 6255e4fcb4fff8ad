"""What besides pools is fullcourt's here: queues, pipes and locks, with the standard library's interface.

They need Linux; elsewhere, and where FULLCOURT_TRANSPORT=portable stands for elsewhere, each is the standard library's.
"""

from __future__ import annotations

import multiprocessing as standard
from collections.abc import Callable
from typing import Any

from fullcourt import channels
from fullcourt._engines.methods import portable_transport

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Pipe",
    "Queue",
    "RLock",
    "Semaphore",
    "SimpleQueue",
    "are_there",
]

# ruff: noqa: N802  the standard library's names


def are_there() -> bool:
    """Whether ours can be had on this system."""
    return not portable_transport()


# -- queues, pipes, locks ----------------------------------------------------------------------------------------------


def is_standard(lock: object) -> bool:
    """Whether it is a lock of the standard library: a condition of it must be that, too."""
    return type(lock).__module__ == "multiprocessing.synchronize"


def made(name: str, *args: Any) -> Any:
    return getattr(channels if are_there() else standard, name)(*args)


def Queue(maxsize: int = 0) -> Any:
    """A queue: :class:`fullcourt.Queue`."""
    return made("Queue", maxsize)


def JoinableQueue(maxsize: int = 0) -> Any:
    """A queue whose items can be waited for to be done: :class:`fullcourt.JoinableQueue`."""
    return made("JoinableQueue", maxsize)


def SimpleQueue() -> Any:
    """A queue without bound or time-outs: :class:`fullcourt.SimpleQueue`."""
    return made("SimpleQueue")


def Pipe(duplex: bool = True) -> tuple[Any, Any]:
    """The two ends of a pipe: :func:`fullcourt.Pipe`."""
    one, other = made("Pipe", duplex)
    return one, other


def Lock() -> Any:
    """A lock: :class:`fullcourt.Lock`."""
    return made("Lock")


def RLock() -> Any:
    """A lock that its holder can take again: :class:`fullcourt.RLock`."""
    return made("RLock")


def Semaphore(value: int = 1) -> Any:
    """A semaphore: :class:`fullcourt.Semaphore`."""
    return made("Semaphore", value)


def BoundedSemaphore(value: int = 1) -> Any:
    """A semaphore that is released at most as often as it was acquired: :class:`fullcourt.BoundedSemaphore`."""
    return made("BoundedSemaphore", value)


def Event() -> Any:
    """A flag that can be waited for: :class:`fullcourt.Event`."""
    return made("Event")


def Condition(lock: Any = None) -> Any:
    """A condition: :class:`fullcourt.Condition`; the standard library's, if the lock is (that of a ``Value``, say)."""
    return standard.Condition(lock) if is_standard(lock) else made("Condition", lock)


def Barrier(parties: int, action: Callable[[], object] | None = None, timeout: float | None = None) -> Any:
    """A barrier: :class:`fullcourt.Barrier`."""
    return made("Barrier", parties, action, timeout)
