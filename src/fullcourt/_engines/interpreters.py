"""Workers as sub-interpreters of this process (Python 3.14 and later): a GIL each, no process each.

Each runs the same loop as a worker process, on a thread of this process, behind the same kind of link. What is shared
is only the process: a task that ends the process (``os._exit``, a segmentation fault) ends all; a running task cannot
be stopped. An extension module that does not support sub-interpreters fails to import there, with Python's own error.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import mmap
import os
import pickle
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from fullcourt._engines.face import Face
from fullcourt._engines.fresh import in_fresh
from fullcourt._engines.linked import Event, Handle, LinkedEngine, Lost
from fullcourt._engines.setup import Setup, enter_world, load_initializer, read_all, write_setup
from fullcourt._os.budget import set_share
from fullcourt._os.threads import make_thread
from fullcourt._transport import frames
from fullcourt._transport.carried import Rights, close_alive
from fullcourt._transport.codec import Codec
from fullcourt._transport.link import make_frame

__all__ = ["InterpreterEngine", "serve"]


class InterpreterEngine(LinkedEngine):
    """Runs workers as sub-interpreters, a thread of this process for each."""

    can_stop = False
    can_kill = False
    abandons_at_once = True

    def __init__(
        self,
        name: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        share: int,
        face: Face | None,
        *,
        spins: bool,
    ) -> None:
        super().__init__(1, name, Codec(), spins=spins)
        self._setup = Setup(
            n_slots=1, name=name, initializer=initializer, initargs=initargs, share=share, face=face, spins=spins
        )
        self._setup_fd = -1
        self._rights = Rights()  # what the initializer's queues consist of
        self._ended: deque[Handle] = deque()  # those whose thread has ended; filled by the threads
        self._threads: dict[int, threading.Thread] = {}

    def open(self, first: Sequence[int] = ()) -> None:
        self._setup.pool_pid = os.getpid()
        self._setup.output = self.settings_now()
        self._setup_fd, self._rights = write_setup(self._setup, self.codec, None)

    def start(self, worker_id: int) -> None:
        ends = self._make_ends()
        fds: list[int] = []
        try:
            for fd in ends.given:
                fds.append(os.dup(fd))  # noqa: PERF401  those that were made must be known
            handle = self._add(worker_id, ends)
        except BaseException:
            ends.link.close()
            for fd in fds:
                os.close(fd)
            raise
        finally:
            ends.close_given()
        handle.pid = os.getpid()
        thread = make_thread(self._run, handle.name, (handle, fds))
        self._threads[worker_id] = thread
        self._greet(handle.link)
        thread.start()

    def _run(self, handle: Handle, fds: list[int]) -> None:
        interpreters: Any = importlib.import_module("concurrent.interpreters")  # not known to type checkers before 3.14
        try:
            interpreter = interpreters.create()
            try:
                interpreter.exec(
                    in_fresh(
                        f"from fullcourt._engines.interpreters import serve; "
                        f"serve({tuple(fds)!r}, {self._setup_fd}, {self._rights.fds!r}, {handle.name!r})"
                    )
                )
            finally:
                with contextlib.suppress(
                    Exception
                ):  # threads that a task left running keep it; it goes with the process
                    interpreter.close()
        except Exception as error:  # noqa: BLE001
            handle.failure = error
        finally:
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
            self._ended.append(handle)
            with contextlib.suppress(OSError):
                self.wake()

    def _woken(self, events: list[Event]) -> None:
        super()._woken(events)
        while self._ended:
            handle = self._ended.popleft()
            self._drain(handle, events)
            self._remove(handle)
            self._threads.pop(handle.id).join()
            events.append(Lost(handle, None, None))

    def _link_ended(self, handle: Handle, events: list[Event]) -> None:
        """Its thread reports the end."""

    def stop(self, worker_id: int) -> None:
        handle = self.handles.get(worker_id)
        if handle is not None:
            handle.link.send(make_frame(frames.STOP, 0, 0, 0, 0, 0.0, b"", b"", []))

    def signal(self, worker_id: int, number: int) -> None:
        """A signal would reach the whole process."""

    def kill(self, worker_id: int) -> bool:
        """Interpreters cannot be killed."""
        return False

    def end(self) -> None:
        for worker_id, handle in list(self.handles.items()):
            handle.link.take_back()
            self.stop(worker_id)

    def close(self) -> None:
        for handle in list(self.handles.values()):
            self._remove(handle)
        if self._setup_fd >= 0:
            os.close(self._setup_fd)
            self._setup_fd = -1
        self._rights.close()
        self._close_epoll()


def serve(fds: tuple[int, int, int], setup_fd: int, rights: list[int], name: str) -> None:
    """Be a worker, in a sub-interpreter. The descriptors stay the caller's."""
    from fullcourt._engines.forwarding import Forwarder
    from fullcourt._engines.worker import Worker
    from fullcourt._transport.journal import REGION_BYTES
    from fullcourt._transport.link import WorkerEnd
    from fullcourt._transport.mainspace import adopt_main

    atexit.register(close_alive)
    setup: Setup = pickle.loads(read_all(setup_fd))
    setup.rights = Rights([os.dup(fd) for fd in rights])
    enter_world(setup)
    adopt_main()
    set_share(setup.share, of_thread=False)
    tasks, results = socket.socket(fileno=os.dup(fds[0])), socket.socket(fileno=os.dup(fds[1]))
    page = mmap.mmap(fds[2], REGION_BYTES)
    end, codec = WorkerEnd(tasks, results, spins=setup.spins), Codec()
    try:
        forwarder = Forwarder(end, codec, name, setup.output) if setup.output is not None else None
        worker = Worker(end, page, 1, codec, forwarder)
        worker.enter(setup.face, setup.pool_pid)
        worker.run(load_initializer(setup) if setup.encoded_initializer is not None else None, ())
        if forwarder is not None:
            forwarder.close()
    finally:
        end.close()
