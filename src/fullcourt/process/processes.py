"""`Process`: the standard library's, with a result, an end that is told, and no child left behind."""

from __future__ import annotations

import atexit
import itertools
import os
import signal
from collections.abc import Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

from fullcourt._engines.methods import START_METHODS, default_start_method, portable_transport
from fullcourt.errors import NotSupported
from fullcourt.process.running import Running, end_all, prune

__all__ = ["Process"]

R = TypeVar("R")

process_numbers = itertools.count(1)


class Process(Generic[R]):
    """A function in a process of its own, with its return value or exception.

    The parameters, methods and meanings are those of ``multiprocessing.Process``, except that:

    - `result` and `exception` give the outcome; a death is a `ProcessDied` that names signal or exit code.
    - It ends with its parent, however that ends, and so does what it has started; also when it ends by itself.
    - It is a context manager (starts; waits at the end; kills if the body raised) and awaitable.
    - The target may be a lambda, a closure, a function of a notebook or of an unguarded script, under each method.
    - An exception is printed only if nobody asked for it when the object goes.

    Args:
        group: None; the standard library has it for a likeness to `threading.Thread`.
        target: called by :meth:`run`.
        name: None: ``Process-N``.
        args: the target's positional arguments.
        kwargs: its keyword arguments.
        daemon: True: killed when the program ends, rather than waited for.
        start_method: ``"fork"``, ``"forkserver"``, ``"spawn"``; None: the running Python's default. With ``fork`` the
            child has this process's memory as it is at :meth:`start`, and nothing is pickled. With the others it is a
            fresh interpreter (forkserver: a fork of one, which the processes that run at the same time share).

    Between the two stands a *keeper*, a small process that is the child's parent; so `os.getppid` in the child is the
    keeper's. Cost of a start: two forks of the program (2 to 4 ms), or an interpreter's start (60 to 100 ms).

    All methods may be called from any thread of the process that made it. The outcome is kept until the object goes.

    Raises:
        ValueError, TypeError: an argument is out of its range.

    Example:
        >>> from fullcourt import Process
        >>> with Process(target=pow, args=(2, 10)) as process:
        ...     process.result()
        1024
    """

    _running: Running | None = None
    _closed = False
    _authkey: bytes | None = None
    _home = __name__  # the module of ours that has the class
    _tells = False  # whether the child itself says what it has raised
    _must_answer = True  # whether a result that cannot be sent is a failure

    def __init__(
        self,
        group: None = None,
        target: Callable[..., R] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        start_method: str | None = None,
    ) -> None:
        if cast("object", group) is not None:
            raise TypeError(f"group must be None, not {group!r}; the function to run is given as target=")
        if target is not None and not callable(target):
            raise TypeError(f"target must be callable, not {target!r}")
        if isinstance(args, (str, bytes)) or not hasattr(args, "__iter__"):
            raise TypeError(f"args must be a tuple of the target's arguments, not {args!r}: write args=({args!r},)")
        if start_method is not None and start_method not in START_METHODS:
            raise ValueError(
                f"start_method={start_method!r} is unknown: it is one of {', '.join(START_METHODS)}, or None"
            )
        self._target = target
        self._args = tuple(args)
        self._kwargs = dict(kwargs or {})
        self._name = f"Process-{next(process_numbers)}" if name is None else check_name(name)
        self._daemon = bool(daemon)
        self._start_method = start_method
        self._owner = os.getpid()

    def run(self) -> R:
        """What the process does: calls the target. A subclass may do otherwise; what it returns is the result."""
        result: Any = None if self._target is None else self._target(*self._args, **self._kwargs)
        return cast("R", result)

    # -- the standard library's ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it. Once only.

        Raises:
            PicklingError: the target or an argument cannot be sent to a fresh interpreter; nothing was started.
            NotSupported: that start method cannot be had here.
            OSError: no process can be had.
        """
        self._check()
        if self._running is not None:
            raise ValueError(f"cannot start {self._name!r} twice: make another Process")
        if self._owner != os.getpid():
            raise ValueError(f"{self._name!r} was made by process {self._owner}: only that one can start it")
        if portable_transport():
            raise NotSupported(
                "fullcourt.Process needs Linux (sockets that keep messages apart, descriptors of processes). "
                "Use Pool(1).submit(...) or multiprocessing.Process here."
            )
        prune()
        atexit.unregister(end_all)  # anew: a forked child has lost what was registered
        atexit.register(end_all)
        method = self._chosen_method()
        child = Running(self._name, self._daemon, tells=self._tells)
        if method == "fork":
            child.fork(self)
        else:
            child.start_fresh(self, method)
        self._running = child
        if method == "fork":  # as with the others, the program need not keep them
            del self._target, self._args, self._kwargs

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most so many seconds; `exitcode` tells whether it has."""
        self._started().poll(timeout)

    def is_alive(self) -> bool:
        """Whether it was started and has not ended."""
        self._check()
        return self._running is not None and self._mine(self._running) and not self._running.poll()

    def interrupt(self) -> None:
        """Send it SIGINT, as Python 3.14's does: KeyboardInterrupt is raised in it. Nothing happens if it has ended."""
        self._started().signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send it SIGTERM. Nothing happens if it has ended."""
        self._started().signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, and all that it has started, with SIGKILL. Nothing happens if it has ended."""
        self._started().signal(signal.SIGKILL)

    def close(self) -> None:
        """Give back what it holds; nothing but `name` and `repr` works afterwards. Idempotent.

        Raises:
            ValueError: it still runs.
        """
        if self._running is not None and self._mine(self._running):
            if not self._running.poll():
                raise ValueError("Cannot close a process while it is still running. Call join() or terminate() first.")
            self._running.close()
        self._running = None
        self._closed = True

    @property
    def name(self) -> str:
        """Its name, for messages; need not be unique."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = check_name(name)

    @property
    def daemon(self) -> bool:
        """Whether it is killed at the program's end. Can be set until it is started."""
        return self._daemon

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        if self._running is not None:
            raise ValueError("daemon can be set only before start()")
        self._daemon = bool(daemon)

    @property
    def authkey(self) -> bytes:
        """The key by which the processes of ``multiprocessing``'s managers and listeners know each other.

        By default this process's. Can be set until it is started; the child then has it as its own.
        """
        if self._authkey is not None:
            return self._authkey
        from multiprocessing.process import current_process

        return current_process().authkey

    @authkey.setter
    def authkey(self, authkey: bytes) -> None:
        self._authkey = bytes(authkey)

    @property
    def pid(self) -> int | None:
        """Its process id; None before :meth:`start`. Waits for a fresh interpreter to have one."""
        self._check()
        return None if self._running is None else self._running.pid()

    ident = pid

    @property
    def exitcode(self) -> int | None:
        """Its exit code, or minus the number of the signal that ended it; None while it has not ended."""
        self._check()
        if self._running is None:
            return None
        self._running.poll()
        return self._running.exitcode

    @property
    def sentinel(self) -> int:
        """A descriptor that is readable when it has ended, for ``select`` or ``multiprocessing.connection.wait``."""
        self._check()
        if self._running is None:
            raise ValueError("process not started")
        return self._running.fileno()

    # -- what it lacks ---------------------------------------------------------------------------------------------

    def result(self, timeout: float | None = None) -> R:
        """Wait for its end, and return what :meth:`run` returned, or raise what it raised.

        Raises:
            TimeoutError: it has not ended within so many seconds; it goes on.
            ProcessDied: it ended without an answer: by a signal, by ``os._exit``, by a crash.
            Exception: its own, with the traceback that it had there as its cause.
        """
        child = self._wait(timeout)
        if child.error is not None:
            child.retrieved = True
            try:
                raise child.error
            finally:
                del child, self  # no cycle of traceback, frame and process
        return cast("R", child.result)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for its end, and return what it raised, or None. Raises TimeoutError as :meth:`result` does."""
        child = self._wait(timeout)
        child.retrieved = True
        return child.error

    def _wait(self, timeout: float | None) -> Running:
        child = self._started()
        if not child.poll(timeout):
            raise TimeoutError(f"{self._name!r} gave no result within {timeout} s; it goes on")
        return child

    def __enter__(self) -> Self:
        """Start it, unless it was."""
        if self._running is None:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Wait for its end; if the body raised, kill it."""
        if self._closed or self._running is None or not self._mine(self._running):
            return
        if kind is not None:
            self.kill()
        try:
            self.join()
        except BaseException:
            self.kill()
            self.join()
            raise

    def __await__(self) -> Generator[Any, None, R]:
        """``await`` its result. Cancelling the waiting task sends SIGTERM to the process."""
        return self._result_soon().__await__()

    async def _result_soon(self) -> R:
        import asyncio

        child = self._started()
        while not child.poll():
            loop = asyncio.get_running_loop()
            ended: asyncio.Future[None] = loop.create_future()
            fd = os.dup(child.fileno())  # a loop knows one reader per descriptor; several may await
            loop.add_reader(fd, settle, ended)
            try:
                await ended
            except asyncio.CancelledError:
                self.terminate()
                raise
            finally:
                loop.remove_reader(fd)
                os.close(fd)
        return self.result()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _chosen_method(self) -> str:
        return self._start_method or default_start_method()

    def _entered(self) -> None:
        """In the child, before :meth:`run`."""

    def _raised(self, text: str) -> None:
        """In the child: :meth:`run` has raised; this is the traceback."""

    def _check(self) -> None:
        if self._closed:
            raise ValueError("process object is closed")

    def _started(self) -> Running:
        self._check()
        if self._running is None:
            raise ValueError(f"{self._name!r} was not started: call start() first, or use it with `with`")
        if not self._mine(self._running):
            raise ValueError(f"{self._name!r} is a child of process {self._running.owner}, not of this one")
        return self._running

    @staticmethod
    def _mine(child: Running) -> bool:
        return child.owner == os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        """What goes to a fresh interpreter: all but what concerns this side."""
        return {key: value for key, value in vars(self).items() if key not in ("_running", "_closed", "_authkey")}

    def __repr__(self) -> str:
        parts = [type(self).__name__, f"name={self._name!r}"]
        child = self._running
        if self._closed:
            parts.append("closed")
        elif child is None:
            parts.append("initial")
        elif not self._mine(child):
            parts.append("unknown")
        elif child.poll():
            parts += [f"pid={child.pid()}", f"stopped exitcode={child.exitcode}"]
        else:
            parts += [f"pid={child.pid()}", "started"]
        if self._daemon:
            parts.append("daemon")
        return f"<{' '.join(parts)}>"


def settle(ended: Any) -> None:
    if not ended.done():
        ended.set_result(None)


def check_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, not {name!r}")
    return name
