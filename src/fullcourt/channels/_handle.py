"""What queues, pipes and locks have in common: they are some descriptors, which travel, fork and are closed.

All state is the kernel's or lies in memory that all handles share; a handle adds only what belongs to one process.
"""

from __future__ import annotations

import operator
import os
import sys
from typing import Any, Self

from fullcourt._transport import carried
from fullcourt._transport.arena import Arena, worker_arena
from fullcourt.errors import NotSupported

__all__ = ["Handle"]


def check_supported(what: str) -> None:
    """Raise NotSupported where the kernel lacks what channels consist of."""
    if sys.platform.startswith("linux") and hasattr(os, "eventfd") and os.path.isdir("/proc/self/fd"):
        return
    raise NotSupported(
        f"fullcourt.{what} needs Linux with /proc: it consists of SOCK_SEQPACKET sockets, memfd blocks, eventfds and "
        f"pidfds, whose state survives any process. On this system ({sys.platform}) use multiprocessing.{what}."
    )


def whole_number(value: object, what: str) -> int:
    """The number; raises a TypeError that says what should be one."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} must be a whole number, not {value!r}") from None


class Handle:
    """An object that is some descriptors.

    Pickles as an argument of a task, an initializer or a process, and as an item of a queue or pipe; both objects are
    then the same queue, pipe or lock. Is closed with its last reference.
    """

    _fds: list[int]  # in the order that `_restore` expects
    _pipe: tuple[int, int] | None = None  # the positions of the life line's ends among them
    _arena: Arena | None = None

    def _own(self, fds: list[int]) -> None:
        """Take possession of a list's descriptors, and hear of forks. Called last, when all else is there."""
        self._fds = list(fds)
        fds.clear()  # whoever closes them on a failure does so no longer
        carried.register(self)

    def _blocks(self) -> Arena:
        """The memory that large items are sent in, used again when nobody reads it any more."""
        if self._arena is None:
            self._arena = worker_arena()
        return self._arena

    # -- travelling ------------------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        cls = type(self)
        token = carried.give(self._to_give(), f"a fullcourt.{cls.__name__}", self._pipe, self)
        return restore, (cls, self._state(), token)

    def _to_give(self) -> list[int]:
        """The descriptors that travel."""
        return self._fds

    def _given(self) -> None:
        """Others have it, or will; what they need is no longer ours to hold open."""

    def _state(self) -> tuple[Any, ...]:
        """What else a handle in another process needs to know."""
        return ()

    @classmethod
    def _restore(cls, state: tuple[Any, ...], fds: list[int]) -> Self:
        raise NotImplementedError

    # -- forks -----------------------------------------------------------------------------------------------------

    def _forking(self) -> None:
        """This process is about to fork."""

    def _forked(self) -> None:
        """This is a forked child."""
        self._arena = None  # its blocks are our parent's

    def _dropped(self) -> None:
        """This is a forked child that inherited this handle by chance."""

    # -- the end ---------------------------------------------------------------------------------------------------

    def _close_all(self) -> None:
        carried.unregister(self)
        arena, self._arena = self._arena, None
        if arena is not None:
            arena.close()
        fds, self._fds = self._fds, []
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def __del__(self) -> None:
        try:  # noqa: SIM105  at the interpreter's end modules are emptied, contextlib's name too
            self._close_all()
        except Exception:  # noqa: BLE001
            pass


def restore(cls: type[Handle], state: tuple[Any, ...], token: tuple[Any, ...]) -> Handle:
    """Make a handle of what has arrived."""
    fds = carried.take(token)
    with carried.closing_on_failure(fds):
        return cls._restore(state, fds)
