"""What a worker did, in memory that outlives it.

Each slot of a worker has a region of a page shared with the pool. Before it runs a chunk, the slot writes the chunk's
id there; after each item of a map, that item's result. So when the process dies, the pool knows for each task whether
it had started, and has the results of those that had ended but were not yet sent: nothing runs twice, nothing is lost.

Layout of a region (little-endian 64-bit words; a store of one aligned word is never torn)::

    word 0              id of the chunk that runs or ran last; 0 before the first
    word 1 ... 8192     word i+1 tells of item i of that chunk:
                            UNSET       not ended
                            NONE        ended, the result is None
                            HEAP + n    ended, its pickle is at byte n of the heap: a u32 length, then the bytes
                            other       ended, and this is the result, an int
    word 8193           what the slot does with that chunk: LOADING_FUNCTION, LOADING, RUNNING
    word 8194           written by the pool: the id of a chunk whose remaining tasks shall not run any more
    word 8195           of a call, or of the item of a timed chunk, that runs or whose result is being pickled and sent:
                        1 + its offset; 0 between items
    word 8196           when that began, in nanoseconds of `time.perf_counter_ns` (CLOCK_MONOTONIC on Linux)
    word 8197           written by the pool: which task shall be stopped, see `stop_token`; 0: none
    then                heap, 128 KiB

After the last region the page has room for what `faulthandler` writes when the process gets a fatal signal.

Cost: about 0.1 us per item whose result is None or an int; a pickle more for others. Only the pages that are touched
take memory.
"""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Callable, Iterator

from fullcourt._core.chunking import MAX_CHUNK
from fullcourt.errors import StoppedByCancel, StoppedByTimeout, TaskStopped

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "HEAP_BYTES",
    "REGION_BYTES",
    "Journal",
    "Records",
    "Unreadable",
    "each_record",
    "load_or_not",
    "load_records",
    "page_bytes",
    "read_fault",
    "read_phase",
    "read_results",
    "read_running",
    "record",
    "request_stop",
    "revoke",
    "started_chunk",
    "stop_class",
    "token",
]

HEAP_AT = 8 * (MAX_CHUNK + 8)
HEAP_BYTES = 131072
WORTH_BYTES = 4096  # results of fewer bytes are better pickled together: what they share, as keys, is loaded once
LARGE_BYTES = 32768  # to pickle so much twice takes longer than to send it by itself
REGION_BYTES = HEAP_AT + HEAP_BYTES
FAULT_BYTES = 65536  # faulthandler writes of 100 threads at most, and of 100 frames of each

PHASE_WORD = MAX_CHUNK + 1
REVOKED_WORD = MAX_CHUNK + 2
ITEM_WORD = MAX_CHUNK + 3
SINCE_WORD = MAX_CHUNK + 4
STOP_WORD = MAX_CHUNK + 5
LOADING_FUNCTION, LOADING, RUNNING = 1, 2, 3

# A token names a task of a chunk in one word: bits 0 to 13 the task's offset in the chunk, or ANY; then the chunk's id.
TOKEN_BITS = 14
ANY = (1 << TOKEN_BITS) - 1
CANCELLED = 1 << 62  # set in a STOP word: stopped because it was cancelled; else because its time is over

UNSET = -(1 << 63)
NONE = (1 << 63) - 1
HEAP = 1 << 62
INT_LIMIT = 1 << 62
UNSET_WORDS = UNSET.to_bytes(8, "little", signed=True) * 1024


def page_bytes(n_slots: int) -> int:
    """The size of a worker's page: its slots' regions, and room for a fatal signal's traceback."""
    return n_slots * REGION_BYTES + FAULT_BYTES


def read_fault(page: mmap.mmap) -> str:
    """What faulthandler left in a dead worker's page; empty if nothing. The pool's side."""
    return page[len(page) - FAULT_BYTES :].partition(b"\0")[0].decode("utf-8", "replace")


class Journal:
    """The worker's side: one slot's region."""

    def __init__(self, page: mmap.mmap, slot_index: int) -> None:
        view = memoryview(page)[slot_index * REGION_BYTES : (slot_index + 1) * REGION_BYTES]
        self.words = view[:HEAP_AT].cast("q")
        self._heap = view[HEAP_AT:]
        self._used = 0
        self.n_kept = 0  # results in the heap, and which is the last of them
        self._last_kept = 0
        self._view = view
        self.slot: Any = None  # the worker's: what this slot's thread runs
        self.n_holds = 0  # how many times its thread has asked for no exception to stop its task
        self._held = 0  # the task that was running then

    def start(self, chunk_id: int, n_items: int, phase: int) -> None:
        """Record what is done now with a chunk, of which no item has ended. For a single call, n_items is 0."""
        words = self.words
        if words[0] != chunk_id:
            words[0] = 0
            self._used = self.n_kept = 0
            for at in range(8, 8 + 8 * n_items, 8192):
                end = min(at + 8192, 8 + 8 * n_items)
                self._view[at:end] = UNSET_WORDS[: end - at]
        words[PHASE_WORD] = phase
        words[0] = chunk_id

    def put(self, index: int, result: object, dumps: Callable[..., bytes] = pickle.dumps) -> bool | None:
        """Record the result of an item that is neither None nor a small int.

        False: it cannot be kept here, and has to be sent at once. None: nor can the next ones, if they are like it: to
        pickle them here, too, would take longer than to send each at once.
        """
        try:
            data = dumps(result, 5)
        except Exception:  # noqa: BLE001  what is wrong with it shows when the results are sent
            return False
        used = self._used
        end = used + 4 + len(data)
        if end > HEAP_BYTES:
            return None if len(data) > LARGE_BYTES else False
        self._heap[used:end] = record(data)
        self.words[index + 1] = HEAP + used
        self._used = end
        self.n_kept += 1
        self._last_kept = index
        return True

    def records(self, first: int, n_results: int) -> bytes | None:
        """What the heap has of so many results, for :func:`load_records`, if that is all of them but perhaps the last.

        None too if they are so small that they are better pickled together than one by one.
        """
        n_missing = n_results - self.n_kept
        all_but_last = n_missing == 1 and self._last_kept == first + n_results - 2
        if self._used < WORTH_BYTES * n_results or not (all_but_last or n_missing == 0):
            return None
        return bytes(self._heap[: self._used])

    def forget_heap(self) -> None:
        """The results so far were sent: the heap may be used anew."""
        self._used = self.n_kept = 0

    def heed(self) -> None:
        """Raise what the pool wants raised in the task that the slot runs.

        To be called when ``slot.running`` has been set: the pool's signal may have come a moment before.

        Raises:
            TaskStopped: as the pool has said.
        """
        stop = self.words[STOP_WORD]
        if stop and is_meant(stop, self.slot.running):
            self.slot.running = 0
            raise stop_class(stop)("the pool stopped this task")

    def hold(self) -> None:
        """Have no exception raised in this slot's task, until it is resumed as many times.

        Raises:
            TaskStopped: one was on its way. Then nothing is held.
        """
        if not self.n_holds:
            self.hold_again()
        self.n_holds += 1

    def resume(self) -> None:
        """The other half of :meth:`hold`. Raises what has come meanwhile."""
        self.n_holds -= 1
        if not self.n_holds:
            self.let_through()

    def let_through(self) -> None:
        """Let an exception come, though it is held back: this thread only waits. Raises what has come meanwhile."""
        self.slot.running, self._held = self._held, 0
        self.heed()

    def hold_again(self) -> None:
        """The other half of :meth:`let_through`. If one has come, there is nothing to hold back any more."""
        running = self.slot.pause()
        if running is None:
            raise stop_class(self.words[STOP_WORD])("the pool stopped this task")
        self._held = running

    def close(self) -> None:
        self.words.release()
        self._heap.release()
        self._view.release()


def stop_class(stop: int) -> type[TaskStopped]:
    """The class of the exception that such a STOP word has raised."""
    return StoppedByCancel if stop & CANCELLED else StoppedByTimeout


def started_chunk(page: mmap.mmap, slot_index: int) -> int:
    """The id of the chunk that this slot started last, 0 if none. The pool's side."""
    at = slot_index * REGION_BYTES
    return int.from_bytes(page[at : at + 8], "little")


def read_phase(page: mmap.mmap, slot_index: int) -> int:
    """What this slot did with its chunk when it was last seen. The pool's side."""
    at = slot_index * REGION_BYTES + 8 * PHASE_WORD
    return int.from_bytes(page[at : at + 8], "little")


def revoke(page: mmap.mmap, slot_index: int, chunk_id: int) -> None:
    """Tell this slot to run no more tasks of a chunk. The pool's side."""
    at = slot_index * REGION_BYTES + 8 * REVOKED_WORD
    page[at : at + 8] = chunk_id.to_bytes(8, "little")


def token(chunk_id: int, offset: int = ANY) -> int:
    """The word that names a task, or whichever task of that chunk runs."""
    return chunk_id << TOKEN_BITS | offset


def is_meant(stop: int, running: int) -> bool:
    """Whether a STOP word means the task with that token."""
    stop &= ~CANCELLED
    return bool(running) and (stop == running or stop == running | ANY or running == stop | ANY)


def request_stop(page: mmap.mmap, slot_index: int, stop: int) -> None:
    """Tell this slot which task is to be stopped; its process must be signalled then. The pool's side."""
    at = slot_index * REGION_BYTES + 8 * STOP_WORD
    page[at : at + 8] = stop.to_bytes(8, "little")


def read_running(page: mmap.mmap, slot_index: int, chunk_id: int) -> tuple[int, float] | None:
    """Which task of a chunk this slot runs (its offset), and since when (seconds of ``perf_counter``).

    None: it has not begun that chunk, or is between two items. The pool's side.
    """
    at = slot_index * REGION_BYTES
    with memoryview(page)[at : at + HEAP_AT] as raw, raw.cast("q") as words:
        item, since = words[ITEM_WORD], words[SINCE_WORD]
        if words[0] != chunk_id or item == 0 or words[ITEM_WORD] != item or words[SINCE_WORD] != since:
            return None
    return item - 1, since * 1e-9


def record(data: bytes) -> bytes:
    """A result's pickle as it lies in the heap."""
    return len(data).to_bytes(4, "little") + data


def load_records(data: bytes) -> list[Any]:
    """Load results that were pickled one by one."""
    return [pickle.loads(pickled) for pickled in each_record(data)]


def each_record(data: bytes) -> Iterator[memoryview]:
    """The pickles of such results."""
    view, at = memoryview(data), 0
    while at < len(data):
        end = at + 4 + int.from_bytes(view[at : at + 4], "little")
        yield view[at + 4 : end]
        at = end


def load_or_not(data: bytes | memoryview) -> Any:
    """Load a result. What will not load is an :class:`Unreadable`."""
    try:
        return pickle.loads(data)
    except BaseException as error:  # noqa: BLE001  whatever the user's code raises
        return Unreadable(error)


class Records:
    """Results that were pickled one by one; unpickles as the list of them."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> tuple[Any, ...]:
        return load_records, (self._data,)


class Unreadable:
    """Stands for a result that will not load.

    Attributes:
        error: what loading it has raised.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error


def read_results(page: mmap.mmap, slot_index: int, first: int, n_items: int) -> list[Any]:
    """The results of the items from ``first`` on that had ended, in order, up to the first that had not.

    Runs the user's code: without any lock. What will not load is an :class:`Unreadable`.
    """
    at = slot_index * REGION_BYTES
    heap_at = at + HEAP_AT
    results: list[Any] = []
    with memoryview(page)[at : at + HEAP_AT] as raw, raw.cast("q") as words:
        for index in range(first, n_items):
            word = words[index + 1]
            if word == UNSET:
                break
            if word == NONE:
                results.append(None)
            elif word >= HEAP:
                start = heap_at + word - HEAP
                length = int.from_bytes(page[start : start + 4], "little")
                results.append(load_or_not(page[start + 4 : start + 4 + length]))
            else:
                results.append(word)
    return results
