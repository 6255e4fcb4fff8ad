"""Event, Condition and Barrier: waiting for others, some of whom may have died.

Who waits for a notification or at a barrier has an entry in the monitor's table: its value says what has become of the
waiting. So a notification goes to somebody who lives, and a barrier whose party has died breaks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Self, cast

from fullcourt._os.identity import is_alive, me, pid_of
from fullcourt._os.soft_stop import whole
from fullcourt._os.waits import deadline
from fullcourt.channels._handle import whole_number
from fullcourt.channels._locks import COUNT, OWNER, THREAD, Lock, Monitored, RLock
from fullcourt.channels._monitor import FIRST_WORD, Room
from fullcourt.errors import OwnerDied

__all__ = ["Barrier", "Condition", "Event"]

FLAG = FIRST_WORD
TIMES_SET = FIRST_WORD + 1

TICKET = FIRST_WORD

BROKEN = FIRST_WORD
PARTIES = FIRST_WORD + 1
ROUND = FIRST_WORD + 2  # entries belong to one; it ends when the last party arrives

# What has become of a waiting.
WAITS, CALLED, BROKE = 0, 1, 2


class Event(Monitored):
    """A flag that can be waited for, as ``multiprocessing.Event``. Nobody holds it, so no death can stall it.

    Example:
        >>> event = Event()
        >>> event.wait(timeout=0)
        False
        >>> event.set()
        >>> event.wait()
        True
    """

    def is_set(self) -> bool:
        """Whether it is set."""
        return bool(self._words[FLAG])

    def set(self) -> None:
        """Set it, and wake all who wait."""
        self._monitor.locked(self._set_now, ring=True)

    def _set_now(self) -> None:
        self._words[FLAG] = 1
        self._words[TIMES_SET] += 1

    def clear(self) -> None:
        """Take the flag down."""
        self._monitor.locked(lambda: self._words.__setitem__(FLAG, 0))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for at most so many seconds (None: for ever). Returns whether it was, if shortly."""
        if self._words[FLAG]:
            return True
        return self._monitor.wait_until(self._attempt(), timeout=timeout)

    async def await_set(self, timeout: float | None = None) -> bool:
        """As :meth:`wait`, for a coroutine."""
        return await self._monitor.wait_until_async(self._attempt(), timeout=timeout)

    def _attempt(self) -> Callable[[], tuple[bool, Iterable[int]]]:
        words = self._words
        before = words[TIMES_SET]
        return lambda: (words[FLAG] != 0 or words[TIMES_SET] != before, ())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {'set' if self.is_set() else 'unset'}>"


class Condition(Monitored):
    """A condition variable, as ``multiprocessing.Condition``. Only those that live are notified.

    :meth:`wait` raises :exc:`fullcourt.OwnerDied`, with the lock held, if the lock's holder died meanwhile.

    Args:
        lock: a :class:`Lock` or :class:`RLock`; a new RLock by default.

    Raises:
        TypeError: ``lock`` is something else, which has no way to tell who holds it or to travel.

    Example:
        >>> ready = Condition()
        >>> with ready:
        ...     ready.wait_for(lambda: False, timeout=0)
        False
    """

    def __init__(self, lock: Lock | RLock | None = None) -> None:
        if lock is not None and not isinstance(cast("object", lock), (Lock, RLock)):
            raise TypeError(f"the lock of a condition must be a fullcourt.Lock or RLock, not {lock!r}")
        super().__init__()
        self._bind(RLock() if lock is None else lock)

    def _bind(self, lock: Lock | RLock) -> None:
        self._lock = lock
        self.acquire = lock.acquire
        self.release = lock.release

    def _open(self, fds: list[int]) -> None:
        super()._open(fds)
        self._room = Room(self._words)

    def _state(self) -> tuple[Any, ...]:
        return (self._lock,)

    @classmethod
    def _restore(cls, state: tuple[Any, ...], fds: list[int]) -> Self:
        handle = super()._restore(state, fds)
        handle._bind(state[0])
        return handle

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    @whole
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, traceback)

    def wait(self, timeout: float | None = None) -> bool:
        """Release the lock, wait to be notified, and take the lock again.

        Args:
            timeout: for at most how many seconds; None: for ever.

        Returns:
            Whether it was notified.

        Raises:
            AssertionError: this thread does not hold the lock.
            OwnerDied: the lock's holder died meanwhile; the lock is held again.
        """
        lock, words, room = self._lock, self._words, self._room
        self._check_held("wait()")
        at = 0

        def enter() -> None:
            nonlocal at
            words[TICKET] += 1
            at = room.add(me(), WAITS, words[TICKET])

        def leave() -> None:
            nonlocal at
            if at:
                room.remove(at)
            at = 0

        times = lock._words[COUNT] if isinstance(lock, RLock) else 1
        try:
            self._monitor.locked(enter)
            try:
                for _ in range(times):
                    lock.release()
                return self._monitor.wait_until(lambda: (words[at] == CALLED, ()), timeout=timeout)
            finally:
                try:
                    self._take_again(times)
                except OwnerDied:
                    raise
                except BaseException:  # a signal's; the caller will release the lock
                    self._take_again(times)
                    raise
        finally:
            try:
                self._monitor.locked(leave)
            except BaseException:  # a signal's; nobody shall be notified in vain
                self._monitor.locked(leave)
                raise

    def _take_again(self, times: int) -> None:
        died: OwnerDied | None = None
        while self._times_held() < times:
            try:
                self._lock.acquire()
            except OwnerDied as error:
                died = error
        if died is not None:
            raise died

    def _times_held(self) -> int:
        lock, words = self._lock, self._lock._words
        if isinstance(lock, RLock):
            return words[COUNT] if lock._is_owned() else 0
        return int(words[OWNER] == me() and words[THREAD] == threading.get_ident())

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until the predicate is true, for at most so many seconds. Returns its last value."""
        until = deadline(timeout)
        while not (value := predicate()):
            left = None if until is None else until - monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return value

    def notify(self, n: int = 1) -> None:
        """Wake ``n`` of those that wait, the longest waiting first. The dead do not count.

        Raises:
            AssertionError: this thread does not hold the lock.
        """
        self._check_held("notify()")
        self._monitor.locked(partial(self._call, n), ring=True)

    def _call(self, n: int) -> None:
        words, room = self._words, self._room
        for at in sorted(room.entries(), key=lambda at: words[at + 2]):
            if n <= 0:
                break
            if words[at] == WAITS:
                if is_alive(words[at + 1]):
                    words[at] = CALLED
                    n -= 1
                else:
                    room.remove(at)

    def notify_all(self) -> None:
        """Wake all who wait."""
        self.notify(Room.N_ENTRIES)

    def _check_held(self, what: str) -> None:
        if not self._times_held():
            raise AssertionError(f"{what} of a Condition needs its lock to be held by this thread")

    def __repr__(self) -> str:
        n = self._monitor.locked(lambda: sum(1 for at in self._room.entries() if self._words[at] == WAITS))
        return f"<Condition({self._lock!r}, {n} waiting)>"


class Barrier(Monitored):
    """A place where a number of threads or processes wait for each other, as ``multiprocessing.Barrier``.

    If a process ends while it waits there, the barrier is broken: the others get ``threading.BrokenBarrierError``, with
    :exc:`fullcourt.OwnerDied` as its cause.

    Args:
        parties: how many wait for each other, 1 to 600.
        action: called by one of them, before all go on.
        timeout: seconds that :meth:`wait` waits by default; None: for ever.

    Raises:
        TypeError, ValueError: ``parties`` is not a whole number, or out of range; ``action`` cannot be called.

    Example:
        >>> Barrier(1).wait()
        0
    """

    def __init__(self, parties: int, action: Callable[[], object] | None = None, timeout: float | None = None) -> None:
        parties = whole_number(parties, "a barrier's number of parties")
        if not 1 <= parties <= 600:
            raise ValueError(f"a barrier is for 1 to 600 parties, not {parties}")
        if action is not None and not callable(action):
            raise TypeError(f"a barrier's action must be callable, not {action!r}")
        super().__init__()
        self._words[PARTIES] = parties
        self._action = action
        self._timeout = timeout

    def _open(self, fds: list[int]) -> None:
        super()._open(fds)
        self._room = Room(self._words)

    def _state(self) -> tuple[Any, ...]:
        return (self._action, self._timeout)

    @classmethod
    def _restore(cls, state: tuple[Any, ...], fds: list[int]) -> Self:
        handle = super()._restore(state, fds)
        handle._action, handle._timeout = state
        return handle

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all are here.

        Args:
            timeout: for at most how many seconds; then the barrier breaks. None: the barrier's own.

        Returns:
            A number from 0 to ``parties - 1``, different for each of them.

        Raises:
            threading.BrokenBarrierError: the barrier is broken, or was reset.
        """
        words, room = self._words, self._room
        timeout = self._timeout if timeout is None else timeout

        def enter() -> tuple[int, int, int]:
            self._break_if_dead(words[ROUND])
            if words[BROKEN]:
                raise threading.BrokenBarrierError from self._death()
            index, this_round = self.n_waiting, words[ROUND]
            mine = room.add(me(), WAITS, this_round)
            if index + 1 == words[PARTIES]:
                words[ROUND] += 1
            return index, this_round, mine

        # The ring is so that those who wait watch this process, too.
        index, this_round, mine = self._monitor.locked(enter, ring=True)
        try:
            if index + 1 == words[PARTIES]:
                if self._action is not None:
                    self._action()
                self._settle(CALLED, this_round)
            elif not self._monitor.wait_until(lambda: self._look(mine), timeout=timeout):
                self._break(mine)
            outcome = words[mine]
        except BaseException:
            self._break(mine)
            raise
        finally:
            self._monitor.locked(partial(room.remove, mine))
        if outcome != CALLED:
            raise threading.BrokenBarrierError from self._death()
        return index

    def _waiting(self, this_round: int) -> list[int]:
        words = self._words
        return [at for at in self._room.entries() if words[at] == WAITS and words[at + 2] == this_round]

    def _look(self, mine: int) -> tuple[bool, Iterable[int]]:
        """Whether the waiting is over; breaks the barrier if somebody has died in it. With the lock held."""
        words = self._words
        this_round = words[mine + 2]
        if words[mine] == WAITS:
            self._break_if_dead(this_round)
        return words[mine] != WAITS, [words[at + 1] for at in self._waiting(this_round)]

    def _break_if_dead(self, this_round: int) -> None:
        """Break the barrier if somebody has died who waited in a round. With the lock held."""
        words = self._words
        dead = [at for at in self._room.dead() if words[at] == WAITS and words[at + 2] == this_round]
        if dead:
            words[BROKEN] = words[dead[0] + 1]
            self._settle(BROKE, this_round)

    def _settle(self, outcome: int, this_round: int) -> None:
        """Tell all who wait in a round what has become of it."""

        def settle() -> None:
            for at in self._waiting(this_round):
                self._words[at] = outcome
            for at in self._room.dead():
                self._room.remove(at)

        self._monitor.locked(settle, ring=True)

    def _break(self, mine: int) -> None:
        """Break the barrier for those of one's own round, and for all to come, unless it has just opened."""

        def break_it() -> None:
            if self._words[mine] == WAITS:
                self._settle(BROKE, self._words[mine + 2])
                self.abort()

        self._monitor.locked(break_it)

    def _death(self) -> OwnerDied | None:
        broken = self._words[BROKEN]
        pid = pid_of(broken)
        return OwnerDied(f"pid {pid} ended while it waited at this Barrier", pid) if broken > 1 else None

    def abort(self) -> None:
        """Break the barrier: who waits there now or later gets an error, until :meth:`reset`."""

        def abort() -> None:
            if not self._words[BROKEN]:
                self._words[BROKEN] = 1
            self._settle(BROKE, self._words[ROUND])

        self._monitor.locked(abort)

    def reset(self) -> None:
        """Make it new. Who waits there now gets an error."""

        def reset() -> None:
            self._settle(BROKE, self._words[ROUND])
            self._words[ROUND] += 1
            self._words[BROKEN] = 0

        self._monitor.locked(reset)

    @property
    def parties(self) -> int:
        """How many wait for each other."""
        return self._words[PARTIES]

    @property
    def n_waiting(self) -> int:
        """How many wait now."""
        return self._monitor.locked(lambda: len(self._waiting(self._words[ROUND])))

    @property
    def broken(self) -> bool:
        """Whether it is broken."""
        return self._words[BROKEN] != 0

    def __repr__(self) -> str:
        return f"<Barrier({self.n_waiting} of {self.parties}{', broken' if self.broken else ''})>"
