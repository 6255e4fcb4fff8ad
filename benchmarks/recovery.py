#!/usr/bin/env python3
"""How fast a pool recovers: from a worker's SIGKILL to the error in the caller's hands, and to a fresh worker at work.

    python benchmarks/recovery.py [--rounds 30] [--methods fork,forkserver,spawn]

Each round kills the one worker of a pool in the midst of a task. The caller waits in ``result()``; the kill's moment is
written down right before the signal. *Error* is when `WorkerDied` is raised there; *fresh worker* is when a task that
waited behind the dead one has begun to run (the workers' clock is the caller's: ``CLOCK_MONOTONIC``). Printed are
medians, the 90th percentile and the worst, in milliseconds. Wanted with fork and forkserver: 20 ms and 50 ms.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path

import fullcourt

WANTED_MS = (20.0, 50.0)


def sleep_noted(path: str) -> None:
    """Say that it runs, then be killed."""
    Path(path).touch()
    time.sleep(100)


def begun_at() -> float:
    return time.monotonic()


def one_round(pool: fullcourt.Pool, path: str) -> tuple[float, float]:
    """Kill the worker; the milliseconds to the error, and to the start of the next task."""
    pid = pool.apply(os.getpid)
    killed_at = [0.0]

    def kill() -> None:
        while not os.path.exists(path):
            time.sleep(0.001)
        time.sleep(0.02)  # the caller waits by now
        killed_at[0] = time.monotonic()
        os.kill(pid, signal.SIGKILL)

    dead = pool.submit(sleep_noted, path)
    behind = pool.submit(begun_at)
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        dead.result()
    except fullcourt.WorkerDied:
        error_at = time.monotonic()
    thread.join()
    os.unlink(path)
    return 1e3 * (error_at - killed_at[0]), 1e3 * (behind.result() - killed_at[0])


def measure(method: str, n_rounds: int) -> list[list[float]]:
    with tempfile.TemporaryDirectory() as folder, fullcourt.Pool(1, start_method=method) as pool:
        rounds = [one_round(pool, f"{folder}/started") for _ in range(n_rounds)]
    return [list(times) for times in zip(*rounds, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--methods", default="fork,forkserver,spawn")
    options = parser.parse_args()
    print(f"{options.rounds} rounds each, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; milliseconds")
    print(f"{'':12}{'to the error':>32}{'to a fresh worker':>32}")
    print(f"{'':12}" + 2 * f"{'median':>12}{'90 %':>10}{'worst':>10}")
    for method in options.methods.split(","):
        line = f"{method:12}"
        for times, wanted in zip(measure(method, options.rounds), WANTED_MS, strict=True):
            median, tenth = statistics.median(times), statistics.quantiles(times, n=10)[-1]
            mark = "" if median < wanted or method == "spawn" else " !"
            line += f"{f'{median:.1f}{mark}':>12}{tenth:>10.1f}{max(times):>10.1f}"
        print(line)


if __name__ == "__main__":
    main()
