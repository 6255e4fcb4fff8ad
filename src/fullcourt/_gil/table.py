"""A report on a terminal: a row for each thread, with a bar; drawn by `rich` where that is installed."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TextIO

from fullcourt._gil.palette import STYLES
from fullcourt._gil.report import ProcessReport, Report, ThreadReport, Times
from fullcourt._gil.words import advice

__all__ = ["HEADS", "heads", "print_report", "report_text", "title"]

BAR = 30
MAX_THREADS = 12  # of a process; the rest is one row
HEADS = ("thread", "seconds", "", "GIL held", "native", "GIL wait", "no core", "blocked")


def print_report(report: Report, file: TextIO | None = None) -> None:
    """Print it to a stream, `sys.stdout` by default."""
    out = sys.stdout if file is None else file
    is_terminal = out.isatty()
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print(report_text(report, max(80, shutil.get_terminal_size((120, 24)).columns)), file=out)
        return
    console = Console(file=out, highlight=False, width=None if is_terminal else 120)
    bar_width = min(BAR, max(10, console.width - 90))
    console.print(title(report), markup=False, style="bold")
    for process in report.processes:
        if process.times.wall_s <= 0:
            continue
        console.print()
        console.print(process_title(process), markup=False, style="bold", soft_wrap=True)
        table = Table(header_style="bold", pad_edge=False)
        for head in heads(process):
            table.add_column(head, justify="left" if head in ("thread", "", "blocked") else "right", no_wrap=head == "")
        for name, times in rows(process):
            bar = Text()
            for state, count in bar_parts(times, bar_width):
                bar.append(STYLES[state].sign * count, style=STYLES[state].colour)
            cells = row_cells(name, times)
            table.add_row(Text(cells[0]), cells[1], bar, *cells[3:])  # a name may have brackets
        console.print(table)
    legend = Text()
    for style in STYLES.values():
        legend.append(f"{style.sign} ", style=style.colour)
        legend.append(f"{style.label}  ", style="dim")
    console.print(legend)
    for sentence in advice(report):
        console.print(f"- {sentence}", markup=False)
    for sentence in certainty(report):
        console.print(sentence, markup=False, style="dim")


def report_text(report: Report, width: int) -> str:
    """The same as plain text."""
    lines = [title(report)]
    for process in report.processes:
        if process.times.wall_s <= 0:
            continue
        lines += ["", process_title(process)]
        table: list[tuple[str, ...]] = [heads(process)]
        for name, times in rows(process):
            bar = "".join(STYLES[state].sign * count for state, count in bar_parts(times))
            cells = row_cells(name, times)
            table.append((cells[0], cells[1], bar, *cells[3:]))
        widths = [max(len(row[column]) for row in table) for column in range(len(HEADS))]
        lines += [
            "  ".join(
                cell.ljust(size) if column in (0, 2, 7) else cell.rjust(size)
                for column, (cell, size) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
    lines += ["", "  ".join(f"{style.sign} {style.label}" for style in STYLES.values())]
    for sentence in advice(report):
        lines += textwrap.wrap(f"- {sentence}", width, subsequent_indent="  ")
    for sentence in certainty(report):
        lines += textwrap.wrap(sentence, width)
    return "\n".join(lines)


def title(report: Report) -> str:
    """What was observed, in a line."""
    cores = report.times.cpu_s / report.wall_s if report.wall_s else 0.0
    n = sum(len(process.threads) for process in report.processes)
    processes = f"{len(report.processes)} process{'' if len(report.processes) == 1 else 'es'}"
    return (
        f"Observed for {report.wall_s:.2f} s: {processes}, {n} thread{'' if n == 1 else 's'},"
        f" {cores:.2f} of {report.n_cores} cores used."
    )


def process_title(process: ProcessReport) -> str:
    """What a process is, in a line."""
    parts = [f"process {process.pid}"]
    if process.name:
        parts.append(process.name)
    if process.python:
        parts.append(f"Python {process.python}")
    if process.gils:
        busy = max(gil.held_share for gil in process.gils)
        handovers = sum(gil.handovers_per_s for gil in process.gils)
        many = "GIL held" if len(process.gils) == 1 else f"{len(process.gils)} GILs, the busiest held"
        parts.append(f"{many} {busy:.0%}, {handovers:,.0f} hand-overs a second")
    elif process.python.endswith("t") and process.method == "sampled":
        parts.append("runs without a GIL")
    if process.method == "counters":
        parts.append("its GIL may not be seen")
    return ", ".join(parts)


def heads(process: ProcessReport) -> tuple[str, ...]:
    """The columns' heads: where no GIL was seen, nothing ran "without" it."""
    return HEADS if process.gils else tuple("on a core" if head == "native" else head for head in HEADS)


def rows(process: ProcessReport) -> Iterator[tuple[str, Times]]:
    """A name and the times, for each row."""
    for thread in process.threads[:MAX_THREADS]:
        yield thread_name(thread), thread.times
    rest = process.threads[MAX_THREADS:]
    if rest:
        total = Times()
        for thread in rest:
            total += thread.times
        yield f"{len(rest)} more", total


def thread_name(thread: ThreadReport) -> str:
    """A thread's name and number; and whether it is none of Python's."""
    kind = " (native)" if thread.python is False else ""
    return f"{thread.name or '?'} {thread.tid or ''}{kind}".strip()


def row_cells(name: str, times: Times) -> tuple[str, ...]:
    """The cells of a row, the bar left empty."""
    wall_s = times.wall_s or 1.0
    kinds = sorted(
        ((getattr(times, f"{kind}_s") / wall_s, kind) for kind in ("lock", "sleep", "network", "file", "other")),
        reverse=True,
    )
    blocked = ", ".join(f"{STYLES[kind].label} {percent(share)}" for share, kind in kinds if share >= 0.005)
    return (
        name,
        f"{times.wall_s:.2f}",
        "",
        percent(times.held_s / wall_s),
        percent(times.native_s / wall_s),
        percent(times.gil_wait_s / wall_s),
        percent(times.queued_s / wall_s),
        blocked or "-",
    )


def percent(share: float) -> str:
    """As ``12 %``; what is less than half a point is a dash."""
    return f"{100 * share:.0f} %" if share >= 0.005 else "-"


def bar_parts(times: Times, width: int = BAR) -> list[tuple[str, int]]:
    """How many characters each state has in the bar: they add up to its width, and no state loses more than one."""
    shares = times.shares()
    exact = {state: share * width for state, share in shares.items()}
    counts = {state: int(amount) for state, amount in exact.items()}
    left = width - sum(counts.values()) if times.wall_s else 0
    for state in sorted(exact, key=lambda state: counts[state] - exact[state])[:left]:
        counts[state] += 1
    return [(state, count) for state, count in counts.items() if count]


def certainty(report: Report) -> list[str]:
    """How sure the numbers are."""
    match report.method:
        case "sampled":
            said = f"{report.n_samples} looks at the program, {report.rate_hz:.0f} a second"
            sure = f"the time with the GIL is sure to about {100 * report.uncertainty:.0f} points of 100"
            cost = report.own_cpu_s / report.wall_s if report.wall_s else 0.0
            first = f"Measured: {said}; {sure}. Looking took {cost:.0%} of a core."
        case "counters":
            first = (
                "The system does not let us look into the program (its memory and system calls): only the kernel's own"
                " counters of each thread's time are shown. Run it as the same user, or by `fullcourt gil SCRIPT`."
            )
        case _:
            first = (
                "An estimate: the system does not let us look from outside. A thread in the program measured how late"
                " it woke up, and the threads' CPU clocks. What threads waited for is not known."
            )
    return [first, *(f"Less certain: {flag}." for flag in report.flags)]
