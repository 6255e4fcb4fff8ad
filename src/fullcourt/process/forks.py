"""``fork``: for those who want ``os.fork`` itself, with its traps told or cleared."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import warnings
from collections.abc import Generator
from time import monotonic
from types import TracebackType
from typing import Any, Self

from fullcourt._engines.roles import Roles
from fullcourt._engines.template import fork_quietly
from fullcourt._os.inherited import give_up_inherited
from fullcourt._os.locks import make_lock
from fullcourt._os.system import open_pidfd, send_signal
from fullcourt._os.waits import bounded, deadline
from fullcourt.errors import NotSupported, exit_name

__all__ = ["Child", "ForkWarning", "fork"]


class ForkWarning(RuntimeWarning):
    """The program forks while other threads run: a lock that one of them holds stays locked in the child for ever."""


class Child:
    """A child made by :func:`fork`, as its parent sees it. Methods may be called from any thread of the parent.

    It is not bound to its parent: as with ``os.fork``, it lives on when the parent ends. Somebody has to wait for it.
    """

    def __init__(self, pid: int, sentinel: int) -> None:
        self._pid = pid
        self._sentinel = sentinel
        self._exitcode: int | None = None
        self._over = False
        self._lock = make_lock()  # protects the fields above; a pid is not signalled once it was reaped

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._pid

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable when it has ended; -1 after :meth:`close`."""
        return self._sentinel

    @property
    def exitcode(self) -> int | None:
        """Its exit code, or minus the number of the signal that ended it.

        None while it has not ended, and where something else in this program waited for it first.
        """
        self._poll(0.0)
        return self._exitcode

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return not self._poll(0.0)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most so many seconds; :attr:`exitcode` tells whether it has."""
        self._poll(timeout)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until it has ended; returns its exit code.

        Raises:
            TimeoutError: it has not ended within so many seconds; it goes on.
        """
        if not self._poll(timeout):
            raise TimeoutError(f"the child, pid {self._pid}, has not ended within {timeout} s; it goes on")
        return self._exitcode

    def terminate(self) -> None:
        """Send it SIGTERM. Nothing happens if it has ended."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL. Nothing happens if it has ended."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Give back the sentinel. Idempotent. Waits for nothing: a child that has not ended is left to itself."""
        with self._lock:
            sentinel, self._sentinel = self._sentinel, -1
            if sentinel >= 0:
                os.close(sentinel)

    def _signal(self, number: int) -> None:
        with self._lock:
            if not self._over:
                send_signal(self._pid, number)

    def _poll(self, timeout: float | None) -> bool:
        until = deadline(timeout)
        while not self._over:
            left = None if until is None else max(0.0, until - monotonic())
            with contextlib.suppress(OSError, ValueError):
                if self._sentinel >= 0:
                    poll = select.poll()
                    poll.register(self._sentinel, select.POLLIN)
                    if not poll.poll(None if left is None else int((bounded(left) or 0.0) * 1000 + 0.999)):
                        if until is not None and monotonic() >= until:
                            return False
                        continue
            self._reap()
        return True

    def _reap(self) -> None:
        with self._lock:
            if self._over:
                return
            try:
                _, status = os.waitpid(self._pid, 0)
                self._exitcode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:
                pass
            self._over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Wait for its end; if the body raised, kill it."""
        if kind is not None:
            self.kill()
        try:
            self.join()
        except BaseException:
            self.kill()
            self.join()
            raise
        self.close()

    def __await__(self) -> Generator[Any, None, int | None]:
        """``await`` its end; gives its exit code."""
        return self._wait_async().__await__()

    async def _wait_async(self) -> int | None:
        import asyncio

        loop = asyncio.get_running_loop()
        while not self._poll(0.0):
            ended: asyncio.Future[None] = loop.create_future()
            fd = os.dup(self._sentinel)
            loop.add_reader(fd, settle, ended)
            try:
                await ended
            finally:
                loop.remove_reader(fd)
                os.close(fd)
        return self._exitcode

    def __del__(self) -> None:
        try:  # at the interpreter's end modules are emptied, contextlib's name too
            self._poll(0.0)
            self.close()
        except Exception:  # noqa: BLE001
            pass

    def __repr__(self) -> str:
        state = exit_name(self.exitcode) if self._poll(0.0) else "running"
        return f"<Child pid={self._pid} {state}>"


def settle(ended: Any) -> None:
    if not ended.done():
        ended.set_result(None)


def fork() -> Child | None:
    """Fork this process, as ``os.fork`` does. Returns a :class:`Child` in the parent, None in the child.

    Before, the standard streams are flushed, so that nothing is written twice, and a :class:`ForkWarning` names the
    other threads that run. In the child, the descriptors of this package's pools and processes are closed: they are the
    parent's. A pool that the parent had opened raises `PoolClosed` there; the child can open pools of its own.

    The child goes on after the call, with all that follows; it usually ends with ``os._exit`` or ``sys.exit``.

    Raises:
        NotSupported: there is no fork here (Windows), or there are sub-interpreters in this process.
        OSError: no process can be had.

    Example:
        >>> import os, fullcourt
        >>> child = fullcourt.fork()
        >>> if child is None:
        ...     os._exit(7)
        >>> child.wait()
        7
    """
    if not hasattr(os, "fork"):
        raise NotSupported("this system has no fork; use fullcourt.Process, which starts a fresh interpreter here")
    names = other_threads()
    if names:
        warnings.warn(
            f"fork while {len(names)} other thread(s) run: {', '.join(names)}. They do not exist in the child, but the "
            "locks that they hold stay locked there for ever. Fork before threads are started, or use "
            'fullcourt.Process(start_method="forkserver").',
            ForkWarning,
            stacklevel=2,
        )
    # Where there are no pidfds, a pipe tells the end: it is at its end when nobody holds the child's side any more.
    read_end, write_end = (-1, -1) if hasattr(os, "pidfd_open") else os.pipe()
    try:
        pid = fork_quietly()
    except BaseException:
        close_all(read_end, write_end)
        raise
    if pid:
        close_all(write_end)
        return Child(pid, open_pidfd(pid) if read_end < 0 else read_end)
    close_all(read_end)
    give_up_inherited()
    return None


def close_all(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def other_threads() -> list[str]:
    """The names of the threads that run beside this one. A pool's sleeping driver, which holds nothing, is none."""
    names: list[str] = []
    for thread in threading.enumerate():
        if thread is threading.current_thread():
            continue
        target_of = getattr(getattr(thread, "_target", None), "__self__", None)
        if not (isinstance(target_of, Roles) and target_of.parked):
            names.append(thread.name)
    return names
