"""Queues, pipes and locks between processes, threads, interpreters and pool tasks, which survive any of these.

The interfaces are those of ``multiprocessing``; the names are also in ``fullcourt`` itself. Linux only: elsewhere each
raises :exc:`fullcourt.NotSupported`.
"""

from __future__ import annotations

from fullcourt.channels._channel import ShutDown
from fullcourt.channels._conditions import Barrier, Condition, Event
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
