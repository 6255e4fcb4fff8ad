"""Pipes: two ends of a ``SOCK_SEQPACKET`` socket pair, with ``multiprocessing.connection.Connection``'s interface."""

from __future__ import annotations

import os
import pickle
import select
import socket
from collections.abc import Iterator
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Self

from fullcourt._os.sockets import View
from fullcourt._os.spinning import Spinner
from fullcourt._os.waits import bounded, checked
from fullcourt._transport.carried import Rights
from fullcourt.channels._handle import Handle, check_supported
from fullcourt.channels._messages import BLOCK, MAX_INLINE, PLAIN, Message, bytes_message, encode, read, receive
from fullcourt.channels._monitor import readable

__all__ = ["Connection", "Pipe"]

RAW = 3  # the first byte of a message of bytes, which may be none: an empty message would look like the end of file
RAW_HEAD = bytes([RAW])


def Pipe(duplex: bool = True) -> tuple[Connection, Connection]:  # noqa: N802  the standard library's name
    """Make a pipe, as ``multiprocessing.Pipe``.

    Args:
        duplex: whether both ends send and receive; else the first only receives and the second only sends.

    Returns:
        Its two ends.

    Raises:
        NotSupported: this is not Linux.

    Example:
        >>> here, there = Pipe()
        >>> here.send("ping")
        >>> there.recv()
        'ping'
        >>> here.close(), there.close()
        (None, None)
    """
    check_supported("Pipe")
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not duplex:
        one.shutdown(socket.SHUT_WR)
        other.shutdown(socket.SHUT_RD)
    return Connection(one.detach(), writable=duplex), Connection(other.detach(), readable=duplex)


class Connection(Handle):
    """One end of a pipe, as ``multiprocessing.connection.Connection``. Made by :func:`Pipe`.

    Several threads and processes may send and receive at once: each message goes to one receiver, whole. A process
    killed at any instruction costs at most the message that it was sending or had received. What cannot be sent in one
    piece, and large buffers (NumPy, Arrow), go as memory blocks: copied once, by the sender. Queues, pipes and locks
    can be sent. ``multiprocessing.connection.wait`` takes it.

    Iterating over it receives until the other end is closed everywhere.
    """

    def __init__(self, handle: int, readable: bool = True, writable: bool = True) -> None:
        self._readable = readable
        self._writable = writable
        self._spinner = Spinner(may_spin=True)
        self._socket: socket.socket | None = View(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=handle)
        self._own([handle])

    def _state(self) -> tuple[Any, ...]:
        return (self._readable, self._writable)

    def _to_give(self) -> list[int]:
        self._open_socket()
        return self._fds

    @classmethod
    def _restore(cls, state: tuple[Any, ...], fds: list[int]) -> Self:
        return cls(fds.pop(), *state)

    # -- its state -------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether it is closed here."""
        return self._socket is None

    @property
    def readable(self) -> bool:
        """Whether it can receive."""
        return self._readable

    @property
    def writable(self) -> bool:
        """Whether it can send."""
        return self._writable

    def fileno(self) -> int:
        """Its descriptor. Raises OSError if it is closed."""
        return self._open_socket().fileno()

    def close(self) -> None:
        """Close it here. Idempotent."""
        self._close_all()

    def _close_all(self) -> None:
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.detach()
        super()._close_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise OSError("handle is closed")
        return self._socket

    def _to_read(self) -> socket.socket:
        sock = self._open_socket()
        if not self._readable:
            raise OSError("connection is write-only")
        return sock

    def _to_write(self) -> socket.socket:
        sock = self._open_socket()
        if not self._writable:
            raise OSError("connection is read-only")
        return sock

    # -- sending ---------------------------------------------------------------------------------------------------

    def send(self, obj: object) -> None:
        """Send an object; waits while the other end is far behind.

        Raises:
            BrokenPipeError: the other end is closed everywhere.
            PicklingError: it cannot be pickled; the message names the attribute in the way.
        """
        sock = self._to_write()
        send_message(sock, encode(obj, self._blocks))

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        """Send bytes as one message: ``size`` of them from ``offset`` on, by default all.

        Raises:
            ValueError: ``offset`` or ``size`` is outside of the buffer.
        """
        sock = self._to_write()
        view = memoryview(buf)
        if view.itemsize > 1 or view.ndim > 1:
            view = view.cast("B")
        n = view.nbytes
        if offset < 0:
            raise ValueError("offset is negative")
        if n < offset:
            raise ValueError("buffer length < offset")
        if size is None:
            size = n - offset
        elif size < 0:
            raise ValueError("size is negative")
        elif offset + size > n:
            raise ValueError("buffer length < offset + size")
        part = view[offset : offset + size]
        send_message(sock, RAW_HEAD + part if size < MAX_INLINE else bytes_message(part, self._blocks))

    async def asend(self, obj: object) -> None:
        """As :meth:`send`, for a coroutine."""
        import asyncio

        message = encode(obj, self._blocks)
        while True:
            sock = self._to_write()
            try:
                return send_message(sock, message, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            loop, ready = asyncio.get_running_loop(), asyncio.Event()
            fd = os.dup(sock.fileno())  # a loop knows one writer per descriptor; several may send
            loop.add_writer(fd, ready.set)
            try:
                await ready.wait()
            finally:
                loop.remove_writer(fd)
                os.close(fd)

    # -- receiving -------------------------------------------------------------------------------------------------

    def _receive(self, flags: int = 0) -> tuple[bytes, Rights | None]:
        sock = self._to_read()
        try:
            found = receive(sock, flags) if flags else self._receive_soon(sock)
        except ConnectionResetError:  # the other end was closed with our messages unread; its own may still be here
            found = receive(sock, flags)
        if not found[0]:
            raise EOFError
        return found

    def _receive_soon(self, sock: socket.socket) -> tuple[bytes, Rights | None]:
        """Receive what is there, or else wait, at first awake."""
        try:
            return receive(sock, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        self._spinner.wait(partial(has_come, sock))
        return receive(sock)

    def recv(self) -> Any:
        """Receive an object; waits for one. Raises EOFError when the other end is closed everywhere."""
        return load(*self._receive())

    async def arecv(self) -> Any:
        """As :meth:`recv`, for a coroutine."""
        while True:
            try:
                found = self._receive(socket.MSG_DONTWAIT)
            except BlockingIOError:
                fd = os.dup(self.fileno())  # a loop knows one reader per descriptor; several may receive
                try:
                    await readable(fd, None)
                finally:
                    os.close(fd)
            else:
                return load(*found)

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                item = self.recv()
            except EOFError:
                return
            yield item

    def _receive_bytes(self) -> bytes | memoryview:
        data, rights = self._receive()
        if data[0] == PLAIN:
            return data
        if data[0] == RAW:
            return memoryview(data)[1:]
        content = read(data, rights)
        return pickle.dumps(content, 5) if data[0] == BLOCK else content

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Receive a message as bytes.

        Raises:
            OSError: it is longer than ``maxlength``; it is lost, and nothing more can be received at this end. One that
                could only receive is closed.
            EOFError: the other end is closed everywhere.
        """
        if maxlength is not None and maxlength < 0:
            raise ValueError("negative maxlength")
        content = self._receive_bytes()
        if maxlength is not None and len(content) > maxlength:
            if self._writable:
                self._readable = False
            else:
                self.close()
            raise OSError(f"bad message length: {len(content)} bytes, and maxlength is {maxlength}")
        return bytes(content)

    def recv_bytes_into(self, buf: Any, offset: int = 0) -> int:
        """Receive a message of bytes into a writable buffer, from ``offset`` bytes on. Returns its length.

        Raises:
            multiprocessing.BufferTooShort: it does not fit; the exception's argument is the message.
        """
        view = memoryview(buf)
        view = view.cast("B")
        if offset < 0:
            raise ValueError("negative offset")
        if offset > len(view):
            raise ValueError("offset too large")
        content = self._receive_bytes()
        if len(view) < offset + len(content):
            from multiprocessing import BufferTooShort

            raise BufferTooShort(bytes(content))
        view[offset : offset + len(content)] = content
        return len(content)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether :meth:`recv` would return at once, or come to the end; waits for that so many seconds."""
        sock = self._to_read()
        ready = select.poll()
        ready.register(sock, select.POLLIN)
        if timeout is None:
            return bool(ready.poll())
        until = monotonic() + checked(timeout)
        while not ready.poll(1000 * (bounded(max(0.0, until - monotonic())) or 0.0)):
            if monotonic() >= until:
                return False
        return True

    def __repr__(self) -> str:
        return f"<fullcourt.Connection: {'closed' if self._socket is None else f'descriptor {self._fds[0]}'}>"


def load(data: bytes, rights: Rights | None) -> Any:
    """The object that a received message holds."""
    if data[0] == RAW:
        return pickle.loads(memoryview(data)[1:])
    content = read(data, rights)
    return pickle.loads(content) if data[0] not in (PLAIN, BLOCK) else content


def has_come(sock: socket.socket) -> bool:
    """Whether a message, or the end of file, can be received; it is left where it is."""
    try:
        sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def send_message(sock: socket.socket, message: bytes | Message, flags: int = 0) -> None:
    if isinstance(message, Message):
        message.send(sock, flags=flags)
    else:
        sock.send(message, flags)
