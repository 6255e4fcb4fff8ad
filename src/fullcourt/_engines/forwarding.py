"""What tasks print, log and warn of goes to the pool's program. The worker's side; the pool's is :mod:`output`.

It travels over the worker's link, each line when it ends, ahead of the task's result. A task that prints nothing costs
nothing but one look for each answer; a line costs one frame, about 6 us here and as much in the pool. When the program
is slower than the tasks that print, these wait: nothing piles up.

Output that does not come from Python's ``sys.stdout`` and ``sys.stderr`` (C code, programs that a task starts,
children that it forks) goes to the descriptors that the worker inherited, as ever.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import logging
import os
import pickle
import sys
import threading
import warnings
from typing import Any, NoReturn, TextIO, cast

from fullcourt._engines.output import ERR, OUT, OutputSettings, get_filters, is_real
from fullcourt._transport import frames
from fullcourt._transport.codec import PROTOCOL, Codec
from fullcourt._transport.frames import MAX_INLINE
from fullcourt._transport.remote_errors import dump_exception

__all__ = ["Forwarder"]

# A character is at most four bytes of UTF-8.
PIECE = MAX_INLINE // 4
# The attribute that marks a record which was sent: it may pass several loggers with handlers on its way up.
SENT = "_fullcourt_sent"
ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes))


class Forwarder:
    """Takes the place of this process's (or interpreter's) streams, log handlers and the showing of warnings.

    What user code sets up afterwards, in the initializer or in tasks, comes before it as it would without it.
    """

    def __init__(self, end: Any, codec: Codec, name: str, settings: OutputSettings) -> None:
        self._end = end
        self._codec = codec
        self.name = name
        self.pid = os.getpid()
        self.active = True
        self._settings: OutputSettings | None = None
        self._filters: list[Any] | None = None  # as they were set here last
        self._originals: list[TextIO] = []
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if stream is not None and not any(stream is known for known in self._originals):
                self._originals.append(stream)
        self.slots: set[int] = set()  # the threads that run tasks
        self._saved = (sys.stdout, sys.stderr, warnings.showwarning, logging.lastResort)
        self._out = sys.stdout = cast("Any", ForwardedStream(self, OUT, sys.stdout))
        self._err = sys.stderr = cast("Any", ForwardedStream(self, ERR, sys.stderr))
        self._handler = ForwardingHandler(self)
        self._inherited = take_handlers()
        warnings.showwarning = self._show_warning
        self.apply(settings)

    # -- sending ---------------------------------------------------------------------------------------------------

    def say(self, kind: int, number: int, flush: bool, payload: bytes, buffers: list[Any] | None = None) -> None:
        """Send something. Waits while the pool is behind. That the pool is gone is noticed elsewhere."""
        with contextlib.suppress(OSError):
            self._end.send(self._end.make_frame(kind, 0, 0, number, flush, 0.0, b"", payload, buffers or []))

    def say_text(self, number: int, text: str, *, flush: bool = False) -> None:
        """Send text of a stream, in frames that need no block."""
        for at in range(0, len(text) or 1, PIECE):
            piece = text[at : at + PIECE].encode("utf-8", "surrogatepass")
            self.say(frames.OUTPUT, number, flush and at + PIECE >= len(text), piece)

    def finish(self) -> None:
        """Send what was printed and has not been sent: an answer follows, or the worker ends."""
        if self._out.pending:
            self._out.send_pending(self.slots)
        if self._err.pending:
            self._err.send_pending(self.slots)
        if self.warned:
            self.warned = False
            self.show_again()
        for stream in self._originals:
            try:
                stream.flush()
            except (AttributeError, OSError, ValueError):
                continue

    def close(self) -> None:
        """Send what is left, and give everything back."""
        self.finish()
        self._give_back()

    def fall_silent(self) -> None:
        """This is a fork of the worker: it must not talk in its name."""
        if self.active:
            self._give_back()

    def _give_back(self) -> None:
        self.active = False
        out, err, show, last_resort = self._saved
        if sys.stdout is self._out:
            sys.stdout = out
        if sys.stderr is self._err:
            sys.stderr = err
        if warnings.showwarning == self._show_warning:
            warnings.showwarning = show
        if logging.lastResort is self._handler:
            logging.lastResort = last_resort
        for logger in all_loggers().values():
            logger.removeHandler(self._handler)
        for logger, handlers in self._inherited:
            for handler in handlers:
                logger.addHandler(handler)

    # -- what the program wants ------------------------------------------------------------------------------------

    def hear(self, payload: bytes | memoryview) -> None:
        """The program's settings have changed."""
        self.apply(pickle.loads(payload))

    def apply(self, settings: OutputSettings) -> None:
        """Set levels, handlers and filters as the program has them; what a task has changed since stays."""
        old, self._settings = self._settings, settings
        old_levels = old.levels if old is not None else {}
        for name in old_levels.keys() - settings.levels.keys():
            logging.getLogger(name).setLevel(logging.NOTSET)
        for name, level in settings.levels.items():
            if old_levels.get(name) != level:
                logging.getLogger(name).setLevel(level)
        if old is None or old.disabled != settings.disabled:
            logging.disable(settings.disabled)
        for name in (old.handled if old is not None else frozenset()) - settings.handled:
            logging.getLogger(name).removeHandler(self._handler)
        for name in settings.handled - (old.handled if old is not None else frozenset()):
            logging.getLogger(name).addHandler(self._handler)
        # Without a handler at the root there is the handler of last resort, which the program then has, too.
        logging.lastResort = self._saved[3] if "" in settings.handled else cast("Any", self._handler)
        self._apply_filters(settings)

    def _apply_filters(self, settings: OutputSettings) -> None:
        current = get_filters()
        if self._filters is not None and current != self._filters:
            return
        loaded: list[Any] = []
        for item in settings.filters:
            with contextlib.suppress(Exception):  # a category whose module is not found here
                loaded.append(pickle.loads(item))
        if current != loaded:
            current[:] = loaded
        self._filters = loaded
        self.show_again()

    @staticmethod
    def show_again() -> None:
        """Have warnings that were shown "once" or by "default" count as not shown: who counts is the program."""
        mutated: Any = getattr(warnings, "_filters_mutated", None)
        if mutated is not None:
            mutated()
        else:
            with warnings.catch_warnings():
                pass

    # -- warnings --------------------------------------------------------------------------------------------------

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None or not self.active:
            self._saved[2](message, category, filename, lineno, file, line)
            return
        packed = pack(message, self._codec) if isinstance(message, category) else None
        known = next(c.__name__ for c in category.__mro__ if c.__module__ == "builtins")
        text = str(message)
        payload = (packed or b"", known, text, filename, lineno, find_module(filename, lineno))
        self.say(frames.WARNING, 0, False, pickle.dumps(payload, PROTOCOL))
        self.warned = True

    warned = False


class ForwardedStream(io.TextIOBase):
    """Stands for ``sys.stdout`` or ``sys.stderr`` in a worker. Text goes out when its line ends, and at a flush.

    Each thread has a line of its own, so lines of several slots do not mix.
    """

    def __init__(self, forwarder: Forwarder, number: int, original: TextIO | None) -> None:
        super().__init__()
        self._forwarder = forwarder
        self._number = number
        self._original = original
        self._lock = threading.RLock()  # protects what follows; held while sending, to keep the lines in order
        self.pending: dict[int, list[str]] = {}  # thread: the beginning of its line
        self._said = False  # something was sent since the last flush
        self._buffer = ForwardedBytes(self)

    def write(self, text: str, /) -> int:
        """Take text; send the lines that are complete with it."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self._forwarder.active:
            return self._original.write(text) if self._original is not None else len(text)
        with self._lock:
            me = threading.get_ident()
            head, newline, tail = text.rpartition("\n")
            if newline:
                head = "".join(self.pending.pop(me, ())) + head + "\n"
                self._said = True
                self._forwarder.say_text(self._number, head)
            if tail:
                parts = self.pending.setdefault(me, [])
                parts.append(tail)
                if len(parts) > 1000 or len(tail) > PIECE:
                    self._send(me)
        return len(text)

    def flush(self) -> None:
        """Send what this thread has written, and have the program's stream flushed, too."""
        if self._forwarder.active:
            with self._lock:
                text = "".join(self.pending.pop(threading.get_ident(), ()))
                if text or self._said:
                    self._said = False
                    self._forwarder.say_text(self._number, text, flush=True)
        if self._original is not None:
            with contextlib.suppress(AttributeError, OSError, ValueError):
                self._original.flush()

    def send_pending(self, slots: set[int]) -> None:
        """Send this thread's beginning of a line, and those of threads that are no slots."""
        me = threading.get_ident()
        with self._lock:
            for ident in list(self.pending):
                if ident == me or ident not in slots:
                    self._send(ident)

    def _send(self, ident: int) -> None:
        self._said = True
        self._forwarder.say_text(self._number, "".join(self.pending.pop(ident)))

    def close(self) -> None:
        """Only flush: the stream is not a task's to close."""
        self.flush()

    @property
    def buffer(self) -> ForwardedBytes:
        """The stream for bytes, which are taken as UTF-8; what is none arrives unchanged."""
        return self._buffer

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Any text can be written."""
        return "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Bytes that are no UTF-8 pass through."""
        return "surrogateescape"

    @property
    def line_buffering(self) -> bool:
        """Each line goes out when it ends."""
        return True

    @property
    def name(self) -> str:
        """As that of the standard stream."""
        return "<stdout>" if self._number == OUT else "<stderr>"

    @property
    def mode(self) -> str:
        """As that of the standard stream."""
        return "w"

    def reconfigure(self, **options: object) -> None:
        """Nothing can be set here; the program's own stream decides."""

    def fileno(self) -> int:
        """The descriptor that the worker inherited: for programs that a task starts."""
        if self._original is None:
            raise io.UnsupportedOperation("fileno")
        return self._original.fileno()

    def isatty(self) -> bool:
        """Whether the program's stream is a terminal."""
        settings = self._forwarder._settings
        return settings is not None and settings.terminals[self._number - 1]

    def writable(self) -> bool:
        """It is."""
        return True

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"cannot pickle {self.name!r} of a worker")


class ForwardedBytes(io.BufferedIOBase):
    """``sys.stdout.buffer`` in a worker."""

    def __init__(self, stream: ForwardedStream) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")

    def write(self, data: Any, /) -> int:
        """Take bytes."""
        view = memoryview(data)
        self._stream.write(self._decoder.decode(view.tobytes()))
        return view.nbytes

    def flush(self) -> None:
        """As the text stream's."""
        rest = self._decoder.decode(b"", final=True)
        if rest:
            self._stream.write(rest)
        self._stream.flush()

    def close(self) -> None:
        """Only flush."""
        self.flush()

    def fileno(self) -> int:
        """As the text stream's."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """As the text stream's."""
        return self._stream.isatty()

    def writable(self) -> bool:
        """It is."""
        return True


class ForwardingHandler(logging.Handler):
    """Sends log records to the program."""

    def __init__(self, forwarder: Forwarder) -> None:
        super().__init__()
        self._forwarder = forwarder

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, once."""
        forwarder = self._forwarder
        if not forwarder.active or hasattr(record, SENT):
            return
        setattr(record, SENT, True)
        try:
            forwarder.say(frames.LOG, 0, False, pack_record(record, forwarder.name, forwarder._codec))
        except Exception:  # noqa: BLE001  as every handler: the user's format string, their repr
            self.handleError(record)


def pack_record(record: logging.LogRecord, worker_name: str, codec: Codec) -> bytes:
    """Pickle a log record so that it surely loads. What will not travel, travels as its text."""
    plain: dict[str, Any] = dict(record.__dict__)
    del plain[SENT]
    if plain["processName"] == "MainProcess":  # without multiprocessing, or in an interpreter
        plain["processName"] = worker_name
    exc_info = plain.pop("exc_info", None)
    error = None
    if isinstance(exc_info, tuple) and exc_info[1] is not None:
        if not plain.get("exc_text"):
            plain["exc_text"] = logging.Formatter().formatException(exc_info)
        error = dump_exception(exc_info[1], plain["exc_text"], codec)
    if not is_plain(plain["msg"]) or not is_plain(plain["args"]):
        plain["msg"], plain["args"] = record.getMessage(), None
    others = {
        name: (pack(value, codec) or b"", safe_repr(value)) for name, value in plain.items() if not is_plain(value)
    }
    for name in others:
        del plain[name]
    return pickle.dumps((plain, others, error), PROTOCOL)


def pack(value: object, codec: Codec) -> bytes | None:
    """Pickle anything, in one piece, as it surely loads here; None: it will not."""
    try:
        data, buffers = codec.encode(value)
        if buffers:
            from fullcourt._transport.by_value import dumps

            data = dumps(value, PROTOCOL)
        pickle.loads(data)
    except Exception:  # noqa: BLE001
        return None
    return data


def is_plain(value: object, depth: int = 0) -> bool:
    """Whether a value is made of Python's own plain types, and not too deep."""
    if type(value) in ATOMS:
        return True
    if depth == 4:
        return False
    if type(value) in (tuple, list, set, frozenset):
        return all(is_plain(item, depth + 1) for item in cast("Any", value))
    if type(value) is dict:
        return all(is_plain(k, depth + 1) and is_plain(v, depth + 1) for k, v in cast("Any", value).items())
    return False


def safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  it is the user's
        return f"<{type(value).__name__}>"


def all_loggers() -> dict[str, logging.Logger]:
    known = list(logging.root.manager.loggerDict.items())
    return {"": logging.root} | {name: logger for name, logger in known if isinstance(logger, logging.Logger)}


def take_handlers() -> list[tuple[logging.Logger, list[logging.Handler]]]:
    """Take the handlers that do something from all loggers: they are the program's. Returns them."""
    taken: list[tuple[logging.Logger, list[logging.Handler]]] = []
    for logger in all_loggers().values():
        handlers = [handler for handler in logger.handlers if is_real(handler)]
        for handler in handlers:
            logger.removeHandler(handler)
        if handlers:
            taken.append((logger, handlers))
    return taken


def find_module(filename: str, lineno: int) -> str | None:
    """The name of the module that a warning is of: by the frame it came from, else by its file."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_lineno == lineno and frame.f_code.co_filename == filename:
            name = frame.f_globals.get("__name__")
            return name if isinstance(name, str) else None
        frame = cast("Any", frame.f_back)
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == filename:
            return name
    return None
