"""``multiprocessing.context`` with contexts whose pools, processes, queues, pipes and locks are fullcourt's.

Where the standard library itself asks a context (its executors, its managers, its shared values), it gets its own: it
looks into them.
"""

from __future__ import annotations

import multiprocessing.context as standard
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fullcourt._faces.process import PROCESSES
from fullcourt.multiprocessing import _ours

if TYPE_CHECKING:
    from fullcourt.multiprocessing.pool import Pool

__all__ = ["get_context"]


class Context:
    """What is ours in a context. A base before the standard library's class."""

    def Pool(  # noqa: N802  multiprocessing's name
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
    ) -> Pool:
        """A pool of worker processes, started by this context's method."""
        from fullcourt.multiprocessing.pool import Pool

        return Pool(processes, initializer, initargs, maxtasksperchild, context=self)

    def Manager(self) -> Any:  # noqa: N802  multiprocessing's name
        """A manager, started; the pools that it makes are fullcourt's."""
        from fullcourt.multiprocessing.managers import SyncManager

        context: Any = self
        manager = SyncManager(ctx=context)
        manager.start()
        return manager

    def get_context(self, method: str | None = None) -> Any:
        """This context, or the one of another start method."""
        return self if method is None else get_context(method)


def asked_by_standard_library() -> bool:
    """Whether who has called our caller is the standard library."""
    name = str(sys._getframe(2).f_globals.get("__name__"))
    return name.startswith(("multiprocessing.", "concurrent.futures."))


def maker(name: str) -> Callable[..., Any]:
    """The method of that name, which makes a queue, a pipe or a lock."""
    ours: Callable[..., Any] = getattr(_ours, name)

    def make(self: Any, *args: Any, **options: Any) -> Any:
        theirs = any(map(_ours.is_standard, (*args, *options.values())))  # a condition's lock
        if theirs or asked_by_standard_library() or not _ours.are_there():
            return getattr(super(Context, self), name)(*args, **options)
        return ours(*args, **options)

    make.__name__, make.__doc__ = name, ours.__doc__
    return make


MADE = (
    "Barrier", "BoundedSemaphore", "Condition", "Event", "JoinableQueue", "Lock", "Pipe", "Queue", "RLock", "Semaphore",
    "SimpleQueue",
)  # fmt: skip
for made in MADE:
    setattr(Context, made, maker(made))


class ProcessClass:
    """The attribute ``Process`` of a context: the class of processes that are started by its method."""

    def __get__(self, context: Any, kind: Any = None) -> Any:
        base: Any = super(Context, kind)  # the standard library's class, below ours
        theirs = base.Process
        if asked_by_standard_library() or not _ours.are_there():
            return theirs
        return PROCESSES.get(theirs._start_method, theirs)


setattr(Context, "Process", ProcessClass())  # noqa: B010  which type checkers would take for one class


def of_kind(kind: Any) -> Any:
    name: str = kind.__name__
    return type(name, (Context, kind), {"__module__": __name__, "__qualname__": name, "__doc__": kind.__doc__})()


ours: dict[str, Any] = {name: of_kind(type(context)) for name, context in standard._concrete_contexts.items()}  # type: ignore[attr-defined]
globals().update({type(context).__name__: type(context) for context in ours.values()})


def get_context(method: str | None = None) -> Any:
    """The context of a start method (None: the program's), as ``multiprocessing.get_context``, with our pool.

    Raises:
        ValueError: there is no such method here.
    """
    default: Any = standard._default_context
    return ours[default.get_context(method).get_start_method()]


def __getattr__(name: str) -> Any:
    return getattr(standard, name)
