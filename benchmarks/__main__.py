"""Measure this package and its peers, side by side: ``python -m benchmarks``.

Writes the numbers as JSON, docs/benchmarks.md, and charts as SVG. ``pip install -e .[bench]`` installs the peers;
those that are missing are left out.

    python -m benchmarks                     everything; about twenty minutes on two idle cores
    python -m benchmarks --quick             everything, smaller; about four minutes; writes nothing in docs/
    python -m benchmarks --only call burst   some rows
    python -m benchmarks --peers mp.Pool PPE     some peers
    python -m benchmarks --report            write docs/benchmarks.md anew from the last run's JSON
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from benchmarks import rows_arrays, rows_calls, rows_published, rows_scheduler, rows_startup
from benchmarks.machine import describe
from benchmarks.measuring import Row, measure
from benchmarks.report import as_json, console_table, merge, write_documents

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).with_name("results.json")


def all_rows(*, quick: bool) -> list[Row]:
    modules = (rows_calls, rows_arrays, rows_startup, rows_published, rows_scheduler)
    return [row for module in modules for row in module.rows(quick=quick)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="smaller work and fewer rounds")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="rows to measure (default: all; --list names them)")
    parser.add_argument("--peers", nargs="+", metavar="PEER", help="peers to measure (default: all that are installed)")
    parser.add_argument("--list", action="store_true", help="name the rows and their contenders, and exit")
    parser.add_argument("--report", action="store_true", help="measure nothing; write the documents from the last run")
    parser.add_argument(
        "--json", type=Path, default=None, help="where the numbers go (default: benchmarks/results.json)"
    )
    parser.add_argument("--no-docs", action="store_true", help="do not write docs/benchmarks.md and its charts")
    options = parser.parse_args(arguments)
    rows = all_rows(quick=options.quick)
    if options.list:
        for row in rows:
            print(f"{row.key:18} {row.title}: {', '.join(c.peer for c in row.contenders)}")
        return 0
    data = options.json or (DATA if not options.quick else Path("benchmarks-quick.json"))
    if options.report:
        write_documents(json.loads(data.read_text()), ROOT / "docs")
        return 0
    unknown = set(options.only or ()) - {row.key for row in rows}
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are: {' '.join(row.key for row in rows)}")
    known = {c.peer for row in rows for c in row.contenders}
    if unknown := set(options.peers or ()) - known:
        parser.error(f"no peer {', '.join(sorted(unknown))}; there are: {' '.join(sorted(known))}")
    path = os.pathsep.join(entry for entry in (str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH")) if entry)
    os.environ["PYTHONPATH"] = path  # for workers that are fresh interpreters
    peers = set(options.peers) | {"bare"} if options.peers else None
    machine = describe()
    for row in rows:
        if options.only and row.key not in options.only:
            continue
        print(f"{row.key}: {row.title}", flush=True)
        result = measure(row, peers, quick=options.quick, say=lambda line: print(line, flush=True))
        print(console_table(result), flush=True)
        merge(data, machine, as_json(result), quick=options.quick)  # at once: an interrupted run keeps what it has
    if not options.quick and not options.no_docs:
        write_documents(json.loads(data.read_text()), ROOT / "docs")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that pools end with us
    sys.exit(main(sys.argv[1:]))
