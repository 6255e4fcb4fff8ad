"""Run Python functions in parallel: processes, threads, both, sub-interpreters, by one API.

Example:
    >>> import fullcourt
    >>> with fullcourt.Pool(processes=2) as pool:
    ...     pool.map(len, ["one", "three"])
    [3, 5]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullcourt._advise.advice import Advice, advise
    from fullcourt.errors import (
        FullcourtError,
        NotSupported,
        PicklingError,
        PoolBroken,
        PoolClosed,
        RemoteError,
        TaskCancelled,
        TaskMemoryExceeded,
        TaskTimeout,
        WorkerDied,
    )
    from fullcourt.gil import Observation, observe
    from fullcourt.pool import Failure, Future, Pool, map  # noqa: A004

__version__ = "0.1.0"

__all__ = [
    "Advice",
    "Failure",
    "FullcourtError",
    "Future",
    "NotSupported",
    "Observation",
    "PicklingError",
    "Pool",
    "PoolBroken",
    "PoolClosed",
    "RemoteError",
    "TaskCancelled",
    "TaskMemoryExceeded",
    "TaskTimeout",
    "WorkerDied",
    "advise",
    "map",
    "observe",
]

_PLACES = {
    **dict.fromkeys(("Failure", "Future", "Pool", "map"), "fullcourt.pool"),
    **dict.fromkeys(("Advice", "advise"), "fullcourt._advise.advice"),
    **dict.fromkeys(("Observation", "observe"), "fullcourt.gil"),
}


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is asked for: a worker needs little of it, and should start quickly."""
    if name in __all__:
        from importlib import import_module

        value = getattr(import_module(_PLACES.get(name, "fullcourt.errors")), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
