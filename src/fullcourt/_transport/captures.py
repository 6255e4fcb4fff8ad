"""What a function takes along when it travels by value: the names and values that it captured."""

from __future__ import annotations

import functools
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

__all__ = ["SMALL_ATOMS", "Cached", "captured_by", "global_names", "is_importable", "plain_function", "same"]

Cached: type[Any] = functools._lru_cache_wrapper  # what `functools.lru_cache` and `functools.cache` make of a function

# Plain values that are kept to be compared; large texts are not worth keeping.
SMALL_ATOMS = (int, float, complex, str, bool, type(None))

ATOMS = (int, float, complex, str, bytes, bool, type(None), ModuleType, BuiltinFunctionType)


def plain_function(fn: Any) -> Any:
    """The function that a cache is around, or what was given."""
    return getattr(fn, "__wrapped__", fn) if type(fn) is Cached else fn


def captured_by(fn: object, seen: set[int] | None = None) -> tuple[object, ...] | None:
    """What a function that travels by value takes along, or None if any of it can change in place."""
    fn = plain_function(fn)
    if not isinstance(fn, FunctionType) or fn.__dict__ or fn.__kwdefaults__:
        return None
    seen = {id(fn)} if seen is None else seen
    found: list[object] = [fn.__code__]
    values: list[object] = list(fn.__defaults__ or ())
    for cell in fn.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:
            return None
    values.extend(fn.__globals__[name] for name in names_in(fn.__code__) if name in fn.__globals__)
    for value in values:
        if type(value) is Cached:
            found.append(value)
            value = plain_function(value)
        if type(value) in ATOMS:
            found.append(value)
        elif isinstance(value, FunctionType) and id(value) in seen:
            continue
        elif isinstance(value, FunctionType) and value.__module__ != "__main__" and is_importable(value):
            found.append(value)
        elif isinstance(value, FunctionType):
            seen.add(id(value))
            inner = captured_by(value, seen)
            if inner is None:
                return None
            found.append(value)
            found.extend(inner)
        elif isinstance(value, type) and value.__module__ != "__main__" and is_importable(value):
            found.append(value)
        else:
            return None
    return tuple(found)


known_names: dict[CodeType, frozenset[str]] = {}


def global_names(code: CodeType) -> frozenset[str]:
    """As :func:`names_in`, remembered: a code object never changes."""
    known = known_names.get(code)
    if known is None:
        if len(known_names) >= 4096:
            known_names.clear()
        known = known_names[code] = frozenset(names_in(code))
    return known


def names_in(code: Any) -> set[str]:
    """All global names that a code object and those inside it may use."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            names |= names_in(constant)
    return names


def is_importable(obj: Any) -> bool:
    """Whether pickle can send this function or class by name."""
    module = sys.modules.get(obj.__module__)
    return getattr(module, obj.__qualname__, None) is obj


def same(old: tuple[object, ...], new: tuple[object, ...] | None) -> bool:
    return new is not None and len(old) == len(new) and all(a is b for a, b in zip(old, new, strict=True))
