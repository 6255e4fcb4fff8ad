"""Measuring this process's own threads: for whoever decides by it. `observe()` is the public face.

    report = measure_threads(0.5)          whatever runs meanwhile in other threads
    with ThreadMeter() as meter:
        fn(item)
        alone = meter.lap()                the report since the last lap; the next one begins
        ...
        together = meter.lap()
    report.thread(threading.get_native_id()).times.gil_wait_s

It costs a process that takes some 20 ms to start, then 2 to 6 % of one core.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Self

from fullcourt._gil.estimate import Estimator
from fullcourt._gil.report import Report
from fullcourt._gil.reporting import report_of
from fullcourt._gil.watching import SamplerError, Watcher

__all__ = ["ThreadMeter", "measure_threads", "own_thread_names", "watch_us"]

RATE_HZ = 250.0


class ThreadMeter:
    """Measures this process's threads, not those of its children, while its `with` is entered.

    One thread uses it. Where the system does not let us look, the reports' `method` is ``"counters"`` (the GIL's part
    is unknown) or ``"estimated"``.

    Args:
        rate_hz: looks a second; fewer with very many threads.
    """

    def __init__(self, *, rate_hz: float = RATE_HZ) -> None:
        self._rate_hz = rate_hz
        self._source: Watcher | Estimator | None = None

    def __enter__(self) -> Self:
        self._source = watch_us(rate_hz=self._rate_hz, children=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def lap(self) -> Report:
        """The report since this was entered, or since the last lap; the next one begins now.

        Raises:
            SamplerError: the sampler's process was killed.
        """
        source = self._source
        if source is None:
            raise RuntimeError("the meter is not entered: use it in a `with`")
        recording = source.recording(restart=True)
        return report_of(recording, own_thread_names())


def measure_threads(seconds: float, *, rate_hz: float = RATE_HZ) -> Report:
    """Measure what the other threads of this process do for so many seconds; blocks meanwhile.

    Its `processes` is this one, its `threads` are all that ran, by the numbers that `threading.get_native_id` gives.
    """
    with ThreadMeter(rate_hz=rate_hz) as meter:
        threading.Event().wait(seconds)
        return meter.lap()


def watch_us(*, rate_hz: float, children: bool) -> Watcher | Estimator:
    """Have this process watched, in the best way that the system allows."""
    try:
        watcher = Watcher(os.getpid(), rate_hz=rate_hz, children=children)
    except SamplerError:
        return Estimator()
    try:
        if watcher.recording()["processes"][os.getpid()]["method"] != "counters":
            return watcher
    except SamplerError:
        pass
    watcher.close()
    return Estimator()


def own_thread_names() -> dict[tuple[int, int], str]:
    """What Python calls the threads of this process; also those that have ended, as long as somebody has the object."""
    pid = os.getpid()
    known = getattr(getattr(threading, "_dangling", None), "data", ())  # weak references, of a WeakSet
    ended = [thread for thread in (reference() for reference in list(known)) if thread is not None]
    return {
        (pid, thread.native_id): thread.name
        for thread in (*ended, *threading.enumerate())  # a number that is used again is that of the one that runs
        if thread.native_id is not None
    }
