"""How good the advice is: ``python -m benchmarks.advice``.

Each workload is measured by ``fullcourt.advise``, then really run in each of the modes; the table says what share of
the best mode's rate the chosen one had, and what each fixed choice would have had. Writes the numbers as JSON, and the
table into docs/advice.md.

    python -m benchmarks.advice                  everything; about fifteen minutes
    python -m benchmarks.advice --quick          shorter; about four; writes nothing into docs/
    python -m benchmarks.advice --only regex     some workloads, by a part of their names
    python -m benchmarks.advice --auto           also how long Pool(mode="auto") takes for a job of some seconds
    python -m benchmarks.advice --again FILE     no measuring: choose anew from recorded facts
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import statistics
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import fullcourt
from benchmarks.advice_loads import LOADS, Load, server
from benchmarks.machine import describe
from fullcourt._advise.facts import Facts
from fullcourt._advise.model import Mode, candidates, choose, predict

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).with_name("advice.json")
BEGIN, END = "<!-- the table of benchmarks/advice.py begins -->", "<!-- the table ends -->"


def pool_of(mode: Mode) -> fullcourt.Pool:
    if not mode.processes:
        return fullcourt.Pool(processes=0) if mode.threads == 1 else fullcourt.Pool(threads=mode.threads)
    return fullcourt.Pool(mode.processes, threads=mode.threads if mode.threads > 1 else None)


def rate_of(load: Load, mode: Mode, at_least_s: float, guess: float) -> float:
    """Items a second in that mode, its start apart."""
    with pool_of(mode) as pool:
        source = load.items()
        pool.map(load.fn, list(itertools.islice(source, 2 * mode.n_slots)))
        n = max(2 * mode.n_slots, int(guess * at_least_s / 2))
        while True:
            items = list(itertools.islice(source, min(n, 400_000)))
            began = perf_counter()
            pool.map(load.fn, items)
            took = perf_counter() - began
            if took >= at_least_s or len(items) < n:
                return len(items) / took
            n = int(n * min(8.0, max(1.5, 1.2 * at_least_s / took)))


def truth_of(load: Load, facts: Facts, at_least_s: float, rounds: int) -> list[dict[str, Any]]:
    modes = candidates(facts.cores, can_part=not facts.transport.obstacle)
    guesses = {p.mode: 0.3 * p.rate for p in predict(facts, modes=modes)}
    rates: dict[Mode, list[float]] = {mode: [] for mode in modes}
    for _ in range(rounds):
        for mode in modes:
            rates[mode].append(rate_of(load, mode, at_least_s, guesses[mode]))
            guesses[mode] = 0.8 * rates[mode][-1]
    return [
        {"processes": mode.processes, "threads": mode.threads, "rate": statistics.median(rates[mode])} for mode in modes
    ]


def auto_of(load: Load, best: float, mode: Mode, seconds: float) -> dict[str, float]:
    """How long a job takes that the best mode does in so many seconds, in that mode and by itself; starts included."""
    n = max(4, min(2_000_000, int(best * seconds)))
    source = load.items()
    if load.items is not itertools.count:
        n = min(n, 400)
    items = list(itertools.islice(source, n))
    began = perf_counter()
    with pool_of(mode) as pool:
        pool.map(load.fn, items)
    told = perf_counter() - began
    began = perf_counter()
    with fullcourt.Pool(mode="auto") as pool:
        pool.map(load.fn, items)
        choice = pool.explain().choices[-1]
    return {"best_s": told, "auto_s": perf_counter() - began, "mode": str(choice.mode),
            "changed": str(choice.changed_from or "")}  # fmt: skip


def measure(load: Load, options: argparse.Namespace) -> dict[str, Any]:
    at_least_s, rounds = (0.25, 1) if options.quick else (0.5, 3)
    advice = fullcourt.advise(load.fn, load.items())
    found: dict[str, Any] = {"name": load.name, "facts": advice.facts.to_json()}
    found["truth"] = truth_of(load, advice.facts, at_least_s, rounds)
    if options.auto:
        best = max(found["truth"], key=lambda t: t["rate"])
        found["auto"] = auto_of(
            load, best["rate"], Mode(best["processes"], best["threads"]), 3 if options.quick else 10
        )
    return found


def judge(found: dict[str, Any]) -> dict[str, Any]:
    """What was chosen, and what share of the best it had."""
    facts = Facts.from_json(found["facts"])
    truth = {Mode(t["processes"], t["threads"]): t["rate"] for t in found["truth"]}
    predictions = predict(facts, modes=list(truth))
    chosen = choose(predictions, facts)
    best = max(truth, key=lambda mode: truth[mode])
    within = sum(p.low <= truth[p.mode] <= p.high for p in predictions)
    return {
        "name": found["name"],
        "chosen": chosen.mode,
        "best": best,
        "share": truth[chosen.mode] / truth[best],
        "against_predicted": truth[chosen.mode] / chosen.rate,
        "in_range": within / len(predictions),
        "shares": {mode: rate / truth[best] for mode, rate in truth.items()},
        "foreign": facts.foreign_cores,
    }


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| workload | chosen | best | share of the best | measured / predicted |",
        "|---|---|---|---|---|",
    ]
    judged = [judge(found) for found in results]
    lines += [
        f"| {j['name']} | {j['chosen']} | {j['best']} | {j['share']:.0%} | {j['against_predicted']:.2f} |"
        for j in judged
    ]
    shares = [j["share"] for j in judged]
    n = len(shares)
    in_range = statistics.fmean(j["in_range"] for j in judged)
    told = f"Within 10 % of the best: {sum(s >= 0.9 for s in shares)} of {n}; within 20 %: "
    told += f"{sum(s >= 0.8 for s in shares)} of {n}. "
    told += f"The truth lay in the predicted range for {in_range:.0%} of the modes."
    lines += [
        "",
        told,
        "",
        "| choice | mean share of the best | worst |",
        "|---|---|---|",
        f"| **advice** | {statistics.fmean(shares):.0%} | {min(shares):.0%} |",
    ]
    modes = {mode for j in judged for mode in j["shares"]}
    for mode in sorted(modes, key=lambda m: -statistics.fmean(j["shares"].get(m, 0.0) for j in judged)):
        fixed = [j["shares"].get(mode, 0.0) for j in judged]
        lines.append(f"| always {mode} | {statistics.fmean(fixed):.0%} | {min(fixed):.0%} |")
    autos = [(found["name"], found["auto"]) for found in results if "auto" in found]
    if autos:
        lines += ["", '| workload | best mode | mode="auto" | ratio | where it ended |', "|---|---|---|---|---|"]
        lines += [
            f"| {name} | {a['best_s']:.2f} s | {a['auto_s']:.2f} s | {a['auto_s'] / a['best_s']:.2f} | {a['mode']} |"
            for name, a in autos
        ]
    return "\n".join(lines)


def head(machine: dict[str, Any]) -> str:
    return (
        f"{machine['date']}, {machine['python']}, {machine['cores']} cores ({machine['processor']}),"
        f" {machine['system']}, load at the begin {machine['load']}."
    )


def write_docs(data: dict[str, Any]) -> None:
    page = ROOT / "docs" / "advice.md"
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{head(data['machine'])}\n\n{table(data['workloads'])}\n\n{END}{after}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.advice", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="shorter, one round; writes nothing into docs/")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads, by a part of their names")
    parser.add_argument("--auto", action="store_true", help='measure Pool(mode="auto"), too')
    parser.add_argument("--again", type=Path, metavar="FILE", help="choose anew from recorded facts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")
    parser.add_argument("--no-docs", action="store_true", help="do not write docs/advice.md")
    options = parser.parse_args(arguments)
    if options.again is not None:
        data = json.loads(options.again.read_text())
        print(table(data["workloads"]))
        if not options.no_docs:
            write_docs(data)
        return 0
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    data = {"machine": describe(), "workloads": []}
    target = options.json or (Path("advice-quick.json") if options.quick or options.only else DATA)
    with server():
        for load in LOADS:
            if options.only and not any(word in load.name for word in options.only):
                continue
            if load.needs is not None and importlib.util.find_spec(load.needs) is None:
                continue
            found = measure(load, options)
            data["workloads"].append(found)
            j = judge(found)
            print(f"{load.name:28} {j['chosen']!s:28} {j['share']:6.0%} of {j['best']}", file=sys.stderr, flush=True)
            with contextlib.suppress(OSError):
                target.write_text(json.dumps(data, indent=1))
    print(table(data["workloads"]))
    if not (options.quick or options.only or options.no_docs):
        write_docs(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
