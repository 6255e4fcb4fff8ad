"""Turning objects into bytes and back: pickle first, cloudpickle where it refuses.

Cost: ``pickle.dumps`` of a small call 0.7 us, a search for ``__main__`` in it 0.1 us. cloudpickle costs 50 to 200 us
and is imported when it is first needed.

*By reference or by value.* Pickle sends functions and classes by name. A name in ``__main__`` means nothing in a fresh
interpreter, so what refers to ``__main__`` goes through cloudpickle, by value: that is why a program needs no guard.
Workers forked from this process have its ``__main__`` as it was then; they get names as long as it is unchanged: its
functions and classes, and the plain values (numbers, text) of the globals that a function uses.
"""

from __future__ import annotations

import io
import itertools
import pickle
import sys
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, cast

from fullcourt._core.model import Estimate
from fullcourt.errors import PicklingError, RemoteError, RemoteTraceback

__all__ = ["Codec", "Encoded", "FunctionTable", "dump_exception", "load_exception"]

PROTOCOL = 5
# Smaller buffers are copied into the pickle: a descriptor and a mapping cost about 10 us, as much as copying this.
OUT_OF_BAND_BYTES = 32768

# The table of their lengths, 8 bytes each, must fit in one frame.
MAX_BUFFERS = 4096

Encoded = tuple[bytes, list[pickle.PickleBuffer]]


class Codec:
    """Pickles for one kind of receiver.

    Args:
        shares_main: whether the receiver has this process's ``__main__`` as it is now (it is forked from it).
    """

    def __init__(self, *, shares_main: bool = False) -> None:
        self._main: dict[str, object] | None = None  # the definitions in __main__ that the receiver has
        self._names: frozenset[str] = frozenset()  # all names that it has there
        self._plain: dict[str, object] = {}  # those globals whose values cannot change inside
        if shares_main:
            self.share_main()

    def share_main(self) -> None:
        """From now on the receiver has ``__main__`` as it is at this moment."""
        namespace = vars(sys.modules["__main__"])
        self._main = main_definitions()
        self._names = frozenset(namespace)
        self._plain = {name: value for name, value in list(namespace.items()) if type(value) in SMALL_ATOMS}

    def encode(self, obj: object) -> Encoded:
        """Pickle an object; large buffers inside it (protocol 5) stay out of the stream.

        Raises:
            PicklingError: neither pickle nor cloudpickle can; the message names the attribute that stands in the way.
        """
        buffers: list[pickle.PickleBuffer] = []
        try:
            data = pickle.dumps(obj, PROTOCOL, buffer_callback=buffers.append)
            if b"__main__" not in data or self._shares_main():
                if len(buffers) > MAX_BUFFERS or any(is_small(buffer) for buffer in buffers):
                    buffers = []
                    data = pickle.dumps(obj, PROTOCOL, buffer_callback=keep_large(buffers))
                return data, buffers
        except Exception:  # noqa: BLE001  whatever the user's __reduce__ raised: cloudpickle may know better
            pass
        return self.encode_by_value(obj)

    def encode_by_value(self, obj: object) -> Encoded:
        """As :meth:`encode`, with what belongs to ``__main__`` by value."""
        buffers: list[pickle.PickleBuffer] = []
        try:
            from fullcourt._transport.by_value import dumps

            return dumps(obj, PROTOCOL, keep_large(buffers)), buffers
        except Exception as error:
            where = find_unpicklable(obj)
            message = f"{where} cannot be pickled, so it cannot be sent to another process: {error}"
            raise PicklingError(f"{message}. Leave it out, or make it inside the task.") from error

    def shares_globals(self, fn: FunctionType, seen: set[int] | None = None) -> bool:
        """Whether a function of ``__main__`` would find there what it finds here, as far as can be told cheaply."""
        if self._main is None:
            return False
        seen = {id(fn)} if seen is None else seen
        for name in global_names(fn.__code__):
            if name not in fn.__globals__:
                continue
            value = fn.__globals__[name]
            if name not in self._names or (
                type(value) in SMALL_ATOMS and self._plain.get(name, fn) is not value  # rebound since
            ):
                return False
            if name in self._plain and type(value) not in SMALL_ATOMS:
                return False
            if type(value) is FunctionType and value.__module__ == "__main__" and id(value) not in seen:
                seen.add(id(value))
                if not self.shares_globals(value, seen):
                    return False
        return True

    def _shares_main(self) -> bool:
        """Whether every function and class that ``__main__`` defines now is the one that the receiver has."""
        main = self._main
        if main is None:
            return False
        now = main_definitions()
        return len(now) == len(main) and all(main.get(name) is value for name, value in now.items())


def is_small(buffer: pickle.PickleBuffer) -> bool:
    try:
        with buffer.raw() as raw:
            return raw.nbytes < OUT_OF_BAND_BYTES
    except BufferError:  # not contiguous
        return True


def keep_large(buffers: list[pickle.PickleBuffer]) -> Callable[[pickle.PickleBuffer], bool]:
    """A buffer callback that takes the large ones out of the pickle, and leaves the others in."""

    def keep(buffer: pickle.PickleBuffer) -> bool:
        small = len(buffers) >= MAX_BUFFERS or is_small(buffer)
        if not small:
            buffers.append(buffer)
        return small

    return keep


def main_definitions() -> dict[str, object]:
    """The functions and classes that are defined in ``__main__``, by name."""
    names = vars(sys.modules["__main__"])
    return {
        name: value
        for name, value in list(names.items())
        if isinstance(value, (FunctionType, type)) and getattr(value, "__module__", None) == "__main__"
    }


def decode(data: bytes | memoryview, buffers: list[memoryview] | None = None) -> Any:
    """Read back what :meth:`Codec.encode` wrote."""
    return pickle.loads(data, buffers=buffers)


# -- functions --------------------------------------------------------------------------------------------------------


class Function:
    """A function as it travels: its pickle, and a number under which workers keep it (0: they do not)."""

    __slots__ = ("captured", "data", "estimate", "fell_back", "id", "name", "tried")

    def __init__(
        self, function_id: int, data: bytes, name: str, captured: tuple[object, ...] | None, estimate: Estimate
    ) -> None:
        self.estimate = estimate
        self.fell_back = False  # whether `data` is that of `with_fallback`
        self.tried: set[int] = set()  # workers that were sent that
        self.id = function_id
        self.data = data
        self.name = name
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
        self._unkept: dict[str, Estimate] = {}  # of functions that are pickled at each use, by name
        self._ids = itertools.count(1)

    def get(self, fn: Callable[..., Any]) -> Function:
        """The function's entry. Raises PicklingError. From any thread: at worst a function is numbered twice."""
        if type(fn) not in (FunctionType, BuiltinFunctionType, type) or not isinstance(
            getattr(fn, "__self__", None), (ModuleType, type(None))
        ):  # `prices.get` is a builtin too, and bound
            return self._unnumbered(fn, self._encode(fn))
        known = self._known.get(fn)
        by_value = type(fn) is FunctionType and fn.__module__ == "__main__" and not self._codec.shares_globals(fn)
        if known is not None:
            if known.captured is not None:
                if same(known.captured, captured_by(fn)):
                    return known
            elif not by_value:
                return known
        data = self._encode(fn, by_value=by_value)
        captured: tuple[object, ...] | None = None
        if b"cloudpickle" in data:  # by value: our pickler's functions are made by cloudpickle's
            captured = captured_by(fn)
            if captured is None:
                return self._unnumbered(fn, data)
        if len(self._known) >= self.MAX:
            self._known.pop(next(iter(self._known)), None)
        entry = Function(next(self._ids), data, function_name(fn), captured, Estimate())
        self._known[fn] = entry
        return entry

    def _unnumbered(self, fn: Callable[..., Any], data: bytes) -> Function:
        name = function_name(fn)
        if len(self._unkept) >= self.MAX:
            self._unkept.clear()
        return Function(0, data, name, None, self._unkept.setdefault(name, Estimate()))

    def _encode(self, fn: Callable[..., Any], *, by_value: bool = False) -> bytes:
        data, buffers = self._codec.encode_by_value(fn) if by_value else self._codec.encode(fn)
        if buffers:  # a bound method of something large: functions travel in one piece
            from fullcourt._transport.by_value import dumps

            data = dumps(fn, PROTOCOL)
        return data


# Plain values that are kept to be compared; large texts are not worth keeping.
SMALL_ATOMS = (int, float, complex, str, bool, type(None))
ATOMS = (int, float, complex, str, bytes, bool, type(None), ModuleType, BuiltinFunctionType)


def captured_by(fn: object, seen: set[int] | None = None) -> tuple[object, ...] | None:
    """What a function that travels by value takes along, or None if any of it can change in place."""
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


def global_names(code: CodeType) -> frozenset[str]:
    """As :func:`names_in`, remembered: a code object never changes."""
    known = known_names.get(code)
    if known is None:
        if len(known_names) >= 4096:
            known_names.clear()
        known = known_names[code] = frozenset(names_in(code))
    return known


known_names: dict[CodeType, frozenset[str]] = {}


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


def function_name(fn: Any) -> str:
    """A function's name for messages."""
    name = getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None)
    if name is None:
        inner = getattr(fn, "func", None)  # functools.partial
        name = function_name(inner) if inner is not None else type(fn).__qualname__
    return str(name)


def with_fallback(fn: Callable[..., Any], data: bytes) -> bytes:
    """A function's pickle for a worker that could not load ``data``.

    It takes over our path, then tries again, then reads the function by value. For modules that were still being
    imported at a fork, or that lie on a path added since.
    """
    from fullcourt._transport.by_value import dumps_with_module

    return pickle.dumps(Fallback(list(sys.path), data, dumps_with_module(fn, PROTOCOL)), PROTOCOL)


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


# -- errors -----------------------------------------------------------------------------------------------------------


def find_unpicklable(obj: object, path: str = "", depth: int = 0) -> str:
    """Say which part of an object will not pickle: ``"[0].connection (socket)"``. Only called when pickling failed."""
    from fullcourt._transport.by_value import dumps

    def fails(value: object) -> bool:
        try:
            dumps(value, PROTOCOL)
        except Exception:  # noqa: BLE001
            return True
        return False

    whole: object = obj  # not narrowed by the questions below
    children: list[tuple[str, object]] = []
    if depth < 8:
        if isinstance(obj, dict):
            pairs = cast("dict[object, object]", obj).items()
            children = [(f"{path}[{short(key)}]", value) for key, value in list(pairs)[:1000]]
        elif isinstance(obj, (list, tuple, set, frozenset)):
            values = list(cast("Iterable[object]", obj))[:1000]
            children = [(f"{path}[{i}]", value) for i, value in enumerate(values)]
        elif isinstance(obj, FunctionType):
            cells = zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=False)
            children = [(f"{path}{obj.__qualname__}'s {name}", c.cell_contents) for name, c in cells if c != CellType()]
            used = [name for name in names_in(obj.__code__) if name in obj.__globals__]
            children += [(f"{path}{obj.__qualname__}'s global {name}", obj.__globals__[name]) for name in used]
        elif isinstance(obj, MethodType):
            children = [(f"{path}.__self__", obj.__self__)]
        elif isinstance(getattr(obj, "__dict__", None), dict) and not isinstance(obj, (type, ModuleType)):
            children = [(f"{path}.{name}", value) for name, value in vars(obj).items()]
    for name, value in children:
        if value is not whole and fails(value):
            return find_unpicklable(value, name, depth + 1)
    kind = type_name(whole)
    return f"{path or 'it'} (of type {kind})"


def short(key: object) -> str:
    try:
        return f"{key!r:.40}"
    except Exception:  # noqa: BLE001  it is the user's
        return "..."


def type_name(obj: object) -> str:
    kind: type[Any] = type(obj)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def dump_exception(error: BaseException, text: str, codec: Codec) -> bytes:
    """Pickle an exception so that it surely loads: as itself, as its type with its plain parts, or as a stand-in."""
    for candidate in (error, Rebuilt(error), Rebuilt(error, plain=True)):
        try:
            data, buffers = codec.encode((candidate, text))
            if buffers:
                from fullcourt._transport.by_value import dumps

                data = dumps((candidate, text), PROTOCOL)
            loaded = pickle.loads(data)[0]
            if type(loaded) is type(error) and (candidate is not error or loaded.args == error.args):
                return data
        except BaseException:  # noqa: BLE001, S112  a two-argument __init__, a lock in an attribute, a hostile __reduce__
            continue
    kind = type_name(error)
    try:
        message = str(error)
    except Exception:  # noqa: BLE001
        message = "(its text cannot be had)"
    return pickle.dumps((RemoteError(f"{kind}: {message}", kind), text), PROTOCOL)


class Rebuilt:
    """Pickles an exception by its type, arguments and attributes, not by calling its ``__init__`` again."""

    def __init__(self, error: BaseException, *, plain: bool = False) -> None:
        self._error = error
        self._plain = plain

    def __reduce__(self) -> tuple[object, ...]:
        error = self._error
        args: tuple[object, ...] = error.args
        state = dict(vars(error)) if hasattr(error, "__dict__") else {}
        if self._plain:
            args = tuple(plain(arg) for arg in args)
            state = {name: plain(value) for name, value in state.items()}
        return rebuild, (type(error), args, state)


def rebuild(kind: type[BaseException], args: tuple[object, ...], state: dict[str, object]) -> BaseException:
    error = kind.__new__(kind, *args)
    BaseException.__setattr__(error, "args", args)  # the class may be frozen
    error.__dict__.update(state)
    return error


def plain(value: object) -> object:
    """The value if it can be pickled and read back, else its repr."""
    try:
        data = pickle.dumps(value, PROTOCOL)
        pickle.loads(data)
    except Exception:  # noqa: BLE001
        return repr(value)
    return value


def load_exception(data: bytes | memoryview) -> BaseException:
    """Read back an exception, with its remote traceback as its cause."""
    try:
        error, text = pickle.loads(data)
    except Exception as problem:  # noqa: BLE001  it loaded in the worker; here its module may be missing
        return RemoteError(f"the task failed, and its exception could not be read here: {problem!r}", "?")
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(text))  # the class may be frozen
    return error  # type: ignore[no-any-return]


def format_remote(error: BaseException) -> str:
    """The traceback of an exception, without the worker's own frame at its head, as text."""
    import traceback

    tb = error.__traceback__
    while (
        tb is not None
        and "fullcourt" in tb.tb_frame.f_code.co_filename
        and "_engines" in tb.tb_frame.f_code.co_filename
    ):
        tb = tb.tb_next
    out = io.StringIO()
    traceback.print_exception(type(error), error, tb, file=out)
    return out.getvalue()
