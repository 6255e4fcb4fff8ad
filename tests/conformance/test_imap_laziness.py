"""`imap` and `imap_unordered` take from their input no more than a bounded number of items ahead of their consumer."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import conformance_tasks as tasks
import pytest
from conformance_harness import Engine

pytestmark = [pytest.mark.timeout(60), pytest.mark.parametrize("method", ["imap", "imap_unordered"])]

TIMEOUTS = (TimeoutError, multiprocessing.TimeoutError)


class Endless:
    """Counts how many items were taken from it, and whether it was closed."""

    def __init__(self) -> None:
        self.n_taken = 0
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[int]:
        try:
            for item in itertools.count():
                self.n_taken = item + 1
                yield item
        finally:
            self.closed.set()


def test_an_endless_input_gives_its_first_results(method: str, pool: Any) -> None:
    results = getattr(pool, method)(tasks.square, itertools.count())
    first = list(itertools.islice(results, 5_000))
    assert len(set(first)) == 5_000
    if method == "imap":
        assert first == [i * i for i in range(5_000)]


def test_the_input_is_read_only_a_little_ahead_of_the_consumer(method: str, pool: Any) -> None:
    source = Endless()
    results = getattr(pool, method)(tasks.square, iter(source), 1)
    next(results)
    assert source.n_taken <= 1_000
    list(itertools.islice(results, 2_000))
    assert source.n_taken <= 3_000
    for i in range(200):  # the pool turns over and the consumer stands still
        assert pool.submit(tasks.square, i).result(30) == i * i
    assert source.n_taken <= 3_000


def test_found_batch_sizes_are_bounded_too(method: str, pool: Any) -> None:
    source = Endless()
    results = getattr(pool, method)(tasks.square, iter(source))
    list(itertools.islice(results, 10_000))
    assert source.n_taken <= 10_000 + 50_000


def test_nothing_runs_ahead_of_a_consumer_that_never_comes(method: str, pool: Any) -> None:
    source = Endless()
    results = getattr(pool, method)(tasks.square, iter(source), 1)
    for i in range(200):
        assert pool.submit(tasks.square, i).result(30) == i * i
    assert source.n_taken <= 1_000
    del results


def test_an_input_that_raises_half_way_gives_what_came_before_it(method: str, pool: Any) -> None:
    def broken() -> Iterator[int]:
        yield from range(10)
        raise RuntimeError("the input broke")

    results = getattr(pool, method)(tasks.square, broken(), 1)
    seen = []
    with pytest.raises(RuntimeError, match="the input broke"):
        for result in results:
            seen.append(result)  # noqa: PERF402
    assert sorted(seen) == [i * i for i in range(10)]
    assert next(results, "the end") == "the end"
    assert pool.apply(tasks.square, (4,)) == 16


def test_an_input_that_raises_at_once(method: str, pool: Any) -> None:
    def broken() -> Iterator[int]:
        raise RuntimeError("the input never began")
        yield

    with pytest.raises(RuntimeError, match="the input never began"):
        list(getattr(pool, method)(tasks.square, broken()))


def wait_awake(event: threading.Event, timeout_s: float) -> bool:
    """Wait, and run some Python now and then: on free-threaded Python, what another thread lets go of is destroyed by
    the thread that made it, when that next does."""
    end = time.monotonic() + timeout_s
    while not event.wait(0.05) and time.monotonic() < end:
        pass
    return event.is_set()


class NotIterated(list[int]):
    """A list that is read at once, by its own `__iter__`."""

    def __iter__(self) -> Iterator[int]:
        raise KeyboardInterrupt("not now")


def test_a_list_that_cannot_be_iterated_leaves_nothing_open(method: str, new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    with pytest.raises(KeyboardInterrupt):
        getattr(pool, method)(tasks.square, NotIterated([1]))
    pool.close()
    assert pool._driver.ended.wait(30)
    pool.join()


def test_an_abandoned_iterator_closes_its_input_and_the_pool_goes_on(method: str, new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    source = Endless()
    results = getattr(pool, method)(tasks.square, iter(source))
    assert next(results) in {i * i for i in range(100_000)}
    del results
    gc.collect()
    assert wait_awake(source.closed, 30)
    assert pool.map(tasks.square, range(100)) == [i * i for i in range(100)]
    pool.close()
    pool.join()


def test_leaving_a_loop_over_an_endless_input_leaves_with_too(method: str, new_pool: Callable[..., Any]) -> None:
    source = Endless()
    with new_pool() as pool:
        for n_seen, _ in enumerate(getattr(pool, method)(tasks.square, iter(source), 1)):
            if n_seen == 100:
                break
    assert source.n_taken <= 1_100
    assert wait_awake(source.closed, 30)  # by the thread that reads it, soon


def test_results_may_be_read_after_join_as_in_the_standard_library(method: str, new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    results = getattr(pool, method)(tasks.square, iter(range(2_000)))
    pool.close()
    pool.join()
    assert sorted(results) == [i * i for i in range(2_000)]


def test_the_result_is_an_iterator_with_next(method: str, pool: Any) -> None:
    results = getattr(pool, method)(tasks.square, [1, 2])
    assert iter(results) is results
    assert {results.next(), results.next(timeout=30)} == {1, 4}
    with pytest.raises(StopIteration):
        results.next()
    with pytest.raises(StopIteration):
        next(results)


def test_next_with_a_timeout_loses_nothing(
    method: str, new_pool: Callable[..., Any], gate: Any, engine: Engine
) -> None:
    if engine.inline:
        pytest.skip("in the caller there is nobody who could stop waiting")
    pool = new_pool()
    jobs = [(gate.turnstile, item) for item in range(3)]
    results = getattr(pool, method)(tasks.first_waits, jobs, 1)
    first: list[Any] = []
    if method == "imap_unordered":
        first = [results.next(30), results.next(30)]
    with pytest.raises(TIMEOUTS):
        results.next(timeout=0.01)
    with pytest.raises(TIMEOUTS):
        results.next(0)
    gate.permit()
    assert sorted([*first, *results]) == [0, 1, 2]


def test_two_iterators_may_be_read_in_turn(method: str, pool: Any) -> None:
    one = getattr(pool, method)(tasks.square, range(100))
    other = getattr(pool, method)(abs, range(-100, 0))
    pairs = list(zip(one, other, strict=True))
    assert sorted(a for a, _ in pairs) == [i * i for i in range(100)]
    assert sorted(b for _, b in pairs) == list(range(1, 101))


def test_iterators_left_half_read_do_not_block_other_calls(method: str, pool: Any) -> None:
    half_read = [getattr(pool, method)(tasks.square, itertools.count()) for _ in range(10)]
    for results in half_read:
        next(results)
    assert pool.map(tasks.square, range(50)) == [i * i for i in range(50)]
    assert pool.submit(tasks.square, 9).result(30) == 81


def test_the_input_may_use_the_pool_itself(method: str, pool: Any) -> None:
    def source() -> Iterator[int]:
        for i in range(20):
            yield pool.submit(tasks.square, i).result(30)

    assert sorted(getattr(pool, method)(tasks.square, source(), 1)) == [i**4 for i in range(20)]


def test_closing_an_iterator_ends_it_for_every_thread_that_reads_it(
    method: str, new_pool: Callable[..., Any], gate: Any, engine: Engine
) -> None:
    if engine.inline:
        pytest.skip("in the caller there is nobody who could stop waiting")
    results = getattr(new_pool(), method)(tasks.first_waits, [(gate.turnstile, 0)])
    found: list[list[int]] = []
    threads = [threading.Thread(target=lambda: found.append(list(results))) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(results._job.waiting) < 2:
        threading.Event().wait(0.001)
    results.close()
    for thread in threads:
        thread.join(30)
    assert found == [[], []]


def test_a_stream_whose_pool_is_terminated_does_not_end_as_if_all_were_done(
    method: str, new_pool: Callable[..., Any], engine: Engine, fullcourt: Any
) -> None:
    if engine.inline:
        pytest.skip("in the caller each result is there when it is asked for")
    for _ in range(5):
        pool = new_pool()
        results = getattr(pool, method)(tasks.square, (i for i in itertools.count()))
        next(results)
        ender = threading.Timer(0.01, pool.terminate)
        ender.start()
        with pytest.raises((fullcourt.TaskCancelled, fullcourt.PoolClosed)):
            for _ in results:
                pass
        ender.join()
        pool.join()
