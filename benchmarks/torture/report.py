"""From cells to docs/torture.md."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from benchmarks.torture.cases import CASES
from benchmarks.torture.pools import POOLS
from benchmarks.torture.runner import Cell

__all__ = ["document"]

SIGNS = {
    "ok": "🟢 ok",
    "none": "-",
    "wrong": "🟠 wrong",
    "lost": "🔴 lost",
    "hang": "🔴 hang",
    "slow": "🟠 slow",
    "noisy": "🟠 noisy",
    "orphans": "🔴 orphans",
    "litter": "🟠 litter",
    "died": "🔴 died",
}
MEANING = {
    "ok": "the user gets the truth about every task, nobody else suffers, nothing is left behind",
    "wrong": "the outcome is not true, or what was asked for is refused",
    "lost": "tasks that had nothing to do with it lost their results, or the pool is of no use afterwards",
    "hang": "it was not over when its deadline came",
    "slow": "it ended, but later than a second after the signal",
    "noisy": "more than one traceback for one Ctrl-C",
    "orphans": "processes were left a second after the program's end",
    "litter": "files were left in /dev/shm",
    "died": "the whole program died",
    "none": "the pool offers no such thing",
}


def document(cells: list[Cell], machine: dict[str, Any]) -> str:
    pools = [pool for pool in POOLS if any(cell.pool == pool for cell in cells)]
    found = {(cell.case, cell.pool): cell for cell in cells}
    versions = ", ".join(f"{n} {v}" for n, v in machine["versions"].items() if n in (*POOLS, "pebble", "mpire"))
    lines = [
        "# Torture",
        "",
        (
            "Made by `python -m benchmarks.torture` (extra `bench`); this page is generated. Every cell is a program of"
            " its own in a session of its own, with a deadline, on two workers; afterwards it is looked at what"
            " processes are left. The cases stand in `benchmarks/torture/`: add the one that hurt you."
        ),
        "",
        (
            f"{machine['date']}, {machine['system']}, {machine['python']}, start method fork unless a case says"
            f" otherwise; {versions}."
        ),
        "",
        "| | |",
        "|---|---|",
        *(f"| {SIGNS[key]} | {text} |" for key, text in MEANING.items()),
        "",
        "| | " + " | ".join(pools) + " |",
        "|---" * (len(pools) + 1) + "|",
        "| **ok** of what is offered | " + " | ".join(score(cells, pool) for pool in pools) + " |",
    ]
    for heading, members in groupby(CASES.values(), key=lambda case: case.group):
        lines += ["", f"## {heading}", "", "| case | " + " | ".join(pools) + " |", "|---" * (len(pools) + 1) + "|"]
        notes: list[str] = []
        for case in members:
            row = [found.get((case.key, pool)) for pool in pools]
            lines.append(f"| {case.title} | " + " | ".join("" if c is None else SIGNS[c.outcome] for c in row) + " |")
            told = [f"{c.pool}: {clean(c.note)}" for c in row if c is not None and c.note]
            if told:
                notes.append(f"- {case.title}. " + "; ".join(told) + ".")
        if notes:
            lines += ["", "<details><summary>What the others did</summary>", "", *notes, "", "</details>"]
    return "\n".join(lines) + "\n"


def score(cells: list[Cell], pool: str) -> str:
    mine = [cell for cell in cells if cell.pool == pool and cell.outcome != "none"]
    return f"{sum(cell.outcome == 'ok' for cell in mine)} of {len(mine)}"


def clean(note: str) -> str:
    return note.replace("|", "/").replace("<", "&lt;").replace("\n", " ").rstrip(".")
