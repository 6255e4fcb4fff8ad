"""Starting a sampler, and asking it for what it saw."""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import subprocess
import sys
import weakref
from typing import Any

from fullcourt._os.locks import make_lock
from fullcourt._os.masks import InterruptsBlocked
from fullcourt._os.system import let_trace

__all__ = ["SamplerError", "Watcher"]

HERE = os.path.dirname(os.path.abspath(__file__))
# -S and -E: nothing of the user's site and environment.
# The packages are made bare, since our own `__init__` imports `typing`: so it starts in 20 ms instead of 60.
CODE = """\
import sys
here = sys.argv.pop(1)
for name, folder in (("fullcourt", here.rpartition("/")[0]), ("fullcourt._gil", here)):
    sys.modules[name] = package = type(sys)(name)
    package.__path__ = [folder]
from fullcourt._gil.child import main
main(sys.argv[1:])
"""


# It answers between two looks, each of which takes milliseconds, unless it is kept from a core.
ANSWER_S = 60


class SamplerError(OSError):
    """There is no sampler: it could not be started, or has ended."""


watchers: weakref.WeakSet[Watcher] = weakref.WeakSet()  # those of this process: none shows the others' samplers


class Watcher:
    """A running sampler process; `close` ends it. Any thread may use it, one at a time.

    Args:
        pid: the process to watch.
        rate_hz: looks a second.
        children: whether what it starts is watched, too.
        ignore: processes that are not.

    Raises:
        SamplerError: it could not be started. The message says why.
    """

    pid: int

    def __init__(self, pid: int, *, rate_hz: float, children: bool, ignore: tuple[int, ...] = ()) -> None:
        if not sys.platform.startswith("linux"):
            raise SamplerError(f"threads can be looked at through /proc only, and {sys.platform} has none")
        if not sys.executable:
            raise SamplerError("this Python does not know its own executable (it is embedded in a program)")
        self._lock = make_lock()  # a question and its answer
        self._owner = os.getpid()
        others = list(watchers)
        ignored = [*ignore, *(other.pid for other in others)]
        arguments = [str(pid), str(rate_hz), "1" if children else "0", *map(str, ignored)]
        try:
            with InterruptsBlocked():  # for good: a SIGINT that Ctrl-C sends to the whole group is the program's
                self._process = subprocess.Popen(
                    [sys.executable, "-S", "-E", "-c", CODE, HERE, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
        except OSError as error:
            raise SamplerError(f"the sampler's process could not be started: {error}") from error
        self.pid = self._process.pid
        for other in others:
            other.ignore(self.pid)
        try:
            if pid == os.getpid():
                let_trace(self.pid)  # Yama lets only ancestors look in, and whom the process names
            self._ask(b"G")
            watchers.add(self)
        except BaseException:
            self.close()
            raise

    def recording(self, *, restart: bool = False) -> dict[str, Any]:
        """What was seen since the begin, or the last restart.

        Args:
            restart: forget it, and begin anew.

        Raises:
            SamplerError: the sampler has ended; somebody killed it.
        """
        recording: dict[str, Any] = self._ask(b"R" if restart else b"S")
        return recording

    def ignore(self, pid: int) -> None:
        """A process that this program starts is no part of it: a sampler."""
        with contextlib.suppress(SamplerError):
            self._ask(b"I" + pid.to_bytes(8, "little"))

    def close(self) -> None:
        """End it. Idempotent. In a fork of the process that made it, only what was inherited is closed."""
        watchers.discard(self)
        process = self._process
        if self._owner != os.getpid():
            process.returncode = 0  # it is no child of ours
            for pipe in (process.stdin, process.stdout):
                if pipe is not None and not pipe.closed:
                    pipe.close()
            return
        # It is told so: end of file comes only when children that were forked meanwhile have ended, too.
        with contextlib.suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.write(b"Q")
                process.stdin.close()
        if process.stdout is not None:
            process.stdout.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_for_answer(self, descriptor: int) -> None:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(1000 * ANSWER_S):
            self._process.kill()
            raise SamplerError(f"the sampler's process (pid {self.pid}) did not answer within {ANSWER_S} s")

    def _ask(self, command: bytes) -> Any:
        if self._owner != os.getpid():
            raise SamplerError(f"this is a fork of process {self._owner}, which observes: only that one can tell")
        reader, writer = self._process.stdout, self._process.stdin
        assert reader is not None
        assert writer is not None
        with self._lock:
            try:
                writer.write(command)
                writer.flush()
                self._wait_for_answer(reader.fileno())
                head = reader.read(8)
                size = int.from_bytes(head, "little")
                data = reader.read(size) if len(head) == 8 else b""
            except SamplerError:
                raise
            except (OSError, ValueError) as error:
                raise SamplerError(f"the sampler's process (pid {self.pid}) has ended") from error
        if not data or len(data) < size:
            raise SamplerError(f"the sampler's process (pid {self.pid}) has ended")
        return marshal.loads(data)
