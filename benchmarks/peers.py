"""How each peer's pool of two workers is opened, as its users would open it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import multiprocessing
import multiprocessing.pool
import os
from collections.abc import Iterator
from typing import Any

import fullcourt

N = 2  # workers


@contextlib.contextmanager
def ours(**options: Any) -> Iterator[fullcourt.Pool]:
    with fullcourt.Pool(N, **options) as pool:
        yield pool


@contextlib.contextmanager
def our_threads() -> Iterator[fullcourt.Pool]:
    with fullcourt.Pool(threads=N) as pool:
        yield pool


@contextlib.contextmanager
def mp_pool(method: str | None = None, **options: Any) -> Iterator[Any]:
    pool = multiprocessing.get_context(method).Pool(N, **options)
    try:
        yield pool
    finally:
        pool.close()
        pool.join()


@contextlib.contextmanager
def ppe(method: str | None = None, **options: Any) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    context = multiprocessing.get_context(method) if method else None
    with concurrent.futures.ProcessPoolExecutor(N, mp_context=context, **options) as pool:
        yield pool


@contextlib.contextmanager
def tpe() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(N) as pool:
        yield pool


@contextlib.contextmanager
def mp_threads() -> Iterator[multiprocessing.pool.ThreadPool]:
    with multiprocessing.pool.ThreadPool(N) as pool:
        yield pool


@contextlib.contextmanager
def loky() -> Iterator[Any]:
    from loky import get_reusable_executor

    pool = get_reusable_executor(max_workers=N, timeout=600)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True)


@contextlib.contextmanager
def joblib(backend: str = "loky") -> Iterator[Any]:
    from joblib import Parallel

    with Parallel(n_jobs=N, backend=backend) as parallel:
        yield parallel
    if backend == "loky":
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)


@contextlib.contextmanager
def mpire(**options: Any) -> Iterator[Any]:
    from mpire import WorkerPool

    with WorkerPool(n_jobs=N, keep_alive=True, **options) as pool:
        yield pool


@contextlib.contextmanager
def pebble() -> Iterator[Any]:
    from pebble import ProcessPool

    pool = ProcessPool(max_workers=N)
    try:
        yield pool
    finally:
        pool.close()
        pool.join()


@contextlib.contextmanager
def pebble_threads() -> Iterator[Any]:
    from pebble import ThreadPool

    pool = ThreadPool(max_workers=N)
    try:
        yield pool
    finally:
        pool.close()
        pool.join()


@contextlib.contextmanager
def ray() -> Iterator[Any]:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray as module

    module.init(num_cpus=N, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                object_store_memory=2 << 30)  # fmt: skip
    try:
        yield module
    finally:
        module.shutdown()


@contextlib.contextmanager
def dask() -> Iterator[Any]:
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=N, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL)
    client = Client(cluster)
    try:
        yield client
    finally:
        client.close()
        cluster.close()
