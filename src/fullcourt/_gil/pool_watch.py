"""What a pool does while it is observed: its tasks, their batches, its pickling, and its workers' lives.

Nothing of this is in the pool itself. While it is observed, some methods of its driver and its engine are replaced, on
that object, by ones that note the time and call the original; afterwards they are as before. So it costs nothing while
nobody looks, and 1 to 2 microseconds a message while somebody does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from fullcourt._engines.jobs import Call, StreamJob
from fullcourt._os.locks import make_lock
from fullcourt._transport.functions import function_name

__all__ = ["Lane", "PoolWatch", "Span", "WorkerLife"]

MAX_SPANS = 20_000


@dataclass(slots=True)
class Span:
    """Some tasks that ran one after the other, or some pickling.

    Attributes:
        began: clock reading (`time.monotonic`).
        ended: the same.
        seconds: what of it was in tasks: less than from begin to end where several spans were made one.
        n_tasks: how many.
        name: the function's.
        longest_s: the longest message's tasks.
    """

    began: float
    ended: float
    seconds: float
    n_tasks: int
    name: str
    longest_s: float


@dataclass(slots=True)
class Lane:
    """One slot: tasks that did not overlap."""

    pid: int
    name: str
    spans: list[Span] = field(default_factory=list)


@dataclass(slots=True)
class WorkerLife:
    """A worker that ended while the pool was observed."""

    pid: int | None
    name: str
    began: float
    ended: float
    exitcode: int | None


class Instead:
    """Stands in the place of a method while a watch is open, and perhaps a little longer, under that of another one."""

    def __init__(self, watch: PoolWatch, original: Callable[..., Any], by: Callable[..., Any]) -> None:
        self.watch = watch
        self.original = original
        self._by = by

    def __call__(self, *args: Any) -> Any:
        """Note it and do it, or only do it."""
        return self.original(*args) if self.watch._closed else self._by(self.original, *args)


class PoolWatch:
    """Watches a driver from `open` to `close`. What it collects may be read at any time."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._lock = make_lock()  # the lists below: several threads of a pool report
        self._closed = False
        self._replaced: list[tuple[Any, str]] = []
        self._gap_s = 0.0002  # spans nearer to each other become one, when there are too many
        self.lanes: dict[tuple[int, str], list[Lane]] = {}
        self.pickling: list[Span] = []
        self.lost: list[WorkerLife] = []
        self.n_messages = 0
        self.n_tasks = 0
        self.from_iterator = False
        self._n_spans = 0

    def open(self) -> None:
        """Begin."""
        driver, engine = self._driver, self._driver.engine
        if engine.needs_driving:
            self._replace(driver, "_frame", self._frame)
            self._replace(driver, "_calls_done", none_at_once)
            self._replace(driver, "_read", self._timed)
            self._replace(driver, "_prepare", self._timed)
            self._replace(driver, "_worker_lost", self._worker_lost)
            self._replace(engine, "send", self._timed)
        else:
            self._replace(driver, "finished", self._finished)
        if driver._lane is not None:
            self._replace(driver._lane, "run", none_at_once)
        if driver.thread_lane is not None:
            self._replace(driver.thread_lane, "submit", none_at_once)

    def close(self) -> None:
        """Leave everything as it was, but for what other watches need that were opened later. Idempotent."""
        self._closed = True
        while self._replaced:
            target, name = self._replaced.pop()
            now = getattr(target, name)
            while isinstance(now, Instead) and now.watch._closed:
                now = now.original
            if isinstance(now, Instead):
                setattr(target, name, now)
            elif name in vars(target):
                delattr(target, name)  # what stands in the class shows again

    def _replace(self, target: Any, name: str, by: Callable[..., Any]) -> None:
        setattr(target, name, Instead(self, getattr(target, name), by))
        self._replaced.append((target, name))

    def _frame(self, original: Callable[..., Any], event: Any, value: Any, problem: Any, now: float) -> Any:
        _, _, _, chunk_id, _, count, _, seconds = event.fields
        handle = event.handle
        worker = self._driver.scheduler.workers.get(handle.id)
        chunk = worker.sent.get(chunk_id) if worker is not None else None
        if chunk is not None and count and seconds > 0:
            self._tasks(handle.pid or 0, handle.name, chunk, now, seconds, count)
        return original(event, value, problem, now)

    def _finished(
        self,
        original: Callable[..., Any],
        handle: Any,
        chunk: Any,
        start: int,
        values: list[Any],
        error: BaseException | None,
        seconds: float,
    ) -> Any:
        count = 1 if error is not None else len(values)
        self._tasks(handle.pid, threading.current_thread().name, chunk, monotonic(), seconds, count)
        return original(handle, chunk, start, values, error, seconds)

    def _timed(self, original: Callable[..., Any], *args: Any) -> Any:
        """Pickling, sending, reading: all in the pool's own process."""
        began = monotonic()
        try:
            return original(*args)
        finally:
            ended = monotonic()
            with self._lock:
                self._add(self.pickling, Span(began, ended, ended - began, 0, "pickling and sending", ended - began))

    def _worker_lost(self, original: Callable[..., Any], event: Any, now: float) -> Any:
        handle = event.handle
        self.lost.append(WorkerLife(handle.pid, handle.name, handle.started_at, now, event.exitcode))
        return original(event, now)

    def _tasks(self, pid: int, worker: str, chunk: Any, now: float, seconds: float, count: int) -> None:
        job = getattr(chunk, "job", None)
        if type(job) is StreamJob and not job.finite:
            self.from_iterator = True
        function = chunk.fn if type(chunk) is Call else getattr(job, "fn", None)
        name = function_name(function) if function is not None else "nested task"
        span = Span(now - seconds, now, seconds, count, name, seconds)
        with self._lock:
            self.n_messages += 1
            self.n_tasks += count
            lanes = self.lanes.setdefault((pid, worker), [])
            several = self._driver.scheduler.n_slots > 1 and self._driver.engine.needs_driving
            for lane in lanes:  # a worker of several slots: whichever was free
                if not several or not lane.spans or lane.spans[-1].ended <= span.began + 0.0005:
                    break
            else:
                lane = Lane(pid, worker if not lanes else f"{worker}, slot {len(lanes) + 1}")
                lanes.append(lane)
            if lane.spans:  # the end is when we heard of it
                span.began = max(span.began, lane.spans[-1].ended)
            self._add(lane.spans, span)

    def _add(self, spans: list[Span], span: Span) -> None:
        """Append, or make it one with the last one. Under the lock."""
        if spans and spans[-1].name == span.name and span.began - spans[-1].ended < self._gap_s and span.n_tasks == 0:
            join(spans[-1], span)
            return
        spans.append(span)
        self._n_spans += 1
        if self._n_spans > MAX_SPANS:
            self._coarsen()

    def _coarsen(self) -> None:
        while self._n_spans > MAX_SPANS // 2:
            self._gap_s *= 2
            self._n_spans = 0
            for spans in [self.pickling, *(lane.spans for lanes in self.lanes.values() for lane in lanes)]:
                kept: list[Span] = []
                for span in spans:
                    if kept and span.began - kept[-1].ended < self._gap_s:
                        join(kept[-1], span)
                    else:
                        kept.append(span)
                spans[:] = kept
                self._n_spans += len(kept)


def none_at_once(*_: Any) -> int:
    """In place of a short way past what is replaced: it is not taken."""
    return 0


def join(first: Span, second: Span) -> None:
    """Make the first span hold both."""
    if first.name != second.name:
        first.name = "several functions"
    first.ended = max(first.ended, second.ended)
    first.seconds += second.seconds
    first.n_tasks += second.n_tasks
    first.longest_s = max(first.longest_s, second.longest_s)
