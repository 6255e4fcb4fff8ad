"""The future: what ``submit`` and the ``_async`` calls return.

A ``concurrent.futures.Future`` that is cheap to make (0.5 us; the base class spends 3 to 8 us on a condition that most
futures never need) and whose waiters drive the pool themselves.

A race that was thought about, between a thread that waits and the one that settles: the waiter (1) leaves its lock
in ``_blocked``, (2) reads ``_state``; the settler (a) writes ``_state``, (b) reads ``_blocked``. Whatever the order, at
least one of them sees the other; on free-threaded Python, too, since (1), (2) and (a), (b) are each under ``guard`` or
the condition. A condition is made under ``guard``, and the state is written under the condition if there is one, else
under ``guard``: ``concurrent.futures.wait`` counts, under the conditions of all its futures, how many have yet to end,
and a state that changed meanwhile would be counted twice.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from fullcourt._os.locks import Condition, make_rlock
from fullcourt._os.waits import checked
from fullcourt.errors import TaskCancelled

if TYPE_CHECKING:
    import asyncio
    from collections import deque

    Outcome = tuple[Any, Any, BaseException | None]  # see `Settlement` in :mod:`jobs`

__all__ = ["Future", "Settler", "Wake", "settle_plain"]

T = TypeVar("T")

ENDED = frozenset((FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED))
# Protects the making of conditions and the state of futures without one: of all futures, held for under a microsecond.
guard = make_rlock()
MAX_SETTLED = 64  # so many at once, while it is held


def renew_guard() -> None:
    """In a forked child: the thread that held it, if one did, is not there."""
    global guard  # noqa: PLW0603
    guard = make_rlock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=renew_guard)


def let_go(lock: Any) -> None:
    """Wake who sleeps on this lock. Two may do so at once: its future ended, and it was promoted to lead."""
    try:  # noqa: SIM105  quicker so
        lock.release()
    except RuntimeError:
        pass


def settle_plain(outcomes: deque[Outcome]) -> Outcome | None:
    """Take what has come from the left, and end the plain futures that have a result, and that nobody waits for.

    Returns the first that is another: it is taken, and the caller's. None: there are no more.
    """
    while True:
        # What is let go of here may be the last of an argument or result, whose finalizer is user code: not under
        # `guard`.
        held: list[Any] = []
        try:
            other = settle_some(outcomes, held)
        except IndexError:
            return None
        if other is not None:
            return other


def settle_some(outcomes: deque[Outcome], held: list[Any]) -> Outcome | None:
    """The next plain ones; None: these are not all. Raises IndexError if they are. ``held``: what is let go of."""
    with guard:
        for _ in range(MAX_SETTLED):
            future, result, error = settlement = outcomes.popleft()
            if (
                error is not None
                or type(future) is not Future
                or future._on_end is not None
                or future._cond is not None
                or future._blocked is not None
            ):
                return settlement
            held += (settlement, future.work)
            future.work = None
            future._result = result
            future._state = FINISHED
    return None


class Settler(Protocol):
    """Who brings futures to their end: the driver."""

    def wait(self, future: Future[Any], timeout: float | None) -> bool: ...
    def cancel(self, future: Future[Any], *, waits: bool = True) -> bool: ...
    def hurry(self) -> None: ...
    def call_aside(self, act: Callable[[], object]) -> None: ...
    def is_running(self, future: Future[Any]) -> bool: ...


class Future(concurrent.futures.Future, Generic[T]):  # type: ignore[type-arg]
    """The outcome of a task, or of a whole ``map_async``, which may still be to come.

    A ``concurrent.futures.Future`` in every respect, and a ``multiprocessing.pool.AsyncResult`` too: ``get``,
    ``wait``, ``ready``, ``successful``. All methods may be called from any thread. It ends exactly once.
    """

    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _cond: threading.Condition | None = None
    _blocked: list[Any] | None = None
    _on_end: tuple[Callable[[Any], object] | None, Callable[[Any], object] | None] | None = None
    _calls_aside = False  # whether its done-callbacks are for the background thread, and never for one that waits
    work: Any = None  # the chunk or job that this is the outcome of; the driver's

    def __init__(self, settler: Settler | None = None) -> None:
        # super().__init__ would make a condition; see the property below.
        self._settler = settler

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        with guard:
            if self._cond is None:
                self._waiters: list[Any] = []
                self._done_callbacks: list[Callable[[Any], object]] = []
                self._cond = Condition()
            return self._cond

    # -- questions ------------------------------------------------------------------------------------------------

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._state in ENDED

    ready = done

    def cancelled(self) -> bool:
        """Whether it was cancelled: then its task did not run, or was stopped."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """Whether the task has started and not yet ended, as far as is known here."""
        if self._state == PENDING and self._settler is not None:
            return self._settler.is_running(self)
        return self._state == RUNNING

    def successful(self) -> bool:
        """Whether it ended with a result. Raises ValueError if it has not ended."""
        if not self.done():
            raise ValueError(f"{self!r} not ready")
        return self._state == FINISHED and self._exception is None

    # -- waiting --------------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most so many seconds. Returns whether it has."""
        if self._state in ENDED:
            return True
        if timeout is not None:
            checked(timeout)
        if self._settler is not None:
            return self._settler.wait(self, timeout)
        with self._condition:
            return self._condition.wait_for(self.done, timeout)

    def result(self, timeout: float | None = None) -> T:
        """Wait and return the task's result, or raise its exception.

        Raises:
            TimeoutError: it has not ended within so many seconds; it goes on.
            concurrent.futures.CancelledError: it was cancelled.
        """
        if self._state not in ENDED and not self.wait(timeout):
            raise concurrent.futures.TimeoutError(f"no result within {timeout} s; the task goes on")
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = cast("Future[T]", None)  # noqa: PLW0642  break the cycle of traceback, frame and future
        if self._state != FINISHED:
            raise TaskCancelled("the task was cancelled")
        result: Any = self._result
        return result  # type: ignore[no-any-return]

    get = result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait and return the task's exception, or None if it gave a result. Raises as :meth:`result` does."""
        if self._state not in ENDED and not self.wait(timeout):
            raise concurrent.futures.TimeoutError(f"no result within {timeout} s; the task goes on")
        if self._state != FINISHED:
            raise TaskCancelled("the task was cancelled")
        return self._exception

    def __await__(self) -> Generator[Any, None, T]:
        """``await`` it in an asyncio task, of any loop; cancelling that task cancels this.

        If it was itself cancelled, what is raised is both libraries' ``CancelledError``.
        """
        if self._state not in ENDED:
            from asyncio import CancelledError

            wake = Wake()
            self.add_done_callback(wake.wake)
            try:
                yield from wake.future
            except CancelledError:
                self.cancel()
                raise
        if self.cancelled():
            raise cancelled_for_asyncio()
        return self.result()

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(future)`` when it ends, in the thread that brings it to its end; at once if it has ended."""
        self.call_back(fn)

    def call_back(self, fn: Callable[[Future[T]], object], *, hurries: bool = True) -> None:
        """:meth:`add_done_callback`; unless it hurries, only when somebody drives the pool anyway."""
        with self._condition:
            if self._state not in ENDED:
                self._done_callbacks.append(fn)
                if self._settler is not None and hurries:
                    self._settler.hurry()
                return
        try:
            fn(self)
        except Exception:
            logging.getLogger("concurrent.futures").exception("exception calling callback for %r", self)

    def cancel(self) -> bool:
        """Cancel the task, also one that runs in a worker process. Returns whether it was: then it gives no result.

        A running task is stopped as :meth:`fullcourt.Pool.options` says, and this waits until it has stopped (or given
        its result after all: then the answer is False). In a thread that runs an event loop, it does not wait: the
        future is cancelled at once, and its task is stopped meanwhile. What runs on a thread or in a sub-interpreter
        cannot be stopped: False.
        """
        if self._state in ENDED:
            return self.cancelled()
        if self._settler is not None:
            return self._settler.cancel(self)
        return self._cancel_by_hand()

    def _cancel_by_hand(self) -> bool:
        """Cancel a future that somebody made by hand, and will ask with :meth:`set_running_or_notify_cancel`."""
        with self._condition:
            if self._state in ENDED or self._state == RUNNING:
                return self.cancelled()
            self.work = None
            with guard:
                self._end(CANCELLED, None, None)
            self._condition.notify_all()
        self._call_done_callbacks()
        if self._on_end is not None:
            self._call_on_end(None, TaskCancelled("the task was cancelled"))
        return True

    def request_cancel(self) -> None:
        """As :meth:`cancel`, without waiting: the future ends when its task has stopped."""
        if self._state not in ENDED and self._settler is not None:
            self._settler.cancel(self, waits=False)

    # -- settling: once, by the driver (or by whoever made a future by hand) ---------------------------------------

    def set_running_or_notify_cancel(self) -> bool:
        """For whoever runs a future by hand, as in ``concurrent.futures``."""
        with self._condition:
            if self._state == CANCELLED:
                self._state = CANCELLED_AND_NOTIFIED
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
                return False
            if self._state == CANCELLED_AND_NOTIFIED:
                return False
            if self._state == PENDING:
                self._state = RUNNING
                return True
            raise RuntimeError("Future in unexpected state")

    def set_result(self, result: T) -> None:
        """End it with a result. Raises concurrent.futures.InvalidStateError if it has ended."""
        self._settle_by_hand(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """End it with an exception. Raises concurrent.futures.InvalidStateError if it has ended."""
        self._settle_by_hand(None, exception)

    def _settle_by_hand(self, result: Any, exception: BaseException | None) -> None:
        """End it, if nobody else does at the same time."""
        if self._on_end is not None and self._state not in ENDED:
            self._call_on_end(result, exception)
        with self._condition:
            if self._state in ENDED:
                raise concurrent.futures.InvalidStateError(f"{self._state}: {self!r}")
            self.work = None
            self._end_and_notify(result, exception)
        self._call_done_callbacks()

    def _settle(self, result: Any, exception: BaseException | None) -> None:
        """End it. The callbacks of ``apply_async`` come first, then the waiters, then the done-callbacks."""
        if self._on_end is not None:
            self._call_on_end(result, exception)
        self.work = None
        with guard:
            if self._cond is None:
                if self._blocked is None:  # as most: what `_end` does, written out
                    self._result = result
                    self._exception = exception
                    self._state = FINISHED
                else:
                    self._end(FINISHED, result, exception)
                return
        with self._cond:
            self._end_and_notify(result, exception)
        if self._calls_aside and self._done_callbacks and self._settler is not None:
            self._settler.call_aside(self._call_done_callbacks)
        else:
            self._call_done_callbacks()

    def _end_and_notify(self, result: Any, exception: BaseException | None) -> None:
        """Under the condition."""
        with guard:  # against block and unblock
            self._end(FINISHED, result, exception)
        for waiter in self._waiters:
            if exception is None:
                waiter.add_result(self)
            else:
                waiter.add_exception(self)
        self._condition.notify_all()

    def _end(self, state: str, result: Any, exception: BaseException | None) -> None:
        self._result = result
        self._exception = exception
        self._state = state
        blocked, self._blocked = self._blocked, None
        if blocked is not None:
            for lock in blocked:
                let_go(lock)

    def _settle_cancelled(self) -> bool:
        with self._condition:
            if self._state in ENDED:
                return self.cancelled()
            self.work = None
            with guard:
                self._end(CANCELLED_AND_NOTIFIED, None, None)
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._call_done_callbacks()
        if self._on_end is not None:
            self._call_on_end(None, TaskCancelled("the task was cancelled"))
        return True

    def _call_done_callbacks(self) -> None:
        for callback in self._done_callbacks:
            try:
                callback(self)
            except BaseException:
                logging.getLogger("concurrent.futures").exception("exception calling callback for %r", self)

    def _call_on_end(self, result: Any, exception: BaseException | None) -> None:
        assert self._on_end is not None
        callback, error_callback = self._on_end
        self._on_end = None
        try:
            if exception is None:
                if callback is not None:
                    callback(result)
            elif error_callback is not None:
                error_callback(exception)
        except BaseException:
            logging.getLogger("fullcourt").exception("a callback failed")

    def block(self, lock: Any) -> bool:
        """Leave a held lock that is released when it ends. False: it has ended already."""
        with guard:
            if self._blocked is None:
                self._blocked = []
            self._blocked.append(lock)
            return self._state not in ENDED

    def unblock(self, lock: Any) -> None:
        """Take the lock away again, after a time-out."""
        with guard:
            if self._blocked is not None and lock in self._blocked:
                self._blocked.remove(lock)

    def __repr__(self) -> str:
        if self._state == FINISHED:
            what = (
                "raised " + type(self._exception).__name__
                if self._exception is not None
                else "returned " + type(self._result).__name__
            )
            return f"<{type(self).__name__} at {id(self):#x} state=finished {what}>"
        state = "cancelled" if self.cancelled() else self._state.lower()
        return f"<{type(self).__name__} at {id(self):#x} state={state}>"


class Wake:
    """Wakes an asyncio task of the running loop, from any thread; late, twice, or after the loop's end, too."""

    __slots__ = ("_loop", "future")

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()

    def wake(self, _: object = None) -> None:
        """Have the task go on."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._end)

    def _settle(self, result: Any, exception: BaseException | None) -> None:
        """As a future's: one of these may stand where a future does that is only waited for."""
        self.wake()

    def _end(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


def cancelled_for_asyncio() -> BaseException:
    import asyncio

    class Cancelled(TaskCancelled, asyncio.CancelledError):
        """Both of the standard library's."""

    return Cancelled("the task was cancelled")
