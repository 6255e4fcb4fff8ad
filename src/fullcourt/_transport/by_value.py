"""Pickling by value what belongs to ``__main__``, so that it shares one namespace in the worker, as it does here.

cloudpickle gives every function that it reads a dictionary of globals of its own. Then an initializer that sets a
global would set it where no task sees it, and "the same program works under every start method" would be false. So
functions of ``__main__`` get the receiver's ``__main__`` as their globals.

What travels along are the values of the globals that a function names. In the receiver they are set, unless the
receiver itself has bound the name to something else since it last came: what an initializer or a task has set stays.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cloudpickle

from fullcourt._transport.mainspace import MainGlobals, main_globals, set_function_state

__all__ = ["dumps"]


class Pickler(cloudpickle.Pickler):
    """cloudpickle's, for which functions of ``__main__`` share their globals."""

    def __init__(self, file: io.BytesIO, protocol: int, buffer_callback: Callable[[Any], Any] | None) -> None:
        super().__init__(file, protocol, buffer_callback)
        self._main = main_globals()
        self.globals_ref[id(self._main)] = MainGlobals()

    def _dynamic_function_reduce(self, func: Any) -> Any:
        reduced = super()._dynamic_function_reduce(func)
        if func.__globals__ is self._main:
            return (*reduced[:5], set_function_state)
        return reduced


def dumps(obj: object, protocol: int, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """As ``cloudpickle.dumps``."""
    with io.BytesIO() as file:
        Pickler(file, protocol, buffer_callback).dump(obj)
        return file.getvalue()
