"""What workers print, log and warn of, as it reaches the program: its streams, its handlers, its filters.

The pool's side; the worker's is :mod:`forwarding`. Whoever drives the pool delivers, before it takes in the results
that the worker sent afterwards: so when a task's result is seen, all that the task printed has been written.

What the program wants to have (levels of loggers, filters of warnings) is told to the workers at their start, so that
they need not send what would be dropped here, and again before the next task when it has changed. Looking whether it
has costs 0.2 us for each frame sent.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import pickle
import sys
import traceback
import warnings
from typing import Any, TextIO, cast

from fullcourt._engines.output_settings import OUT, OutputSettings, filters_of_context, is_real
from fullcourt._os.locks import make_lock
from fullcourt._transport import frames
from fullcourt._transport.remote_errors import load_exception

__all__ = ["Output"]


class Output:
    """Delivers what workers say. ``look`` from any thread; ``deliver`` from the one that drives.

    Args:
        tagged: put the worker's name before each line.
    """

    def __init__(self, *, tagged: bool) -> None:
        self._tagged = tagged
        self._lock = make_lock()  # protects the settings and their version; held while they are read anew
        self.version = 0
        self._seen: tuple[list[Any], int, Any] = ([], -1, None)
        self._n_handlers = -1
        self.settings: OutputSettings = OutputSettings({}, frozenset(), 0, (), (False, False))
        self._registries: dict[str, dict[Any, Any]] = {}  # of warnings whose module is not known here

    # -- what the program wants ------------------------------------------------------------------------------------

    def look(self) -> int:
        """The version of the settings as they are now.

        A change of any logger's level, or of ``logging.disable``, empties the root's cache of levels; a change of the
        filters replaces their list, or changes its length or its first.
        """
        filters: Any = warnings.filters if filters_of_context is None else filters_of_context()
        seen, n_filters, first = self._seen
        root = logging.root
        if (
            filters is seen
            and len(filters) == n_filters
            and (not filters or filters[0] is first)
            and len(root.handlers) == self._n_handlers
            and root._cache  # type: ignore[attr-defined]
        ):
            return self.version
        with self._lock:
            # First what tells of changes, then what may change: so none goes unseen.
            root.isEnabledFor(logging.CRITICAL)
            self._seen = (filters, len(filters), filters[0] if filters else None)
            self._n_handlers = len(root.handlers)
            settings = read_settings(filters)
            if not settings.want_as(self.settings):
                settings.version = self.version + 1
                self.settings = settings  # before its version, by which others tell that it has changed
                self.version += 1
            return self.version

    # -- delivering ------------------------------------------------------------------------------------------------

    def deliver(self, handle: Any, kind: int, number: int, flush: bool, payload: bytes | memoryview) -> None:
        """Write, log or warn. What goes wrong in the user's streams, handlers and filters is shown, not raised.

        Raises:
            KeyboardInterrupt: only that; a stream may be blocked.
        """
        try:
            if kind == frames.OUTPUT:
                self._write(handle, number, str(payload, "utf-8", "surrogatepass"), flush)
            elif kind == frames.LOG:
                log(payload)
            else:
                self._warn(handle, payload)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001  a handler that exits must not end the thread that drives
            with contextlib.suppress(Exception):
                traceback.print_exc()

    def _write(self, handle: Any, number: int, text: str, flush: bool) -> None:
        if self._tagged and text:
            lines = text.splitlines(keepends=True)
            tag = f"[{handle.name}] "
            first = "" if number in handle.mid_line else tag
            text = first + tag.join(lines)
            (handle.mid_line.discard if text.endswith("\n") else handle.mid_line.add)(number)
        streams = (sys.stdout, sys.__stdout__) if number == OUT else (sys.stderr, sys.__stderr__)
        for stream in streams:
            if stream is None:
                continue
            try:
                write_text(stream, text)
                if flush:
                    stream.flush()
            except Exception:  # noqa: BLE001, S112  closed, or a broken pipe: the program's own prints will say so
                continue
            return

    def _warn(self, handle: Any, payload: bytes | memoryview) -> None:
        packed, category_name, text, filename, lineno, module = pickle.loads(payload)
        try:
            message: Any = pickle.loads(packed)
        except Exception:  # noqa: BLE001  its class is not known here
            message = getattr(builtins, category_name)(text)
        with contextlib.suppress(Exception):
            message.add_note(f"fullcourt: in worker {handle.name}, pid {handle.pid}")
        known = sys.modules.get(module)
        if known is not None and module != "__main__" and getattr(known, "__file__", None) == filename:
            registry = vars(known).setdefault("__warningregistry__", {})
        else:
            registry = self._registries.setdefault(filename, {})
        try:
            warnings.warn_explicit(message, cast("Any", type(message)), filename, lineno, module, registry)
        except Warning:  # a filter became "error" while the task ran: there is nobody to raise it to
            warnings.showwarning(message, cast("Any", type(message)), filename, lineno)


def read_settings(filters: list[Any]) -> OutputSettings:
    """The settings as they are now."""
    manager = logging.root.manager
    loggers = {name: logger for name, logger in list(manager.loggerDict.items()) if isinstance(logger, logging.Logger)}
    loggers[""] = logging.root
    return OutputSettings(
        {name: logger.level for name, logger in loggers.items() if logger.level or not name},
        frozenset(name for name, logger in loggers.items() if any(map(is_real, logger.handlers))),
        manager.disable,
        tuple(pickled for item in list(filters) if (pickled := pickle_filter(item)) is not None),
        (is_terminal(sys.stdout), is_terminal(sys.stderr)),
    )


def is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except Exception:  # noqa: BLE001  closed, or not quite a stream
        return False


def pickle_filter(item: Any) -> bytes | None:
    try:
        return pickle.dumps(item)
    except Exception:  # noqa: BLE001  a category that is defined inside of a function: workers do without
        return None


def write_text(stream: TextIO, text: str) -> None:
    """Write text that may hold what the stream cannot: bytes that were no UTF-8, characters beyond its encoding."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        buffer = getattr(stream, "buffer", None)
        try:
            data = text.encode(encoding, "surrogateescape")
        except UnicodeEncodeError:
            data = text.encode(encoding, "backslashreplace")
        if buffer is None:
            stream.write(data.decode(encoding, "backslashreplace"))
        else:
            stream.flush()
            buffer.write(data)


def log(payload: bytes | memoryview) -> None:
    """Give a worker's record to the loggers here, if they want it."""
    plain, others, error = pickle.loads(payload)
    for name, (packed, text) in others.items():
        try:
            plain[name] = pickle.loads(packed)
        except Exception:  # noqa: BLE001  it cannot be had here, or could not even be pickled there
            plain[name] = text
    record = logging.makeLogRecord(plain)
    if error is not None:
        problem = load_exception(error)
        record.exc_info = (type(problem), problem, problem.__traceback__)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
