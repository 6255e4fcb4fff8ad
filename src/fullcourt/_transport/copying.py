"""Copies of large memory, as fast as the machine allows.

Two things make the difference, measured for 200 MB on 2 cores of a virtual machine:

- 64 MB at a time rather than 8: from some size on, C's `memcpy` writes past the caches and need not read first what it
  overwrites: 26 ms rather than 39.
- By several cores: 15 ms. That takes a copy that lets go of the GIL, which a memoryview's does not and NumPy's does;
  and who has so much to copy has it from NumPy as a rule. From 16 MB on it pays; a thread takes 0.1 ms to begin.
"""

from __future__ import annotations

import _thread
import builtins
import contextlib
import os
import sys
from types import ModuleType

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from typing import Any

__all__ = ["copy"]

start_joinable: Any = getattr(_thread, "start_joinable_thread", None)  # from Python 3.13 on
NO_THREAD = (RuntimeError, getattr(builtins, "PythonFinalizationError", RuntimeError))

SLICE = 64 << 20  # copied at a time where the GIL is held: other threads get it in between
FOR_A_THREAD = 8 << 20  # bytes that are worth a thread
MOST_THREADS = 4  # so many cores take what the memory gives


def copy(target: mmap.mmap, offset: int, part: memoryview) -> None:
    """Copy bytes into a mapping. Other threads may run meanwhile; they must change neither.

    If a signal's handler raises, the mapping may be written to for some more milliseconds, and is kept so long.
    """
    n_threads = min(len(part) // FOR_A_THREAD, MOST_THREADS)
    numpy: Any = sys.modules.get("numpy")
    if n_threads > 1 and is_numpy(numpy):
        n_threads = min(n_threads, n_cores())
        if n_threads > 1:
            copy_by_threads(numpy, target, offset, part, n_threads)
            return
    for at in range(0, len(part), SLICE):
        piece = part[at : at + SLICE]
        target[offset + at : offset + at + len(piece)] = piece


def is_numpy(module: object) -> bool:
    """Whether it is a module, as a mock is not, and has what is needed, as one that is being imported may not."""
    return type(module) is ModuleType and {"copyto", "frombuffer", "uint8"} <= vars(module).keys()


def n_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def copy_by_threads(numpy: Any, target: mmap.mmap, offset: int, part: memoryview, n_threads: int) -> None:
    """Copy equal pieces at the same time, the first of them here, and those for which there is no thread."""
    to = numpy.frombuffer(target, numpy.uint8, len(part), offset)
    what = numpy.frombuffer(part, numpy.uint8)
    step = -(-len(part) // n_threads)
    pieces = [Piece(numpy.copyto, to[at : at + step], what[at : at + step]) for at in range(0, len(part), step)]
    for piece in pieces[1:]:
        try:
            piece.begin()
        except RuntimeError as error:
            if type(error) not in NO_THREAD:  # a signal's handler has raised it
                raise
            break
    for piece in pieces:
        piece.finish()


class Piece:
    """What one thread copies.

    The threads are begun by hand: `threading.Thread.start` cannot be left by a signal's exception without a mess.
    """

    __slots__ = ("_copyto", "_ended", "_is_begun", "_is_copied", "_thread", "_to", "_what")

    def __init__(self, copyto: Callable[[Any, Any], None], to: Any, what: Any) -> None:
        self._copyto = copyto
        self._to = to
        self._what = what
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        self._is_begun = self._is_copied = False
        self._thread: Any = None

    def begin(self) -> None:
        """Copy it in a thread. Raises RuntimeError if there is none for it."""
        if start_joinable is not None:
            self._thread = start_joinable(self._copy_in_thread)
        else:
            _thread.start_new_thread(self._copy_in_thread, ())
        self._is_begun = True

    def _copy_in_thread(self) -> None:
        try:
            with contextlib.suppress(MemoryError):
                self._copy()
        finally:
            self._ended.release()

    def finish(self) -> None:
        """Return when it is copied; do so here, if no thread has."""
        if self._is_begun:
            self._ended.acquire()
            if self._thread is not None:  # so that it does not count when the next statement forks
                self._thread.join()
        if not self._is_copied:
            self._copy()

    def _copy(self) -> None:
        self._copyto(self._to, self._what)
        self._is_copied = True
