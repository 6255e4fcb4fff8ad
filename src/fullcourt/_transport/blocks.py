"""Large bodies: in memory blocks that travel as descriptors, so that nobody copies them twice.

The sender writes the parts into a ``memfd`` block (one copy) and sends its descriptor; the receiver maps it privately
(copy on write: what a pickled copy would mean, without the copy). The kernel frees a block with its last descriptor or
mapping, whoever is killed; nothing has a name, so nothing can be left behind. Blocks that are worth it are used again:
see :mod:`arena`.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import sys
import weakref
from collections.abc import Sequence

from fullcourt._transport.arena import Arena

__all__ = ["open_block", "write_block"]

ALIGN = 64  # a cache line, and enough for any NumPy dtype
# Before 3.13 every mapping keeps a descriptor, of which a process may have 1,024 by default; from then on it counts as
# one of the 65,530 mappings that it may have. What comes when so many are alive is copied.
KEEPS_DESCRIPTOR = sys.version_info < (3, 13)
MAX_MAPPED = 256 if KEEPS_DESCRIPTOR else 16_384

mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  # the received blocks that are alive in this process


def write_block(
    parts: Sequence[bytes | memoryview], arena: Arena | None = None, *, name: str = "fullcourt", flags: int = 0
) -> tuple[int, bytes]:
    """Write parts into a block: a warm one of the arena's if there is one.

    Returns its descriptor, to be sent and closed, and the table of the parts' lengths.
    """
    views = [memoryview(part).cast("B") for part in parts]
    table = struct.pack(f"<{len(views)}Q", *map(len, views))
    offsets: list[int] = []
    total = 0
    for view in views:
        offsets.append(total)
        total += -(-len(view) // ALIGN) * ALIGN
    if arena is not None:
        lent = arena.write(views, offsets, total)
        if lent is not None:
            return lent, table
    fd = os.memfd_create(name, os.MFD_CLOEXEC | flags)
    try:
        for view, offset in zip(views, offsets, strict=True):
            done = 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], offset + done)
        if os.fstat(fd).st_size < total:
            os.ftruncate(fd, total)
    except BaseException:
        os.close(fd)
        raise
    return fd, table


def open_block(fd: int, table: bytes | memoryview) -> list[memoryview]:
    """Map a received block, privately and writable, and close its descriptor. Returns its parts as views."""
    lengths = struct.unpack(f"<{len(table) // 8}Q", table)
    total = sum(-(-n // ALIGN) * ALIGN for n in lengths)
    try:
        if total == 0:
            return [memoryview(b"") for _ in lengths]
        block = memoryview(map_block(fd, total))
    finally:
        os.close(fd)
    parts: list[memoryview] = []
    at = 0
    for length in lengths:
        parts.append(block[at : at + length])
        at += -(-length // ALIGN) * ALIGN
    return parts


def map_block(fd: int, total: int) -> mmap.mmap:
    if len(mapped) >= MAX_MAPPED:
        copy = mmap.mmap(-1, total)
        done = 0
        with memoryview(copy) as view:
            while done < total:
                n = os.preadv(fd, [view[done:]], done)
                if not n:
                    break
                done += n
        return copy
    flags, prot = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
    if sys.version_info >= (3, 13):
        block = mmap.mmap(fd, total, flags=flags, prot=prot, trackfd=False)
    else:
        block = mmap.mmap(fd, total, flags=flags, prot=prot)
    mapped.add(block)
    return block


def raw_views(buffers: list[pickle.PickleBuffer]) -> list[memoryview]:
    return [buffer.raw() for buffer in buffers]
