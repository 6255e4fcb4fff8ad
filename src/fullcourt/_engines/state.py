"""What lives as long as a worker: its state, with finalizers, and the values that were broadcast to it."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable

from fullcourt._os.locks import Condition, make_lock, make_rlock

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any, Self, TypeVar

    T = TypeVar("T")

__all__ = ["BroadcastHandle", "WorkerState", "enter_slot", "leave_slot", "worker_state"]


class WorkerState:
    """A place for what is made once in a worker: models, connections, caches. From :func:`worker_state`.

    Attributes can be set and read freely; :meth:`once` makes a value at its first use and registers how it ends. All
    methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._finalizers: list[tuple[Callable[[Any], object], Any]] = []
        self._lock = make_rlock()  # protects what is above; held while a value is made, so that one is made
        self._closed = False
        self._owner = os.getpid()

    def once(self, name: str, make: Callable[[], T], finalizer: Callable[[T], object] | None = None) -> T:
        """The value of this name; made by ``make()`` if it is not there yet.

        Args:
            name: of the value, in this state.
            make: called with nothing, at most once in this worker, unless it raises; other threads that ask for a
                value meanwhile wait.
            finalizer: called with the value when the worker ends, the last made first. A worker that is killed, or
                dies, calls none. What it raises is logged.

        Raises:
            RuntimeError: the worker is ending.
            Exception: what `make` raised; the next call tries again.
        """
        with self._lock:
            if name in self._made:
                return self._made[name]  # type: ignore[no-any-return]
            if self._closed:
                raise RuntimeError("this worker is ending: its state takes nothing new")
            value = self._made[name] = make()
            if finalizer is not None:
                self._finalizers.append((finalizer, value))
            return value

    def close(self) -> None:
        """Call the finalizers, the last registered first. Idempotent; the worker's keeper calls it."""
        with self._lock:
            self._closed = True
            finalizers, self._finalizers = self._finalizers, []
            self._made.clear()
        if self._owner != os.getpid():
            return  # a fork of the worker: the values are the worker's to end
        while finalizers:
            finalizer, value = finalizers.pop()
            try:
                finalizer(value)
            except Exception:
                logging.getLogger("fullcourt").exception("a finalizer of worker state failed")
            finalizer = value = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this worker's state has no {name!r}: set it, or make it with once()")

    def __repr__(self) -> str:
        names = [name for name in vars(self) if not name.startswith("_")]
        return f"<WorkerState {', '.join([*self._made, *names])}>"


class Here(threading.local):
    """The states of the worker and the slot that this thread is."""

    worker: WorkerState | None = None
    slot: WorkerState | None = None


here = Here()
# The state of this process: as a worker, or, where it is none, of its own.
of_process: WorkerState | None = None
guard = make_lock()


def renew_guard() -> None:
    """In a forked child: the thread that held it, if one did, is not there."""
    global guard  # noqa: PLW0603
    guard = make_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renew_guard)


def worker_state(*, per_slot: bool = False) -> WorkerState:
    """The state of the worker in which this is called.

    A worker is a process, a sub-interpreter, or for ``Pool(threads=...)`` all threads of the pool together: their tasks
    share it. Outside of a pool it is the state of this process, whose finalizers run when the interpreter exits.

    Args:
        per_slot: the state of this one slot (thread) of the worker instead; for what is not thread-safe.

    Example:
        >>> import fullcourt, sqlite3
        >>> def count(n):
        ...     state = fullcourt.worker_state(per_slot=True)
        ...     database = state.once("db", lambda: sqlite3.connect(":memory:"), sqlite3.Connection.close)
        ...     return database.execute("select ?", (n,)).fetchone()[0]
        >>> with fullcourt.Pool(threads=2) as pool:
        ...     pool.map(count, range(3))
        [0, 1, 2]
    """
    state = here.slot if per_slot else here.worker
    if state is not None and state._owner == os.getpid():
        return state
    global of_process  # noqa: PLW0603  a process has one
    with guard:
        if of_process is None or of_process._owner != os.getpid():
            of_process = WorkerState()
            atexit.register(of_process.close)
        if per_slot:
            if here.slot is None or here.slot._owner != os.getpid():
                here.slot = WorkerState()
                atexit.register(here.slot.close)
            return here.slot
        return of_process


def become_worker() -> WorkerState:
    """This process, or this interpreter, is a worker from now on. Returns its state, for the keeper to close."""
    global of_process  # noqa: PLW0603
    of_process = here.worker = WorkerState()
    kept.begin_anew()  # a fork of a worker: those are of the pool above
    return of_process


def enter_slot(worker: WorkerState, n_slots: int) -> tuple[WorkerState | None, WorkerState | None]:
    """This thread is a slot of that worker from now on. Returns what it was before, for :func:`leave_slot`."""
    before = here.worker, here.slot
    here.worker = worker
    here.slot = worker if n_slots == 1 else WorkerState()
    return before


def leave_slot(before: tuple[WorkerState | None, WorkerState | None]) -> None:
    """This thread is no slot any more: its own state ends."""
    if here.slot is not None and here.slot is not here.worker:
        here.slot.close()
    here.worker, here.slot = before


# -- broadcast values --------------------------------------------------------------------------------------------------


class Missing:
    """Stands for a value that could not be read in the worker."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Kept:
    """The values that were broadcast to this worker, by key."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Keep nothing. The condition is new, too: in a fork, a thread may hold it that is not here."""
        self._values: dict[int, Any] = {}
        self._expected: set[int] = set()  # frames that were received and are being read
        self._changed = Condition()

    def expect(self, key: int) -> None:
        """A value is about to be read."""
        with self._changed:
            self._expected.add(key)
            self._changed.notify_all()

    def put(self, key: int, value: Any) -> None:
        with self._changed:
            self._values[key] = value
            self._expected.discard(key)
            self._changed.notify_all()

    def drop(self, key: int) -> None:
        with self._changed:
            self._values.pop(key, None)

    def get(self, key: int) -> Any:
        """The value. Waits where another slot of this worker is just reading it."""
        with self._changed:
            self._changed.wait_for(lambda: key not in self._expected)
            try:
                value = self._values[key]
            except KeyError:
                raise LookupError(
                    "this value was not broadcast to this worker: its pool is another one, or has forgotten it "
                    "(close()). Broadcast it with the pool whose tasks use it."
                ) from None
        if isinstance(value, Missing):
            raise value.error
        return value


kept = Kept()


class BroadcastHandle:
    """What stands for a broadcast value, in the program and in the workers. A worker gets it as `Arrived`."""

    def __init__(self, key: int) -> None:
        self._key = key

    def close(self) -> None:
        """Let go of the value."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Arrived, (self._key,)

    def __repr__(self) -> str:
        return f"<Broadcast {self._key}>"


class Arrived(BroadcastHandle):
    """A broadcast value's handle in a worker."""

    _is_open = True

    @property
    def value(self) -> Any:
        """The value. Raises LookupError, as in the program."""
        if not self._is_open:
            raise LookupError("this broadcast value was closed")
        return kept.get(self._key)

    def close(self) -> None:
        """A worker cannot have the pool forget a value."""
        self._is_open = False
