"""Locks that know death: whoever takes a lock that its holder took into the grave is told, and goes on.

Words of the monitor: for a lock, who holds it (one store decides) and, for a reentrant one, which thread and how often.
For a semaphore, how many there are in all; the table of processes says who holds how many. What is free is computed
from these, so no kill can leave the numbers in disagreement.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal, Self

from fullcourt._os import soft_stop
from fullcourt._os.identity import is_alive, me, pid_of
from fullcourt._os.soft_stop import whole
from fullcourt._transport.carried import closing_on_failure, unregister
from fullcourt.channels._handle import Handle, check_supported, whole_number
from fullcourt.channels._monitor import FIRST_WORD, Monitor, Room
from fullcourt.errors import OwnerDied

__all__ = ["BoundedSemaphore", "Lock", "Monitored", "RLock", "Semaphore"]

OWNER = FIRST_WORD
THREAD = FIRST_WORD + 1
COUNT = FIRST_WORD + 2

TOTAL = FIRST_WORD
INITIAL = FIRST_WORD + 1

MAX_VALUE = 2**31 - 1  # SEM_VALUE_MAX on Linux


class Monitored(Handle):
    """A handle whose state is a monitor's words."""

    def __init__(self) -> None:
        check_supported(type(self).__name__)
        fds = list(Monitor.make())
        with closing_on_failure(fds):
            self._open(fds)

    def _open(self, fds: list[int]) -> None:
        self._monitor = Monitor(fds[0], fds[1])
        self._words = self._monitor.words
        self._own(fds)

    @classmethod
    def _restore(cls, state: tuple[Any, ...], fds: list[int]) -> Self:  # noqa: ARG003
        handle = cls.__new__(cls)
        handle._open(fds)
        return handle

    def _forked(self) -> None:
        self._monitor.forked(self._fds[0], self._fds[1])

    def _close_all(self) -> None:
        if self._fds:
            unregister(self)
            self._monitor.close()
        super()._close_all()


class Acquirable(Monitored):
    """What can be acquired and released."""

    def _attempt(self, attempt: Attempt) -> tuple[bool, Iterable[int]]:
        """Try to take it, with the monitor's lock held. Returns whether that was done, or else who is in the way."""
        raise NotImplementedError

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take it.

        Args:
            block: whether to wait for it.
            timeout: for at most how many seconds, if ``block``; None: for ever; less than 0 is 0.

        Returns:
            Whether it was taken.

        Raises:
            OwnerDied: its holder has died without releasing it. It is taken nevertheless.
        """
        attempt = Attempt(self)
        try:
            return attempt.outcome(self._monitor.wait_until(attempt, block=block, timeout=timeout))
        except OwnerDied:
            raise
        except BaseException:  # a signal's: the caller does not know that it was taken
            if attempt.taken:
                self.release()
            raise

    async def aacquire(self, timeout: float | None = None) -> bool:
        """As :meth:`acquire`, for a coroutine. A reentrant lock is held by the event loop's thread, not by the task."""
        attempt = Attempt(self)
        try:
            return attempt.outcome(await self._monitor.wait_until_async(attempt, timeout=timeout))
        except OwnerDied:
            raise
        except BaseException:
            if attempt.taken:
                self.release()
            raise

    @whole
    def release(self) -> None:
        """Give it back.

        Raises:
            ValueError: nobody holds it; of a :class:`BoundedSemaphore`: it would exceed its initial value.
            AssertionError: this thread does not hold it, of an :class:`RLock` (the standard library's choice).
        """
        # Once begun, it is done, also if a signal's exception comes. __exit__ has the same lines, and does not call
        # this: its own beginning and this one's would be two moments at which one may come too early.
        done: list[bool] = []
        try:
            self._monitor.locked(partial(self._give_back, done), ring=True)
        except BaseException:
            if not done:
                self._monitor.locked(partial(self._give_back, done), ring=True)
            raise
        finally:
            if soft_stop.put_off is not None:
                soft_stop.heed()

    def _give_back(self, done: list[bool]) -> None:
        """Give it back, and say so in the list. With the monitor's lock held."""
        raise NotImplementedError

    def __enter__(self) -> Literal[True]:
        attempt = Attempt(self)  # what `acquire` does; after a call of that, an exception could come before the return
        try:
            attempt.outcome(self._monitor.wait_until(attempt))
        except BaseException:  # OwnerDied, or a signal's
            if attempt.taken:
                self.release()
            raise
        return True

    @whole
    def __exit__(self, *args: object) -> None:
        done: list[bool] = []
        try:
            self._monitor.locked(partial(self._give_back, done), ring=True)
        except BaseException:
            if not done:
                self._monitor.locked(partial(self._give_back, done), ring=True)
            raise
        finally:
            if soft_stop.put_off is not None:
                soft_stop.heed()


class Attempt:
    """Attempts to acquire something, and what was found: the identity of a holder that has died, or 0."""

    __slots__ = ("_what", "died", "taken")

    def __init__(self, what: Acquirable) -> None:
        self._what = what
        self.died = 0
        self.taken = False

    def __call__(self) -> tuple[bool, Iterable[int]]:
        self.taken, others = self._what._attempt(self)  # no exception comes in between: its last store decides
        return self.taken, others

    def outcome(self, done: bool) -> bool:
        """Whether it was taken; raises OwnerDied."""
        if not self.died:
            return done
        pid, name = pid_of(self.died), type(self._what).__name__
        raise OwnerDied(
            f"pid {pid} ended while it held this {name}. What it protects may be half-changed. The {name} is now held "
            f"here: put that right, and release it.",
            pid,
        )


class Lock(Acquirable):
    """A lock between processes, threads and pool tasks, as ``multiprocessing.Lock``; and it survives its holder.

    If the process that holds it ends without releasing it, however that comes about, the next :meth:`acquire` gets the
    lock and raises :exc:`fullcourt.OwnerDied`, once: as with the robust mutexes of POSIX, what the lock protects may be
    half-changed, and the one who is told may put it right. In a ``with`` statement the same is raised and the lock is
    released, so that one who does not care can simply try again. Any thread or process may release it. A thread's or
    an interpreter's end is not its process's end: what it held stays held.

    Example:
        >>> lock = Lock()
        >>> with lock:
        ...     lock.acquire(block=False)
        False
    """

    def _attempt(self, attempt: Attempt) -> tuple[bool, Iterable[int]]:
        words = self._words
        owner = words[OWNER]
        if owner:
            if is_alive(owner):
                return False, (owner,)
            attempt.died = owner
        words[THREAD] = threading.get_ident()  # only for who asks; the next store decides
        words[OWNER] = me()
        return True, ()

    def _give_back(self, done: list[bool]) -> None:
        if not self._words[OWNER]:
            raise ValueError("this Lock is not held: it was released more often than acquired")
        self._words[OWNER] = 0
        done.append(True)

    def locked(self) -> bool:
        """Whether somebody, living or dead, holds it."""
        return self._words[OWNER] != 0

    def __repr__(self) -> str:
        return f"<Lock(owner={holder(self._words)})>"


class RLock(Acquirable):
    """A lock that its holder, a thread, may acquire again, as ``multiprocessing.RLock``; and it survives its holder.

    As :class:`Lock`, except that only the thread that holds it can release it.

    Example:
        >>> lock = RLock()
        >>> with lock, lock:
        ...     pass
    """

    def _attempt(self, attempt: Attempt) -> tuple[bool, Iterable[int]]:
        words = self._words
        owner = words[OWNER]
        thread = threading.get_ident()
        if owner:
            if owner == me():
                if words[THREAD] != thread:
                    return False, ()
                words[COUNT] += 1
                return True, ()
            if is_alive(owner):
                return False, (owner,)
            attempt.died = owner
        words[THREAD] = thread
        words[COUNT] = 1
        words[OWNER] = me()
        return True, ()

    def _is_owned(self) -> bool:
        words = self._words
        return words[OWNER] == me() and words[THREAD] == threading.get_ident()

    def _give_back(self, done: list[bool]) -> None:
        """As often as it was acquired; then others may have it."""
        words = self._words
        if not self._is_owned():
            raise AssertionError("attempt to release recursive lock not owned by thread")
        words[COUNT] -= 1
        if not words[COUNT]:
            words[OWNER] = 0
        done.append(True)

    def locked(self) -> bool:
        """Whether somebody, living or dead, holds it."""
        return self._words[OWNER] != 0

    def __repr__(self) -> str:
        name = holder(self._words)
        count = "nonzero" if name.startswith("SomeOther") else self._words[COUNT] if name != "None" else 0
        return f"<RLock({name}, {count})>"


def holder(words: memoryview[int]) -> str:
    """Who holds a lock, in the words of ``multiprocessing``."""
    owner = words[OWNER]
    if owner != me():
        return "SomeOtherProcess" if owner else "None"
    if words[THREAD] != threading.get_ident():
        return "SomeOtherThread"
    processes = sys.modules.get("multiprocessing.process")
    name = processes.current_process().name if processes is not None else "MainProcess"
    thread = threading.current_thread()
    return name if thread is threading.main_thread() else f"{name}|{thread.name}"


class Semaphore(Acquirable):
    """So many of something, as ``multiprocessing.Semaphore``; and it survives its holders.

    A process that ends and has acquired more than it has released leaves what it held to the next :meth:`acquire` that
    finds none free: it takes all of it back, gets one, and raises :exc:`fullcourt.OwnerDied`. A release by a process
    that holds none counts for another one that does.

    A semaphore that begins at 0 is a signal: what is acquired was used up, nobody holds it, and no death is reported.

    Args:
        value: how many there are, 0 to 2,147,483,647.

    Raises:
        TypeError, ValueError: ``value`` is not a whole number, or out of range.

    Example:
        >>> places = Semaphore(2)
        >>> with places, places:
        ...     places.acquire(block=False)
        False
    """

    _bounded = False

    def __init__(self, value: int = 1) -> None:
        value = whole_number(value, "a semaphore's value")
        if not 0 <= value <= MAX_VALUE:
            raise ValueError(f"a semaphore's value must be from 0 to {MAX_VALUE}, not {value}")
        super().__init__()
        self._words[INITIAL] = value
        self._words[TOTAL] = value

    def _open(self, fds: list[int]) -> None:
        super()._open(fds)
        self._room = Room(self._words)

    def _held(self) -> int:
        words = self._words
        return sum(words[at] for at in self._room.entries())

    def _attempt(self, attempt: Attempt) -> tuple[bool, Iterable[int]]:
        words, room = self._words, self._room
        free = words[TOTAL] - self._held()
        if not words[INITIAL]:
            if free > 0:
                words[TOTAL] -= 1
            return free > 0, ()
        if free <= 0:
            for at in room.dead():
                if words[at]:
                    attempt.died = words[at + 1]
                    free += words[at]
                room.remove(at)
            if free <= 0:
                return False, [words[at + 1] for at in room.entries()]
        mine = room.find(me())
        if mine:
            words[mine] += 1
        else:
            room.add(me(), 1)
        return True, ()

    def _give_back(self, done: list[bool]) -> None:
        words, room = self._words, self._room
        mine = room.find(me())
        if not mine or not words[mine]:
            mine = next((at for at in room.entries() if words[at]), 0)
        if mine:
            words[mine] -= 1
            done.append(True)
            if not words[mine]:  # an entry that holds none is as good as none
                room.remove(mine)
        elif self._bounded and words[TOTAL] >= words[INITIAL]:
            raise ValueError("this BoundedSemaphore was released more often than acquired")
        else:
            words[TOTAL] += 1
            done.append(True)

    def get_value(self) -> int:
        """How many are free. What the dead hold is not, until somebody needs it."""
        return max(0, self._monitor.locked(lambda: self._words[TOTAL] - self._held()))

    def locked(self) -> bool:
        """Whether none is free."""
        return self.get_value() == 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__}(value={self.get_value()})>"


class BoundedSemaphore(Semaphore):
    """As :class:`Semaphore`, but released at most as often as acquired, as ``multiprocessing.BoundedSemaphore``.

    Example:
        >>> places = BoundedSemaphore(1)
        >>> places.release()
        Traceback (most recent call last):
            ...
        ValueError: this BoundedSemaphore was released more often than acquired
    """

    _bounded = True

    def __repr__(self) -> str:
        return f"<BoundedSemaphore(value={self.get_value()}, maxvalue={self._words[INITIAL]})>"
