"""How single calls go in an auto pool: the first of each function in its trial threads, the others where that shows.

The first run one at a time, then two at a time, where so many wait at once; what waits meanwhile is kept here. Calls
that are made one after the other, each waited for, stay in the trial threads: nothing would be gained elsewhere.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fullcourt._advise.calibrate import facts_of
from fullcourt._advise.explain import Choice
from fullcourt._advise.facts import Facts, Stretch
from fullcourt._advise.log import Machine, SlotLog, stretch_of
from fullcourt._advise.model import Mode, choose, demands_of, predict
from fullcourt._advise.transport import measure_transport
from fullcourt._advise.words import reason
from fullcourt._core.options import Options
from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future
from fullcourt._transport.functions import function_name

if TYPE_CHECKING:
    from fullcourt._advise.hub import Hub

__all__ = ["Calls", "Pending"]

MIN_ALONE = 3
MIN_PAIR = 4
ENOUGH_S = 0.1
ALONE, PAIR, DECIDING, DECIDED = 0, 1, 2, 3


class Pending:
    """A call that waits here. It is its future's `work` meanwhile."""

    __slots__ = ("args", "fn", "future", "kwargs", "options")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: Future[Any],
        options: Options | None,
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.future = future
        self.options = options


class Calls:
    """The calls of one function. Any thread may use it; the hub's lock protects what is written here."""

    def __init__(self, hub: Hub, fn: Callable[..., Any]) -> None:
        self.hub = hub
        self.driver: Driver | None = None  # where they go, once that is decided
        self.choice = Choice(function_name(fn), Mode(0, 1), "Its first calls are being tried.")
        self.waiting: deque[Pending] = deque()
        self._fn = fn  # one of those that share its code
        self._foreign = 0.0
        self._phase = ALONE
        self._n_running = 0
        self._logs = threading.local()
        self._all_logs: list[SlotLog] = []
        self._machine = Machine()
        self._since = perf_counter()
        self._n_ended = 0
        self._seconds = 0.0
        self._alone: Stretch | None = None
        self._pair: Stretch | None = None
        self._samples: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._results: list[Any] = []

    def add(self, call: Pending) -> None:
        """Take a call; it runs in its turn."""
        with self.hub._lock:
            self.waiting.append(call)
        self.pump()

    def withdraw(self, call: Pending) -> bool:
        """Take a call back, if it waits here."""
        with self.hub._lock:
            try:
                self.waiting.remove(call)
            except ValueError:
                return False
            return True

    def drain(self) -> list[Pending]:
        """Take back all that wait. Under the lock."""
        calls = list(self.waiting)
        self.waiting.clear()
        return calls

    def is_idle(self) -> bool:
        """Whether nothing waits here, and nothing is being decided."""
        return not self.waiting and self._phase != DECIDING

    def pump(self) -> None:
        """Have as many run as shall."""
        while True:
            with self.hub._lock:
                if not self.waiting:
                    break
                driver = self.driver
                if driver is None:
                    limit = 1 if self._phase == ALONE else 2
                    if self._n_running >= limit:
                        break
                    self._n_running += 1
                call = self.waiting.popleft()
            self.hub.route(call, driver, None if driver is not None else Tried(self, call.fn))
        self.hub.look_at_end()

    def began(self) -> SlotLog:
        """A call begins, in the calling thread."""
        log: SlotLog | None = getattr(self._logs, "log", None)
        if log is None:
            log = self._logs.log = SlotLog()
            self._all_logs.append(log)
        return log

    def ended(self, args: tuple[Any, ...], kwargs: dict[str, Any], values: list[Any]) -> None:
        """A call has ended, in the calling thread."""
        decide = False
        with self.hub._lock:
            self._n_running -= 1
            self._n_ended += 1
            self._seconds = perf_counter() - self._since
            if len(self._samples) < 8:
                self._samples.append((args, kwargs))
                self._results += values
            if self._phase == ALONE and self._n_ended >= MIN_ALONE and self._seconds >= ENOUGH_S / 4:
                if self.waiting:
                    self._alone = self._close_phase()
                    self._phase = PAIR
            elif self._phase == PAIR and self._n_ended >= MIN_PAIR and self._seconds >= ENOUGH_S:
                self._pair = self._close_phase()
                self._phase = DECIDING
                decide = True
        if decide:
            self.hub.start(self._decide)
        self.pump()

    def _close_phase(self) -> Stretch | None:
        """Under the lock."""
        _, own, self._foreign = self._machine.look()
        stretch = stretch_of(self._all_logs, self._since, perf_counter(), own)
        self._since = perf_counter()
        self._n_ended = 0
        return stretch

    def _decide(self) -> None:
        """In a thread of its own: pickling may take long, and so may starting processes."""
        hub = self.hub
        facts: Facts | None = None
        if self._alone is not None:
            transport = measure_transport(self._fn, self._samples, self._results, hub.start_method)
            facts = facts_of(self._alone, self._pair, transport, self._foreign)
        self._samples.clear()
        self._results.clear()
        if facts is None:
            mode, words, chosen = Mode(0, 2), "Its first calls told nothing.", None
            predictions: tuple[Any, ...] = ()
        else:
            predictions = tuple(predict(facts))
            chosen = choose(list(predictions), facts)
            mode, words = chosen.mode, reason(facts, demands_of(facts), chosen, predictions)
        driver, mode = hub.driver_for(mode)
        self.choice = replace(
            self.choice, mode=mode, reason=words, predicted=chosen, facts=facts, predictions=predictions
        )
        with hub._lock:
            self.driver = driver
            self._phase = DECIDED
        self.pump()


class Tried:
    """A function that notes what its call takes. Never pickled: it runs in the trial threads."""

    def __init__(self, calls: Calls, fn: Callable[..., Any]) -> None:
        self._calls = calls
        self._fn = fn
        self.__qualname__ = function_name(fn)
        self.__wrapped__ = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        calls = self._calls
        log = calls.began()
        values: list[Any] = []
        began = perf_counter()
        try:
            value = self._fn(*args, **kwargs)
            values.append(value)
            return value
        finally:
            log.ended(1, perf_counter() - began)
            calls.ended(args, kwargs, values)
