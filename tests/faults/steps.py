"""Steps of a process: its calls of the system from within the package. A test has it killed before or after the n-th.

A step is the call, or the return, of a C function of one of the modules below, made by a function of `fullcourt`. They
are seen by ``sys.setprofile``, so nothing of this is in the package. A process that was forked from it counts none.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

MODULES = frozenset(("posix", "_socket", "socket", "select", "mmap", "_posixsubprocess", "_thread"))

pid = 0
left = 0
n_passed = 0
log = ""


def of_the_system(function: Any) -> bool:
    module = getattr(function, "__module__", None)
    if module is None:
        owner = getattr(function, "__self__", None)
        module = type(owner).__module__
    return module in MODULES


def profile(frame: Any, event: str, argument: Any) -> None:
    global left, n_passed
    if event not in {"c_call", "c_return"} or not frame.f_globals.get("__name__", "").startswith("fullcourt"):
        return
    if not of_the_system(argument):
        return
    if os.getpid() != pid:
        sys.setprofile(None)
        threading.setprofile(None)
        return
    n_passed += 1
    left -= 1
    if not left:
        when = "before" if event == "c_call" else "after"
        text = f"{when} {argument.__qualname__} in {frame.f_code.co_qualname}:{frame.f_lineno}\n"
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, text.encode())
        os.kill(pid, signal.SIGKILL)


def arm(n: int, path: str) -> None:
    """Kill this process at its n-th step from here on, and leave in the file which that was; 0: count only."""
    global left, log, n_passed, pid
    left, n_passed, log, pid = n, 0, path, os.getpid()
    threading.setprofile(profile)
    sys.setprofile(profile)
