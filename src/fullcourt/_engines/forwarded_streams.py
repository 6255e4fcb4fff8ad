"""``sys.stdout`` and ``sys.stderr`` of a worker: text goes to the program, each line when it ends."""

from __future__ import annotations

import codecs
import io
import threading
from collections.abc import Container
from functools import partial

from fullcourt._engines.output_settings import OUT
from fullcourt._os.locks import make_rlock

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any, NoReturn, TextIO

    from fullcourt._engines.forwarding import Forwarder

__all__ = ["ForwardedStream"]

MAX_PARTS = 1000  # of a line that does not end; more are sent
MAX_PART = 15_000  # characters, likewise


class ForwardedStream(io.TextIOBase):
    """Stands for ``sys.stdout`` or ``sys.stderr`` in a worker. Text goes out when its line ends, and at a flush.

    Each thread has a line of its own, so lines of several slots do not mix.
    """

    def __init__(self, forwarder: Forwarder, number: int, original: TextIO | None) -> None:
        super().__init__()
        self._forwarder = forwarder
        self._number = number
        self._original = original
        self._lock = make_rlock()  # protects what follows; held while sending, to keep the lines in order
        self.pending: dict[int, list[str]] = {}  # thread: the beginning of its line
        self._said = False  # something was sent since the last flush
        self._buffer = ForwardedBytes(self)

    def write(self, text: Any, /) -> int:
        """Take text; send the lines that are complete with it."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not self._forwarder.active:
            return self._original.write(text) if self._original is not None else len(text)
        self._forwarder.unstopped(partial(self._write, text))
        return len(text)

    def _write(self, text: str) -> None:
        with self._lock:
            me = threading.get_ident()
            head, newline, tail = str(text).rpartition("\n")
            if newline:
                head = "".join(self.pending.pop(me, ())) + head + "\n"
                self._said = True
                self._forwarder.say_text(self._number, head)
            if tail:
                parts = self.pending.setdefault(me, [])
                parts.append(tail)
                if len(parts) > MAX_PARTS or len(tail) > MAX_PART:
                    self._send(me)

    def flush(self) -> None:
        """Send what this thread has written, and have the program's stream flushed, too."""
        self._forwarder.unstopped(self._flush)

    def _flush(self) -> None:
        if self._forwarder.active:
            with self._lock:
                text = "".join(self.pending.pop(threading.get_ident(), ()))
                if text or self._said:
                    self._said = False
                    self._forwarder.say_text(self._number, text, flush=True)
        self._forwarder.flush_originals()

    def send_pending(self, slots: Container[int]) -> None:
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
        return self._forwarder.settings.terminals[self._number - 1]

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
