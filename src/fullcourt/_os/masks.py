"""Starting processes that Ctrl-C does not hit before they are ready for it. Light: a fresh template imports this."""

from __future__ import annotations

import _signal  # the C module under `signal`, whose import of `enum` takes as long as half of an interpreter's start
import sys

__all__ = ["InterruptsBlocked", "unblock_interrupts"]


class InterruptsBlocked:
    """A process that this thread starts while in here is deaf to Ctrl-C until it calls :func:`unblock_interrupts`.

    Ctrl-C goes to the whole foreground group. A process of ours that has not come to its own handling of signals would
    print a KeyboardInterrupt among its first imports.
    """

    def __enter__(self) -> None:
        if sys.platform != "win32":
            self._before = _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])

    def __exit__(self, *_: object) -> None:
        if sys.platform != "win32":
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)


def unblock_interrupts() -> None:
    """Once this process's handling of signals is its own: the other half of :class:`InterruptsBlocked`."""
    if sys.platform != "win32":
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])
