"""The errors that are a ``BrokenProcessPool``, apart: the import of that class is slow, and no worker needs it."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool

from fullcourt.errors import FullcourtError

__all__ = ["PoolBroken", "ProcessDied", "WorkerDied"]


class PoolBroken(FullcourtError, BrokenProcessPool):
    """The pool cannot start workers any more; what was queued cannot run."""


class WorkerDied(FullcourtError, BrokenProcessPool):
    """A worker process died while it ran this task.

    Attributes:
        pid: the process that died.
        exitcode: its exit code, or minus the number of the signal that killed it; None where nobody could tell.
        peak_bytes: the most memory it had resident, in bytes; None where the system did not say.
    """

    def __init__(
        self, message: str = "", *, pid: int = 0, exitcode: int | None = None, peak_bytes: int | None = None
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.exitcode = exitcode
        self.peak_bytes = peak_bytes

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self),), self.__dict__


class ProcessDied(WorkerDied):
    """A :class:`fullcourt.Process` ended before it gave a result. Its attributes are those of `WorkerDied`."""


# Tracebacks and pickles name them as what they are to the user.
for _error in (PoolBroken, ProcessDied, WorkerDied):
    _error.__module__ = "fullcourt.errors"
