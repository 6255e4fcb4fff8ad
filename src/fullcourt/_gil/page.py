"""A recording as one HTML page: self-contained, nothing is loaded from elsewhere. A pure function.

The recording stands in the page as JSON; `page.js` draws it, `page.css` has its looks. The words and the tables are in
the page itself, for readers without scripts, for screen readers and for printing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fullcourt._gil.cells import states_of
from fullcourt._gil.palette import STYLES
from fullcourt._gil.report import ProcessReport, Report, ThreadReport
from fullcourt._gil.table import HEADS, certainty, percent, process_title, row_cells, thread_name, title
from fullcourt._gil.trace import cores_used
from fullcourt._gil.words import advice

__all__ = ["page"]

HERE = os.path.dirname(os.path.abspath(__file__))


def page(
    recording: Mapping[str, Any],
    report: Report,
    *,
    sentences: Sequence[str] = (),
    lanes: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page.

    Args:
        recording: as the recorder gives it.
        report: that of this recording.
        sentences: what is said before the report's own advice.
        lanes: further rows: each with the `pid` that it belongs to, a `name`, and `spans` of [begin, end, label, kind],
            in microseconds since the recording began; kinds are ``"task"`` and ``"pickle"``.
    """
    data = json.dumps(_data(recording, report, lanes), separators=(",", ":")).replace("<", "\\u003c")
    legend = "".join(
        f'<li><span class="swatch" style="background: var(--{state})"></span>{escape(style.label)}:'
        f" {escape(style.meaning)}</li>"
        for state, style in STYLES.items()
    )
    said = "".join(f"<li>{escape(sentence)}</li>" for sentence in (*sentences, *advice(report)))
    sure = "".join(f'<p class="soft">{escape(sentence)}</p>' for sentence in certainty(report))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fullcourt: what the GIL did</title>
<style>{_file("page.css")}</style>
</head>
<body>
<h1>What the GIL did</h1>
<p class="soft">{escape(title(report))}</p>
<div class="columns">
<main>
<ul class="legend" aria-label="Colours">{legend}</ul>
<div class="bar" role="toolbar" aria-label="Zoom">
<button id="in" type="button">Zoom in</button><button id="out" type="button">Zoom out</button>
<button id="all" type="button">All</button> <span id="shown" class="soft" aria-live="polite"></span></div>
<div id="timeline"></div>
<p class="soft">Keys: + and - zoom, arrows move, 0 shows all, Tab and the up and down arrows go from row to row. With
the mouse: drag, double click, or Ctrl and the wheel.</p>
<h2>The numbers</h2>
<div class="scroll">{_table(report)}</div>
</main>
<aside>
<h2>What it means</h2>
<ul>{said}</ul>
<h2>All threads together</h2>
{_totals(report)}
<h2>How sure this is</h2>
{sure}
</aside>
</div>
<div id="tip" role="status"></div>
<div id="told" role="status" style="position: absolute; clip-path: inset(50%)"></div>
<script type="application/json" id="data">{data}</script>
<script>{_file("page.js")}</script>
</body>
</html>
"""


def _file(name: str) -> str:
    with open(os.path.join(HERE, name), encoding="utf-8") as file:
        return file.read()


def _data(recording: Mapping[str, Any], report: Report, lanes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = {
        (thread.pid, thread.tid, round(thread.began_s * 1e3)): thread
        for process in report.processes
        for thread in process.threads
    }
    by_process: dict[int, list[dict[str, Any]]] = {}
    for index, thread in enumerate(recording["threads"]):
        known = names[thread["pid"], thread["tid"], round(thread["began_ns"] * 1e-6)]
        by_process.setdefault(thread["pid"], []).append(_thread(index, thread, known))
    for threads in by_process.values():
        threads.sort(key=lambda thread: (-thread["busy"], thread["began_us"]))
    return {
        "wall_us": recording["wall_ns"] / 1e3,
        "cell_us": recording["cell_ns"] / 1e3,
        "n_cores": recording["n_cores"],
        "states": [{"id": state, "label": style.label, "meaning": style.meaning} for state, style in STYLES.items()],
        "cores": [
            [number, round(held, 3), round(native, 3)] for number, (held, native) in cores_used(recording).items()
        ],
        "lanes": list(lanes),
        "processes": [
            {
                "pid": process.pid,
                "title": process_title(process),
                "gils": recording["processes"][process.pid]["gils"],
                "threads": by_process.get(process.pid, []),
            }
            for process in report.processes
        ],
    }


def _thread(index: int, thread: Mapping[str, Any], known: ThreadReport) -> dict[str, Any]:
    name = thread_name(known)
    shares = known.times.shares()
    parts = [f"{STYLES[state].label} {percent(share)}" for state, share in shares.items() if share >= 0.005]
    return {
        "index": index,
        "tid": known.tid,
        "name": name,
        "label": f"{name}: {', '.join(parts)}",
        "busy": round(known.times.cpu_s + known.times.gil_wait_s, 3),
        "began_us": thread["began_ns"] / 1e3,
        "ended_us": known.ended_s * 1e6,
        "total": [round(share, 4) for share in shares.values()],
        "cells": [[number, _packed(states_of(cell, thread["total"]))] for number, cell in thread["cells"].items()],
    }


def _packed(states: list[float]) -> list[int]:
    """A cell as [state, percent, state, percent, ...]."""
    total = sum(states) or 1.0
    packed: list[int] = []
    for state, amount in enumerate(states):
        share = round(100 * amount / total)
        if share:
            packed += (state, share)
    return packed


def _table(report: Report) -> str:
    heads = [head for head in HEADS if head]
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body: list[str] = []
    for process in report.processes:
        if process.times.wall_s > 0:
            name = escape(process_title(process))
            body.append(f'<tr class="process"><th scope="rowgroup" colspan="{len(heads)}">{name}</th></tr>')
            body += _rows(process)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _rows(process: ProcessReport) -> list[str]:
    found: list[str] = []
    for thread in process.threads:
        cells = row_cells(thread_name(thread), thread.times)
        data = "".join(f"<td>{escape(cell)}</td>" for cell in (cells[1], *cells[3:]))
        found.append(
            f'<tr data-pid="{process.pid}" data-tid="{thread.tid}"><th scope="row">{escape(cells[0])}</th>{data}</tr>'
        )
    return found


def _totals(report: Report) -> str:
    rows = "".join(
        f'<tr><th scope="row"><span class="swatch" style="background: var(--{state})"></span>'
        f"{escape(STYLES[state].label)}</th><td>{getattr(report.times, f'{state}_s'):.2f} s</td>"
        f"<td>{percent(share)}</td></tr>"
        for state, share in report.times.shares().items()
        if share >= 0.0005
    )
    return f'<table><tbody id="totals">{rows}</tbody></table>'
