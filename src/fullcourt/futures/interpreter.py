"""``concurrent.futures.interpreter`` on fullcourt's sub-interpreters; they need Python 3.14 or later."""

from __future__ import annotations

import importlib
import itertools
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fullcourt._engines.future import Future
from fullcourt._faces.outcomes import unwrapped
from fullcourt._faces.pools import FacePool
from fullcourt._faces.start import break_interpreter_pool
from fullcourt.errors import NotSupported, PicklingError
from fullcourt.futures.thread import ThreadPoolExecutor

if TYPE_CHECKING:
    from concurrent.futures.thread import BrokenThreadPool

    StandardExecutor = ThreadPoolExecutor

    class BrokenInterpreterPool(BrokenThreadPool):
        """An interpreter's initializer has failed."""

elif sys.version_info >= (3, 14):
    from concurrent.futures.interpreter import BrokenInterpreterPool
    from concurrent.futures.interpreter import InterpreterPoolExecutor as StandardExecutor
else:
    from concurrent.futures.thread import BrokenThreadPool

    StandardExecutor = ThreadPoolExecutor

    class BrokenInterpreterPool(BrokenThreadPool):
        """An interpreter's initializer has failed."""


__all__ = ["BrokenInterpreterPool", "InterpreterPoolExecutor"]


class InterpreterFuture(Future[Any]):
    """The outcome of a call in an interpreter."""

    def _settle(self, result: Any, exception: BaseException | None) -> None:
        if isinstance(exception, PicklingError):
            exception = not_shareable(unwrapped(exception))
        super()._settle(result, exception)


def not_shareable(error: BaseException) -> BaseException:
    """What the standard library raises for an object that cannot go to another interpreter."""
    kind: Any = importlib.import_module("concurrent.interpreters").NotShareableError
    shown: BaseException = kind(str(error))
    shown.__cause__ = error
    return shown


class InterpreterPoolExecutor(ThreadPoolExecutor, *(() if StandardExecutor is ThreadPoolExecutor else (StandardExecutor,))):  # type: ignore[misc]
    """Runs calls in sub-interpreters of this process, each with a GIL, as the standard library's class of this name.

    Raises:
        NotSupported: before Python 3.14.
    """

    _counter = itertools.count().__next__
    _guard: Callable[[BaseException], BaseException] = staticmethod(break_interpreter_pool)
    _usual_prefix = "InterpreterPoolExecutor"
    future_class = InterpreterFuture

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        if sys.version_info < (3, 14):
            raise NotSupported(
                f"InterpreterPoolExecutor needs Python 3.14 or later, where sub-interpreters have an API and a GIL "
                f"each; this is {sys.version.split()[0]}. Use ProcessPoolExecutor or ThreadPoolExecutor here."
            )
        ThreadPoolExecutor.__init__(self, max_workers, thread_name_prefix, initializer, initargs)

    def _open(self) -> FacePool:
        return FacePool(
            interpreters=self._max_workers,
            name=self._thread_name_prefix,
            initializer=self._initializer,
            initargs=self._initargs,
            guard=self._guard,
            engine_options={"on_demand": True},
        )

    @property
    def _threads(self) -> set[threading.Thread]:
        pool = self._pool
        return set() if pool is None else set(pool.driver.engine._threads.values())
