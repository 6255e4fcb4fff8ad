"""A thread that does what is due, for engines that nobody drives. It lives only while something is to come."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from fullcourt._os.locks import Condition
from fullcourt._os.threads import make_thread

__all__ = ["Timekeeper"]


class Timekeeper:
    """Calls ``tick`` when the moment ``due()`` has come (seconds of ``monotonic``; infinity: never)."""

    def __init__(self, tick: Callable[[], None], due: Callable[[], float], name: str) -> None:
        self._tick = tick
        self._due = due
        self._name = name
        self._condition = Condition()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """What ``due()`` says may have changed."""
        with self._condition:
            if self._thread is not None:
                self._condition.notify()
            elif self._due() < float("inf"):
                self._thread = make_thread(self._run, f"{self._name}-time")
                self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end; nothing is due any more."""
        with self._condition:
            thread = self._thread
            self._condition.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                due = self._due()
                if due == float("inf"):
                    self._thread = None
                    return
                left = due - monotonic()
                if left > 0:
                    self._condition.wait(min(left, 3600.0))
                    continue
            self._tick()
