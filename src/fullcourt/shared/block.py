"""A block: anonymous memory that travels as a descriptor, and is freed by the kernel with its last user.

It is a ``memfd``: no name, nothing in ``/dev/shm``, nobody who must clean up. Each process that has it holds a
descriptor or a mapping; when the last of them has let go, or was killed, the memory is free.

*Read-only* blocks are sealed (``F_SEAL_WRITE``, memfd_create(2)): nobody can write to them any more, by whatever way,
and so who maps one may trust that it stays as it is. *Writable* ones are sealed against a change of size only: else a
process could truncate one, and others would die of SIGBUS.

A process maps a block once, however often its handle arrives: a mapping's first touch costs about 0.1 us a page of 4
KiB, 25 ms for 1 GB.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import sys
import uuid
import weakref
from collections.abc import Sequence
from typing import Any

from fullcourt._os.locks import make_rlock
from fullcourt._transport.blocks import ALIGN, write_block
from fullcourt._transport.carried import give, take
from fullcourt.errors import NotSupported

__all__ = ["Block"]

NAME = "fullcourt-shared"  # seen in /proc/PID/maps, and nowhere else

# The blocks that this process has, by token. `_lock` protects it; weak, so that it keeps none of them.
_U64 = struct.Struct("<Q")
_here: weakref.WeakValueDictionary[str, Block] = weakref.WeakValueDictionary()
_lock = make_rlock()  # re-entrant: the garbage collector may end a block from within


class Block:
    """One block, as this process sees it. All methods may be called from any thread."""

    def __init__(self, fd: int, n_bytes: int, token: str, *, writable: bool) -> None:
        self._fd = fd
        self.n_bytes = n_bytes
        self.token = token
        self.writable = writable
        self._map: mmap.mmap | None = None
        with _lock:
            _here[token] = self

    @classmethod
    def of_parts(cls, parts: Sequence[bytes | memoryview], *, writable: bool) -> tuple[Block, bytes]:
        """Copy parts into a new block. Returns it and the table of their lengths. Raises OSError."""
        must_be_linux()
        fd, table = write_block(parts, name=NAME, flags=os.MFD_ALLOW_SEALING)
        return cls._made(fd, writable=writable), table

    @classmethod
    def of_size(cls, n_bytes: int) -> Block:
        """A new writable block, all zero; it takes memory as it is written. Raises OSError."""
        must_be_linux()
        fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, n_bytes)
        except BaseException:
            os.close(fd)
            raise
        return cls._made(fd, writable=True)

    @classmethod
    def _made(cls, fd: int, *, writable: bool) -> Block:
        try:
            n_bytes = os.fstat(fd).st_size
            if not n_bytes:  # nothing can map nothing
                n_bytes = ALIGN
                os.ftruncate(fd, n_bytes)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals if writable else seals | fcntl.F_SEAL_WRITE)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, n_bytes, uuid.uuid4().hex, writable=writable)

    def view(self) -> memoryview:
        """The whole block, mapped; read-only unless it is writable. Views of it outlive :meth:`close`."""
        with _lock:
            if self._map is None:
                if self._fd < 0:
                    raise ValueError("this shared memory was closed in this process")
                # Private for reading: before Linux 6.7 a sealed block cannot be mapped in the other way. Nothing is
                # ever copied for it, since nothing is written.
                flags, protection = (
                    (mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
                    if self.writable
                    else (mmap.MAP_PRIVATE, mmap.PROT_READ)
                )
                self._map = mmap.mmap(self._fd, self.n_bytes, flags=flags, prot=protection)
            return memoryview(self._map)

    def parts(self, table: bytes) -> list[memoryview]:
        """The parts that it was made of."""
        view = self.view()
        found: list[memoryview] = []
        at = 0
        for (length,) in _U64.iter_unpack(table):
            found.append(view[at : at + length])
            at += -(-length // ALIGN) * ALIGN
        return found

    @property
    def closed(self) -> bool:
        """Whether it was closed in this process."""
        return self._fd < 0

    def close(self) -> None:
        """Give up the descriptor: it cannot be sent any more. The mapping goes with its last view. Idempotent."""
        with _lock:
            fd, self._fd = self._fd, -1
            self._map = None
            _here.pop(self.token, None)
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        try:  # at the interpreter's end modules are emptied, contextlib's name too
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)
        except Exception:  # noqa: BLE001
            pass

    def __reduce__(self) -> tuple[Any, ...]:
        if self._fd < 0:
            raise ValueError("this shared memory was closed in this process, and cannot be sent any more")
        token = give([self._fd], "shared memory")
        return arrive, (token, self.n_bytes, self.token, self.writable)


def arrive(carried: tuple[Any, ...], n_bytes: int, token: str, writable: bool) -> Block:
    """A block that came along with a pickle; the one that is here already, if it is."""
    (fd,) = take(carried)
    with _lock:
        known = _here.get(token)
        if known is None or known.closed:
            return Block(fd, n_bytes, token, writable=writable)
    os.close(fd)
    return known


def must_be_linux() -> None:
    if not sys.platform.startswith("linux"):
        raise NotSupported(
            "shared memory without a name, which the kernel frees with its last user, needs Linux (memfd). "
            "multiprocessing.shared_memory is what there is here."
        )
