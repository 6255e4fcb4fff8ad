"""Processes and threads by themselves, with results; and ``fork``, made safe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fullcourt.process.forks import Child, ForkWarning, fork
    from fullcourt.process.processes import Process
    from fullcourt.process.threads import Thread

__all__ = ["Child", "ForkWarning", "Process", "Thread", "fork"]

_HOMES = {"Child": "forks", "ForkWarning": "forks", "Process": "processes", "Thread": "threads", "fork": "forks"}


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is asked for: a child needs little of it, and should start quickly."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value
