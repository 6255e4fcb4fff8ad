"""Workloads that peers publish about themselves, in the ways in which they do; and a skewed Mandelbrot set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import repeat
from time import perf_counter
from typing import Any

from benchmarks import peers, tasks
from benchmarks.measuring import OURS, Contender, Once, Row, Target
from benchmarks.rows_calls import doing

__all__ = ["rows"]


# -- the image convolution of Ray's comparison and of mpire's ----------------------------------------------------------


def convolution(side: int) -> list[Contender]:
    """Milliseconds for a batch: one image, a kernel for each worker."""

    def data() -> tuple[Any, list[Any]]:
        import numpy as np

        random = np.random.default_rng(1)
        return random.random((side, side)), [random.random((4, 4)) for _ in range(peers.N)]

    def doing_it(
        open_pool: Callable[[], AbstractContextManager[Any]], work: Callable[[Any, Any, list[Any]], list[Any]]
    ) -> Callable[[], AbstractContextManager[Once]]:
        @contextlib.contextmanager
        def make() -> Iterator[Once]:
            image, kernels = data()
            with open_pool() as pool:

                def once() -> float:
                    image[0, 0] += 1  # another image than the last
                    began = perf_counter()
                    found = work(pool, image, kernels)
                    assert len(found) == peers.N
                    return (perf_counter() - began) * 1e3

                yield once

        return make

    def with_joblib(parallel: Any, image: Any, kernels: list[Any]) -> list[Any]:
        from joblib import delayed

        return list(parallel(delayed(tasks.convolve)(image, kernel) for kernel in kernels))

    def with_ray(module: Any, image: Any, kernels: list[Any]) -> list[Any]:
        stored = module.put(image)
        task = module.remote(tasks.convolve)
        return list(module.get([task.remote(stored, kernel) for kernel in kernels]))

    def with_submit(pool: Any, image: Any, kernels: list[Any]) -> list[Any]:
        return [f.result() for f in [pool.submit(tasks.convolve, image, kernel) for kernel in kernels]]

    def with_starmap(pool: Any, image: Any, kernels: list[Any]) -> list[Any]:
        return list(pool.starmap(tasks.convolve, zip(repeat(image, len(kernels)), kernels, strict=True)))

    def with_mpire(pool: Any, image: Any, kernels: list[Any]) -> list[Any]:
        return list(pool.map(tasks.convolve_pair, [((image, kernel),) for kernel in kernels]))

    return [
        Contender("in the caller", "[convolve(image, k) for k in kernels]",
                  doing_it(contextlib.nullcontext, lambda _, i, ks: [tasks.convolve(i, k) for k in ks])),
        Contender(OURS, "pool.starmap(convolve, zip(repeat(image), kernels))", doing_it(peers.ours, with_starmap)),
        Contender("mp.Pool", "pool.starmap(...)", doing_it(peers.mp_pool, with_starmap)),
        Contender("PPE", "[pool.submit(convolve, image, k) ...]", doing_it(peers.ppe, with_submit)),
        Contender("loky", "[pool.submit(convolve, image, k) ...]", doing_it(peers.loky, with_submit)),
        Contender("joblib", "parallel(delayed(convolve)(image, k) ...)", doing_it(peers.joblib, with_joblib)),
        Contender("mpire", "pool.map(convolve, ...)", doing_it(peers.mpire, with_mpire)),
        Contender("ray", "ray.put(image), convolve.remote(stored, k)", doing_it(peers.ray, with_ray)),
    ]  # fmt: skip


# -- the stateful prefix count of Ray's comparison ---------------------------------------------------------------------


def prefix_count(n_documents: int, n_words: int) -> list[Contender]:
    """Milliseconds to count the prefixes of documents, each worker in a dictionary of its own, and to join them."""
    documents = [tasks.make_document(i, n_words) for i in range(n_documents)]

    def join(parts: list[dict[bytes, int]]) -> None:
        popular: set[bytes] = set()
        for part in parts:
            popular |= tasks.popular(part)
        assert popular

    def passing(starmap: Callable[[Any, list[Any]], list[Any]]) -> Callable[[Any], None]:
        """The state travels with each task, as Ray's comparison does it for multiprocessing."""

        def work(pool: Any) -> None:
            parts: list[dict[bytes, int]] = [{} for _ in range(peers.N)]
            for i in range(0, n_documents, peers.N):
                parts = starmap(pool, list(zip(parts, documents[i : i + peers.N], strict=True)))
            join(parts)

        return work

    def with_futures(pool: Any, pairs: list[Any]) -> list[Any]:
        return [f.result() for f in [pool.submit(tasks.count_prefixes, *pair) for pair in pairs]]

    def with_joblib(parallel: Any, pairs: list[Any]) -> list[Any]:
        from joblib import delayed

        return list(parallel(delayed(tasks.count_prefixes)(*pair) for pair in pairs))

    def with_starmap(pool: Any, pairs: list[Any]) -> list[Any]:
        return list(pool.starmap(tasks.count_prefixes, pairs))

    def with_ray(module: Any) -> None:
        class Counter:
            def __init__(self) -> None:
                self.counts: dict[bytes, int] = {}

            def add(self, document: list[bytes]) -> None:
                tasks.count_prefixes(self.counts, document)

            def popular(self) -> set[bytes]:
                return tasks.popular(self.counts)

        counters = [module.remote(Counter).remote() for _ in range(peers.N)]
        for i, document in enumerate(documents):
            counters[i % peers.N].add.remote(document)
        assert set().union(*module.get([counter.popular.remote() for counter in counters]))

    def alone(_: Any) -> None:
        counts: dict[bytes, int] = {}
        for document in documents:
            tasks.count_prefixes(counts, document)
        join([counts])

    return [
        Contender("in the caller", "one dictionary", doing(contextlib.nullcontext, alone, 1, 1e3)),
        Contender(OURS, "the dictionaries travel: pool.starmap", doing(peers.ours, passing(with_starmap), 1, 1e3)),
        Contender("mp.Pool", "the same", doing(peers.mp_pool, passing(with_starmap), 1, 1e3)),
        Contender("PPE", "the same with submit", doing(peers.ppe, passing(with_futures), 1, 1e3)),
        Contender("loky", "the same with submit", doing(peers.loky, passing(with_futures), 1, 1e3)),
        Contender("joblib", "the same with delayed", doing(peers.joblib, passing(with_joblib), 1, 1e3)),
        Contender("ray", "two actors, each with a dictionary", doing(peers.ray, with_ray, 1, 1e3)),
    ]


# -- expensive initialisation, once per worker -------------------------------------------------------------------------


def model(n_tasks: int) -> list[Contender]:
    """Milliseconds from nothing to the last of n tasks of 2 ms that need a model; loading it takes 0.3 s."""

    def whole(run: Callable[[], list[float]]) -> Callable[[], AbstractContextManager[Once]]:
        @contextlib.contextmanager
        def make() -> Iterator[Once]:
            def once() -> float:
                began = perf_counter()
                assert len(run()) == n_tasks
                return (perf_counter() - began) * 1e3

            yield once

        return make

    def us() -> list[float]:
        with peers.ours(initializer=tasks.load_model) as pool:
            return list(pool.map(tasks.predict, range(n_tasks)))

    def std_pool() -> list[float]:
        with peers.mp_pool(initializer=tasks.load_model) as pool:
            return list(pool.map(tasks.predict, range(n_tasks)))

    def std_executor() -> list[float]:
        with peers.ppe(initializer=tasks.load_model) as pool:
            return list(pool.map(tasks.predict, range(n_tasks)))

    def with_mpire() -> list[float]:
        with peers.mpire() as pool:
            return list(pool.map(tasks.predict, range(n_tasks), worker_init=tasks.load_model))

    def with_joblib() -> list[float]:
        from joblib import delayed

        with peers.joblib() as parallel:
            return list(parallel(delayed(tasks.predict)(x) for x in range(n_tasks)))

    return [
        Contender(OURS, "Pool(2, initializer=load_model)", whole(us)),
        Contender("mp.Pool", "Pool(2, initializer=load_model)", whole(std_pool)),
        Contender("PPE", "ProcessPoolExecutor(2, initializer=load_model)", whole(std_executor)),
        Contender("mpire", "pool.map(..., worker_init=load_model)", whole(with_mpire)),
        Contender("joblib", "the task loads what is not loaded yet", whole(with_joblib)),
    ]


def mandelbrot(height: int) -> list[Contender]:
    def with_map(pool: Any) -> None:
        assert len(list(pool.map(tasks.mandelbrot_row, range(height)))) == height

    def with_joblib(parallel: Any) -> None:
        from joblib import delayed

        parallel(delayed(tasks.mandelbrot_row)(y) for y in range(height))

    def with_pebble(pool: Any) -> None:
        list(pool.map(tasks.mandelbrot_row, range(height)).result())

    def with_ray(module: Any) -> None:
        task = module.remote(tasks.mandelbrot_row)
        module.get([task.remote(y) for y in range(height)])

    way = "pool.map(row, range(height))"
    return [
        Contender("in the caller", "[row(y) for y in range(height)]",
                  doing(contextlib.nullcontext, lambda _: [tasks.mandelbrot_row(y) for y in range(height)], 1, 1e3)),
        Contender(OURS, way, doing(peers.ours, with_map, 1, 1e3)),
        Contender("mp.Pool", way, doing(peers.mp_pool, with_map, 1, 1e3)),
        Contender("PPE", way, doing(peers.ppe, with_map, 1, 1e3)),
        Contender("loky", way, doing(peers.loky, with_map, 1, 1e3)),
        Contender("joblib", "parallel(delayed(row)(y) ...)", doing(peers.joblib, with_joblib, 1, 1e3)),
        Contender("mpire", way, doing(peers.mpire, with_map, 1, 1e3)),
        Contender("pebble", way, doing(peers.pebble, with_pebble, 1, 1e3)),
        Contender("ray", "ray.get([row.remote(y) ...])", doing(peers.ray, with_ray, 1, 1e3)),
    ]  # fmt: skip


def rows(*, quick: bool) -> list[Row]:
    return [
        Row("convolution", "image convolution (Ray, mpire): 128 MB image, a kernel per worker", "ms",
            convolution(1000 if quick else 4000), [Target("ray", 1.0), Target("joblib", 1.0)], n_rounds=5,
            needs=("numpy",), note="with --quick 8 MB"),
        Row("prefixes", "stateful prefix count (Ray)", "ms", prefix_count(4 if quick else 20, 5000), n_rounds=5,
            note="ray's actors keep the state where it is; the others' states travel with each task"),
        Row("model", "expensive initialisation per worker (mpire, Ray)", "ms", model(100), n_rounds=5,
            quick_rounds=1),
        Row("mandelbrot", "a Mandelbrot set, row by row: the middle rows take longest", "ms", mandelbrot(120),
            n_rounds=5, quick_rounds=1),
    ]  # fmt: skip
