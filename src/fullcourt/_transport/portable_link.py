"""The link where there are no ``SOCK_SEQPACKET`` sockets, ``memfd`` blocks and ``epoll``: macOS, Windows.

Frames are messages of one two-way ``multiprocessing.connection`` connection, which the worker inherits: nothing has a
name, nobody listens, nobody else can connect. What is large follows its frame in messages of its own.

The pool has a thread that reads and one that writes for each link, so that neither end can block the other: the pool
reads at all times, and what might block is written by its writer. What surely fits into the system's buffer (a worker
that has answered a frame has read it, so the rest can be counted) is written at once, by whoever sends.

*Taking back.* The kernel cannot give back what the worker has not read. So a link keeps most frames to itself and lets
only a few be in flight, which the worker holds in a queue of its own; asked for them, it gives back those that no slot
has begun. A worker in whose task no other thread of it can run (one long call in C) does not answer; the few frames
that it holds then wait for the end of that task.

Cost of a call, beside the fast link's: a thread switch in the worker and one in the pool, 50 to 100 us. Large data is
copied twice more than over the fast link.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

from fullcourt._os.locks import Letter, make_lock, make_rlock
from fullcourt._transport import frames
from fullcourt._transport.frames import HEADER_BYTES, MAX_INLINE, PARTS, pack, unpack
from fullcourt._transport.link import Attached, Fields

if TYPE_CHECKING:
    import pickle

__all__ = ["Inherited", "Page", "PoolEnd", "WorkerEnd", "make_link", "make_message", "open_page"]

# The least that the systems' buffers hold: 8 KiB in macOS' sockets and in multiprocessing's pipes on Windows, less
# what the system needs for itself.
SURE_BYTES = 4096
# Messages are read through a buffer of their size: in pieces, the buffer stays small and in the cache.
PIECE_BYTES = 1 << 20
# So many frames beyond one for each slot may be in flight: while one is answered and the next sent, no slot waits.
MORE_IN_FLIGHT = 2
# A worker that can answer does so within a few switch intervals of its threads (5 ms each).
ANSWER_S = 0.1

Received = tuple[Fields, bytes, Attached]

if sys.platform == "win32":
    Connection = connection.PipeConnection
else:
    Connection = connection.Connection


class Message:
    """A frame to be sent: its first message, and the large parts that follow."""

    __slots__ = ("chunk_id", "count", "data", "n_bytes", "parts")

    def __init__(self, data: bytes, parts: list[memoryview], chunk_id: int = 0, count: int = 0) -> None:
        self.data = data
        self.parts = parts
        self.chunk_id = chunk_id  # 0: no task
        self.count = count
        self.n_bytes = len(data) + 16 + sum(part.nbytes for part in parts)  # 16: the connection's own header

    def copy(self) -> Message:
        """The same frame, to be sent to another worker."""
        return self

    def close(self) -> None:
        """It holds nothing but memory."""


def make_message(
    kind: int,
    function_id: int,
    chunk_id: int,
    start: int,
    count: int,
    seconds: float,
    function: bytes,
    payload: bytes,
    buffers: list[pickle.PickleBuffer],
) -> Message:
    """Build a frame; what is large goes into parts."""
    if not buffers and len(function) + len(payload) <= MAX_INLINE:
        header = pack(kind, 0, function_id, chunk_id, start, count, len(function), seconds)
        return Message(header + function + payload if function else header + payload, [], chunk_id, count)
    parts = [memoryview(function), memoryview(payload), *(buffer.raw() for buffer in buffers)]
    header = pack(kind, PARTS, function_id, chunk_id, start, count, len(function), seconds)
    table = struct.pack(f"<{len(parts)}Q", *(part.nbytes for part in parts))
    return Message(header + table, parts, chunk_id, count)


def write_message(target: Connection, message: Message) -> None:
    """Write a frame and its parts. May block."""
    target.send_bytes(message.data)
    for part in message.parts:
        for at in range(0, part.nbytes, PIECE_BYTES):
            target.send_bytes(part[at : at + PIECE_BYTES])


def read_message(source: Connection) -> Received:
    """Wait for a frame and its parts. Raises EOFError or OSError at the end.

    The parts are of memory of their own each, writable: what arrives is the receiver's. Where there is no memory for
    them, they are read and dropped, and the frame comes with nothing attached.
    """
    data = source.recv_bytes()
    fields = unpack(data)
    if not fields[1] & PARTS:
        return fields, data, -1
    parts: list[memoryview] = []
    attached: Attached = parts
    for (length,) in struct.iter_unpack("<Q", data[HEADER_BYTES:]):
        at = 0
        try:
            part = memoryview(bytearray(length))
        except MemoryError:
            attached = -1
            while at < length:
                at += len(source.recv_bytes())
            continue
        while at < length:
            at += source.recv_bytes_into(part, at)
        parts.append(part)
    return fields, data, attached


class Inherited:
    """What a worker's process is to inherit, as the numbers of its descriptors or handles; closed once it has it."""

    def __init__(self, *owners: socket.socket | Connection) -> None:
        self._owners = owners
        self.numbers = [owner.fileno() for owner in owners]

    def close(self) -> None:
        """Close this process's copies. Idempotent."""
        for owner in self._owners:
            owner.close()


def make_link(n_slots: int) -> tuple[PoolEnd, Inherited]:
    """Make a link. Returns the pool's end, and what the worker inherits: its end and, except on Windows, a lifeline."""
    if sys.platform == "win32":
        mine, its = connection.Pipe()
        return PoolEnd(mine, [], n_slots), Inherited(its)
    else:  # noqa: RET505  mypy leaves out the branch of the other system
        with contextlib.ExitStack() as made:  # closed where not all can be had
            near, far = map(made.enter_context, socket.socketpair())
            lifeline, its_lifeline = map(made.enter_context, socket.socketpair())
            inherited = Inherited(far.dup(), its_lifeline)
            made.pop_all()
        return PoolEnd(Connection(near.detach()), [far, lifeline], n_slots), inherited


class PoolEnd:
    """The pool's end of a link. ``receive`` is its reading thread's, ``write`` its writing thread's."""

    def __init__(self, mine: Connection, sockets: list[socket.socket], n_slots: int) -> None:
        self._connection = mine
        # The worker's own end, through which we tell ourselves of its death, and the other end of its lifeline.
        self._sockets = sockets
        self._n_slots = n_slots
        self._may_fly = n_slots + MORE_IN_FLIGHT
        self._lock = make_lock()  # protects what follows; held only for moments, never while something may block
        self._waiting: deque[Message] = deque()  # here; can be taken back
        self._in_flight: dict[int, list[int]] = {}  # chunk id: tasks not yet answered, bytes
        self._unread_bytes = 0  # at most so many are in the system's buffers
        self._told_bytes = 0  # of these, what is no task: it was read when the task after it is answered
        self._start_bytes = 0
        self._outbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()  # of the writing thread
        self._n_in_outbox = 0
        self.is_ready = False  # the worker has said so
        self._at_end = False
        self._asked = False  # the worker was asked to give back, and has not answered
        self._answer: Letter | None = None  # where somebody waits for its answer
        self._given_back: deque[int] = deque()  # chunks that came back when nobody waited any more
        self.n_said = 0
        self.bytes_out = 0
        self.bytes_in = 0

    # -- to the worker ---------------------------------------------------------------------------------------------

    def start(self, data: bytes) -> None:
        """Send the first message of all, which is no frame; frames are held back until the worker is ready."""
        with self._lock:
            message = Message(data, [])
            self._start_bytes = message.n_bytes
            self._put(message)

    def send(self, message: Message) -> bool:
        """Send a frame, or keep it until the worker needs it. Never blocks. False: it waits, or the link is dead."""
        with self._lock:
            return self._send(message)

    def say(self, message: Message) -> None:
        """Send a frame that is no task; ``n_said`` counts them, and tasks bear that number: see the fast link."""
        with self._lock:
            self._send(message)
            self.n_said += 1

    def _send(self, message: Message) -> bool:
        if self._at_end:
            return False
        self.bytes_out += message.n_bytes
        self._waiting.append(message)
        self._release()
        return not self._waiting

    def reply(self, message: Message) -> None:
        """Send the answer to a nested task: at once, whatever waits. Never blocks."""
        with self._lock:
            if not self._at_end:
                self.bytes_out += message.n_bytes
                self._n_in_outbox += 1
                self._outbox.put(message)

    def _release(self) -> None:
        """Send what may fly. Under the lock."""
        waiting, in_flight = self._waiting, self._in_flight
        while waiting:
            message = waiting[0]
            if message.chunk_id:
                if not self.is_ready or len(in_flight) >= self._may_fly:
                    return
                in_flight[message.chunk_id] = [message.count, message.n_bytes + self._told_bytes]
                self._told_bytes = 0
            else:
                self._told_bytes += message.n_bytes
            waiting.popleft()
            self._put(message)

    def _put(self, message: Message) -> None:
        """Write a message at once where it surely fits, else have it written. Under the lock."""
        if message.data[0] != frames.BROADCAST:  # which no answer will tell to have been read
            self._unread_bytes += message.n_bytes
        if self._n_in_outbox or self._unread_bytes > SURE_BYTES or message.data[0] == frames.BROADCAST:
            self._n_in_outbox += 1
            self._outbox.put(message)
            return
        with contextlib.suppress(OSError):  # it is dead; its loss is reported by its keeper
            write_message(self._connection, message)

    def write(self) -> None:
        """Write what may block, until :meth:`end_writing`: the body of the writing thread."""
        while True:
            message = self._outbox.get()
            if message is None:
                return
            with contextlib.suppress(OSError):
                write_message(self._connection, message)
            message = None
            with self._lock:
                self._n_in_outbox -= 1

    def take_back(self) -> list[int]:
        """Take back all frames that no slot of the worker has begun. Returns their chunks' ids.

        Waits a moment for the worker where it may have some. Those that it gives back later come as MISSING.
        """
        with self._lock:
            ids = [message.chunk_id for message in self._waiting if message.chunk_id]
            self._waiting = deque(message for message in self._waiting if not message.chunk_id)
            if len(self._in_flight) <= self._n_slots or self._asked or self._n_in_outbox or self._at_end:
                return ids
            self._asked = True
            answer = self._answer = Letter()
            self._put(Message(pack(frames.TAKE_BACK, 0, 0, 0, 0, 0, 0, 0.0), []))
        given: list[int] | None = answer.get(ANSWER_S)
        if given is None:
            with self._lock:
                self._answer = None
            given = answer.get(0.0)  # it may have come just now
        return ids + (given or [])

    # -- from the worker -------------------------------------------------------------------------------------------

    def receive(self) -> Received | None:
        """Wait for a frame. None: the end of file."""
        while True:
            if self._given_back:
                chunk_id = self._given_back.popleft()
                return (frames.MISSING, 0, 0, chunk_id, 0, 0, 0, 0.0), bytes(HEADER_BYTES), -1
            try:
                received = read_message(self._connection)
            except (EOFError, OSError):
                with self._lock:
                    self._at_end = True
                    if self._answer is not None:
                        self._answer.put([])
                return None
            if self._note(received):
                return received

    def _note(self, received: Received) -> bool:
        """See what a frame says of those in flight, and send further ones. False: it concerns the link alone."""
        fields, data, attached = received
        kind, chunk_id = fields[0], fields[3]
        with self._lock:
            self.bytes_in += len(data)
            if isinstance(attached, list):
                self.bytes_in += sum(part.nbytes for part in attached)
            if kind == frames.TAKEN_BACK:
                self._note_taken_back(data)
            elif kind == frames.READY:
                self.is_ready = True
                self._unread_bytes -= self._start_bytes
            elif kind < frames.NESTED:  # nested tasks, and what is printed, are not of the pool's chunk of that number
                entry = self._in_flight.get(chunk_id)
                if entry is not None:
                    # RESULT, RESULTS, ERROR tell of some tasks' ends; any other kind, that the chunk will not run.
                    entry[0] = entry[0] - fields[5] if kind <= frames.ERROR else 0
                    if entry[0] <= 0:
                        del self._in_flight[chunk_id]
                        self._unread_bytes -= entry[1]
            if self._waiting:
                self._release()
        return kind != frames.TAKEN_BACK

    def _note_taken_back(self, data: bytes) -> None:
        ids = [chunk_id for (chunk_id,) in struct.iter_unpack("<Q", data[HEADER_BYTES:])]
        for chunk_id in ids:
            self._unread_bytes -= self._in_flight.pop(chunk_id)[1]
        self._unread_bytes -= HEADER_BYTES + 16  # the question
        self._asked = False
        if self._answer is None:
            self._given_back.extend(ids)
        else:
            self._answer.put(ids)
            self._answer = None

    # -- the end ---------------------------------------------------------------------------------------------------

    def hang_up(self) -> None:
        """The worker is dead: have :meth:`receive` come to the end, after what the worker had written.

        Even if somebody who inherited the worker's end holds it open. On Windows nobody inherits it.
        """
        if self._sockets:
            with contextlib.suppress(OSError):
                self._sockets[0].shutdown(socket.SHUT_RDWR)

    def end_writing(self) -> None:
        """Have the writing thread end. After :meth:`hang_up`, so that it does not wait for anybody."""
        self._outbox.put(None)

    def close(self) -> None:
        """Close the pool's end. Both threads have ended: they must not write to who has its number next. Idempotent."""
        with self._lock:
            self._at_end = True
            self._waiting.clear()
            for sock in self._sockets:
                sock.close()
            self._connection.close()


def no_reply(received: Received) -> None:
    """Nobody has asked."""


class WorkerEnd:
    """The worker's end of a link. A thread reads; each slot receives for itself; sends are under a lock."""

    make_frame = staticmethod(make_message)
    carries_descriptors = False

    def __init__(self, number: int, at_end: Callable[[], object]) -> None:
        self._connection = Connection(number)
        self._at_end = at_end  # called, in the reading thread, when the pool is gone
        self._lock = make_rlock()  # keeps a frame's messages together; held while the link is full
        self._sending = False
        self._late: deque[Message] = deque()  # sent inside of another send of the same thread; see the fast link
        self._frames: queue.SimpleQueue[Received] = queue.SimpleQueue()
        self.on_reply: Callable[[Received], object] = no_reply  # called, in the reading thread, with what is no task

    def receive_start(self) -> bytes:
        """Wait for the first message of all. Raises EOFError or OSError when the pool is gone."""
        return self._connection.recv_bytes()

    def start_reading(self) -> None:
        """From now on a thread reads."""
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                received = read_message(self._connection)
            except (EOFError, OSError):
                self._at_end()
                return
            if received[0][0] == frames.TAKE_BACK:
                self._give_back()
            elif received[0][0] >= frames.RESULT:
                self.on_reply(received)
            else:
                self._frames.put(received)
            del received  # hold nothing while waiting

    def _give_back(self) -> None:
        ids: list[int] = []
        kept: list[Any] = []
        with contextlib.suppress(queue.Empty):
            while True:
                received = self._frames.get_nowait()
                if received[0][0] in frames.NOT_TAKEN_BACK:
                    kept.append(received)
                else:
                    ids.append(received[0][3])
        for received in kept:
            self._frames.put(received)
        header = pack(frames.TAKEN_BACK, 0, 0, 0, 0, len(ids), 0, 0.0)
        with contextlib.suppress(OSError):  # the pool is gone, as the next reading will show
            self.send(Message(header + struct.pack(f"<{len(ids)}Q", *ids), []))

    def receive(self) -> Received:
        """Wait for a frame: header, data, parts."""
        return self._frames.get()

    def send(self, message: Message) -> None:
        """Send a frame; waits while the pool is behind. Raises OSError when the pool is gone."""
        with self._lock:
            if self._sending:
                self._late.append(message)
                return
            self._sending = True
            try:
                write_message(self._connection, message)
                while self._late:
                    write_message(self._connection, self._late.popleft())
            finally:
                self._sending = False


# -- the page: memory that the pool and one worker share --------------------------------------------------------------


if sys.platform == "win32":

    class Page:
        """Shared memory, as its maker sees it: under a name, which goes with its last user."""

        def __init__(self, n_bytes: int) -> None:
            import uuid

            self.token = f"fullcourt-{uuid.uuid4()}"
            self.memory = mmap.mmap(-1, n_bytes, tagname=self.token)
            self.numbers: list[int] = []

        def close(self) -> None:
            """Nothing is to be closed; the memory stays."""

    def open_page(token: str, n_bytes: int) -> mmap.mmap:
        """Open shared memory in the worker."""
        return mmap.mmap(-1, n_bytes, tagname=token)

else:

    class Page:
        """Shared memory, as its maker sees it: a temporary file that has no name, or has already lost it.

        It is written, not only sized: on a full disk a write fails here, but a store in the mapping would kill.

        Attributes:
            memory: the mapping.
            token: what the worker opens it by.
            numbers: what the worker must inherit for that.
        """

        def __init__(self, n_bytes: int) -> None:
            import tempfile

            self._file = tempfile.TemporaryFile(prefix="fullcourt-")  # noqa: SIM115  closed by close()
            try:
                self._file.write(bytes(n_bytes))
                self._file.flush()
                self.token = self._file.fileno()
                self.memory = mmap.mmap(self.token, n_bytes)
            except BaseException:
                self._file.close()
                raise
            self.numbers = [self.token]

        def close(self) -> None:
            """Close the file, once the worker has it; the memory stays."""
            self._file.close()

    def open_page(token: int, n_bytes: int) -> mmap.mmap:
        """Open shared memory in the worker."""
        page = mmap.mmap(token, n_bytes)
        os.close(token)
        return page
