"""The machinery of queues: a socket that the kernel keeps in order, and a log for what it has no room for.

A queue consists of (each shared by all who have the queue, and freed by the kernel with the last of them):

* a ``SOCK_SEQPACKET`` socket pair, through which items go, one message each. The kernel gives a message to exactly one
  receiver, whole, or keeps it. That is the usual path, and takes no lock.
* the log (`_log.py`) under the monitor's kernel lock, for items that the socket has no room for, and for groups.
* two eventfds as bells: something was put into the log; something was taken.
* the *life line*, a pipe through which nothing is ever sent. Who may put holds its writing end; that the last of them
  has closed it or died is seen by all who hold its reading end. A writing end can be opened anew from a reading end.

Order: what one handle puts is taken in that order. A handle whose item went into the log puts all further ones there
until the log's are taken; who takes from the log first looks whether the socket is empty, with the lock held.

Count: every message's length is 1 modulo 512, and the socket never holds 512 messages. So the number of bytes in it,
which the kernel tells exactly (FIONREAD), modulo 512 is the number of messages.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import queue
import select
import socket
import sys
import termios
import threading
from collections.abc import Callable, Iterable, Sequence
from pickle import dumps, loads
from time import monotonic
from typing import Any, Self

from fullcourt._transport.carried import Rights
from fullcourt.channels._handle import Handle, check_supported
from fullcourt.channels._listeners import Listener, enter_list
from fullcourt.channels._log import IN_LOG, Log
from fullcourt.channels._messages import (
    ANCILLARY_BYTES,
    PLAIN,
    RECEIVE_BYTES,
    Message,
    arrived,
    encode,
    in_one_piece,
    read,
    receive,
)
from fullcourt.channels._monitor import FIRST_WORD, WANTED, Monitor, Waiter, readable

__all__ = ["Channel", "ShutDown"]

if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):
        """The queue was shut down: nothing more can be put, or nothing is left to be taken. ``queue.ShutDown``."""


# 512 messages of at least 513 bytes need 654,080 bytes of buffer as the kernel counts (1,280 each); the least that a
# kernel could count is 1,089. It doubles what is asked for (socket(7), SO_SNDBUF), so less than 512 will fit.
SNDBUF = 270_000
MODULUS = 512
# How long a put waits for the readers of a full socket before it uses the log; and how often, while they read. Also
# how long a producer that is so many items ahead in the log waits for them: then the socket, which costs a third,
# can be used again. If that was in vain, it waits again when it is twice as far ahead.
PATIENCE_MS = 80
PATIENCE = 4
FAR_AHEAD = 500

# Words of the monitor.
SHUT = FIRST_WORD
LISTENED = FIRST_WORD + 1  # somebody has waited for items: ring the first bell when the log grows. Never taken back
MAXSIZE = FIRST_WORD + 2
DRAIN_WANTED = FIRST_WORD + 4  # a producer waits for the log to become empty; if its ring is lost, not for long

MEMORY, LEFT, CAME, OUT, IN, LIFE, LIVES = range(7)


# Longer pickles than this need more than the least length of a message.
LONGEST_SHORT = 513


def refuse(_: object) -> None:
    """A buffer callback that ends the pickling."""
    raise BufferError


def pad(data: bytes) -> bytes:
    """Lengthen a message to 1 modulo 512; a pickle ends with a full stop, and what follows is not read."""
    return data.ljust(((len(data) + 510 >> 9 or 1) << 9) + 1, b"\0")


class Use:
    """While something is done here, the descriptors stay open."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def __enter__(self) -> None:
        channel = self._channel
        with channel._lock:
            if not channel._fds:
                raise ValueError(f"this {type(channel).__name__} is closed")
            channel._n_users += 1

    def __exit__(self, *args: object) -> None:
        channel = self._channel
        with channel._lock:
            channel._n_users -= 1
            if channel._closed and not channel._n_users:
                channel._close_all()


class Channel(Handle):
    """A queue's handle in one process: what all kinds of queues are made of."""

    _counts_taken = False  # whether items that were taken are counted until they are done

    def __init__(self, maxsize: int = 0) -> None:
        check_supported(type(self).__name__)
        with contextlib.ExitStack() as on_failure:
            memory, left = Monitor.make()
            on_failure.callback(os.close, memory)
            on_failure.callback(os.close, left)
            came = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            on_failure.callback(os.close, came)
            one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            on_failure.callback(one.close)
            on_failure.callback(other.close)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF)
            one.setblocking(False)
            other.setblocking(False)
            life, lives = os.pipe2(os.O_CLOEXEC)
            on_failure.pop_all()
        self._open([memory, left, came, one.detach(), other.detach(), life, lives])
        self._words[MAXSIZE] = max(0, maxsize)
        self._maxsize = max(0, maxsize)
        self._direct = maxsize <= 0
        self._is_shared = False

    def _open(self, fds: list[int]) -> None:
        self._own(fds)
        self._monitor = Monitor(fds[MEMORY], fds[LEFT])
        self._words = self._monitor.words
        self._log = Log(self._words, fds[MEMORY])
        self._out = nonblocking(fds[OUT])
        self._in = nonblocking(fds[IN])
        self._send = self._out.send
        self._recvmsg = self._in.recvmsg
        self._count_buffer = array.array("i", [0])
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()  # protects _n_users and the closing of descriptors
        self._n_users = 0
        self._use = Use(self)
        self._closed = False
        self._has_put = False
        self._mark = 0  # when so many items were taken from the log, ours were
        self._stalled = False  # waiting for the readers was in vain
        self._far_ahead = FAR_AHEAD
        self._maxsize = self._words[MAXSIZE]
        self._direct = not self._maxsize  # whether items may go into the socket without looking further
        self._is_shared = True

    @classmethod
    def _restore(cls, state: tuple[Any, ...], fds: list[int]) -> Self:  # noqa: ARG003
        handle = cls.__new__(cls)
        handle._open(fds)
        return handle

    # -- travelling, forks, the end --------------------------------------------------------------------------------

    def _to_give(self) -> list[int]:
        self._check_open()
        self._hold()  # who receives it may put
        self._is_shared = True
        return self._fds

    def _hold(self) -> None:
        """Count as a producer again."""
        if self._fds[LIVES] < 0:
            self._fds[LIVES] = os.open(f"/proc/self/fd/{self._fds[LIFE]}", os.O_WRONLY | os.O_CLOEXEC)

    def _let_go(self) -> None:
        """Count as a producer no longer, until the next put."""
        fd, self._fds[LIVES] = self._fds[LIVES], -1
        self._direct = False
        if fd >= 0:
            os.close(fd)

    def _forking(self) -> None:
        self._is_shared = True

    def _forked(self) -> None:
        if not self._fds:
            return
        self._monitor.forked(self._fds[MEMORY], self._fds[LEFT])
        self._lock = threading.Lock()
        self._n_users = 0
        self._has_put = False
        listeners, self._listeners = self._listeners, []
        for listener in listeners:  # they are our parent's, too
            listener.close()

    def _dropped(self) -> None:
        if self._fds:
            self._let_go()

    def close(self) -> None:
        """Put no more from here, and take no more but by an iteration that runs. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._let_go()
            if not self._n_users:
                self._close_all()

    def _close_all(self) -> None:
        if not self._fds:
            return
        self._closed = True
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        self._out.detach()
        self._in.detach()
        self._monitor.close()
        super()._close_all()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"this {type(self).__name__} is closed: close() was called on it in this process")

    # -- how many --------------------------------------------------------------------------------------------------

    def _count(self) -> int:
        buffer = self._count_buffer if self._monitor._depth else array.array("i", [0])
        fcntl.ioctl(self._in, termios.FIONREAD, buffer)
        return buffer[0] % MODULUS + self._log.n_waiting

    # -- putting ---------------------------------------------------------------------------------------------------

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item in.

        Args:
            obj: the item; it is pickled at once.
            block: whether to wait for room.
            timeout: for at most how many seconds; None: for ever.

        Raises:
            queue.Full: there was no room.
            ShutDown: the queue was shut down.
            ValueError: it is closed here.
            PicklingError: the item cannot be pickled; the message names the attribute in the way.
        """
        message: bytes | Message
        if self._direct and not self._words[SHUT]:  # the usual case, in one piece: it is half of what an item costs
            try:
                message = dumps(obj, 5, buffer_callback=refuse)
                plain = (
                    len(message) <= LONGEST_SHORT and b"__main__" not in message and b"multiprocessing" not in message
                )
            except Exception:  # noqa: BLE001  it has buffers, descriptors, or what only cloudpickle can pickle
                plain = False
            if not plain:
                message = encode(obj)
            if type(message) is bytes:
                try:
                    self._send(message.ljust(513, b"\0") if len(message) <= LONGEST_SHORT else pad(message))
                except BlockingIOError:
                    pass
                else:
                    self._has_put = True
                    return
            self._put_slowly(obj, message, block, timeout)
            return
        if self._closed:
            self._check_open()
        message = encode(obj)
        if self._mark and type(message) is bytes and not self._maxsize and not self._words[SHUT]:
            with self._monitor:
                ahead = self._mark - self._log.n_taken
                if ahead > 0:
                    self._add_to_log((message,))
            if ahead > self._far_ahead and block:
                self._wait_for_drain()
            if ahead > 0:
                return
        self._put_slowly(obj, message, block, timeout)

    def _put_slowly(self, obj: object, message: bytes | Message, block: bool, timeout: float | None) -> None:
        with self._use:
            self._check_open()
            self._begin_to_put()
            if not self._maxsize and not (isinstance(message, Message) and message.has_guests):
                done = self._try_to_send(message)
                if not done and block and self._wait_for_readers():
                    done = self._try_to_send(message)
                if done:
                    return
            done = self._monitor.wait_until(lambda: (self._try_to_put(obj, message), ()), block=block, timeout=timeout)
        if not done:
            raise queue.Full

    def _begin_to_put(self) -> None:
        self._check_shut()
        self._has_put = True
        self._hold()

    def _check_shut(self) -> None:
        if self._words[SHUT]:
            raise ShutDown

    def _try_to_send(self, message: bytes | Message) -> bool:
        """Put a message into the socket, unless it is full or earlier items of this handle are in the log."""
        if self._mark:
            if self._log.n_taken < self._mark:
                return False
            with self._monitor:
                if self._log.n_taken < self._mark:
                    return False
                self._mark = 0
                self._stalled = False
                self._direct = not self._maxsize
        elif not self._maxsize:
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

    def _wait_for_readers(self) -> bool:
        """Wait a moment for the readers of a full socket, if they read. Returns whether they made room."""
        if self._mark or self._stalled or not self._words[LISTENED]:
            return False
        room = select.poll()
        room.register(self._out, select.POLLOUT)
        before = self._bytes_inside()
        for _ in range(PATIENCE):
            if room.poll(PATIENCE_MS):
                return True
            now = self._bytes_inside()
            if now >= before:
                break
            before = now
        self._stalled = True
        return False

    def _wait_for_drain(self) -> None:
        """Wait a moment for the readers to come to the end of the log, while they read."""
        words, log = self._words, self._log
        with self._use, Waiter(self._fds[LEFT]) as waiter:
            before = log.n_taken
            for _ in range(PATIENCE):
                words[DRAIN_WANTED] = 1
                if not log.n_waiting:
                    self._far_ahead = FAR_AHEAD
                    return
                waiter.wait((), PATIENCE_MS / 1000)
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
        self._mark = self._log.add(items)
        self._direct = False
        if self._words[LISTENED]:
            os.eventfd_write(self._fds[CAME], 1)

    # -- taking ----------------------------------------------------------------------------------------------------

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item.

        Args:
            block: whether to wait for one.
            timeout: for at most how many seconds; None: for ever.

        Raises:
            queue.Empty: there was none.
            EOFError: there is none, and nobody is left who might put one (a process that holds the queue might,
                unless it has closed it or only iterates).
            ShutDown: the queue was shut down, and is empty.
            ValueError: it is closed here.
        """
        if self._closed:
            self._check_open()
        words = self._words
        if not self._counts_taken:
            if words[IN_LOG]:
                with self._monitor:
                    found = self._take_in_order()
                if found is not None:
                    self._monitor.ring()
                    return read(*found)
            try:
                data, ancillary, _, _ = self._recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES)
            except BlockingIOError:
                pass
            else:
                if words[WANTED]:
                    self._monitor.ring()
                if data[0] == PLAIN:
                    return loads(data)
                return read(data, arrived(ancillary) if ancillary else None)
        with self._use:
            return read(*self._take(block, timeout, tried=not self._counts_taken))

    def _take(self, block: bool, timeout: float | None, *, tried: bool = False) -> tuple[bytes, Rights | None]:
        """Take a message. Raises Empty, ShutDown or EOFError. ``tried``: that was just tried in vain."""
        until = None if timeout is None else monotonic() + max(0.0, timeout)
        at_end = False
        listener, made = self._listen()
        try:
            while True:
                shut = self._words[SHUT]
                if made or at_end or shut or not tried:
                    found = self._try_to_take()
                    if found is not None:
                        return found
                made = tried = False
                at_end = listener.wait(self._words, self._time_left(shut, at_end, block, until))
        finally:
            self._listeners.append(listener)

    async def _take_async(self, timeout: float | None) -> tuple[bytes, Rights | None]:
        """As :meth:`_take`, in an event loop."""
        until = None if timeout is None else monotonic() + max(0.0, timeout)
        at_end = False
        listener, _ = self._listen()
        try:
            while True:
                shut = self._words[SHUT]
                found = self._try_to_take()
                if found is not None:
                    return found
                await readable(listener.fileno(), self._time_left(shut, at_end, True, until))
                at_end = listener.wait(self._words, 0)
        finally:
            self._listeners.append(listener)

    def _listen(self) -> tuple[Listener, bool]:
        """A listener, and whether it is new: of an old one no news since its last use are lost."""
        try:
            return self._listeners.pop(), False
        except IndexError:
            pass
        self._words[LISTENED] = 1
        with self._monitor:
            is_known = enter_list(self._words)
        listener = Listener(self._fds[IN], self._fds[LIFE], self._fds[CAME], is_known)
        os.eventfd_write(self._fds[CAME], 1)
        return listener, True

    def _time_left(self, shut: int, at_end: bool, block: bool, until: float | None) -> float | None:
        """For how long to wait for an item where there is none; raises what is to be said if not at all."""
        if shut:
            raise ShutDown
        if at_end:
            raise EOFError("the queue is empty, and all who might put something into it have closed it or ended")
        left = None if until is None else until - monotonic()
        if not block or (left is not None and left <= 0):
            raise queue.Empty
        return left

    def _try_to_take(self) -> tuple[bytes, Rights | None] | None:
        """Take a message if there is one."""
        if not self._counts_taken and not self._log.n_waiting:
            try:
                found = receive(self._in)
            except BlockingIOError:
                return None
        else:
            with self._monitor:
                found = self._take_in_order()
                if found is None:
                    return None
                self._note_taken()
        self._monitor.ring()
        return found

    def _take_in_order(self) -> tuple[bytes, Rights | None] | None:
        """Take a message from the socket or else from the log. With the lock held."""
        try:
            return receive(self._in)
        except BlockingIOError:
            items = self._log.take()
            if self._words[DRAIN_WANTED] and not self._log.n_waiting:
                self._words[DRAIN_WANTED] = 0
                os.eventfd_write(self._fds[LEFT], 1)
            return (items[0], None) if items else None

    def _note_taken(self) -> None:
        """An item was taken. With the lock held."""

    # -- many ------------------------------------------------------------------------------------------------------

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
            self._monitor.wait_until(attempt, block=block, timeout=timeout)
        return n_put

    def _get_more(self, found: list[Any], n: int) -> None:
        """Take what is there, until there are ``n``."""
        while len(found) < n:
            if self._log.n_waiting:
                with self._monitor:
                    first = self._take_in_order()
                    messages = [] if first is None else [first]
                    if messages and messages[0][1] is None and len(found) + 1 < n and not self._bytes_inside():
                        messages += [(data, None) for data in self._log.take(n - len(found) - 1)]
                    for _ in messages:
                        self._note_taken()
                self._monitor.ring()
                found += [read(*message) for message in messages]
            else:
                message = self._try_to_take()
                if message is None:
                    return
                found.append(read(*message))

    def _bytes_inside(self) -> int:
        fcntl.ioctl(self._in, termios.FIONREAD, self._count_buffer)
        return self._count_buffer[0]

    # -- shutting down ---------------------------------------------------------------------------------------------

    def _shut_down(self, immediate: bool) -> None:
        with self._monitor:
            self._words[SHUT] = 1
            if immediate:
                self._log.clear()
                with contextlib.suppress(BlockingIOError):
                    while True:
                        receive(self._in)
            os.eventfd_write(self._fds[CAME], 1)
            self._monitor.ring()


def nonblocking(fd: int) -> socket.socket:
    """A socket object for one of our descriptors, which stays ours."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
    sock.setblocking(False)
    return sock
