"""The trial of a map: what its items take, alone and in pairs, while they run for real in the trial's threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from fullcourt._advise.calibrate import facts_of, partial_stretch, scaled
from fullcourt._advise.facts import Facts, Stretch, Transport
from fullcourt._advise.legs import Leg, MeteredEstimate
from fullcourt._advise.log import Machine, SlotLog, stretch_of
from fullcourt._advise.transport import measure_transport
from fullcourt._engines.jobs import STARMAP, StreamJob

if TYPE_CHECKING:
    from fullcourt._advise.hub import Hub

__all__ = ["Trial"]


class Trial:
    """Looks at a leg that is with the trial's threads.

    Args:
        hub: whose threads they are.
        leg: what they run.
        sleep: waits for so many seconds, or until the map is over.
    """

    def __init__(self, hub: Hub, leg: Leg, sleep: Callable[[float], bool]) -> None:
        self._hub = hub
        self._leg = leg
        self._sleep = sleep
        self._machine = Machine()
        self._foreign = 0.0
        threads = list(hub.drivers.trial().engine.threads)
        self._logs = {log.clock.thread_id: log for log in map(SlotLog, threads)}
        assert isinstance(leg.estimate, MeteredEstimate)
        leg.estimate.note = self._note

    def facts(self, alone: Stretch, pair: Stretch | None) -> Facts:
        """What was seen; pickles some items and results."""
        pair = None if pair is None else scaled(pair, alone)
        return facts_of(alone, pair, self._transport(), self._foreign, self._hub.start_method)

    def _note(self, n_items: int, seconds: float) -> None:
        log = self._logs.get(threading.get_native_id())
        if log is not None:
            log.ended(n_items, seconds)

    def phase(self, n_threads: int, phase_s: float) -> Stretch | None:
        """Look for a while. None: nothing ran."""
        logs = list(self._logs.values())
        self._machine.look()
        since = perf_counter()
        before = [log.so_far() for log in logs]
        self._sleep(phase_s)
        now = perf_counter()
        elapsed, own, self._foreign = self._machine.look()
        stretch = stretch_of(logs, since, now, own)
        if stretch is not None:
            return stretch
        busy = [
            (now_, then)
            for now_, then, log in zip([log.so_far() for log in logs], before, logs, strict=True)
            if not log.parts or log.parts[-1].ended < since or n_threads == len(logs)
        ][:n_threads]
        # Of one item that runs, it cannot be told in which of the two threads: in the one that works more.
        if n_threads == 1 and len(logs) > 1:
            pairs = zip([log.so_far() for log in logs], before, strict=True)
            busy = [max(pairs, key=lambda pair: pair[0][1] - pair[1][1])]
        return partial_stretch([one for one, _ in busy], [one for _, one in busy], elapsed, n_threads)

    def _transport(self) -> Transport:
        source = self._leg.source
        items: list[Any]
        with self._hub._lock:
            if isinstance(source, StreamJob):
                items = first_of(source.input)
                results = [value for good, value in first_of(source.ready) if good]
            else:
                items = list(source._items[-8:])
                n = source.n_done
                results = [value for value in source._results[: n : max(1, n // 8)] if value is not None][:8]
        if source.kind == STARMAP:
            items = [cast("tuple[Any, ...]", item) for item in items]
        return measure_transport(source.fn, items, results, self._hub.start_method)


def first_of(row: Sequence[Any], n: int = 8) -> list[Any]:
    """The first n of what others, without our lock, append to and take from: to go through it may fail."""
    found: list[Any] = []
    with contextlib.suppress(IndexError):
        found.extend(row[i] for i in range(n))
    return found
