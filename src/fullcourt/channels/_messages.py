"""What an item looks like in a socket: a plain pickle, or a table of what came beside it.

A message is either the pickle itself, whose first byte is 0x80, or::

    byte 0     BLOCK: pickle and out-of-band buffers are in a memfd block whose descriptor came along
               BYTES: as BLOCK, for bytes that are no pickle
         1     unused
         2-3   number of the parts in the block
         4-7   descriptors that came beside the block's
         8-    the lengths of the parts, 8 bytes each

Cost: a plain item 0.5 us to pickle, 0.6 us to read; with a block about 15 us and one copy, by the sender.
"""

from __future__ import annotations

import array
import io
import os
import pickle
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from fullcourt._transport.arena import Arena
from fullcourt._transport.blocks import open_block, raw_views, write_block
from fullcourt._transport.carried import MAX_DESCRIPTORS, Rights, arriving, collecting, give, take
from fullcourt._transport.codec import Codec, keep_large
from fullcourt.errors import PicklingError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["Message", "bytes_message", "encode", "in_one_piece", "read", "receive"]

# Gives the arena of whoever sends; called only when there is something large.
Blocks = Callable[[], Arena]

PROTOCOL = 5
PLAIN = 0x80  # how every pickle since protocol 2 begins
BLOCK = 1
BYTES = 2
HEADER = struct.Struct("<BxHI")

# With a larger buffer a receive costs twice as much; a block costs 15 us more.
MAX_INLINE = 16_000
RECEIVE_BYTES = 16_896
ANCILLARY_BYTES = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS) if hasattr(socket, "CMSG_SPACE") else 0


class Message:
    """A message that is more than its bytes: with a block's descriptor, and perhaps others."""

    __slots__ = ("data", "rights")

    def __init__(self, data: bytes, rights: Rights) -> None:
        self.data = data
        self.rights = rights

    @property
    def has_guests(self) -> bool:
        """Whether descriptors of queues, pipes or locks go along, which bytes cannot replace."""
        return len(self.rights.fds) > 1

    def send(self, sock: socket.socket, data: bytes | None = None, flags: int = 0) -> None:
        """Send it. Raises BlockingIOError if there is no room."""
        fds = array.array("i", self.rights.fds)
        sock.sendmsg([self.data if data is None else data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], flags)


def encode(obj: object, blocks: Blocks) -> bytes | Message:
    """Turn an item into a message; what is large goes into a block of that arena.

    Raises:
        PicklingError: it cannot be pickled; the message names the attribute in the way.
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        data = pickle.dumps(obj, PROTOCOL, buffer_callback=keep_large(buffers))
    except Exception:  # noqa: BLE001  it has descriptors, or cloudpickle may know better
        data = b""
    if not data or b"multiprocessing.connection" in data:
        return encode_with_rights(obj, blocks)
    if b"__main__" in data:
        return encode_both_ways(obj, blocks)
    if not buffers and len(data) <= MAX_INLINE:
        return data
    return in_block(BLOCK, [data, *raw_views(buffers)], blocks)


def in_block(kind: int, parts: list[Any], blocks: Blocks, rights: Rights | None = None) -> Message:
    n_beside = len(rights.fds) if rights is not None else 0
    fd, table = write_block(parts, blocks())
    all_rights = Rights([fd])
    if rights is not None:
        all_rights.fds += rights.fds
        rights.fds = []
    return Message(HEADER.pack(kind, len(parts), n_beside) + table, all_rights)


class ForeignPickler(pickle.Pickler):
    """Knows how connections and sockets of the standard library travel; pickle would take a connection's number."""

    def reducer_override(self, obj: object) -> Any:
        """The reduction of such an object, or that it is none."""
        connection = sys.modules.get("multiprocessing.connection")
        if connection is not None and isinstance(obj, connection.Connection):
            obj = cast("Connection", obj)
            token = give([obj.fileno()], "a connection")
            return rebuild_connection, (token, obj.readable, obj.writable)
        if isinstance(obj, socket.socket):
            return rebuild_socket, (give([obj.fileno()], "a socket"), int(obj.family), int(obj.type), obj.proto)
        return NotImplemented


def rebuild_connection(token: tuple[Any, ...], readable: bool, writable: bool) -> Any:
    from multiprocessing.connection import Connection

    return Connection(take(token)[0], readable, writable)


def rebuild_socket(token: tuple[Any, ...], family: int, kind: int, proto: int) -> socket.socket:
    return socket.socket(family, kind, proto, fileno=take(token)[0])


def encode_with_rights(obj: object, blocks: Blocks) -> bytes | Message:
    buffers: list[pickle.PickleBuffer] = []
    with collecting() as rights:
        try:
            file = io.BytesIO()
            ForeignPickler(file, PROTOCOL, buffer_callback=keep_large(buffers)).dump(obj)
            data = file.getvalue()
        except Exception:  # noqa: BLE001  cloudpickle may know better
            rights.close()
            buffers.clear()
            data = b""
        if not data:
            data, buffers = Codec().encode_by_value(obj)
    if not rights.fds and not buffers and len(data) <= MAX_INLINE:
        return data
    return in_block(BLOCK, [data, *raw_views(buffers)], blocks, rights)


class EitherWay:
    """Pickles as what loads by name, where the receiver has the sender's ``__main__``, or else by value."""

    def __init__(self, by_name: bytes, by_value: bytes) -> None:
        self._args = by_name, by_value

    def __reduce__(self) -> tuple[Any, ...]:
        return load_either_way, self._args


def load_either_way(by_name: bytes, by_value: bytes) -> Any:
    try:
        return pickle.loads(by_name)
    except (ImportError, AttributeError):
        return pickle.loads(by_value)


def encode_both_ways(obj: object, blocks: Blocks) -> bytes | Message:
    """An item that names things of ``__main__``. Nobody knows here whether its receiver has that or an empty one."""
    by_name = pickle.dumps(obj, PROTOCOL)
    try:
        from fullcourt._transport.by_value import dumps

        by_value = dumps(obj, PROTOCOL)
    except Exception:  # noqa: BLE001  a string that merely contains "__main__", beside something cloudpickle refuses
        by_value = by_name
    data = pickle.dumps(EitherWay(by_name, by_value), PROTOCOL)
    return data if len(data) <= MAX_INLINE else in_block(BLOCK, [data], blocks)


def in_one_piece(obj: object) -> bytes:
    """A large item, which holds no descriptors, as one pickle of any length."""
    try:
        data = pickle.dumps(obj, PROTOCOL)
        if b"__main__" not in data:
            return data
    except Exception:  # noqa: BLE001
        data = b""
    from fullcourt._transport.by_value import dumps

    by_value = dumps(obj, PROTOCOL)
    return pickle.dumps(EitherWay(data, by_value), PROTOCOL) if data else by_value


def bytes_message(data: memoryview, blocks: Blocks) -> Message:
    """Bytes that are too many for one message of a socket."""
    return in_block(BYTES, [data], blocks)


def receive(sock: socket.socket, flags: int = 0) -> tuple[bytes, Rights | None]:
    """Receive a message and what came with it. Empty at the end of file. Raises BlockingIOError."""
    data, ancillary, _, _ = sock.recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES, flags)
    if not ancillary:
        return data, None
    return data, arrived(ancillary)


def arrived(ancillary: list[Any]) -> Rights:
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    for fd in fds:
        os.set_inheritable(fd, False)
    return Rights(fds.tolist())


def read(data: bytes, rights: Rights | None) -> Any:
    """The item, or the bytes, that a received message holds.

    Raises:
        PicklingError: what came along did not arrive; this process may have too many descriptors open.
    """
    if data[0] == PLAIN:
        return pickle.loads(data)
    kind, n_parts, n_beside = HEADER.unpack_from(data)
    if rights is None or len(rights.fds) < 1 + n_beside:
        raise PicklingError(
            "the descriptors of a large item could not be received: this process has as many open as it may. The item "
            "is lost. Raise its limit (ulimit -n), or close something."
        )
    block, rights.fds = rights.fds[0], rights.fds[1:]
    parts = open_block(block, data[HEADER.size : HEADER.size + 8 * n_parts])
    if kind == BYTES:
        return parts[0]
    if not n_beside:
        return pickle.loads(parts[0], buffers=parts[1:])
    try:
        with arriving(rights.fds):
            return pickle.loads(parts[0], buffers=parts[1:])
    finally:
        rights.close()  # the item has its own; and while somebody holds the message, a pipe would not come to its end
