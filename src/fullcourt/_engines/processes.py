"""Worker processes, started by a template process: ``fork``, ``forkserver``, ``spawn``."""

from __future__ import annotations

import array
import contextlib
import marshal
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

from fullcourt import errors
from fullcourt._engines.fresh import own_flags, spawn_interpreter
from fullcourt._engines.linked import Broken, Ends, Event, Handle, LinkedEngine, Lost, Orphaned
from fullcourt._engines.setup import Setup, write_setup
from fullcourt._engines.template import Seed, fork_template
from fullcourt._os.budget import worker_environment
from fullcourt._os.system import open_pidfd
from fullcourt._transport import frames
from fullcourt._transport.codec import Codec
from fullcourt._transport.inheritance import Inheritance
from fullcourt._transport.link import Attached, make_frame
from fullcourt.errors import NotSupported

__all__ = ["ProcessEngine"]

# So many start with the template: each that is forked must close what the later ones are given.
N_FIRST = 16


class ProcessEngine(LinkedEngine):
    """Runs workers as processes.

    Cost of a worker: with fork and forkserver 1 to 2 ms, with spawn an interpreter's start.
    """

    def __init__(self, n_slots: int, name: str, method: str, setup: Setup) -> None:
        self._method = method
        self._setup = setup
        super().__init__(n_slots, name, Codec(runs_main=method != "fork"), spins=setup.spins)
        self._control: socket.socket | None = None
        self._template_pid = 0
        self._template_exit = 0  # how the last template ended
        self._ending = False
        self._restarts = 0
        self.seed: Seed | None = None  # a template that was forked already; with "fork"
        self._is_warm = False  # whether the template has what nested tasks need

    # -- the template ----------------------------------------------------------------------------------------------

    def open(self, first: Sequence[int] = ()) -> None:
        """Start the template. One that is forked now starts the first workers before it prepares to serve."""
        setup = self._setup
        setup.pool_pid = os.getpid()
        self._is_warm = False
        setup.output = self.settings_now()
        if self.seed is not None:
            seed, self.seed = self.seed, None
            with contextlib.suppress(OSError):  # somebody has just killed it
                self.codec.share_main(seed.main)
                control, self._template_pid = seed.begin(setup)
                self._listen(control)
                return
            seed.close()
        setup.environment = worker_environment(setup.share, os.environ)
        control, template_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            if self._method == "fork":
                setup.shares_main = True
                self.codec.share_main()
                self._fork(control, template_end, first)
            else:
                self._template_pid = self._start_fresh(template_end)
        except BaseException:
            control.close()
            raise
        finally:
            template_end.close()
        self._listen(control)

    def _fork(self, control: socket.socket, template_end: socket.socket, first: Sequence[int]) -> None:
        begun: dict[int, Ends] = {}
        try:
            with contextlib.suppress(OSError):  # `start` is called for the rest, and tells what is wrong
                for worker_id in first[:N_FIRST]:
                    begun[worker_id] = self._make_ends()
            pool_ends = [control, *(sock for ends in begun.values() for sock in ends.link.own_sockets)]
            orders = [(worker_id, ends.given) for worker_id, ends in begun.items()]
            self._template_pid = fork_template(template_end, pool_ends, self._setup, first=orders)
            for worker_id, ends in begun.items():
                self._add(worker_id, ends)
        except BaseException:
            with contextlib.suppress(OSError):  # if it was forked: a fork of this process may hold the socket open
                control.send(marshal.dumps(("stop",)))
            for worker_id, ends in begun.items():
                if worker_id in self.handles:
                    self._remove(self.handles[worker_id])
                ends.link.close()
            raise
        finally:
            for ends in begun.values():
                ends.close_given()

    def _listen(self, control: socket.socket) -> None:
        self._control = control  # blocking for orders, which several threads may give; read with MSG_DONTWAIT
        self._watch(control.fileno(), self._hear)

    def _start_fresh(self, template_end: socket.socket) -> int:
        inheritance = Inheritance(renumbered=True)
        setup_fd, _ = write_setup(self._setup, self.codec, inheritance)
        try:
            flags, descriptors = own_flags(), inheritance.descriptors
            arguments = (3, 4, self._method, os.getpid(), flags, len(descriptors), inheritance.tracker)
            code = f"from fullcourt._engines.template import main; main(*{arguments!r})"
            handed_on = [template_end.fileno(), setup_fd, *descriptors]
            return spawn_interpreter(code, handed_on, self._setup.environment, flags)
        finally:
            os.close(setup_fd)

    def _hear(self, events: list[Event]) -> None:
        """Messages from the template."""
        control = self._control
        while control is not None:
            try:
                data = control.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._template_lost(events)
                return
            what, worker_id, *rest = marshal.loads(data)
            handle = self.handles.get(worker_id)
            if handle is None:
                continue
            if what == "started":
                handle.pid = rest[0]
                handle.pidfd = open_pidfd(rest[0])
            elif what == "exited":
                self._drain(handle, events)
                self._remove(handle)
                handle.exitcode = rest[0]
                events.append(Lost(handle, rest[0], rest[1]))
            else:
                self._remove(handle)
                events.append(Lost(handle, None, None))
                events.append(Broken(errors.PoolBroken(f"a worker process could not be started: {rest[0]}")))

    def _template_lost(self, events: list[Event]) -> None:
        """The template is gone (killed from outside). A new one is started, and workers that outlived it are replaced.

        They finish what they were sent, and end; a pidfd tells when, since nobody is left to reap them. Of one that was
        just being started nobody knows whether it runs: it tells its pid when it is ready, and its link when it ends.
        """
        assert self._control is not None
        self._unwatch(self._control.fileno())
        self._control.close()
        self._control = None
        self._reap_template()
        for handle in list(self.handles.values()):
            if handle.orphaned:
                continue
            handle.orphaned = True
            if handle.pidfd >= 0:
                self._watch(handle.pidfd, partial(self._orphan_ended, handle))
            elif handle.at_end:
                self._orphan_ended(handle, events)
                continue
            events.append(Orphaned(handle))
        if self._ending:
            return
        self._restarts += 1
        if self._restarts > 10:
            events.append(
                Broken(
                    errors.PoolBroken(
                        f"the process that starts the workers ended ten times in a row; the last one "
                        f"{errors.exit_name(self._template_exit)}; giving up"
                    )
                )
            )
            return
        try:
            self.open()
        except (OSError, NotSupported) as error:
            events.append(
                Broken(errors.PoolBroken(f"the process that starts the workers could not be started: {error}"))
            )

    def _orphan_ended(self, handle: Handle, events: list[Event]) -> None:
        self._unwatch(handle.pidfd)
        self._drain(handle, events)
        self._remove(handle)
        # One that was never ready has most likely died with its template, or was not started any more.
        events.append(Lost(handle, None if handle.ready else self._template_exit or -signal.SIGKILL, None))

    def worker_ready(self, handle: Handle, pid: int) -> None:
        """A worker has said that it is ready. Its template has said before that it was started, unless it died."""
        self._restarts = 0  # the template does its work
        if handle.orphaned and handle.pidfd < 0 and handle.id in self.handles:
            handle.pid = pid
            handle.pidfd = open_pidfd(pid)
            if handle.pidfd >= 0:
                self._watch(handle.pidfd, partial(self._orphan_ended, handle))
                if self._ending:
                    self.kill(handle.id)

    def _order(self, message: tuple[Any, ...], fds: list[int] | None = None) -> bool:
        control = self._control
        if control is None:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            control.sendmsg([marshal.dumps(message)], rights)
        except OSError:
            return False
        return True

    def _reap_template(self) -> None:
        if self._template_pid:
            with contextlib.suppress(OSError):
                self._template_exit = os.waitstatus_to_exitcode(os.waitpid(self._template_pid, 0)[1])
            self._template_pid = 0

    # -- workers ---------------------------------------------------------------------------------------------------

    def open_replies(self, handle: Handle, fd: Attached) -> None:
        super().open_replies(handle, fd)
        if not self._is_warm and self._method != "spawn":  # workers to come need that, too
            self._is_warm = self._order(("import", ["fullcourt.pool", "fullcourt._engines.inside", "cloudpickle"]))

    def start(self, worker_id: int) -> None:
        if worker_id in self.handles:
            return  # it came with the template
        ends = self._make_ends()
        try:
            self._add(worker_id, ends)
        except BaseException:
            ends.close()
            raise
        try:
            self._order(("start", worker_id), ends.given)
            self._greet(ends.link)
        finally:
            ends.close_given()

    def stop(self, worker_id: int) -> None:
        handle = self.handles.get(worker_id)
        if handle is not None:
            for _ in range(self.n_slots):
                handle.link.send(make_frame(frames.STOP, 0, 0, 0, 0, 0.0, b"", b"", []))

    def signal(self, worker_id: int, number: int) -> None:
        handle = self.handles.get(worker_id)
        if handle is None or handle.pid is None or not number:
            return
        with contextlib.suppress(OSError):
            if handle.pidfd >= 0:
                signal.pidfd_send_signal(handle.pidfd, number)
            else:
                os.kill(handle.pid, number)  # not yet reaped: its template would have told

    def kill(self, worker_id: int) -> bool:
        handle = self.handles.get(worker_id)
        if handle is not None and handle.orphaned:
            if handle.pidfd < 0:  # it still starts, if it lives: it sees the end of file
                handle.link.hang_up()
                return True
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(handle.pidfd, signal.SIGKILL)
            return True
        return self._order(("kill", worker_id, int(signal.SIGKILL)))

    def _link_ended(self, handle: Handle, events: list[Event]) -> None:
        if handle.pidfd < 0 and (handle.orphaned or self._control is None):  # nobody else will tell
            self._orphan_ended(handle, events)
            return
        # Usually it has died, and the template says so at once. If it lives, it has closed its end: it is of no use.
        self.kill(handle.id)

    def end(self) -> None:
        """Have the template kill all workers and end; their losses are reported by :meth:`poll`."""
        self._ending = True
        for handle in list(self.handles.values()):
            if handle.orphaned:
                self.kill(handle.id)
        if self._control is not None:
            self._order(("stop",))

    def give_up(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            control.close()
        super().give_up()

    def close(self) -> None:
        self._ending = True
        self._order(("stop",))  # a fork of this process may hold the socket open: then the template sees no end of it
        control, self._control = self._control, None
        if control is not None:
            self._unwatch(control.fileno())
            control.close()
        self._reap_template()
        for handle in list(self.handles.values()):
            self._remove(handle)
        self._close_epoll()
