"""How good the advice is: ``python -m benchmarks.advice``.

Each workload is measured by ``fullcourt.advise``, then really run in each of the modes; the table says what share of
the best mode's rate the chosen one had, and what each fixed choice would have had. Writes the numbers as JSON, and the
table into docs/advice.md.

    python -m benchmarks.advice                  everything; about fifteen minutes
    python -m benchmarks.advice --quick          shorter; about four; writes nothing into docs/
    python -m benchmarks.advice --only regex     some workloads, by a part of their names
    python -m benchmarks.advice --auto           also how long Pool(mode="auto") takes for a job of some seconds
    python -m benchmarks.advice --again FILE     no measuring: choose anew from recorded facts
    python -m benchmarks.advice --duels FILE     choose anew, and measure that again, in turns with the best
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
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import fullcourt
from benchmarks.advice_loads import LOADS, Load, server
from benchmarks.machine import describe
from fullcourt._advise.facts import Facts
from fullcourt._advise.model import Mode, candidates, choose, predict
from fullcourt._os.clocks import machine_busy_s
from fullcourt._os.system import descendants

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).with_name("advice.json")
BEGIN, END = "<!-- the table of benchmarks/advice.py begins -->", "<!-- the table ends -->"


def pool_of(mode: Mode) -> fullcourt.Pool:
    if not mode.processes:
        return fullcourt.Pool(processes=0) if mode.threads == 1 else fullcourt.Pool(threads=mode.threads)
    return fullcourt.Pool(mode.processes, threads=mode.threads if mode.threads > 1 else None)


N_DUELS = 7
QUIET_CORES = 0.25  # others may take so much while something is measured
TRIES = 3


def own_cpu_s() -> float:
    """CPU seconds of this process and of all below it, while they live."""
    ticks = 0
    for pid in (os.getpid(), *descendants(os.getpid())):
        with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{pid}/stat", "rb") as file:
            ticks += sum(map(int, file.read().rpartition(b")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


class Others:
    """How many cores other programs take, from one look to the next."""

    def __init__(self) -> None:
        self._at, self._busy, self._own = perf_counter(), machine_busy_s() or 0.0, own_cpu_s()

    def look(self) -> float:
        before = self._at, self._busy, self._own
        self._at, self._busy, self._own = perf_counter(), machine_busy_s() or 0.0, own_cpu_s()
        return max(0.0, self._busy - before[1] - (self._own - before[2])) / (self._at - before[0])


def wait_for_quiet(longest_s: float) -> None:
    """Until others let a quarter of a second pass in peace, at most so long."""
    until = perf_counter() + longest_s
    others = Others()
    while perf_counter() < until:
        time.sleep(0.25)
        if others.look() < QUIET_CORES:
            return


def rate_of(load: Load, mode: Mode, at_least_s: float, guess: float) -> tuple[float, float]:
    """Items a second in that mode, its start apart; and how many cores others took meanwhile."""
    with pool_of(mode) as pool:
        source = load.items()
        pool.map(load.fn, list(itertools.islice(source, 2 * mode.n_slots)))
        n = max(2 * mode.n_slots, int(guess * at_least_s / 2))
        tried: list[tuple[float, float]] = []
        while True:
            items = list(itertools.islice(source, min(n, 400_000)))
            others = Others()
            began = perf_counter()
            pool.map(load.fn, items)
            took = perf_counter() - began
            if took >= at_least_s or len(items) < n:
                tried.append((others.look(), len(items) / took))
                if tried[-1][0] < QUIET_CORES or len(tried) >= TRIES:
                    return min(tried)[1], min(tried)[0]
                wait_for_quiet(2.0)
                continue
            n = int(n * min(8.0, max(1.5, 1.2 * at_least_s / took)))


def truth_of(load: Load, facts: Facts, at_least_s: float, rounds: int) -> list[dict[str, Any]]:
    modes = candidates(facts.cores, can_part=not facts.transport.obstacle)
    guesses = {p.mode: 0.3 * p.rate for p in predict(facts, modes=modes)}
    rates: dict[Mode, list[float]] = {mode: [] for mode in modes}
    foreign = dict.fromkeys(modes, 0.0)
    for _ in range(rounds):
        for mode in modes:
            rate, taken = rate_of(load, mode, at_least_s, guesses[mode])
            rates[mode].append(rate)
            foreign[mode] = max(foreign[mode], taken)
            guesses[mode] = 0.8 * rate
    return [
        {
            "processes": mode.processes,
            "threads": mode.threads,
            "rate": max(rates[mode]),  # what disturbs only slows down, by up to a half, and for seconds
            "foreign_cores": round(foreign[mode], 2),
        }
        for mode in modes
    ]


def duel_of(load: Load, found: dict[str, Any], at_least_s: float) -> dict[str, Any] | None:
    """The chosen mode against the best one, in turns: the median of its rate to the other's. None: it is the best.

    The best of many noisy rates is a lucky one; what is measured anew, side by side, is not.
    """
    judged = judge(found)
    pair = [judged["chosen"], judged["best"]]
    if pair[0] == pair[1]:
        return None
    rates = {Mode(t["processes"], t["threads"]): 0.8 * t["rate"] for t in found["truth"]}
    ratios: list[float] = []
    for i in range(N_DUELS):
        seen = {mode: rate_of(load, mode, at_least_s, rates[mode])[0] for mode in (pair if i % 2 else pair[::-1])}
        ratios.append(seen[pair[0]] / seen[pair[1]])
    return {"of": [pair[0].processes, pair[0].threads], "ratio": statistics.median(ratios)}


def auto_of(load: Load, found: dict[str, Any], seconds: float = 10.0) -> dict[str, Any]:
    """How long a job takes that the best mode does in so many seconds, in that mode and by itself; starts included."""
    best = max(found["truth"], key=lambda t: t["rate"])
    mode = Mode(best["processes"], best["threads"])
    n = max(4, min(2_000_000, int(best["rate"] * seconds)))
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
    for _ in range(TRIES):  # a person, told that the machine was busy, would ask again, too
        wait_for_quiet(3.0)
        advice = fullcourt.advise(load.fn, load.items())
        if not advice.facts.was_busy:
            break
    found: dict[str, Any] = {"name": load.name, "facts": advice.facts.to_json()}
    found["truth"] = truth_of(load, advice.facts, at_least_s, rounds)
    found["duel"] = duel_of(load, found, at_least_s)
    if options.auto:
        found["auto"] = auto_of(load, found, 3.0 if options.quick else 10.0)
    return found


def judge(found: dict[str, Any]) -> dict[str, Any]:
    """What was chosen, and what share of the best it had."""
    facts = Facts.from_json(found["facts"])
    truth = {Mode(t["processes"], t["threads"]): t["rate"] for t in found["truth"]}
    predictions = predict(facts, modes=list(truth))
    chosen = choose(predictions, facts)
    best = max(truth, key=lambda mode: truth[mode])
    share = truth[chosen.mode] / truth[best]
    duel = found.get("duel")
    if duel is not None and Mode(*duel["of"]) == chosen.mode:
        share = min(1.0, duel["ratio"])
    within = sum(p.low <= truth[p.mode] <= p.high for p in predictions)
    return {
        "name": found["name"],
        "chosen": chosen.mode,
        "best": best,
        "share": share,
        "against_predicted": truth[chosen.mode] / chosen.rate,
        "in_range": within / len(predictions),
        "shares": {mode: rate / truth[best] for mode, rate in truth.items()},
        "foreign": max(t.get("foreign_cores", 0.0) for t in found["truth"]),
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
    busy = sum(j["foreign"] > QUIET_CORES for j in judged)
    if busy:
        told += f"While {busy} of them were measured, other programs were busy: what is said of these is doubtful. "
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


def hold_duels(path: Path) -> int:
    """Of what was recorded: the chosen modes, as they are chosen now, against the best."""

    def hold(load: Load, found: dict[str, Any]) -> str:
        found["duel"] = duel_of(load, found, 0.5)
        judged = judge(found)
        return f"{judged['chosen']!s:28} {judged['share']:6.0%} of {judged['best']}"

    return renew(path, None, hold)


def try_auto(path: Path, only: list[str] | None) -> int:
    """Of what was recorded: automatic pools, as they are now, against the best modes."""

    def attempt(load: Load, found: dict[str, Any]) -> str:
        wait_for_quiet(3.0)
        found["auto"] = auto_of(load, found)
        return str(found["auto"])

    return renew(path, only, attempt)


def renew(path: Path, only: list[str] | None, measure_one: Callable[[Load, dict[str, Any]], str]) -> int:
    """Measure something of what is recorded again; ``measure_one`` puts it in, and says what it was."""
    data = json.loads(path.read_text())
    loads = {load.name: load for load in LOADS}
    with server():
        for found in data["workloads"]:
            if only is None or any(word in found["name"] for word in only):
                told = measure_one(loads[found["name"]], found)
                print(f"{found['name']:28} {told}", file=sys.stderr, flush=True)
                path.write_text(json.dumps(data, indent=1))
    print(table(data["workloads"]))
    write_docs(data)
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.advice", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="shorter, one round; writes nothing into docs/")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads, by a part of their names")
    parser.add_argument("--auto", action="store_true", help='measure Pool(mode="auto"), too')
    parser.add_argument("--again", type=Path, metavar="FILE", help="choose anew from recorded facts")
    parser.add_argument(
        "--duels", type=Path, metavar="FILE", help="only hold the chosen modes of recorded facts against the best"
    )
    parser.add_argument("--autos", type=Path, metavar="FILE", help='only measure Pool(mode="auto") of what is recorded')
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
    if options.duels is not None:
        return hold_duels(options.duels)
    if options.autos is not None:
        return try_auto(options.autos, options.only)
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
