"""A link: two one-way ``AF_UNIX``/``SOCK_SEQPACKET`` sockets between the pool and one worker.

The kernel keeps the frames apart and tells end-of-file at a death. The pool keeps a duplicate of the end from which
the worker reads its tasks: so it can take back frames that the worker has not read, with the kernel as the arbiter of
who has which. That is also why each direction has a socket pair of its own: with the duplicate open, a shared pair
would never report the worker's end-of-file.
"""

from __future__ import annotations

import _socket  # the C module under `socket`, which a fresh worker has to import otherwise: 3 ms
import array
import contextlib
import errno
import os
import pickle
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial

from fullcourt._os.locks import make_lock, make_rlock
from fullcourt._os.spinning import Spinner
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
    REPLIES_OPEN,
    RIGHTS,
    pack,
    unpack,
)

__all__ = ["Body", "PoolEnd", "Replies", "WorkerEnd", "make_link"]

Fields = tuple[int, int, int, int, int, int, int, float]
# What came along with a frame: a block's descriptor, several, the parts themselves, or nothing (-1).
Attached = int | Rights | list[memoryview]
# CMSG_SPACE for as many descriptors as the kernel sends at once.
ANCILLARY_BYTES = _socket.CMSG_SPACE(4 * MAX_DESCRIPTORS) if hasattr(_socket, "CMSG_SPACE") else 0


class Body:
    """The body of a received frame: views of the function's pickle and of the payload's, and its buffers.

    With queues in it, also the descriptors of both; they are closed with this object.
    """

    __slots__ = ("_pipes", "_rights", "buffers", "descriptors", "function", "function_descriptors", "payload")

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
        self._pipes: list[int] = []
        if rights is not None:
            n_function, *self._pipes = self.buffers.pop()
            self.function_descriptors = rights.fds[:n_function]
            self.descriptors = rights.fds[n_function:]

    def close_descriptors(self) -> None:
        """All is loaded: while the task runs, only what it was given counts."""
        if self._rights is not None:
            self._rights.close()

    def to_pass_on(self) -> list[pickle.PickleBuffer]:
        """The buffers, and the descriptors if there are any, for a frame that takes them on. Once only."""
        buffers = [pickle.PickleBuffer(buffer) for buffer in self.buffers]
        if self._rights is None:
            return buffers
        fds, self._rights.fds = self._rights.fds, []
        n_function = len(self.function_descriptors or ())
        carried = Buffers(buffers)
        carried.function_rights = Rights(fds[:n_function]) if n_function else None
        carried.rights = Rights(fds[n_function:])
        for reading, writing in zip(self._pipes[::2], self._pipes[1::2], strict=True):
            owner, first = (carried.rights, n_function) if reading >= n_function else (carried.function_rights, 0)
            assert owner is not None
            owner.pipes.append((reading - first, writing - first))
            owner.let_go()
        return carried


class Frame:
    """A frame to be sent: its bytes and, for a BLOCK, the descriptor that goes along; for RIGHTS, further ones."""

    __slots__ = ("chunk_id", "data", "fd", "kept", "mine", "rights")

    def __init__(self, data: bytes, fd: int, chunk_id: int) -> None:
        self.data = data
        self.fd = fd
        self.chunk_id = chunk_id
        self.rights: list[int] | None = None
        self.mine: list[int] = []  # those of them that go with this frame
        self.kept: Buffers | None = None  # who owns the others

    def copy(self) -> Frame:
        """The same frame, to be sent to another worker."""
        frame = Frame(self.data, os.dup(self.fd) if self.fd >= 0 else -1, self.chunk_id)
        if self.kept is not None:
            frame.lend(self.kept)
        return frame

    def lend(self, buffers: Buffers) -> None:
        """Have the descriptors of the function and of the payload go along."""
        self.kept = buffers
        self.rights = []
        for rights in (buffers.function_rights, buffers.rights):
            if rights is not None:
                fds, mine = rights.to_send()
                self.rights += fds
                self.mine += mine

    def let_go(self) -> None:
        """This frame is kept to be copied: of what it lends, have no writing end open until then."""
        mine, self.mine = self.mine, []
        for fd in mine:
            os.close(fd)

    def close(self) -> None:
        """Give up the block, if it has one."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.let_go()


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
    """Build a frame for what holds descriptors: a block, whose last part tells what they are.

    That part has a byte for how many are the function's, and two for each life line among all of them: the positions
    of its reading and writing end.
    """
    function_rights = buffers.function_rights if buffers.function_rights is not None else Rights()
    payload_rights = buffers.rights if buffers.rights is not None else Rights()
    n_function = len(function_rights.fds)
    if n_function + len(payload_rights.fds) >= MAX_DESCRIPTORS:
        raise OSError(
            errno.EMFILE, f"more than {MAX_DESCRIPTORS - 1} descriptors in one task: the kernel takes no more"
        )
    pipes = [
        at + first
        for rights, first in ((function_rights, 0), (payload_rights, n_function))
        for ends in rights.pipes
        for at in ends
    ]
    fd, table = write_block([function, payload, *raw_views(buffers), bytes([n_function, *pipes])], arena)
    header = pack(kind, BLOCK | RIGHTS, function_id, chunk_id, start, count, len(function), seconds)
    frame = Frame(header + table, fd, chunk_id)
    frame.lend(buffers)
    return frame


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
    if not isinstance(attached, Rights):
        return Frame(data, attached, 0)
    fds, attached.fds = attached.fds, []
    frame = Frame(data, fds[0], 0)
    frame.rights = frame.mine = fds[1:]
    return frame


def make_link() -> tuple[PoolEnd, _socket.socket, _socket.socket]:
    """Make a link. Returns the pool's end, and the worker's two sockets (tasks, results), to be handed over."""
    tasks_in, tasks_out = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        results_in, results_out = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    except OSError:
        tasks_in.close()
        tasks_out.close()
        raise
    return PoolEnd(tasks_out, tasks_in, results_in), tasks_in, results_out


def receive_with_fd(sock: _socket.socket, flags: int = 0) -> tuple[bytes, int | Rights]:
    """Receive a frame and the descriptor that may come with it (-1: none; several: an object that owns them)."""
    data, ancillary, _, _ = sock.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES, flags)
    return data, descriptor_in(data, ancillary) if ancillary else -1


def descriptor_in(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> int | Rights:
    fd: int | Rights = -1
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds = array.array("i")
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            for received in fds:
                os.set_inheritable(received, False)
            fd = fds[0] if len(fds) == 1 else Rights(fds.tolist())
    if isinstance(fd, int) and fd >= 0 and data[1] & RIGHTS:
        return Rights([fd])  # all but the block's are missing: there was room for one only
    return fd


def send_with_fd(sock: _socket.socket, data: bytes, frame: Frame) -> None:
    fds = array.array("i", [frame.fd] if frame.rights is None else [frame.fd, *frame.rights])
    sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fds)])


def hold_rights(buffers: Buffers | None) -> None:
    """What was sent has come back, and is held here again until it is sent elsewhere."""
    if buffers is not None:
        for rights in (buffers.rights, buffers.function_rights):
            if rights is not None:
                rights.hold()


class PoolEnd:
    """The pool's end of a link. ``send`` and ``take_back`` from any thread; ``receive`` from the one that drives."""

    can_take_back = True

    def __init__(self, tasks_out: _socket.socket, tasks_in: _socket.socket, results_in: _socket.socket) -> None:
        tasks_out.setblocking(False)
        results_in.setblocking(False)
        self._out = tasks_out
        self._unread = tasks_in  # the worker's receiving end; reads here pass MSG_DONTWAIT, it stays blocking for it
        self._in = results_in
        self._send = tasks_out.send
        self._receive = results_in.recv
        self._lock = make_lock()  # protects _waiting and the order of sends; taken by send, flush, take_back
        self._waiting: deque[Frame] = deque()
        # By chunk: what was sent with descriptors, in case it comes back.
        self._lent: weakref.WeakValueDictionary[int, Buffers] = weakref.WeakValueDictionary()
        self._descriptor_follows = False
        self.closed = False
        self.n_said = 0
        self.bytes_out = 0
        self.bytes_in = 0

    @property
    def own_sockets(self) -> list[_socket.socket]:
        """Those that no worker may have."""
        return [self._out, self._in]

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

    def say(self, frame: Frame) -> None:
        """Send a frame that is no task, and which the worker must have heard before the tasks that are sent after it.

        ``n_said`` counts them; tasks bear that number, since such a frame may come to lie behind them (`take_back`).
        """
        with self._lock:
            self._put(frame)
            self.n_said += 1

    def _put(self, frame: Frame) -> bool:
        self.bytes_out += len(frame.data)
        if self._waiting:
            self._waiting.append(frame)
            return False
        if frame.kept is not None:
            self._lent[frame.chunk_id] = frame.kept
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
                if frame.kept is not None:
                    self._lent[frame.chunk_id] = frame.kept
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
                    data, fd = receive_with_fd(self._unread, _socket.MSG_DONTWAIT)
                except OSError:
                    break
                if not data:
                    break
                if data[0] in NOT_TAKEN_BACK:
                    others.append(frame_again(data, fd))
                    continue
                ids.append(unpack(data)[3])
                if isinstance(fd, Rights):
                    hold_rights(self._lent.pop(ids[-1], None))
                    fd.close()
                elif fd >= 0:
                    os.close(fd)
            while self._waiting:
                frame = self._waiting.popleft()
                if frame.data[0] in NOT_TAKEN_BACK:
                    others.append(frame)
                    continue
                ids.append(frame.chunk_id)
                hold_rights(frame.kept)
                frame.close()
            for frame in others:  # the worker may have read tasks meanwhile that were sent after it: `say`
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
            self._out.shutdown(_socket.SHUT_RDWR)

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

    Args:
        tasks: from which it receives.
        results: to which it sends.
        spins: whether one thread alone receives, and may wait awake for what is about to come.
    """

    takes_bytes = True  # :meth:`send` does

    def __init__(self, tasks: _socket.socket, results: _socket.socket, *, spins: bool) -> None:
        self._arena = worker_arena()
        self.make_frame = partial(make_frame, arena=self._arena)
        self._tasks = tasks
        self._results = results
        self._lock = make_rlock()  # keeps a frame's two messages together; held while the link is full
        self._sending = False
        self._late: deque[Frame] = deque()
        self._send = results.send
        self._recv = tasks.recvmsg
        self._spinner = Spinner(may_spin=spins)

    def receive(self) -> tuple[Fields, bytes, int | Rights] | None:
        """Wait for a frame: header, data, descriptor. None: the pool is gone, or wants this worker to end."""
        try:
            message = self._spinner.wait(self._look)
            data, ancillary, _, _ = message or self._recv(RECEIVE_BYTES, ANCILLARY_BYTES)
        except OSError:
            return None
        if not data:
            return None
        return unpack(data), data, descriptor_in(data, ancillary) if ancillary else -1

    def _look(self) -> tuple[bytes, list[tuple[int, int, bytes]], int, object] | None:
        try:
            return self._recv(RECEIVE_BYTES, ANCILLARY_BYTES, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def send(self, frame: Frame | bytes) -> None:
        """Send a frame; waits while the pool is behind. Raises OSError when the pool is gone.

        Most results are but bytes, and need no object around them.
        """
        with self._lock:
            if self._sending:
                self._late.append(Frame(frame, -1, 0) if isinstance(frame, bytes) else frame)
                return
            self._sending = True
            try:
                if isinstance(frame, bytes):
                    self._send(frame)
                else:
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

    def open_replies(self) -> _socket.socket:
        """Give the pool a socket for the answers to nested tasks. Returns our end of it."""
        mine, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        self.send(Frame(pack(REPLIES_OPEN, 0, 0, 0, 0, 0, 0, 0.0), its.detach(), 0))
        return mine

    def close(self) -> None:
        self._arena.close()
        self._tasks.close()
        self._results.close()


class Replies:
    """The pool's end of the socket over which a worker gets the answers to nested tasks. From any thread.

    Args:
        fd: the descriptor that came from the worker; it is ours from now on.
        watch: called with this when it cannot send any more for now: have :meth:`flush` called when it can again.
    """

    def __init__(self, fd: int, watch: Callable[[Replies], None]) -> None:
        self._socket = _socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._watch = watch
        self._lock = make_lock()  # protects _waiting and the order of sends
        self._waiting: deque[Frame] = deque()
        self._closed = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frame: Frame) -> None:
        """Send a frame, or keep it until the worker has read others. Never blocks; a dead worker is no error."""
        with self._lock:
            if self._closed:
                frame.close()
                return
            if self._waiting or not self._try(frame):
                self._waiting.append(frame)
                if len(self._waiting) == 1:
                    self._watch(self)

    def flush(self) -> bool:
        """Send what waited. Returns whether all has gone."""
        with self._lock:
            while self._waiting and self._try(self._waiting[0]):
                self._waiting.popleft()
            return not self._waiting

    def _try(self, frame: Frame) -> bool:
        try:
            if frame.fd < 0:
                self._socket.send(frame.data)
            else:
                send_with_fd(self._socket, frame.data, frame)
        except BlockingIOError:
            return False
        except OSError:  # it is gone; its keeper says so
            pass
        frame.close()
        return True

    def give_up(self) -> None:
        """In a forked child, as :meth:`PoolEnd.give_up`."""
        self._closed = True
        self._socket.close()

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._closed = True
            for frame in self._waiting:
                frame.close()
            self._waiting.clear()
            self._socket.close()
