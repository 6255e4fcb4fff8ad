"""How a worker of a face sees itself: as a child of the pool's process, started by ``multiprocessing``.

Every worker of a face loads this module: it imports little.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Start", "break_interpreter_pool", "break_process_pool", "break_thread_pool"]


@dataclass
class Start:
    """What a worker does before the user's initializer; pickled, or inherited by a fork.

    It becomes a child of the pool's process in the eyes of ``multiprocessing``: ``current_process()`` has the name and
    the number, ``parent_process()`` is the pool's process, and managers' proxies find the key.

    Attributes:
        authkey: ``multiprocessing``'s, of the pool's process.
        parent_pid: the pool's process.
        parent_name: its name.
        initializer: the user's.
        initargs: its arguments.
        guard: called with the initializer's failure before it is raised; what it returns is raised instead.
    """

    authkey: bytes
    parent_pid: int
    parent_name: str
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    guard: Callable[[BaseException], BaseException] | None = None

    def __call__(self) -> None:
        """Be the worker's initializer."""
        become_child(self.authkey, self.parent_pid, self.parent_name)
        self.initialize()

    def initialize(self) -> None:
        """Only call the user's initializer: where the worker is a thread or an interpreter."""
        if self.initializer is None:
            return
        try:
            self.initializer(*self.initargs)
        except BaseException as error:
            if self.guard is None:
                raise
            raise self.guard(error) from error


def become_child(authkey: bytes, parent_pid: int, parent_name: str) -> None:
    from multiprocessing import process

    from fullcourt._engines import worker
    from fullcourt._os.system import open_pidfd

    inner: Any = process
    child = inner.BaseProcess(name=worker.name_here)
    child._identity = (int(worker.name_here.rpartition("-")[2]),)
    child._config = {**child._config, "authkey": inner.AuthenticationString(authkey)}
    child._parent_pid = parent_pid
    child._parent_name = parent_name
    inner._current_process = child
    inner._parent_process = inner._ParentProcess(parent_name, parent_pid, open_pidfd(parent_pid))
    __import__("multiprocessing.util")  # at the worker's end it looks after what tasks began


def log_failure() -> None:
    import logging

    logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)  # noqa: LOG014


def break_process_pool(error: BaseException) -> BaseException:
    """What a failed initializer raises in a ``ProcessPoolExecutor``."""
    from concurrent.futures.process import BrokenProcessPool

    log_failure()
    # This process will end now. What lies in queues (that log record, perhaps) goes out before the pool hears of it.
    sys.modules["multiprocessing.util"]._exit_function()
    return BrokenProcessPool(f"The initializer failed, the process pool is not usable anymore: {error!r}")


def break_thread_pool(error: BaseException) -> BaseException:
    """What a failed initializer raises in a ``ThreadPoolExecutor``."""
    from concurrent.futures.thread import BrokenThreadPool

    log_failure()
    return BrokenThreadPool(f"A thread initializer failed, the thread pool is not usable anymore: {error!r}")


def break_interpreter_pool(error: BaseException) -> BaseException:
    """What a failed initializer raises in an ``InterpreterPoolExecutor``."""
    import importlib

    kind: Any = importlib.import_module("concurrent.futures.interpreter")
    broken: Any = kind.BrokenInterpreterPool(
        f"An interpreter's initializer failed, the pool is not usable anymore: {error!r}"
    )
    broken.initializer_error = describe(error)  # it is logged where the pool is
    return broken  # type: ignore[no-any-return]


def describe(error: BaseException) -> tuple[str, str, str, str]:
    """The name, qualified name and module of its type, and its text."""
    kind = type(error)
    return kind.__name__, kind.__qualname__, kind.__module__, str(error)
