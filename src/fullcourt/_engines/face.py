"""What a worker knows of its pool, so that its tasks can use it. Every worker imports it: so no `dataclasses`."""

from __future__ import annotations

import os
from collections.abc import Callable

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Face", "Place", "enter", "leave", "ready"]


class Face:
    """A pool, as its workers know it.

    Attributes:
        key: distinguishes this pool from all others.
        name: the pool's.
        n_slots: in the whole pool.
        chunk_limit: most tasks in one chunk; None: as many as it likes.
    """

    def __init__(self, key: str, name: str, n_slots: int, chunk_limit: int | None) -> None:
        self.key = key
        self.name = name
        self.n_slots = n_slots
        self.chunk_limit = chunk_limit


class Place:
    """This worker, and its way to its pool.

    Attributes:
        face: the pool.
        end: the worker's end of the link.
        codec: pickles for the other workers.
        current: gives the pool's number of the chunk that the calling thread runs; 0: it cannot be told.
        journal: gives that of the slot whose thread calls; None for another thread.
        pool_pid: the pool's process.
        is_ready: whether the initializer has run.
        driver: the pool's driver here, once a task has asked for it.
    """

    def __init__(
        self,
        face: Face,
        end: Any,
        codec: Any,
        current: Callable[[], int],
        journal: Callable[[], Any],
        pool_pid: int,
    ) -> None:
        self.face = face
        self.end = end
        self.codec = codec
        self.current = current
        self.journal = journal
        self.pool_pid = pool_pid
        self.pid = os.getpid()
        self.is_ready = False
        self.driver: Any = None


here: Place | None = None  # a process, or an interpreter, is a worker at most once


def enter(place: Place) -> None:
    """This process, or interpreter, is a worker from now on."""
    global here  # noqa: PLW0603
    here = place


def ready() -> None:
    """The initializer has run: tasks come."""
    if here is not None:
        here.is_ready = True


def leave() -> None:
    """The worker ends."""
    if here is not None and here.driver is not None:
        here.driver.leave()
