"""The template: a single-threaded process that starts the workers, watches over them, and ends them.

With ``fork`` it is a fork of the program, made when the pool is opened; with ``forkserver`` a fresh interpreter that
has done the preloads: both fork the workers, so replacing one takes a millisecond or two and never forks a program full
of threads. With ``spawn`` it starts each worker as a fresh interpreter.

It is the workers' parent: it reaps them and tells the pool how each ended and what memory it took. It ends when the
pool says so or when the pool's process ends, however that comes about, and takes with it all workers and all that
these started. It cannot be interrupted from the keyboard.

Messages on its socket (marshalled tuples). From the pool: ``("start", worker_id)`` with three descriptors (tasks,
results, page), ``("kill", worker_id, signal)``, ``("import", names)``, ``("stop",)``. To the pool:
``("started", worker_id, pid)``, ``("exited", worker_id, exitcode, peak_bytes)``, ``("failed", worker_id, problem)``.
"""

from __future__ import annotations

import _signal  # the C modules under `signal` and `socket`
import _socket
import marshal
import os
import select
import sys

from fullcourt._engines.fresh import spawn_interpreter
from fullcourt._os.masks import InterruptsBlocked, unblock_interrupts
from fullcourt._os.orphans import Orphans
from fullcourt._os.system import become_subreaper, descendants, kill_tree, open_pidfd, send_signal

# The first workers of a fresh template that spawns wait for its start: so it imports little of the standard library,
# not even `typing` or `pickle`. That halves the time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import Any

    from fullcourt._engines.setup import Setup

    Order = tuple[int, list[int]]  # a worker's number; its descriptors for tasks, results and page

__all__ = ["Seed", "Template", "fork_quietly", "fork_template", "main", "quiet_signals"]


NOT_NEEDED = b"-"
LONGEST_ORDER = 1 << 20


class Template:
    """The template's loop. ``start_worker(worker_id, fds)`` returns the new worker's pid, in the template only."""

    def __init__(self, control: _socket.socket, pool_pid: int, start_worker: Callable[[int, list[int]], int]) -> None:
        self._control = control
        self._start_worker = start_worker
        self._pool_pid = pool_pid
        self._pids: dict[int, int] = {}  # worker id: pid
        self._watched: dict[int, int] = {}  # pidfd: worker id
        self._poll = select.poll()
        self._untold: list[bytes] = []  # what the pool had no room for
        self._unstarted: list[Order] = []
        self._orphans: Orphans | None = None  # from `run` on
        self.done = False  # set by a subclass that ends of itself

    def run(self, first: Sequence[Order] = ()) -> None:
        """Serve until the pool's end; then end all workers.

        ``first``: workers that are started at once, before what serving takes is prepared.
        """
        become_subreaper()  # before there is anything that could be orphaned
        poll = self._poll
        try:
            self._orphans = orphans = Orphans()  # where the program ignores SIGCHLD, the kernel would reap its children
            poll.register(self._control, select.POLLIN)
            self._unstarted = list(first)
            while self._unstarted:
                self._start(*self._unstarted.pop(0))
            poll.register(orphans.fd, select.POLLIN)
            pool_fd = open_pidfd(self._pool_pid)
            if pool_fd >= 0:
                poll.register(pool_fd, select.POLLIN)
            while not self.done and os.getppid() == self._pool_pid:
                for fd, event in poll.poll():
                    if fd == pool_fd:
                        return
                    if fd == self._control.fileno():
                        if event & select.POLLOUT:
                            self._tell_on()
                        if event & ~select.POLLOUT and not self._obey():
                            return
                    elif fd in self._watched:
                        self._has_ended(fd)
                    elif fd == orphans.fd:
                        orphans.reap(self._pids.values())
        finally:
            self._end_all()

    def _obey(self) -> bool:
        try:
            data, ancillary, _, _ = self._control.recvmsg(65536, 128)
        except OSError:
            return False
        if not data:
            return False
        message = marshal.loads(data)
        if message[0] == "start":
            packed = b"".join(content for _, _, content in ancillary)
            fds = [int.from_bytes(packed[i : i + 4], sys.byteorder) for i in range(0, len(packed), 4)]
            self._start(message[1], fds)
        elif message[0] == "kill":
            pid = self._pids.get(message[1], 0)
            if pid and message[2] == _signal.SIGKILL:
                kill_tree(pid)
            elif pid:
                send_signal(pid, message[2])
        elif message[0] == "import":
            for name in message[1]:
                __import__(name)
        else:
            return False
        return True

    def _start(self, worker_id: int, fds: list[int]) -> None:
        try:
            pid = self._start_worker(worker_id, fds)
        except OSError as error:
            self._tell(("failed", worker_id, str(error)))
            return
        finally:
            for fd in fds:
                os.close(fd)
        self.adopt(worker_id, pid)

    def leave(self) -> None:
        """In a worker that was just forked: give up what is the template's and other workers'."""
        if self._orphans is not None:
            self._orphans.give_up()
        self._control.close()
        for watch in self._watched:
            os.close(watch)
        for _, fds in self._unstarted:
            for fd in fds:
                os.close(fd)

    def adopt(self, worker_id: int, pid: int) -> None:
        """Look after a child of this process from now on."""
        self._pids[worker_id] = pid
        self._tell(("started", worker_id, pid))
        watch = open_pidfd(pid)
        if watch < 0:  # no descriptor is left: nobody would learn of its end
            kill_tree(pid)
            self._reap(worker_id)
            return
        self._watched[watch] = worker_id
        self._poll.register(watch, select.POLLIN)

    def _has_ended(self, watch: int) -> None:
        worker_id = self._watched.pop(watch)
        self._poll.unregister(watch)
        os.close(watch)
        self._reap(worker_id)

    def _reap(self, worker_id: int) -> None:
        pid = self._pids.pop(worker_id)
        below = descendants(pid)
        _, status, usage = os.wait4(pid, 0)
        self.sweep(below)
        self._tell(("exited", worker_id, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024))

    def sweep(self, below: list[int]) -> None:
        """A child has ended, and this was found below it: end it, too."""
        for child in below:
            send_signal(child, _signal.SIGKILL)

    def _tell(self, message: tuple[Any, ...]) -> None:
        self._untold.append(marshal.dumps(message))
        self._tell_on()

    def _tell_on(self) -> None:
        """Say what there is room for. To wait for room would be a deadlock: the pool may be waiting for us to read."""
        untold = self._untold
        try:
            while untold:
                self._control.send(untold[0], _socket.MSG_DONTWAIT)
                del untold[0]
        except BlockingIOError:
            self._poll.modify(self._control, select.POLLIN | select.POLLOUT)
        except OSError:
            untold.clear()  # nobody listens any more
        else:
            self._poll.modify(self._control, select.POLLIN)

    def _end_all(self) -> None:
        """Kill the workers, all that they started, and what of it fell to us as orphans.

        What is just being forked, or falls to us while we look, a look may miss; then a child of ours has just been
        killed, so its end is followed by another look.
        """
        for pid in self._pids.values():
            kill_tree(pid)
        try:
            while True:
                for child in descendants(os.getpid()):
                    send_signal(child, _signal.SIGKILL)
                os.waitpid(-1, 0)
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        except ChildProcessError:
            pass  # nobody is left


def ignore(number: int, frame: object) -> None:
    """A signal handler that does nothing."""


def quiet_signals() -> None:
    """Ctrl-C reaches the whole foreground group; what it means for the workers is the pool's to say.

    A handler that does nothing, not SIG_IGN: programs that a task starts would inherit being deaf.
    """
    _signal.signal(_signal.SIGINT, ignore)
    _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    _signal.set_wakeup_fd(-1)
    unblock_interrupts()


class Seed:
    """A template that is forked before it is known what its workers will be like, and waits until it is.

    For a pool that first runs tasks in threads of this process: a fork in their midst would have all the locks that
    they hold, those of C libraries too, held for ever. It ends with this process, or with :meth:`close`.

    Args:
        setup: what is known by now.

    Raises:
        OSError: there is no process or descriptor to be had.
        NotSupported: as :func:`fork_quietly`.
    """

    def __init__(self, setup: Setup) -> None:
        import socket

        from fullcourt._transport.codec import MainAsItIs

        self._owner = setup.pool_pid = os.getpid()
        self.main = MainAsItIs()
        setup.shares_main = True
        self._control, template_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._pid = fork_template(template_end, [self._control], setup, waits=True)
        except BaseException:
            self._control.close()
            raise
        finally:
            template_end.close()

    def is_alive(self) -> bool:
        """Whether it can still begin."""
        poll = select.poll()
        poll.register(self._control, 0)  # a hang-up is always told
        return not poll.poll(0)

    def begin(self, setup: Setup) -> tuple[socket.socket, int]:
        """Have it be the template of workers like this. Returns the pool's end of its socket, and its pid.

        Raises:
            OSError: it is gone.
        """
        import pickle

        self._control.send(pickle.dumps((setup.n_slots, setup.face, setup.output)))
        return self._control, self._pid

    def close(self) -> None:
        """End it: it was not needed. In a fork of the process that made it, let go of it."""
        is_ours = os.getpid() == self._owner
        try:
            if is_ours:
                self._control.send(NOT_NEEDED)  # a fork of this process may hold the socket open
        except OSError:
            pass  # it is gone
        self._control.close()
        try:
            if is_ours:
                os.waitpid(self._pid, 0)
        except OSError:
            pass  # somebody else has reaped it


def was_begun(control: _socket.socket, pool_pid: int, setup: Setup) -> bool:
    """In a seed: wait to be told what the workers will be like. False: it is not needed, or its pool is gone."""
    import pickle

    poll = select.poll()
    poll.register(control, select.POLLIN)
    pool_fd = open_pidfd(pool_pid)
    if pool_fd >= 0:
        poll.register(pool_fd, select.POLLIN)
    if os.getppid() != pool_pid or any(fd == pool_fd for fd, _ in poll.poll()):
        return False
    if pool_fd >= 0:
        os.close(pool_fd)
    order = control.recv(LONGEST_ORDER)
    if not order or order == NOT_NEEDED:
        return False
    setup.n_slots, setup.face, setup.output = pickle.loads(order)
    return True


def fork_template(
    control: _socket.socket,
    pool_ends: Sequence[_socket.socket],
    setup: Setup,
    *,
    first: Sequence[Order] = (),
    waits: bool = False,
) -> int:
    """Fork a template off this process. Returns its pid; in the template it never returns.

    Args:
        control: its end of the socket between them.
        pool_ends: the pool's end of that, and of other sockets that the template must not have.
        setup: what its workers need to know.
        first: the workers that it starts at once.
        waits: whether it is a seed, and waits for what is still to be known.

    Raises:
        NotSupported: as :func:`fork_quietly`.
    """
    from fullcourt._os.budget import libraries_limited
    from fullcourt._transport.carried import drop_inherited

    pool_pid = os.getpid()
    serve = server(setup)
    with libraries_limited(setup.share), InterruptsBlocked():
        pid = fork_quietly()
        if not pid:
            quiet_signals()
    if pid:
        return pid
    try:
        for sock in pool_ends:
            sock.close()
        drop_inherited(kept=setup.initargs)
        os.environ.update(setup.environment)
        if not waits or was_begun(control, pool_pid, setup):
            serve(control, pool_pid, first)
    finally:
        os._exit(0)


def fork_quietly() -> int:
    """Fork this process, with its streams flushed before. Returns what ``os.fork`` does.

    Raises:
        NotSupported: there are sub-interpreters in this process; the child would have to destroy them, and crashes.
    """
    interpreters = sys.modules.get("concurrent.interpreters")
    if interpreters is not None and len(interpreters.list_all()) > 1:
        from fullcourt.errors import NotSupported

        raise NotSupported(
            "this process has sub-interpreters, and Python cannot fork such a process safely. Close the pool of "
            'interpreters first, or use start_method="forkserver" or "spawn".'
        )
    flush_all()
    import warnings

    from fullcourt._transport.inheritance import fork_with_tracker

    with warnings.catch_warnings():
        # 3.12 warns of forking where threads run; the pool does so once, when it is opened, and the docs say what to
        # do about it (start_method="forkserver").
        warnings.simplefilter("ignore", DeprecationWarning)
        return fork_with_tracker()


def flush_all() -> None:
    """What waits in a buffer must not be inherited: each process would write it."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except (AttributeError, OSError, ValueError):
            continue  # there is none, or it is closed


def server(setup: Setup) -> Callable[[_socket.socket, int, Sequence[Order]], None]:
    """Import what a template and its workers need, before any fork. Returns what makes this process a template."""
    import gc

    from fullcourt._engines.setup import preload
    from fullcourt._engines.worker_process import worker_main
    from fullcourt._transport.inheritance import fork_with_tracker

    def serve(control: _socket.socket, pool_pid: int, first: Sequence[Order]) -> None:
        preload(setup)
        flush_all()
        # The collector must not touch, and so copy, what workers share with us. Nor does it collect before: that would
        # copy what we share with the program, and take 20 ms.
        gc.freeze()
        template_pid = os.getpid()

        def fork_worker(worker_id: int, fds: list[int]) -> int:
            pid = fork_with_tracker()
            if pid:
                return pid
            try:
                template.leave()
                worker_main(worker_id, fds[0], fds[1], fds[2], setup, template_pid)
            finally:
                os._exit(1)

        template = Template(control, pool_pid, fork_worker)
        template.run(first)

    return serve


def main(
    control_fd: int, setup_fd: int, method: str, pool_pid: int, flags: list[str], n_inherited: int, tracker: int | None
) -> None:
    """The entry of a template that is a fresh interpreter. ``flags``: of the program's interpreter."""
    control = _socket.socket(fileno=control_fd)
    quiet_signals()
    inherited = range(setup_fd + 1, setup_fd + 1 + n_inherited)
    if method == "forkserver":
        import pickle

        from fullcourt._engines.setup import enter_world, read_all
        from fullcourt._transport.inheritance import adopt

        adopt(inherited.start, n_inherited, tracker)
        setup: Setup = pickle.loads(read_all(setup_fd))
        enter_world(setup)
        server(setup)(control, pool_pid, ())
        os._exit(0)
    for fd in inherited:
        os.set_inheritable(fd, False)

    def spawn_worker(worker_id: int, fds: list[int]) -> int:
        code = f"from fullcourt._engines.worker_process import spawned; spawned({worker_id})"
        return spawn_interpreter(code, [*fds, setup_fd, *inherited], {}, flags)  # the environment is ours already

    Template(control, pool_pid, spawn_worker).run()
    os._exit(0)
