"""Ctrl-C must not tear a half-done step: the shield holds it back for that long.

Python runs signal handlers between any two instructions of the main thread. A KeyboardInterrupt between receiving an
answer and noting it would lose the answer. So while the main thread changes the pool's state, SIGINT is noted, and
delivered right after; while it waits, it comes through at once. A second Ctrl-C always comes through at once.
"""

from __future__ import annotations

import _signal  # the C module under `signal`: without the conversions to enums, which cost 20 us for a call
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Shield"]


class Shield:
    """Holds SIGINT back in the main thread, while entered and not ``open``. Costs 1 us; nothing in other threads.

    One shield serves one pool. Only the main thread touches its state. It can be entered again within itself.
    """

    __slots__ = ("_depth", "_main", "_mine", "_old", "_pending", "open")

    def __init__(self) -> None:
        self._mine = self._handle  # one object, to be told by its identity
        self._main = threading.main_thread().ident
        self._depth = 0
        self._old: Any = None
        self._pending = False
        self.open = False  # set while the thread only waits

    def __enter__(self) -> None:
        if threading.get_ident() != self._main:
            return
        if self._depth == 0:
            # In this order, an interrupt between any two of these lines either changes nothing or is held back.
            old = _signal.getsignal(_signal.SIGINT)
            if callable(old):
                _signal.signal(_signal.SIGINT, self._mine)
                self._old = old
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._depth == 0 and self._old is not None:
            old, self._old = self._old, None
            # The user's code inside (a callback) may have set a handler of its own: then that one stays.
            if _signal.getsignal(_signal.SIGINT) is self._mine:
                _signal.signal(_signal.SIGINT, old)
            self._deliver(old)

    def wait_begins(self) -> None:
        """From here on only waiting is done: an interrupt may come through."""
        if threading.get_ident() == self._main:
            self.open = True
            if self._pending and self._old is not None:
                self.open = False
                self._deliver(self._old)

    def wait_ends(self) -> None:
        """State will be changed again."""
        if threading.get_ident() == self._main:
            self.open = False

    def _deliver(self, handler: Any) -> None:
        if self._pending:
            self._pending = False
            handler(_signal.SIGINT, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._old is not None and (self.open or self._pending):
            self.open = self._pending = False
            self._old(number, frame)
        else:
            self._pending = True
