"""The receiver's ``__main__``: the globals of functions that were pickled by value; see :mod:`by_value`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["DIGESTS", "MainGlobals", "adopt_main", "main_globals", "set_function_state"]

MISSING = object()
DIGESTS = "__fullcourt_digests__"  # where a function's state holds them

# The values of this process's __main__ as they came from the pool (or from before a fork), by name. A process has one
# __main__, so it has one of these; only the receiving side fills it.
arrived: dict[str, object] = {}
# The digests of their pickles, where they came with one.
arrived_digests: dict[str, bytes] = {}


def adopt_main() -> None:
    """Called once when a worker starts: what ``__main__`` holds now is as the pool had it."""
    arrived.clear()
    arrived_digests.clear()
    arrived.update(vars(sys.modules["__main__"]))


class MainGlobals:
    """Pickles as "the receiver's ``__main__`` namespace"."""

    def __reduce__(self) -> tuple[Callable[[], dict[str, Any]], tuple[()]]:
        return main_globals, ()


def main_globals() -> dict[str, Any]:
    return vars(sys.modules["__main__"])


def set_function_state(function: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give a function that was read its attributes; merge the globals that came along into ``__main__``."""
    from cloudpickle.cloudpickle import _function_setstate

    values = state[1]["__globals__"]
    digests = state[1].pop(DIGESTS)
    state[1]["__globals__"] = {}
    namespace = main_globals()
    for name, value in values.items():
        current = namespace.get(name, MISSING)
        digest = digests.get(name)
        if current is not MISSING and digest is not None and digest == arrived_digests.get(name):
            continue  # as it came before; what a task has done to it since (appended to a list) stays
        if current is MISSING or current is arrived.get(name, MISSING):
            namespace[name] = arrived[name] = value
            if digest is not None:
                arrived_digests[name] = digest
    _function_setstate(function, state)
