"""Locks that an exception out of a signal's handler cannot leave held.

In Python 3.14 ``with lock:`` has a gap, which 3.13 and 3.15 do not have: signal handlers may run after the lock was
taken and before its release is seen to. If one raises there (Ctrl-C's does), the lock is held for ever. In a loop
around an empty ``with`` that happened to 6 of 10 interrupts; to a test of alarms, once in some runs, and everything
that used the lock hung. Ours is taken by an instruction after which no handler runs, and released by one C function.

``lock.acquire()`` before a ``try`` has such a gap in every Python: so these locks are held by ``with``. So has ``with
condition:``, whose class is written in Python; here it takes and releases its lock itself.
"""

from __future__ import annotations

import _thread
import sys
import threading

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Bell", "Condition", "Letter", "make_lock", "make_rlock"]

if not TYPE_CHECKING and (3, 14) <= sys.version_info < (3, 15):
    take = _thread.RLock.acquire

    class GaplessRLock(_thread.RLock):
        """A re-entrant lock. Its `__exit__` is the base class's."""

        __slots__ = ()

        def __enter__(self) -> None:
            [_] = map(take, (self,))  # handlers run after calls, and at a function's begin: not after this

    class GaplessLock(GaplessRLock):
        """One that a thread which holds it does not get again by `acquire`: the garbage collector may ask so."""

        __slots__ = ()

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            return not self._is_owned() and super().acquire(blocking, timeout)

    make_lock, make_rlock = GaplessLock, GaplessRLock
else:
    make_lock = threading.Lock
    make_rlock = threading.RLock


class Condition(threading.Condition):
    """A condition whose ``with`` calls its lock's own functions."""

    def __init__(self, lock: Any = None) -> None:
        super().__init__(make_rlock() if lock is None else lock)

    if not TYPE_CHECKING:
        __enter__ = property(lambda self: self._lock.__enter__)
        __exit__ = property(lambda self: self._lock.__exit__)


class Bell:
    """Wakes the one who waits for it, also by a ring that came before. Rings that nobody has waited for count as one.

    A ring is one call of C that takes no lock: the garbage collector may ring, and a signal's handler come in between.

    Not by a ``SimpleQueue``: in Python 3.11 and 3.12 its ``get`` waits for ever if the time is over before its wait has
    begun, as on a busy machine that of 2 ms may be (the time left is then below 0, which means no time-out).
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()  # released: it has rung
        self._lock.acquire()

    def ring(self) -> None:
        """Have a wait end."""
        try:  # noqa: SIM105  quicker so
            self._lock.release()
        except RuntimeError:
            pass  # it has rung

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a ring. False: none came within so many seconds."""
        return self._lock.acquire() if timeout is None else self._lock.acquire(timeout=max(0.0, timeout))


class Letter:
    """A value that one thread waits for and another one brings, once."""

    __slots__ = ("_bell", "_value")

    def __init__(self) -> None:
        self._bell = Bell()
        self._value: Any = None

    def put(self, value: Any) -> None:
        """Bring it."""
        self._value = value
        self._bell.ring()

    def get(self, timeout: float) -> Any:
        """It, or None: it has not come within so many seconds."""
        self._bell.wait(timeout)
        return self._value
