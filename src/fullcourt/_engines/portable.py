"""Worker processes without what only Linux has: on macOS and Windows, and on Linux to test just this.

Each worker is a fresh interpreter, started by `subprocess`; it inherits its end of the link. Three threads of the
pool's process look after each: one reads its answers, one writes to it what might block, one waits for its end. Whoever
drives the pool waits for the readers' news in a mailbox.

A worker ends when the pool says so, or when the pool's process is gone: its reading thread sees the end of file. Where
the system can, it is also signalled by the kernel then, for a task may hold the GIL in one call for hours.

What this cannot do, and the template of the fast transport can: end what a task itself started when the pool's process
was killed, not ended; see that death while a fork of the pool's process lives on, which holds the links open.

Cost of a worker: an interpreter's start, 50 to 100 ms. ``spawn`` and ``forkserver`` are the same here.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from fullcourt._engines.fresh import interpreter_command
from fullcourt._engines.linked import Event, FrameArrived, Handle, Lost, RemoteEngine
from fullcourt._engines.mailbox import Mailbox
from fullcourt._engines.setup import Setup, enter_world, pickle_setup
from fullcourt._engines.template import quiet_signals
from fullcourt._engines.worker_process import record_faults, run_worker
from fullcourt._os.budget import worker_environment
from fullcourt._os.locks import make_lock
from fullcourt._os.masks import InterruptsBlocked
from fullcourt._os.system import kill_tree
from fullcourt._transport import frames
from fullcourt._transport.codec import Codec
from fullcourt._transport.inheritance import Inheritance, adopt
from fullcourt._transport.journal import page_bytes
from fullcourt._transport.portable_link import Page, PoolEnd, WorkerEnd, make_link, make_message, open_page
from fullcourt.errors import NotSupported

__all__ = ["PortableEngine", "main"]

# So many lines of one worker may wait to be written; then the worker waits.
MAX_LINES = 256


class PortableEngine(RemoteEngine):
    """Runs workers as processes, with what every system has."""

    _make_frame = staticmethod(make_message)
    _make_frame_for_all = staticmethod(make_message)
    takes_back_at_once = False

    def __init__(self, n_slots: int, name: str, start_method: str | None, setup: Setup) -> None:
        if start_method == "fork":
            forced = "" if sys.platform.startswith("linux") else f" on this system ({sys.platform})"
            raise NotSupported(
                f"start_method='fork' cannot be had with the portable transport{forced}. Its workers are fresh "
                f"interpreters, which share nothing by a fork. Leave start_method out, or give 'spawn' or 'forkserver'."
            )
        super().__init__(n_slots, name, Codec(carries=False))
        self._setup = setup
        self._start_data = b""
        self._inheritance = Inheritance(renumbered=False)
        self._children: dict[int, Child] = {}
        self._mailbox = Mailbox()

    def open(self, first: Sequence[int] = ()) -> None:
        self._setup.pool_pid = os.getpid()
        self._setup.output = self.settings_now()
        self._setup.environment = worker_environment(self._setup.share, os.environ)
        self._inheritance = Inheritance(renumbered=False)
        self._start_data, _ = pickle_setup(self._setup, self.codec, self._inheritance)

    # -- waiting ---------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> Sequence[Any]:
        self._mailbox.wait(timeout)
        return ()

    def collect(self, ready: Sequence[Any]) -> list[Event]:
        events = self._mailbox.empty()
        for event in events:
            if type(event) is Lost:
                self._remove(event.handle)
            elif type(event) is FrameArrived and event.fields[0] >= frames.OUTPUT:
                child = self._children.get(event.handle.id)
                if child is not None:
                    child.may_post.release()
        return events

    def wake(self) -> None:
        self._mailbox.put(None)

    def reply(
        self,
        handle: Handle,
        kind: int,
        pid: int,
        chunk_id: int,
        start: int,
        count: int,
        seconds: float,
        payload: bytes,
        buffers: list[Any],
    ) -> None:
        link: PoolEnd = handle.link
        link.reply(make_message(kind, pid, chunk_id, start, count, seconds, b"", payload, buffers))

    # -- workers ---------------------------------------------------------------------------------------------------

    def start(self, worker_id: int) -> None:
        n_bytes = page_bytes(self.n_slots)
        with contextlib.ExitStack() as after, contextlib.ExitStack() as on_failure:
            page = Page(n_bytes)
            after.callback(page.close)
            link, inherited = make_link(self.n_slots)
            after.callback(inherited.close)
            on_failure.callback(link.close)
            arguments = f"{worker_id}, {inherited.numbers!r}, {page.token!r}, {n_bytes}"
            code = f"from fullcourt._engines.portable import main; main({arguments})"
            numbers = inherited.numbers + page.numbers + self._inheritance.descriptors
            process = start_interpreter(code, numbers, self._setup.environment)
            on_failure.pop_all()
        handle = Handle(worker_id, f"{self.name}-{worker_id}", link, page.memory)
        handle.pid = process.pid
        handle.settings_version = self.version_at_start
        child = Child(process, handle, link, self._mailbox)
        try:
            child.start_threads()
        except RuntimeError as error:  # no more threads can be had
            child.abandon()
            raise OSError(f"no threads can be had that look after a worker: {error}") from error
        self.handles[worker_id] = handle
        self._children[worker_id] = child
        link.start(self._start_data)
        self._greet(link)

    def _remove(self, handle: Handle) -> None:
        self.handles.pop(handle.id, None)
        child = self._children.pop(handle.id, None)
        if child is not None:
            child.close()

    def stop(self, worker_id: int) -> None:
        child = self._children.get(worker_id)
        if child is None:
            return
        if not child.link.is_ready and self._setup.initializer is None:
            child.kill()  # its interpreter still starts, and then would end
            return
        for _ in range(self.n_slots):
            child.link.send(make_message(frames.STOP, 0, 0, 0, 0, 0.0, b"", b"", []))

    def signal(self, worker_id: int, number: int) -> None:
        child = self._children.get(worker_id)
        if child is not None and number and sys.platform != "win32":  # there, only killing stops a task
            child.signal(number)

    def kill(self, worker_id: int) -> bool:
        child = self._children.get(worker_id)
        if child is not None:
            child.kill()
        return child is not None

    def end(self) -> None:
        for child in list(self._children.values()):
            child.kill()

    def close(self) -> None:
        self._forget_all()
        for child in list(self._children.values()):
            child.kill()
            self._remove(child.handle)


class Child:
    """A worker's process, and the threads that look after it."""

    def __init__(self, process: subprocess.Popen[bytes], handle: Handle, link: PoolEnd, mailbox: Mailbox) -> None:
        self._process = process
        self.handle = handle
        self.link = link
        self._mailbox = mailbox
        self._lock = make_lock()  # a process is not killed once its pid may be another's
        self._has_ended = False
        self._exitcode: int | None = None
        self._peak_bytes: int | None = None
        self.may_post = threading.Semaphore(MAX_LINES)
        self._is_closing = False
        self._waiter, self._writer, self._reader = (
            threading.Thread(target=target, name=f"{handle.name}-{what}", daemon=True)
            for target, what in ((self._wait, "end"), (link.write, "out"), (self._read, "in"))
        )

    def start_threads(self) -> None:
        """Raises RuntimeError if there are no more."""
        self._writer.start()
        self._waiter.start()
        self._reader.start()

    def _read(self) -> None:
        """Post what the worker answers; at the last, its end."""
        try:
            while (received := self.link.receive()) is not None:
                if received[0][0] >= frames.OUTPUT and not self._is_closing:
                    self.may_post.acquire()
                self._mailbox.put(FrameArrived(self.handle, *received))
                del received  # hold nothing while waiting
        finally:
            self.kill()  # if it lives, it has closed its end or cannot be understood: it is of no use
            self._waiter.join()
            self._mailbox.put(Lost(self.handle, self._exitcode, self._peak_bytes))

    def _wait(self) -> None:
        """Wait for the process's end, and have the reader come to it."""
        if wait_only(self._process):
            with self._lock:
                self._reap()
        else:
            self._reap()
        self.link.hang_up()

    def _reap(self) -> None:
        self._exitcode, self._peak_bytes = reap(self._process)
        self._has_ended = True

    def kill(self) -> None:
        """Kill the process and, where that can be done, what it started."""
        with self._lock:
            if not self._has_ended:
                if sys.platform == "win32":
                    self._process.kill()
                else:
                    kill_tree(self._process.pid)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        with self._lock:
            if not self._has_ended:
                os.kill(self._process.pid, number)

    def close(self) -> None:
        """Wait for the threads and close the link. The process has ended or was killed."""
        self._is_closing = True
        self.may_post.release()  # nobody takes more
        self._reader.join()
        self.link.end_writing()
        self._writer.join()
        self.link.close()

    def abandon(self) -> None:
        """Undo a start: end the process and those threads that run."""
        self.kill()
        if self._waiter.ident is None:
            self._reap()
            self.link.hang_up()
        else:
            self._waiter.join()
        if self._writer.ident is not None:
            self.link.end_writing()
            self._writer.join()
        self.link.close()


if sys.platform == "win32":

    def start_interpreter(code: str, handles: list[int], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a fresh interpreter that runs this code and inherits these handles under the same numbers."""
        command = interpreter_command(code)
        environment = os.environ | variables
        if getattr(sys, "_base_executable", sys.executable) != sys.executable:
            # In a virtual environment, python.exe starts another python.exe: start that one, as multiprocessing does.
            command[0] = getattr(sys, "_base_executable", sys.executable)
            environment["__PYVENV_LAUNCHER__"] = sys.executable
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": handles})
        for handle in handles:
            os.set_handle_inheritable(handle, True)
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, startupinfo=startup, env=environment)

    def wait_only(process: subprocess.Popen[bytes]) -> bool:
        """Wait for a process's end; it stays itself as long as we hold its handle."""
        process.wait()
        return True

    def reap(process: subprocess.Popen[bytes]) -> tuple[int | None, int | None]:
        """Wait for a process's end. Returns its exit code."""
        return process.wait(), None

else:

    def start_interpreter(code: str, descriptors: list[int], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a fresh interpreter that runs this code and inherits these descriptors under the same numbers.

        It is deaf to Ctrl-C until it calls `quiet_signals`.
        """
        command, environment = interpreter_command(code), os.environ | variables
        with InterruptsBlocked():
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=descriptors, env=environment)

    def wait_only(process: subprocess.Popen[bytes]) -> bool:
        """Wait for a process's end, but leave it its pid. False: that cannot be done here (macOS before 3.13)."""
        if not hasattr(os, "waitid"):
            return False
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        return True

    def reap(process: subprocess.Popen[bytes]) -> tuple[int | None, int | None]:
        """Wait for a process's end and free its pid. Returns its exit code and its peak memory, in bytes."""
        process.returncode = 0  # Popen itself need not wait for it any more
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except ChildProcessError:  # somebody in this program waits for all children
            return None, None
        return os.waitstatus_to_exitcode(status), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# -- in the worker -----------------------------------------------------------------------------------------------------


def main(worker_id: int, inherited: list[int], page: Any, n_bytes: int) -> None:
    """The entry of a worker's process. Never returns."""
    if sys.platform != "win32":
        for number in [*inherited, page]:
            os.set_inheritable(number, False)
        end_with(inherited[1])
    end = WorkerEnd(inherited[0], pool_is_gone)
    try:
        setup: Setup = pickle.loads(end.receive_start())
    except (EOFError, OSError):
        os._exit(1)
    end.start_reading()
    quiet_signals()
    adopt(0, 0, setup.tracker)
    enter_world(setup)
    if sys.platform != "win32":
        record_faults(os.dup(page), setup.n_slots)
    run_worker(worker_id, setup, lambda: (end, open_page(page, n_bytes)))


def pool_is_gone() -> None:
    """End this process, whatever its tasks are doing, and what they started."""
    if sys.platform != "win32":
        kill_tree(os.getpid(), itself=False)
    os._exit(1)


def end_with(lifeline: int) -> None:
    """Have the kernel end this process when the pool's process, which holds the lifeline's other end, is gone.

    Nothing is ever sent through it: the only event is its end, and the default for SIGIO is to end the process. The
    reading thread does as much; but it gets no turn while a task holds the GIL in one long call.
    """
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(AttributeError, OSError):  # not on every Unix; the reading thread remains
            signal.signal(signal.SIGIO, signal.SIG_DFL)
            fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
