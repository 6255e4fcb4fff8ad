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
from collections.abc import Iterator, Sequence
from types import FrameType

from fullcourt._transport.inheritance import Sharing
from fullcourt.errors import PicklingError

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Carrier(Protocol):
        """An object with descriptors that wants to hear of forks, and of being given to other processes."""

        def _given(self) -> None: ...
        def _forking(self) -> None: ...
        def _forked(self) -> None: ...
        def _dropped(self) -> None: ...
        def _close_all(self) -> None: ...


__all__ = [
    "Carrier",
    "Descriptor",
    "NotCarried",
    "Rights",
    "arriving",
    "close_alive",
    "closing_on_failure",
    "collecting",
    "drop_inherited",
    "give",
    "give_away",
    "goes_by_multiprocessing",
    "register",
    "take",
    "unregister",
]

# SCM_MAX_FD, unix(7): so many descriptors fit in one message.
MAX_DESCRIPTORS = 253


class NotCarried(PicklingError):
    """The pickle would hold descriptors, and its way cannot carry them."""


class Rights:
    """Descriptors that go with a pickle, or have come with one; closed with this object.

    Of a pipe that tells by its hang-up that nobody may write any more, the writing end is held only until it is sent:
    a task that is kept in case it must be sent again is no writer. What is sent more than once in any case, as a map's
    function is with each chunk, holds it from :meth:`stay` to :meth:`end`.
    """

    __slots__ = ("carriers", "ended", "fds", "pipes", "stays")

    def __init__(self, fds: Sequence[int] = ()) -> None:
        self.fds = list(fds)
        self.pipes: list[tuple[int, int]] = []  # positions of reading and writing ends
        self.carriers: list[Carrier] = []  # whose descriptors were collected: told when the pickle is complete
        self.stays = False
        self.ended = False

    def hold(self) -> None:
        """Have the writing ends open."""
        if not self.ended:
            for reading, writing in self.pipes:
                if self.fds[writing] < 0:
                    self.fds[writing] = self._open_writing(reading)

    def _open_writing(self, reading: int) -> int:
        return os.open(f"/proc/self/fd/{self.fds[reading]}", os.O_WRONLY | os.O_CLOEXEC)

    def stay(self) -> None:
        """Have the writing ends open until :meth:`end`, whatever is sent."""
        self.stays = True
        self.hold()

    def end(self) -> None:
        """What it goes with is over: have no writing end open any more."""
        self.stays = False
        self.ended = True
        self.let_go()

    def to_send(self) -> tuple[list[int], list[int]]:
        """All descriptors, to be sent; and the writing ends among them, to be closed when that is done."""
        fds = list(self.fds)
        mine: list[int] = []
        for reading, writing in self.pipes:
            if self.stays or fds[writing] < 0:
                fds[writing] = self._open_writing(reading)
            else:
                self.fds[writing] = -1
            mine.append(fds[writing])
        return fds, mine

    def let_go(self) -> None:
        """Have no writing end open, until they are held again."""
        for _, writing in self.pipes:
            if self.fds[writing] >= 0:
                os.close(self.fds[writing])
                self.fds[writing] = -1

    def close(self) -> None:
        """Close them. Idempotent."""
        self.pipes.clear()
        self.carriers.clear()
        fds, self.fds = self.fds, []
        for fd in fds:
            if fd >= 0:
                os.close(fd)

    def __del__(self) -> None:
        try:  # noqa: SIM105  at the interpreter's end modules are emptied, contextlib's name too
            self.close()
        except Exception:  # noqa: BLE001
            pass


class Local(threading.local):
    """What this thread is pickling into or from."""

    outbox: Rights | None = None
    inbox: Sequence[int] | None = None


local = Local()


@contextlib.contextmanager
def closing_on_failure(fds: list[int]) -> Iterator[None]:
    """If the body raises, the descriptors are closed that are still in the list: nobody owns them yet."""
    try:
        yield
    except BaseException:
        for fd in fds:
            if fd >= 0:
                os.close(fd)
        raise


@contextlib.contextmanager
def collecting() -> Iterator[Rights]:
    """Within this, pickling may meet objects with descriptors: duplicates are collected in the yielded object."""
    rights = Rights()
    before, local.outbox = local.outbox, rights
    try:
        yield rights
    except BaseException:
        rights.close()
        raise
    finally:
        local.outbox = before
    carriers, rights.carriers = rights.carriers, []
    for carrier in carriers:
        carrier._given()


@contextlib.contextmanager
def arriving(fds: Sequence[int]) -> Iterator[None]:
    """Within this, unpickling finds these descriptors. They stay the caller's to close."""
    before, local.inbox = local.inbox, fds
    try:
        yield
    finally:
        local.inbox = before


def give(
    fds: Sequence[int], what: str, pipe: tuple[int, int] | None = None, carrier: Carrier | None = None
) -> tuple[Any, ...]:
    """What an object's pickle holds in place of its descriptors, which stay the caller's.

    Args:
        fds: the descriptors. -1 stands for the writing end of the pipe, to be opened; not if `goes_by_multiprocessing`.
        what: the object's name, for messages.
        pipe: the positions of a pipe's reading and writing end among them, where that is a life line.
        carrier: whose they are; it hears of it when the pickle is complete.

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
        for fd in fds:
            outbox.fds.append(fd if fd < 0 else os.dup(fd))
        if pipe is not None:
            outbox.pipes.append((start + pipe[0], start + pipe[1]))
            outbox.hold()
        if carrier is not None:
            outbox.carriers.append(carrier)
        return (start, len(fds))
    if goes_by_multiprocessing():
        from multiprocessing import reduction

        return ("mp", *map(reduction.DupFd, fds))
    raise NotCarried(
        f"{what} cannot be pickled here: it consists of file descriptors, which travel only to a process that is being "
        f"started, as a task's or an initializer's argument, or through a fullcourt queue or pipe. Pass it in one of "
        f"these ways."
    )


def goes_by_multiprocessing() -> bool:
    """Whether what :func:`give` is given here goes ``multiprocessing``'s way, which may take it later."""
    if local.outbox is not None:
        return False
    context = sys.modules.get("multiprocessing.context")
    if context is None:
        return False
    popen = context.get_spawning_popen()
    return not isinstance(popen, Sharing) and (popen is not None or called_by_multiprocessing())


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
    fds: list[int] = []
    with closing_on_failure(fds):
        fds.extend(os.dup(fd) for fd in inbox[start : start + count])
    return fds


class Descriptor:
    """Stands in a pickle for a descriptor of ``multiprocessing``'s, of a connection or a shared value."""

    def __init__(self, token: tuple[Any, ...]) -> None:
        self._token = token

    @classmethod
    def give(cls, fd: int) -> Descriptor:
        """As :func:`give`."""
        return cls(give([fd], "what multiprocessing shares"))

    def detach(self) -> int:
        """While it is unpickled: the descriptor, for the caller to close."""
        return take(self._token)[0]


# -- forks -------------------------------------------------------------------------------------------------------------


# Those that live, by id. No WeakSet: that one cannot be read while other threads add to it.
alive: dict[int, weakref.ref[Carrier]] = {}
hooked = False


def register(carrier: Carrier) -> None:
    """Have a complete object hear of every ``os.fork`` of this process, until it goes or is unregistered."""
    global hooked  # noqa: PLW0603  the hooks stay for good: so once a process
    key, forget = id(carrier), alive.pop  # the bound method: at the interpreter's end modules are emptied
    alive[key] = weakref.ref(carrier, lambda _: forget(key, None))
    if not hooked and hasattr(os, "register_at_fork"):
        hooked = True
        os.register_at_fork(before=before_fork, after_in_child=after_fork)


def unregister(carrier: Carrier) -> None:
    """It is about to be closed, perhaps while another thread forks. Idempotent."""
    alive.pop(id(carrier), None)


def registered() -> list[Carrier]:
    """All that live now, while other threads may make more."""
    return [carrier for ref in list(alive.values()) if (carrier := ref()) is not None]


def before_fork() -> None:
    for carrier in registered():
        carrier._forking()


def after_fork() -> None:
    global local  # noqa: PLW0603
    local = Local()
    for carrier in registered():
        carrier._forked()


def close_alive() -> None:
    """The interpreter ends, but not the process: close what is left, before the modules are emptied."""
    for carrier in registered():
        with contextlib.suppress(Exception):
            carrier._close_all()


def drop_inherited(kept: object = ()) -> None:
    """In a process that was forked for a purpose of ours: count no longer as a user of what was inherited by chance.

    Args:
        kept: what is excepted, in lists, tuples and dictionaries of any depth.
    """
    keep = set(map(id, carriers_in(kept)))
    for carrier in registered():
        if id(carrier) not in keep:
            carrier._dropped()


def give_away(given: object) -> None:
    """A forked child has these, in lists, tuples and dictionaries of any depth, to use them."""
    for carrier in carriers_in(given):
        carrier._given()


def carriers_in(obj: object) -> Iterator[Carrier]:
    found: Any = obj  # not narrowed by the questions below
    if hasattr(obj, "_dropped"):
        yield found
    elif isinstance(obj, dict):
        for value in found.values():
            yield from carriers_in(value)
    elif isinstance(obj, (list, tuple, set, frozenset)):
        for value in found:
            yield from carriers_in(value)
