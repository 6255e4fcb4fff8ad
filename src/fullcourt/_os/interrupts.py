"""A signal's handler must not tear a half-done step: the shield holds it back for that long.

Python runs signal handlers between any two instructions of the main thread, and they may raise: Ctrl-C's does, and
those of programs that bound what takes too long by an alarm. An exception between receiving an answer and noting it
would lose the answer. So while the main thread changes the pool's state, such a signal is noted, and delivered right
after; while it waits, it comes through at once. A second Ctrl-C always comes through at once; so does another signal
that comes again when it has been held for a second, which an alarm does of itself: what is done in the shield may be
a callback of the user's that never ends.
"""

from __future__ import annotations

import _signal  # the C module under `signal`: without the conversions to enums, which cost 20 us for a call
import signal
import threading
from _signal import getsignal
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Shield"]

# Those whose handlers may raise. (Not SIGPROF and SIGVTALRM: a profiler's want to see what is interrupted.)
NAMES = ("SIGINT", "SIGALRM", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
SIGALRM = int(getattr(_signal, "SIGALRM", 0))
SIGNALS = tuple(int(getattr(_signal, name)) for name in NAMES if hasattr(_signal, name))
HELD_S = 1.0  # then an alarm comes again. As an interval it tells our timer from one that the user sets meanwhile
AGAIN_S = 1.000977


class Shield:
    """Holds signals back in the main thread, while entered and not ``open``. Nothing in other threads.

    One shield serves one pool. Only the main thread touches its state. It can be entered again within itself. Costs 1
    us, and half of one for each signal beside SIGINT that has a handler.
    """

    __slots__ = ("_depth", "_late", "_main", "_mine", "_old", "_pending", "open")

    def __init__(self) -> None:
        self._mine = self._handle  # one object, to be told by its identity
        self._main = threading.main_thread().ident
        self._depth = 0
        self._old: dict[int, Any] = {}  # the handlers in whose place ours is
        self._pending: dict[int, float] = {}  # when it came
        self._late: BaseException | None = None  # what came through in the midst of a step
        self.open = False  # set while the thread only waits

    def __enter__(self) -> None:
        if threading.get_ident() != self._main:
            return
        if self._depth == 0:
            try:
                for number in SIGNALS:
                    if callable(getsignal(number)):
                        # In this order, a signal between these lines either changes nothing or is held back.
                        self._old[number] = getsignal(number)
                        _signal.signal(number, self._mine)
            except BaseException:  # raised by the handler of one whose turn was still to come
                self._end()
                raise
        self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._depth == 0:
            late, self._late = self._late, None
            if self._old:
                self._end()
            if late is not None and error is None:  # a callback, or the pickling of an item, has swallowed it
                try:
                    raise late
                finally:
                    del late

    def _end(self) -> None:
        """Put the handlers back, and call those whose signals have come."""
        try:
            for number in tuple(self._old):
                # The user's code inside (a callback) may have set a handler of its own: then that one stays.
                if getsignal(number) is self._mine:
                    _signal.signal(number, self._old[number])
                del self._old[number]
        finally:
            if self._old:  # a handler that was put back has raised
                self._end()
            elif self._pending:
                self._deliver()

    def wait_begins(self) -> None:
        """From here on only waiting is done: a signal may come through."""
        if threading.get_ident() == self._main:
            self.open = True
            while self._pending:
                self.open = False
                self._deliver()
                self.open = True

    def wait_ends(self) -> None:
        """State will be changed again."""
        if threading.get_ident() == self._main:
            self.open = False

    def _deliver(self) -> None:
        for number in SIGNALS:
            if self._pending.pop(number, None) is not None:
                if number == SIGALRM:
                    stop_coming_again()
                handler = self._old.get(number) or getsignal(number)
                try:
                    if callable(handler):
                        handler(number, None)
                finally:
                    self._deliver()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        since = self._pending.get(number)
        is_late = since is not None and (number == _signal.SIGINT or monotonic() - since > HELD_S)
        if self.open or is_late:
            self._pending.pop(number, None)
            if number == SIGALRM:
                stop_coming_again()
            was_open, self.open = self.open, False
            try:
                self._old[number](number, frame)
            except BaseException as error:
                if not was_open:
                    self._late = error
                raise
            self.open = was_open  # the wait goes on
        else:
            self._pending.setdefault(number, monotonic())
            if number == SIGALRM:  # also if it was held before: this one may have been the last of the user's own
                come_again()


def come_again() -> None:
    """Have the alarm go off once more in a while, unless the user's own timer has it do so."""
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    # Linux tells 1 us of a timer that has gone off, while the kernel still does so on another core.
    if left < 0.001 and interval == 0.0:
        signal.setitimer(signal.ITIMER_REAL, HELD_S + 0.01, AGAIN_S)


def stop_coming_again() -> None:
    """Take our timer back, if it runs."""
    if abs(signal.getitimer(signal.ITIMER_REAL)[1] - AGAIN_S) < 1e-5:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
