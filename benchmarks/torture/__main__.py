"""The torture suite: ``python -m benchmarks.torture``. A table of cases by pools, each cell in a process of its own.

python -m benchmarks.torture                        all cells; about half an hour; writes docs/torture.md
python -m benchmarks.torture --pools fullcourt      some pools: prints only
python -m benchmarks.torture --only killed ctrl-c   some cases: prints only
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import json
import sys
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.torture.cases import CASES
from benchmarks.torture.pools import POOLS
from benchmarks.torture.report import document
from benchmarks.torture.runner import Cell, run_cell

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).with_name("results.json")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=list(CASES), help="cases to run")
    parser.add_argument("--pools", nargs="+", metavar="POOL", choices=list(POOLS), help="pools to torture")
    parser.add_argument("--list", action="store_true", help="name the cases, and exit")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; more than 1 only where cores are idle")
    parser.add_argument(
        "--write", action="store_true", help="take these cells into the table, even if they are not all"
    )
    parser.add_argument("--report", action="store_true", help="run nothing; write docs/torture.md from the last run")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{case.key:28} {case.title}" for case in CASES.values()))
        return 0
    cells = {(c["case"], c["pool"]): Cell(**c) for c in json.loads(DATA.read_text())["cells"]} if DATA.exists() else {}
    if not options.report:
        pools = options.pools or [p for p, cls in POOLS.items()
                                  if cls.module is None or importlib.util.find_spec(cls.module) is not None]  # fmt: skip
        chosen = [(CASES[key], pool) for key in (options.only or CASES) for pool in pools]
        n_bad = 0
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as executor:
            for cell in executor.map(lambda pair: run_cell(*pair), chosen):
                print(f"{cell.case:28} {cell.pool:10} {cell.outcome:8} {cell.seconds:6.2f} s  {cell.note}", flush=True)
                cells[cell.case, cell.pool] = cell
                n_bad += cell.pool == "fullcourt" and cell.outcome not in ("ok", "none")
        if not options.write and (options.only or options.pools):
            return 1 if n_bad else 0
    known = [cell for cell in cells.values() if cell.case in CASES]
    machine = describe() if not options.report else json.loads(DATA.read_text())["machine"]
    DATA.write_text(json.dumps({"machine": machine, "cells": [c.as_json() for c in known]}, indent=1) + "\n")
    (ROOT / "docs" / "torture.md").write_text(document(known, machine))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
