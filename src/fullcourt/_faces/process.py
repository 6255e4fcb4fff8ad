"""``multiprocessing.Process`` by fullcourt's. Every child of one loads this module: it imports little."""

from __future__ import annotations

import itertools
import multiprocessing.context
import multiprocessing.process
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fullcourt._os.system import open_pidfd
from fullcourt.process import Process as OurProcess
from fullcourt.process.running import Running

__all__ = ["PROCESSES", "Process"]

_inner: Any = multiprocessing.process
_contexts: Any = multiprocessing.context
NO_KWARGS: Any = _inner.BaseProcess.__init__.__defaults__[-1]  # {}, or None from Python 3.14 on

if TYPE_CHECKING:

    class Base:
        """What are properties there, are plain attributes in its stubs."""
else:
    Base = multiprocessing.process.BaseProcess


class Popen:
    """What ``multiprocessing`` wants of the inside of a process that was started."""

    def __init__(self, child: Running) -> None:
        self._child = child

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._child.pid()

    @property
    def sentinel(self) -> int:
        """Readable when it has ended."""
        return self._child.fileno()

    @property
    def returncode(self) -> int | None:
        """As :meth:`poll`."""
        return self.poll()

    def poll(self, flag: int = 0) -> int | None:
        """Its exit code; None while it runs."""
        return self.wait(0.0)

    def wait(self, timeout: float | None = None) -> int | None:
        """As :meth:`poll`, after at most so many seconds."""
        self._child.poll(timeout)
        return self._child.exitcode

    def interrupt(self) -> None:
        """Send it SIGINT."""
        self._child.signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self._child.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, and all that it has started."""
        self._child.signal(signal.SIGKILL)

    def close(self) -> None:
        """Give back what it holds."""
        self._child.close()


class Process(OurProcess[Any], Base):
    """A function in a process of its own: ``multiprocessing.Process``, with all that :class:`fullcourt.Process` has.

    The parameters, names, assertions and printed tracebacks are the standard library's, and so is what
    ``current_process``, ``parent_process`` and ``active_children`` say. Beyond it there are ``result`` and
    ``exception``; and it ends with its parent, and takes along what it has started.
    """

    _start_method: str | None = None  # None: the program's
    _home = __name__
    _tells = True
    _must_answer = False
    _popen: Popen | None = None

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = NO_KWARGS,
        *,
        daemon: bool | None = None,
    ) -> None:
        _inner.BaseProcess.__init__(self, group, target, name, args, kwargs, daemon=daemon)
        self._owner = os.getpid()
        self._method = self._start_method or ""

    # -- what the standard library has in its own way --------------------------------------------------------------

    _config: dict[str, Any]
    _parent_pid: int
    _parent_name: str

    @property
    def daemon(self) -> bool:
        """Whether it is killed at the program's end."""
        return bool(self._config.get("daemon", False))

    @daemon.setter
    def daemon(self, daemon: bool) -> None:
        assert self._running is None, "process has already started"
        self._config["daemon"] = daemon

    # Which is kept in its _config.
    authkey = _inner.BaseProcess.authkey  # pyright: ignore[reportIncompatibleMethodOverride]

    @property
    def _daemon(self) -> bool:  # type: ignore[override]
        return self.daemon

    def start(self) -> None:
        """Start it. Once only."""
        self._check()
        assert self._running is None, "cannot start a process twice"
        assert self._owner == os.getpid(), "can only start a process object created by current process"
        self._method = self._start_method or _contexts._default_context.get_start_method()
        if self._method != "fork":
            if "multiprocessing.resource_tracker" in sys.modules:
                sys.modules["multiprocessing.resource_tracker"].ensure_running()  # the child's is the program's
        elif sys.version_info >= (3, 12) and threading.active_count() > 1:
            warn_of_threads()
        _inner._cleanup()
        super().start()
        self._popen = Popen(vars(self)["_running"])
        _inner._children.add(self)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most so many seconds."""
        if self._started().poll(timeout):
            self._forget()

    def is_alive(self) -> bool:
        """Whether it runs."""
        self._check()
        if self is _inner._current_process:
            return True
        assert self._owner == os.getpid(), "can only test a child process"
        if self._running is None or not self._running.poll():
            return self._running is not None
        self._forget()
        return False

    def close(self) -> None:
        """Give back what it holds. Raises ValueError while it runs."""
        super().close()
        self._popen = None
        _inner._children.discard(self)

    @property
    def pid(self) -> int | None:
        """Its process id; None before it was started."""
        return os.getpid() if self is _inner._current_process else super().pid

    ident = pid

    def __repr__(self) -> str:
        text: str = _inner.BaseProcess.__repr__(self)
        return text

    def _forget(self) -> None:
        """It has ended. What it was given is kept until then: a fresh interpreter opens a standard lock by its name."""
        _inner._children.discard(self)
        for name in ("_target", "_args", "_kwargs"):
            vars(self).pop(name, None)

    def _started(self) -> Running:
        self._check()
        assert self._running is not None, "can only join a started process"
        assert self._owner == os.getpid(), "can only join a child process"
        return self._running

    def _chosen_method(self) -> str:
        return self._method

    # -- in the child ----------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_popen", None)
        state["_config"] = {**self._config, "authkey": bytes(self._config["authkey"])}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._config["authkey"] = _inner.AuthenticationString(self._config["authkey"])

    def _entered(self) -> None:
        _contexts._force_start_method(self._method)
        _inner._process_counter = itertools.count(1)
        _inner._children = set()
        _inner._current_process = self
        _inner._parent_process = _inner._ParentProcess(
            self._parent_name, self._parent_pid, open_pidfd(self._parent_pid)
        )
        __import__("multiprocessing.util")  # at the end it looks after what this process began

    def _raised(self, text: str) -> None:
        sys.stderr.write(f"Process {self.name}:\n{text}")


def warn_of_threads() -> None:
    """As the running Python does, but not of a pool's thread that sleeps, and holds nothing."""
    from fullcourt.process.forks import other_threads

    if other_threads():
        warnings.warn(
            f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to deadlocks in the child.",
            DeprecationWarning,
            stacklevel=3,
        )


class ForkProcess(Process):
    """A process of the context ``fork``."""

    _start_method = "fork"


class ForkServerProcess(Process):
    """A process of the context ``forkserver``."""

    _start_method = "forkserver"


class SpawnProcess(Process):
    """A process of the context ``spawn``."""

    _start_method = "spawn"


PROCESSES: dict[str, type[Process]] = {"fork": ForkProcess, "forkserver": ForkServerProcess, "spawn": SpawnProcess}
