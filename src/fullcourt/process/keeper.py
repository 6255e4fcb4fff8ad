"""The keeper: a single-threaded process between the program and a `Process`, as a pool has its template.

It is the parent of what it keeps: it reaps it, tells how it ended, kills trees on request; and when the program's
process ends, however that comes about, it takes along what it keeps and all that this started. It does so also when
what it keeps ends by itself: nothing that a process started outlives it.

With ``fork`` the keeper is a fork of the program, made in `start`, and forks once more: the child has the program's
memory as it was then. With ``spawn`` it is a fresh interpreter, of which the child is a fork. With ``forkserver`` the
processes that run at the same time share one.

Messages to a fresh keeper, on its control socket: as to a template, with three descriptors (tasks, results, news).
What it tells of a process goes over that one's *news* socket, pickled as the template does: ``("started", id, pid)``,
``("exited", id, exitcode, peak_bytes)``, then the end of the file. So those who wait for one process read nothing that
is another's.
"""

from __future__ import annotations

import array
import contextlib
import gc
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from fullcourt._engines.template import Template, fork_quietly, quiet_signals, spawn_interpreter
from fullcourt._os.system import die_with_peer
from fullcourt._transport.carried import drop_inherited

__all__ = ["Keeper", "KeeperHandle", "fork_keeper", "forkserver", "main", "spawn_keeper"]


class Keeper(Template):
    """The keeper's loop. With ``once`` it ends when the process that it keeps has."""

    def __init__(
        self, control: socket.socket, program_pid: int, fork_child: Callable[[int, list[int]], int], *, once: bool
    ) -> None:
        super().__init__(control, program_pid, fork_child)
        self.news: dict[int, socket.socket] = {}
        self.lifelines: dict[int, socket.socket] = {}  # closed when we die: the kernel then ends the child
        self._once = once

    def fork(self, child_id: int, run: Callable[[], object]) -> int:
        """Fork off a child that runs this and ends. Returns its pid."""
        mine, its = socket.socketpair()
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                self._poll = None  # type: ignore[assignment]
                for sock in (mine, self._control, *self.lifelines.values(), *self.news.values()):
                    sock.close()
                for watch in self._watched:
                    os.close(watch)
                die_with_peer(its.detach())  # which stays open to the end
                run()
            os._exit(1)
        its.close()
        self.lifelines[child_id] = mine
        return pid

    def _tell(self, message: tuple[Any, ...]) -> None:
        child_id = message[1]
        with contextlib.suppress(OSError, KeyError):
            self.news[child_id].send(pickle.dumps(message))
        if message[0] != "started":
            for sockets in (self.news, self.lifelines):
                sock = sockets.pop(child_id, None)
                if sock is not None:
                    sock.close()
            self.done = self._once


class KeeperHandle:
    """A keeper, as the program sees it. All methods may be called from any thread."""

    def __init__(self, control: socket.socket, pid: int, *, forked: bool = False) -> None:
        self.forked = forked
        self._control = control
        self._pid = pid
        self._owner = os.getpid()
        self._lock = threading.Lock()  # protects what follows; held while the keeper, which has ended, is reaped
        self._n_users = 1
        self._closed = False

    def take(self) -> bool:
        """One more process is kept here. False: it has ended, or is another process's."""
        with self._lock:
            if self._closed or self._owner != os.getpid() or not self._alive():
                return False
            self._n_users += 1
            return True

    def _alive(self) -> bool:
        try:
            return bool(self._control.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def release(self) -> None:
        """One of the processes has ended; with the last one the keeper ends, too."""
        with self._lock:
            self._n_users -= 1
            if self._n_users or self._closed:
                return
            self._closed = True
            self._control.close()
            if self._owner == os.getpid():
                with contextlib.suppress(OSError):
                    os.waitpid(self._pid, 0)

    def order(self, message: tuple[Any, ...], fds: list[int] | None = None) -> bool:
        """Send a message. False: the keeper is gone."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with self._lock:
            try:
                self._control.sendmsg([pickle.dumps(message)], rights)
            except OSError:
                return False
            return True


def fork_keeper(news: socket.socket, close: Callable[[], object], run: Callable[[], object]) -> KeeperHandle:
    """Fork a keeper off this process that forks a child, which runs this.

    Args:
        news: the socket over which it tells of the child.
        close: closes what neither it nor the child shall have of the caller's.
        run: what the child does; with the program's handling of signals.

    Raises:
        NotSupported: there are sub-interpreters in this process.
        OSError: no process or descriptor can be had.
    """
    program_pid = os.getpid()
    control, its_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    blocked = (signal.SIGINT, signal.SIGTERM)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)  # the keeper is to be asked, not interrupted
    try:
        pid = fork_quietly()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        control.close()
        its_control.close()
        raise
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        its_control.close()
        return KeeperHandle(control, pid, forked=True)
    try:
        control.close()
        close()
        handlers = {number: signal.getsignal(number) for number in blocked}
        wakeup = signal.set_wakeup_fd(-1)
        quiet_signals()

        def run_as_program() -> None:
            for number, handler in handlers.items():
                if handler is not None:
                    signal.signal(number, handler)
            if wakeup >= 0:  # an event loop's, of the program; this process has none
                signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if collects:
                gc.enable()
            run()

        collects = gc.isenabled()
        gc.disable()  # what the keeper shares with the program is not to be copied
        keeper = Keeper(its_control, program_pid, lambda _id, _fds: 0, once=True)
        keeper.news[1] = news
        keeper.adopt(1, keeper.fork(1, run_as_program))
        drop_inherited()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        keeper.run()
    finally:
        os._exit(0)


def spawn_keeper(*, once: bool) -> KeeperHandle:
    """Start a keeper that is a fresh interpreter. Raises OSError."""
    control, its_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        code = f"from fullcourt.process.keeper import main; main(3, {os.getpid()}, {once})"
        pid = spawn_interpreter(code, [its_control.fileno()])
    except BaseException:
        control.close()
        raise
    finally:
        its_control.close()
    return KeeperHandle(control, pid)


# The keeper that the processes share that were started with ``forkserver`` and run at the same time. It is there for
# as long as one of them is; `_server_lock` protects the variable.
_server: KeeperHandle | None = None
_server_lock = threading.Lock()


def forkserver() -> KeeperHandle:
    """The keeper that processes share, for one more of them; started where there is none."""
    global _server  # noqa: PLW0603  one for all that run, as its name says
    with _server_lock:
        if _server is None or not _server.take():
            _server = spawn_keeper(once=False)
        return _server


def main(control_fd: int, program_pid: int, once: bool) -> None:
    """The entry of a keeper that is a fresh interpreter."""
    from fullcourt.process.child import run_fresh

    os.set_inheritable(control_fd, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=control_fd)
    quiet_signals()
    gc.collect()
    gc.freeze()

    def fork_child(child_id: int, fds: list[int]) -> int:
        tasks, results = fds[0], fds[1]
        keeper.news[child_id] = socket.socket(fileno=os.dup(fds[2]))

        def run() -> None:
            os.close(fds[2])
            signal.signal(signal.SIGINT, signal.default_int_handler)
            run_fresh(tasks, results)

        return keeper.fork(child_id, run)

    keeper = Keeper(control, program_pid, fork_child, once=once)
    keeper.run()
    os._exit(0)
