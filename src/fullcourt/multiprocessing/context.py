"""``multiprocessing.context`` with contexts whose pool is fullcourt's; all else in them is the standard library's."""

from __future__ import annotations

import multiprocessing.context as standard
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

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
