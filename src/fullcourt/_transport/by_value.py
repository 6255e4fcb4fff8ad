"""Pickling by value what belongs to ``__main__``, so that it shares one namespace in the worker, as it does here.

cloudpickle gives every function that it reads a dictionary of globals of its own. Then an initializer that sets a
global would set it where no task sees it, and "the same program works under every start method" would be false. So
functions of ``__main__`` get the receiver's ``__main__`` as their globals.

What travels along are the values of the globals that a function names. In the receiver they are set, unless the
receiver itself has bound the name to something else since it last came: what an initializer or a task has set stays.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle

from fullcourt._transport.mainspace import DIGESTS, MainGlobals, main_globals, set_function_state

__all__ = ["dumps", "dumps_with_module"]


class Pickler(cloudpickle.Pickler):
    """cloudpickle's, for which functions of ``__main__`` share their globals."""

    def __init__(
        self,
        file: io.BytesIO,
        protocol: int,
        buffer_callback: Callable[[Any], Any] | None,
        reducers: Mapping[type, Callable[[Any], Any]] | None = None,
    ) -> None:
        if reducers is not None:  # the base class looks at it while it is made
            self.dispatch_table = ChainMap(dict(reducers), self.dispatch_table)
        super().__init__(file, protocol, buffer_callback)
        self._main = main_globals()
        self.globals_ref[id(self._main)] = MainGlobals()

    def _dynamic_function_reduce(self, func: Any) -> Any:
        reduced = super()._dynamic_function_reduce(func)
        if func.__globals__ is not self._main:
            return reduced
        attributes, slots = reduced[2]
        slots[DIGESTS] = {name: digest(value) for name, value in slots["__globals__"].items()}
        return (*reduced[:2], (attributes, slots), *reduced[3:5], set_function_state)


def digest(value: object) -> bytes | None:
    """A digest of a global's content; None for definitions, and for what has no plain pickle."""
    if isinstance(value, (FunctionType, type, ModuleType)):
        return None
    try:
        return hashlib.blake2b(pickle.dumps(value, 5), digest_size=16).digest()
    except Exception:  # noqa: BLE001
        return None


def dumps_with_module(obj: object, protocol: int) -> bytes:
    """As :func:`dumps`, with what belongs to the object's own module by value, too: the receiver lacks that module."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    if module is None or module.__name__ == "__main__":
        return dumps(obj, protocol)
    cloudpickle.register_pickle_by_value(module)
    try:
        return dumps(obj, protocol)
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def dumps(
    obj: object,
    protocol: int,
    buffer_callback: Callable[[Any], Any] | None = None,
    reducers: Mapping[type, Callable[[Any], Any]] | None = None,
) -> bytes:
    """As ``cloudpickle.dumps``, with types that are pickled in ways of their own."""
    with io.BytesIO() as file:
        Pickler(file, protocol, buffer_callback, reducers).dump(obj)
        return file.getvalue()
