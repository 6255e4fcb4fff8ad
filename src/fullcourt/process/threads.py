"""`Thread`: the standard library's, with a result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextvars import Context
from functools import partial
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar, cast

from fullcourt._engines.future import Future
from fullcourt.errors import NotSupported

__all__ = ["Thread"]

R = TypeVar("R")


class Thread(threading.Thread, Generic[R]):
    """A function in a thread of its own, with its return value or exception.

    A ``threading.Thread`` with :meth:`result` and :meth:`exception`; a context manager (starts; waits at the end) and
    awaitable. An exception goes to ``threading.excepthook`` only if nobody asked for it when the object goes.

    Args:
        group: None.
        target: called by :meth:`run`.
        name: None: ``Thread-N (target)``.
        args: the target's positional arguments.
        kwargs: its keyword arguments.
        daemon: True: the program's end does not wait for it. None: as the thread that makes it.
        context: the context variables that it runs with, as from Python 3.14 on, here on all. None: the interpreter's
            choice, which is an empty context, or a copy of the starter's (``sys.flags.thread_inherit_context``).

    All methods may be called from any thread.

    Example:
        >>> from fullcourt import Thread
        >>> with Thread(target=pow, args=(2, 10)) as thread:
        ...     thread.result()
        1024
    """

    def __init__(
        self,
        group: None = None,
        target: Callable[..., R] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        context: Context | None = None,
    ) -> None:
        if cast("object", group) is not None:
            raise TypeError(f"group must be None, not {group!r}; the function to run is given as target=")
        if target is not None and not callable(target):
            raise TypeError(f"target must be callable, not {target!r}")
        if isinstance(args, (str, bytes)) or not hasattr(args, "__iter__"):
            raise TypeError(f"args must be a tuple of the target's arguments, not {args!r}: write args=({args!r},)")
        super().__init__(None, target, name, tuple(args), dict(kwargs or {}), daemon=daemon)
        self._runs_in = context
        self._outcome: Future[R] = Future()
        self._retrieved = False
        self._call: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = (target, tuple(args), dict(kwargs or {}))

    def run(self) -> R:  # type: ignore[override]
        """What the thread does: calls the target. A subclass may do otherwise; what it returns is the result."""
        (target, args, kwargs), self._call = cast("Any", self._call), None  # its arguments live no longer than the call
        return cast("R", None if target is None else target(*args, **kwargs))

    def start(self) -> None:
        """Start it. Once only."""
        if "run" in vars(self):
            raise RuntimeError("threads can only be started once")
        body = self.run if self._runs_in is None else partial(self._runs_in.run, self.run)
        self.run = lambda: self._note(body)  # type: ignore[assignment, return-value, method-assign]
        if not self._outcome.running():  # as after a start that failed
            self._outcome.set_running_or_notify_cancel()
        self._target = self._args = self._kwargs = None
        try:
            super().start()
        except BaseException:
            del self.run
            raise

    def _note(self, body: Callable[[], R]) -> None:
        try:
            result = body()
        except BaseException as error:  # noqa: BLE001  SystemExit, too, is its outcome
            self._outcome._settle(None, error)
        else:
            self._outcome._settle(result, None)
        finally:
            del body

    def result(self, timeout: float | None = None) -> R:
        """Wait for its end, and return what :meth:`run` returned, or raise what it raised.

        Raises:
            TimeoutError: it has not ended within so many seconds; it goes on.
            RuntimeError: it was not started.
        """
        self._wait(timeout)
        self._retrieved = True
        return self._outcome.result()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for its end, and return what it raised, or None. Raises TimeoutError as :meth:`result` does."""
        self._wait(timeout)
        self._retrieved = True
        return self._outcome.exception()

    def _wait(self, timeout: float | None) -> None:
        self.join(timeout)
        if self.is_alive():
            raise TimeoutError(f"{self.name!r} gave no result within {timeout} s; it goes on")

    def terminate(self) -> NoReturn:
        """Python cannot end a thread from outside.

        Raises:
            NotSupported: always.
        """
        raise NotSupported(
            f"{self.name!r} cannot be ended from outside: Python has no safe way to do that to a thread. Use a "
            "fullcourt.Process, which can be killed, or have the function look at a threading.Event now and then."
        )

    interrupt = kill = terminate

    def __enter__(self) -> Self:
        """Start it, unless it was."""
        if self.ident is None:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Wait for its end, also if the body raised: a thread cannot be killed."""
        self.join()

    def __await__(self) -> Generator[Any, None, R]:
        """``await`` its result. Cancelling the waiting task leaves the thread alone."""
        import asyncio

        if self.ident is None:
            raise RuntimeError(f"{self.name!r} was not started: call start() first, or use it with `with`")
        self._retrieved = True
        return cast("Generator[Any, None, R]", asyncio.wrap_future(self._outcome).__await__())

    def __del__(self) -> None:
        outcome: Future[R] | None = getattr(self, "_outcome", None)
        if outcome is None or self._retrieved or not outcome.done():
            return
        error = outcome._exception
        if error is not None and not isinstance(error, SystemExit):
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self)))
