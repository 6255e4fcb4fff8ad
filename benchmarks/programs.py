"""Whole programs that measure themselves: ``python -m benchmarks.programs FUNCTION [ARGUMENT ...]``.

Each prints one number on its last line. The clock starts after the imports that a user's program has anyway.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from time import perf_counter

from benchmarks.bare import Bare
from benchmarks.tasks import noop, pid

MB = 1e6


# -- the first result (ms) --------------------------------------------------------------------------------------------


def first_ours(method: str) -> float:
    import fullcourt

    began = perf_counter()
    with fullcourt.Pool(2, start_method=method) as pool:
        pool.apply(noop, (1,))
        return (perf_counter() - began) * 1e3


def first_mp_pool(method: str) -> float:
    import multiprocessing
    import multiprocessing.pool

    began = perf_counter()
    with multiprocessing.get_context(method).Pool(2) as pool:
        pool.apply(noop, (1,))
        return (perf_counter() - began) * 1e3


def first_ppe(method: str) -> float:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    began = perf_counter()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        pool.submit(noop, 1).result()
        return (perf_counter() - began) * 1e3


def first_loky() -> float:
    from loky import get_reusable_executor

    began = perf_counter()
    pool = get_reusable_executor(max_workers=2)
    pool.submit(noop, 1).result()
    took = (perf_counter() - began) * 1e3
    pool.shutdown()
    return took


def first_joblib() -> float:
    from joblib import Parallel, delayed

    began = perf_counter()
    with Parallel(n_jobs=2) as parallel:
        parallel([delayed(noop)(1)])
        return (perf_counter() - began) * 1e3


def first_mpire() -> float:
    from mpire import WorkerPool

    began = perf_counter()
    with WorkerPool(n_jobs=2) as pool:
        pool.apply(noop, (1,))
        return (perf_counter() - began) * 1e3


def first_pebble() -> float:
    from pebble import ProcessPool

    began = perf_counter()
    with ProcessPool(max_workers=2) as pool:
        pool.schedule(noop, args=(1,)).result()
        return (perf_counter() - began) * 1e3


def first_ray() -> float:
    import ray

    began = perf_counter()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=50)
    ray.get(ray.remote(noop).remote(1))
    took = (perf_counter() - began) * 1e3
    ray.shutdown()
    return took


def first_dask() -> float:
    from distributed import Client, LocalCluster

    began = perf_counter()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        client.submit(noop, 1).result()
        return (perf_counter() - began) * 1e3


# -- memory (MB) ------------------------------------------------------------------------------------------------------


def private_mb(process: int) -> float:
    """What a process has for itself: pages that it shares with nobody."""
    with open(f"/proc/{process}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private_")) * 1024 / MB


def bare_mb(method: str) -> float:
    """The least: a forked worker on a socket pair, or a fresh interpreter that waits, each in a program as small."""
    if method == "fork":
        with Bare() as bare:
            for x in range(100):
                bare.call(noop, x)
            return private_mb(bare.pids[0])
    import subprocess

    code = "import pickle, socket, sys; sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        time.sleep(0.5)
        return private_mb(process.pid)
    finally:
        process.communicate()


def memory_ours(method: str) -> float:
    import fullcourt

    least = bare_mb(method)
    with fullcourt.Pool(2, start_method=method) as pool:
        pool.map(noop, range(1000))
        return private_mb(pool.apply(pid)) - least


def memory_mp_pool(method: str) -> float:
    import multiprocessing

    least = bare_mb(method)
    with multiprocessing.get_context(method).Pool(2) as pool:
        pool.map(noop, range(1000))
        return private_mb(pool.apply(pid)) - least


def memory_ppe(method: str) -> float:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    least = bare_mb(method)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        list(pool.map(noop, range(100)))
        return private_mb(pool.submit(pid).result()) - least


def memory_loky(method: str) -> float:
    from loky import get_reusable_executor

    least = bare_mb(method)
    pool = get_reusable_executor(max_workers=2)
    list(pool.map(noop, range(100)))
    found = private_mb(pool.submit(pid).result()) - least
    pool.shutdown()
    return found


# -- an endless input (MB) --------------------------------------------------------------------------------------------


def tree(root: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield root
    try:
        for task in os.listdir(f"/proc/{root}/task"):
            with open(f"/proc/{root}/task/{task}/children") as file:
                for child in file.read().split():
                    yield from tree(int(child))
    except FileNotFoundError:
        return


def resident_mb() -> float:
    total = 0
    for process in tree(os.getpid()):
        with open(f"/proc/{process}/statm") as file:
            total += int(file.read().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") / MB


def grow(results: Iterator[int], n: int) -> float:
    at = n // 10
    for _ in itertools.islice(results, at):
        pass
    before = resident_mb()
    for _ in itertools.islice(results, n - at):
        pass
    return resident_mb() - before


def endless_ours(n: str) -> float:
    import fullcourt

    with fullcourt.Pool(2) as pool:
        return grow(iter(pool.imap(noop, itertools.count())), int(n))


def endless_mp_pool(n: str) -> float:
    import multiprocessing

    pool = multiprocessing.Pool(2)
    grown = grow(iter(pool.imap(noop, itertools.count())), int(n))
    print(json.dumps(grown), flush=True)
    for process in tree(os.getpid()):
        if process != os.getpid():
            os.kill(process, 9)
    os._exit(0)  # its thread reads the endless input for ever


# -- an idle pool (context switches) ----------------------------------------------------------------------------------


def switches() -> int:
    """Context switches of this program's threads and of its descendants, but for those of the thread that asks."""
    total = 0
    for process in tree(os.getpid()):
        for task in os.listdir(f"/proc/{process}/task"):
            if int(task) == os.getpid():
                continue
            with open(f"/proc/{process}/task/{task}/status") as file:
                total += sum(int(line.split()[1]) for line in file if "ctxt_switches" in line)
    return total


def idle_switches(seconds: float = 2.0) -> float:
    time.sleep(0.5)
    before = switches()
    time.sleep(seconds)
    return switches() - before


def idle_ours() -> float:
    import fullcourt

    with fullcourt.Pool(2) as pool:
        pool.map(noop, range(100))
        pool.apply(noop, (1,))
        return idle_switches()


def idle_mp_pool() -> float:
    import multiprocessing

    with multiprocessing.Pool(2) as pool:
        pool.map(noop, range(100))
        return idle_switches()


def idle_ppe() -> float:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as pool:
        list(pool.map(noop, range(100)))
        return idle_switches()


def idle_loky() -> float:
    from loky import get_reusable_executor

    pool = get_reusable_executor(max_workers=2)
    list(pool.map(noop, range(100)))
    found = idle_switches()
    pool.shutdown()
    return found


def idle_pebble() -> float:
    from pebble import ProcessPool

    with ProcessPool(max_workers=2) as pool:
        pool.schedule(noop, args=(1,)).result()
        return idle_switches()


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])), flush=True)
