"""``multiprocessing`` with fullcourt's pools: change the import line of a program, and nothing else.

The pools, ``Process``, the queues, ``Pipe`` and the locks are fullcourt's, here and in contexts; every other name
(``Manager``, ``Value``, ``shared_memory`` ...) is the standard library's own. Signatures, exceptions and meanings are
those of the running Python's; the differences, all for safety's sake, stand in ``docs/differences.md``; above all: a
worker that dies costs the tasks that it had started, and the pool goes on; a queue or lock survives whoever used it.

Example:
    >>> from fullcourt.multiprocessing import Pool
    >>> with Pool(2) as pool:
    ...     pool.starmap(pow, [(2, 5), (3, 2)])
    [32, 9]
"""

from __future__ import annotations

import multiprocessing as _standard
from importlib import import_module
from multiprocessing import (
    Array,
    AuthenticationError,
    BufferTooShort,
    ProcessError,
    RawArray,
    RawValue,
    TimeoutError,  # noqa: A004  the standard library's name
    Value,
    active_children,
    allow_connection_pickling,
    cpu_count,
    current_process,
    freeze_support,
    get_all_start_methods,
    get_logger,
    get_start_method,
    log_to_stderr,
    parent_process,
    set_executable,
    set_forkserver_preload,
    set_start_method,
)
from typing import TYPE_CHECKING, Any

from fullcourt.multiprocessing._ours import (
    Barrier,
    BoundedSemaphore,
    Condition,
    Event,
    JoinableQueue,
    Lock,
    Pipe,
    Queue,
    RLock,
    Semaphore,
    SimpleQueue,
    are_there,
)
from fullcourt.multiprocessing.context import get_context
from fullcourt.multiprocessing.pool import AsyncResult, Pool, ThreadPool

if TYPE_CHECKING or are_there():
    from fullcourt._faces.process import Process
else:
    from multiprocessing import Process

__all__ = [
    "Array",
    "AsyncResult",
    "AuthenticationError",
    "Barrier",
    "BoundedSemaphore",
    "BufferTooShort",
    "Condition",
    "Event",
    "JoinableQueue",
    "Lock",
    "Manager",
    "Pipe",
    "Pool",
    "Process",
    "ProcessError",
    "Queue",
    "RLock",
    "RawArray",
    "RawValue",
    "Semaphore",
    "SimpleQueue",
    "ThreadPool",
    "TimeoutError",
    "Value",
    "active_children",
    "allow_connection_pickling",
    "cpu_count",
    "current_process",
    "freeze_support",
    "get_all_start_methods",
    "get_context",
    "get_logger",
    "get_start_method",
    "log_to_stderr",
    "parent_process",
    "set_executable",
    "set_forkserver_preload",
    "set_start_method",
]


def Manager() -> Any:  # noqa: N802  the standard library's name
    """A manager of shared objects, started in a process of its own; the pools that it makes are fullcourt's."""
    return get_context().Manager()


def __getattr__(name: str) -> Any:
    """What else the running Python's ``multiprocessing`` has, and its submodules."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(_standard, name)
    except AttributeError:
        pass
    try:
        return import_module(f"{__name__}.{name}")
    except ModuleNotFoundError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_standard)})
