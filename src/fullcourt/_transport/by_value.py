"""Pickling by value what belongs to ``__main__``, so that it shares one namespace in the worker, as it does here.

cloudpickle gives every function that it reads a dictionary of globals of its own. Then an initializer that sets a
global would set it where no task sees it, and "the same program works under every start method" would be false. So
functions of ``__main__`` get the receiver's ``__main__`` as their globals.

What travels along are the values of the globals that a function names. In the receiver they are set, unless the
receiver itself has bound the name to something else since it last came: what an initializer or a task has set stays.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from fullcourt._transport.captures import Cached, is_importable
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
        base: Any = cloudpickle.Pickler
        registered: Any = copyreg.dispatch_table
        reduction: Any = sys.modules.get("multiprocessing.reduction")  # it knows how connections and sockets travel
        known: Any = {} if reduction is None else reduction.ForkingPickler._extra_reducers
        # The base class looks at this while it is made.
        self.dispatch_table = ChainMap(OURS, base._dispatch_table, known, registered)
        if reducers is not None:
            self.dispatch_table = ChainMap(dict(reducers), self.dispatch_table)
        super().__init__(file, protocol, buffer_callback)
        self._main = main_globals()
        self.globals_ref[id(self._main)] = MainGlobals()

    def _dynamic_function_reduce(self, func: Any) -> Any:
        if func.__code__ is DISPATCH_CODE:  # it holds weak references
            return dispatching, (func.__wrapped__, tuple(func.registry.items()))
        reduced = super()._dynamic_function_reduce(func)
        if func.__globals__ is not self._main:
            return reduced
        attributes, slots = reduced[2]
        slots[DIGESTS] = {name: digest(value) for name, value in slots["__globals__"].items()}
        return (*reduced[:2], (attributes, slots), *reduced[3:5], set_function_state)


def reduce_cached(fn: Any) -> Any:
    """A function with a cache, which cloudpickle sends by name wherever it is defined; its cache stays here."""
    module = getattr(fn, "__module__", None)
    if module != "__main__" and module not in cloudpickle.list_registry_pickle_by_value() and is_importable(fn):
        return fn.__qualname__
    attributes: dict[str, object] = fn.__dict__
    state = {name: value for name, value in attributes.items() if name not in {"__wrapped__", "cache_parameters"}}
    return cached, (fn.__wrapped__, fn.cache_parameters()), state


def cached(fn: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = functools.lru_cache(**parameters)(fn)
    return made


def reduce_cached_property(made: Any) -> Any:
    """In Python 3.11 there is a lock in it."""
    return type(made), (made.func,), {"attrname": made.attrname}


def reduce_code(code: CodeType) -> Any:
    """As cloudpickle does it, but with the file's name.

    From 3.1.3 on it leaves that out, and with it the lines of code in tracebacks and warnings.
    """
    base: Any = cloudpickle.Pickler
    make, args = base._dispatch_table[CodeType](code)
    return make, tuple(code.co_filename if arg == NO_FILE else arg for arg in args)


NO_FILE = "<dynamic-code>"
OURS: dict[type, Callable[[Any], Any]] = {
    Cached: reduce_cached,
    CodeType: reduce_code,
    functools.cached_property: reduce_cached_property,
}
dispatcher: Any = functools.singledispatch(cached)
DISPATCH_CODE = dispatcher.__code__  # of all functions that `singledispatch` makes


def dispatching(fn: Callable[..., Any], registry: tuple[tuple[type, Callable[..., Any]], ...]) -> Callable[..., Any]:
    made = functools.singledispatch(fn)
    for kind, implementation in registry:
        made.register(kind, implementation)
    return made


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
