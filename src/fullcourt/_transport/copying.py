"""Copies of large memory, as fast as the machine allows.

Two things make the difference, measured for 200 MB on 2 cores of a virtual machine:

- 64 MB at a time rather than 8: from some size on, C's `memcpy` writes past the caches and need not read first what it
  overwrites: 26 ms rather than 39.
- By several cores: 15 ms. That takes a copy that lets go of the GIL, which a memoryview's does not and NumPy's does;
  and who has so much to copy has it from NumPy as a rule. From 16 MB on it pays; a thread takes 0.1 ms to begin.
"""

from __future__ import annotations

import contextlib
import os
import sys
from _queue import SimpleQueue  # the C module under `queue`
from _thread import start_new_thread
from collections import deque

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    import mmap
    from typing import Any

__all__ = ["copy"]

SLICE = 64 << 20  # copied at a time where the GIL is held: other threads get it in between
FOR_A_THREAD = 8 << 20  # bytes that are worth a thread
MOST_THREADS = 4  # so many cores take what the memory gives


def copy(target: mmap.mmap, offset: int, part: memoryview) -> None:
    """Copy bytes into a mapping. Other threads may run meanwhile; they must change neither.

    If a signal's handler raises, the mapping may be written to for some more milliseconds, and is kept so long.
    """
    n_threads = min(len(part) // FOR_A_THREAD, MOST_THREADS)
    numpy: Any = sys.modules.get("numpy")
    if n_threads > 1 and hasattr(numpy, "copyto"):  # else it is not there, or just being imported
        n_threads = min(n_threads, n_cores())
        if n_threads > 1:
            copy_by_threads(numpy, target, offset, part, n_threads)
            return
    for at in range(0, len(part), SLICE):
        piece = part[at : at + SLICE]
        target[offset + at : offset + at + len(piece)] = piece


def n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def copy_by_threads(numpy: Any, target: mmap.mmap, offset: int, part: memoryview, n_threads: int) -> None:
    """Copy equal pieces at the same time. This thread, too, copies what nobody has begun."""
    to = numpy.frombuffer(target, numpy.uint8, len(part), offset)
    what = numpy.frombuffer(part, numpy.uint8)
    step = -(-len(part) // n_threads)
    pieces = deque((to[at : at + step], what[at : at + step]) for at in range(0, len(part), step))
    ended: SimpleQueue[None] = SimpleQueue()

    def copy_pieces() -> None:
        with contextlib.suppress(IndexError):
            while True:
                piece = pieces.popleft()
                try:
                    numpy.copyto(*piece)
                except BaseException:  # no memory for the call: whoever comes last tries again
                    pieces.append(piece)
                    raise

    def help_copying() -> None:
        try:
            with contextlib.suppress(MemoryError):
                copy_pieces()
        finally:
            ended.put(None)

    n_started = 0
    with contextlib.suppress(RuntimeError):  # no more threads
        for _ in range(n_threads - 1):
            start_new_thread(help_copying, ())
            n_started += 1
    copy_pieces()
    for _ in range(n_started):
        ended.get()
    copy_pieces()
