"""A process that was started, as the program sees it: its keeper, its news, its outcome.

Who waits, waits on the news socket: it is readable when the process has ended. Nobody needs to wait for a process to
be able to end: its answer, whatever its size, is one frame with a memory block, and fits into the link.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import pickle
import select
import signal
import socket
import sys
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

from fullcourt._engines.setup import Setup, here
from fullcourt._engines.worker_process import be_a_child
from fullcourt._os.inherited import note_holder
from fullcourt._os.interrupts import Shield
from fullcourt._os.locks import make_lock
from fullcourt._os.sockets import Part
from fullcourt._os.waits import bounded, deadline
from fullcourt._transport import frames
from fullcourt._transport.carried import give_away
from fullcourt._transport.codec import Codec, decode
from fullcourt._transport.inheritance import tracker_descriptor
from fullcourt._transport.link import WorkerEnd, make_frame, make_link, read_body
from fullcourt._transport.mainspace import adopt_main
from fullcourt._transport.remote_errors import add_note, load_exception
from fullcourt.errors import ProcessDied, RemoteTraceback, exit_name
from fullcourt.process.child import run_process
from fullcourt.process.keeper import THE_CHILD, KeeperHandle, fork_keeper, serve_keeper, spawn_keeper

__all__ = ["Running", "running"]

# The processes of this program that may still run, so that its end can wait for them or end them.
running: set[Running] = set()
# Those that have failed; if nobody has asked for the error by the program's end, it is told then.
failed: weakref.WeakSet[Running] = weakref.WeakSet()


# How long a forked sibling waits for news of a start; an interpreter needs a tenth of that.
PATIENCE_S = 1.0


class Running:
    """One child. All methods may be called from any thread of the process that started it."""

    def __init__(self, name: str, daemon: bool, *, tells: bool) -> None:
        self.name = name
        self.tells = tells  # the child has said itself what it raised
        self.daemon = daemon
        self.owner = os.getpid()
        self.exitcode: int | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.retrieved = False  # somebody has seen the error
        self._pid: int | None = None
        self._peak_bytes: int | None = None
        self._lock = make_lock()  # protects what follows and above; held while the outcome is taken in
        self._over = False
        news, self._its_news = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._news = Part(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=news.detach())
        self._link, self._tasks, self._results = make_link()
        self._keeper: KeeperHandle | None = None
        note_holder(self)

    # -- starting --------------------------------------------------------------------------------------------------

    def fork(self, process: Any) -> None:
        """Start it as a fork of this process, as it is now: nothing is pickled."""

        def close() -> None:
            self._news.close()
            self._link.close()

        def run() -> None:
            running.clear()
            self._its_news.close()
            be_a_child(self.name)
            if process._authkey is not None:
                from multiprocessing.process import current_process

                current_process().authkey = process._authkey
            adopt_main()
            # of the link's two directions, a fork needs but one
            run_process(process, WorkerEnd(socket.socket(), self._results, spins=False), Codec(shares_main=True))

        with self._undone_on_failure():
            self._keeper = fork_keeper(self._its_news, close, run)
        give_away(process.__dict__)

    def start_fresh(self, process: Any, method: str) -> None:
        """Start it in a fresh interpreter, or as a fork of one. Raises PicklingError."""
        with self._undone_on_failure():
            payload, buffers = Codec(runs_main=True).encode(process)
            setup = Setup(1, self.name, sys_path=list(sys.path), argv=list(sys.argv), cwd=here())
            if process._authkey is not None or "multiprocessing.process" in sys.modules:
                setup.authkey = bytes(process.authkey)
            frame = make_frame(frames.CALL, 0, 0, 0, 1, 0.0, pickle.dumps(setup), payload, buffers)
            self._link.send(frame)
            fds = [self._tasks.fileno(), self._results.fileno(), self._its_news.fileno()]
            tracker = tracker_descriptor()
            if tracker is not None:
                fds.append(tracker)
            self._keeper = serve_keeper(fds, process._home) if method == "forkserver" else spawn_keeper(fds)

    @contextlib.contextmanager
    def _undone_on_failure(self) -> Any:
        try:
            yield
        except BaseException:
            self._close()
            raise
        finally:
            self._its_news.close()
            self._results.close()
            # The child's alone: of one that is killed before it has read its arguments, they are gone, and its queues
            # with them.
            self._tasks.close()
        running.add(self)

    def _close(self) -> None:
        self._news.close()
        self._link.close()

    # -- waiting ---------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it is known to have ended; :meth:`poll` finds out."""
        return self._over

    def fileno(self) -> int:
        """The descriptor that is readable once the process has ended."""
        if self.owner == os.getpid():
            self.pid()
        return self._news.fileno()

    def pid(self) -> int | None:
        """Its process id. Waits until it has one. In a forked sibling: None, where only the parent has heard of it."""
        if self.owner != os.getpid():
            return self._pid if self._pid is not None else self._look_for_pid()
        if self._pid is None:
            # Under the lock: else another thread could take the news for which this one waits, until the next ones.
            with self._lock:
                while not self._over and self._pid is None:
                    self._wait_for_news(None)
                    self._take_news()
        return self._pid

    def _look_for_pid(self) -> int | None:
        """In a forked sibling: look at the news, and leave them to the parent."""
        if not self._wait_for_news(PATIENCE_S):
            return None
        try:
            data = self._news.recv(4096, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except OSError:
            return None
        message: tuple[Any, ...] = marshal.loads(data) if data else ("exited",)
        if message[0] == "started":
            self._pid = message[2]
        return self._pid

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Whether it has ended, or does so within so many seconds (None: whenever). In a forked sibling: as of then."""
        if self.owner != os.getpid():  # the news are the parent's to take
            return self._over
        until = deadline(timeout)
        while not self._over:
            left = None if until is None else max(0.0, until - monotonic())
            if not self._wait_for_news(left) and until is not None and monotonic() >= until:
                return False
            with self._lock:
                self._take_news()
        return True

    def _wait_for_news(self, timeout: float | None) -> bool:
        """Wait for the socket to be readable; it is so for ever from the process's end on."""
        try:
            poll = select.poll()
            poll.register(self._news, select.POLLIN)
            return bool(poll.poll(None if timeout is None else int((bounded(timeout) or 0.0) * 1000 + 0.999)))
        except (OSError, ValueError):  # closed by another thread, which knows that it is over
            return True

    def _take_news(self) -> None:
        """Under the lock."""
        with Shield():
            while not self._over:
                try:
                    data = self._news.recv(4096, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    return
                except OSError:
                    data = b""
                # the end of the file: the keeper was killed, and the kernel kills with it what it kept
                message: tuple[Any, ...] = marshal.loads(data) if data else ("exited", 0, -signal.SIGKILL, None)
                if message[0] == "started":
                    self._pid = message[2]
                elif message[0] == "exited":
                    self._end(message[2], message[3])
                else:
                    self.error = message[2]
                    self._end(1, None)

    def _end(self, exitcode: int, peak_bytes: int | None) -> None:
        """It has ended: take in what it left. Under the lock."""
        self._peak_bytes = peak_bytes
        try:
            self._read_answer()
        finally:
            if self.error is None and not self._answered:
                self.error = self._death(exitcode)
                self.retrieved = True  # the exit code tells it, too
            self._link.close()
            keeper, self._keeper = self._keeper, None
            if keeper is not None:
                keeper.release()
            self.exitcode = exitcode
            self._over = True
            if self.error is not None and not self.retrieved:
                failed.add(self)
            running.discard(self)

    _answered = False

    def _read_answer(self) -> None:
        if self.error is not None:
            return
        try:
            received = self._link.receive()
        except BlockingIOError:  # somebody else still holds its end
            received = None
        if received is None:
            return
        self._answered = True
        fields, data, attached = received
        try:
            body = read_body(data, fields, attached)
            if fields[0] == frames.ERROR:
                self.error = load_exception(body.payload)
                # Ctrl-C reaches the whole foreground group: the program has its own to tell of
                self.retrieved = self.tells or isinstance(self.error, (SystemExit, KeyboardInterrupt))
            else:
                self.result = decode(body.payload, body.buffers, body.descriptors)
        except BaseException as error:  # noqa: BLE001  reading is user code; it is the outcome, then
            add_note(error, "fullcourt: the process ran, but its result could not be read back in this process")
            self.error = error

    def _death(self, exitcode: int) -> BaseException:
        message = f"Process {self.name!r} (pid {self._pid}) {exit_name(exitcode)} before it gave a result."
        if self._peak_bytes:
            message += f" Its peak memory was {self._peak_bytes / 2**20:.0f} MiB."
        if exitcode == -signal.SIGKILL:
            message += " The kernel's out-of-memory killer does this, or somebody who sent SIGKILL."
        elif exitcode >= 0:
            message += " Something in it called os._exit, or ended the interpreter in another hard way."
        return ProcessDied(message, pid=self._pid or 0, exitcode=exitcode, peak_bytes=self._peak_bytes)

    # -- ending ----------------------------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Send it a signal; with SIGKILL, what it started is killed, too. Nothing happens if it has ended."""
        keeper = self._keeper
        if keeper is not None:
            keeper.order(("kill", THE_CHILD, int(number)))

    def give_up(self) -> None:
        """In a forked child: close what is the parent's, and tell nobody."""
        running.discard(self)
        self._news.close()
        self._link.give_up()
        if self._keeper is not None:
            self._keeper.give_up()

    def close(self) -> None:
        """Give back the last descriptor. It has ended."""
        with self._lock:
            self._news.close()

    def report(self, write: Callable[[str], object]) -> None:
        """If it failed and nobody has seen the error, say so: nothing is dropped."""
        if self.error is None or self.retrieved or self.owner != os.getpid():
            return
        self.retrieved = True
        cause = self.error.__cause__
        text = cause.text if isinstance(cause, RemoteTraceback) else f"{self.error!r}\n"
        write(f"Process {self.name!r} (pid {self._pid}) failed, and nobody asked for its result:\n{text}")

    def __del__(self) -> None:
        try:  # at the interpreter's end modules are emptied, contextlib's name too
            self.report(sys.stderr.write)
            if self.owner == os.getpid():
                self._news.close()
            else:  # a forked child has let go of its parent's processes
                self.give_up()
        except Exception:  # noqa: BLE001
            pass


def end_all() -> None:
    """The program ends: daemonic processes are killed, the others waited for, as the standard library does."""
    mine = [child for child in running if child.owner == os.getpid()]
    for child in mine:
        if child.daemon:
            child.signal(signal.SIGKILL)
    try:
        for child in mine:
            child.poll(None)
    except BaseException:
        for child in mine:
            child.signal(signal.SIGKILL)
        for child in mine:
            child.poll(5.0)
        raise
    for child in list(failed):
        child.report(sys.stderr.write)


def prune() -> None:
    """Take in the ends that nobody waited for."""
    for child in list(running):
        if child.owner == os.getpid():
            child.poll()
