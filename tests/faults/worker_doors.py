"""Doors in a worker: the moments between its steps, at any of which a test can have it die.

:func:`install`, as a pool's initializer, puts them around what a worker does with its link and its journal. They are
open until a task, :func:`arm`, counts them off: at the n-th from then on, the process kills itself. Nothing of this is
in the package: it wraps the classes in the worker that the test owns.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from fullcourt._engines import worker
from fullcourt._transport import journal, link, portable_link
from tests.faults.fault_tasks import append_line

lock = threading.RLock()  # of several slots, one passes at a time
left = 0  # doors to the deadly one; 0: none is
armed = 0  # that many from the next frame on that is sent, which is the answer of `arm`
passed: list[str] = []
log = ""
pid = 0


def door(name: str) -> None:
    """Pass a door, or die there."""
    global left
    if not left or os.getpid() != pid:  # a process that a task forked has no doors
        return
    with lock:
        left -= 1
        passed.append(name)
        if not left:
            append_line(log, name)
            os.kill(pid, signal.SIGKILL)


def arm(n: int, path: str) -> int:
    """Die at the n-th door after this one's answer, and leave the door's name in a file before. Returns the process."""
    global armed, left, log, pid
    passed.clear()
    left, armed, log, pid = 0, n, path, os.getpid()
    return pid


def disarm() -> list[str]:
    """Die at no door any more. Returns the names of those passed since :func:`arm`; none in a worker's successor."""
    global left
    left = 0
    return list(passed)


class Words:
    """A journal's words, with a door before and after each store."""

    def __init__(self, words: Any) -> None:
        self._words = words

    def __getitem__(self, index: int) -> int:
        word: int = self._words[index]
        return word

    def __setitem__(self, index: int, word: int) -> None:
        what = {0: "chunk", journal.PHASE_WORD: "phase"}.get(index, "item")
        if index == 0 and word == 0:
            what = "no chunk"
        door(f"before the store of {what}")
        self._words[index] = word
        door(f"after the store of {what}")

    def release(self) -> None:
        self._words.release()


class Journal(journal.Journal):
    def __init__(self, page: Any, slot_index: int) -> None:
        super().__init__(page, slot_index)
        self.words: Any = Words(self.words)

    def put(self, index: int, result: object, *args: Any) -> bool:
        door("before the heap")
        kept = super().put(index, result, *args)
        door("after the heap")
        return kept

    def forget_heap(self) -> None:
        door("before the heap is forgotten")
        super().forget_heap()


def starting(owner: Any, name: str) -> None:
    """After a call of this method, doors are counted if they are armed."""
    inner = getattr(owner, name)

    def sending(*args: Any, **kwargs: Any) -> Any:
        global armed, left
        result = inner(*args, **kwargs)
        if armed:
            left, armed = armed, 0
        return result

    setattr(owner, name, sending)


def between(owner: Any, name: str, what: str) -> None:
    """Put a door before and one after a function or method."""
    inner = getattr(owner, name)

    def stepping(*args: Any, **kwargs: Any) -> Any:
        door(f"before {what}")
        result = inner(*args, **kwargs)
        door(f"after {what}")
        return result

    setattr(owner, name, stepping)


def install(first: int = 0, path: str = "") -> None:
    """Put the doors in; with `first`, the pool's first worker dies at that one, its successors do not."""
    global armed, left
    worker.Journal = Journal  # type: ignore[misc]
    between(link, "receive_with_fd", "a receive")
    between(link.WorkerEnd, "send", "a send")
    between(link, "send_with_fd", "the descriptor")
    between(portable_link, "read_message", "a reading")
    between(portable_link.WorkerEnd, "receive", "a receive")
    between(portable_link.WorkerEnd, "send", "a send")
    between(portable_link, "write_message", "a writing")
    for end in (link.WorkerEnd, portable_link.WorkerEnd):
        starting(end, "send")
    if first:
        try:
            os.close(os.open(f"{path}.claimed", os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            return
        arm(first, path)
        left, armed = armed, 0
