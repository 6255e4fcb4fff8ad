"""The page of `fullcourt demo --html`: one file, no script, nothing loaded from elsewhere, for light and dark screens.

Two drawings for each job. The bars show the seconds. The lanes show what the slots did: a row for each slot, strong
while its task was on a core, faint while its task waited (for the GIL, for a core, for a reply), empty while it had
none. All ways of a job share one time axis.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

from fullcourt.cli.demo import NOTE, foreword, heads, rows, title
from fullcourt.cli.demo_lanes import lanes

if TYPE_CHECKING:
    from fullcourt.cli.demo import Report
    from fullcourt.cli.demo_run import Job, Run

__all__ = ["page"]

_WIDTH: Final = 920
_LABEL_WIDTH: Final = 120
_NUMBER_WIDTH: Final = 150
_BAR_HEIGHT: Final = 22
_BAR_STEP: Final = 34

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1d2327; --soft: #5a646b; --line: #d8dcdf;
  --serial: #8a939a; --threads: #b8560b; --processes: #1c66b4; --both: #0f7a5a; --interpreters: #8040a8; }
@media (prefers-color-scheme: dark) { :root { --paper: #15191c; --ink: #e8ebed; --soft: #a4aeb5; --line: #363e44;
  --serial: #9aa4ab; --threads: #f0994d; --processes: #6cb2f5; --both: #48c79c; --interpreters: #c693ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 980px; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .25rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
.soft { color: var(--soft); }
.bad { color: #c62828; font-weight: 600; }
svg { display: block; width: 100%; height: auto; font: 14px system-ui, sans-serif; }
svg text { fill: var(--ink); }
svg .axis { fill: var(--soft); font-size: 12px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
.serial { fill: var(--serial); } .threads { fill: var(--threads); } .processes { fill: var(--processes); }
.both { fill: var(--both); } .interpreters { fill: var(--interpreters); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
tbody th { font-weight: 600; }
td:last-child { white-space: normal; min-width: 18rem; }
@media print { body { max-width: none; } section { break-inside: avoid; } }
"""


def page(report: Report) -> str:
    """Return the page as HTML."""
    verdict_class = ' class="bad"' if report.n_different else ""
    sections = "\n".join(_section(report, job) for job in report.jobs)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fullcourt demo: threads, processes, and both</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Threads, processes, and both</h1>
<p>Three jobs over the source files of Python's own standard library: one that computes in Python, one that computes in
native code, one that waits. Each was run one file after the other, and then in parallel in each way that
this Python has.</p>
<p class="soft">{escape(foreword(report))} The whole took {report.took_s:.0f} s.</p>
<p class="soft">{escape(NOTE)}</p>
<p{verdict_class}>{escape(report.verdict())}</p>
{sections}
</main>
</body>
</html>
"""


def _section(report: Report, job: Job) -> str:
    name, _, what = title(job).partition(": ")
    return f"""<section aria-labelledby="{job.name}">
<h2 id="{job.name}">{escape(name.capitalize())}</h2>
<p class="soft">{escape(what)}</p>
{_bars(job)}
<h3>What the slots did</h3>
<p class="soft">A row is a slot. Strong: its task ran on a core. Faint: its task waited, for the GIL, a core or a reply.
Empty: it had no task.</p>
{lanes(job, _WIDTH, _LABEL_WIDTH)}
<h3>The numbers</h3>
<div class="scroll">{_table(report, job)}</div>
</section>"""


def _bars(job: Job) -> str:
    """Draw the seconds of each run as bars."""
    runs = [run for run in job.runs if not run.error]
    longest = max((run.seconds for run in runs), default=1.0) or 1.0
    room = _WIDTH - _LABEL_WIDTH - _NUMBER_WIDTH
    parts: list[str] = []
    for number, run in enumerate(runs):
        y = number * _BAR_STEP + 4
        width = max(1.0, run.seconds / longest * room)
        middle = y + _BAR_HEIGHT / 2 + 5
        parts.append(
            f'<text x="0" y="{middle:.0f}">{escape(run.way.name)}</text>'
            f'<rect class="{css_class(run)}" x="{_LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="{_BAR_HEIGHT}"/>'
            f'<text x="{_LABEL_WIDTH + width + 8:.1f}" y="{middle:.0f}">{run.seconds:.2f} s'
            f"{'' if run is job.runs[0] else f', {job.speed_up(run):.1f}x'}</text>"
        )
    said = "; ".join(
        f"{run.way.name} {run.seconds:.2f} seconds, {job.speed_up(run):.1f} times as fast as serial" for run in runs
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {len(runs) * _BAR_STEP}" role="img" aria-label="Seconds: {escape(said)}">'
        f"{''.join(parts)}</svg>"
    )


def _table(report: Report, job: Job) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads())
    body: list[str] = []
    for row in rows(job, report.n_cores):
        cells = "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        body.append(f'<tr><th scope="row" style="text-align:left">{escape(row[0])}</th>{cells}</tr>')
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def css_class(run: Run) -> str:
    """Return the class that colours a way; free threads are threads."""
    return run.way.name.rpartition(" ")[2]
