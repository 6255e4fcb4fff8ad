"""Shared memory under a kernel lock, with a bell: what locks, conditions and bounded queues are made of.

The memory is a memfd block; its first ``PAGE_BYTES`` are mapped as 64-bit words. Four rules make it survive any kill:

1. Words are changed under a ``flock`` on the block, each process by an open file description of its own. The kernel
   releases it with its holder.
2. Every change is *one* store of a word, or is written so that a part of it is harmless. So whoever takes the lock
   after a kill finds a state that is valid; nothing need be repaired.
3. An exception (Ctrl-C, the stop of a task) can come wherever CPython looks for signals, and its process lives on. It
   looks at the beginning of Python functions, at jumps back, and *after* calls of C functions. So what must happen is
   done by C functions that are called first thing in a ``finally``; a Python function there might not begin.
4. Who waits watches the bell *and* the deaths of those it waits for. The bell is an eventfd under edge-triggered
   epoll: each ring wakes everybody who waited before it, and nobody need silence it. (Who silences a bell and is
   killed before it acts would leave the others asleep.)
5. The bell is rung with the lock held, *before* the act. Who is woken needs the lock to look, and the kernel gives it
   when the act is done, or its doer dead. (Who acts, and is killed before it rings, would leave the others asleep.)

The lock is held for some microseconds, and never while waiting.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
from collections.abc import Callable, Iterable, Iterator
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from time import monotonic
from typing import TYPE_CHECKING, Self, TypeVar

from fullcourt._os.identity import is_alive, me, open_death
from fullcourt._os.locks import make_rlock
from fullcourt._os.waits import bounded, checked

__all__ = ["PAGE_BYTES", "Monitor", "Room", "Waiter", "eventfd_write"]

T = TypeVar("T")

if TYPE_CHECKING or hasattr(os, "eventfd_write"):
    from os import eventfd_write
else:

    def eventfd_write(_fd: int, _value: int) -> None:
        """Not Linux: there is no monitor."""


PAGE_BYTES = 16384
N_WORDS = PAGE_BYTES // 8

# Where the words of the users of a monitor begin; and those of its table of processes.
WANTED = 0  # somebody has waited for the bell: ring it. Never taken back: a ring too many costs 0.4 us
FIRST_WORD = 8
ROOM = 64
# The last words of a queue's page: who waits for items.
N_LISTENERS = 64
LISTENERS = N_WORDS - N_LISTENERS


class Monitor:
    """One process's view of the shared words. :meth:`locked` runs something while the lock is held.

    Args:
        memory: descriptor of the block, which stays the caller's.
        bell: descriptor of the eventfd, which stays the caller's.

    Attributes:
        n_awaited: how often another process held the lock when it was wanted here.
    """

    def __init__(self, memory: int, bell: int) -> None:
        self.bell = bell
        self.n_awaited = 0
        self._memory = memory
        self.block = mmap.mmap(memory, PAGE_BYTES)
        self.words = memoryview(self.block).cast("Q")
        # Keeps this process's threads apart, which share the open file description. Reentrant for signal handlers.
        self._mutex = make_rlock()
        self._held = False
        self._n_released = 0
        self._file = own_description(memory)

    @staticmethod
    def make() -> tuple[int, int]:
        """Make the shared objects. Returns the descriptors of the memory and of the bell."""
        memory = os.memfd_create("fullcourt-channel", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, PAGE_BYTES)
            return memory, os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            os.close(memory)
            raise

    def locked(self, act: Callable[[], T], *, ring: bool = False) -> T:
        """Run something short with the lock held; in it, this may be called again.

        Args:
            act: what to do. It must not wait.
            ring: whether to wake all who wait: they look when it is done, or half done.
        """
        with self._mutex:
            if self._held:  # by a caller of ours, or a signal's handler interrupts one
                if ring and self.words[WANTED]:
                    eventfd_write(self.bell, 1)
                return act()
            try:
                # 1. The kernel gives us the lock. 2. A signal's handler runs, uses this monitor, and gives the lock
                # back: it is of one open file description. 3. We would go on without it: so it is taken once more.
                n_released = -1
                while n_released != self._n_released:
                    n_released = self._n_released
                    is_free = True
                    try:
                        flock(self._file, LOCK_EX | LOCK_NB)
                    except BlockingIOError:
                        is_free = False
                    if not is_free:
                        self.n_awaited += 1
                        flock(self._file, LOCK_EX)
                self._held = True
                if ring and self.words[WANTED]:
                    eventfd_write(self.bell, 1)
                return act()
            finally:
                self._held = False
                self._n_released += 1
                flock(self._file, LOCK_UN)  # to give back what is not held does no harm

    def ring(self) -> None:
        """Wake all who wait, if anybody ever did."""
        if self.words[WANTED]:
            os.eventfd_write(self.bell, 1)

    def wait_until(
        self,
        attempt: Callable[[], tuple[bool, Iterable[int]]],
        *,
        block: bool = True,
        timeout: float | None = None,
        room: int = -1,
    ) -> bool:
        """Make attempts until one succeeds; between them wait for the bell, or for a death.

        Args:
            attempt: called with the lock held. Returns whether it succeeded, and whose deaths would change that.
            block: whether to wait at all.
            timeout: for how many seconds (None: for ever). Below 0 is 0.
            room: descriptor of a socket; that messages are taken out of it also calls for an attempt.
        """
        done, others = self.locked(attempt)
        if done or not block or (timeout is not None and checked(timeout) <= 0):
            return done
        until = None if timeout is None else monotonic() + timeout
        with Waiter(self.bell, room) as waiter:
            self.words[WANTED] = 1
            while True:
                done, others = self.locked(attempt)
                if done:
                    return True
                left = None if until is None else until - monotonic()
                if left is not None and left <= 0:
                    return False
                waiter.wait(others, left)

    async def wait_until_async(
        self, attempt: Callable[[], tuple[bool, Iterable[int]]], *, timeout: float | None = None, room: int = -1
    ) -> bool:
        """As :meth:`wait_until`, in an event loop."""
        done, others = self.locked(attempt)
        if done or (timeout is not None and checked(timeout) <= 0):
            return done
        until = None if timeout is None else monotonic() + timeout
        with Waiter(self.bell, room) as waiter:
            self.words[WANTED] = 1
            while True:
                done, others = self.locked(attempt)
                left = None if until is None else until - monotonic()
                if done or (left is not None and left <= 0):
                    return done
                await waiter.wait_async(others, left)

    def forked(self, memory: int, bell: int) -> None:
        """In a forked child: an open file description of its own, or it would hold its parent's lock."""
        os.close(self._file)
        self._mutex = make_rlock()
        self._held = False
        self._file = own_description(memory)
        self.bell = bell

    def close(self) -> None:
        """Give back this process's view."""
        self.words.release()
        with contextlib.suppress(BufferError):  # a thread is just using it: it goes with that thread's view
            self.block.close()
        os.close(self._file)


def own_description(memory: int) -> int:
    """Open a memfd block again: a lock on this one is apart from those of all others."""
    return os.open(f"/proc/self/fd/{memory}", os.O_RDWR | os.O_CLOEXEC)


class Waiter:
    """Waits for a bell and for deaths. Made before the last attempt: every ring after that wakes it."""

    def __init__(self, bell: int, room: int = -1) -> None:
        self.epoll = select.epoll()
        self.epoll.register(bell, select.EPOLLIN | select.EPOLLET)
        if room >= 0:
            # Who takes a message and is killed before it rings has made room that no bell tells of. The kernel tells
            # of it from a quarter of the buffer downwards, about 100 items; above that, others that take will ring.
            self.epoll.register(room, select.EPOLLOUT | select.EPOLLET)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.epoll.close()

    def wait(self, others: Iterable[int], timeout: float | None) -> None:
        """Wait for the bell, for one of these processes to end, or so many seconds."""
        with self._watching(others) as all_live:
            if all_live:
                self.epoll.poll(bounded(timeout))

    async def wait_async(self, others: Iterable[int], timeout: float | None) -> None:
        """As :meth:`wait`, in an event loop."""
        with self._watching(others) as all_live:
            if all_live:
                await readable(self.epoll.fileno(), timeout)

    @contextlib.contextmanager
    def _watching(self, others: Iterable[int]) -> Iterator[bool]:
        """Watch also for these processes' ends. Yields whether all of them live."""
        fds: list[int] = []
        mine = me()
        try:
            for who in set(others) - {mine}:
                fd = open_death(who)
                if fd < 0:
                    yield False
                    return
                fds.append(fd)
                self.epoll.register(fd, select.EPOLLIN)
            yield True
        finally:
            for fd in fds:
                os.close(fd)


async def readable(fd: int, timeout: float | None) -> None:
    """Wait in an event loop until a descriptor is readable, or so many seconds."""
    import asyncio

    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):  # `wait_for`, up to 3.11, may swallow that the task is cancelled
                await ready.wait()
    finally:
        loop.remove_reader(fd)


class Room:
    """A table of processes in a monitor's words: for each a count, or what it waits for. Used with the lock held.

    An entry is three words: value, identity, extra. An entry whose identity is 0 is free; it is set last and cleared
    first.
    """

    N_ENTRIES = (LISTENERS - ROOM - 1) // 3

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words

    def entries(self) -> Iterator[int]:
        """The positions of all entries in use."""
        words = self._words
        for at in range(ROOM + 1, ROOM + 1 + 3 * words[ROOM], 3):
            if words[at + 1]:
                yield at

    def add(self, who: int, value: int, extra: int = 0) -> int:
        """Make an entry. Returns its position.

        Raises:
            OSError: there is no more room; a table holds about 660 entries.
        """
        words = self._words
        n = words[ROOM]
        for i in range(n + 1):
            at = ROOM + 1 + 3 * i
            if i == n:
                if n >= self.N_ENTRIES:
                    raise OSError(f"more than {n} processes or threads use or wait for one fullcourt lock at once")
                words[at + 1] = 0
            elif words[at + 1]:
                continue
            words[at] = value
            words[at + 2] = extra
            words[at + 1] = who
            if i == n:
                words[ROOM] = n + 1
            return at
        raise AssertionError

    def find(self, who: int) -> int:
        """The position of a process's entry; 0 if it has none."""
        words = self._words
        return next((at for at in self.entries() if words[at + 1] == who), 0)

    def remove(self, at: int) -> None:
        """Free an entry, and shorten the table if it was its last."""
        words = self._words
        words[at + 1] = 0
        n = words[ROOM]
        while n and not words[ROOM + 1 + 3 * (n - 1) + 1]:
            n -= 1
        words[ROOM] = n

    def dead(self) -> list[int]:
        """The positions of entries whose processes have ended."""
        words = self._words
        alive: dict[int, bool] = {}
        found: list[int] = []
        for at in self.entries():
            who = words[at + 1]
            if who not in alive:
                alive[who] = is_alive(who)
            if not alive[who]:
                found.append(at)
        return found
