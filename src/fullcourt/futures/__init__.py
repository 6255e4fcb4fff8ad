"""``concurrent.futures`` on fullcourt's pools: change the import line of a program, and nothing else.

The names, signatures, exceptions and meanings are the standard library's of the running Python, with what later
versions added (``map``'s ``buffersize``, ``terminate_workers``, ``kill_workers``, ``InterpreterPoolExecutor``) on every
version. The differences, all for safety's sake, stand in ``docs/differences.md``; above all: a worker that dies costs
the tasks that it had started, and the executor goes on.

Example:
    >>> from fullcourt.futures import ProcessPoolExecutor
    >>> with ProcessPoolExecutor(2) as executor:
    ...     list(executor.map(pow, [2, 3], [5, 2]))
    [32, 9]
"""

from __future__ import annotations

from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    TimeoutError,  # noqa: A004  the standard library's name
    as_completed,
    wait,
)
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullcourt.futures.interpreter import InterpreterPoolExecutor
    from fullcourt.futures.process import ProcessPoolExecutor
    from fullcourt.futures.thread import ThreadPoolExecutor

__all__ = [
    "ALL_COMPLETED",
    "FIRST_COMPLETED",
    "FIRST_EXCEPTION",
    "BrokenExecutor",
    "CancelledError",
    "Executor",
    "Future",
    "InterpreterPoolExecutor",
    "InvalidStateError",
    "ProcessPoolExecutor",
    "ThreadPoolExecutor",
    "TimeoutError",
    "as_completed",
    "wait",
]

_IN = {
    "InterpreterPoolExecutor": "interpreter",
    "ProcessPoolExecutor": "process",
    "ThreadPoolExecutor": "thread",
}
_SUBMODULES = ("_base", "interpreter", "process", "thread")


def __getattr__(name: str) -> Any:
    """Load an executor when it is asked for, as the standard library does."""
    from importlib import import_module

    if name in _IN:
        value = getattr(import_module(f"{__name__}.{_IN[name]}"), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
