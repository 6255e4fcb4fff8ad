"""The keeper: a single-threaded process between the program and a `Process`, as a pool has its template.

It is the parent of what it keeps: it reaps it, tells how it ended, kills trees on request; and when the program's
process ends, however that comes about, it takes along what it keeps and all that this started. It does so also when
what it keeps ends by itself: as a *subreaper* it inherits what that leaves behind, and ends it. There is one keeper for
each process: so it is known whose the orphans are.

With ``fork`` the keeper is a fork of the program, made in `start`, and forks once more: the child has the program's
memory as it was then. With ``spawn`` it is a fresh interpreter, of which the child is a fork. With ``forkserver`` it is
a fork of a fresh interpreter, the *server*, which the processes that run at the same time share.

Messages to a keeper, on its control socket: those to a template. A fresh one gets its only "start" with three
descriptors (tasks, results, news), or four (the way to the resource tracker). What it tells goes over the *news*
socket: ``("started", id, pid)``, ``("exited", id, exitcode, peak_bytes)``, then the end of the file.
"""

from __future__ import annotations

import array
import contextlib
import gc
import itertools
import marshal
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from fullcourt._engines.fresh import spawn_interpreter
from fullcourt._engines.template import Template, fork_quietly, quiet_signals
from fullcourt._os.locks import make_lock
from fullcourt._os.system import become_subreaper, descendants, die_with_parent, send_signal
from fullcourt._transport.inheritance import fork_with_tracker

__all__ = ["Keeper", "KeeperHandle", "fork_keeper", "main", "serve", "serve_keeper", "spawn_keeper"]

THE_CHILD = 1  # a keeper has but one
ids = itertools.count(1)


class Keeper(Template):
    """The keeper's loop, which ends when the process that it keeps has."""

    def __init__(
        self, control: socket.socket, parent_pid: int, fork_child: Callable[[int, list[int]], int], news: socket.socket
    ) -> None:
        super().__init__(control, parent_pid, fork_child)
        self._news = news
        become_subreaper()

    def fork(self, run: Callable[[], object]) -> int:
        """Fork off the child, which runs this and ends. Returns its pid."""
        keeper_pid = os.getpid()
        pid = fork_with_tracker()
        if not pid:
            with contextlib.suppress(BaseException):
                self.leave()
                self._news.close()
                die_with_parent(keeper_pid)
                run()
            os._exit(1)
        return pid

    def sweep(self, below: list[int]) -> None:
        """End all that it has left behind, before its end is told."""
        while found := descendants(os.getpid()):
            for pid in found:
                send_signal(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.waitpid(-1, 0)

    def _tell(self, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):
            self._news.send(marshal.dumps(message))
        if message[0] != "started":
            self.done = True


class KeeperHandle:
    """A keeper, or the server, as the program sees it. All methods may be called from any thread.

    Args:
        control: our end of its control socket.
        pid: its process, for us to reap; 0: it is the server's child.
        server: where it came from.
    """

    def __init__(self, control: socket.socket, pid: int, server: KeeperHandle | None = None) -> None:
        self._control = control
        self._pid = pid
        self._server = server
        self._owner = os.getpid()
        self._lock = make_lock()  # protects what follows; held while the process, which ends, is reaped
        self._n_users = 1
        self._closed = False

    def take(self) -> bool:
        """One more process uses this server. False: it has ended, or is another process's."""
        if self._owner != os.getpid():
            return False
        with self._lock:
            if self._closed or not self._alive():
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
        """A user has ended; with the last one this ends, too, and is waited for."""
        with self._lock:
            self._n_users -= 1
            if self._n_users or self._closed:
                return
            self._closed = True
            self._control.close()
            if self._pid:
                with contextlib.suppress(OSError):
                    os.waitpid(self._pid, 0)
        if self._server is not None:
            self._server.release()

    def give_up(self) -> None:
        """In a forked child: it is the parent's."""
        self._closed = True
        self._control.close()
        if self._server is not None:
            self._server.give_up()

    def order(self, message: tuple[Any, ...], fds: list[int] | None = None) -> bool:
        """Send a message. False: it is gone."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        with self._lock:
            try:
                self._control.sendmsg([marshal.dumps(message)], rights)
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
        return KeeperHandle(control, pid)
    try:
        control.close()
        close()
        handlers = {number: signal.getsignal(number) for number in blocked}
        wakeup = signal.set_wakeup_fd(-1)
        quiet_signals()
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)  # until the child has the program's handling

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
        keeper = Keeper(its_control, program_pid, lambda _id, _fds: 0, news)
        child_pid = keeper.fork(run_as_program)
        close_all_but(0, 1, 2, its_control.fileno(), news.fileno())
        keeper.adopt(THE_CHILD, child_pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        keeper.run()
    finally:
        os._exit(0)


def close_all_but(*kept: int) -> None:
    """In a keeper that was forked off the program: what that has open is the program's and the child's to close.

    Else the keeper would hold the ends of their pipes, and nobody would see that the child has closed one. The objects
    that had these descriptors are not used here any more, nor dropped: the collector rests, and no frame is left.
    """
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(name))


def spawn_keeper(fds: list[int]) -> KeeperHandle:
    """Start a keeper that is a fresh interpreter, with the descriptors for its child. Raises OSError."""
    keeper = start_fresh("main", "fullcourt.process.child")
    keeper.order(("start", THE_CHILD), fds)
    return keeper


def start_fresh(entry: str, module: str) -> KeeperHandle:
    control, its_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        code = f"from fullcourt.process.keeper import {entry}; {entry}(3, {os.getpid()}, {module!r})"
        pid = spawn_interpreter(code, [its_control.fileno()], {})
    except BaseException:
        control.close()
        raise
    finally:
        its_control.close()
    return KeeperHandle(control, pid)


# The server of the processes that were started with ``forkserver`` and run at the same time. It is there for as long as
# one of them is; `_server_lock` protects the variable.
_server: KeeperHandle | None = None
_server_lock = make_lock()


def serve_keeper(fds: list[int], module: str) -> KeeperHandle:
    """Have the server fork off a keeper, with the descriptors for its child. Raises OSError.

    Args:
        fds: those descriptors.
        module: of ours, with the class of processes: what a new server imports before it forks.
    """
    global _server  # noqa: PLW0603  one for all that run, as its name says
    for _ in range(3):
        with _server_lock:
            if _server is None or not _server.take():
                _server = start_fresh("serve", module)
            server = _server
        control, its_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            if server.order(("start", next(ids)), [*fds, its_control.fileno()]):
                return KeeperHandle(control, 0, server)
        finally:
            its_control.close()
        control.close()
        server.release()
    raise OSError("the process that starts processes was killed three times")


# -- in fresh interpreters ---------------------------------------------------------------------------------------------


def prepare(control_fd: int, module: str) -> socket.socket:
    os.set_inheritable(control_fd, False)
    for name in ("fullcourt.process.child", module):  # before the forks, so that they share it
        __import__(name)
    gc.freeze()
    quiet_signals()
    return socket.socket(fileno=control_fd)


def main(control_fd: int, program_pid: int, module: str) -> None:
    """The entry of a keeper that is a fresh interpreter."""
    control = prepare(control_fd, module)
    data, fds = receive(control)
    if data:
        keep(control, program_pid, fds)
    os._exit(0)


def receive(control: socket.socket) -> tuple[bytes, list[int]]:
    """A message with descriptors."""
    data, ancillary, _, _ = control.recvmsg(65536, 128)
    fds = array.array("i")
    for _, _, content in ancillary:
        fds.frombytes(content)
    for fd in fds:
        os.set_inheritable(fd, False)
    return data, fds.tolist()


def keep(control: socket.socket, parent_pid: int, fds: list[int]) -> None:
    """Be a keeper. The parent is whose end is the end."""
    from fullcourt.process.child import run_fresh

    def run() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run_fresh(fds[0], fds[1], fds[3] if len(fds) > 3 else None)

    with control, socket.socket(fileno=fds[2]) as news:  # closed, not dropped: with `-X dev` that would be told of
        keeper = Keeper(control, parent_pid, lambda _id, _fds: 0, news)
        pid = keeper.fork(run)
        for fd in (*fds[:2], *fds[3:]):
            os.close(fd)
        keeper.adopt(THE_CHILD, pid)
        keeper.run()


def serve(control_fd: int, program_pid: int, module: str) -> None:
    """The entry of the server: a template whose workers are keepers, each with a control socket of its own."""
    control = prepare(control_fd, module)
    server_pid = os.getpid()

    def fork_one(_id: int, fds: list[int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        with contextlib.suppress(BaseException):
            server.leave()
            keep(socket.socket(fileno=fds[-1]), server_pid, fds[:-1])
        os._exit(0)

    server = Server(control, program_pid, fork_one)
    server.run()
    os._exit(0)


class Server(Template):
    """The server's loop. Its keepers tell of themselves."""

    def _tell(self, message: tuple[Any, ...]) -> None:
        """Nobody listens."""
