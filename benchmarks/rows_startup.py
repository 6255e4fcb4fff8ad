"""Rows about start-up, memory and endless input: each measurement in a fresh interpreter."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from benchmarks.measuring import OURS, Contender, Once, Row, Target

__all__ = ["rows"]

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def environment() -> dict[str, str]:
    """With our modules compiled and kept, as an installation leaves them."""
    path = os.pathsep.join(entry for entry in (ROOT, os.path.join(ROOT, "src"), os.environ.get("PYTHONPATH")) if entry)
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def in_program(function: str, *arguments: str) -> Callable[[], AbstractContextManager[Once]]:
    """Run ``benchmarks.programs.FUNCTION(*ARGUMENTS)`` in a fresh interpreter; it prints the number."""

    @contextlib.contextmanager
    def make() -> Iterator[Once]:
        def once() -> float:
            command = [sys.executable, "-m", "benchmarks.programs", function, *arguments]
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT,
                env=environment(),
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(done.stderr[-300:])
            return float(json.loads(done.stdout.strip().splitlines()[-1]))

        yield once

    return make


def first_result(method: str) -> list[Contender]:
    way = "open 2 workers, first result"
    found = [
        Contender(OURS, f'Pool(2, start_method="{method}").apply(noop, (1,))', in_program("first_ours", method)),
        Contender("mp.Pool", f'get_context("{method}").Pool(2).apply(noop, (1,))', in_program("first_mp_pool", method)),
        Contender("PPE", "ProcessPoolExecutor(2, ...).submit(noop, 1).result()", in_program("first_ppe", method)),
    ]
    if method == "fork":
        found += [Contender(name, way, in_program("first_" + name)) for name in ("mpire", "pebble")]
    elif method == "spawn":
        found += [Contender(name, way, in_program("first_" + name)) for name in ("loky", "joblib", "ray", "dask")]
    return found


def memory() -> list[Contender]:
    """Private MB of a worker that has done a task, beyond the least: see programs.py."""
    return [
        Contender(OURS, "fork", in_program("memory_ours", "fork")),
        Contender("ours, forkserver", 'start_method="forkserver", beyond a bare interpreter',
                  in_program("memory_ours", "forkserver")),
        Contender("mp.Pool", "fork", in_program("memory_mp_pool", "fork")),
        Contender("PPE", "fork", in_program("memory_ppe", "fork")),
        Contender("loky", "a fresh interpreter, beyond a bare one", in_program("memory_loky", "spawn")),
    ]  # fmt: skip


def endless(n: int) -> list[Contender]:
    """MB by which the program and its workers grow between a tenth of the items and all of them."""
    return [
        Contender(OURS, "for result in pool.imap(noop, itertools.count())", in_program("endless_ours", str(n))),
        Contender("mp.Pool", "the same", in_program("endless_mp_pool", str(min(n, 300_000)))),
    ]


def rows(*, quick: bool) -> list[Row]:
    n = 200_000 if quick else 10_000_000
    few = {"n_rounds": 9, "quick_rounds": 3}
    return [
        Row("first-fork", "2 processes, first result, `fork`", "ms", first_result("fork"), [Target("mp.Pool", 1.2)],
            **few),
        Row("first-forkserver", "2 processes, first result, `forkserver`", "ms", first_result("forkserver"),
            [Target("PPE", 1.2)], **few),
        Row("first-spawn", "2 processes, first result, `spawn`", "ms", first_result("spawn"), [Target("PPE", 1.2)],
            **few, note="loky, joblib, ray and dask start fresh interpreters, too"),
        Row("memory", "a worker's private memory beyond a bare fork or interpreter", "MB", memory(),
            [Target(None, 4.0)], n_rounds=3, quick_rounds=1),
        Row("endless", "growth over an endless input, from a tenth of 10 million items on", "MB", endless(n),
            [Target(None, 1.0)], n_rounds=1, quick_rounds=1,
            note="mp.Pool reads ahead without bound; it gets 300,000 items, and its growth is of its queue"),
        Row("idle", "context switches of an idle pool's program and workers in 2 s", "switches",
            [Contender(OURS, "an open Pool(2)", in_program("idle_ours")),
             Contender("mp.Pool", "an open Pool(2)", in_program("idle_mp_pool")),
             Contender("PPE", "an open executor", in_program("idle_ppe")),
             Contender("loky", "an open executor", in_program("idle_loky")),
             Contender("pebble", "an open ProcessPool", in_program("idle_pebble"))],
            [Target(None, 0.0)], n_rounds=3, quick_rounds=1),
    ]  # fmt: skip
