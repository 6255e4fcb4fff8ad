"""Tasks that use their own pool: their slots are lent, nothing hangs at any depth, and deaths cost what they must."""

from __future__ import annotations

import concurrent.futures
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import conformance_tasks as tasks
import nested_tasks
import pytest
from conformance_harness import Engine, Gate, is_alive

pytestmark = pytest.mark.timeout(120)

ONE_SLOT = {"processes": 1, "threads": 1, "interpreters": 1}


@pytest.fixture
def narrow(engine: Engine, new_pool: Callable[..., Any]) -> Any:
    """A pool of one worker: what waits there would hold up all else."""
    return new_pool(**{name: 1 for name in engine.options if name in ONE_SLOT and not engine.inline})


@pytest.fixture
def isolated(engine: Engine) -> Engine:
    if not engine.forks:
        pytest.skip("one process: a task that dies takes all with it")
    return engine


@pytest.fixture
def parallel(engine: Engine) -> Engine:
    if engine.inline:
        pytest.skip("one slot, in the caller")
    return engine


def slow_start(engine: Engine) -> bool:
    return engine.name in ("spawn", "interpreters")


# --- depth and breadth


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_tasks_wait_for_tasks_in_a_pool_of_one_worker(narrow: Any, depth: int) -> None:
    assert narrow.submit(nested_tasks.down, narrow, depth).result(60) == depth


def test_thirty_levels_wait_for_each_other(pool: Any, engine: Engine) -> None:
    depth = 5 if slow_start(engine) else 30
    assert pool.submit(nested_tasks.down, pool, depth).result(90) == depth


def test_a_recursive_function_calls_itself_through_the_pool(pool: Any, engine: Engine) -> None:
    n, expected = (5, 5) if slow_start(engine) else (10, 55)
    assert pool.submit(nested_tasks.fib, pool, n).result(90) == expected


def test_maps_in_maps_in_maps(pool: Any) -> None:
    expected = [sum(i * i for i in range(n)) for n in range(4)]
    assert pool.starmap(nested_tasks.table, [(pool, 4)] * 4) == [expected] * 4


def test_all_slots_wait_at_once(engine: Engine, parallel: Engine, pool: Any, gate: Gate) -> None:
    futures = [pool.submit(nested_tasks.meet, pool, gate.turnstile, i) for i in range(engine.n_slots)]
    gate.wait_arrivals(engine.n_slots)
    gate.permit(engine.n_slots)
    assert [future.result(60) for future in futures] == [i * i for i in range(engine.n_slots)]


def test_a_hundred_tasks_that_wait_start_few_workers(engine: Engine, pool: Any) -> None:
    """Nested tasks go first: else all hundred would begin, and wait, before the first of theirs runs."""
    assert pool.starmap(nested_tasks.sum_of_squares, [(pool, 3)] * 100) == [5] * 100
    if engine.forks:
        assert len(pool.statistics().workers) <= 8 * engine.n_processes


def test_results_of_a_lazy_map_inside_of_a_task(pool: Any) -> None:
    assert pool.apply(nested_tasks.lazily, (pool, 300)) == 2 * sum(i * i for i in range(300))


def test_an_endless_map_inside_of_a_task_is_left(pool: Any) -> None:
    assert pool.apply(nested_tasks.first_of, (pool, 5)) == [0, 1, 4, 9, 16]
    assert pool.apply(tasks.square, (3,)) == 9


def test_large_data_goes_through_both_ways(pool: Any) -> None:
    data = bytes(range(256)) * 2000
    assert pool.apply(nested_tasks.round_trip, (pool, data)) == data[::-1]


# --- ways to wait


def test_a_task_waits_in_an_event_loop(narrow: Any) -> None:
    assert narrow.submit(nested_tasks.gather_in_an_event_loop, narrow, 5).result(60) == 30


def test_a_task_takes_results_as_they_complete(narrow: Any) -> None:
    assert narrow.submit(nested_tasks.as_they_complete, narrow, 5).result(60) == 30


def test_a_task_waits_for_a_callback(narrow: Any) -> None:
    assert narrow.submit(nested_tasks.call_back, narrow, 5).result(60) == 30


def test_a_task_waits_for_a_thread_of_its_own_that_waits(engine: Engine, new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    if engine.isolated:
        assert pool.submit(nested_tasks.from_a_thread, pool, 5).result(60) == 30


def test_a_closure_takes_its_pool_along(pool: Any) -> None:
    def double_all(xs: list[int]) -> list[int]:
        return list(pool.map(lambda x: 2 * x, xs))

    assert pool.map(double_all, [[1], [2, 3]]) == [[2], [4, 6]]


# --- what tasks leave behind


def test_tasks_that_nobody_waits_for_run(new_pool: Callable[..., Any], tmp_path: Path) -> None:
    pool, path = new_pool(), tmp_path / "ran"
    path.touch()
    pool.submit(nested_tasks.leave_behind, pool, str(path), 50)
    pool.close()
    pool.join()
    assert sorted(path.read_text().split()) == sorted(map(str, range(50)))


def test_a_crawler_follows_all_pages(engine: Engine, new_pool: Callable[..., Any], tmp_path: Path) -> None:
    """Tasks submit others and end; the pool, closed meanwhile, ends when the last has ended."""
    pool, path = new_pool(), tmp_path / "pages"
    path.touch()
    pool.submit(nested_tasks.crawl, pool, str(path), 1)
    pool.close()
    pool.join()
    assert sorted(map(int, path.read_text().split())) == list(range(1, 64))


def test_a_task_submits_a_burst_and_ends(new_pool: Callable[..., Any], tmp_path: Path) -> None:
    pool, path = new_pool(), tmp_path / "numbers"
    pool.submit(nested_tasks.submit_many, pool, str(path), 100)
    pool.close()
    pool.join()
    assert sorted(map(int, path.read_text().split())) == list(range(100))


def test_running_tasks_may_still_use_a_pool_that_is_closed(pool: Any, new_pool: Callable[..., Any]) -> None:
    closing = new_pool()
    future = closing.submit(nested_tasks.down, closing, 3)
    closing.close()
    with pytest.raises(RuntimeError, match="closed"):
        closing.submit(tasks.square, 1)
    closing.join()
    assert future.result(0) == 3


def test_a_task_cancels_what_has_not_started(
    engine: Engine, parallel: Engine, new_pool: Callable[..., Any], gate: Gate
) -> None:
    pool = new_pool()
    n = 4 * engine.n_slots + 8
    n_cancelled, n_told = pool.submit(nested_tasks.cancel_what_waits, pool, gate.turnstile, n).result(60)
    assert n_cancelled == n_told
    assert n_cancelled >= n - 2 * engine.n_slots - 2
    assert n - n_cancelled <= len(gate.arrivals_so_far()) <= 2 * engine.n_slots + 2


def test_a_task_stops_one_that_it_asked_for(isolated: Engine, new_pool: Callable[..., Any], gate: Gate) -> None:
    pool = new_pool()
    assert pool.apply(nested_tasks.stop_what_runs, (pool, gate.turnstile)) == "cancelled"


def test_a_nested_task_has_its_own_time_limit_and_retries(isolated: Engine, new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    assert pool.apply(nested_tasks.limited, (pool,)) == ["TaskTimeout", "TaskTimeout", 9]


# --- failures


def test_an_exception_comes_up_through_the_levels_as_itself(pool: Any, engine: Engine) -> None:
    with pytest.raises(KeyError, match="at the bottom") as caught:
        pool.apply(nested_tasks.fail_below, (pool, 3))
    notes = "\n".join(caught.value.__notes__)
    assert "raise_it" in notes or "fail_below" in notes
    if engine.isolated:
        assert "raise_it" in str(caught.value.__cause__)


def test_a_task_handles_the_failure_of_its_task(pool: Any) -> None:
    assert pool.apply(nested_tasks.rescue, (pool,)) == "rescued at the bottom"


def test_failures_stand_among_nested_results(pool: Any) -> None:
    assert pool.apply(nested_tasks.failures, (pool,)) == ["int", "ValueError", "int"]


def test_the_death_of_a_nested_task_is_its_waiters_to_handle(isolated: Engine, narrow: Any) -> None:
    assert narrow.apply(nested_tasks.survive_a_death, (narrow,)) == "WorkerDied in another process: True"
    assert narrow.apply(tasks.square, (3,)) == 9


def test_deaths_in_a_nested_map_cost_only_those_items(isolated: Engine, narrow: Any) -> None:
    expected = ["WorkerDied" if i % 5 == 0 else i for i in range(12)]
    assert narrow.apply(nested_tasks.deaths_in_a_map, (narrow, 12)) == expected


def test_what_a_dead_task_asked_for_and_has_not_started_does_not_start(
    isolated: Engine, fullcourt: ModuleType, new_pool: Callable[..., Any], gate: Gate
) -> None:
    import os
    import signal

    pool = new_pool()
    future = pool.submit(nested_tasks.die_while_waiting, pool, gate.turnstile)
    n_running = isolated.n_slots
    arrived = gate.wait_arrivals(n_running + 1)
    (pid,) = [int(line.split()[1]) for line in arrived if line.startswith("pid")]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(fullcourt.WorkerDied, match="die_while_waiting"):
        future.result(60)
    gate.permit(1000)
    pool.close()
    pool.join()
    assert len(gate.arrivals_so_far()) <= 2 * n_running + 1 < 9 or isolated.n_slots > 2


def test_terminating_a_pool_ends_tasks_that_wait(
    engine: Engine, parallel: Engine, new_pool: Callable[..., Any], gate: Gate
) -> None:
    pool = new_pool()
    futures = [pool.submit(nested_tasks.wait_for_one_that_waits, pool, gate.turnstile, i) for i in range(3)]
    gate.wait_arrivals(1)
    pool.terminate()
    gate.release()
    pool.join()
    assert all(isinstance(failure_of(future), concurrent.futures.CancelledError) for future in futures)


def failure_of(future: Any) -> BaseException | None:
    try:
        return future.exception(10)  # type: ignore[no-any-return]
    except BaseException as error:
        return error


def test_a_worker_that_is_recycled_after_each_task_may_wait(isolated: Engine, new_pool: Callable[..., Any]) -> None:
    pool = new_pool(max_tasks_per_child=1)
    assert pool.starmap(nested_tasks.sum_of_squares, [(pool, 3)] * 4) == [5] * 4


# --- the pool itself


def test_a_pool_comes_back_as_itself(pool: Any) -> None:
    assert pool.apply(nested_tasks.itself, (pool,)) is pool


def test_a_task_cannot_end_its_pool(engine: Engine, new_pool: Callable[..., Any]) -> None:
    if engine.isolated:
        pool = new_pool()
        assert pool.apply(nested_tasks.ways_to_end, (pool,)) == ["NotSupported", "NotSupported", "ValueError"]


def test_a_task_that_joins_its_pool_is_told_that_it_would_wait_for_itself(
    engine: Engine, fullcourt: ModuleType, new_pool: Callable[..., Any]
) -> None:
    if engine.isolated:
        pytest.skip("it cannot even close it")
    pool = new_pool()

    def end() -> None:
        pool.close()
        pool.join()

    with pytest.raises(fullcourt.NotSupported, match="wait for itself"):
        pool.submit(end).result(30)
    pool.join()


def test_a_callback_that_joins_its_pool_does_not_hang(engine: Engine, new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    gate = threading.Event()
    called = threading.Event()

    def end(_: object) -> None:
        pool.close()
        try:
            pool.join()
        finally:
            called.set()

    if engine.inline:
        gate.set()
    future = pool.submit(tasks.square, 3) if engine.isolated else pool.submit(gate.wait, 30)
    future.add_done_callback(end)
    gate.set()
    assert called.wait(30)
    pool.join()


def test_another_pools_task_is_told_that_it_cannot_use_this_one(
    engine: Engine, fullcourt: ModuleType, new_pool: Callable[..., Any]
) -> None:
    if engine.isolated:
        pool, other = new_pool(), new_pool()
        with pytest.raises(fullcourt.PoolClosed, match="its own tasks|belongs to process"):
            other.apply(nested_tasks.down, (pool, 1))


def test_an_initializer_cannot_use_the_pool(
    engine: Engine, fullcourt: ModuleType, new_pool: Callable[..., Any]
) -> None:
    if engine.isolated:
        pool = new_pool()
        with pytest.raises(fullcourt.PoolClosed, match=r"initializer|none of its workers"):
            new_pool(initializer=nested_tasks.down, initargs=(pool, 1)).apply(tasks.square, (1,))


@pytest.mark.skipif(sys.platform != "linux", reason="fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_process_that_a_task_forks_cannot_use_the_pool(engine: Engine, pool: Any) -> None:
    if engine.name == "fork":
        assert pool.apply(nested_tasks.use_after_a_fork, (pool,)) == "PoolClosed"


def test_no_worker_stays_that_served_for_others(isolated: Engine, new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    pids = pool.apply(nested_tasks.pids_at_work, (pool, 4))
    pool.close()
    pool.join()
    assert not [pid for pid in set(pids) if is_alive(pid)]


def test_a_pickled_pool_says_where_it_can_be_used(fullcourt: ModuleType) -> None:
    with fullcourt.Pool(processes=0) as pool:
        data = pickle.dumps(pool)
        assert pickle.loads(data) is pool
    key = vars(pool)["_key"]
    stranger = pickle.loads(data.replace(key.encode(), bytes(reversed(key.encode()))))
    with pytest.raises(fullcourt.PoolClosed, match="none of its workers"):
        stranger.apply(tasks.square, (1,))


# --- the portable transport


@pytest.fixture
def portable(monkeypatch: pytest.MonkeyPatch, fullcourt: ModuleType) -> Iterator[Any]:
    monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable")
    with fullcourt.Pool(1) as pool:
        monkeypatch.delenv("FULLCOURT_TRANSPORT")
        yield pool


def test_nested_tasks_go_over_the_portable_transport(portable: Any) -> None:
    assert portable.apply(nested_tasks.down, (portable, 4)) == 4
    assert portable.apply(nested_tasks.table, (portable, 4)) == [0, 0, 1, 5]
    assert portable.apply(nested_tasks.rescue, (portable,)) == "rescued at the bottom"
    data = bytes(range(256)) * 2000
    assert portable.apply(nested_tasks.round_trip, (portable, data)) == data[::-1]


def test_deaths_over_the_portable_transport_cost_only_those_items(portable: Any) -> None:
    expected = ["WorkerDied" if i % 5 == 0 else i for i in range(7)]
    assert portable.apply(nested_tasks.deaths_in_a_map, (portable, 7)) == expected
