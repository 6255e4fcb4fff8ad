"""The lanes of the page of `fullcourt demo`: what each slot did, over time."""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fullcourt.cli.demo_run import Job, Run

__all__ = ["lanes"]

# The finest that is drawn is a hundred-and-fortieth of the axis: it keeps the page below half a megabyte with 32 slots.
_N_BINS: Final = 140
# How strong, by the share of the time that a slot's task was on a core.
_OPACITIES: Final = (0.16, 0.37, 0.58, 0.79, 1.0)
_GAP: Final = 14
_BOTTOM: Final = 22


def lanes(job: Job, width: int, label_width: int) -> str:
    """Draw the slots of each run as rows over one time axis, as an SVG with labels in the first `label_width` units."""
    runs = [run for run in job.runs if run.records]
    longest = max((run.seconds for run in runs), default=1.0) or 1.0
    room = width - label_width - 10
    parts: list[str] = []
    y = 4.0
    for run in runs:
        tracks = _tracks(run)
        height = _row_height(len(tracks))
        top = y
        for track in tracks:
            parts.append(_track(run, track, longest, label_width, room, y, height))
            y += height + 1
        name = run.way.name.rpartition(" ")[2]
        parts.append(f'<text x="0" y="{(top + y) / 2 + 4:.1f}">{escape(run.way.name)}</text>')
        end = label_width + run.seconds / longest * room
        parts.append(f'<rect class="{name}" x="{end:.1f}" y="{top:.1f}" width="2" height="{y - top - 1:.1f}"/>')
        y += _GAP
    axis = "".join(_tick(second, label_width + second / longest * room, y) for second in _ticks(longest))
    said = "; ".join(
        f"{run.way.name}: {run.slots_busy:.1f} of {run.way.n_slots} slots had a task, {run.cores_busy:.1f} cores worked"
        for run in runs
    )
    return (
        f'<svg viewBox="0 0 {width} {y + _BOTTOM - 8:.0f}" role="img" aria-label="On average: {escape(said)}">'
        f"{axis}{''.join(parts)}</svg>"
    )


def _tracks(run: Run) -> list[list[tuple[float, float, float]]]:
    """Return for each slot its tasks as (begin, end, share of the time on a core), in seconds since the run began.

    In order of the processes, so that a process' threads are neighbours.
    """
    by_slot: defaultdict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(list)
    for record in run.records:
        took = record.ended - record.started
        share = min(1.0, record.cpu_s / took) if took > 0 else 1.0
        by_slot[record.slot].append((record.started - run.begun, record.ended - run.begun, share))
    return [sorted(by_slot[slot]) for slot in sorted(by_slot)]


def _track(
    run: Run,
    tasks: Iterable[tuple[float, float, float]],
    longest: float,
    left: int,
    room: float,
    y: float,
    height: float,
) -> str:
    """Draw one slot: a path for each strength, of which each stretch is one step `M x y h width`."""
    covered, on_core = [0.0] * _N_BINS, [0.0] * _N_BINS
    bin_s = longest / _N_BINS
    for begin, end, share in tasks:
        for number in range(max(0, int(begin / bin_s)), min(_N_BINS - 1, int(end / bin_s)) + 1):
            seconds = min(end, (number + 1) * bin_s) - max(begin, number * bin_s)
            if seconds > 0:
                covered[number] += seconds
                on_core[number] += seconds * share
    steps: defaultdict[int, list[str]] = defaultdict(list)
    level_before, since = -1, 0
    for number in range(_N_BINS + 1):
        level = -1
        if number < _N_BINS and covered[number] > 0.25 * bin_s:
            level = min(len(_OPACITIES) - 1, int(on_core[number] / covered[number] * len(_OPACITIES)))
        if level != level_before:
            if level_before >= 0:
                unit = room / _N_BINS
                steps[level_before].append(
                    f"M{left + since * unit:.1f} {y + height / 2:.1f}h{(number - since) * unit:.1f}"
                )
            level_before, since = level, number
    name = run.way.name.rpartition(" ")[2]
    return "".join(
        f'<path d="{"".join(path)}" stroke="var(--{name})" stroke-width="{height:.1f}"'
        f' stroke-opacity="{_OPACITIES[level]}"/>'
        for level, path in sorted(steps.items())
    )


def _row_height(n_rows: int) -> float:
    """Return how high a row is: few are high enough to see, many low enough to fit."""
    return max(2.0, min(16.0, 96.0 / max(1, n_rows)))


def _tick(second: float, x: float, bottom: float) -> str:
    return (
        f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom - _GAP + 4:.1f}"/>'
        f'<text class="axis" text-anchor="middle" x="{x:.1f}" y="{bottom + 4:.1f}">{second:g} s</text>'
    )


def _ticks(longest: float) -> list[float]:
    """Return some round numbers of seconds up to `longest`."""
    step = next((step for step in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if longest / step <= 8), 200.0)
    return [round(step * number, 3) for number in range(int(longest / step) + 1)]
