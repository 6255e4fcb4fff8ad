"""What the faces raise: the standard library's own exceptions where its programs look for them."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fullcourt._transport.remote_errors import ARGUMENTS_UNREADABLE, FUNCTION_UNREADABLE, RESULT_UNREADABLE
from fullcourt.errors import FullcourtError, PicklingError, RemoteTraceback

__all__ = ["TaskUnreadable", "as_standard", "is_unreadable", "unwrapped"]

UNREADABLE = frozenset((ARGUMENTS_UNREADABLE, FUNCTION_UNREADABLE, RESULT_UNREADABLE))


class TaskUnreadable(FullcourtError, BrokenProcessPool):
    """A task's function, arguments or result could not be unpickled. Its cause is the error; only this task is lost.

    The standard library's executor breaks at this, hence the base class; this one stays usable.
    """


def is_unreadable(error: BaseException) -> bool:
    """Whether something of the task could not be unpickled, here or in the worker."""
    return any(note in UNREADABLE for note in getattr(error, "__notes__", ()))


def unwrapped(error: BaseException) -> BaseException:
    """What pickling raised, as the standard library raises it; ours where it is of that kind anyway."""
    cause = error.__cause__
    if not isinstance(error, PicklingError) or cause is None or isinstance(error, type(cause)):
        return error
    if isinstance(cause, RemoteTraceback):
        return error
    for note in [str(error), *getattr(error, "__notes__", ())]:
        cause.add_note(note)
    return cause


def as_standard(error: BaseException, remote_traceback: Any) -> BaseException:
    """Give an exception the cause that the standard library gives it: the worker's traceback, in a class of its own."""
    cause = error.__cause__
    if type(cause) is RemoteTraceback:
        error.__cause__ = remote_traceback(str(cause))
    return error
