"""Starting fresh interpreters that find this package."""

from __future__ import annotations

import errno
import os
import sys

from fullcourt._os.masks import InterruptsBlocked

TYPE_CHECKING = False  # see fullcourt._engines.template
if TYPE_CHECKING:
    from typing import Any

__all__ = ["in_fresh", "interpreter_command", "own_flags", "spawn_interpreter"]


def spawn_interpreter(code: str, fds: list[int], environment: dict[str, str], flags: list[str] | None = None) -> int:
    """Start a fresh interpreter that runs this code and has these descriptors as 3, 4, ... Returns its pid.

    The variables are set for it on top of this process's own; the flags are this interpreter's, unless some are given.
    It is deaf to Ctrl-C until it calls `quiet_signals`.
    """
    n = len(fds)
    # First out of the way of each other and of the targets, then to their places.
    asides = numbers_for(n, {*fds, *range(3 + n)})
    actions = [(os.POSIX_SPAWN_DUP2, fd, aside) for fd, aside in zip(fds, asides, strict=True)]
    actions += [(os.POSIX_SPAWN_DUP2, aside, 3 + i) for i, aside in enumerate(asides)]
    closing = [(os.POSIX_SPAWN_CLOSE, aside) for aside in asides]
    command = interpreter_command(code, flags)
    with InterruptsBlocked():
        return os.posix_spawn(sys.executable, command, os.environ | environment, file_actions=[*actions, *closing])


def numbers_for(n: int, taken: set[int]) -> list[int]:
    """So many numbers of descriptors beside these: above them, or where the limit forbids that, the free ones below."""
    above = max(taken) + 1
    limit = os.sysconf("SC_OPEN_MAX")
    if limit < 0 or above + n <= limit:
        return list(range(above, above + n))
    free = [fd for fd in range(limit) if fd not in taken]
    if len(free) < n:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return free[:n]


def interpreter_command(code: str, flags: list[str] | None = None) -> list[str]:
    """The command of a fresh interpreter that runs this code, with this one's flags, and finds this package."""
    return [sys.executable, *(own_flags() if flags is None else flags), "-c", in_fresh(code)]


def own_flags() -> list[str]:
    """The flags with which this interpreter was started."""
    import subprocess

    given: Any = subprocess
    flags: list[str] = given._args_from_interpreter_flags()
    return flags


def in_fresh(code: str) -> str:
    """That code, for a fresh interpreter or sub-interpreter: it finds this package, and loads little of it."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return f"import sys; sys._fullcourt_lean = 1; sys.path.insert(0, {home!r}); {code}"
