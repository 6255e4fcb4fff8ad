"""`pool.observe()`: an observation that knows the pool's tasks."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self, TextIO

from fullcourt._gil.observing import Observation
from fullcourt._gil.pool_facts import facts_of
from fullcourt._gil.pool_watch import Lane, PoolWatch
from fullcourt._gil.pool_words import PoolFacts, why
from fullcourt._gil.trace import meta, slice_of

__all__ = ["PoolObservation"]

TASK_TRACK = 1 << 29  # above the threads' numbers, below the GILs': tasks stand between them in a trace


class PoolObservation(Observation):
    """As `Observation`, with the pool's tasks, pickling and workers on the same timeline.

    Made by `Pool.observe`. The pool may be used from any thread meanwhile, and go on afterwards.
    """

    def __init__(self, driver: Any, *, rate_hz: float) -> None:
        super().__init__(rate_hz=rate_hz, children=True)
        self._driver = driver
        self._watch = PoolWatch(driver)

    def __enter__(self) -> Self:
        super().__enter__()
        self._name_workers()
        self._watch.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._watch.close()
            self._name_workers()
        finally:
            super().__exit__(kind, error, tb)

    def _name_workers(self) -> None:
        engine = self._driver.engine
        for handle in list(engine.handles.values()):
            if handle.pid not in (None, os.getpid()):
                self._workers[handle.pid] = handle.name
        for life in self._watch.lost:
            if life.pid is not None:
                self._workers[life.pid] = life.name
        template = getattr(engine, "_template_pid", 0)
        if template:
            self._workers[template] = "template, which starts the workers"

    @property
    def facts(self) -> PoolFacts:
        """What `why` is made of."""
        watch, scheduler = self._watch, self._driver.scheduler
        return facts_of(
            self._lanes(),
            watch.pickling,
            self.report,
            n_slots=max(1, scheduler.n_workers * scheduler.n_slots),
            n_workers=scheduler.n_workers if self._driver.engine.needs_driving else 0,
            n_messages=watch.n_messages,
            from_iterator=watch.from_iterator,
        )

    @property
    def why(self) -> str:
        """Why the pool was as slow as it was, in one sentence with numbers."""
        return why(self.facts)

    def print(self, file: TextIO | None = None) -> None:
        """Print that sentence, then the table."""
        print(self.why, file=file)
        super().print(file)

    def _lanes(self) -> list[Lane]:
        return [lane for lanes in list(self._watch.lanes.values()) for lane in lanes]

    def _sentences(self) -> tuple[str, ...]:
        return (self.why,)

    def _page_lanes(self, recording: dict[str, Any]) -> list[dict[str, Any]]:
        began_s = recording["began_ns"] * 1e-9
        found: list[dict[str, Any]] = []
        for lane in self._lanes():
            spans = [
                [
                    round((span.began - began_s) * 1e6, 1),
                    round((span.ended - began_s) * 1e6, 1),
                    span.name if span.n_tasks == 1 else f"{span.n_tasks} x {span.name}",
                    "task",
                ]
                for span in lane.spans
            ]
            found.append({"pid": lane.pid, "name": f"tasks of {lane.name}", "spans": spans})
        if self._watch.pickling:
            spans = [
                [round((s.began - began_s) * 1e6, 1), round((s.ended - began_s) * 1e6, 1), s.name, "pickle"]
                for s in self._watch.pickling
            ]
            found.append({"pid": recording["pid"], "name": "pickling and sending", "spans": spans})
        return found

    def _marks(self, recording: dict[str, Any]) -> list[dict[str, Any]]:
        marks: list[dict[str, Any]] = []
        for index, lane in enumerate(self._page_lanes(recording)):
            marks.append(meta("thread_name", lane["pid"], TASK_TRACK + index, lane["name"]))
            marks += [
                slice_of(name, lane["pid"], TASK_TRACK + index, begin, end) for begin, end, name, _ in lane["spans"]
            ]
        return marks
