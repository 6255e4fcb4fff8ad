"""How single calls go in an auto pool: the first of each function in its trial threads, the others where that shows.

As long as nothing waits, calls go to the trial threads: where one is waited for before the next is made, nothing would
be gained elsewhere. When one has to wait, a thread comes that conducts: for a moment one runs at a time, then two, then
it is decided. No moment lasts longer than a tenth of a second, whatever the calls do: they may wait for each other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fullcourt._advise.calibrate import facts_of, partial_stretch, scaled
from fullcourt._advise.explain import Choice
from fullcourt._advise.facts import Stretch
from fullcourt._advise.log import Machine, SlotLog, stretch_of
from fullcourt._advise.model import Mode, choose, demands_of, predict
from fullcourt._advise.transport import measure_transport
from fullcourt._advise.words import reason
from fullcourt._core.options import Options
from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future
from fullcourt._os.cpus import usable_cores
from fullcourt._os.locks import Bell
from fullcourt._transport.functions import function_name

if TYPE_CHECKING:
    from fullcourt._advise.hub import Hub

__all__ = ["Calls", "Pending"]

MIN_ITEMS = 3
ALONE_S = 0.1
PAIR_S = 0.12
SHORTEST_S = 0.025


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
        self.choice = Choice(function_name(fn), Mode(0, 1), "Its calls did not have to wait for each other.")
        self.waiting: deque[Pending] = deque()
        self._n_leaving = 0  # those that wait no more, and that no driver has yet
        self._fn = fn  # one of those that share its code
        self._limit = 1  # how many run at a time while it is tried
        self._n_running = 0
        self._conducted = False
        self._n_ended = 0  # while they were tried
        self.n_handed_on = 0  # since
        self._bell = Bell()
        self._logs = threading.local()
        self._all_logs: list[SlotLog] = []
        self._samples: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._results: list[Any] = []

    # -- from anywhere ---------------------------------------------------------------------------------------------

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
        self.ring()
        return calls

    def so_far(self) -> Choice:
        """The choice, and how many calls it is about. Under the lock."""
        return replace(self.choice, n_items=self._n_ended + self.n_handed_on)

    def is_idle(self) -> bool:
        """Whether all calls are with a driver. Under the lock."""
        return not self.waiting and not self._n_leaving

    def ring(self) -> None:
        """Something has happened: the conductor looks."""
        self._bell.ring()

    def pump(self) -> None:
        """Have as many run as shall."""
        with self.hub.shield:  # an interrupt must not lose a call between here and its driver
            conduct = self._hand_on()
            if conduct:
                self.hub.start(self._conduct)
            self.hub.look_at_end()

    def _hand_on(self) -> bool:
        """Give what waits to a driver, as far as it shall run. Returns whether somebody must conduct."""
        while True:
            with self.hub._lock:
                if not self.waiting:
                    return False
                driver = self.driver
                if driver is None:
                    if self._n_running >= self._limit:
                        conduct, self._conducted = not self._conducted, True
                        return conduct
                    self._n_running += 1
                call = self.waiting.popleft()
                self._n_leaving += 1
                self.n_handed_on += driver is not None
            try:
                if driver is not None:
                    self.hub.route(call, driver)
                else:
                    self.hub.route(call, self.hub.drivers.trial(), Tried(self, call.fn))
            finally:
                with self.hub._lock:
                    self._n_leaving -= 1

    # -- in the trial's threads ------------------------------------------------------------------------------------

    def began(self) -> SlotLog:
        """A call begins, in the calling thread."""
        log: SlotLog | None = getattr(self._logs, "log", None)
        if log is None:
            log = self._logs.log = SlotLog()
            self._all_logs.append(log)
        return log

    def ended(self, args: tuple[Any, ...], kwargs: dict[str, Any], values: list[Any]) -> None:
        """A call has ended, in the calling thread."""
        with self.hub._lock:
            self._n_running -= 1
            self._n_ended += 1
            if self.driver is None and len(self._samples) < 8:
                self._samples.append((args, kwargs))
                self._results += values
        if self._conducted and self.driver is None and not self._n_ended % MIN_ITEMS:  # who wakes wants the GIL
            self.ring()
        if self.waiting:
            self.pump()

    # -- the conductor ---------------------------------------------------------------------------------------------

    def _conduct(self) -> None:
        """Alone, in pairs, decided. In a thread of its own: pickling may take long, and so may starting processes."""
        try:
            while self.waiting and not self.hub.drivers.initialized:
                self._bell.wait()
            machine = Machine()
            alone = self._phase(ALONE_S, machine)
            with self.hub._lock:
                self._limit = 2
            self.pump()
            pair = self._phase(PAIR_S, machine)
            broken = self.hub.drivers.error
            if broken is not None:
                self._fail(broken)
            elif self.waiting:
                self._decide(alone, pair, self._foreign)
        except BaseException as error:  # noqa: BLE001  the calls must not hang for it
            self.choice = replace(self.choice, reason=f"What it does could not be looked at: {error!r}.")
            self._go(*self.hub.drivers.for_mode(Mode(0, 2)))
        finally:
            with self.hub._lock:
                self._conducted = False
                self._samples.clear()
                self._results.clear()
                if self.driver is None:
                    self._limit = 1
            self.pump()

    def _fail(self, error: BaseException) -> None:
        """The pool is broken: none of those that wait will run."""
        with self.hub._lock:
            calls = self.drain()
        for call in calls:
            call.future._settle(None, error)

    def _phase(self, longest_s: float, machine: Machine) -> Stretch | None:
        logs = list(self._all_logs)
        before = [log.so_far() for log in logs]
        machine.look()
        since = perf_counter()
        n_before = self._n_ended
        while self.waiting and self.hub.drivers.error is None and perf_counter() < since + longest_s:
            if self._n_ended - n_before >= MIN_ITEMS and perf_counter() > since + SHORTEST_S:
                break
            self._bell.wait(since + longest_s - perf_counter())
        now = perf_counter()
        elapsed, own, self._foreign = machine.look()
        stretch = stretch_of(list(self._all_logs), since, now, own)
        if stretch is not None or not logs or not self._n_running:
            return stretch
        return partial_stretch([log.so_far() for log in logs], before, elapsed, self._limit)

    def _decide(self, alone: Stretch | None, pair: Stretch | None, foreign: float) -> None:
        hub = self.hub
        if alone is None:
            mode = Mode(0, 4 * usable_cores().count)
            self.choice = replace(self.choice, mode=mode, reason="None of its first calls began soon.")
            self._go(*hub.drivers.for_mode(mode))
            return
        transport = measure_transport(self._fn, self._samples, self._results, hub.start_method)
        facts = facts_of(alone, None if pair is None else scaled(pair, alone), transport, foreign, hub.start_method)
        predictions = tuple(predict(facts))
        chosen = choose(list(predictions), facts)
        words = reason(facts, demands_of(facts), chosen, predictions)
        self.choice = replace(self.choice, reason=words, predicted=chosen, facts=facts, predictions=predictions)
        self._go(*hub.drivers.for_mode(chosen.mode))

    def _go(self, driver: Driver, mode: Mode) -> None:
        self.choice = replace(self.choice, mode=mode)
        with self.hub._lock:
            self.driver = driver


class Tried:
    """A function that notes what its call takes. Never pickled: it runs in the trial threads."""

    def __init__(self, calls: Calls, fn: Callable[..., Any]) -> None:
        self._calls = calls
        self._fn = fn
        self.__qualname__ = function_name(fn)
        self.__wrapped__ = fn

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        calls = self._calls
        log = calls.began()
        values: list[Any] = []
        log.begins()
        began = perf_counter()
        try:
            value = self._fn(*args, **kwargs)
            values.append(value)
            return value
        finally:
            log.ended(1, perf_counter() - began)
            calls.ended(args, kwargs, values)
