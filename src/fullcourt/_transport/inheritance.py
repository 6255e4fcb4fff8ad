"""What workers may only be given at their start: ``multiprocessing``'s locks, queues, shared values, in ``initargs``.

The standard library lets these be pickled only while it starts a process, since some of them are descriptors that the
new process must inherit. A start of ours is announced to it in the same way (its *spawning popen*), the descriptors are
collected, and whoever starts the worker passes them on: as 5, 6, ... to a template, as 7, 8, ... from there to a fresh
worker, or under their own numbers.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import sys

TYPE_CHECKING = False  # a fresh template imports this, and no `typing`
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

__all__ = ["Inheritance", "adopt", "dumps_inheriting", "fork_with_tracker", "sharing", "tracker_descriptor"]

# What descriptor 0 of an inheritance is in this process, after it was started with one.
first_here = 0


class Inherited:
    """A descriptor in a pickle: read where the process has inherited it."""

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        """The descriptor here, to be taken once."""
        return first_here + self._index


class Inheritance:
    """The descriptors that a new process inherits; stands in for the popen object of ``multiprocessing``.

    Args:
        renumbered: whether they get numbers of their own there, from :func:`adopt`'s on; else they keep theirs.
    """

    def __init__(self, *, renumbered: bool) -> None:
        self.descriptors: list[int] = []
        self.tracker: int | None = None  # which of them leads to the resource tracker
        self._renumbered = renumbered

    def duplicate_for_child(self, fd: int) -> int:
        """Take up a descriptor. Returns its number there."""
        self.descriptors.append(fd)
        return len(self.descriptors) - 1 if self._renumbered else fd

    def DupFd(self, fd: int) -> Inherited:  # noqa: N802  multiprocessing's name
        """What is pickled for a descriptor that was taken up."""
        return Inherited(fd)


class Sharing:
    """Stands in for the popen object while a task is pickled for a process that runs.

    Args:
        dup: makes what is pickled for a descriptor that goes along; None: the process fetches it.
    """

    def __init__(self, dup: Callable[[int], Any] | None) -> None:
        self._dup = dup

    @staticmethod
    def duplicate_for_child(fd: int) -> int:
        """Only its number."""
        return fd

    def DupFd(self, fd: int) -> Any:  # noqa: N802  multiprocessing's name
        """What is pickled for it. If it is fetched, it can be read once, which is how often a task is begun."""
        if self._dup is not None:
            return self._dup(fd)
        from multiprocessing import resource_sharer

        return resource_sharer.DupFd(fd)


@contextlib.contextmanager
def spawning(popen: Inheritance | Sharing) -> Iterator[None]:
    """While in here, this thread starts a process, in the eyes of ``multiprocessing``."""
    context: Any = importlib.import_module("multiprocessing.context")
    before = context.get_spawning_popen()
    context.set_spawning_popen(popen)
    try:
        yield
    finally:
        context.set_spawning_popen(before)


def sharing(dup: Callable[[int], Any] | None) -> contextlib.AbstractContextManager[None]:
    """While in here, what ``multiprocessing`` gives only to new processes is pickled for one that runs.

    ``dup`` is as for :class:`Sharing`.

    That can be done for what has a name (locks, unless their context forks), or a descriptor (queues, shared values).
    """
    context = sys.modules.get("multiprocessing.context")
    if context is None or sys.platform == "win32" or context.get_spawning_popen() is not None:
        return contextlib.nullcontext()
    return spawning(Sharing(dup))


def dumps_inheriting(obj: object, inheritance: Inheritance, otherwise: Callable[[object], bytes]) -> bytes:
    """Pickle what a worker is started with. ``otherwise`` pickles what plain pickle cannot, or is of ``__main__``."""
    from multiprocessing.reduction import ForkingPickler

    with spawning(inheritance):
        try:
            data = bytes(ForkingPickler.dumps(obj, pickle.HIGHEST_PROTOCOL))
            if b"__main__" not in data:
                return data
        except Exception:  # noqa: BLE001  the other way may know better, and says what is wrong if not
            pass
        inheritance.descriptors.clear()
        return otherwise(obj)


def tracker_descriptor() -> int | None:
    """The end of the pipe to this process's resource tracker, if it has one: workers must share it.

    A worker with a tracker of its own would have the shared memory to which it attached destroyed at its end.
    """
    module = sys.modules.get("multiprocessing.resource_tracker")
    return getattr(getattr(module, "_resource_tracker", None), "_fd", None)


def fork_with_tracker() -> int:
    """``os.fork``, at which the child keeps the way to the resource tracker; else later Pythons cut it."""
    intent = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_fork_intent", None)
    if intent is None:
        return os.fork()
    intent.preserve_fd = True
    try:
        return os.fork()
    finally:
        intent.preserve_fd = False


def adopt(first: int, count: int, tracker: int | None) -> None:
    """In a new process: its inheritance begins at this descriptor; so many; which of them leads to the tracker."""
    global first_here  # noqa: PLW0603  a process is started once
    first_here = first
    for fd in range(first, first + count):
        with contextlib.suppress(OSError):
            os.set_inheritable(fd, False)
    if tracker is not None:
        from multiprocessing import resource_tracker

        ours: Any = resource_tracker._resource_tracker
        ours._fd = first + tracker
