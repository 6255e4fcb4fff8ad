"""Run Python functions in parallel: processes, threads, both, sub-interpreters, by one API.

Example:
    >>> import fullcourt
    >>> with fullcourt.Pool(processes=2) as pool:
    ...     pool.map(len, ["one", "three"])
    [3, 5]
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # a fresh template imports this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

    from fullcourt._advise.advice import Advice, advise
    from fullcourt._engines.state import worker_state
    from fullcourt.channels import (
        Barrier,
        BoundedSemaphore,
        Condition,
        Connection,
        Event,
        JoinableQueue,
        Lock,
        Pipe,
        Queue,
        RLock,
        Semaphore,
        ShutDown,
        SimpleQueue,
    )
    from fullcourt.errors import (
        FullcourtError,
        NotSupported,
        OwnerDied,
        PicklingError,
        PoolBroken,
        PoolClosed,
        ProcessDied,
        RemoteError,
        TaskCancelled,
        TaskMemoryExceeded,
        TaskStopped,
        TaskTimeout,
        WorkerDied,
    )
    from fullcourt.gil import Observation, observe
    from fullcourt.pool import Failure, Future, Pipeline, Pool, Stage, map  # noqa: A004
    from fullcourt.process import Child, Process, Thread, fork
    from fullcourt.shared import Shared, empty, share

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "Barrier",
    "BoundedSemaphore",
    "Child",
    "Condition",
    "Connection",
    "Event",
    "Failure",
    "FullcourtError",
    "Future",
    "JoinableQueue",
    "Lock",
    "NotSupported",
    "Observation",
    "OwnerDied",
    "PicklingError",
    "Pipe",
    "Pipeline",
    "Pool",
    "PoolBroken",
    "PoolClosed",
    "Process",
    "ProcessDied",
    "Queue",
    "RLock",
    "RemoteError",
    "Semaphore",
    "Shared",
    "ShutDown",
    "SimpleQueue",
    "Stage",
    "TaskCancelled",
    "TaskMemoryExceeded",
    "TaskStopped",
    "TaskTimeout",
    "Thread",
    "WorkerDied",
    "advise",
    "empty",
    "fork",
    "map",
    "observe",
    "share",
    "worker_state",
]

_MODULES = {
    "fullcourt.pool": ("Failure", "Future", "Pipeline", "Pool", "Stage", "map"),
    "fullcourt._advise.advice": ("Advice", "advise"),
    "fullcourt._engines.state": ("worker_state",),
    "fullcourt.gil": ("Observation", "observe"),
    "fullcourt.process": ("Child", "Process", "Thread", "fork"),
    "fullcourt.shared": ("Shared", "empty", "share"),
    "fullcourt.channels": (
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
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is asked for."""
    if name in __all__:
        from importlib import import_module

        value = getattr(import_module(_HOMES.get(name, "fullcourt.errors")), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# What a pool needs is loaded here, so that the first one opens quickly. A fresh interpreter of ours says before it
# imports us that it is one: it needs little, and should start quickly.
if not hasattr(sys, "_fullcourt_lean"):
    __import__("fullcourt.pool")
