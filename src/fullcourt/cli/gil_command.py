"""`fullcourt gil`: run a program, or look at one that runs, and show what the GIL did to its threads."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from fullcourt.cli import exits

__all__ = ["add_options", "run_gil", "split_program"]

_WITH_VALUE = ("--html", "--trace", "--rate", "--pid", "--seconds")


def split_program(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part the command's own arguments from the program and its arguments, which may look like ours.

    Example:
        >>> split_program(["--rate", "100", "job.py", "--html", "x"])
        (['--rate', '100'], ['job.py', '--html', 'x'])
        >>> split_program(["-m", "package", "--rate", "1"])
        ([], ['-m', 'package', '--rate', '1'])
    """
    index = 0
    while index < len(argv):
        word = argv[index]
        if word == "--":
            return list(argv[:index]), list(argv[index + 1 :])
        if word == "-m" or not word.startswith("-"):
            break
        index += 2 if word in _WITH_VALUE else 1
    return list(argv[:index]), list(argv[index:])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the options to the parser; the program's words never reach it."""
    add = parser.add_argument
    parser.usage = "fullcourt gil [options] (SCRIPT [ARGS] | -m MODULE [ARGS] | --pid PID)"
    add("--pid", type=int, metavar="PID", help="look at a program that runs already, until it ends or Ctrl-C")
    add("--seconds", type=float, metavar="S", help="stop looking after so many seconds; the program goes on")
    add("--html", metavar="FILE", help="write one page with the timeline and the numbers")
    add("--trace", metavar="FILE", help="write a trace that opens in Perfetto and chrome://tracing")
    add("--rate", type=float, default=250.0, metavar="HZ", help="looks a second (default: 250)")


def run_gil(options: argparse.Namespace, program: list[str]) -> int:
    """Watch, report; returns the program's own exit status, or ours where there is none."""
    problem = _problem(options, program)
    if problem:
        print(f"fullcourt gil: {problem}", file=sys.stderr)
        return exits.USAGE
    for path in (options.html, options.trace):
        if path is not None:
            try:
                with open(path, "a", encoding="utf-8"):  # better now than after the run
                    pass
            except OSError as error:
                print(f"fullcourt gil: cannot write {path}: {error.strerror}.", file=sys.stderr)
                return exits.INPUT_OUTPUT
    if options.pid is not None:
        recording, status = _watch(options.pid, options.rate, options.seconds)
    else:
        recording, status = _run(program, options.rate, options.seconds)
    try:
        _show(recording, options)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"fullcourt gil: cannot write {error.filename or 'the report'}: {error.strerror}.", file=sys.stderr)
        return exits.INPUT_OUTPUT
    return status


def _problem(options: argparse.Namespace, program: list[str]) -> str:
    if not sys.platform.startswith("linux"):
        return f"threads can be looked at from outside on Linux only; on {sys.platform} use fullcourt.observe()."
    if (options.pid is None) == (not program):
        return "name a script, or -m and a module, or --pid and a running program's number; just one of them."
    if program == ["-m"]:
        return "-m needs a module's name."
    if program and program[0] != "-m" and not os.path.exists(program[0]):
        return f"there is no file {program[0]}."
    if options.pid is not None and not os.path.exists(f"/proc/{options.pid}"):
        return f"there is no process {options.pid}."
    if not 1 <= options.rate <= 1000:
        return f"--rate must be from 1 to 1000, not {options.rate:g}."
    if options.seconds is not None and not 0 < options.seconds < math.inf:
        return f"--seconds must be more than 0 and finite, not {options.seconds:g}."
    return ""


def _run(program: list[str], rate_hz: float, seconds: float | None) -> tuple[dict[str, Any], int]:
    """Run the program and watch it from here, its parent: that is allowed where others may not look."""
    from fullcourt._gil.sampler import Sampler

    with _signals_are_the_programs(), subprocess.Popen([sys.executable, *program]) as process:

        def end_it(_number: int, _frame: object) -> None:
            process.terminate()

        signal.signal(signal.SIGTERM, end_it)
        sampler = Sampler(process.pid, rate_hz=rate_hz, ignore={os.getpid()})
        deadline = _deadline(seconds)
        while _look(sampler, process.pid, deadline):
            pass
        recording = sampler.recording()
        sampler.close()
        status = process.wait()
    return recording, 128 - status if status < 0 else status


def _watch(pid: int, rate_hz: float, seconds: float | None) -> tuple[dict[str, Any], int]:
    from fullcourt._gil.sampler import Sampler

    sampler = Sampler(pid, rate_hz=rate_hz, ignore={os.getpid()})
    deadline = _deadline(seconds)
    status = exits.OK

    def stop(_number: int, _frame: object) -> None:
        nonlocal status
        status = exits.TERMINATED
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)  # as Ctrl-C: what was seen is reported
    try:
        with contextlib.suppress(KeyboardInterrupt):
            while _look(sampler, pid, deadline):
                pass
    finally:
        signal.signal(signal.SIGTERM, before)
    recording = sampler.recording()
    sampler.close()
    return recording, status


def _deadline(seconds: float | None) -> float | None:
    """When that many seconds of looking will be over."""
    return None if seconds is None else time.monotonic() + seconds


def _look(sampler: Any, pid: int, deadline: float | None) -> bool:
    """Take a sample and wait for the next one to be due. False: the program has ended, whatever it has left running."""
    alive = sampler.look() and pid in sampler.processes
    if not alive or (deadline is not None and time.monotonic() >= deadline):
        return False
    select.select((), (), (), max(0.0, sampler.pause_s()))
    return True


@contextlib.contextmanager
def _signals_are_the_programs() -> Iterator[None]:
    """Ctrl-C reaches the program by itself; we go on, to report."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if before[signal.SIGINT] != signal.SIG_IGN:  # which the program inherits, as from a shell
        signal.signal(signal.SIGINT, _leave_it)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_it(_number: int, _frame: object) -> None:
    pass


def _show(recording: dict[str, Any], options: argparse.Namespace) -> None:
    from fullcourt._gil.reporting import report_of
    from fullcourt._gil.table import print_report

    report = report_of(recording)
    # A program's output is its own: the report goes beside it.
    out = sys.stdout if options.pid is not None else sys.stderr
    if sys.stdout is not None:
        sys.stdout.flush()
    if out is not None:
        print_report(report, out)
    if options.html is not None:
        from fullcourt._gil.page import page

        _write(options.html, page(recording, report))
        _tell(f"The page with the timeline: {options.html}", out)
    if options.trace is not None:
        from fullcourt._gil.trace import trace

        _write(options.trace, trace(recording, report))
        _tell(f"The trace for Perfetto: {options.trace}", out)


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def _tell(text: str, out: TextIO | None) -> None:
    if out is not None:  # print() would take stdout, where the program's own output goes
        print(text, file=out)
