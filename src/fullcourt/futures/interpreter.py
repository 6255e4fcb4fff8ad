"""``concurrent.futures.interpreter`` on fullcourt's sub-interpreters; they need Python 3.14 or later."""

from __future__ import annotations

import importlib
import itertools
import logging
import pickle
import sys
import threading
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from fullcourt._engines.future import Future
from fullcourt._faces.outcomes import is_unreadable, unwrapped
from fullcourt._faces.pools import FacePool
from fullcourt._faces.start import break_interpreter_pool, describe
from fullcourt.errors import NotSupported, PicklingError, RemoteTraceback
from fullcourt.futures._executors import ExecutorFuture
from fullcourt.futures.thread import ThreadPoolExecutor

if TYPE_CHECKING:
    from concurrent.futures.thread import BrokenThreadPool

    Base = ThreadPoolExecutor

    class BrokenInterpreterPool(BrokenThreadPool):
        """An interpreter's initializer has failed."""

elif sys.version_info >= (3, 14):
    from concurrent.futures.interpreter import BrokenInterpreterPool
    from concurrent.futures.interpreter import InterpreterPoolExecutor as StandardExecutor

    class Base(ThreadPoolExecutor, StandardExecutor):
        pass

else:
    from concurrent.futures.thread import BrokenThreadPool

    Base = ThreadPoolExecutor

    class BrokenInterpreterPool(BrokenThreadPool):
        """An interpreter's initializer has failed."""


__all__ = ["BrokenInterpreterPool", "InterpreterPoolExecutor"]


P = ParamSpec("P")
R = TypeVar("R")


def refuse(what: tuple[str, str, str, str], message: str) -> None:
    """Stands in for an initializer that cannot go to an interpreter."""
    raise TypeError(f"{what[0]}: {message}")


class InterpreterFuture(ExecutorFuture[Any]):
    """The outcome of a call in an interpreter."""

    def _settle(self, result: Any, exception: BaseException | None) -> None:
        if exception is not None:
            exception = translated(exception)
        super()._settle(result, exception)


def translated(error: BaseException) -> BaseException:
    """An exception as the standard library's executor raises it."""
    if isinstance(error, PicklingError):
        return not_shareable(str(error), unwrapped(error))
    if is_unreadable(error):
        reason = RuntimeError("object could not be unpickled in the other interpreter")
        reason.__cause__ = error
        return not_shareable(f"func or args not shareable: {error!r}", reason)
    if type(error.__cause__) is RemoteTraceback:
        failed = getattr(error, "initializer_error", None)
        error.__cause__ = execution_failed(failed or describe(error), error.__cause__.text)
        if failed:
            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=error)
    return error


def not_shareable(message: str, cause: BaseException) -> BaseException:
    """What the standard library raises for an object that cannot go to another interpreter."""
    kind: Any = importlib.import_module("concurrent.interpreters").NotShareableError
    shown: BaseException = kind(message)
    shown.__cause__ = cause
    return shown


def execution_failed(what: tuple[str, str, str, str], text: str) -> BaseException:
    """The cause that the standard library gives an exception which comes from another interpreter."""
    kind: Any = importlib.import_module("concurrent.interpreters").ExecutionFailed
    name, qualname, module, message = what
    failed: BaseException = kind(
        SimpleNamespace(
            type=SimpleNamespace(__name__=name, __qualname__=qualname, __module__=module),
            msg=message,
            formatted=f"{name}: {message}",
            errdisplay=text,
        )
    )
    return failed


def check_shareable(fn: Callable[..., object]) -> None:
    """Refuse what the standard library refuses: closures, and what pickle cannot name.

    Raises:
        NotShareableError: it is one.
    """
    if isinstance(fn, FunctionType):
        if fn.__closure__:
            raise not_shareable(f"{fn.__qualname__} is a closure", TypeError("closures are not shareable"))
        return
    try:
        pickle.dumps(fn)
    except Exception as error:  # noqa: BLE001
        raise not_shareable(f"{fn!r} cannot be pickled: {error}", error)  # noqa: B904  its cause is set


class InterpreterPoolExecutor(Base):
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
        if sys.hexversion < 0x030E0000:
            raise NotSupported(
                f"InterpreterPoolExecutor needs Python 3.14 or later, where sub-interpreters have an API and a GIL "
                f"each; this is {sys.version.split()[0]}. Use ProcessPoolExecutor or ThreadPoolExecutor here."
            )
        ThreadPoolExecutor.__init__(self, max_workers, thread_name_prefix, initializer, initargs)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have ``fn(*args, **kwargs)`` run in an interpreter; returns its future.

        Raises:
            RuntimeError: after :meth:`shutdown`, or while the interpreter shuts down.
            BrokenInterpreterPool: the initializer has failed.
        """
        driver = self._driver()
        try:
            check_shareable(fn)
        except Exception as error:  # noqa: BLE001  it is the task's outcome
            future: Future[R] = InterpreterFuture(driver)
            future._settle(None, error)
            return future
        return self._submit(fn, args, kwargs)

    def _open(self) -> FacePool:
        if self._initializer is not None:
            try:
                check_shareable(self._initializer)
            except Exception as error:  # noqa: BLE001  it is the tasks' outcome
                return self._make_pool(refuse, (describe(error), str(error)))
        return self._make_pool(self._initializer, self._initargs)

    def _make_pool(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> FacePool:
        return FacePool(
            interpreters=self._max_workers,
            name=self._thread_name_prefix,
            initializer=initializer,
            initargs=initargs,
            guard=self._guard,
            engine_options={"on_demand": True},
        )

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override]
        pool = self._pool
        return set() if pool is None else set(pool.driver.engine._threads.values())
