"""Where threads that read leave what arrived, for the one who drives."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from time import monotonic

from fullcourt._engines.linked import Event
from fullcourt._os.waits import acquire

__all__ = ["Mailbox"]

# The driver takes in at most so many events before it settles their futures.
MAX_EVENTS = 512
# On Windows a wait for a lock cannot be interrupted: so it ends now and then, for Ctrl-C to be heard.
LONGEST_WAIT_S = 0.25 if sys.platform == "win32" else 3600.0


class Mailbox:
    """Where the readers leave what arrived, for the one who drives. An interrupted wait loses nothing."""

    def __init__(self) -> None:
        self._arrived: deque[Event | None] = deque()
        self._bell = threading.Lock()  # released: something may have arrived since the last look
        self._bell.acquire()

    def put(self, event: Event | None) -> None:
        """Leave an event; None only wakes who waits. From any thread."""
        self._arrived.append(event)
        with contextlib.suppress(RuntimeError):  # it has rung
            self._bell.release()

    def wait(self, timeout: float | None) -> None:
        """Wait at most so many seconds (None: for ever) until something is there."""
        until = monotonic() + min(LONGEST_WAIT_S if timeout is None else timeout, LONGEST_WAIT_S)
        # A ring may be that of a letter which is gone already. Of a letter that comes after this look, the ring comes
        # after it too.
        while not self._arrived and acquire(self._bell, until - monotonic()):
            pass

    def empty(self) -> list[Event]:
        """Take out what is there, of very much only the first."""
        events: list[Event] = []
        while self._arrived and len(events) < MAX_EVENTS:
            event = self._arrived.popleft()
            if event is not None:
                events.append(event)
        return events
