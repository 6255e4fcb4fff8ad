"""Structured concurrency: tasks that live and end together."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from fullcourt._engines.future import Future
from fullcourt._os.locks import make_lock
from fullcourt.errors import TaskTimeout

__all__ = ["TaskGroup"]

R = TypeVar("R")
P = ParamSpec("P")


class TaskGroup:
    """``with pool.task_group() as group: group.start(fn, x)``: the block is left only when all tasks have ended.

    The first task that fails cancels the others, those that run included (on threads, which cannot be stopped, one
    waits for them). An ``ExceptionGroup`` then tells all that failed; if the body raised, its exception is among them,
    except KeyboardInterrupt and SystemExit, which are raised as they are. ``async with`` works, too, and never blocks
    the event loop. :meth:`start` may be called from any thread.

    Raises:
        ExceptionGroup: at the end of the block, of the tasks' exceptions in the order in which the tasks were started;
            with a `TaskTimeout` if the deadline came first. (A BaseExceptionGroup, if one of them is no Exception.)
    """

    def __init__(self, submit: Callable[..., Future[Any]], deadline: float | None) -> None:
        if deadline is not None and seconds_of(deadline) <= 0:
            raise ValueError(f"deadline must be more than 0 seconds, not {deadline}")
        self._submit = submit
        self._deadline = deadline
        self._until: float | None = None
        self._futures: list[Future[Any]] = []
        self._lock = make_lock()
        self._state = "not entered"
        self._timer: threading.Timer | None = None
        self._too_late = False

    def start(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have ``fn(*args, **kwargs)`` run as a part of the group; returns its future.

        Raises:
            RuntimeError: the group was not entered, or has ended, or one of its tasks has failed.
        """
        with self._lock:
            if self._state != "open":
                raise RuntimeError(f"this task group takes no more tasks: it is {self._state}")
        future: Future[R] = self._submit(fn, *args, **kwargs)
        with self._lock:
            self._futures.append(future)
            late = self._takes_no_more()
        future.add_done_callback(self._ended)
        if late:
            future.cancel()
        return future

    def _takes_no_more(self) -> bool:
        return self._state in ("cancelled", "left")

    def cancel(self) -> None:
        """Cancel what has not ended."""
        self._close("cancelled")
        with self._lock:
            futures = list(self._futures)
        for future in futures:
            future.request_cancel()

    def _close(self, state: str) -> bool:
        """Returns whether it was open until now."""
        with self._lock:
            was_open = self._state in ("open", "leaving")
            if was_open:
                self._state = state
        return was_open

    def _ended(self, future: Future[Any]) -> None:
        if not future.cancelled() and future.exception() is not None and self._close("cancelled"):
            self.cancel()

    def _expire(self) -> None:
        with self._lock:
            # If a failure or `cancel` came first, that is what has ended the group.
            left = self._state == "leaving" and any(not future.done() for future in self._futures)
            self._too_late = left or self._state == "open"
            if self._too_late:
                self._state = "cancelled"
        if self._too_late:
            self.cancel()

    def __enter__(self) -> Self:
        if self._state != "not entered":
            raise RuntimeError(f"this task group cannot be entered again: it is {self._state}")
        self._state = "open"
        if self._deadline is not None:
            self._until = monotonic() + self._deadline
            if self._deadline < threading.TIMEOUT_MAX:
                self._timer = threading.Timer(self._deadline, self._expire)
                self._timer.daemon = True
                self._timer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if error is not None:
                self.cancel()
            self._close("leaving")
            try:
                for future in self._tasks():
                    future.wait()
            except BaseException:  # Ctrl-C while waiting
                self.cancel()
                raise
        finally:
            self._end()
        self._tell(error)

    def _tasks(self) -> Any:
        """All tasks, also those that tasks' callbacks start meanwhile."""
        i = 0
        while True:
            with self._lock:
                if i >= len(self._futures):
                    return
                future = self._futures[i]
            yield future
            i += 1

    def _end(self) -> None:
        with self._lock:
            if self._state != "cancelled":
                self._state = "left"
        if self._timer is not None:
            self._timer.cancel()
            if self._timer is not threading.current_thread():
                self._timer.join()

    def _tell(self, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, Exception):
            return  # KeyboardInterrupt, SystemExit, CancelledError of asyncio: raised as they are
        failures: list[BaseException] = [] if error is None else [error]
        for future in self._futures:
            with contextlib.suppress(Exception):
                if not future.cancelled():
                    failure = future.exception(0)
                    if failure is not None and failure is not error:
                        failures.append(failure)
        if self._too_late:
            failures.append(TaskTimeout(f"the task group's deadline of {self._deadline:g} s came before its end"))
        if failures:
            raise BaseExceptionGroup("tasks of a group failed", failures) from None

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        import asyncio

        try:
            if error is not None:
                self.cancel()
            self._close("leaving")
            try:
                for future in self._tasks():
                    await asyncio.wait([asyncio.wrap_future(future)])
            except BaseException:
                self.cancel()
                raise
        finally:
            self._end()
        self._tell(error)


def seconds_of(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"deadline must be a number of seconds, not {value!r}")
    if value != value:  # noqa: PLR0124  not a number
        raise ValueError("deadline must be a number of seconds, not nan")
    return value
