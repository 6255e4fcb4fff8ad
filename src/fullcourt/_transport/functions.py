"""How functions travel: pickled once, numbered, kept by the workers."""

from __future__ import annotations

import itertools
import pickle
import sys
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, cast

from fullcourt._core.model import Estimate
from fullcourt._os.locks import make_lock
from fullcourt._transport.captures import Cached, captured_by, global_names, plain_function, same
from fullcourt._transport.carried import NotCarried, Rights, collecting
from fullcourt._transport.codec import PROTOCOL, Codec

__all__ = ["Function", "FunctionTable", "function_name", "innermost", "with_fallback"]


class Function:
    """A function as it travels: its pickle, and a number under which workers keep it (0: they do not)."""

    __slots__ = ("captured", "data", "estimate", "fell_back", "id", "n_fatal_loads", "name", "named", "rights", "tried")

    def __init__(
        self,
        function_id: int,
        data: bytes,
        name: str,
        captured: tuple[object, ...] | None,
        estimate: Estimate,
        rights: Rights | None = None,
    ) -> None:
        self.estimate = estimate
        self.fell_back = False  # whether `data` is that of `with_fallback`
        self.tried: set[int] = set()  # workers that were sent that
        self.n_fatal_loads = 0  # workers in a row that ended while they loaded it
        self.id = function_id
        self.data = data
        self.rights = rights  # the descriptors of queues, pipes and locks that it takes along; never of a kept one
        self.name = name
        self.named = False  # whether it went by name since it cannot go by value
        self.captured = captured


class FunctionTable:
    """Pickles each function once and numbers it.

    Only plain functions, builtins and classes are kept: a bound method or a callable object may have changed since.
    A function that goes by value is kept while what it captured (closure, defaults, globals) is unchanged and cannot
    change inside; otherwise it is pickled anew at each use.
    """

    MAX = 512

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._known: dict[object, Function] = {}
        self._fixed: dict[object, Function] = {}  # of those, the plain functions that depend on nothing but themselves
        self._unkept: dict[str, Estimate] = {}  # of functions that are pickled at each use, by name
        self._ids = itertools.count(1)
        self._lock = make_lock()  # on free-threaded Python two threads could draw the same number

    def let_go(self) -> None:
        """Hold no function: nothing more is sent."""
        self._known.clear()
        self._fixed.clear()

    def get(self, fn: Callable[..., Any]) -> Function:
        """The function's entry. Raises PicklingError. From any thread: at worst a function is numbered twice."""
        if type(fn) is FunctionType:
            known = self._fixed.get(fn)
            if known is not None and (known.captured is None or is_bare(fn, known.captured[0])):
                return known
        if type(fn) not in (FunctionType, BuiltinFunctionType, type, Cached) or not isinstance(
            getattr(fn, "__self__", None), (ModuleType, type(None))
        ):  # `prices.get` is a builtin too, and bound
            return self._unnumbered(fn, *self._encode(fn))
        known = self._known.get(fn)
        plain: Any = plain_function(fn)
        by_value = (
            type(plain) is FunctionType and plain.__module__ == "__main__" and not self._codec.shares_globals(plain)
        )
        if known is not None:
            if known.captured is not None:
                if same(known.captured, captured_by(fn)):
                    return known
            elif not by_value or known.named:
                return known
        data, rights = self._encode(fn, by_value=by_value)
        captured: tuple[object, ...] | None = None
        if b"cloudpickle" in data:  # by value: our pickler's functions are made by cloudpickle's
            captured = captured_by(fn)
            if captured is None:
                return self._unnumbered(fn, data, rights)
        if len(self._known) >= self.MAX:
            self._fixed.pop(next(iter(self._known)), None)
            self._known.pop(next(iter(self._known)), None)
        with self._lock:
            number = next(self._ids)
        entry = Function(number, data, function_name(fn), captured, Estimate())
        entry.named = by_value and captured is None
        self._known[fn] = entry
        if type(fn) is FunctionType:
            if captured is None:
                is_fixed = not by_value and (fn.__module__ != "__main__" or not global_names(fn.__code__))
            else:
                is_fixed = not global_names(fn.__code__) and is_bare(fn, captured[0])
            if is_fixed:
                self._fixed[fn] = entry
        return entry

    def number(self, data: bytes, name: str) -> Function:
        """An entry for a pickle that a worker has made."""
        return Function(next(self._ids), data, name, None, Estimate())

    def _unnumbered(self, fn: Callable[..., Any], data: bytes, rights: Rights | None) -> Function:
        return self.unkept(data, function_name(fn), rights)

    def unkept(self, data: bytes, name: str, rights: Rights | None = None) -> Function:
        """An entry for a pickle that workers shall not keep."""
        if len(self._unkept) >= self.MAX:
            self._unkept.clear()
        return Function(0, data, name, None, self._unkept.setdefault(name, Estimate()), rights)

    def _encode(self, fn: Callable[..., Any], *, by_value: bool = False) -> tuple[bytes, Rights | None]:
        data, buffers = self._codec.encode_by_value(fn) if by_value else self._codec.encode(fn)
        rights = getattr(buffers, "rights", None)
        if len(buffers):  # a bound method of something large: functions travel in one piece
            from fullcourt._transport.by_value import dumps

            with collecting() as again:
                data = dumps(fn, PROTOCOL)
            rights = again if rights is not None else None
        return data, rights


def is_bare(fn: FunctionType, code: object) -> bool:
    """Whether a function is nothing but this code."""
    return not (fn.__dict__ or fn.__defaults__ or fn.__kwdefaults__ or fn.__closure__) and fn.__code__ is code


def function_name(fn: Any) -> str:
    """A function's name for messages."""
    name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None)
    if name is None:
        inner = innermost(fn)
        name = function_name(inner) if inner is not fn else type(fn).__qualname__
    return str(name)


def innermost(fn: Any) -> Any:
    """The function itself, where it is bound to an object or to arguments (``functools.partial`` and its like).

    Only what an object really has counts: a mock has a `func` as it has whatever is asked for, and that has one again.
    """
    while True:
        if isinstance(fn, MethodType):
            fn = fn.__func__
        elif (hasattr(cast("object", type(fn)), "func") or "func" in getattr(fn, "__dict__", ())) and callable(fn.func):
            fn = fn.func
        else:
            return fn


def with_fallback(fn: Callable[..., Any], data: bytes) -> bytes:
    """A function's pickle for a worker that could not load ``data``.

    It takes over our path, then tries again, then reads the function by value. For modules that were still being
    imported at a fork, or that lie on a path added since.
    """
    from fullcourt._transport.by_value import dumps_with_module

    try:
        by_value = dumps_with_module(fn, PROTOCOL)
    except NotCarried:  # with queues in it: the descriptors at hand are those of the pickle by name
        by_value = data
    return pickle.dumps(Fallback(list(sys.path), data, by_value), PROTOCOL)


class Fallback:
    """Pickles as what :func:`load_with_fallback` loads."""

    def __init__(self, path: list[str], by_name: bytes, by_value: bytes) -> None:
        self._args = path, by_name, by_value

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[list[str], bytes, bytes]]:
        return load_with_fallback, self._args


def load_with_fallback(path: list[str], by_name: bytes, by_value: bytes) -> Any:
    import importlib

    sys.path.extend(entry for entry in path if entry not in sys.path)
    importlib.invalidate_caches()
    try:
        return pickle.loads(by_name)
    except (ImportError, AttributeError):
        return pickle.loads(by_value)
