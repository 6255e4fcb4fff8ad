"""Putting items in: into the socket, and where that has no room, into the log."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pickle import dumps
from time import monotonic
from typing import Any

from fullcourt._os.waits import deadline
from fullcourt._transport.codec import STACK_GLOBAL
from fullcourt.channels._line import CAME, DRAIN_WANTED, LEFT, LISTENED, OUT, READER, SHUT, Line, pad
from fullcourt.channels._messages import Message, encode, in_one_piece
from fullcourt.channels._monitor import Waiter

__all__ = ["Putting", "ShutDown"]

if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):
        """The queue was shut down: nothing more can be put, or nothing is left to be taken. ``queue.ShutDown``."""


# How long a put waits for the readers of a full socket before it uses the log, looking now and then; and how often,
# while they read. Where nobody is known to read only the first few of these waits: they may be about to begin.
WAITS_MS = (1, 2, 4, 8, 16, 24, 25)
N_AT_FIRST = 2
PATIENCE = 4
# When one handle's puts have waited for so long in all, and for longer than that for each item, the readers do not keep
# up: a queue without a bound must not take their pace.
MOST_WAITED_S = 0.32
SLOW_S = 0.0002
# A producer that is so many items ahead in the log waits for its readers, if these are others and there are any: then
# the socket, which costs a third, and much less where many put, can be used again. It waits while they read, but not
# for ever. If that was in vain, it waits again when it is twice as far ahead.
FAR_AHEAD = 500
DRAIN_S = 0.08
SHORT_DRAIN_S = 0.005  # where they have taken nothing since it last looked
# So long a producer leaves the lock of the log to others, the readers above all, when it had to wait for it.
GIVE_WAY_MS = 1

# Longer pickles than this need more than the least length of a message.
LONGEST_SHORT = 513


def refuse(_: object) -> None:
    """A buffer callback that ends the pickling."""
    raise BufferError


class Putting(Line):
    """A queue's handle, as far as one can put."""

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item in.

        Args:
            obj: the item; it is pickled at once.
            block: whether to wait for room. There is a bound, of some hundred, also for items that hold descriptors
                (queues, pipes, locks, sockets): the kernel keeps these nowhere but in the queue's socket.
            timeout: for at most how many seconds; None: for ever.

        Raises:
            queue.Full: there was no room.
            ShutDown: the queue was shut down.
            ValueError: it is closed here.
            PicklingError: the item cannot be pickled; the message names the attribute in the way.
        """
        message: bytes | Message
        if self._direct and not self._words[SHUT]:  # the usual case, in one piece: it is half of what an item costs
            message = b""
            try:
                message = dumps(obj, 5, buffer_callback=refuse)
                plain = len(message) <= LONGEST_SHORT and (
                    STACK_GLOBAL not in message or (b"__main__" not in message and b"multiprocessing" not in message)
                )
            except Exception:  # noqa: BLE001  it has buffers, descriptors, or what only cloudpickle can pickle
                plain = False
            if not plain:
                message = encode(obj, self._blocks)
            if type(message) is bytes:
                try:
                    self._send(message.ljust(513, b"\0") if len(message) <= LONGEST_SHORT else pad(message))
                except BlockingIOError:
                    pass
                else:
                    self._n_put += 1
                    return
            self._put_slowly(obj, message, block, timeout)
            return
        if self._closed:
            self._check_open()
        message = encode(obj, self._blocks)
        if self._mark and type(message) is bytes and not self._maxsize and not self._words[SHUT]:
            monitor = self._monitor
            n_awaited = monitor.n_awaited
            ahead = monitor.locked(partial(self._follow_into_log, message))
            if ahead > 0:  # it is in; who has no time to wait shall not
                if block and timeout is None:
                    if ahead > FAR_AHEAD and ahead > self._far_ahead:
                        self._wait_for_drain()
                    elif monitor.n_awaited != n_awaited and self._is_read_elsewhere():
                        select.poll().poll(GIVE_WAY_MS)
                return
        self._put_slowly(obj, message, block, timeout)

    def _follow_into_log(self, message: bytes) -> int:
        """Put an item after earlier ones of this handle. Returns how many are to be taken before it. With the lock."""
        ahead = self._mark - self._log.n_taken
        if ahead > 0:
            self._add_to_log((message,))
        return ahead

    def _put_slowly(self, obj: object, message: bytes | Message, block: bool, timeout: float | None) -> None:
        with self._use:
            self._check_open()
            self._begin_to_put()
            may_wait_in_log = not self._maxsize and not (isinstance(message, Message) and message.has_guests)
            until = deadline(timeout if block else 0)
            if may_wait_in_log and (self._try_to_send(message) or self._send_when_read(message, until)):
                return
            done = self._monitor.wait_until(
                lambda: (self._try_to_put(obj, message), ()), block=block, timeout=timeout, room=self._fds[OUT]
            )
        if not done:
            raise queue.Full

    def _begin_to_put(self) -> None:
        self._check_shut()
        self._n_put += 1
        self._hold()

    def _check_shut(self) -> None:
        if self._words[SHUT]:
            raise ShutDown

    def _try_to_send(self, message: bytes | Message) -> bool:
        """Put a message into the socket, unless it is full or earlier items of this handle are in the log."""
        if self._mark:
            if self._log.n_taken < self._mark:
                return False
            if not self._monitor.locked(self._leave_log):
                return False
        elif not self._maxsize and not self._closed:
            self._direct = True
        try:
            if isinstance(message, bytes):
                self._send(pad(message))
            else:
                message.send(self._out, pad(message.data))
        except BlockingIOError:
            return False
        except OSError as error:
            # ETOOMANYREFS: too many descriptors are on their way already. Bytes can go into the log.
            if isinstance(message, bytes) or message.has_guests or error.errno != 109:
                raise
            return False
        return True

    def _leave_log(self) -> bool:
        """Use the socket again if the log's items of this handle were taken. With the lock held."""
        if self._log.n_taken < self._mark:
            return False
        self._mark = 0
        self._stalled = False
        self._direct = not self._maxsize and not self._closed
        return True

    def _is_read_elsewhere(self) -> bool:
        """Whether anybody but this process has waited for items, or has taken one since the log was in use."""
        return bool(self._words[LISTENED]) or self._words[READER] not in (0, os.getpid())

    def _send_when_read(self, message: bytes | Message, until: float | None) -> bool:
        """Wait a moment for the readers of a full socket, if they read. Returns whether the message found room.

        The kernel tells of room only when most of the socket is empty. Where other producers keep it full there is room
        from time to time all the same, so it is tried.
        """
        is_read = self._is_read_elsewhere()
        if self._mark or self._stalled or (not is_read and self._words[READER]):
            return False
        room = select.poll()
        room.register(self._out, select.POLLOUT)
        before = self._bytes_inside()
        began = now = monotonic()
        for _ in range(PATIENCE if is_read else 1):
            for wait_ms in WAITS_MS if is_read else WAITS_MS[:N_AT_FIRST]:
                if until is not None and now >= until:
                    return False
                if room.poll(wait_ms if until is None else min(wait_ms, 1000 * (until - now))):
                    self._n_put_then, self._waited_s = self._n_put, 0.0
                now = monotonic()
                if self._words[SHUT]:
                    return False
                if self._try_to_send(message):
                    self._note_wait(now - began)
                    return True
            n_bytes = self._bytes_inside()
            if n_bytes >= before:
                break
            before = n_bytes
        self._stalled = True
        return False

    def _note_wait(self, seconds: float) -> None:
        """A wait brought room. If such waits take too long for what could be put, the next ones are left out."""
        self._waited_s += seconds
        if self._waited_s > MOST_WAITED_S:
            self._stalled = self._waited_s > SLOW_S * (self._n_put - self._n_put_then)
            self._n_put_then, self._waited_s = self._n_put, 0.0

    def _wait_for_drain(self) -> None:
        """Wait a moment for the readers to come to the end of the log, while they read."""
        words, log = self._words, self._log
        taken_then, self._taken_then = self._taken_then, log.n_taken
        is_read = self._taken_then != taken_then
        if not is_read and not self._is_read_elsewhere():
            self._far_ahead = self._mark - taken_then + FAR_AHEAD
            return
        self._far_ahead = 2 * (self._mark - taken_then)  # first: whatever is raised from here on, the item is in
        with contextlib.suppress(OSError), self._use, Waiter(self._fds[LEFT]) as waiter:  # no descriptor is left
            before = log.n_taken
            until = monotonic() + MOST_WAITED_S
            while monotonic() < until:
                words[DRAIN_WANTED] = 1
                if not log.n_waiting:
                    self._far_ahead = 0
                    return
                waiter.wait((), DRAIN_S if is_read else SHORT_DRAIN_S)
                now = log.n_taken
                if now == before:
                    break
                before = now
        self._far_ahead = 2 * (self._mark - log.n_taken)

    def _try_to_put(self, obj: object, message: bytes | Message) -> bool:
        """Put an item somewhere, if there is room for it. With the lock held."""
        self._check_shut()
        if self._maxsize and self._count() >= self._maxsize:
            return False
        if self._try_to_send(message):
            return True
        if isinstance(message, Message):
            if message.has_guests:
                return False
            message = in_one_piece(obj)
        self._add_to_log([message])
        return True

    def _add_to_log(self, items: Sequence[bytes]) -> None:
        self._direct = False
        self._mark = self._log.add(items, self._fds[CAME] if self._words[LISTENED] else -1)
        self._direct = False  # another thread may have thought that there is no mark

    def _wait_for_room(self, block: bool, timeout: float | None) -> int:
        """Wait for room in a queue with a bound. Returns for how many items there is some; 0: the time was up."""
        n = 0

        def attempt() -> tuple[bool, Iterable[int]]:
            nonlocal n
            self._check_shut()
            n = max(0, self._maxsize - self._count())
            return n > 0, ()

        with self._use:
            self._check_open()
            self._monitor.wait_until(attempt, block=block, timeout=timeout, room=self._fds[OUT])
        return n

    def _put_group(self, items: list[bytes], block: bool, timeout: float | None) -> int:
        """Put items into the log together, or as many as there is room for within the time. Returns how many."""
        n_put = 0

        def attempt() -> tuple[bool, Iterable[int]]:
            nonlocal n_put
            self._check_shut()
            room = self._maxsize - self._count() if self._maxsize else len(items)
            if room > 0:
                self._add_to_log(items[n_put : n_put + room])
                n_put = min(len(items), n_put + room)
            return n_put == len(items), ()

        with self._use:
            self._check_open()
            self._begin_to_put()
            self._monitor.wait_until(attempt, block=block, timeout=timeout, room=self._fds[OUT])
        return n_put
