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
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="run nothing; write docs/torture.md from the last run")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{case.key:28} {case.title}" for case in CASES.values()))
        return 0
    cells = {(c["case"], c["pool"]): Cell(**c) for c in json.loads(DATA.read_text())["cells"]} if DATA.exists() else {}
    if not options.report:
        pools = options.pools or [
            pool
            for pool, cls in POOLS.items()
            if cls.module is None or importlib.util.find_spec(cls.module) is not None
        ]
        chosen = [(CASES[key], pool) for key in (options.only or CASES) for pool in pools]
        n_bad = 0
        keep = options.write or not (options.only or options.pools)
        machine = describe()
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as executor:
            for cell in executor.map(lambda pair: run_cell(*pair, isolated=bool(options.isolated)), chosen):
                print(f"{cell.case:28} {cell.pool:10} {cell.outcome:8} {cell.seconds:6.2f} s  {cell.note}", flush=True)
                cells[cell.case, cell.pool] = cell
                n_bad += cell.pool == "fullcourt" and cell.outcome not in ("ok", "none")
                if keep:
                    save(cells, machine)
        if not keep:
            return 1 if n_bad else 0
    known = [cell for cell in cells.values() if cell.case in CASES]
    (ROOT / "docs" / "torture.md").write_text(document(known, json.loads(DATA.read_text())["machine"]))
    return 0


def save(cells: dict[tuple[str, str], Cell], machine: dict[str, Any]) -> None:
    known = [cell.as_json() for cell in cells.values() if cell.case in CASES]
    DATA.write_text(json.dumps({"machine": machine, "cells": known}, indent=1) + "\n")


def isolate() -> None:
    """Go on in a mount namespace with a /dev/shm of its own, if we may: so what peers leave there is seen, and goes."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c",
               'mount -t tmpfs tmpfs /dev/shm && exec "$@"', "sh"]  # fmt: skip
    if shutil.which("unshare") and subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0:
        os.execvp("unshare", [*command, sys.executable, "-m", "benchmarks.torture", *sys.argv[1:], "--isolated"])


if __name__ == "__main__":
    if not {"--isolated", "--list", "--report"} & set(sys.argv[1:]):
        isolate()
    sys.exit(main(sys.argv[1:]))
