"""Warm blocks: memory that was sent once is used again when nobody reads it any more.

A page that the kernel must find and clear costs many times one that is there: 200 MB into a fresh block take 0.13 s,
into a warm one 0.03 s. So a sender keeps some of its blocks, and asks the *kernel* whether a block has readers left:

- The keeper opens its block for writing (through ``/proc/self/fd``, so that the open file counts as a writer), and
  sends a second, read-only open file of it. Mappings, duplicates, forked children and messages under way all hold that
  file open, whoever has them.
- A write lease (``fcntl(2)``, F_SETLEASE) is granted only while nobody else has the file open. So a lease that is
  granted, and given back at once, says that the last reader has gone: closed, unmapped, or killed.

Nothing is reported, so nothing can be reported wrongly: no finalizer that an object's ``__del__`` outlives, no
forked child forgotten, nothing to clean up after a crash. Where the system has no leases or no ``/proc``, blocks are
fresh each time.

Cost of a warm block beside the copy: a lease taken and returned, an open, a close: 4 us.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Sequence
from time import monotonic

from fullcourt._os.locks import make_lock
from fullcourt._transport.copying import copy

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

try:
    import fcntl  # early: a task may empty sys.path
except ImportError:  # Windows, which imports this module, too
    fcntl: Any = None  # type: ignore[no-redef]

__all__ = ["Arena"]

SMALLEST = 256 << 10  # below this a fresh block costs no more than asking for a warm one
MAX_BLOCKS = 16
MAX_ASKED = 3  # leases tried for one block: the likeliest to be free; each costs 1 us
MAX_AGE_S = 30.0  # unused for so long: given back when the next block is asked for
ROUND = 1 << 20  # sizes are multiples of this, so that arrays of about one size fit into each other's blocks


class Kept:
    """A block that its sender keeps.

    Attributes:
        fd: the keeper's own open file.
        size: bytes that have been written once, so that their pages are there.
        used_at: when it was last sent.
    """

    __slots__ = ("fd", "memory", "size", "used_at")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = 0
        self.used_at = 0.0
        self.memory: mmap.mmap | None = None  # of those bytes

    def is_free(self) -> bool:
        """Whether nobody reads it any more, and nobody can come to read it."""
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            return False
        fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return True

    def write(self, parts: Sequence[memoryview], offsets: Sequence[int], total: int) -> None:
        """Copy the parts in. What was there before is overwritten: nobody may read it."""
        warm = self.size
        if self.memory is None and warm:
            self.memory = mmap.mmap(self.fd, warm)
        for part, offset in zip(parts, offsets, strict=True):
            at = 0
            if self.memory is not None:
                # These pages exist, so the copy cannot fail for want of memory (which would be a SIGBUS).
                at = max(0, min(len(part), warm - offset))
                copy(self.memory, offset, part[:at])
            while at < len(part):
                at += os.pwrite(self.fd, part[at:], offset + at)
        if total > warm:
            self._unmap()
            # a whole number of pages, all of them written
            os.posix_fallocate(self.fd, 0, total)
            self.size = total

    def lend(self) -> int:
        """A read-only open file of it, to be sent and closed."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        self._unmap()
        os.close(self.fd)

    def _unmap(self) -> None:
        memory, self.memory = self.memory, None
        if memory is not None:
            with contextlib.suppress(BufferError):  # a copy was interrupted: it goes with the thread that still copies
                memory.close()


class Arena:
    """Blocks of one sender. All methods may be called from any thread.

    Args:
        max_bytes: how much memory may be kept for the next time; blocks beyond are fresh each time.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = make_lock()  # protects _blocks; held while leases are asked for, not while bytes are copied
        self._blocks: list[Kept] = []  # oldest use first
        self._closed = False
        self.n_warm = 0  # blocks that were used again
        arenas.add(self)

    def write(self, parts: Sequence[memoryview], offsets: Sequence[int], total: int) -> int | None:
        """Copy parts into a block, each to its offset, and lend it. Returns the descriptor to send, and to close.

        None: this is none of the arena's business (too small, too large, or the system cannot tell about readers); the
        caller makes a block for this once.

        Raises:
            OSError: no memory or no descriptor.
        """
        if not SMALLEST <= total <= self._max_bytes:
            return None
        size = -(-total // ROUND) * ROUND if total > ROUND else total
        kept = self._take(size)
        if kept is None:
            return None
        try:
            kept.write(parts, offsets, min(size, self._max_bytes))
            fd = kept.lend()
        except BaseException:
            kept.close()
            raise
        kept.used_at = monotonic()
        with self._lock:
            if not self._closed:
                self._blocks.append(kept)
                return fd
        kept.close()  # the pool ended meanwhile
        return fd

    def _take(self, size: int) -> Kept | None:
        """A block that nobody reads, the best fit; or a new one, if one more may be kept."""
        stale: list[Kept] = []
        with self._lock:
            oldest = monotonic() - MAX_AGE_S
            while self._blocks and self._blocks[0].used_at < oldest:
                stale.append(self._blocks.pop(0))
            found = self._find(size)
            if found is not None:
                self._blocks.remove(found)
                self.n_warm += 1
            else:
                # Whether they have readers does not matter here: what readers have, stays theirs.
                room = self._max_bytes - size
                while self._blocks and (len(self._blocks) >= MAX_BLOCKS or self._n_bytes() > room):
                    stale.append(self._blocks.pop(0))
        for block in stale:
            block.close()
        return found if found is not None else open_kept()

    def _n_bytes(self) -> int:
        return sum(block.size for block in self._blocks)

    def _find(self, size: int) -> Kept | None:
        fitting = sorted((block for block in self._blocks if block.size >= size), key=lambda block: block.size)
        smaller = [block for block in self._blocks if block.size < size]
        for block in [*fitting[:MAX_ASKED], *smaller[:1]]:  # a smaller one grows, and is warm as far as it goes
            if block.is_free():
                return block
        return None

    def close(self) -> None:
        """Keep nothing any more. What readers have, stays theirs. Idempotent."""
        with self._lock:
            self._closed = True
            blocks, self._blocks = self._blocks, []
        for block in blocks:
            block.close()

    def forget(self) -> None:
        """In a forked child: the blocks are the parent's."""
        self._lock = make_lock()
        self.close()


def open_kept() -> Kept | None:
    """A new, empty block for keeping; None where the system cannot do what that takes."""
    first = os.memfd_create("fullcourt", os.MFD_CLOEXEC)
    try:
        # memfd_create's own open file does not count as a writer, so no lease is ever granted on it.
        kept = Kept(os.open(f"/proc/self/fd/{first}", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:  # no /proc
        return None
    finally:
        os.close(first)
    if not kept.is_free():  # no leases here
        kept.close()
        return None
    return kept


def physical_share(divisor: int, at_most: int) -> int:
    """A part of the machine's memory."""
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // divisor, at_most)


def pool_arena() -> Arena:
    """For arguments: one for each pool."""
    return Arena(physical_share(16, 1 << 30))


def worker_arena() -> Arena:
    """For results: one for each worker, of which there may be many."""
    return Arena(physical_share(64, 256 << 20))


# Only for forked children, which must not keep the descriptors: another pool's template, above all.
arenas: weakref.WeakSet[Arena] = weakref.WeakSet()


def forget_all() -> None:
    for arena in list(arenas):
        with contextlib.suppress(OSError):
            arena.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_all)
