"""A link: two one-way ``AF_UNIX``/``SOCK_SEQPACKET`` sockets between the pool and one worker.

The kernel keeps the frames apart and tells end-of-file at a death. The pool keeps a duplicate of the end from which
the worker reads its tasks: so it can take back frames that the worker has not read, with the kernel as the arbiter of
who has which. That is also why each direction has a socket pair of its own: with the duplicate open, a shared pair
would never report the worker's end-of-file.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import pickle
import socket
import threading
from collections import deque
from functools import partial

from fullcourt._transport.arena import Arena, worker_arena
from fullcourt._transport.blocks import open_block, raw_views, write_block
from fullcourt._transport.carried import MAX_DESCRIPTORS, Rights
from fullcourt._transport.codec import Buffers
from fullcourt._transport.frames import (
    BLOCK,
    DESCRIPTOR_FOLLOWS,
    HEADER_BYTES,
    MAX_INLINE,
    NOT_TAKEN_BACK,
    RECEIVE_BYTES,
    RIGHTS,
    pack,
    unpack,
)

__all__ = ["Body", "PoolEnd", "WorkerEnd", "make_link"]

Fields = tuple[int, int, int, int, int, int, int, float]
# What came along with a frame: a block's descriptor, several, the parts themselves, or nothing (-1).
Attached = int | Rights | list[memoryview]
# CMSG_SPACE for as many descriptors as the kernel sends at once.
ANCILLARY_BYTES = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS) if hasattr(socket, "CMSG_SPACE") else 0


class Body:
    """The body of a received frame: views of the function's pickle and of the payload's, and its buffers.

    With queues in it, also the descriptors of both; they are closed with this object.
    """

    __slots__ = ("_rights", "buffers", "descriptors", "function", "function_descriptors", "payload")

    def __init__(
        self,
        function: bytes | memoryview,
        payload: bytes | memoryview,
        buffers: list[memoryview],
        rights: Rights | None = None,
    ) -> None:
        self.function = function
        self.payload = payload
        self.buffers = buffers
        self.function_descriptors: list[int] | None = None
        self.descriptors: list[int] | None = None
        self._rights = rights
        if rights is not None:
            n_function = int.from_bytes(self.buffers.pop(), "little")
            self.function_descriptors = rights.fds[:n_function]
            self.descriptors = rights.fds[n_function:]


class Frame:
    """A frame to be sent: its bytes and, for a BLOCK, the descriptor that goes along; for RIGHTS, further ones."""

    __slots__ = ("chunk_id", "data", "fd", "kept", "rights")

    def __init__(
        self, data: bytes, fd: int, chunk_id: int, rights: list[int] | None = None, kept: object = None
    ) -> None:
        self.data = data
        self.fd = fd
        self.chunk_id = chunk_id
        self.rights = rights
        self.kept = kept  # who owns those

    def copy(self) -> Frame:
        """The same frame, to be sent to another worker."""
        return Frame(self.data, os.dup(self.fd) if self.fd >= 0 else -1, self.chunk_id, self.rights, self.kept)

    def close(self) -> None:
        """Give up the block, if it has one."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def make_frame(
    kind: int,
    function_id: int,
    chunk_id: int,
    start: int,
    count: int,
    seconds: float,
    function: bytes,
    payload: bytes,
    buffers: list[pickle.PickleBuffer],
    arena: Arena | None = None,
) -> Frame:
    """Build a frame; what is large goes into a block, of the arena if there is one."""
    if type(buffers) is Buffers:
        return make_frame_with_rights(
            kind, function_id, chunk_id, start, count, seconds, function, payload, buffers, arena
        )
    if not buffers and len(function) + len(payload) <= MAX_INLINE:
        header = pack(kind, 0, function_id, chunk_id, start, count, len(function), seconds)
        return Frame(header + function + payload if function else header + payload, -1, chunk_id)
    fd, table = write_block([function, payload, *raw_views(buffers)], arena)
    header = pack(kind, BLOCK, function_id, chunk_id, start, count, len(function), seconds)
    return Frame(header + table, fd, chunk_id)


def make_frame_with_rights(
    kind: int,
    function_id: int,
    chunk_id: int,
    start: int,
    count: int,
    seconds: float,
    function: bytes,
    payload: bytes,
    buffers: Buffers,
    arena: Arena | None,
) -> Frame:
    """Build a frame for what holds descriptors: a block, whose last part says how many are the function's."""
    of_function = buffers.function_rights.fds if buffers.function_rights is not None and function else []
    of_payload = buffers.rights.fds if buffers.rights is not None else []
    if len(of_function) + len(of_payload) >= MAX_DESCRIPTORS:
        raise OSError(
            errno.EMFILE, f"more than {MAX_DESCRIPTORS - 1} descriptors in one task: the kernel takes no more"
        )
    fd, table = write_block([function, payload, *raw_views(buffers), len(of_function).to_bytes(2, "little")], arena)
    header = pack(kind, BLOCK | RIGHTS, function_id, chunk_id, start, count, len(function), seconds)
    return Frame(header + table, fd, chunk_id, [*of_function, *of_payload], buffers)


def read_body(data: bytes, fields: Fields, attached: Attached) -> Body:
    """Find the parts of a received frame's body. Raises OSError if there was no memory or descriptor for it."""
    if fields[1]:
        table = memoryview(data)[HEADER_BYTES:]
        rights = None
        if isinstance(attached, list):
            parts = attached
        elif isinstance(attached, Rights):
            rights = attached
            parts = open_block(rights.fds.pop(0), table)
        elif attached < 0:
            raise OSError(errno.ENOMEM, "the large parts of a frame could not be received")
        else:
            parts = open_block(attached, table)
        return Body(parts[0], parts[1], parts[2:], rights if fields[1] & RIGHTS else None)
    n_function = fields[6]
    view = memoryview(data)
    if n_function:
        return Body(view[HEADER_BYTES : HEADER_BYTES + n_function], view[HEADER_BYTES + n_function :], [])
    return Body(b"", view[HEADER_BYTES:], [])


def frame_again(data: bytes, attached: int | Rights) -> Frame:
    """A received frame, to be sent again."""
    if isinstance(attached, Rights):
        return Frame(data, os.dup(attached.fds[0]), 0, attached.fds[1:], attached)
    return Frame(data, attached, 0)


def make_link() -> tuple[PoolEnd, socket.socket, socket.socket]:
    """Make a link. Returns the pool's end, and the worker's two sockets (tasks, results), to be handed over."""
    tasks_in, tasks_out = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    results_in, results_out = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return PoolEnd(tasks_out, tasks_in, results_in), tasks_in, results_out


def receive_with_fd(sock: socket.socket, flags: int = 0) -> tuple[bytes, int | Rights]:
    """Receive a frame and the descriptor that may come with it (-1: none; several: an object that owns them)."""
    data, ancillary, _, _ = sock.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES, flags)
    return data, descriptor_in(data, ancillary) if ancillary else -1


def descriptor_in(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> int | Rights:
    fd: int | Rights = -1
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds = array.array("i")
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            for received in fds:
                os.set_inheritable(received, False)
            fd = fds[0] if len(fds) == 1 else Rights(fds.tolist())
    if isinstance(fd, int) and fd >= 0 and data[1] & RIGHTS:
        return Rights([fd])  # all but the block's are missing: there was room for one only
    return fd


def send_with_fd(sock: socket.socket, data: bytes, frame: Frame) -> None:
    fds = array.array("i", [frame.fd] if frame.rights is None else [frame.fd, *frame.rights])
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


class PoolEnd:
    """The pool's end of a link. ``send`` and ``take_back`` from any thread; ``receive`` from the one that drives."""

    can_take_back = True

    def __init__(self, tasks_out: socket.socket, tasks_in: socket.socket, results_in: socket.socket) -> None:
        tasks_out.setblocking(False)
        results_in.setblocking(False)
        self._out = tasks_out
        self._unread = tasks_in  # the worker's receiving end; reads here pass MSG_DONTWAIT, it stays blocking for it
        self._in = results_in
        self._send = tasks_out.send
        self._receive = results_in.recv
        self._lock = threading.Lock()  # protects _waiting and the order of sends; taken by send, flush, take_back
        self._waiting: deque[Frame] = deque()
        self._descriptor_follows = False
        self.closed = False
        self.bytes_out = 0
        self.bytes_in = 0

    def fileno(self) -> int:
        """The descriptor that becomes readable when results or the end have come."""
        return self._in.fileno()

    def send_small(self, data: bytes, chunk_id: int) -> None:
        """:meth:`send` for what needs no frame unless it must wait: most calls."""
        with self._lock:
            self.bytes_out += len(data)
            if self._waiting:
                self._waiting.append(Frame(data, -1, chunk_id))
                return
            try:
                self._send(data)
            except BlockingIOError:
                self._waiting.append(Frame(data, -1, chunk_id))
            except OSError:  # as below
                pass

    def send(self, frame: Frame) -> bool:
        """Send a frame, or keep it until :meth:`flush` where the link is full. False: it waits, or the link is dead."""
        with self._lock:
            return self._put(frame)

    def _put(self, frame: Frame) -> bool:
        self.bytes_out += len(frame.data)
        if self._waiting:
            self._waiting.append(frame)
            return False
        try:
            if frame.fd < 0:
                self._send(frame.data)
            else:
                send_with_fd(self._out, frame.data, frame)
                frame.close()
        except BlockingIOError:
            self._waiting.append(frame)
            return False
        except OSError:  # the worker is gone; its loss is reported by its keeper
            frame.close()
            return False
        return True

    def flush(self) -> None:
        """Send what waited. Called after every receive: a worker that answered has read something."""
        if not self._waiting:
            return
        with self._lock:
            while self._waiting:
                frame = self._waiting[0]
                try:
                    if frame.fd < 0:
                        self._send(frame.data)
                    else:
                        send_with_fd(self._out, frame.data, frame)
                except BlockingIOError:
                    return
                except OSError:
                    pass
                frame.close()
                self._waiting.popleft()

    def receive(self) -> tuple[Fields, bytes, int | Rights] | None:
        """One frame (header, data, descriptor), or None at the end of file. Raises BlockingIOError if there is none."""
        fd: int | Rights
        try:
            if self._descriptor_follows:
                data, fd = receive_with_fd(self._in)
                self._descriptor_follows = False
            else:
                data = self._receive(RECEIVE_BYTES)
                fd = -1
                if data == DESCRIPTOR_FOLLOWS:
                    self._descriptor_follows = True
                    data, fd = receive_with_fd(self._in)
                    self._descriptor_follows = False
        except ConnectionError:
            return None
        if not data:
            return None
        self.bytes_in += len(data)
        return unpack(data), data, fd

    def take_back(self) -> list[int]:
        """Take back all frames that the worker has not read. Returns their chunks' ids, in order."""
        ids: list[int] = []
        others: list[Frame] = []  # what is no task, as STOP from another thread: the worker must still get it
        with self._lock:
            while True:
                try:
                    data, fd = receive_with_fd(self._unread, socket.MSG_DONTWAIT)
                except OSError:
                    break
                if not data:
                    break
                if data[0] in NOT_TAKEN_BACK:
                    others.append(frame_again(data, fd))
                    continue
                if isinstance(fd, Rights):
                    fd.close()
                elif fd >= 0:
                    os.close(fd)
                ids.append(unpack(data)[3])
            while self._waiting:
                frame = self._waiting.popleft()
                if frame.data[0] in NOT_TAKEN_BACK:
                    others.append(frame)
                    continue
                ids.append(frame.chunk_id)
                frame.close()
            for frame in others:  # before the lock is free: what comes after it must come after it
                self._put(frame)
        return ids

    def give_up(self) -> None:
        """In a forked child, where another thread of the parent may have held the lock: close the sockets."""
        self.closed = True
        for sock in (self._out, self._unread, self._in):
            sock.close()

    def hang_up(self) -> None:
        """Have the worker see the end of file, after what it was sent."""
        with contextlib.suppress(OSError):
            self._out.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the pool's end. Idempotent."""
        with self._lock:
            self.closed = True
            for frame in self._waiting:
                frame.close()
            self._waiting.clear()
            for sock in (self._out, self._unread, self._in):
                sock.close()


class WorkerEnd:
    """The worker's end of a link. With several slots, each receives for itself; any thread may send.

    A send may find itself inside of another one of the same thread: the garbage collector, or a signal, had something
    printed. What is sent there goes out after the outer frame.
    """

    def __init__(self, tasks: socket.socket, results: socket.socket, n_slots: int) -> None:
        self._arena = worker_arena()
        self.make_frame = partial(make_frame, arena=self._arena)
        self._tasks = tasks
        self._results = results
        self._lock = threading.RLock()  # keeps a frame's two messages together; held while the link is full
        self._sending = False
        self._late: deque[Frame] = deque()
        self._send = results.send
        self._recv = tasks.recvmsg

    def receive(self) -> tuple[Fields, bytes, int | Rights] | None:
        """Wait for a frame: header, data, descriptor. None: the pool is gone, or wants this worker to end."""
        try:
            data, ancillary, _, _ = self._recv(RECEIVE_BYTES, ANCILLARY_BYTES)
        except OSError:
            return None
        if not data:
            return None
        return unpack(data), data, descriptor_in(data, ancillary) if ancillary else -1

    def send(self, frame: Frame) -> None:
        """Send a frame; waits while the pool is behind. Raises OSError when the pool is gone."""
        with self._lock:
            if self._sending:
                self._late.append(frame)
                return
            self._sending = True
            try:
                self._send_now(frame)
                while self._late:
                    self._send_now(self._late.popleft())
            finally:
                self._sending = False

    def _send_now(self, frame: Frame) -> None:
        if frame.fd < 0:
            self._send(frame.data)
            return
        self._send(DESCRIPTOR_FOLLOWS)
        send_with_fd(self._results, frame.data, frame)
        frame.close()

    def close(self) -> None:
        self._arena.close()
        self._tasks.close()
        self._results.close()
