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
import socket
import termios
from typing import Any, Self

from fullcourt._os.locks import make_rlock
from fullcourt._os.sockets import View
from fullcourt._transport.carried import closing_on_failure, goes_by_multiprocessing, unregister
from fullcourt.channels._handle import Handle, check_supported, whole_number
from fullcourt.channels._listeners import Listener
from fullcourt.channels._log import Log
from fullcourt.channels._monitor import FIRST_WORD, Monitor

__all__ = ["Line"]

# 512 messages of at least 513 bytes need 654,080 bytes of buffer as the kernel counts (1,280 each); the least that a
# kernel could count is 1,089. It doubles what is asked for (socket(7), SO_SNDBUF), so less than 512 will fit.
SNDBUF = 270_000
MODULUS = 512

# Words of the monitor.
SHUT = FIRST_WORD
LISTENED = FIRST_WORD + 1  # somebody has waited for items: ring the first bell when the log grows. Never taken back
MAXSIZE = FIRST_WORD + 2
DRAIN_WANTED = FIRST_WORD + 4  # a producer waits for the log to become empty; if its ring is lost, not for long
READER = FIRST_WORD + 5  # the pid of who took an item last while the log was in use; 0: nobody has

MEMORY, LEFT, CAME, OUT, IN, LIFE, LIVES = range(7)


def pad(data: bytes) -> bytes:
    """Lengthen a message to 1 modulo 512; a pickle ends with a full stop, and what follows is not read."""
    return data.ljust(((len(data) + 510 >> 9 or 1) << 9) + 1, b"\0")


class Use:
    """While something is done here, the descriptors stay open."""

    __slots__ = ("_channel",)

    def __init__(self, channel: Line) -> None:
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


class Line(Handle):
    """A queue's handle in one process: its objects, and their life."""

    _pipe = (LIFE, LIVES)

    def __init__(self, maxsize: int = 0) -> None:
        maxsize = check_maxsize(maxsize)
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
        fds = [memory, left, came, one.detach(), other.detach(), life, lives]
        with closing_on_failure(fds):
            self._open(fds)
        self._words[MAXSIZE] = maxsize
        self._maxsize = maxsize
        self._direct = not maxsize
        self._is_shared = False

    def _open(self, fds: list[int]) -> None:
        self._monitor = Monitor(fds[MEMORY], fds[LEFT])
        self._words = self._monitor.words
        self._log = Log(self._words, fds[MEMORY])
        self._out = nonblocking(fds[OUT])
        self._in = nonblocking(fds[IN])
        self._send = self._out.send
        self._recvmsg = self._in.recvmsg
        self._count_buffer = array.array("i", [0])
        self._listeners: list[Listener] = []
        # Protects _n_users, the opening and the closing of descriptors. Reentrant for signal handlers.
        self._lock = make_rlock()
        self._n_users = 0
        self._iterations: list[None] = []  # one for each that runs
        self._closed = False
        self._n_put: int = 0  # items, about: two threads may count one
        self._unread: list[Exception] = []  # what was raised by items that get_many took beside good ones
        self._mark = 0  # when so many items were taken from the log, ours were
        self._stalled = False  # waiting for the readers was in vain
        self._waited_s = 0.0  # waits that were not, since the readers emptied most of the socket ...
        self._n_put_then: int = 0  # ... when so many items had been put
        self._far_ahead = 0  # how far ahead in the log this handle last waited for the readers in vain
        self._taken_then = 0  # what was taken from the log when this handle last looked whether to wait
        self._maxsize = self._words[MAXSIZE]
        self._direct = not self._maxsize  # whether items may go into the socket without looking further
        self._is_shared = True
        self._own(fds)

    @classmethod
    def _restore(cls, state: tuple[Any, ...], fds: list[int]) -> Self:  # noqa: ARG003
        handle = cls.__new__(cls)
        handle._open(fds)
        return handle

    # -- travelling, forks, the end --------------------------------------------------------------------------------

    def _to_give(self) -> list[int]:
        self._check_open()
        # Who receives it may put, and gets a writing end of its own: ours may have been let go by a thread that
        # iterates and waits, and would not let go again before the next item.
        if goes_by_multiprocessing():
            self._is_shared = True
            self._hold()
            return self._fds
        return [*self._fds[:LIVES], -1]

    def _given(self) -> None:
        self._is_shared = True  # first: an iteration that begins now looks at this, or is seen here
        if self._iterations:
            self._only_take()

    def _only_take(self) -> None:
        """Count as one that only takes, if the queue is shared, and nothing was put from here."""
        if self._is_shared and not self._n_put and not self._closed and self._fds[LIVES] >= 0:
            self._let_go()

    def _hold(self) -> None:
        """Count as a producer again."""
        with self._lock:
            if self._fds[LIVES] < 0:
                self._fds[LIVES] = os.open(f"/proc/self/fd/{self._fds[LIFE]}", os.O_WRONLY | os.O_CLOEXEC)

    def _let_go(self) -> None:
        """Count as a producer no longer, until the next put."""
        with self._lock:
            fd, self._fds[LIVES] = self._fds[LIVES], -1
            self._direct = False
            if fd >= 0:
                os.close(fd)

    def _forking(self) -> None:
        self._is_shared = True

    def _forked(self) -> None:
        super()._forked()
        self._monitor.forked(self._fds[MEMORY], self._fds[LEFT])
        self._lock = make_rlock()
        self._n_users = 0
        self._iterations = []
        self._n_put = self._n_put_then = 0
        self._unread = []
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
        unregister(self)
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

    @property
    def _use(self) -> Use:
        """A context in which the descriptors stay open. Not kept: a cycle would keep them open for long."""
        return Use(self)

    # -- how much --------------------------------------------------------------------------------------------------

    def _count(self) -> int:
        buffer = self._count_buffer if self._monitor._held else array.array("i", [0])
        fcntl.ioctl(self._in, termios.FIONREAD, buffer)
        return buffer[0] % MODULUS + self._log.n_waiting

    def _bytes_inside(self) -> int:
        fcntl.ioctl(self._in, termios.FIONREAD, self._count_buffer)
        return self._count_buffer[0]


def check_maxsize(maxsize: object) -> int:
    """A bound; 0: there is none."""
    number = whole_number(maxsize, "maxsize")
    if number >= 2**63:
        raise ValueError(f"maxsize must be below 2**63, not {number}: 0 is for no bound")
    return max(0, number)


def nonblocking(fd: int) -> socket.socket:
    """A socket object for one of our descriptors, which stays ours."""
    sock = View(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fd)
    sock.setblocking(False)
    return sock
