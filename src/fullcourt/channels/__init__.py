"""Queues, pipes and locks between processes, threads, interpreters and pool tasks, which survive any of these.

The interfaces are those of ``multiprocessing``; the names are also in ``fullcourt`` itself. Linux only: elsewhere each
raises :exc:`fullcourt.NotSupported`.
"""

from __future__ import annotations

from fullcourt.channels._channel import ShutDown
from fullcourt.channels._conditions import Barrier, Condition, Event
from fullcourt.channels._handle import restore
from fullcourt.channels._locks import BoundedSemaphore, Lock, RLock, Semaphore
from fullcourt.channels._pipes import Connection, Pipe
from fullcourt.channels._queues import JoinableQueue, Queue, SimpleQueue

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Connection",
    "Event",
    "JoinableQueue",
    "Lock",
    "Pipe",
    "Queue",
    "RLock",
    "Semaphore",
    "ShutDown",
    "SimpleQueue",
]

# Pickles name them here. If they named the modules, two threads of a fresh worker that unpickle the first ones at once
# could import these in opposite orders, which Python ends with an error: it takes a module's lock before its package's.
for _thing in (
    Barrier, BoundedSemaphore, Condition, Connection, Event, JoinableQueue, Lock, Queue, RLock, Semaphore, ShutDown,
    SimpleQueue, restore,
):  # fmt: skip
    _thing.__module__ = __name__
