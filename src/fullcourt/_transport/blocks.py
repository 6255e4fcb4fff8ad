"""Large bodies: in memory blocks that travel as descriptors, so that nobody copies them twice.

The sender writes the parts into a ``memfd`` block (one copy) and sends its descriptor; the receiver maps it privately
(copy on write: what a pickled copy would mean, without the copy). The kernel frees a block with its last descriptor or
mapping, whoever is killed; nothing has a name, so nothing can be left behind.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
from collections.abc import Sequence

__all__ = ["open_block", "write_block"]

ALIGN = 64  # a cache line, and enough for any NumPy dtype


def write_block(parts: Sequence[bytes | memoryview], *, name: str = "fullcourt", flags: int = 0) -> tuple[int, bytes]:
    """Write parts into a new block. Returns its descriptor and the table of the parts' lengths."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | flags)
    try:
        at = 0
        for part in parts:
            view = memoryview(part).cast("B")
            done = 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], at + done)
            at += -(-len(view) // ALIGN) * ALIGN
        if os.fstat(fd).st_size < at:
            os.ftruncate(fd, at)
    except BaseException:
        os.close(fd)
        raise
    return fd, struct.pack(f"<{len(parts)}Q", *(memoryview(part).nbytes for part in parts))


def open_block(fd: int, table: bytes | memoryview) -> list[memoryview]:
    """Map a received block, privately and writable, and close its descriptor. Returns its parts as views."""
    lengths = struct.unpack(f"<{len(table) // 8}Q", table)
    total = sum(-(-n // ALIGN) * ALIGN for n in lengths)
    try:
        if total == 0:
            return [memoryview(b"") for _ in lengths]
        block = memoryview(mmap.mmap(fd, total, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
    finally:
        os.close(fd)
    parts: list[memoryview] = []
    at = 0
    for length in lengths:
        parts.append(block[at : at + length])
        at += -(-length // ALIGN) * ALIGN
    return parts


def raw_views(buffers: list[pickle.PickleBuffer]) -> list[memoryview]:
    return [buffer.raw() for buffer in buffers]
