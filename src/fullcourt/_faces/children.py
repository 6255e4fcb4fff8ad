"""How the workers of a face look to its pool's owner: as processes of ``multiprocessing``."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import weakref
from time import monotonic

from fullcourt._engines.future import Future
from fullcourt._engines.linked import Handle
from fullcourt._engines.roles import wait_aside
from fullcourt._os.system import open_pidfd

__all__ = ["ChildProcess", "children_of"]


class ChildProcess:
    """A worker, as its pool's owner may look at it: what ``multiprocessing.Process`` has for a process that runs.

    All methods may be called from any thread. ``start`` and ``run`` are the pool's business and missing here.
    """

    _start_method: str | None = None

    def __init__(self, handle: Handle, handles: dict[int, Handle], name: str) -> None:
        self._handle = handle
        self._handles = handles
        self._sentinel = -1
        self.name = name
        self.daemon = True

    @property
    def number(self) -> int:
        """Its number in its pool."""
        return self._handle.id

    @property
    def pid(self) -> int | None:
        """Its process; None while it is being started."""
        return self._handle.pid

    ident = pid

    @property
    def exitcode(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs, and where nobody could tell."""
        return self._handle.exitcode

    @property
    def sentinel(self) -> int:
        """A descriptor that is ready when it has ended."""
        if self._sentinel < 0:
            self._sentinel = open_pidfd(self.pid or 0)
            if self._sentinel < 0:  # it is gone: what is ready at once
                self._sentinel, other = os.pipe()
                os.close(other)
            weakref.finalize(self, os.close, self._sentinel)
        return self._sentinel

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._handle.id in self._handles and not self._ended(0)

    def _ended(self, timeout: float | None) -> bool:
        """Wait at most so many seconds for its end; whether it has ended."""
        pid = self.pid
        if pid is None:
            return self._handle.id not in self._handles
        if not sys.platform.startswith("linux"):
            until = None if timeout is None else monotonic() + timeout
            while self._handle.id in self._handles and (until is None or monotonic() < until):
                wait_aside(Future(), 0.01)
            return self._handle.id not in self._handles
        fd = open_pidfd(pid)
        if fd < 0:
            return True
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return bool(poll.poll(None if timeout is None else timeout * 1000))
        finally:
            os.close(fd)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most so many seconds."""
        self._ended(timeout)

    def terminate(self) -> None:
        """Send it SIGTERM. The task that runs there is lost; a worker that takes its place is started."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL, as :meth:`terminate`."""
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))

    def _signal(self, number: int) -> None:
        pid = self.pid
        if pid is not None and self._handle.id in self._handles:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """Give back nothing: it is the pool's."""

    def __repr__(self) -> str:
        state = "started" if self.is_alive() else f"stopped exitcode={self.exitcode}"
        return f"<{type(self).__name__} name={self.name!r} pid={self.pid} {state}>"


def children_of(handles: dict[int, Handle], known: dict[int, ChildProcess]) -> list[ChildProcess]:
    """The workers that run, one object for each for as long as it does, kept in ``known``."""
    now = list(handles.values())
    for gone in known.keys() - {handle.id for handle in now}:
        known.pop(gone, None)
    for handle in now:
        if handle.id not in known:
            known[handle.id] = ChildProcess(handle, handles, handle.name)
    return [known[handle.id] for handle in now if handle.id in known]
