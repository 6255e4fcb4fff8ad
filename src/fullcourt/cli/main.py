"""The command line: parses the arguments and hands over to the command's module.

Each command's module is imported only when that command runs, so that `fullcourt --help` is quick and a broken
optional package disturbs only whoever uses it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

from fullcourt.cli import exits

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["build_parser", "main"]

_MAP_EPILOG = """\
output, one JSON object a line:
  {"input": ..., "result": ..., "seconds": 0.0012, "worker": {"pid": 4121, "thread": "..."}}
  {"input": ..., "error": "ValueError: ...", "seconds": ..., "worker": ...}
  seconds is the time in the function alone. What the function prints goes to stderr.

examples:
  seq 1000000 | fullcourt map builtins:len > lengths.jsonl
  ls *.png | fullcourt map thumbnails:make --processes 4 --output made.jsonl
  fullcourt map math:sqrt --json --input numbers.jsonl --threads 8
"""

_ADVISE_EPILOG = """\
The function runs on the first items for about a second, in this process: on each of them once, alone or two at a time.
Of items that take longer, two run. What it prints goes to stderr.

examples:
  fullcourt advise thumbnails:make --lines --input names.txt
  fullcourt advise model:score --input rows.jsonl --facts score.facts
  fullcourt advise --from-facts score.facts --json
"""


_GIL_EPILOG = """\
The report goes to stderr; the exit status is the program's own. Nothing in the program is stopped or changed.

examples:
  fullcourt gil job.py --its options
  fullcourt gil --html job.html -m package.job
  fullcourt gil --pid 4121 --seconds 5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `argv` is without the program's name.

    Example:
        >>> main(["doctor", "--section", "nothing"])  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        SystemExit: 2
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # tables have bars, which not every encoding has
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    program: list[str] = []
    if words[:1] == ["gil"]:
        from fullcourt.cli.gil_command import split_program

        own, program = split_program(words[1:])
        words = ["gil", *own]
    options = parser.parse_args(words)
    options.program = program
    if options.command is None:
        parser.print_help(sys.stderr)
        return exits.USAGE
    if sys.stdout is None and options.command in ("doctor", "demo"):
        _say("cannot write stdout: it is closed.")
        return exits.INPUT_OUTPUT
    try:
        status = _run(options)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it can be told if that fails
        return status
    except KeyboardInterrupt:
        _say("interrupted.")
        return exits.INTERRUPTED
    except BrokenPipeError:
        # The interpreter would fail once more when it flushes stdout at its end.
        _silence_stdout()
        _say("the reader of the output went away before its end.")
        return exits.CLOSED_PIPE
    except OSError as error:
        _silence_stdout()
        _say(f"cannot write {error.filename or 'stdout'}: {error.strerror}.")
        return exits.INPUT_OUTPUT


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="fullcourt",
        description="Run functions in parallel: processes, threads, both. The same as `python -m fullcourt`.",
        epilog=exits.TABLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_map(_command(commands, "map", "run a function over lines or JSON lines", _MAP_EPILOG + "\n" + exits.TABLE))
    _add_advise(
        _command(
            commands,
            "advise",
            "measure on a few items which mode suits a function, and say why",
            _ADVISE_EPILOG + "\n" + exits.TABLE,
        )
    )
    _add_doctor(
        _command(commands, "doctor", "show what this machine and this Python offer, and where they limit", exits.TABLE)
    )
    _add_gil(_command(commands, "gil", "run or watch a program, and show what the GIL did to its threads", _GIL_EPILOG))
    _add_demo(
        _command(commands, "demo", "see threads, processes and both at work on the standard library", exits.TABLE)
    )
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str, epilog: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_map(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "function", metavar="MODULE:FUNCTION", help="such as math:sqrt or package.module:Class.method; ./ is importable"
    )
    add("--input", metavar="FILE", help="read from here instead of stdin")
    add("--output", metavar="FILE", help="write here instead of to stdout")
    add(
        "--json",
        action="store_true",
        help="each line is JSON, and its value the argument; else it is a str without newline",
    )
    add(
        "--processes",
        type=_count,
        metavar="N",
        help="worker processes; the default is the usable cores, 0 is in this process",
    )
    add("--threads", type=_positive, metavar="N", help="threads: of this process, or of each worker with --processes")
    add("--start-method", choices=("fork", "forkserver", "spawn"), help="how workers start; the default is Python's")
    add("--chunksize", type=_positive, metavar="N", help="items a message; the default is found from measured times")
    add(
        "--timeout",
        type=_time_limit,
        metavar="S|Nx",
        help="seconds that an item may take, or 3x: three times the running median; then it is stopped, and has failed",
    )
    add("--retries", type=_count, default=0, metavar="N", help="try an item that failed so many times more")
    add(
        "--backoff",
        type=_backoff,
        default=0.0,
        metavar="S",
        help="wait so many seconds before the first retry, twice as long before each further one",
    )
    add("--halt", type=_positive, metavar="N", help="stop at once when N items have failed")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume", action="store_true", help="go on with an earlier run: what stands in --output is not run again"
    )
    again.add_argument(
        "--resume-failed",
        action="store_true",
        help="likewise, but run again what has failed; its old lines are dropped",
    )
    add("--unordered", action="store_true", help="write results as they come, not in the order of the input")
    add(
        "--no-progress",
        action="store_true",
        help="no progress on stderr; there is none if the output goes to a terminal",
    )


def _add_advise(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("function", nargs="?", metavar="MODULE:FUNCTION", help="such as package.module:function; ./ is importable")
    add("--input", metavar="FILE", help="read the items from here instead of stdin: one JSON value a line")
    add("--lines", action="store_true", help="each line is an item as it is, a str without newline")
    add("--json", action="store_true", help="the same as JSON")
    add("--facts", metavar="FILE", help="write what was measured here")
    add("--from-facts", metavar="FILE", help="advise from what was measured before; nothing runs")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", metavar="FILE", help="write the same also as one page with charts")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=3.0,
        metavar="S",
        help="how long each of the three jobs takes serially, about; the whole takes ten times that (default: 3)",
    )


def _add_gil(parser: argparse.ArgumentParser) -> None:
    from fullcourt.cli.gil_command import add_options

    add_options(parser)


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "gil":
            from fullcourt.cli.gil_command import run_gil

            return run_gil(options, options.program)
        case "map":
            from fullcourt.cli.map_command import run_map

            return run_map(options)
        case "advise":
            from fullcourt.cli.advise_command import run_advise

            return run_advise(options)
        case "doctor":
            from fullcourt.cli.doctor import run_doctor

            return run_doctor(as_json=options.json)
        case _:
            from fullcourt.cli.demo import run_demo

            return run_demo(seconds=options.seconds, html=options.html)


class _Version(argparse.Action):
    """Prints the version; reading it from the installed package costs too much for every start."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from fullcourt.cli.doctor import version

        print(f"fullcourt {version()} on Python {sys.version.split()[0]}")
        parser.exit()


def _count(text: str) -> int:
    return _number(text, 0)


def _positive(text: str) -> int:
    return _number(text, 1)


def _number(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return number


def _time_limit(text: str) -> float | str:
    try:
        number = float(text.removesuffix("x"))
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of seconds nor a multiple such as 3x")
    return text if text.endswith("x") else number


def _backoff(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 60:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 60")
    return seconds


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 600")
    return seconds


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"fullcourt: {text}", file=sys.stderr, flush=True)


def _silence_stdout() -> None:
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
