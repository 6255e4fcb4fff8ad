"""`fullcourt map`: a function over the lines of a file, in parallel, in constant memory.

What a line costs in the calling process: read, hand to the pool, take the finished line of output from it, write. All
else happens in the workers (map_line.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

from fullcourt.cli import exits
from fullcourt.cli.map_line import (
    FunctionError,
    ItemFailed,
    LineTask,
    current_folder,
    error_line,
    error_text,
    find_function,
    shown,
    worker_json,
)
from fullcourt.cli.map_output import Output, OutputError, standard_streams_for_us
from fullcourt.cli.map_resume import Finished, ResumeError, take_out_failures

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from io import RawIOBase

    from fullcourt import Pool

__all__ = ["run_map"]

# Counting the lines of a bigger file first would take longer than a tenth of a second.
_COUNT_UP_TO_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 17


class _Interrupted(KeyboardInterrupt):
    """SIGINT came: to the command, which a function that raises KeyboardInterrupt does not end."""


class _Terminated(BaseException):
    """SIGTERM came."""


class _Refused(Exception):
    """The command cannot be carried out: a line for the user, and the exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _Tally:
    """What was written so far."""

    def __init__(self) -> None:
        self.n_done = 0
        self.n_failed = 0
        self.first_error = ""


def run_map(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    tally = _Tally()
    try:
        with standard_streams_for_us(take_output=options.output is None) as (stdin, stdout):
            try:
                _map(options, stdin, stdout, tally)
            except _Refused as refusal:
                return _end(str(refusal), refusal.status)
            except KeyboardInterrupt:
                return _end(f"interrupted after {_items(tally)}, which are written.", exits.INTERRUPTED)
            except _Terminated:
                return _end(f"terminated (SIGTERM) after {_items(tally)}, which are written.", exits.TERMINATED)
    except OutputError as error:
        if isinstance(error.cause, BrokenPipeError):
            return _end(f"the reader of the output went away after {_items(tally)}.", exits.CLOSED_PIPE)
        return _end(f"cannot write {error.name}: {error.cause.strerror}, after {_items(tally)}.", exits.INPUT_OUTPUT)
    if tally.n_failed:
        text = f"{tally.n_failed:,} of {_items(tally)} failed; the first to: {tally.first_error}"
        return _end(text, exits.FAILED_ITEMS)
    return exits.OK


def _map(options: argparse.Namespace, stdin: RawIOBase, stdout: BinaryIO, tally: _Tally) -> None:
    """Check everything before anything starts, then run."""
    try:
        folder = current_folder()
        find_function(options.function, folder)
    except FunctionError as error:
        raise _Refused(str(error), exits.USAGE) from None
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(_open(options.input)) if options.input is not None else stdin
        n_lines = _n_lines(source) if options.input is not None and not options.json else None
        finished = None
        if options.resume or options.resume_failed:
            finished = stack.enter_context(contextlib.closing(_finished(options)))
            if n_lines is not None:
                n_lines = max(0, n_lines - finished.n_lines)
        lines = _Lines(source, options, finished)
        pool = stack.enter_context(_stopped_at_once(_pool(options)))
        keep = None if finished is None else finished.n_bytes
        output = stack.enter_context(Output.open(options.output, stdout, source, keep=keep))
        bar = None
        if not options.no_progress and not output.is_terminal():
            from fullcourt._progress import ProgressBar

            bar = stack.enter_context(ProgressBar(n_lines, stream=sys.stderr, description="map"))
        with _signals_raise():
            _run(pool, options, folder, lines, output, bar, tally)
        n_left = 0 if finished is None else finished.n_left()
    if n_left:
        _end(f"{n_left:,} lines that {options.output} had belong to no line of this input.", exits.OK)


def _finished(options: argparse.Namespace) -> Finished:
    """Look at what the earlier run has written."""
    if options.output is None:
        raise _Refused("--resume needs --output FILE: what stands there is not run again.", exits.USAGE)
    if os.path.exists(options.output) and not os.path.isfile(options.output):
        raise _Refused(f"--resume needs a file, which can be read again; {options.output} is none.", exits.USAGE)
    try:
        if options.resume_failed:
            take_out_failures(options.output)
        return Finished(options.output, as_json=options.json)
    except ResumeError as error:
        raise _Refused(f"{error}.", exits.USAGE) from None
    except OSError as error:
        raise _Refused(f"cannot read {options.output}: {error.strerror}.", exits.INPUT_OUTPUT) from None


def _run(
    pool: Pool,
    options: argparse.Namespace,
    folder: str,
    lines: _Lines,
    output: Output,
    bar: Any,
    tally: _Tally,
) -> None:
    from fullcourt import Failure, errors

    raises = options.retries > 0
    task: Any = LineTask(options.function, as_json=options.json, folder=folder, raises=raises)
    if options.unordered:
        task = _Numbered(task)
    if options.processes == 0 and options.threads is None:
        task = _Here(task)
    imap = pool.imap_unordered if options.unordered else pool.imap
    write, taken = output.write, lines.taken
    try:
        for answer in imap(task, lines, options.chunksize, on_error="return", **_wishes(options)):
            if isinstance(answer, Failure):
                line, error = taken(answer.index), answer.exception
                if isinstance(error, (_Interrupted, _Terminated)):
                    raise error
                if isinstance(error, ItemFailed):
                    answer = error.answer
                else:
                    pid = getattr(error, "pid", None)
                    text = error_text(error)
                    answer = (error_line(line, options.json, text, worker_json(pid, None)), text)
            else:
                if options.unordered:
                    number, answer = answer
                else:
                    number = -1
                line = taken(number)
            if type(answer) is bytes:
                write(answer)
            else:
                write(answer[0])
                tally.n_failed += 1
                if tally.n_failed == 1:
                    tally.first_error = f"{shown(line[:60])!r}: {answer[1]}"
            tally.n_done += 1
            if bar is not None:
                bar.update(tally.n_done, tally.n_failed)
            if options.halt is not None and tally.n_failed >= options.halt:
                text = f"stopped, since {tally.n_failed:,} of {_items(tally)} failed; the first to: {tally.first_error}"
                raise _Refused(text, exits.FAILED_ITEMS)
    except _Refused:
        raise
    except errors.NotSupported as error:
        raise _Refused(f"{error}", exits.USAGE) from error
    except errors.FullcourtError as error:
        raise _Refused(f"the pool broke after {_items(tally)}: {error_text(error)}", exits.POOL) from error
    output.flush()


def _wishes(options: argparse.Namespace) -> dict[str, Any]:
    """The options of the map that were asked for."""
    from fullcourt import TaskTimeout, WorkerDied

    wishes: dict[str, Any] = {}
    if options.timeout is not None:
        wishes["timeout"] = options.timeout
    if options.retries:
        wishes.update(retries=options.retries, backoff=options.backoff, retry_on=(ItemFailed, WorkerDied, TaskTimeout))
    return wishes


class _Lines:
    """The lines of the input, read when the pool asks for more, and kept until their results have come.

    They are kept because a worker that dies cannot say what it was given.
    """

    def __init__(self, source: RawIOBase, options: argparse.Namespace, finished: Finished | None) -> None:
        self._source = source
        self._name = options.input or "stdin"
        self._skip_blank = options.json
        self._is_finished = finished.take if finished is not None else None
        self._in_order: deque[bytes] = deque()
        self._by_number: dict[int, bytes] = {}
        self._unordered = options.unordered
        # For the pool an attribute is not worth a call.
        self.taken = self._by_number.pop if options.unordered else self._next

    def __iter__(self) -> Iterator[Any]:
        source, skip_blank, keep, number = self._source, self._skip_blank, self._in_order.append, 0
        is_finished = self._is_finished
        try:
            for line in _split(source):
                if line.endswith(b"\r"):
                    line = line[:-1]
                if skip_blank and not line.strip():
                    continue
                if is_finished is not None and is_finished(line):
                    continue
                if self._unordered:
                    self._by_number[number] = line
                    yield number, line
                    number += 1
                else:
                    keep(line)
                    yield line
        except (OSError, ValueError) as error:
            raise _Refused(f"cannot read {self._name}: {error}", exits.INPUT_OUTPUT) from error

    def _next(self, _number: int) -> bytes:
        return self._in_order.popleft()


def _split(source: RawIOBase) -> Iterator[bytes]:
    """Yield the lines without their newlines.

    The file has no buffer object around it. This runs in a thread of the pool that may be waiting for input when the
    job ends, and a buffer's lock would then be held: to close it, or to leave the interpreter, would wait for a line
    that never comes.
    """
    parts: list[bytes] = []
    while block := source.read(_BLOCK_BYTES):
        first, *lines = block.split(b"\n")
        parts.append(first)
        if lines:
            yield b"".join(parts)
            parts = [lines.pop()]
            yield from lines
    if last := b"".join(parts):
        yield last


class _Numbered:
    """Keeps an item's number with its answer, where answers come in any order."""

    def __init__(self, task: LineTask) -> None:
        self._task = task
        self.__qualname__ = task.__qualname__

    def __call__(self, item: tuple[int, bytes]) -> tuple[int, bytes | tuple[bytes, str]]:
        return item[0], self._task(item[1])


class _Here:
    """Runs the items in this process, where a signal comes in the midst of one: none after it runs any more."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._ended_by: BaseException | None = None
        self.__qualname__ = task.__qualname__

    def __call__(self, item: Any) -> Any:
        if self._ended_by is not None:
            raise self._ended_by
        try:
            return self._task(item)
        except (_Interrupted, _Terminated) as signal_came:
            self._ended_by = signal_came
            raise


def _pool(options: argparse.Namespace) -> Pool:
    from fullcourt import Pool

    try:
        return Pool(options.processes, threads=options.threads, start_method=options.start_method, name="map")
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise _Refused(f"the pool cannot start: {error_text(error)}", exits.POOL) from error


@contextlib.contextmanager
def _stopped_at_once(pool: Pool) -> Iterator[Pool]:
    """At the end of a run nothing is left to wait for, and an interrupted one must not wait."""
    try:
        yield pool
    except BaseException:
        with _signals_ignored():
            pool.terminate()
            if pool.processes:  # threads cannot be stopped in the middle of a task; they end with this process
                pool.join()
        raise
    pool.close()
    pool.join()


def _open(path: str) -> RawIOBase:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise _Refused(f"cannot read {path}: {error.strerror}.", exits.INPUT_OUTPUT) from None


def _n_lines(file: RawIOBase) -> int | None:
    """Return how many lines there are, for the time left; `None` if to count them would take long or cannot be done."""
    try:
        if not file.seekable() or os.fstat(file.fileno()).st_size > _COUNT_UP_TO_BYTES:
            return None
        n_lines, last = 0, b"\n"
        while block := file.read(1 << 20):
            n_lines += block.count(b"\n")
            last = block[-1:]
        file.seek(0)
    except OSError:
        return None
    return n_lines + (last != b"\n")


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does. Outside the main thread signals cannot be set, and this does nothing."""

    def interrupt(*_: object) -> None:
        raise _Interrupted

    def terminate(*_: object) -> None:
        raise _Terminated

    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        signal.signal(signal.SIGTERM, terminate)
    except ValueError:
        yield
        return
    try:
        if before[0][1] is signal.default_int_handler:  # a command that runs in the background is deaf to it
            signal.signal(signal.SIGINT, interrupt)
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """Let nothing interrupt the stopping of the workers: it is bounded in time."""
    try:
        before = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _items(tally: _Tally) -> str:
    return f"{tally.n_done:,} item{'' if tally.n_done == 1 else 's'}"


def _end(text: str, status: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        print(f"fullcourt map: {text}", file=sys.stderr, flush=True)
    return status
