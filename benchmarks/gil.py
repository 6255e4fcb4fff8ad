"""How right the measurement of the GIL is, and what it costs: `python -m benchmarks.gil`.

Loads whose threads keep their own clocks (`gil_loads.py`) run while the sampler looks at them, and what it says is
compared with what they know. A run beside which other programs took more than a tenth of a core is done again, up to
`--tries` times; the quietest one counts, and the table says how quiet it was.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator

from benchmarks.gil_loads import LOADS, Truth, run
from benchmarks.machine import describe
from fullcourt._gil.report import Report
from fullcourt._gil.reporting import report_of
from fullcourt._gil.watching import Watcher

QUIET_CORES = 0.1
WINDOW_S = 0.2
SETTLE_S = 0.01  # after the sampler was stopped or let go on


def main() -> None:
    """Measure, and print the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gil", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run (default: 2)")
    parser.add_argument("--rate", type=float, default=250.0, help="looks a second (default: 250)")
    parser.add_argument("--tries", type=int, default=3, help="runs of each load, until one is quiet (default: 3)")
    parser.add_argument("--rounds", type=int, default=25, help="of the cost, 0.8 s each (default: 25; 0: no cost)")
    parser.add_argument("--only", action="append", metavar="LOAD", help="this load; may be repeated")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args()
    names = options.only or [name for name in LOADS if has_numpy() or ("matri" not in name and "array" not in name)]
    results = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        result = quietest(name, options.seconds, options.rate, options.tries)
        result["cost"] = cost(name, options.rate, options.rounds) if options.rounds else None
        results.append(result)
    print(table(results))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": describe(), "results": results}, file, indent=1)


def has_numpy() -> bool:
    return importlib.util.find_spec("numpy") is not None


@contextlib.contextmanager
def running(name: str, seconds: float, rate: float) -> Iterator[tuple[list[Truth], Watcher, threading.Thread]]:
    """Have a load run, watched: what its threads know, who watches, and the thread that ends with the load."""
    ready, go = threading.Event(), threading.Event()
    truths: list[Truth] = []
    runner = threading.Thread(target=run, args=(name, seconds, ready, go, truths))
    runner.start()
    ready.wait()
    watcher = Watcher(os.getpid(), rate_hz=rate, children=False)
    try:
        go.set()
        yield truths, watcher, runner
        runner.join()
    finally:
        watcher.close()


def observed(name: str, seconds: float, rate: float) -> tuple[list[Truth], Report]:
    with running(name, seconds, rate) as (truths, watcher, runner):
        runner.join()
        return truths, report_of(watcher.recording())


def quietest(name: str, seconds: float, rate: float, tries: int) -> dict:
    best: dict = {}
    for _ in range(max(1, tries)):
        truths, report = observed(name, seconds, rate)
        if not best or report.foreign_cores < best["foreign_cores"]:
            best = compare(name, truths, report)
        if report.foreign_cores <= QUIET_CORES:
            break
    return best


def compare(name: str, truths: list[Truth], report: Report) -> dict:
    """The errors in points of 100 of the wall time, thread by thread."""
    rows = []
    for truth in truths:
        thread = report.thread(truth.tid)
        if thread is None:
            continue
        wall_s = thread.times.wall_s
        known = {
            "held": truth.python_s / truth.wall_s,
            "native": truth.native_s / truth.wall_s,
            "gil_wait": truth.gil_wait_s / truth.wall_s,
            "queued": truth.queued_s / truth.wall_s,
        }
        seen = thread.times.shares()
        if truth.waits:  # its system calls are Python's and the kernel's, and which waits are the GIL's is not known
            known = {}
        errors = {key: 100 * (seen[key] - share) for key, share in known.items()}
        rows.append(
            {
                "thread": truth.name,
                "known": {key: round(100 * share, 1) for key, share in known.items()},
                "seen": {key: round(100 * seen[key], 1) for key in seen},
                "errors": {key: round(error, 1) for key, error in errors.items()},
                "uncertainty": round(100 * thread.uncertainty, 1),
                "wall_s": round(wall_s, 3),
            }
        )
    return {
        "load": name,
        "foreign_cores": round(report.foreign_cores, 2),
        "handovers_per_s": round(max((gil.handovers_per_s for gil in report.processes[0].gils), default=0.0)),
        "rate_hz": round(report.rate_hz),
        "own_cores": round(report.own_cpu_s / report.wall_s, 3),
        "flags": list(report.flags),
        "threads": rows,
    }


def cost(name: str, rate: float, rounds: int) -> dict:
    """By how much observing slows a load down, in per cent, and the standard error of that.

    The load runs on; the sampler is stopped and let go on again (SIGSTOP, SIGCONT) every 0.2 s. Four such windows, two
    with it and two without in the order 1001 or 0110, make one round, so that a machine whose speed changes for seconds
    disturbs few of them; the median of the rounds counts. By the wall clock, and by the CPU time of a step.
    """
    wall, cpu = [], []
    with running(name, 4 * (WINDOW_S + SETTLE_S) * (rounds + 1), rate) as (truths, watcher, _):
        for number in range(rounds):
            speeds, prices = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
            for watched in (True, False, False, True) if number % 2 else (False, True, True, False):
                os.kill(watcher.pid, signal.SIGCONT if watched else signal.SIGSTOP)
                time.sleep(SETTLE_S)
                steps, used, began = sum(t.n_steps for t in truths), time.process_time(), time.perf_counter()
                time.sleep(WINDOW_S)
                done = sum(t.n_steps for t in truths) - steps
                speeds[watched] += done / (time.perf_counter() - began)
                prices[watched] += (time.process_time() - used) / max(1, done)
            wall.append(100 * (speeds[False] / speeds[True] - 1))
            cpu.append(100 * (prices[True] / prices[False] - 1))
        os.kill(watcher.pid, signal.SIGCONT)
    return {"wall": estimate(wall), "cpu": estimate(cpu)}


def estimate(values: list[float]) -> tuple[float, float]:
    """The median, and its standard error, from the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return round(middle, 1), round(1.2533 * (high - low) / 1.349 / math.sqrt(len(values)), 1)


def table(results: list[dict]) -> str:
    head = (
        "| load | other programs, cores | hand-overs/s | GIL held: error of each thread | native | GIL wait"
        " | looking, cores | slowed | CPU of a step |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for result in results:
        cells = [result["load"], f"{result['foreign_cores']:.2f}", f"{result['handovers_per_s']:,}"]
        for key in ("held", "native", "gil_wait"):
            errors = [f"{row['errors'][key]:+.1f}" for row in result["threads"] if key in row["errors"]]
            cells.append(", ".join(errors) or "not known")
        price = result["cost"] or {}
        cells.append(f"{result['own_cores']:.2f}")
        cells += ["{:+.1f} ± {:.1f} %".format(*price[key]) if price else "-" for key in ("wall", "cpu")]
        lines.append(f"| {' | '.join(cells)} |")
    for key, what in (("held", "GIL held"), ("native", "native"), ("gil_wait", "GIL wait")):
        errors = [row["errors"][key] for result in results for row in result["threads"] if key in row["errors"]]
        if errors:
            rms = math.sqrt(sum(error * error for error in errors) / len(errors))
            worst = max(errors, key=abs)
            lines.append(f"\n{what}: rms {rms:.1f} points, worst thread {worst:+.1f}, over {len(errors)} threads.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
