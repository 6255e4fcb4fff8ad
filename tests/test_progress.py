"""The progress bar in a terminal, in a log, in a notebook, and with streams that fail."""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import types
from typing import Any

import pytest

from fullcourt._progress import ProgressBar


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A terminal of 80 columns, as far as a bar can tell."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _a_real_terminal_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def frames(stream: io.StringIO) -> list[str]:
    return stream.getvalue().split("\r")[1:]


def test_a_terminal_gets_one_line_that_is_rewritten_and_a_last_line_that_stays() -> None:
    clock, stream = Clock(), Terminal()
    bar = ProgressBar(200, stream=stream, description="resize", clock=clock)
    clock.now += 10
    bar.update(50, 2)
    clock.now += 30
    bar.update(200, 2)
    bar.close()
    drawn = frames(stream)
    assert len(drawn) == 3
    assert "25 %  50 of 200  5.00/s, 0:10 elapsed, 0:30 left, 2 failed" in drawn[0]
    assert "█" in drawn[0]
    assert drawn[-1].rstrip(" \n") == "resize: 200 of 200 done in 40.0 s, 5.00/s, 2 failed"
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("\n")


def test_a_shorter_line_wipes_the_longer_one_before_it() -> None:
    clock, stream = Clock(), Terminal()
    bar = ProgressBar(10, stream=stream, description="x" * 30, clock=clock)
    clock.now += 1
    bar.update(5, 0)
    bar.close()
    first, last = (frame.rstrip("\n") for frame in frames(stream))
    assert len(last) == len(first)


def test_drawings_are_at_most_ten_a_second() -> None:
    clock, stream = Clock(), Terminal()
    bar = ProgressBar(None, stream=stream, clock=clock)
    for n in range(10_000):
        clock.now += 0.001
        bar.update(n, 0)
    assert 95 <= len(frames(stream)) <= 101


@pytest.mark.parametrize("width", [20, 33, 60, 100, 250])
@pytest.mark.parametrize("description", ["", "a job", "漢字の仕事" * 20, "e\u0301" * 30])
def test_a_line_is_never_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int, description: str) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((width, 24)))

    class Sized(Terminal):
        def fileno(self) -> int:
            return 1

    clock, stream = Clock(), Sized()
    bar = ProgressBar(1_000_000, stream=stream, description=description, clock=clock)
    for n in (1, 999, 999_999):
        clock.now += 3600
        bar.update(n, n)
    bar.close()
    from fullcourt import _progress

    for frame in frames(stream):
        assert _progress._columns(frame.rstrip("\n")) <= width - 1


def test_a_real_pseudo_terminal_sees_no_escape_sequence() -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal, "w", encoding="utf-8") as stream:
        clock = Clock()
        bar = ProgressBar(4, stream=stream, clock=clock)
        clock.now += 1
        bar.update(2, 0)
        bar.close()
        seen = os.read(controller, 10_000).decode()
    os.close(controller)
    assert "\x1b" not in seen
    assert "2 of 4" in seen


def test_a_log_gets_a_line_for_each_tenth_and_no_control_characters() -> None:
    clock, stream = Clock(), io.StringIO()
    bar = ProgressBar(1000, stream=stream, clock=clock)
    for n in range(1, 1001):
        clock.now += 0.05
        bar.update(n, 0)
    bar.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert re.fullmatch(r"10 %  10\d of 1,000  20\.0/s, 0:05 elapsed, 0:4\d left", lines[0])
    assert lines[-1] == "1,000 of 1,000 done in 50.0 s, 20.0/s"
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", stream.getvalue())


def test_a_log_of_a_slow_job_gets_a_line_after_ten_seconds_at_most_often() -> None:
    clock, stream = Clock(), io.StringIO()
    bar = ProgressBar(None, stream=stream, clock=clock)
    for n in range(1, 601):
        clock.now += 0.1
        bar.update(n, 0)
    assert 5 <= len(stream.getvalue().splitlines()) <= 6


def test_a_job_of_an_instant_writes_one_line_to_a_log() -> None:
    clock, stream = Clock(), io.StringIO()
    with ProgressBar(100, stream=stream, clock=clock) as bar:
        for n in range(1, 101):
            clock.now += 0.001
            bar.update(n, 0)
    assert len(stream.getvalue().splitlines()) == 1


def test_one_hundred_percent_is_for_the_end_alone() -> None:
    clock, stream = Clock(), Terminal()
    bar = ProgressBar(1000, stream=stream, clock=clock)
    clock.now += 1
    bar.update(999, 0)
    assert " 99 %" in stream.getvalue()


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    clock, stream = Clock(), Terminal()
    bar = ProgressBar(None, stream=stream, clock=clock)
    n = 0
    for per_second in [1000] * 60 + [10] * 60:
        clock.now += 1
        n += per_second
        bar.update(n, 0)
    assert "10.0/s" in frames(stream)[-1]


@pytest.mark.parametrize("total", [0, None, 3])
def test_strange_counts_do_no_harm(total: int | None) -> None:
    clock, stream = Clock(), Terminal()
    bar = ProgressBar(total, stream=stream, clock=clock)
    for n in (0, 7, 3):
        clock.now += 1
        bar.update(n, 0)
    bar.close()
    bar.close()
    bar.update(9, 9)
    assert stream.getvalue().count("\n") == 1


def test_a_closed_stream_does_not_disturb_the_job() -> None:
    clock, stream = Clock(), Terminal()
    bar = ProgressBar(10, stream=stream, clock=clock)
    stream.close()
    clock.now += 1
    bar.update(5, 0)
    bar.update(6, 0)
    bar.close()
    ProgressBar(10, stream=stream, clock=clock).close()


def test_a_program_without_a_stderr_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    bar = ProgressBar(10)
    bar.update(5, 0)
    bar.close()


def test_a_stream_that_cannot_write_the_blocks_gets_ascii() -> None:
    raw = io.BytesIO()

    class Latin(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    clock, stream = Clock(), Latin(raw, encoding="latin-1")
    bar = ProgressBar(10, stream=stream, clock=clock, description="é→")
    clock.now += 1
    bar.update(5, 0)
    assert "##" in raw.getvalue().decode("latin-1")
    assert "é?" in raw.getvalue().decode("latin-1")


def test_a_notebook_gets_one_display_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any, Any]] = []

    def display(cell: Any, display_id: Any) -> Any:
        calls.append(("display", cell, display_id))
        return types.SimpleNamespace(display_id="d1")

    def update_display(cell: Any, *, display_id: Any) -> None:
        calls.append(("update", cell, display_id))

    ipython: Any = types.ModuleType("IPython")
    shown: Any = types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    shown.display, shown.update_display = display, update_display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    clock = Clock()
    bar = ProgressBar(10, description="<b>", clock=clock)
    clock.now += 1
    bar.update(5, 0)
    clock.now += 1
    bar.update(10, 0)
    bar.close()
    assert [call[0] for call in calls] == ["display", "update", "update"]
    assert calls[1][2] == "d1"
    assert '<progress max="1" value="0.5000">' in calls[0][1]._repr_html_()
    assert "&lt;b&gt;" in calls[0][1]._repr_html_()
    assert "5 of 10" in repr(calls[0][1])
