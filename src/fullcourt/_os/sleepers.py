"""Threads that sleep until another one wakes them, and a queue that they sleep at.

A lock that its waiter takes twice does the same, and where there is no eventfd it is done so. But to hand a task to a
thread and to wait for its end by locks takes two to four times as long: a lock is released by whoever holds the GIL, so
the thread that wakes has to fall asleep once more, until it gets that. To write to an eventfd lets go of the GIL.
Measured on 2 cores of a virtual machine, there and back: 15 us by eventfds, 34 by a queue and a lock, 54 by the
standard library's executor.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import weakref
from _queue import Empty, SimpleQueue  # the C module under `queue`
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from operator import call
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from fullcourt._os.waits import LOOK_UP_S, acquire, bounded

__all__ = ["Handover", "Sleeper", "Sleepers"]

T = TypeVar("T")

MAX_KEPT = 4
# Not by `os.eventfd_write` and `os.eventfd_read`, which a signal interrupts: they do not try again, as all others do.
ONE = (1).to_bytes(8, sys.byteorder)
# A pool of hundreds of threads is for as many sockets: so many sleep by descriptors, in all pools, the others by locks.
MOST_DESCRIPTORS = 64
LEAST_OF_LIMIT = 16  # and no more than this part of what the process may have

living: dict[int, weakref.ref[Sleeper]] = {}  # by descriptor


def nothing() -> None:
    """What wakes nobody."""


class Sleeper:
    """One thread's sleep, which another ends: as a lock that is held and released once.

    It is closed by its thread when nobody will release it any more.

    Attributes:
        release: ends one sleep, also one that is to come. A function of C: no signal's handler comes in between.
    """

    __slots__ = ("__weakref__", "_epoll", "_fd", "_lock", "release")

    release: Callable[[], object]

    def __init__(self) -> None:
        self._epoll: Any = None
        self._fd = new_eventfd()
        if self._fd >= 0:
            self.release = partial(os.write, self._fd, ONE)
            living[self._fd] = weakref.ref(self)
        else:
            self._lock = threading.Lock()
            self._lock.acquire()
            self.release = self._lock.release

    def sleep(self, timeout: float | None = None) -> bool:
        """Sleep at most so many seconds (None: for ever). Returns whether it was ended."""
        if self._fd < 0:
            return acquire(self._lock, timeout)
        if timeout is not None:
            until = monotonic() + timeout
            left = min(timeout, LOOK_UP_S)
            while not self._is_over(left):
                left = until - monotonic()
                if left <= 0:
                    return False
        elif threading.get_ident() == threading.main_thread().ident:
            self._is_over(LOOK_UP_S)  # so that no signal is missed: see fullcourt._os.waits
        os.read(self._fd, 8)
        return True

    def forget(self) -> None:
        """Nobody will release it any more. If somebody has, that shall not end the next sleep."""
        if self._fd < 0:
            self._lock.acquire(blocking=False)
        elif self._is_over(0.0):
            os.read(self._fd, 8)

    def close(self) -> None:
        """Nobody will release it any more, and nobody sleeps here."""
        self.release = nothing
        self._epoll = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            living.pop(fd, None)
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:  # its wait was torn, or it was never waited for
            self.close()

    def _is_over(self, timeout: float) -> bool:
        timeout = bounded(max(0.0, timeout)) or 0.0
        if self._epoll is None:
            try:
                self._epoll = select.epoll()
                self._epoll.register(self._fd, select.EPOLLIN)
            except (AttributeError, OSError):  # no descriptor is left; this takes twice as long, and none
                poll = select.poll()
                poll.register(self._fd, select.POLLIN)
                return bool(poll.poll(1000 * timeout))
        return bool(self._epoll.poll(timeout))

    def _become_fork(self) -> None:
        """In a forked child: it must not wake the parent's thread, nor take what is meant for that."""
        os.close(self._fd)
        fresh = os.eventfd(0, os.EFD_CLOEXEC)
        if fresh != self._fd:
            os.dup2(fresh, self._fd, inheritable=False)
            os.close(fresh)
        self._epoll = None


def new_eventfd() -> int:
    """A descriptor; -1: another system, none is left, or enough threads have one."""
    try:
        limit = os.sysconf("SC_OPEN_MAX")
        if len(living) < (min(MOST_DESCRIPTORS, limit // LEAST_OF_LIMIT) if limit >= 0 else MOST_DESCRIPTORS):
            return os.eventfd(0, os.EFD_CLOEXEC)
    except (AttributeError, OSError, ValueError):
        pass
    return -1


def become_fork() -> None:
    """In a forked child."""
    for ref in list(living.values()):
        sleeper = ref()
        if sleeper is not None:
            sleeper._become_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=become_fork)


class Awaited(Protocol):
    """A future: it releases those that it blocks, once, when it ends."""

    def block(self, lock: Any) -> bool: ...
    def unblock(self, lock: Any) -> None: ...
    def done(self) -> bool: ...


class Sleepers:
    """Those of threads that wait for futures, kept to be used again. Any thread may use it."""

    def __init__(self) -> None:
        self._kept: deque[Sleeper] = deque()
        self._n_kept = MAX_KEPT

    def close(self) -> None:
        """Keep none any more."""
        self._n_kept = 0
        self._keep_no_more()

    def _keep_no_more(self) -> None:
        while len(self._kept) > self._n_kept:
            with contextlib.suppress(IndexError):
                self._kept.popleft().close()

    def wait(self, future: Awaited, timeout: float | None) -> bool:
        """Wait for a future that others settle, at most so many seconds. Returns whether it has ended."""
        sleeper = self._take()
        until = None if timeout is None else monotonic() + timeout
        ended = False
        try:
            if future.block(sleeper):
                ended = sleeper.sleep(timeout)
                while ended and not future.done():  # woken for nothing
                    ended = sleeper.sleep(None if until is None else until - monotonic())
        finally:
            if not ended:  # its end, which is told once, may still be
                future.unblock(sleeper)
                sleeper.forget()
            self._kept.append(sleeper)
            self._keep_no_more()
        return future.done()

    def _take(self) -> Sleeper:
        try:
            return self._kept.pop()
        except IndexError:
            return Sleeper()


class Handover(Generic[T]):
    """A queue for threads that take from it. Who put something wakes the thread that fell asleep last.

    The race that was thought about: a thread (1) notes that it sleeps, (2) looks whether there is something; who gives
    (a) puts it in, (b) looks for who sleeps. At least one of them sees the other. Whoever is taken off the note is
    woken once: a thread that found something at (2), and is not on the note any more, waits for that.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self._asleep: deque[Callable[[], object]] = deque()
        self.get_nowait = self._items.get_nowait  # raises Empty

    def put(self, item: T) -> None:
        """Give something to whichever thread is free. From any thread."""
        self._items.put(item)
        if self._asleep:
            with contextlib.suppress(IndexError):  # somebody else was faster
                next(map(call, self._last_asleep()))

    def put_whole(self, item: T) -> None:
        """:meth:`put` for the garbage collector: in one call of C, in which no signal's handler may raise."""
        with contextlib.suppress(IndexError):
            give: Callable[[], object] = partial(self._items.put, item)
            deque(map(call, chain((give,), islice(self._last_asleep(), 1))), maxlen=0)

    def _last_asleep(self) -> Iterator[Callable[[], object]]:
        """What wakes the thread that fell asleep last, and takes it off the note; IndexError: none sleeps."""
        return iter(self._asleep.pop, None)

    def get(self, sleeper: Sleeper) -> T:
        """Take what has waited for longest; sleep until there is something. ``sleeper``: this thread's own."""
        items, wake = self._items, sleeper.release
        while True:
            if not items.empty():
                with contextlib.suppress(Empty):
                    return items.get_nowait()
            self._asleep.append(wake)
            if items.empty():
                sleeper.sleep()
                continue
            try:
                self._asleep.remove(wake)
            except ValueError:
                sleeper.sleep()
