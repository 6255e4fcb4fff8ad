"""Rows of many small tasks: what a pool itself costs."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Any

from benchmarks import peers
from benchmarks.bare import Bare
from benchmarks.measuring import OURS, Contender, Once, Row, Target, per_task
from benchmarks.tasks import noop, spin

__all__ = ["rows"]


def doing(
    open_pool: Callable[[], AbstractContextManager[Any]], work: Callable[[Any], object], n: int, scale: float = 1e6
) -> Callable[[], AbstractContextManager[Once]]:
    """A contender that opens a pool and does the work with it; the number is the time per task."""

    @contextlib.contextmanager
    def make() -> Iterator[Once]:
        with open_pool() as pool:
            yield per_task(lambda: work(pool), n, scale)

    return make


def remote(module: Any, fn: Callable[..., Any]) -> Any:
    return module.remote(fn)


# -- one call, waited for ---------------------------------------------------------------------------------------------


def one_at_a_time(n: int) -> list[Contender]:
    few, rare = max(n // 4, 10), max(n // 20, 10)

    def calls(call: Callable[[Any, int], object], count: int) -> Callable[[Any], None]:
        def work(pool: Any) -> None:
            for x in range(count):
                call(pool, x)

        return work

    def ray_calls(module: Any) -> None:
        task = module.remote(noop)
        for x in range(rare):
            module.get(task.remote(x))

    return [
        Contender("bare", "send, recv", doing(Bare, calls(lambda b, x: b.call(noop, x), n), n)),
        Contender(OURS, "pool.apply(noop, (x,))", doing(peers.ours, calls(lambda p, x: p.apply(noop, (x,)), n), n)),
        Contender("mp.Pool", "pool.apply(noop, (x,))",
                  doing(peers.mp_pool, calls(lambda p, x: p.apply(noop, (x,)), few), few)),
        Contender("PPE", "pool.submit(noop, x).result()",
                  doing(peers.ppe, calls(lambda p, x: p.submit(noop, x).result(), few), few)),
        Contender("loky", "pool.submit(noop, x).result()",
                  doing(peers.loky, calls(lambda p, x: p.submit(noop, x).result(), few), few)),
        Contender("mpire", "pool.apply(noop, (x,))",
                  doing(peers.mpire, calls(lambda p, x: p.apply(noop, (x,)), few), few)),
        Contender("pebble", "pool.schedule(noop, args=(x,)).result()",
                  doing(peers.pebble, calls(lambda p, x: p.schedule(noop, args=(x,)).result(), few), few)),
        Contender("ray", "ray.get(task.remote(x))", doing(peers.ray, ray_calls, rare)),
        Contender("dask", "client.submit(noop, x, pure=False).result()",
                  doing(peers.dask, calls(lambda c, x: c.submit(noop, x, pure=False).result(), rare), rare)),
    ]  # fmt: skip


# -- a burst of calls -------------------------------------------------------------------------------------------------


def burst(n: int) -> list[Contender]:
    rare = max(n // 10, 10)

    def with_submit(pool: Any) -> None:
        futures = [pool.submit(noop, x) for x in range(n)]
        assert sum(f.result() for f in futures) == n * (n - 1) // 2

    def with_apply_async(pool: Any) -> None:
        results = [pool.apply_async(noop, (x,)) for x in range(n)]
        assert sum(r.get() for r in results) == n * (n - 1) // 2

    def with_joblib(parallel: Any) -> None:
        from joblib import delayed

        assert sum(parallel(delayed(noop)(x) for x in range(n))) == n * (n - 1) // 2

    def with_schedule(pool: Any) -> None:
        futures = [pool.schedule(noop, args=(x,)) for x in range(n)]
        assert sum(f.result() for f in futures) == n * (n - 1) // 2

    def with_ray(module: Any) -> None:
        task = module.remote(noop)
        assert sum(module.get([task.remote(x) for x in range(rare)])) == rare * (rare - 1) // 2

    def with_dask(client: Any) -> None:
        futures = [client.submit(noop, x, pure=False) for x in range(rare)]
        assert sum(client.gather(futures)) == rare * (rare - 1) // 2

    def with_bare(bare: Bare) -> None:
        assert sum(bare.submit_all(noop, iter(range(n)))) == n * (n - 1) // 2

    return [
        Contender("bare", "32 messages under way in each of two sockets", doing(Bare, with_bare, n)),
        Contender(OURS, "[pool.submit(noop, x) ...], [f.result() ...]", doing(peers.ours, with_submit, n)),
        Contender("mp.Pool", "[pool.apply_async(noop, (x,)) ...], [r.get() ...]",
                  doing(peers.mp_pool, with_apply_async, n)),
        Contender("PPE", "[pool.submit(noop, x) ...], [f.result() ...]", doing(peers.ppe, with_submit, n)),
        Contender("loky", "[pool.submit(noop, x) ...], [f.result() ...]", doing(peers.loky, with_submit, n)),
        Contender("joblib", "parallel(delayed(noop)(x) ...), which batches", doing(peers.joblib, with_joblib, n)),
        Contender("mpire", "[pool.apply_async(noop, (x,)) ...], [r.get() ...]",
                  doing(peers.mpire, with_apply_async, n)),
        Contender("pebble", "[pool.schedule(noop, args=(x,)) ...], [f.result() ...]",
                  doing(peers.pebble, with_schedule, n)),
        Contender("ray", "ray.get([task.remote(x) ...])", doing(peers.ray, with_ray, rare)),
        Contender("dask", "client.gather([client.submit(noop, x) ...])", doing(peers.dask, with_dask, rare)),
    ]  # fmt: skip


# -- maps of nothing --------------------------------------------------------------------------------------------------


def map_of_nothing(n: int) -> list[Contender]:
    few = max(n // 30, 100)

    def with_map(count: int, **options: Any) -> Callable[[Any], None]:
        def work(pool: Any) -> None:
            assert sum(1 for _ in pool.map(noop, range(count), **options)) == count

        return work

    def with_joblib(parallel: Any) -> None:
        from joblib import delayed

        assert len(parallel(delayed(noop)(x) for x in range(few))) == few

    def with_pebble(pool: Any) -> None:
        assert sum(1 for _ in pool.map(noop, range(few), chunksize=few // 8).result()) == few

    def with_bare(bare: Bare) -> None:
        assert bare.map(noop, n) == n

    return [
        Contender("bare", "chunks of 2,000", doing(Bare, with_bare, n)),
        Contender(OURS, "pool.map(noop, range(n))", doing(peers.ours, with_map(n), n)),
        Contender("mp.Pool", "pool.map(noop, range(n))", doing(peers.mp_pool, with_map(n), n)),
        Contender("PPE", "pool.map(noop, range(n), chunksize=n // 8), chosen by hand",
                  doing(peers.ppe, with_map(n, chunksize=n // 8), n)),
        Contender("loky", "pool.map(noop, range(n), chunksize=n // 8), chosen by hand",
                  doing(peers.loky, with_map(n, chunksize=n // 8), n)),
        Contender("joblib", "parallel(delayed(noop)(x) ...)", doing(peers.joblib, with_joblib, few)),
        Contender("mpire", "pool.map(noop, range(n))", doing(peers.mpire, with_map(few), few)),
        Contender("pebble", "pool.map(noop, range(n), chunksize=n // 8)", doing(peers.pebble, with_pebble, few)),
    ]  # fmt: skip


def imap_of_nothing(n: int) -> list[Contender]:
    few = max(n // 10, 100)

    def with_imap(count: int) -> Callable[[Any], None]:
        def work(pool: Any) -> None:
            assert sum(1 for _ in pool.imap_unordered(noop, range(count))) == count

        return work

    def with_mpire(pool: Any) -> None:
        assert sum(1 for _ in pool.imap_unordered(noop, range(few), iterable_len=few)) == few

    @contextlib.contextmanager
    def joblib_generator() -> Iterator[Once]:
        from joblib import Parallel, delayed

        with Parallel(n_jobs=peers.N, return_as="generator_unordered") as parallel:

            def work() -> None:
                assert sum(1 for _ in parallel(delayed(noop)(x) for x in range(few))) == few

            yield per_task(work, few)

    return [
        Contender(OURS, "pool.imap_unordered(noop, range(n))", doing(peers.ours, with_imap(n), n)),
        Contender("mp.Pool", "pool.imap_unordered(noop, range(n))", doing(peers.mp_pool, with_imap(few), few)),
        Contender("joblib", 'Parallel(return_as="generator_unordered")(...)', joblib_generator),
        Contender("mpire", "pool.imap_unordered(noop, range(n))", doing(peers.mpire, with_mpire, few)),
    ]


# -- tasks of uneven length -------------------------------------------------------------------------------------------


def uneven_lengths(n: int) -> list[float]:
    lengths = [0.05] * (n // 50) + [0.0005] * (n - n // 50)
    random.Random(5).shuffle(lengths)
    return lengths


def long_tail_lengths(n: int) -> list[float]:
    return [0.0005] * (n - n // 20) + [0.01] * (n // 20)


def maps_of(lengths: list[float]) -> list[Contender]:
    """Milliseconds for the whole map, by each peer's own choice of chunks."""

    def with_map(pool: Any) -> None:
        assert len(list(pool.map(spin, lengths))) == len(lengths)

    def with_joblib(parallel: Any) -> None:
        from joblib import delayed

        parallel(delayed(spin)(x) for x in lengths)

    def with_pebble(pool: Any) -> None:
        list(pool.map(spin, lengths).result())

    def with_imap(pool: Any) -> None:
        assert len(list(pool.imap_unordered(spin, lengths))) == len(lengths)

    def with_ray(module: Any) -> None:
        task = module.remote(spin)
        module.get([task.remote(x) for x in lengths])

    def with_dask(client: Any) -> None:
        client.gather(client.map(spin, lengths, pure=False))

    way = "pool.map(spin, lengths)"
    return [
        Contender(OURS, way, doing(peers.ours, with_map, 1, 1e3)),
        Contender("mp.Pool", way, doing(peers.mp_pool, with_map, 1, 1e3)),
        Contender("mp.Pool imap", "pool.imap_unordered(spin, lengths)", doing(peers.mp_pool, with_imap, 1, 1e3)),
        Contender("PPE", way, doing(peers.ppe, with_map, 1, 1e3)),
        Contender("loky", way, doing(peers.loky, with_map, 1, 1e3)),
        Contender("joblib", "parallel(delayed(spin)(x) ...)", doing(peers.joblib, with_joblib, 1, 1e3)),
        Contender("mpire", way, doing(peers.mpire, with_map, 1, 1e3)),
        Contender("pebble", way, doing(peers.pebble, with_pebble, 1, 1e3)),
        Contender("ray", "ray.get([task.remote(x) ...])", doing(peers.ray, with_ray, 1, 1e3)),
        Contender("dask", "client.gather(client.map(spin, lengths))", doing(peers.dask, with_dask, 1, 1e3)),
    ]


# -- threads ----------------------------------------------------------------------------------------------------------


def thread_calls(n: int) -> list[Contender]:
    def with_submit(pool: Any) -> None:
        for x in range(n):
            pool.submit(noop, x).result()

    def with_apply(pool: Any) -> None:
        for x in range(n):
            pool.apply(noop, (x,))

    def with_schedule(pool: Any) -> None:
        for x in range(n):
            pool.schedule(noop, args=(x,)).result()

    return [
        Contender(OURS, "pool.apply(noop, (x,))", doing(peers.our_threads, with_apply, n)),
        Contender("TPE", "pool.submit(noop, x).result()", doing(peers.tpe, with_submit, n)),
        Contender("mp ThreadPool", "pool.apply(noop, (x,))", doing(peers.mp_threads, with_apply, n)),
        Contender("pebble threads", "pool.schedule(noop, args=(x,)).result()",
                  doing(peers.pebble_threads, with_schedule, n)),
    ]  # fmt: skip


def thread_burst(n: int) -> list[Contender]:
    def with_submit(pool: Any) -> None:
        for future in [pool.submit(noop, x) for x in range(n)]:
            future.result()

    def with_apply_async(pool: Any) -> None:
        for result in [pool.apply_async(noop, (x,)) for x in range(n)]:
            result.get()

    def with_joblib(parallel: Any) -> None:
        from joblib import delayed

        parallel(delayed(noop)(x) for x in range(n))

    return [
        Contender(OURS, "[pool.submit(noop, x) ...], [f.result() ...]", doing(peers.our_threads, with_submit, n)),
        Contender("TPE", "[pool.submit(noop, x) ...], [f.result() ...]", doing(peers.tpe, with_submit, n)),
        Contender("mp ThreadPool", "[pool.apply_async(noop, (x,)) ...]", doing(peers.mp_threads, with_apply_async, n)),
        Contender("joblib threading", 'Parallel(backend="threading")(...)',
                  doing(lambda: peers.joblib("threading"), with_joblib, n)),
    ]  # fmt: skip


# -- no result may be bought with a loss elsewhere --------------------------------------------------------------------


def latency_behind(n: int) -> list[Contender]:
    """Milliseconds until a single call answers, while n tasks of a map are queued in the same pool, beside it."""

    @contextlib.contextmanager
    def us() -> Iterator[Once]:
        with peers.ours() as pool:

            def once() -> float:
                running = pool.map_async(spin, [0.0005] * n)
                began = perf_counter()
                pool.submit(noop, 1).result()
                took = (perf_counter() - began) * 1e3
                running.cancel()
                return took

            yield once

    @contextlib.contextmanager
    def std() -> Iterator[Once]:
        with peers.ppe() as pool:

            def once() -> float:
                for _ in range(n // 100):
                    last = pool.submit(spin, 0.0005)
                began = perf_counter()
                pool.submit(noop, 1).result()
                took = (perf_counter() - began) * 1e3
                last.result()
                return took

            yield once

    return [
        Contender(OURS, "pool.submit beside pool.map_async of n", us),
        Contender("PPE", "pool.submit behind n / 100 others", std),
    ]


def fairness(n: int) -> list[Contender]:
    """How much longer the slower of two threads takes that submit the same work at once (1: the same)."""

    def both(open_pool: Callable[[], AbstractContextManager[Any]]) -> Callable[[], AbstractContextManager[Once]]:
        @contextlib.contextmanager
        def make() -> Iterator[Once]:
            with open_pool() as pool:

                def once() -> float:
                    seconds = [0.0, 0.0]
                    gate = threading.Barrier(2)

                    def work(i: int) -> None:
                        gate.wait()
                        began = perf_counter()
                        for future in as_completed([pool.submit(spin, 0.0002) for _ in range(n)]):
                            future.result()
                        seconds[i] = perf_counter() - began

                    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                    return max(seconds) / min(seconds)

                yield once

        return make

    way = "two threads, each n submits, then as_completed"
    return [Contender(OURS, way, both(peers.ours)), Contender("PPE", way, both(peers.ppe))]


def rows(*, quick: bool) -> list[Row]:
    n = 10 if quick else 1
    uneven, tail = uneven_lengths(1000), long_tail_lengths(1000)
    return [
        Row("call", "`apply(noop, x)`: call and wait", "us per task", one_at_a_time(2000 // n),
            [Target("bare", 2.0), Target("PPE", 1 / 6), Target("mp.Pool", 1 / 6)], n_rounds=15),
        Row("burst", "5,000 submits, then all results", "us per task", burst(5000 // n),
            [Target("mp.Pool", 1 / 3), Target("PPE", 1 / 8)]),
        Row("map", "`map(noop, range(300_000))`, no chunksize", "us per item", map_of_nothing(300_000 // n),
            [Target("mp.Pool", 1.1)]),
        Row("imap", "`imap_unordered(noop, range(100_000))`", "us per item", imap_of_nothing(100_000 // n),
            [Target("mp.Pool", 1 / 10)]),
        Row("uneven", "1,000 tasks: 1 in 50 takes 50 ms, the others 0.5 ms", "ms in all", maps_of(uneven),
            [Target("ideal", 1.03)], n_rounds=7, quick_rounds=2, ideal=sum(uneven) / 2 * 1e3,
            note="ideal: the total work divided by two; it needs two cores that nobody else uses"),
        Row("tail", "950 tasks of 0.5 ms, then 50 of 10 ms", "ms in all", maps_of(tail),
            [Target("ideal", 1.03)], n_rounds=7, quick_rounds=2, ideal=sum(tail) / 2 * 1e3,
            note="ideal: as above"),
        Row("threads-call", "threads: call and wait", "us per task", thread_calls(3000 // n), [Target("TPE", 0.7)],
            n_rounds=15),
        Row("threads-burst", "threads: 5,000 submits, then all results", "us per task", thread_burst(5000 // n),
            [Target("TPE", 0.6)], n_rounds=15),
        Row("latency", "a single call while a million tasks of a map are queued", "ms", latency_behind(1_000_000 // n),
            [Target(None, 5.0)], n_rounds=7,
            note="PPE has a hundredth of the tasks queued, which it runs first: it has one queue"),
        Row("fairness", "two threads that submit at once", "slower / faster", fairness(1000 // n), [Target(None, 1.5)],
            n_rounds=7),
    ]  # fmt: skip
