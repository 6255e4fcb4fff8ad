"""How a task's exception travels: as itself where that is possible, with the worker's traceback as text."""

from __future__ import annotations

import contextlib
import io
import os
import pickle

from fullcourt._transport.codec import PROTOCOL, Codec, type_name
from fullcourt.errors import RemoteError, RemoteTraceback

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

__all__ = [
    "ARGUMENTS_UNREADABLE",
    "FUNCTION_UNREADABLE",
    "RESULT_UNREADABLE",
    "add_note",
    "dump_exception",
    "format_remote",
    "load_exception",
    "sound",
]

# Notes on exceptions that are not the task's own, but of what was to be read for it.
ARGUMENTS_UNREADABLE = "fullcourt: the arguments could not be loaded in the worker"
FUNCTION_UNREADABLE = "fullcourt: the function could not be loaded in the worker"
RESULT_UNREADABLE = "fullcourt: the task ran, but its result could not be read back in this process"

# The folders of those who call the user's function.
OURS = tuple(os.path.join("fullcourt", folder, "") for folder in ("_engines", "process"))


# Past what a class has put in their place.
TRACEBACK: Any = BaseException.__dict__["__traceback__"]
CAUSE: Any = BaseException.__dict__["__cause__"]


def dump_exception(error: BaseException, text: str, codec: Codec) -> bytes:
    """Pickle an exception so that it surely loads: as itself, as its type with its plain parts, or as a stand-in."""
    for candidate in (error, Rebuilt(error), Rebuilt(error, plain=True)):
        try:
            data, buffers = codec.encode((candidate, text))
            if buffers:
                from fullcourt._transport.by_value import dumps

                data = dumps((candidate, text), PROTOCOL)
            loaded = pickle.loads(data)[0]
            is_whole = type(loaded) is type(error) and (candidate is not error or loaded.args == error.args)
            if is_whole and is_sound(loaded):
                return data
        except BaseException:  # noqa: BLE001, S112  a two-argument __init__, a lock in an attribute, a hostile __reduce__
            continue
    return pickle.dumps((stand_in(error), text), PROTOCOL)


def stand_in(error: BaseException) -> RemoteError:
    """What the caller gets for an exception that cannot be brought to him."""
    kind = type_name(error)
    try:
        message = str(error)
    except BaseException:  # noqa: BLE001  a hostile __str__
        message = "(its text cannot be had)"
    return RemoteError(f"{kind}: {message}", kind)


def is_sound(error: BaseException) -> bool:
    """Whether an exception can be asked for what any has: its class may have put whatever in the place of that."""
    try:
        for name in ("__class__", "__cause__", "__context__", "__traceback__", "args"):
            getattr(error, name)
    except BaseException:  # noqa: BLE001
        return False
    return True


def sound(error: BaseException) -> BaseException:
    """An exception that was raised in this process, or a stand-in that has its traceback."""
    return error if is_sound(error) else stand_in(error).with_traceback(TRACEBACK.__get__(error))


def add_note(error: BaseException, note: str) -> None:
    """Add a note, if the exception's class allows that; it is the user's in either case."""
    with contextlib.suppress(Exception):
        error.add_note(note)


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
    if text:  # else it comes from the pool itself
        CAUSE.__set__(error, RemoteTraceback(text))  # the class may be frozen
    return error  # type: ignore[no-any-return]


def format_remote(error: BaseException) -> str:
    """The traceback of an exception, without the worker's own frame at its head, as text."""
    import traceback

    tb: TracebackType | None = TRACEBACK.__get__(error)
    while tb is not None and any(ours in tb.tb_frame.f_code.co_filename for ours in OURS):
        tb = tb.tb_next
    out = io.StringIO()
    try:
        traceback.print_exception(type(error), error, tb, file=out)
    except BaseException:  # noqa: BLE001  its class has a hostile __bool__ or __cause__
        out = io.StringIO("Traceback (most recent call last):\n")
        out.seek(0, io.SEEK_END)
        try:
            traceback.print_tb(tb, file=out)
        except Exception:  # noqa: BLE001  the lines of the source cannot be read: no descriptor is left
            while tb is not None:
                code = tb.tb_frame.f_code
                out.write(f'  File "{code.co_filename}", line {tb.tb_lineno}, in {code.co_name}\n')
                tb = tb.tb_next
        out.write(f"{type_name(error)}\n")
    return out.getvalue()
