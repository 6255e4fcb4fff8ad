"""Queue, SimpleQueue and JoinableQueue: the standard library's interfaces over a channel."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fullcourt._os.identity import is_alive, me
from fullcourt._os.waits import deadline
from fullcourt.channels._channel import Channel, ShutDown
from fullcourt.channels._handle import whole_number
from fullcourt.channels._line import OUT
from fullcourt.channels._messages import encode, read
from fullcourt.channels._monitor import Room

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

T = TypeVar("T")

# So many items are pickled before they are put together.
GROUP = 256
# Fewer are quicker through the socket one by one.
LEAST_GROUP = 16


class Iterable_(Channel, Generic[T]):  # noqa: N801
    """What all queues have: they can be iterated over until their producers are gone."""

    def __iter__(self) -> Iterator[T]:
        """Take items until the last one who might put more has closed the queue or ended, or it was shut down.

        A process that has not put anything into a queue which it shares with others counts, from here until it puts
        something, as one that only takes. So the parent of some producers is no longer waited for; and workers that
        take from one queue need not be told who else does.
        """
        self._check_open()
        return self._items()

    def _items(self) -> Iterator[T]:
        with self._use, self._iterating():
            while True:
                self._only_take()
                try:
                    found = self._take(True, None)
                except (EOFError, ShutDown):
                    return
                yield read(*found)

    @contextlib.contextmanager
    def _iterating(self) -> Iterator[None]:
        """Within this, the process lets go when the queue is given to others."""
        iterations = self._iterations  # a child that is forked meanwhile gets a list of its own
        iterations.append(None)
        try:
            yield
        finally:
            iterations.pop()

    async def __aiter__(self) -> AsyncIterator[T]:
        self._check_open()
        with self._use, self._iterating():
            while True:
                self._only_take()
                try:
                    found = await self._take_async(None)
                except (EOFError, ShutDown):
                    return
                yield read(*found)


class SimpleQueue(Iterable_[T]):
    """As ``multiprocessing.SimpleQueue``: no bound, no time-outs.

    See :class:`Queue` for what holds for all queues.

    Example:
        >>> names = SimpleQueue()
        >>> names.put("Ada")
        >>> names.get()
        'Ada'
    """

    def __init__(self) -> None:
        super().__init__(0)

    def empty(self) -> bool:
        """Whether there is nothing in it, at this moment."""
        self._check_open()
        return not self._count()

    if TYPE_CHECKING:  # the channel's own are used, without a call in between

        def put(self, obj: T) -> None:  # type: ignore[override]
            """Put an item in. Never waits for long."""

        def get(self) -> T:  # type: ignore[override]
            """Take an item; wait for one. Raises EOFError if nobody is left who might put one."""


class Queue(Iterable_[T]):
    """A queue between processes, threads, interpreters and pool tasks, as ``multiprocessing.Queue``; it survives them.

    Any number may put and take at once. There is no lock in user space and no feeder thread: an item is the kernel's
    before :meth:`put` returns. A process killed at any instruction costs at most the item that it was putting or had
    taken; all others go on. The memory goes with the last user, whoever is killed.

    Items of one process are taken in the order in which it put them. Large buffers (NumPy, Arrow, anything that pickles
    out of band) travel as memory blocks: copied once, by :meth:`put`; what arrives is the receiver's own and writable.
    Queues, pipes and locks can be items. An item that cannot be pickled is refused by :meth:`put`.

    Give it to other processes as an argument (of ``multiprocessing.Process`` under every start method, of a pool's
    task or initializer) or through another queue.

    Args:
        maxsize: :meth:`put` waits while so many items are in it; 0 or less: no bound.

    Raises:
        TypeError, ValueError: ``maxsize`` is not a whole number, or 2**63 or more.
        NotSupported: this is not Linux.

    Example:
        >>> queue = Queue()
        >>> queue.put(("a", 1))
        >>> queue.get()
        ('a', 1)
        >>> queue.close()
    """

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)

    # -- one item --------------------------------------------------------------------------------------------------

    if TYPE_CHECKING:  # the channel's own are used, without a call in between

        def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None: ...
        def get(self, block: bool = True, timeout: float | None = None) -> T: ...

    def put_nowait(self, obj: T) -> None:
        """Put an item in if there is room."""
        self.put(obj, False)

    def get_nowait(self) -> T:
        """Take an item if there is one."""
        return self.get(False)

    # -- in an event loop ------------------------------------------------------------------------------------------

    async def aput(self, obj: T, timeout: float | None = None) -> None:
        """As :meth:`put`, for a coroutine."""
        self._check_open()
        message = encode(obj, self._blocks)
        with self._use:
            self._begin_to_put()
            done = await self._monitor.wait_until_async(
                lambda: (self._try_to_put(obj, message), ()), timeout=timeout, room=self._fds[OUT]
            )
        if not done:
            raise queue.Full

    async def aget(self, timeout: float | None = None) -> T:
        """As :meth:`get`, for a coroutine."""
        self._check_open()
        with self._use:
            found = await self._take_async(timeout)
        return read(*found)  # type: ignore[no-any-return]

    # -- many items ------------------------------------------------------------------------------------------------

    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> int:
        """Put many items in, at about a third of the cost each.

        Args:
            items: read as they are put. Of an iterator no more are read than there is room for, but for one, which
                is lost if no room comes; or up to 256, if other producers take the room meanwhile.
            block: whether to wait for room.
            timeout: for at most how many seconds in all; None: for ever.

        Returns:
            How many were put: all, unless there was no room.
        """
        self._check_open()
        until = deadline(timeout)
        source = iter(items)
        n_put = 0
        while group := list(islice(source, 1 if self._maxsize and source is items else GROUP)):
            if len(group) == 1 and self._maxsize:  # what is read of an iterator cannot be given back to it
                left = None if until is None else until - monotonic()
                group += islice(source, max(0, min(GROUP, self._wait_for_room(block, left)) - 1))
            messages = [encode(item, self._blocks) for item in group]
            left = None if until is None else until - monotonic()
            small = [message for message in messages if type(message) is bytes]
            if len(small) == len(group) >= LEAST_GROUP:
                n = self._put_group(small, block, left)
                n_put += n
                if n < len(group):
                    return n_put
                continue
            for item in group:
                left = None if until is None else until - monotonic()
                try:
                    self.put(item, block, left)
                except queue.Full:
                    return n_put
                n_put += 1
        return n_put

    def get_many(self, n: int, block: bool = True, timeout: float | None = None) -> list[T]:
        """Take up to ``n`` items: what there is, or the first to come. A kill then costs as many as were taken.

        Args:
            n: at most so many, at least 1.
            block: whether to wait for the first.
            timeout: for at most how many seconds; None: for ever.

        Returns:
            1 to ``n`` items.

        Raises:
            queue.Empty: there was none; and as :meth:`get`.
            TypeError, ValueError: ``n`` is not a whole number, or less than 1.
            Exception: what reading an item raised. If there were others beside it, they are returned first, and the
                next call raises this.
        """
        n = whole_number(n, "the number of items")
        if n < 1:
            raise ValueError(f"get_many takes at least 1 item, not {n}")
        self._check_open()
        if self._unread:
            raise self._unread.pop(0)
        found: list[Any] = [self.get(block, timeout)]
        with self._use:
            self._get_more(found, n)
        return found

    # -- how it stands ---------------------------------------------------------------------------------------------

    def qsize(self) -> int:
        """How many items are in it, exactly, at this moment."""
        self._check_open()
        return self._count()

    def empty(self) -> bool:
        """Whether there is nothing in it, at this moment."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether there is no room, at this moment; always False without a bound."""
        return 0 < self._maxsize <= self.qsize()

    @property
    def maxsize(self) -> int:
        """How many items it takes; 0: there is no bound."""
        return self._maxsize

    def shutdown(self, immediate: bool = False) -> None:
        """End it for all: from now on nothing can be put, and who takes from it when it is empty is told.

        Args:
            immediate: drop what is in it.
        """
        self._check_open()
        self._shut_down(immediate)

    def join_thread(self) -> None:
        """Nothing: there is no feeder thread. All items are the kernel's already."""

    def cancel_join_thread(self) -> None:
        """Nothing: there is no feeder thread."""

    def __repr__(self) -> str:
        what = "closed" if self._closed else f"{self._count()} of {self._maxsize or 'any number'} items"
        return f"<fullcourt.{type(self).__name__}: {what}>"


class JoinableQueue(Queue[T]):
    """A queue whose items are done only when :meth:`task_done` says so, as ``multiprocessing.JoinableQueue``.

    What a process had taken when it ended, and had not done, counts no longer: :meth:`join` does not wait for the dead.

    Example:
        >>> tasks = JoinableQueue()
        >>> tasks.put("wash")
        >>> tasks.get()
        'wash'
        >>> tasks.task_done()
        >>> tasks.join()
        True
    """

    _counts_taken = True

    def _open(self, fds: list[int]) -> None:
        super()._open(fds)
        self._room = Room(self._words)

    def _note_taken(self) -> None:
        mine = self._room.find(me())
        if mine:
            self._words[mine] += 1
        else:
            self._room.add(me(), 1)

    def task_done(self) -> None:
        """Say that an item which was taken is done. From any process.

        Raises:
            ValueError: called more often than items were taken.
        """
        self._check_open()
        self._monitor.locked(self._count_done, ring=True)

    def _count_done(self) -> None:
        words, room = self._words, self._room
        mine = room.find(me())
        if not mine or not words[mine]:
            mine = next((at for at in room.entries() if words[at] and is_alive(words[at + 1])), 0)
        if not mine:
            raise ValueError("task_done() called too many times")
        words[mine] -= 1
        if not words[mine]:
            room.remove(mine)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all items that were put have been taken and done.

        Args:
            timeout: for at most how many seconds; None: for ever.

        Returns:
            Whether they were.
        """
        self._check_open()
        with self._use:
            return self._monitor.wait_until(self._all_done, timeout=timeout)

    def _all_done(self) -> tuple[bool, Iterable[int]]:
        words, room = self._words, self._room
        for at in room.dead():
            room.remove(at)
        busy = [words[at + 1] for at in room.entries() if words[at]]
        return not busy and not self._count(), busy
