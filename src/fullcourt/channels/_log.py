"""The log: where a queue's items lie that its socket has no room for.

It follows the page in the monitor's memory block: records of a length (8 bytes) and a pickle, from ``head`` to `tail`.
What is there at a moment is told by four words: head, tail, and how many items were ever added and taken. They are
written into the one of two places that is not in use; then a single store makes it the one in use. So whoever is
killed, an item is there or is not, and a group of items all or none.

Who waits for items looks at a fifth word, IN_LOG, and only where it is set for the rest, with the lock held. It is set
first, then the bell is rung, then the items become valid: a kill in between leaves nobody asleep beside an item.

Space that was read is given back to the kernel (``fallocate``, FALLOC_FL_PUNCH_HOLE); when the log is empty, all of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from fullcourt.channels._monitor import FIRST_WORD, PAGE_BYTES

__all__ = ["Log"]

IN_USE = FIRST_WORD + 8  # which of the two places: 0 or 1
IN_LOG = FIRST_WORD + 9  # for a quick look: 0 only if there are no items, and nobody is about to add some
PLACES = (FIRST_WORD + 16, FIRST_WORD + 24)

READ_AHEAD = 65536
PUNCH_BYTES = 1 << 20


class Log:
    """One process's view of the log. All but ``n_waiting`` and ``n_taken`` with the monitor's lock held."""

    def __init__(self, words: memoryview[int], memory: int) -> None:
        self._words = words
        self._memory = memory
        self._ahead = b""  # what was read at `_ahead_at`; records do not change, so it stays valid until taken
        self._ahead_at = 0
        self._epoch = -1  # how many items had ever been added when that was read
        self._punched = 0

    @property
    def n_waiting(self) -> int:
        """How many items are there. Without the lock: at that moment, or a moment ago."""
        at = PLACES[self._words[IN_USE]]
        return self._words[at + 2] - self._words[at + 3]

    @property
    def n_taken(self) -> int:
        """How many items were ever taken from it."""
        return self._words[PLACES[self._words[IN_USE]] + 3]

    def _commit(self, head: int, tail: int, n_in: int, n_out: int) -> None:
        words = self._words
        other = 1 - words[IN_USE]
        at = PLACES[other]
        words[at], words[at + 1], words[at + 2], words[at + 3] = head, tail, n_in, n_out
        words[IN_USE] = other
        if n_in == n_out:
            words[IN_LOG] = 0

    def add(self, items: Sequence[bytes], bell: int) -> int:
        """Add items, all or none. Returns how many were ever added: when as many were taken, these were.

        Args:
            items: their pickles.
            bell: descriptor of the bell that wakes who waits for items; below 0: nobody does.

        Raises:
            OSError: there is no memory for them.
        """
        words = self._words
        at = PLACES[words[IN_USE]]
        tail, n_in = words[at + 1], words[at + 2]
        data = b"".join([part for item in items for part in (len(item).to_bytes(8, "little"), item)])
        done = os.pwrite(self._memory, data, PAGE_BYTES + tail)
        while done < len(data):
            done += os.pwrite(self._memory, memoryview(data)[done:], PAGE_BYTES + tail + done)
        n_in += len(items)
        words[IN_LOG] = 1
        if bell >= 0:
            os.eventfd_write(bell, 1)
        self._commit(words[at], tail + len(data), n_in, words[at + 3])
        return n_in

    def take(self, n: int = 1) -> list[bytes]:
        """Take up to so many items."""
        words = self._words
        at = PLACES[words[IN_USE]]
        head, tail, n_in, n_out = words[at], words[at + 1], words[at + 2], words[at + 3]
        items: list[bytes] = []
        # What was read ahead is good for records that were there at the time.
        ahead = self._ahead if n_out < self._epoch else b""
        start = head - self._ahead_at
        while len(items) < n and n_out < n_in:
            end = start + 8
            if not 0 < end <= len(ahead):
                ahead, start, end = self._read(head, 8, tail, n_in), 0, 8
            stop = end + int.from_bytes(ahead[start:end], "little")
            if stop > len(ahead):
                ahead, stop = self._read(head, stop - start, tail, n_in), stop - start
                end = 8
            items.append(ahead[end:stop])
            head += stop - end + 8
            start = stop
            n_out += 1
        if not items:
            words[IN_LOG] = 0  # whoever set it was killed, or stopped by a signal's exception, before it added any
            return items
        if head == tail:
            self._commit(0, 0, n_in, n_out)
            self._epoch = -1
            self._punched = 0
            if tail > READ_AHEAD:
                os.ftruncate(self._memory, PAGE_BYTES)
        else:
            self._commit(head, tail, n_in, n_out)
            if head - self._punched >= PUNCH_BYTES:
                self._punch(head)
        return items

    def _read(self, at: int, n: int, tail: int, n_in: int) -> bytes:
        """Read at least so many bytes, and some way ahead."""
        size = min(max(n, READ_AHEAD), tail - at)
        ahead = os.pread(self._memory, size, PAGE_BYTES + at)
        while len(ahead) < n:
            more = os.pread(self._memory, n - len(ahead), PAGE_BYTES + at + len(ahead))
            ahead += more
        self._ahead, self._ahead_at, self._epoch = ahead, at, n_in
        return ahead

    def _punch(self, head: int) -> None:
        """Give back the space before the first record."""
        from fullcourt._os.system import punch_hole

        punch_hole(self._memory, PAGE_BYTES, head // PAGE_BYTES * PAGE_BYTES)
        self._punched = head

    def clear(self) -> int:
        """Drop all items. Returns how many there were."""
        words = self._words
        at = PLACES[words[IN_USE]]
        n_in, n_out = words[at + 2], words[at + 3]
        self._commit(0, 0, n_in, n_in)
        self._epoch = -1
        os.ftruncate(self._memory, PAGE_BYTES)
        return n_in - n_out
