"""`observe()`: a context manager that watches this program and what it starts."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self, TextIO, cast

from fullcourt._gil.estimate import Estimator
from fullcourt._gil.measuring import own_thread_names, watch_us
from fullcourt._gil.report import Report
from fullcourt._gil.reporting import report_of
from fullcourt._gil.table import print_report
from fullcourt._gil.watching import SamplerError, Watcher

__all__ = ["Observation", "check_rate", "observe"]

DEFAULT_RATE_HZ = 250.0


class Observation:
    """What this program's threads and processes do while the `with` is entered, and afterwards what they did.

    Made by `observe`. One thread enters and leaves it; any may ask it.
    """

    def __init__(self, *, rate_hz: float, children: bool) -> None:
        self._rate_hz = rate_hz
        self._children = children
        self._source: Watcher | Estimator | None = None
        self._recording: dict[str, Any] | None = None
        self._names: dict[tuple[int, int], str] = {}
        self._workers: dict[int, str] = {}
        self._why = ""

    def __enter__(self) -> Self:
        """Start to watch. Takes some 20 ms.

        Raises:
            RuntimeError: it was entered before.
        """
        if self._source is not None or self._recording is not None:
            raise RuntimeError("an observation can be entered once: call observe() for another")
        self._names.update(own_thread_names())
        self._source = watch_us(rate_hz=self._rate_hz, children=self._children)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Stop to watch. What was seen stays."""
        source = self._source
        if source is None:
            return
        try:
            self._recording = self._look(source)
        except SamplerError as problem:
            self._why = f"{problem}: what it saw is lost"
        finally:
            self._source = None
            source.close()

    def _look(self, source: Watcher | Estimator) -> dict[str, Any]:
        recording = source.recording()
        self._names.update(own_thread_names())
        return recording

    @property
    def recording(self) -> dict[str, Any]:
        """The recording: plain lists, dictionaries and numbers, as `fullcourt._gil.recorder` describes them.

        Raises:
            RuntimeError: nothing was recorded: it was not entered, or its sampler was killed. The message says so.
        """
        source = self._source
        if source is not None:
            try:
                return self._look(source)
            except SamplerError:
                if self._recording is None:  # else another thread has just left the `with`
                    raise
        if self._recording is None:
            raise RuntimeError(f"nothing was recorded: {self._why or 'enter the observation with `with` first'}")
        return self._recording

    @property
    def report(self) -> Report:
        """What was seen: while it is entered up to now, afterwards in all."""
        return report_of(self.recording, self._names, self._workers)

    def print(self, file: TextIO | None = None) -> None:
        """Print the report as a table with bars, and what it means; to `sys.stdout` by default."""
        print_report(self.report, file)

    def html(self, path: str | os.PathLike[str]) -> None:
        """Write one self-contained HTML page: the timeline, the numbers, and what they mean.

        Raises:
            OSError: it cannot be written.
        """
        from fullcourt._gil.page import page

        recording = self.recording
        report = report_of(recording, self._names, self._workers)
        text = page(recording, report, sentences=self._sentences(), lanes=self._page_lanes(recording))
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)

    def trace(self, path: str | os.PathLike[str]) -> None:
        """Write a Chrome trace event file, which opens in Perfetto and chrome://tracing.

        Raises:
            OSError: it cannot be written.
        """
        from fullcourt._gil.trace import trace

        recording = self.recording
        report = report_of(recording, self._names, self._workers)
        text = trace(recording, report, self._marks(recording))
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)

    # What a pool adds.

    def _sentences(self) -> tuple[str, ...]:
        return ()

    def _page_lanes(self, recording: dict[str, Any]) -> list[dict[str, Any]]:
        return []

    def _marks(self, recording: dict[str, Any]) -> list[dict[str, Any]]:
        return []


def observe(*, rate: float = DEFAULT_RATE_HZ, children: bool = True) -> Observation:
    """Watch what the GIL does to this program's threads, and to the processes that it starts.

    A small process of its own looks at them many times a second, from outside: it stops nothing and changes nothing.
    The time of each thread is split: it held the GIL, ran without it, waited for it, had no core, or was blocked, and
    by what; the parts add up. Where the system does not allow that, a coarser method takes its place, and the report
    says so.

    Args:
        rate: looks a second, from 1 to 1000. With more threads than can be looked at so often, fewer: it shall not take
            more than 8 % of a core.
        children: whether processes that the program starts are watched, too.

    Raises:
        ValueError: the rate is out of its range.

    Example:
        >>> import fullcourt
        >>> with fullcourt.observe() as observation:
        ...     total = sum(i * i for i in range(300_000))
        >>> times = observation.report.processes[0].times
        >>> times.wall_s > 0
        True
    """
    return Observation(rate_hz=check_rate(rate), children=children)


def check_rate(rate: float) -> float:
    """The rate, if it is one.

    Raises:
        TypeError, ValueError: it is no number, or out of its range.
    """
    if not isinstance(cast("object", rate), (int, float)):
        raise TypeError(f"rate must be a number of looks a second, not {rate!r}")
    if not 1 <= rate <= 1000:
        raise ValueError(f"rate must be from 1 to 1000 looks a second, not {rate}")
    return float(rate)
