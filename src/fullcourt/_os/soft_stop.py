"""Stopping a task softly: an exception is raised in the thread that runs it.

In the main thread, a signal handler raises it: that also ends a sleep or a read. In another thread,
``PyThreadState_SetAsyncExc`` does, which takes effect when that thread next runs Python code: not while it is in a
system call or in native code.

The race that was thought about: a task ends just as it is to be stopped, and the exception would hit the loop around
it. So each thread says which task it runs by a token; whoever raises takes the token away first, in one step with the
look at it (the main thread's handler runs in that thread itself; for others there is a lock), so at most one exception
comes for a task; and :meth:`Slot.leave` takes back one that has not arrived yet. It must be called inside of a ``try``
whose handler catches what arrives during the call itself.
"""

from __future__ import annotations

import _signal  # the C module under `signal`, whose enums take long to make
import _weakrefset
import contextlib
import sys
import threading
import weakref
from collections.abc import Callable
from types import CodeType, FrameType

from fullcourt._os.locks import make_lock

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["STOP_SIGNAL", "Slot", "heed", "on_drop", "on_stop_signal", "whole"]

# A signal that programs do not use; its default is to end the process, so it is sent only to who has a handler.
STOP_SIGNAL: int = getattr(_signal, "SIGRTMIN", -9) + 9


# Turns of a loop, each of which looks for an exception on its way.
LOOK_TURNS = 100_000


class Retracted(BaseException):
    """Takes the place of an exception that has come too late."""


class Slot:
    """What one thread runs, made by that thread. ``running`` is set by it alone; 0: nothing that may be stopped."""

    __slots__ = ("_hit", "_lock", "_meant", "_thread_id", "is_main", "running")

    def __init__(self) -> None:
        self.running = 0
        self.is_main = threading.current_thread() is threading.main_thread()
        self._thread_id = threading.get_ident()
        self._lock = make_lock()
        self._hit = False
        self._meant = 0  # what ran when it was hit

    def leave(self) -> None:
        """The task has ended: no exception comes from here on."""
        if self.is_main:
            self.running = 0
            return
        with self._lock:
            self.running = 0
            hit, self._hit = self._hit, False
        if hit:
            self._take_back()

    def pause(self) -> int | None:
        """No exception comes from here on, until ``running`` is set again. Returns the token that it had.

        None: an exception was on its way just now, and has been taken back; it is the caller's to raise.
        """
        if self.is_main:
            running, self.running = self.running, 0
            return running
        with self._lock:
            running, self.running = self.running, 0
            hit, self._hit = self._hit, False
        if hit:
            self._take_back()
            return None
        return running

    def _take_back(self) -> None:
        """See to it that no exception is on its way to this thread any more.

        One of ours takes its place, and is let arrive here. To set None instead, as is documented, drops the exception
        but leaves CPython's mark that one is on its way: each thread then looks for it at every call, and on 3.11 a
        traced function (under a debugger, or where coverage is measured) does so for ever.
        """
        try:
            set_async_exception(self._thread_id, Retracted)
            for _ in range(LOOK_TURNS):
                pass  # it arrives at the next turn of a loop, if not before
        except Retracted:
            pass

    def raise_in_thread(self, is_meant: Callable[[int], bool], error: type[BaseException]) -> bool:
        """Raise in the thread that made this, another one than the caller's, if it still runs that task."""
        with self._lock:
            if not is_meant(self.running):
                return False
            self._meant, self.running = self.running, 0
            self._hit = True
            set_async_exception(self._thread_id, error)
        return True

    def was_dropped(self) -> bool:
        """The exception came in this thread where Python drops it: the task may be stopped again. False: none came."""
        with self._lock:
            was_hit, self._hit = self._hit, False
            if was_hit:
                self.running = self._meant
        return was_hit


def set_async_exception(thread_id: int, error: type[BaseException]) -> None:
    """Have a thread raise an exception at its next opportunity, in place of one that it has not raised yet."""
    import ctypes

    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(error))


def on_stop_signal(act: Callable[[], None]) -> None:
    """Call this when the stop signal comes, unless it comes in the midst of the collection of an object or of the call.

    Does nothing outside of the main thread, or where there are no signals.
    """
    acts = False

    def handle(_number: int, frame: FrameType | None) -> None:
        global put_off  # noqa: PLW0603
        nonlocal acts
        if frame is not None and frame.f_code in whole_codes:
            put_off = act
        # CPython would drop the exception, or the call needs a lock that it holds already: whoever signalled does so
        # again.
        elif not acts and not is_finalizing(frame):
            acts = True
            try:
                act()
            finally:
                acts = False

    if STOP_SIGNAL:
        with contextlib.suppress(ValueError):
            _signal.signal(STOP_SIGNAL, handle)


def on_drop(kind: type[BaseException], act: Callable[[], bool]) -> None:
    """Call this where Python drops such an exception, in that thread; if it returns False, it is reported as usual."""
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not (issubclass(unraisable.exc_type, kind) and act()):
            before(unraisable)

    sys.unraisablehook = hook


def is_finalizing(frame: FrameType | None) -> bool:
    """Whether this code was called by the collection of an object: a ``__del__``, or what watches weak references."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code.co_filename in WATCHES:
            return True
        frame = frame.f_back
    return False


WATCHES = frozenset((weakref.__file__, _weakrefset.__file__))
whole_codes: set[CodeType] = set()
put_off: Callable[[], None] | None = None  # what is to be called when such a function ends


def whole(function: F) -> F:
    """Mark a function in which no stop is to come before its first line: it gives something back. It calls `heed` last.

    CPython looks for signals at the beginning of each Python function, also where a ``finally`` or the end of a
    ``with`` calls it. What the function calls can still be interrupted.
    """
    whole_codes.add(function.__code__)
    return function


def heed() -> None:
    """Do what was put off: in the main thread, where it came."""
    global put_off
    if threading.current_thread() is threading.main_thread():
        act, put_off = put_off, None
        if act is not None:
            act()
