"""A progress bar without dependencies: for a terminal, for a log file, and for a notebook.

`update` is called once for every finished batch or even item, so it costs two stores, one clock reading and one
comparison (0.2 microseconds) unless a drawing is due. Drawings are due at most ten times a second.

Nothing in here ever raises into the job: a bar whose stream was closed goes silent.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import unicodedata
from collections import deque
from html import escape
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["ProgressBar"]

_REDRAW_S = 0.1
_LOG_LINE_S = 10.0
# A job of half a second would otherwise put ten lines into a log, one for each tenth.
_LOG_LINE_MIN_S = 1.0
_RATE_WINDOW_S = 30.0


class ProgressBar:
    r"""Show how far a job has come: rate, time elapsed, time left, failures.

    - In a terminal, one line is rewritten, never longer than the terminal is wide; `close` replaces it by a line that
      stays.
    - In a log file, a line for each 10 % or after 10 s, whichever comes first, with no control characters.
    - In a notebook, one display is updated.

    One thread at a time may call it. It draws only from within `update` and `close`, so while nothing finishes nothing
    changes.

    Args:
        total: Number of items, `None` if it is not known.
        stream: Where to write; the default is `sys.stderr`, or the notebook's output if this runs in one.
        description: What is done, a word or two, shown in front.
        clock: Seconds that never go backwards.

    Example:
        >>> import io
        >>> log = io.StringIO()
        >>> with ProgressBar(20, stream=log, description="resize", clock=lambda: 0.0) as bar:
        ...     bar.update(20, 1)
        >>> log.getvalue()
        'resize: 20 of 20 done in 0.0 s, 1 failed\n'
    """

    def __init__(
        self,
        total: int | None,
        *,
        stream: TextIO | None = None,
        description: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._description = " ".join(description.split())
        self._clock = clock
        self._n_done = 0
        self._n_failed = 0
        self._started = clock()
        self._closed = False
        self._samples: deque[tuple[float, int]] = deque([(self._started, 0)])
        self._face: _Face = _face(stream)
        self._due = self._started + self._face.first_s

    def update(self, n_done: int, n_failed: int) -> None:
        """Take note of how many items have finished so far, failed ones included, and how many of them failed."""
        self._n_done = n_done
        self._n_failed = n_failed
        now = self._clock()
        if now >= self._due and not self._closed:
            self._show(now)

    def close(self) -> None:
        """Draw the last state, as one line that stays. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._face.finish(self._last_line(self._clock()))
        except Exception:  # noqa: BLE001 - the job's result must not depend on whether its bar could be drawn
            self._face = _Face()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _show(self, now: float) -> None:
        self._due = now + _REDRAW_S
        try:
            samples = self._samples
            if now - samples[-1][0] >= 1.0:
                samples.append((now, self._n_done))
                while len(samples) > 2 and now - samples[1][0] > _RATE_WINDOW_S:
                    samples.popleft()
            share = self._n_done / self._total if self._total else None
            self._face.draw(now - self._started, share, lambda width: self._line(now, width))
        except Exception:  # noqa: BLE001 - as in close
            self._face = _Face()
            self._due = float("inf")

    def _line(self, now: float, width: int | None) -> str:
        """Return the state in one line; with a `width` in so many columns, and with a bar if there is room for one."""
        rate = self._rate(now)
        facts = [f"{rate:,.{_digits(rate)}f}/s" if rate else "-/s", f"{_clock_text(now - self._started)} elapsed"]
        if self._total is not None:
            left = max(0, self._total - self._n_done)
            facts.append(f"{_clock_text(left / rate)} left" if rate else "? left")
        if self._n_failed:
            facts.append(f"{self._n_failed:,} failed")
        if self._total is None:
            share, counts = None, f"{self._n_done:,}"
        else:
            share = min(1.0, self._n_done / self._total) if self._total else 1.0
            # Rounded down: 100 % is for the end alone.
            percent = f"{int(share * 100)} %"
            counts = f"{percent if width is None else percent.rjust(5)}  {self._n_done:,} of {self._total:,}"
        head = f"{self._description}: " if self._description else ""
        line = f"{head}{counts}  {', '.join(facts)}"
        if width is None:
            return line
        room = width - _columns(line) - 2
        if share is not None and room >= 10:
            line = f"{head}{self._face.bar(share, min(room, 40))}  {counts}  {', '.join(facts)}"
        return _cut(line, width)

    def _last_line(self, now: float) -> str:
        elapsed = now - self._started
        of = f" of {self._total:,}" if self._total is not None else ""
        rate = self._n_done / elapsed if elapsed > 0 else 0.0
        head = f"{self._description}: " if self._description else ""
        speed = f", {rate:,.{_digits(rate)}f}/s" if rate else ""
        failed = f", {self._n_failed:,} failed" if self._n_failed else ""
        return f"{head}{self._n_done:,}{of} done in {_duration_text(elapsed)}{speed}{failed}"

    def _rate(self, now: float) -> float:
        """Return items per second over the last half minute: a mean of all time would hide that a job became slower."""
        then, n_then = self._samples[0]
        return (self._n_done - n_then) / (now - then) if now > then else 0.0


class _Face:
    """Where and how a bar is drawn. This one draws nothing."""

    first_s = float("inf")  # seconds before the first drawing

    def draw(self, elapsed_s: float, share: float | None, line: Callable[[int | None], str]) -> None:
        """Draw the state that `line` gives for a width in columns."""

    def finish(self, line: str) -> None:
        """Put `line` in the place of what was drawn, to stay."""

    def bar(self, share: float, width: int) -> str:
        filled = int(share * width)
        return "#" * filled + "." * (width - filled)


class _LogFace(_Face):
    """Plain lines."""

    first_s = 0.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown_s = 0.0
        self._shown_tenth = 0

    def draw(self, elapsed_s: float, share: float | None, line: Callable[[int | None], str]) -> None:
        since = elapsed_s - self._shown_s
        tenth = int(share * 10) if share is not None else 0
        # At the whole the final line follows at once.
        if since >= _LOG_LINE_S or (since >= _LOG_LINE_MIN_S and self._shown_tenth < tenth < 10):
            self._shown_s, self._shown_tenth = elapsed_s, tenth
            self.finish(line(None))

    def finish(self, line: str) -> None:
        self._stream.write(_encodable(line, self._stream) + "\n")
        self._stream.flush()


class _TerminalFace(_Face):
    """One line, rewritten in place.

    It overwrites the old line with spaces rather than with an escape sequence, which works in every terminal, and
    stops one column short of the edge, where some terminals wrap.
    """

    first_s = 0.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._n_columns = 0
        self._full, self._empty = ("█", "░") if _encodable("█░", stream) == "█░" else ("#", ".")

    def draw(self, elapsed_s: float, share: float | None, line: Callable[[int | None], str]) -> None:
        del elapsed_s, share
        self._rewrite(line(self._width() - 1))

    def finish(self, line: str) -> None:
        self._rewrite(_cut(line, self._width() - 1), "\n")

    def bar(self, share: float, width: int) -> str:
        filled = int(share * width)
        return self._full * filled + self._empty * (width - filled)

    def _rewrite(self, line: str, end: str = "") -> None:
        line = _encodable(line, self._stream)
        columns = _columns(line)
        # A terminal made narrower meanwhile would wrap the padding.
        padding = " " * (min(self._n_columns, self._width() - 1) - columns)
        self._n_columns = columns
        self._stream.write(f"\r{line}{padding}{end}")
        self._stream.flush()

    def _width(self) -> int:
        try:
            width = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError, AttributeError):
            width = 0
        return max(20, width or 80)


class _NotebookFace(_Face):
    """One display of a notebook, updated by its id."""

    first_s = 0.0

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, elapsed_s: float, share: float | None, line: Callable[[int | None], str]) -> None:
        del elapsed_s
        self._put(_Cell(line(None), share))

    def finish(self, line: str) -> None:
        self._put(_Cell(line, None))

    def _put(self, cell: _Cell) -> None:
        # It is loaded: we run in its kernel. Whether its types are known differs from place to place, so Any.
        module: Any = importlib.import_module("IPython.display")
        if self._handle is None:
            self._handle = module.display(cell, display_id=True)
        else:
            module.update_display(cell, display_id=self._handle.display_id)


class _Cell:
    """What a notebook shows: HTML, or text where it cannot."""

    def __init__(self, line: str, share: float | None) -> None:
        self._line = line
        self._share = share

    def __repr__(self) -> str:
        return self._line

    def _repr_html_(self) -> str:
        bar = "" if self._share is None else f'<progress max="1" value="{min(1.0, self._share):.4f}"></progress> '
        return f'<div style="font-variant-numeric: tabular-nums">{bar}{escape(self._line)}</div>'


def _face(stream: TextIO | None) -> _Face:
    try:
        if stream is None:
            if _in_notebook():
                return _NotebookFace()
            stream = sys.stderr
        if stream is None:  # pyright: ignore[reportUnnecessaryComparison]  # a program without a console, such as pythonw
            return _Face()
        return _TerminalFace(stream) if stream.isatty() and os.environ.get("TERM") != "dumb" else _LogFace(stream)
    except Exception:  # noqa: BLE001 - a stream may be any object, and closed
        return _Face()


def _in_notebook() -> bool:
    module = sys.modules.get("IPython")  # never imported here: if it is not loaded, this is no notebook
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _columns(text: str) -> int:
    """Return how many columns a terminal needs for `text`: wide letters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, width: int) -> str:
    if _columns(text) <= width:
        return text
    while text and _columns(text) > width:
        text = text[:-1]
    return text


def _digits(rate: float) -> int:
    return 0 if rate >= 100 else 1 if rate >= 10 else 2


def _clock_text(seconds: float) -> str:
    """Return `1:05` for 65 seconds, `2:00:00` for two hours."""
    whole = int(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _duration_text(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else _clock_text(seconds)
