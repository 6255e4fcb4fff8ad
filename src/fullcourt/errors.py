"""Everything that this package raises of its own.

    FullcourtError
    |-- PoolClosed          (RuntimeError, ValueError)      a call on a pool that takes no more work
    |-- PoolBroken          (BrokenProcessPool)             the workers cannot be started; nothing more can run
    |-- WorkerDied          (BrokenProcessPool)             the process died while it ran this task
    |   `-- ProcessDied                                     a fullcourt.Process ended before it gave a result
    |-- TaskTimeout         (TimeoutError)                  the task was stopped because its time was over
    |-- TaskCancelled       (concurrent.futures.CancelledError)
    |-- TaskMemoryExceeded  (MemoryError)                   the task's worker took more memory than allowed
    |-- PicklingError       (pickle.PicklingError, TypeError)  an argument or result cannot travel
    |-- RemoteError                                         stands in for an exception that cannot travel
    |-- OwnerDied                                           the holder of a lock ended without releasing it
    `-- NotSupported        (NotImplementedError)           this Python or this system lacks what was asked for

    TaskStopped             (KeyboardInterrupt)             raised inside a task that is to end

An exception that the user's function raises is never wrapped: it reaches the caller as itself, with the worker's
traceback as its ``__cause__`` (a :class:`RemoteTraceback`) and a note that names function, item, index and worker.
"""

from __future__ import annotations

import concurrent.futures
import pickle
from importlib import import_module

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

    from fullcourt._deaths import PoolBroken, ProcessDied, WorkerDied

__all__ = [
    "FullcourtError",
    "NotSupported",
    "OwnerDied",
    "PicklingError",
    "PoolBroken",
    "PoolClosed",
    "ProcessDied",
    "RemoteError",
    "RemoteTraceback",
    "TaskCancelled",
    "TaskMemoryExceeded",
    "TaskStopped",
    "TaskTimeout",
    "WorkerDied",
]


class FullcourtError(Exception):
    """The base of every exception that this package raises of its own."""


class PoolClosed(FullcourtError, RuntimeError, ValueError):
    """The pool was closed or terminated, and takes no more work.

    It is both what ``concurrent.futures`` raises here (`RuntimeError`) and what ``multiprocessing`` does
    (`ValueError`).
    """


class TaskTimeout(FullcourtError, TimeoutError):
    """The task ran longer than it was allowed to, and was stopped."""


class TaskCancelled(FullcourtError, concurrent.futures.CancelledError):
    """The task was cancelled before it gave a result."""


class TaskStopped(KeyboardInterrupt):
    """Raised inside a running task to stop it: its time is over, or it was cancelled.

    A task may catch it, to clean up or to return what it has. It is no `Exception`: it comes between any two
    instructions, also inside of a library's ``try`` with ``except Exception`` or ``except OSError``, and must not be
    lost there. It is a `KeyboardInterrupt`, since asyncio, unittest and others take care to let that one through. Who
    waits for the task gets a :class:`TaskTimeout` or :class:`TaskCancelled` in its place.
    """


class StoppedByTimeout(TaskStopped):
    """The task's time is over."""


class StoppedByCancel(TaskStopped):
    """The task was cancelled."""


class TaskMemoryExceeded(FullcourtError, MemoryError):
    """The task's worker had more memory resident than was allowed, and was killed before the kernel did it."""


class PicklingError(FullcourtError, pickle.PicklingError, TypeError):
    """An argument, a function or a result cannot be sent between processes; the message names the culprit."""


class RemoteError(FullcourtError):
    """Stands in for a task's exception that could not be brought to the caller.

    Attributes:
        type_name: the qualified name of the original's type.
    """

    def __init__(self, message: str = "", type_name: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.type_name)


class NotSupported(FullcourtError, NotImplementedError):
    """This Python or this operating system lacks what was asked for."""


class OwnerDied(FullcourtError):
    """The process that held a lock ended without releasing it; what the lock protects may be half-changed.

    ``acquire()`` raises it with the lock *held* by the caller, once: put right what the lock protects, and release.
    ``with lock:`` raises it with the lock released. See the locks' documentation.

    Attributes:
        pid: the process id that the holder had.
    """

    def __init__(self, message: str = "", pid: int = 0) -> None:
        super().__init__(message)
        self.pid = pid

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.pid)


class RemoteTraceback(Exception):
    """The traceback that an exception had in the worker, as text: the ``__cause__`` of what the caller gets."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


def exit_name(exitcode: int | None) -> str:
    """Say how a process ended: ``"was killed by SIGSEGV"``, ``"exited with code 3"``."""
    if exitcode is None:
        return "vanished"
    if exitcode >= 0:
        return f"exited with code {exitcode}"
    import signal  # not at the top, for the sake of a fresh worker's start: 1.5 ms

    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"


def __getattr__(name: str) -> Any:
    """Load what derives from ``BrokenProcessPool`` when it is asked for: that import is most of a worker's start."""
    if name in ("PoolBroken", "ProcessDied", "WorkerDied"):
        return getattr(import_module("fullcourt._deaths"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
