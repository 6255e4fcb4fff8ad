"""Descriptors inside pickles: how queues, pipes and locks travel in a frame, in a message, or to a new process.

A pickle cannot hold a descriptor. Whoever pickles for a socket collects them (:func:`collecting`); the pickle then
holds their positions, and the descriptors go beside it (``SCM_RIGHTS``). The other side offers what has arrived while
it unpickles (:func:`arriving`). Where nobody collects, and ``multiprocessing`` is starting a process, its own way is
taken; else the pickling fails with :class:`NotCarried`, and a pickler that can collect tries again. So that ordinary
arguments pay nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, Protocol, cast

from fullcourt.errors import PicklingError

__all__ = ["Carrier", "NotCarried", "Rights", "arriving", "collecting", "drop_inherited", "give", "register", "take"]

# SCM_MAX_FD, unix(7): so many descriptors fit in one message.
MAX_DESCRIPTORS = 253


class NotCarried(PicklingError):
    """The pickle would hold descriptors, and its way cannot carry them."""


class Rights:
    """Descriptors that go with a pickle, or have come with one; closed with this object."""

    __slots__ = ("fds",)

    def __init__(self, fds: Sequence[int] = ()) -> None:
        self.fds = list(fds)

    def close(self) -> None:
        """Close them. Idempotent."""
        fds, self.fds = self.fds, []
        for fd in fds:
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


class Local(threading.local):
    """What this thread is pickling into or from."""

    outbox: Rights | None = None
    inbox: Sequence[int] | None = None


local = Local()


@contextlib.contextmanager
def collecting() -> Iterator[Rights]:
    """Within this, pickling may meet objects with descriptors: duplicates are collected in the yielded object."""
    before, local.outbox = local.outbox, Rights()
    try:
        yield local.outbox
    except BaseException:
        local.outbox.close()
        raise
    finally:
        local.outbox = before


@contextlib.contextmanager
def arriving(fds: Sequence[int]) -> Iterator[None]:
    """Within this, unpickling finds these descriptors. They stay the caller's to close."""
    before, local.inbox = local.inbox, fds
    try:
        yield
    finally:
        local.inbox = before


def give(fds: Sequence[int], what: str) -> tuple[Any, ...]:
    """What an object's pickle holds in place of its descriptors, which stay the caller's.

    Raises:
        NotCarried: this pickle's way cannot carry descriptors.
    """
    outbox = local.outbox
    if outbox is not None:
        start = len(outbox.fds)
        if start + len(fds) > MAX_DESCRIPTORS - 1:  # one may be needed for a block
            raise PicklingError(
                f"more than {MAX_DESCRIPTORS - 1} descriptors in one message: the kernel takes no more. A queue has 7 "
                f"of them, a lock 2, the end of a pipe 1. Send fewer queues, pipes and locks at once."
            )
        outbox.fds.extend(map(os.dup, fds))
        return (start, len(fds))
    context = sys.modules.get("multiprocessing.context")
    if context is not None and (context.get_spawning_popen() is not None or called_by_multiprocessing()):
        from multiprocessing import reduction

        return ("mp", *map(reduction.DupFd, fds))
    raise NotCarried(
        f"{what} cannot be pickled here: it consists of file descriptors, which travel only to a process that is being "
        f"started, as a task's or an initializer's argument, or through a fullcourt queue or pipe. Pass it in one of "
        f"these ways."
    )


def called_by_multiprocessing() -> bool:
    """Whether the pickle in progress is one of ``multiprocessing``'s own, sent through its pipes and queues."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_globals.get("__name__") == "multiprocessing.reduction":
            return True
        frame = frame.f_back
    return False


def take(token: tuple[Any, ...]) -> list[int]:
    """The descriptors for what :func:`give` returned; they are the caller's from now on."""
    if token[0] == "mp":
        return [handle.detach() for handle in token[1:]]
    start, count = token
    inbox = local.inbox
    if inbox is None or start + count > len(inbox):
        raise PicklingError("the descriptors of a queue, pipe or lock did not come along with its pickle")
    return [os.dup(fd) for fd in inbox[start : start + count]]


# -- forks -------------------------------------------------------------------------------------------------------------


class Carrier(Protocol):
    """An object with descriptors that wants to hear of forks."""

    def _forking(self) -> None: ...
    def _forked(self) -> None: ...
    def _dropped(self) -> None: ...


alive: weakref.WeakSet[Carrier] = weakref.WeakSet()
hooked = False


def register(carrier: Carrier) -> None:
    """Have an object hear of every ``os.fork`` of this process, for as long as it lives."""
    global hooked  # noqa: PLW0603  the hooks stay for good: so once a process
    alive.add(carrier)
    if not hooked and hasattr(os, "register_at_fork"):
        hooked = True
        os.register_at_fork(before=before_fork, after_in_child=after_fork)


def before_fork() -> None:
    for carrier in list(alive):
        carrier._forking()


def after_fork() -> None:
    global local  # noqa: PLW0603
    local = Local()
    for carrier in list(alive):
        carrier._forked()


def drop_inherited(kept: object = ()) -> None:
    """In a process that was forked for a purpose of ours: count no longer as a user of what was inherited by chance.

    Args:
        kept: what is excepted, in lists, tuples and dictionaries of any depth.
    """
    keep = set(carriers_in(kept))
    for carrier in list(alive):
        if id(carrier) not in keep:
            carrier._dropped()


def carriers_in(obj: object) -> Iterator[int]:
    if hasattr(obj, "_dropped"):
        yield id(obj)
        return
    values: Iterable[object] = ()
    if isinstance(obj, dict):
        values = cast("dict[object, object]", obj).values()
    elif isinstance(obj, (list, tuple, set, frozenset)):
        values = cast("Iterable[object]", obj)
    for value in values:
        yield from carriers_in(value)
