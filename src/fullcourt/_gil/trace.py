"""A recording as Chrome trace event JSON, for https://ui.perfetto.dev and chrome://tracing: a pure function.

*Source* of the format: "Trace Event Format", the Chromium project. Threads get a slice for each stretch of one state;
each GIL is a track of its own, with a slice for each owner; the cores used are a counter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fullcourt._gil.cells import states_of
from fullcourt._gil.palette import STYLES
from fullcourt._gil.report import Report
from fullcourt._gil.waits import STATES

__all__ = ["cores_used", "meta", "slice_of", "stretches", "trace"]

# Of the tracing UI's own names (chrome://tracing knows no others), the nearest to ours.
COLOURS = {
    "held": "thread_state_running",
    "native": "good",
    "gil_wait": "terrible",
    "queued": "thread_state_runnable",
    "lock": "bad",
    "sleep": "grey",
    "network": "thread_state_iowait",
    "file": "olive",
    "other": "generic_work",
}
GIL_TRACK = 1 << 30  # above every thread's number: such tracks stand below the threads


def trace(recording: Mapping[str, Any], report: Report, marks: list[dict[str, Any]] | None = None) -> str:
    """The JSON. `marks`: further events, as a pool has them, in the same format."""
    names = {(thread.pid, thread.tid): thread.name for process in report.processes for thread in process.threads}
    events = [*_names(recording, report, names), *_slices(recording, names), *_cores(recording), *(marks or ())]
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, separators=(",", ":"))


def stretches(thread: Mapping[str, Any], cell_us: float) -> Iterator[tuple[float, float, str]]:
    """A thread's time as (begin, end, state) in microseconds: of each cell the state that filled most of it."""
    begin = end = 0.0
    state = ""
    last_us = thread["last_ns"] * 1e-3
    for number, cell in thread["cells"].items():
        states = states_of(cell, thread["total"])
        most = STATES[max(range(len(states)), key=states.__getitem__)]
        at = number * cell_us
        if state and (most != state or at > end + 1e-6):
            yield begin, min(end, last_us), state
            state = ""
        if not state:
            begin, state = max(at, thread["began_ns"] * 1e-3), most
        end = at + cell_us
    if state:
        yield begin, min(end, last_us), state


def cores_used(recording: Mapping[str, Any]) -> dict[int, list[float]]:
    """For each cell, by number: cores with the GIL and cores without it, of all threads together."""
    found: dict[int, list[float]] = {}
    cell_us = recording["cell_ns"] * 1e-3
    for thread in recording["threads"]:
        for number, cell in thread["cells"].items():
            states = states_of(cell, thread["total"])
            sums = found.setdefault(number, [0.0, 0.0])
            sums[0] += states[0] / cell_us
            sums[1] += states[1] / cell_us
    return dict(sorted(found.items()))


def _names(
    recording: Mapping[str, Any], report: Report, names: Mapping[tuple[int, int], str]
) -> Iterator[dict[str, Any]]:
    for process in report.processes:
        yield meta("process_name", process.pid, 0, f"{process.name} ({process.pid})".strip())
        for number in range(len(process.gils)):
            which = "GIL" if len(process.gils) == 1 else f"GIL of interpreter {number}"
            yield meta("thread_name", process.pid, GIL_TRACK + number, f"{which}: who held it")
    for thread in recording["threads"]:
        pid, tid = thread["pid"], thread["tid"]
        yield meta("thread_name", pid, tid, names.get((pid, tid), thread["name"]))


def meta(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    """Names a process or a track."""
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _slices(recording: Mapping[str, Any], names: Mapping[tuple[int, int], str]) -> Iterator[dict[str, Any]]:
    cell_us = recording["cell_ns"] * 1e-3
    for thread in recording["threads"]:
        for begin, end, state in stretches(thread, cell_us):
            yield slice_of(STYLES[state].label, thread["pid"], thread["tid"], begin, end, COLOURS[state])
    for pid, process in recording["processes"].items():
        for number, gil in enumerate(process["gils"]):
            ends = [at for at, _ in gil["owners"][1:]] + [recording["wall_ns"] / 1000]
            for (at, owner), end in zip(gil["owners"], ends, strict=True):
                if owner >= 0:
                    thread = recording["threads"][owner]
                    name = names.get((pid, thread["tid"]), thread["name"])
                    yield slice_of(f"{name} {thread['tid']}", pid, GIL_TRACK + number, at, end)


def slice_of(name: str, pid: int, tid: int, begin: float, end: float, colour: str = "") -> dict[str, Any]:
    """A stretch of time on a track."""
    event: dict[str, Any] = {
        "ph": "X", "name": name, "pid": pid, "tid": tid, "ts": round(begin, 1), "dur": round(max(0.0, end - begin), 1),
    }  # fmt: skip
    if colour:
        event["cname"] = colour
    return event


def _cores(recording: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    pid = recording["pid"]
    for number, (held, native) in cores_used(recording).items():
        yield {
            "ph": "C", "name": "cores used", "pid": pid, "ts": round(number * recording["cell_ns"] * 1e-3, 1),
            "args": {"with the GIL": round(held, 3), "without the GIL": round(native, 3)},
        }  # fmt: skip
