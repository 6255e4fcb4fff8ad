"""Pools beside pools, pools in tasks, one pool under many threads, fairness among calls; names and statistics."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import conformance_tasks as tasks
import pytest
from conformance_harness import Engine, Gate, is_alive

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def parallel(engine: Engine) -> Engine:
    if engine.inline:
        pytest.skip("one slot, in the caller")
    return engine


# --- sharing


def run_in_threads(n: int, work: Callable[[int], None]) -> list[BaseException]:
    """Run ``work(0)`` ... ``work(n - 1)`` in threads that start together; what they raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(n)

    def run(i: int) -> None:
        try:
            barrier.wait(30)
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return errors


def test_eight_threads_submit_two_hundred_tasks_each(pool: Any) -> None:
    def work(i: int) -> None:
        futures = [pool.submit(tasks.add, i * 1_000, j) for j in range(200)]
        assert [future.result(30) for future in futures] == [i * 1_000 + j for j in range(200)]

    assert run_in_threads(8, work) == []


def test_eight_threads_ask_one_task_at_a_time(pool: Any) -> None:
    def work(i: int) -> None:
        for j in range(50):
            assert pool.submit(tasks.add, i, j).result(30) == i + j

    assert run_in_threads(8, work) == []


def test_threads_use_every_method_at_once(pool: Any) -> None:
    def work(i: int) -> None:
        expected = [j * j for j in range(i, i + 100)]
        numbers = range(i, i + 100)
        for _ in range(5):
            match i % 4:
                case 0:
                    assert pool.map(tasks.square, numbers) == expected
                case 1:
                    assert list(pool.imap(tasks.square, numbers)) == expected
                case 2:
                    assert sorted(pool.imap_unordered(tasks.square, numbers)) == expected
                case _:
                    assert [pool.apply(tasks.square, (j,)) for j in numbers] == expected

    assert run_in_threads(8, work) == []


def test_one_iterator_may_be_read_by_several_threads(pool: Any) -> None:
    results = pool.imap_unordered(tasks.square, range(2_000))
    lock = threading.Lock()
    seen: list[int] = []

    def work(_: int) -> None:
        for result in results:
            with lock:
                seen.append(result)

    assert run_in_threads(4, work) == []
    assert sorted(seen) == [i * i for i in range(2_000)]


def test_two_pools_work_side_by_side(new_pool: Callable[..., Any]) -> None:
    with new_pool() as one, new_pool() as other:
        pairs = [(one.submit(tasks.square, i), other.submit(tasks.add, i, 1)) for i in range(100)]
        assert [(a.result(30), b.result(30)) for a, b in pairs] == [(i * i, i + 1) for i in range(100)]
        assert list(zip(one.imap(abs, range(50)), other.imap(abs, range(50)), strict=True))[-1] == (49, 49)


def test_closing_one_pool_leaves_the_other_alone(new_pool: Callable[..., Any]) -> None:
    one, other = new_pool(), new_pool()
    other.submit(tasks.square, 1).result(30)
    one.terminate()
    one.join()
    assert other.map(tasks.square, range(20)) == [i * i for i in range(20)]


def test_a_task_may_open_a_pool_of_its_own(new_pool: Callable[..., Any], engine: Engine) -> None:
    nested = {"threads": 2} if engine.name == "interpreters" else engine.options
    with new_pool() as pool:
        results = pool.map(lambda items: tasks.nested_map(nested, items), [[1, 2], [3], []])
    assert results == [[1, 4], [9], []]


@pytest.mark.parametrize("nested", [{"threads": 2}, {"processes": 2}, {"processes": 0}], ids=str)
def test_a_task_may_open_a_pool_of_another_kind(nested: dict[str, Any], new_pool: Any, engine: Engine) -> None:
    if engine.name == "interpreters" and nested.get("processes"):
        pytest.skip("a sub-interpreter may not fork")
    with new_pool() as pool:
        assert pool.submit(tasks.nested_map, nested, [1, 2, 3]).result(50) == [1, 4, 9]


def test_pools_nest_three_deep(new_pool: Callable[..., Any], engine: Engine) -> None:
    nested = {"threads": 1} if engine.name == "interpreters" else engine.options
    with new_pool() as pool:
        assert pool.submit(tasks.nested_submit, nested, 2).result(50) == 3


# --- fairness


def test_short_tasks_do_not_wait_behind_a_long_one(parallel: Engine, new_pool: Callable[..., Any], gate: Gate) -> None:
    pool = new_pool()
    pool.map(tasks.square, range(100))
    long = pool.submit(tasks.pass_through, gate.turnstile, "long")
    short = [pool.submit(tasks.square, i) for i in range(500)]
    assert [future.result(30) for future in short] == [i * i for i in range(500)]
    assert not long.done()
    gate.permit()
    assert long.result(30) == "long"


def test_chunks_of_a_map_do_not_wait_behind_a_long_one(
    parallel: Engine, new_pool: Callable[..., Any], gate: Gate
) -> None:
    pool = new_pool()
    jobs = [(gate.turnstile, item) for item in [*range(1, 300), 0, *range(300, 600)]]
    results = pool.imap_unordered(tasks.first_waits, jobs, chunksize=1)  # no other item shares the long one's chunk
    early = list(itertools.islice(results, 599))
    assert sorted(early) == list(range(1, 600))
    gate.permit()
    assert list(results) == [0]


@pytest.mark.parametrize("method", ["map", "imap_unordered"])
def test_items_of_a_chunk_do_not_wait_behind_its_long_ones(
    parallel: Engine, new_pool: Callable[..., Any], method: str
) -> None:
    """After tiny items come 80 long ones in a row, which have to be in few chunks: all slots shall share them."""
    if parallel.name == "auto":
        pytest.skip("how many tasks run at once is its own choice")
    pool = new_pool()
    pool.map(tasks.square, range(100))
    places = list(getattr(pool, method)(tasks.place_of_one_that_may_be_long, range(1000)))
    long = collections.Counter(place for place in places if place is not None)
    assert long.total() == 80
    assert len(long) >= 2
    assert max(long.values()) <= 64, long


def test_what_was_given_back_of_a_chunk_does_not_run_when_its_map_has_failed(
    parallel: Engine, new_pool: Callable[..., Any]
) -> None:
    if parallel.name == "auto":
        pytest.skip("how many tasks run at once is its own choice")
    pool = new_pool()
    pool.map(tasks.square, range(100))
    with pytest.raises(ValueError, match="4020"):
        pool.map(tasks.fail_among_long, range(5060))
    n_before = pool.statistics().n_done
    assert pool.submit(tasks.square, 3).result() == 9
    assert pool.statistics().n_done - n_before <= 12


def test_a_later_submit_does_not_starve_behind_an_endless_map(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    results = pool.imap(tasks.square, itertools.count())
    next(results)
    future = pool.submit(tasks.add, 1, 2)
    assert any(future.done() for _ in itertools.islice(results, 100_000))
    assert future.result(0) == 3


def test_two_endless_maps_both_go_on(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    one, other = pool.imap(tasks.square, itertools.count()), pool.imap(abs, itertools.count())
    for i, (a, b) in enumerate(itertools.islice(zip(one, other, strict=False), 2_000)):
        assert (a, b) == (i * i, i)


# --- statistics and names


def test_statistics_count_tasks_done_and_failed(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    assert (pool.statistics().n_done, pool.statistics().n_failed, pool.statistics().n_in_flight) == (0, 0, 0)
    pool.map(tasks.square, range(100), chunksize=10)
    for i in range(10):
        pool.submit(tasks.square, i).result(30)
    pool.map(tasks.fail_on_negative, [1, -1, -2, 2, -3], on_error="return")
    now = pool.statistics()
    assert now.n_failed == 3
    assert now.n_done in (112, 115)  # 115 if the failed ones count as done, too
    assert now.n_in_flight == 0
    if now.workers:  # in the caller there may be none
        assert sum(worker.n_done for worker in now.workers) == now.n_done


def test_statistics_are_a_frozen_snapshot(pool: Any, fullcourt: ModuleType) -> None:
    before = pool.statistics()
    pool.map(tasks.square, range(10))
    after = pool.statistics()
    assert after.n_done >= before.n_done + 10
    assert isinstance(before.workers, tuple)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.n_done = 5
    for worker in after.workers:
        with pytest.raises(dataclasses.FrozenInstanceError):
            worker.n_done = 5


def test_statistics_never_go_back_and_are_never_negative(pool: Any) -> None:
    last = pool.statistics()
    for _ in range(20):
        pool.map(tasks.square, range(50))
        now = pool.statistics()
        assert now.n_done >= last.n_done + 50
        for name in ("n_done", "n_failed", "in_tasks_s", "pickling_s", "waiting_for_input_s"):
            assert getattr(now, name) >= getattr(last, name) >= 0
        for worker in now.workers:
            for name in ("busy_s", "waiting_s", "idle_s", "bytes_in", "bytes_out", "n_done"):
                assert getattr(worker, name) >= 0
        last = now


def test_statistics_name_the_worker_processes(new_pool: Callable[..., Any], engine: Engine) -> None:
    if not engine.forks:
        pytest.skip("for worker processes")
    pool = new_pool()
    pids = set(pool.map(tasks.worker_pid, range(200), chunksize=1))
    workers = pool.statistics().workers
    assert len(workers) == engine.n_processes
    assert pids <= {worker.pid for worker in workers}
    assert len({worker.pid for worker in workers}) == len(workers)
    assert all(is_alive(worker.pid) for worker in workers)
    assert sum(worker.bytes_in for worker in workers) > 0
    assert sum(worker.bytes_out for worker in workers) > 0


def test_statistics_see_what_is_in_flight(parallel: Engine, new_pool: Callable[..., Any], gate: Gate) -> None:
    pool = new_pool()
    futures = [pool.submit(tasks.pass_through, gate.turnstile, i) for i in range(parallel.n_slots + 5)]
    gate.wait_arrivals(parallel.n_slots)
    now = pool.statistics()
    assert (now.n_done, now.n_in_flight) == (0, parallel.n_slots + 5)
    gate.permit(parallel.n_slots + 5)
    assert [future.result(30) for future in futures] == list(range(parallel.n_slots + 5))
    now = pool.statistics()
    assert (now.n_done, now.n_in_flight) == (parallel.n_slots + 5, 0)


def test_statistics_may_be_asked_of_a_pool_that_has_ended(new_pool: Callable[..., Any]) -> None:
    with new_pool() as pool:
        pool.map(tasks.square, range(10))
    assert pool.statistics().n_done == 10


def test_a_pools_name_is_in_its_workers_names(new_pool: Callable[..., Any]) -> None:
    pool = new_pool(name="kitchen")
    pool.map(tasks.square, range(20))
    names = [worker.name for worker in pool.statistics().workers]
    assert len(set(names)) == len(names)
    assert all("kitchen" in name for name in names)
    assert "kitchen" in repr(pool)


def test_threads_carry_the_pools_name(new_pool: Callable[..., Any], engine: Engine) -> None:
    if engine.name != "threads":
        pytest.skip("for threads of this process")
    pool = new_pool(name="kitchen")
    assert "kitchen" in pool.submit(tasks.thread_name).result(30)


def test_pools_without_a_name_are_told_apart(parallel: Engine, new_pool: Callable[..., Any]) -> None:
    names = set()
    for pool in (new_pool(), new_pool()):
        pool.submit(tasks.square, 1).result(30)
        names |= {worker.name for worker in pool.statistics().workers}
    assert len(names) >= 2
