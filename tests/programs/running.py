"""Runs small programs as a person would, and finds every process that came of them, however they ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import fullcourt

PROGRAM_TIMEOUT_S = 60.0  # a hang, not a slow machine
# What must be gone after a program's end has this long: the promise of the documentation. Free-threaded CPython 3.13
# calls sched_yield() thousands of times, each of which gives a whole time slice away while other processes compute on
# all cores: printing one traceback took it over a second there.
GONE_S = 1.0 if getattr(sys, "_is_gil_enabled", lambda: True)() else 15.0
MARK_NAME = "FULLCOURT_PROGRAM"
HAS_PIDFD = hasattr(os, "pidfd_open")


@dataclass
class Program:
    """One program in a folder of its own, and the processes that bear its mark in their environment."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None

    def write(self, name: str, text: str) -> Path:
        """Put a file beside the program."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    def start(self, *arguments: str, stdin: str = "", environment: dict[str, str] | None = None) -> None:
        """Start this Python with `arguments`, as the leader of a new session and process group.

        Its output goes to files: at the end of a pipe we would wait for whoever else holds it.
        """
        source = str(Path(fullcourt.__file__).parents[1])
        full = os.environ | {"PYTHONPATH": source, MARK_NAME: self.mark} | (environment or {})
        (self.folder / "stdin").write_text(stdin, encoding="utf-8")
        with (
            (self.folder / "stdin").open("rb") as standard_input,
            (self.folder / "stdout").open("wb") as output,
            (self.folder / "stderr").open("wb") as errors,
        ):
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=full,
                stdin=standard_input,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = PROGRAM_TIMEOUT_S) -> int:
        """Wait for the program itself, and return its exit status."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the program still runs after {timeout_s} s.\nstdout: {self.stdout()}\nstderr: {self.stderr()}"
            ) from None

    def stdout(self) -> str:
        return (self.folder / "stdout").read_text(encoding="utf-8", errors="replace")

    def stderr(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8", errors="replace")

    def workers(self) -> list[int]:
        """Every process of the program but the first."""
        assert self.process is not None
        return [pid for pid in marked_processes(self.mark) if pid != self.process.pid]

    def assert_nobody_is_left(self, timeout_s: float = GONE_S) -> None:
        """Assert that every process of the program is gone `timeout_s` after this call."""
        left = still_there(marked_processes(self.mark), timeout_s)
        assert not left, f"left behind: {[describe(pid) for pid in left]}"

    def end(self) -> None:
        """Kill what is left, for the tests that failed."""
        for pid in marked_processes(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()


def marked_processes(mark: str) -> list[int]:
    """The processes that have `mark` in their environment, which children inherit. None where there is no /proc."""
    wanted = f"{MARK_NAME}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours to read
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def still_there(pids: list[int], timeout_s: float) -> list[int]:
    """Wait until all `pids` are gone, `timeout_s` at the most; return those that are not. Waits on pidfds."""
    end = time.monotonic() + timeout_s
    left = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                left.append(pid)
        finally:
            os.close(descriptor)
    return left


def describe(pid: int) -> str:
    """What a process is, for a message."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return f"pid {pid}, gone since"
    return f"pid {pid} ({state}) {command}"


# Every program of the tests of endings starts with these lines. A task says that it has started by a byte in the named pipe.
PRELUDE = """\
import os, sys, time
import fullcourt

def started():
    descriptor = os.open("started", os.O_WRONLY)
    os.write(descriptor, b".")
    os.close(descriptor)

def sleep(*_):
    started()
    time.sleep(100)

def compute(*_):
    started()
    while True:
        pass

"""


class Starts:
    """The reading end of the named pipe."""

    def __init__(self, program: Program) -> None:
        path = program.folder / "started"
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR)  # with a writer of our own it has no end, so reading waits

    def wait(self, n: int) -> None:
        """Block until `n` tasks have started; pytest's time limit ends a wait for ever."""
        while n > 0:
            n -= len(os.read(self._descriptor, n))

    def close(self) -> None:
        os.close(self._descriptor)


def start(program: Program, start_method: str, text: str) -> None:
    text = PRELUDE + textwrap.dedent(text).replace("METHOD", repr(start_method))
    program.start(str(program.write("program.py", text)))
