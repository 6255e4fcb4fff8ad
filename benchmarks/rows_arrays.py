"""Rows of large arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

from benchmarks import peers
from benchmarks.bare import Block
from benchmarks.measuring import OURS, Contender, Once, Row, Target
from benchmarks.tasks import ends_of, make_array, sum_of

__all__ = ["rows"]

N = 25_000_000  # of float64: 200 MB


def argument(task: Callable[[Any], float], n: int) -> list[Contender]:
    """Milliseconds for one call with an array that changed since the last: a fresh view each time, its ends set."""

    def calling(
        open_pool: Callable[[], AbstractContextManager[Any]], call: Callable[[Any, Any], float]
    ) -> Callable[[], AbstractContextManager[Once]]:
        @contextlib.contextmanager
        def make() -> Iterator[Once]:
            import numpy as np

            array = np.ones(n)
            count = 0

            def once() -> float:
                nonlocal count
                count += 1
                array[0] = array[-1] = count
                fresh = array[:]
                began = perf_counter()
                value = call(pool, fresh)
                took = (perf_counter() - began) * 1e3
                assert value in (2.0 * count, n - 2 + 2.0 * count), value
                return took

            with open_pool() as pool:
                once()
                once()
                yield once

        return make

    def with_joblib(parallel: Any, array: Any) -> float:
        from joblib import delayed

        return float(parallel([delayed(task)(array)])[0])

    def with_ray(module: Any, array: Any) -> float:
        return float(module.get(module.remote(task).remote(array)))

    def with_submit(pool: Any, array: Any) -> float:
        return float(pool.submit(task, array).result())

    name = task.__name__
    found = [
        Contender(OURS, f"pool.submit({name}, a).result()", calling(peers.ours, with_submit)),
        Contender("mp.Pool", f"pool.apply({name}, (a,))", calling(peers.mp_pool, lambda p, a: p.apply(task, (a,)))),
        Contender("PPE", f"pool.submit({name}, a).result()", calling(peers.ppe, with_submit)),
        Contender("loky", f"pool.submit({name}, a).result()", calling(peers.loky, with_submit)),
        Contender("joblib", f"parallel([delayed({name})(a)])", calling(peers.joblib, with_joblib)),
        Contender("mpire", f"pool.apply({name}, (a,))", calling(peers.mpire, lambda p, a: p.apply(task, (a,)))),
        Contender("ray", f"ray.get({name}.remote(a))", calling(peers.ray, with_ray)),
    ]
    if task is ends_of:
        block = calling(lambda: Block(n * 8), lambda b, a: b.call(memoryview(a).cast("B")))
        found.insert(0, Contender("bare", "one copy into a shared, warm block", block))
    return found


def result(n: int) -> list[Contender]:
    """Milliseconds for one call that returns the worker's own array; its ends are read here."""

    def calling(
        open_pool: Callable[[], AbstractContextManager[Any]], call: Callable[[Any], Any]
    ) -> Callable[[], AbstractContextManager[Once]]:
        @contextlib.contextmanager
        def make() -> Iterator[Once]:
            def once() -> float:
                began = perf_counter()
                array = call(pool)
                assert ends_of(array) == 2.0
                return (perf_counter() - began) * 1e3

            with open_pool() as pool:
                for _ in range(4):  # each worker makes its array
                    once()
                yield once

        return make

    def with_joblib(parallel: Any) -> Any:
        from joblib import delayed

        return parallel([delayed(make_array)(n)])[0]

    return [
        Contender(OURS, "pool.submit(task).result()", calling(peers.ours, lambda p: p.submit(make_array, n).result())),
        Contender("mp.Pool", "pool.apply(task)", calling(peers.mp_pool, lambda p: p.apply(make_array, (n,)))),
        Contender("PPE", "pool.submit(task).result()", calling(peers.ppe, lambda p: p.submit(make_array, n).result())),
        Contender("loky", "pool.submit(task).result()",
                  calling(peers.loky, lambda p: p.submit(make_array, n).result())),
        Contender("joblib", "parallel([delayed(task)()])", calling(peers.joblib, with_joblib)),
        Contender("mpire", "pool.apply(task)", calling(peers.mpire, lambda p: p.apply(make_array, (n,)))),
        Contender("ray", "ray.get(task.remote())",
                  calling(peers.ray, lambda m: m.get(m.remote(make_array).remote(n)))),
    ]  # fmt: skip


def rows(*, quick: bool) -> list[Row]:
    n = N // 10 if quick else N
    return [
        Row("argument", "200 MB NumPy array as an argument, warm", "ms", argument(ends_of, n),
            [Target("PPE", 1 / 10), Target("joblib", 1 / 2)], n_rounds=7, needs=("numpy",),
            note="the task reads the array's ends; with --quick 20 MB"),
        Row("argument-read", "the same, and the task reads all of it", "ms", argument(sum_of, n),
            n_rounds=5, needs=("numpy",)),
        Row("result", "200 MB array as a result, warm", "ms", result(n),
            [Target("mp.Pool", 1 / 8), Target("PPE", 1 / 8), Target("ray", 1.0)], n_rounds=7, needs=("numpy",),
            note="the array is the worker's own and old: only its way back is measured"),
    ]  # fmt: skip
