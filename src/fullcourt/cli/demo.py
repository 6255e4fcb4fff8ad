"""`fullcourt demo`: three jobs over the standard library's sources, in each way that this Python has, and a table."""

from __future__ import annotations

import contextlib
import platform
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fullcourt.cli import exits
from fullcourt.cli.demo_run import DELAY_S, run_all
from fullcourt.cli.demo_why import explain

if TYPE_CHECKING:
    from fullcourt.cli.demo_run import Job, Run

__all__ = ["NOTE", "Report", "foreword", "heads", "rows", "run_demo", "table_text", "title"]

NOTE: Final = (
    "Start: the seconds until the pool was ready, which are not in the seconds beside it."
    " Cores busy: CPU seconds of the tasks, divided by the seconds."
)
_HEAD: Final = ("way", "slots", "start", "seconds", "speed-up", "cores busy", "why")


@dataclass(frozen=True)
class Report:
    """All that was measured, and where."""

    jobs: list[Job]
    n_cores: int
    why_cores: str
    python: str
    took_s: float

    @property
    def n_different(self) -> int:
        """How many runs failed, or gave other results than the serial one."""
        return sum(not run.equal for job in self.jobs for run in job.runs)

    def verdict(self) -> str:
        """Say whether all results were equal."""
        n_runs = sum(len(job.runs) - 1 for job in self.jobs)
        if not self.n_different:
            return f"All {n_runs} parallel runs gave exactly the serial results."
        return f"{self.n_different} of {n_runs} parallel runs failed or gave other results than the serial ones."


def run_demo(*, seconds: float, html: str | None) -> int:
    """Run everything, print the table, write the page; returns the exit status."""
    from fullcourt._os.cpus import usable_cores

    if html is not None:
        try:
            with open(html, "a", encoding="utf-8"):  # better now than after half a minute of work
                pass
        except OSError as error:
            print(f"fullcourt demo: cannot write {html}: {error.strerror}.", file=sys.stderr)
            return exits.INPUT_OUTPUT
    cores = usable_cores()
    tell = _Status()
    begun = time.monotonic()
    try:
        jobs = run_all(seconds, cores.count, tell)
    finally:
        tell.wipe()
    build = "free-threaded" if not getattr(sys, "_is_gil_enabled", lambda: True)() else "with a GIL"
    python = f"{platform.python_implementation()} {platform.python_version()} {build}"
    report = Report(jobs, cores.count, cores.reason, python, time.monotonic() - begun)
    _print(report)
    if html is not None:
        from fullcourt.cli.demo_page import page

        try:
            with open(html, "w", encoding="utf-8") as file:
                file.write(page(report))
        except OSError as error:
            print(f"fullcourt demo: cannot write {html}: {error.strerror}.", file=sys.stderr)
            return exits.INPUT_OUTPUT
        print(f"The page with charts: {html}")
    return exits.DIFFERENT if report.n_different else exits.OK


def title(job: Job) -> str:
    """Return what the job does, for the head of its table."""
    gil = "the GIL" if job.runs[0].way.n_gils else "the GIL of a Python that has one"
    what = {
        "compute": f"parse and compile each file; the compiler holds {gil}",
        "native": f"compress each file several times; zlib releases {gil}",
        "wait": f"fetch each file from a server that answers after {DELAY_S * 1000:.0f} ms; waiting releases {gil}",
    }
    return f"{job.name}: {job.n_files:,} files. {what[job.name][0].upper()}{what[job.name][1:]}."


def rows(job: Job, n_cores: int) -> list[tuple[str, ...]]:
    """Return the table of a job as text, a row for each way, in the order of the heads."""
    return [_row(job, run, n_cores) for run in job.runs]


def heads() -> tuple[str, ...]:
    """Return the heads of the columns."""
    return _HEAD


def _row(job: Job, run: Run, n_cores: int) -> tuple[str, ...]:
    why = explain(job, run, n_cores)
    if run.error:
        return (run.way.name, str(run.way.n_slots), "-", "-", "-", "-", why)
    if not run.equal:
        why = f"ITS RESULTS DIFFER from the serial ones. {why}"
    start = f"{run.start_s:.2f}" if run.way.pool else "-"
    speed_up = f"{job.speed_up(run):.1f}x"
    return (run.way.name, str(run.way.n_slots), start, f"{run.seconds:.2f}", speed_up, f"{run.cores_busy:.1f}", why)


def foreword(report: Report) -> str:
    """Return where this was measured."""
    return f"{report.python}, {report.n_cores} core{'' if report.n_cores == 1 else 's'}. {report.why_cores}"


def table_text(report: Report, width: int) -> str:
    """Return the tables as plain text, `width` columns wide."""
    lines = [*textwrap.wrap(foreword(report), width), ""]
    for job in report.jobs:
        lines += textwrap.wrap(title(job), width)
        table = [heads(), *rows(job, report.n_cores)]
        widths = [max(len(row[column]) for row in table) for column in range(len(heads()) - 1)]
        indent = sum(widths) + 2 * len(widths)
        for row in table:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:-1], widths[1:], strict=True))]
            first, *more = textwrap.wrap(row[-1], max(20, width - indent)) or [""]
            lines.append("  ".join([*cells, first]))
            lines += [" " * indent + line for line in more]
        lines.append("")
    return "\n".join([*lines, *textwrap.wrap(NOTE, width), *textwrap.wrap(report.verdict(), width)])


def _print(report: Report) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(table_text(report, max(80, shutil.get_terminal_size((120, 24)).columns)))
        return
    width = None if sys.stdout.isatty() else 120
    console = Console(highlight=False, soft_wrap=False, width=width)
    console.print(foreword(report), markup=False)
    for job in report.jobs:
        console.print()
        table = Table(title=title(job), title_justify="left", title_style="bold", header_style="bold")
        for head in heads():
            table.add_column(
                head, justify="left" if head in ("way", "why") else "right", ratio=1 if head == "why" else None
            )
        fastest = min((run.seconds for run in job.runs if not run.error), default=0.0)
        for row, run in zip(rows(job, report.n_cores), job.runs, strict=True):
            style = "red" if not run.equal else "green" if run.seconds == fastest else ""
            table.add_row(*row, style=style)
        console.print(table)
    console.print()
    console.print(NOTE, markup=False, style="dim")
    console.print(report.verdict(), markup=False, style="bold" if not report.n_different else "bold red")


class _Status:
    """Tells on a terminal what is being done, in one line that is wiped at the end; elsewhere it is silent."""

    def __init__(self) -> None:
        self._shown = sys.stderr is not None and sys.stderr.isatty()
        self._n_columns = 0

    def __call__(self, text: str) -> None:
        if self._shown:
            with contextlib.suppress(OSError, ValueError):
                print(f"\r{text.ljust(self._n_columns)}", end="", file=sys.stderr, flush=True)
        self._n_columns = len(text)

    def wipe(self) -> None:
        """Leave the line empty."""
        self("")
        if self._shown:
            with contextlib.suppress(OSError, ValueError):
                print("\r", end="", file=sys.stderr, flush=True)
