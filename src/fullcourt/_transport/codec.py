"""Turning objects into bytes and back: pickle first, cloudpickle where it refuses.

Cost: ``pickle.dumps`` of a small call 0.7 us, to see that it names nothing 0.04 us. cloudpickle costs 50 to 200 us
and is imported when it is first needed.

*By reference or by value.* Pickle sends functions and classes by name. A name in ``__main__`` means nothing in a fresh
interpreter, so what refers to ``__main__`` goes through cloudpickle, by value: that is why a program needs no guard.
Workers forked from this process have its ``__main__`` as it was then; they get names as long as it is unchanged: its
functions and classes, and the plain values (numbers, text) of the globals that a function uses.

What cannot go by value (it uses a global lock, say) goes by name after all, where the receiver has the name: in a fork,
or in a fresh interpreter that runs the program's file; see :mod:`mainspace`.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import CellType, FunctionType, MethodType, ModuleType

from fullcourt._transport.captures import SMALL_ATOMS, Cached, global_names, plain_function
from fullcourt._transport.carried import Descriptor, NotCarried, Rights, arriving, collecting
from fullcourt._transport.inheritance import sharing
from fullcourt._transport.mainspace import InMain, main_source
from fullcourt.errors import PicklingError

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

    Reducers = Mapping[type, Callable[[Any], Any]]

__all__ = ["STACK_GLOBAL", "Buffers", "Codec", "Encoded", "MainAsItIs", "decode"]

PROTOCOL = 5

# Smaller buffers are copied into the pickle: a descriptor and a mapping cost about 10 us, as much as copying this.
OUT_OF_BAND_BYTES = 32768

# The table of their lengths, 8 bytes each, must fit in one frame.
MAX_BUFFERS = 4096

# The only opcode by which a pickle names a class or a function. Where this byte is not, no names need be searched for:
# to look for a byte costs 0.04 us, for a word 0.35.
STACK_GLOBAL = 0x93

# Plain pickle takes a connection for its descriptor's number, which means nothing elsewhere.
CONNECTION = b"multiprocessing.connection"

# What the pickler writes by itself, without asking anybody: nothing of `__main__` can be in there, nor any buffer.
ATOMS = frozenset((type(None), bool, int, float, str, bytes))

Encoded = tuple[bytes, list[pickle.PickleBuffer]]


class Buffers(list[pickle.PickleBuffer]):
    """The out-of-band buffers of what holds descriptors, with these."""

    rights: Rights | None = None  # the payload's
    function_rights: Rights | None = None

    def __bool__(self) -> bool:
        """There is more than a pickle, also without buffers."""
        return True


class Codec:
    """Pickles for one kind of receiver.

    Args:
        shares_main: whether the receiver has this process's ``__main__`` as it is now (it is forked from it).
        runs_main: whether the receiver may run the program's file for its definitions.
        carries: whether descriptors can go along.
    """

    def __init__(self, *, shares_main: bool = False, runs_main: bool = False, carries: bool = True) -> None:
        self.carries = carries
        self._runs_main = runs_main
        self._main: dict[str, object] | None = None  # what the receiver has of __main__: see `MainAsItIs`
        self._names: frozenset[str] = frozenset()
        self._plain: dict[str, object] = {}
        # Whether something of __main__ has gone by name although it is not surely the same there. From then on all does
        # that can, so that classes are one and the same.
        self._by_name = False
        # How some types are pickled, for whoever knows better (as a pickler's dispatch_table); None: as ever.
        self.reducers: Reducers | None = None
        if shares_main:
            self.share_main()

    def let_go(self) -> None:
        """Hold nothing of ``__main__``: nothing more is sent."""
        self._main, self._names, self._plain = None, frozenset(), {}

    def share_main(self, main: MainAsItIs | None = None) -> None:
        """From now on the receiver has ``__main__`` as it was then, or is at this moment."""
        main = main or MainAsItIs()
        self._main, self._names, self._plain = main.definitions, main.names, main.plain

    def encode(self, obj: object) -> Encoded:
        """Pickle an object; large buffers inside it (protocol 5) stay out of the stream.

        Raises:
            PicklingError: neither pickle nor cloudpickle can; the message names the attribute that stands in the way.
        """
        if type(obj) in ATOMS:
            return pickle.dumps(obj, PROTOCOL), []
        buffers: list[pickle.PickleBuffer] = []
        try:
            if self.reducers is None:
                data = pickle.dumps(obj, PROTOCOL, buffer_callback=keep_large(buffers))
            else:
                data = self._dumps(obj, keep_large(buffers))
            if STACK_GLOBAL not in data or (
                (b"__main__" not in data or self._shares_main()) and CONNECTION not in data
            ):
                return data, buffers
            if self._by_name:
                named = self._encode_by_name(obj, "")
                if named is not None:
                    return named
        except NotCarried:
            return self._encode_carried(self.encode, obj)
        except Exception:  # noqa: BLE001  whatever the user's __reduce__ raised: cloudpickle may know better
            pass
        return self.encode_by_value(obj)

    def encode_items(self, items: Sequence[Any]) -> Encoded:
        """:meth:`encode` for items that are pickled when a worker is free, in whichever thread finds that.

        There nothing but Ctrl-C may pass: what a `__reduce__` raises, even SystemExit, concerns these items alone.
        """
        try:
            return self.encode(items)
        except PicklingError:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            raise PicklingError(f"an item cannot be sent to another process: its pickling raised {error!r}") from error

    def _encode_carried(self, encode: Callable[[object], Encoded], obj: object) -> Encoded:
        """As `encode`, with the descriptors that the object holds."""
        if not self.carries:
            raise NotCarried(
                "queues, pipes and locks cannot be sent to this worker: its link carries no file descriptors. Use "
                "threads=, or on Linux leave FULLCOURT_TRANSPORT unset."
            )
        with collecting() as rights:
            data, buffers = encode(obj)
        carried = Buffers(buffers)
        carried.rights = rights
        return data, carried

    def _dumps(self, obj: object, buffer_callback: Callable[[pickle.PickleBuffer], object]) -> bytes:
        if self.reducers is None:
            return pickle.dumps(obj, PROTOCOL, buffer_callback=buffer_callback)
        with io.BytesIO() as file:
            pickler = pickle.Pickler(file, PROTOCOL, buffer_callback=buffer_callback)
            pickler.dispatch_table = self.reducers
            pickler.dump(obj)
            return file.getvalue()

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
        """:meth:`encode` for a call's arguments, which are plain numbers and text as a rule."""
        if kwargs:
            return self.encode((args, kwargs))
        for arg in args:
            if type(arg) not in ATOMS:
                return self.encode((args, kwargs))
        return pickle.dumps((args, kwargs), PROTOCOL), []

    def encode_by_value(self, obj: object) -> Encoded:
        """As :meth:`encode`, with what belongs to ``__main__`` by value."""
        buffers: list[pickle.PickleBuffer] = []
        try:
            from fullcourt._transport.by_value import dumps

            with sharing(Descriptor.give if self.carries else None):
                return dumps(obj, PROTOCOL, keep_large(buffers), self.reducers), buffers
        except NotCarried:
            return self._encode_carried(self.encode_by_value, obj)
        except Exception as error:
            where = find_unpicklable(obj)
            problem = str(error) or repr(error)
            message = f"{where} cannot be pickled, so it cannot be sent to another process: {problem}"
            named = self._encode_by_name(obj, message)
            if named is not None:
                return named
            raise PicklingError(f"{message}. Leave it out, or make it inside the task.") from error

    def _encode_by_name(self, obj: object, why: str) -> Encoded | None:
        """As the standard library sends it, for a receiver that has the names or can make them. None: it cannot.

        A forked receiver has what ``__main__`` defined at the fork; what came since it lacks, and says so.
        """
        source = None
        if self._main is not None:
            now = main_definitions()
            if any(self._main.get(name) is not now[name] for name in now if now[name].__qualname__ == name):
                return None
        else:
            source = main_source() if self._runs_main else None
            if source is None:
                return None
        try:
            data = pickle.dumps(obj, PROTOCOL)
        except Exception:  # noqa: BLE001  it is local, or has no plain pickle
            return None
        if b"__main__" not in data or CONNECTION in data:
            return None
        self._by_name = True
        return (data, []) if source is None else (pickle.dumps(InMain(source, why, data), PROTOCOL), [])

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
            value = plain_function(value)
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


class MainAsItIs:
    """What a process that is forked now has of ``__main__``.

    Attributes:
        definitions: the functions and classes that are defined there.
        names: all names that it has.
        plain: those globals whose values cannot change inside.
    """

    def __init__(self) -> None:
        namespace = vars(sys.modules["__main__"])
        self.definitions = main_definitions()
        self.names = frozenset(namespace)
        self.plain = {name: value for name, value in list(namespace.items()) if type(value) in SMALL_ATOMS}


def main_definitions() -> dict[str, Any]:
    """The functions and classes that are defined in ``__main__``, by name."""
    names = vars(sys.modules["__main__"])
    return {
        name: value
        for name, value in list(names.items())
        if isinstance(value, (FunctionType, type, Cached)) and getattr(value, "__module__", None) == "__main__"
    }


def decode(
    data: bytes | memoryview, buffers: list[memoryview] | None = None, descriptors: Sequence[int] | None = None
) -> Any:
    """Read back what :meth:`Codec.encode` wrote."""
    if descriptors is None:
        return pickle.loads(data, buffers=buffers)
    with arriving(descriptors):
        return pickle.loads(data, buffers=buffers)


def find_unpicklable(obj: object, path: str = "", depth: int = 0) -> str:
    """Say which part of an object will not pickle: ``"[0].connection (socket)"``. Only called when pickling failed."""
    from fullcourt._transport.by_value import dumps

    def fails(value: object) -> bool:
        try:
            dumps(value, PROTOCOL)
        except Exception:  # noqa: BLE001
            return True
        return False

    whole: Any = obj  # not narrowed by the questions below
    children: list[tuple[str, object]] = []
    if depth < 8:
        if isinstance(obj, dict):
            pairs = whole.items()
            children = [(f"{path}[{short(key)}]", value) for key, value in list(pairs)[:1000]]
        elif isinstance(obj, (list, tuple, set, frozenset)):
            values = list(whole)[:1000]
            children = [(f"{path}[{i}]", value) for i, value in enumerate(values)]
        elif isinstance(obj, FunctionType):
            cells = zip(obj.__code__.co_freevars, obj.__closure__ or (), strict=False)
            children = [(f"{path}{obj.__qualname__}'s {name}", c.cell_contents) for name, c in cells if c != CellType()]
            used = [name for name in global_names(obj.__code__) if name in obj.__globals__]
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
