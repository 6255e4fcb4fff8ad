"""Rows, contenders, and how they are measured: in one process, side by side, in rounds that alternate them.

A row is one kind of work. A contender is a context manager that makes ready (a pool, an array) and gives a function
of no arguments, which does the work once and returns a number in the row's unit. All contenders of a row are open at
once; each round asks each of them once, starting with another one each time, so that what else the machine does hits
all of them alike. The ratios are medians of the rounds' ratios, not ratios of the medians.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

__all__ = ["OURS", "Contender", "Once", "Result", "Row", "Target", "measure", "per_task"]

OURS = "fullcourt"
Once = Callable[[], float]

# What a peer's own name stands for in the tables, and the module that must be there for it.
MODULES = {
    "loky": "loky",
    "joblib": "joblib",
    "joblib threading": "joblib",
    "mpire": "mpire",
    "pebble": "pebble",
    "pebble threads": "pebble",
    "ray": "ray",
    "dask": "distributed",
}
# Peers that bring daemons of their own: they run in a second set, beside ours again, so that they disturb nobody.
HEAVY = ("ray", "dask")


@dataclass
class Contender:
    """One peer's way of doing a row's work.

    Attributes:
        peer: its name in the tables.
        way: how its users do it, in code.
        make: opens it; see the module's head.
    """

    peer: str
    way: str
    make: Callable[[], AbstractContextManager[Once]]

    @property
    def group(self) -> int:
        return 1 if self.peer in HEAVY else 0

    @property
    def missing(self) -> bool:
        module = MODULES.get(self.peer)
        return module is not None and importlib.util.find_spec(module) is None


@dataclass
class Target:
    """Ours must be at most ``factor`` times ``peer``'s; with a peer of None, at most ``factor`` in the row's unit."""

    peer: str | None
    factor: float


@dataclass
class Row:
    """One kind of work.

    Attributes:
        key: its name on the command line.
        title: what it is, in the words of the tables.
        unit: of the numbers.
        contenders: who does it.
        targets: what ours must reach.
        n_rounds: rounds in a full run.
        quick_rounds: rounds in a quick one.
        note: what a reader must know to read it right.
        needs: modules without which nobody can do it.
        ideal: what no pool can beat, where that can be computed.
    """

    key: str
    title: str
    unit: str
    contenders: list[Contender]
    targets: list[Target] = field(default_factory=list)
    n_rounds: int = 11
    quick_rounds: int = 3
    note: str = ""
    needs: tuple[str, ...] = ()
    ideal: float | None = None


@dataclass
class Result:
    """What a row gave."""

    row: Row
    values: dict[str, list[float]] = field(default_factory=dict)  # by peer, in rounds
    ratios: dict[str, float] = field(default_factory=dict)  # ours / theirs: below 1, we are ahead
    absent: dict[str, str] = field(default_factory=dict)  # by peer: why there are no numbers
    ways: dict[str, str] = field(default_factory=dict)

    def median(self, peer: str) -> float:
        return statistics.median(self.values[peer])

    def verdicts(self) -> list[dict[str, Any]]:
        """The row's targets, and whether ours reaches them."""
        out = []
        for target in self.row.targets:
            if OURS not in self.values:
                continue
            if target.peer is None:
                reached = self.median(OURS)
            elif target.peer in self.ratios:
                reached = self.ratios[target.peer]
            else:
                continue
            out.append({"peer": target.peer, "factor": target.factor, "reached": reached,
                        "met": reached <= target.factor})  # fmt: skip
        return out


def per_task(work: Callable[[], object], n: int, scale: float = 1e6) -> Once:
    """A function that does the work and returns the time per task, in microseconds."""

    def once() -> float:
        began = perf_counter()
        work()
        return (perf_counter() - began) / n * scale

    return once


def measure(row: Row, peers: set[str] | None, *, quick: bool, say: Callable[[str], None]) -> Result:
    """Measure one row; a contender that fails or is missing is told of, and the others go on."""
    result = Result(row, ways={c.peer: c.way for c in row.contenders})
    for module in row.needs:
        if importlib.util.find_spec(module) is None:
            result.absent = {c.peer: f"{module} is not installed" for c in row.contenders}
            return result
    chosen = [c for c in row.contenders if peers is None or c.peer == OURS or c.peer in peers]
    for contender in chosen:
        if contender.missing:
            result.absent[contender.peer] = "not installed"
    present = [c for c in chosen if not c.missing]
    n_rounds = row.quick_rounds if quick else row.n_rounds
    for group in (0, 1):
        members = [c for c in present if c.group == group]
        if not members:
            continue
        if group:
            members = [c for c in present if c.peer == OURS] + members
        values = rounds(members, n_rounds, result.absent, say)
        ours = values.get(OURS, [])
        for peer, numbers in values.items():
            if peer == OURS and group:
                continue
            result.values[peer] = numbers
            if ours and peer != OURS and all(numbers):
                result.ratios[peer] = statistics.median(a / b for a, b in zip(ours, numbers, strict=True))
    if row.ideal is not None and OURS in result.values:
        result.values["ideal"] = [row.ideal] * len(result.values[OURS])
        result.ratios["ideal"] = result.median(OURS) / row.ideal
    return result


def rounds(
    members: list[Contender], n_rounds: int, absent: dict[str, str], say: Callable[[str], None]
) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        able: list[tuple[str, Once]] = []
        for contender in members:
            say(f"  opening {contender.peer}")
            try:
                once = stack.enter_context(quiet_end(contender.make()))
                once()  # warm: imports, first workers, first pages
            except Exception as error:
                absent[contender.peer] = f"failed: {type(error).__name__}: {error}"[:200]
                say(f"  {contender.peer} {absent[contender.peer]}")
                continue
            able.append((contender.peer, once))
            values[contender.peer] = []
        for i in range(n_rounds):
            shift = i % max(1, len(able))
            for peer, once in able[shift:] + able[:shift]:
                gc.collect()
                try:
                    values[peer].append(once())
                except Exception as error:
                    absent[peer] = f"failed: {type(error).__name__}: {error}"[:200]
                    del values[peer]
            able = [(peer, once) for peer, once in able if peer in values]
            latest = ", ".join(f"{peer} {numbers[-1]:.4g}" for peer, numbers in values.items())
            say(f"  round {i + 1}: {latest}")
    return values


@contextlib.contextmanager
def quiet_end(inner: AbstractContextManager[Once]) -> Iterator[Once]:
    """A peer that fails to close must not end the run."""
    once = inner.__enter__()
    try:
        yield once
    finally:
        try:
            inner.__exit__(None, None, None)
        except Exception as error:
            print(f"  closing failed: {error!r}", file=sys.stderr)
