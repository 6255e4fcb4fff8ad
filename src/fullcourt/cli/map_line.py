"""The worker's side of `fullcourt map`: one line of input to one finished line of output.

The worker makes the whole JSON line, so that the caller's process, of which there is only one, has nothing to do but
write it.
"""

from __future__ import annotations

import difflib
import importlib
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "FunctionError",
    "ItemFailed",
    "LineTask",
    "current_folder",
    "decode_item",
    "error_line",
    "error_text",
    "find_function",
    "shown",
    "worker_json",
]


class FunctionError(Exception):
    """There is no such module or function; the text is one line for the user."""


class ItemFailed(Exception):
    """An item failed, and may be tried again: the line of output that tells of it, and the error in it."""

    def __init__(self, line: bytes, error: str) -> None:
        super().__init__(line, error)
        self.answer = line, error


class LineTask:
    """Calls a function with a line and returns a line.

    It travels as three short values, and finds the function anew in each worker: what a module holds under a dotted
    name need not be picklable.

    Args:
        spec: `MODULE:FUNCTION`, the function with dots where it lies deeper.
        as_json: Whether each line is JSON, and its value the argument.
        folder: Put in front of `sys.path` before the import.
        raises: Raise `ItemFailed` where the function raised, so that the pool tries the item again.
    """

    def __init__(self, spec: str, *, as_json: bool, folder: str, raises: bool = False) -> None:
        self._state = (spec, as_json, folder, raises)
        self.__qualname__ = spec.partition(":")[2]  # what errors call it
        self._fn: Callable[[Any], object] | None = None
        self._thread = threading.local()

    def __reduce__(self) -> tuple[object, ...]:
        return _line_task, self._state

    def __call__(self, line: bytes) -> bytes | tuple[bytes, str]:
        """Return the line of output, and with it, if the item failed, the error.

        Two shapes, because the first one is the rule, and a bare `bytes` is cheaper to send than anything around it.
        """
        spec, as_json, folder, raises = self._state
        fn = self._fn
        if fn is None:
            fn = self._fn = find_function(spec, folder)
        try:
            worker: str = self._thread.worker
        except AttributeError:
            worker = self._thread.worker = worker_json(os.getpid(), threading.current_thread().name)
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            return _failed(shown(line), f"not UTF-8: {error}", None, worker)
        item: object = text
        if as_json:
            try:
                item = _decode(text)
            except (ValueError, RecursionError) as error:
                return _failed(text, f"not JSON: {error}", None, worker)
            shown_input = text.strip()
        else:
            shown_input = _encode(text)
        started = time.perf_counter()
        try:
            result = fn(item)
        except (Exception, SystemExit) as error:
            seconds = time.perf_counter() - started
            answer = _failed(shown_input, error_text(error), seconds, worker, encoded=True)
            if raises:
                raise ItemFailed(*answer) from error
            return answer
        seconds = time.perf_counter() - started
        try:
            encoded = _encode(result)
        except (TypeError, ValueError, RecursionError) as error:
            return _failed(shown_input, f"result is not JSON: {error}", seconds, worker, encoded=True)
        head = f'{{"input": {shown_input}, "result": '
        tail = f', "seconds": {seconds:.6g}, "worker": {worker}}}\n'
        try:
            return f"{head}{encoded}{tail}".encode()
        except (
            UnicodeEncodeError
        ):  # half a surrogate pair, as in the name of a file that is not UTF-8: JSON can escape it
            return f"{head}{_encode_ascii(result)}{tail}".encode()


def _encode(value: object) -> str:
    """Return `value` as JSON; whole numbers without the encoder, which makes an iterator for them."""
    return int.__repr__(value) if type(value) is int else _encode_any(value)


def current_folder() -> str:
    """Return the folder where modules are looked for first.

    Raises:
        FunctionError: It has been removed.
    """
    try:
        return os.getcwd()
    except OSError as error:
        raise FunctionError(f"the current folder, where modules are looked for, is gone: {error.strerror}") from None


def find_function(spec: str, folder: str) -> Callable[[Any], object]:
    """Import and return the function that `MODULE:FUNCTION` names.

    Raises:
        FunctionError: It cannot be had; the message says why.
    """
    module_name, colon, path = spec.partition(":")
    if not (module_name and colon and path) or ":" in path:
        raise FunctionError(f"{spec!r} is not of the form MODULE:FUNCTION, such as math:sqrt")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the module does when it is imported, sys.exit() too
        raise FunctionError(f"cannot import {module_name!r}: {error_text(error)}") from error
    at = module_name
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, dir(found), 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise FunctionError(f"{at!r} has no {part!r}{hint}") from None
        at = f"{at}.{part}"
    if not callable(found):
        raise FunctionError(f"{spec!r} is a {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


def decode_item(line: bytes, *, as_json: bool) -> object:
    """What the function gets for a line. Raises ValueError or RecursionError: it is not UTF-8, or not JSON."""
    text = line.decode("utf-8")
    return _decode(text) if as_json else text


def error_line(line: bytes, as_json: bool, error: str, worker: str) -> bytes:
    """Return the line of output for an item whose worker could not make one itself."""
    text = shown(line)
    if as_json:
        try:
            _decode(text)
        except (ValueError, RecursionError):
            pass
        else:
            return _failed(text.strip(), error, None, worker, encoded=True)[0]
    return _failed(text, error, None, worker)[0]


def error_text(error: BaseException) -> str:
    """Return an exception as one line: its type, and what it says."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - an exception whose own text fails
        said = ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def shown(line: bytes) -> str:
    """Return a line as text, whatever bytes it has."""
    return line.decode("utf-8", "backslashreplace")


def worker_json(pid: int | None, thread: str | None) -> str:
    """Return who did it, as JSON."""
    return json.dumps({"pid": pid, "thread": thread})


def _failed(
    shown_input: str, error: str, seconds: float | None, worker: str, *, encoded: bool = False
) -> tuple[bytes, str]:
    head = shown_input if encoded else _encode_ascii(shown_input)
    took = "null" if seconds is None else f"{seconds:.6g}"
    line = f'{{"input": {head}, "error": {_encode_ascii(error)}, "seconds": {took}, "worker": {worker}}}\n'
    return line.encode(), error


def _line_task(spec: str, as_json: bool, folder: str, raises: bool) -> LineTask:
    return LineTask(spec, as_json=as_json, folder=folder, raises=raises)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not in JSON")


_decode: Callable[[str], object] = json.JSONDecoder(parse_constant=_no_constant).decode
# Letters stay readable, and NaN, which is not in JSON, is an error.
_encode_any: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_encode_ascii: Callable[[object], str] = json.JSONEncoder(allow_nan=False).encode
