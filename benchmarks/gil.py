"""How right the measurement of the GIL is, and what it costs: `python -m benchmarks.gil`.

Loads whose threads keep their own clocks (`gil_loads.py`) run while the sampler looks at them, and what it says is
compared with what they know. A run beside which other programs took more than a tenth of a core is done again, up to
`--tries` times; the quietest one counts, and the table says how quiet it was.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
import threading

from benchmarks.gil_loads import LOADS, Truth, run
from benchmarks.machine import describe
from fullcourt._gil.measuring import ThreadMeter
from fullcourt._gil.report import Report

QUIET_CORES = 0.1


def main() -> None:
    """Measure, and print the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gil", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run (default: 2)")
    parser.add_argument("--rate", type=float, default=250.0, help="looks a second (default: 250)")
    parser.add_argument("--tries", type=int, default=3, help="runs of each load, until one is quiet (default: 3)")
    parser.add_argument("--rounds", type=int, default=5, help="of the cost: pairs of runs (default: 5; 0: no cost)")
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


def observed(name: str, seconds: float, rate: float) -> tuple[list[Truth], Report]:
    ready, go = threading.Event(), threading.Event()
    truths: list[Truth] = []
    runner = threading.Thread(target=lambda: truths.extend(run(name, seconds, ready, go)))
    runner.start()
    ready.wait()
    with ThreadMeter(rate_hz=rate) as meter:
        go.set()
        runner.join()
        return truths, meter.lap()


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


def cost(name: str, rate: float, rounds: int, seconds: float = 0.5) -> dict:
    """By how much observing slows a load down, in per cent: medians over pairs of runs, one with and one without.

    By the wall clock, which other programs disturb; and by the CPU time of a step, which they disturb little.
    """
    wall, cpu = [], []
    for number in range(rounds):
        speeds: dict[bool, float] = {}
        prices: dict[bool, float] = {}
        for watched in (True, False) if number % 2 else (False, True):
            if watched:
                truths, _ = observed(name, seconds, rate)
            else:
                ready, go = threading.Event(), threading.Event()
                go.set()
                truths = run(name, seconds, ready, go)
            speeds[watched] = sum(truth.n_steps / truth.wall_s for truth in truths)
            prices[watched] = sum(t.cpu_s / t.n_steps for t in truths)
        wall.append(speeds[False] / speeds[True] - 1.0)
        if prices[False]:
            cpu.append(prices[True] / prices[False] - 1.0)
    return {
        "wall": round(100 * statistics.median(wall), 1),
        "cpu": round(100 * statistics.median(cpu), 1) if cpu else None,
    }


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
        cells += ["-" if price.get(key) is None else f"{price[key]:+.1f} %" for key in ("wall", "cpu")]
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
