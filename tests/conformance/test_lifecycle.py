"""How pools begin and end: initializers, recycling, close, join, terminate, ``with``."""

from __future__ import annotations

import concurrent.futures as cf
import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import conformance_tasks as tasks
import pytest
from conformance_harness import Engine, Gate, descendant_pids, is_alive

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def parallel(engine: Engine) -> Engine:
    if engine.inline:
        pytest.skip("in the caller no task can be waiting")
    if engine.name == "auto":
        pytest.skip("how many tasks run at once is its own choice")
    return engine


@pytest.fixture
def forking(engine: Engine) -> Engine:
    if not engine.forks:
        pytest.skip("for worker processes")
    return engine


def worker_pids(pool: Any) -> list[int]:
    return [worker.pid for worker in pool.statistics().workers]


# --- with, close, join, terminate


def test_with_waits_for_what_was_submitted(new_pool: Callable[..., Any]) -> None:
    with new_pool() as pool:
        futures = [pool.submit(tasks.square, i) for i in range(200)]
        mapped = pool.map_async(tasks.square, range(200))
    assert all(future.done() for future in [*futures, mapped])
    assert [future.result(0) for future in futures] == mapped.get(0) == [i * i for i in range(200)]


def test_with_gives_the_pool_itself(new_pool: Callable[..., Any]) -> None:
    made = new_pool()
    with made as pool:
        assert pool is made


def test_an_unused_pool_ends_at_once(new_pool: Callable[..., Any]) -> None:
    with new_pool():
        pass
    pool = new_pool()
    pool.close()
    pool.join()
    pool = new_pool()
    pool.terminate()
    pool.join()


def test_a_raising_body_is_not_swallowed(new_pool: Callable[..., Any]) -> None:
    with pytest.raises(ZeroDivisionError, match="the body"), new_pool() as pool:
        pool.submit(tasks.square, 1)
        raise ZeroDivisionError("the body")


def test_a_raising_body_cancels_what_waits(
    parallel: Engine, new_pool: Callable[..., Any], gate: Gate, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    journal.touch()
    with pytest.raises(ZeroDivisionError, match="the body"), new_pool() as pool:
        running = [pool.submit(tasks.pass_through, gate.turnstile, i) for i in range(parallel.n_slots)]
        gate.wait_arrivals(parallel.n_slots)
        waiting = [pool.submit(tasks.record, str(journal), i) for i in range(20)]
        if not parallel.forks:  # a thread cannot be stopped: its task goes on once the rest is cancelled
            waiting[-1].add_done_callback(lambda _: gate.permit(parallel.n_slots))
        raise ZeroDivisionError("the body")
    assert all(future.done() for future in running + waiting)
    assert all(future.cancelled() for future in waiting)
    assert journal.read_text() == ""


def test_a_raising_body_stops_the_workers(forking: Engine, new_pool: Callable[..., Any], gate: Gate) -> None:
    before = descendant_pids()
    with pytest.raises(ZeroDivisionError, match="the body"), new_pool() as pool:
        running = [pool.submit(tasks.pass_through, gate.turnstile, i) for i in range(forking.n_slots)]
        gate.wait_arrivals(forking.n_slots)
        assert descendant_pids() - before
        raise ZeroDivisionError("the body")
    assert descendant_pids() - before == set()
    for future in running:
        assert future.done()
        assert future.cancelled() or future.exception() is not None


def test_after_close_nothing_may_be_submitted_and_what_was_is_done(
    new_pool: Callable[..., Any], fullcourt: ModuleType
) -> None:
    pool = new_pool()
    futures = [pool.submit(tasks.square, i) for i in range(50)]
    pool.close()
    for call in (
        lambda: pool.submit(tasks.square, 1),
        lambda: pool.apply(tasks.square, (1,)),
        lambda: pool.apply_async(tasks.square, (1,)),
        lambda: pool.map(tasks.square, [1]),
        lambda: pool.map_async(tasks.square, [1]),
        lambda: pool.starmap(tasks.square, [(1,)]),
        lambda: pool.starmap_async(tasks.square, [(1,)]),
        lambda: pool.imap(tasks.square, [1]),
        lambda: pool.imap_unordered(tasks.square, [1]),
    ):
        with pytest.raises(fullcourt.errors.PoolClosed):
            call()
    pool.join()
    assert [future.result(0) for future in futures] == [i * i for i in range(50)]


def test_after_with_nothing_may_be_submitted(new_pool: Callable[..., Any], fullcourt: ModuleType) -> None:
    with new_pool() as pool:
        pool.apply(tasks.square, (1,))
    with pytest.raises(fullcourt.errors.PoolClosed):
        pool.submit(tasks.square, 1)
    with pytest.raises(fullcourt.errors.PoolClosed):
        pool.__enter__()


def test_close_does_not_wait_and_join_does(parallel: Engine, new_pool: Callable[..., Any], gate: Gate) -> None:
    pool = new_pool()
    future = pool.submit(tasks.pass_through, gate.turnstile, 1)
    gate.wait_arrivals(1)
    pool.close()
    assert not future.done()
    gate.permit()
    pool.join()
    assert future.result(0) == 1


def test_results_of_a_closed_pool_come_though_nobody_joins(
    parallel: Engine, new_pool: Callable[..., Any], gate: Gate
) -> None:
    pool = new_pool()
    future = pool.submit(tasks.pass_through, gate.turnstile, 1)
    results = pool.imap(tasks.square, range(100))
    pool.close()
    gate.permit()
    assert future.result(30) == 1
    assert list(results) == [i * i for i in range(100)]


def test_a_pool_is_an_executor_and_can_be_shut_down_as_one(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    assert isinstance(pool, cf.Executor)
    futures = [pool.submit(tasks.square, n) for n in range(5)]
    pool.shutdown()
    assert [future.result(0) for future in futures] == [n * n for n in range(5)]
    pool.shutdown(wait=False)


def test_shutdown_cancels_what_has_not_begun_if_asked(
    parallel: Engine, new_pool: Callable[..., Any], gate: Gate
) -> None:
    pool = new_pool()
    runs = [pool.submit(tasks.pass_through, gate.turnstile, n) for n in range(pool._max_workers)]
    gate.wait_arrivals(len(runs))
    waits = [pool.submit(tasks.square, n) for n in range(50)]
    pool.shutdown(wait=False, cancel_futures=True)
    # What a free slot would begin at once, or another thread hands to a worker at this moment, may run.
    assert sum(future.cancelled() for future in waits) >= 40
    gate.release()
    assert [future.result(30) for future in runs] == list(range(len(runs)))
    pool.shutdown()


def test_join_before_close_is_an_error_as_in_the_standard_library(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    with pytest.raises(ValueError, match=r"\S"):
        pool.join()
    assert pool.apply(tasks.square, (2,)) == 4


def test_ends_may_be_said_twice_and_in_any_order(new_pool: Callable[..., Any]) -> None:
    for ends in (
        ["close", "close", "join", "join"],
        ["close", "join", "terminate", "join", "close"],
        ["terminate", "terminate", "join", "close", "join"],
        ["close", "terminate", "join"],
    ):
        pool = new_pool()
        assert pool.apply(tasks.square, (3,)) == 9
        for end in ends:
            getattr(pool, end)()


def test_terminate_ends_every_future(parallel: Engine, new_pool: Callable[..., Any], gate: Gate) -> None:
    pool = new_pool()
    running = [pool.submit(tasks.pass_through, gate.turnstile, i) for i in range(parallel.n_slots)]
    gate.wait_arrivals(parallel.n_slots)
    waiting = [pool.submit(tasks.square, i) for i in range(100)]
    mapped = pool.map_async(tasks.square, range(100))
    if not parallel.forks:
        waiting[-1].add_done_callback(lambda _: gate.permit(parallel.n_slots))
    pool.terminate()
    pool.join()
    _done, not_done = cf.wait([*running, *waiting, mapped], timeout=30)
    assert not not_done
    assert all(future.cancelled() for future in waiting)
    for future in [*running, mapped]:
        assert future.cancelled() or not parallel.forks or future.exception() is not None


def test_terminate_ends_an_iterator(parallel: Engine, new_pool: Callable[..., Any], gate: Gate) -> None:
    pool = new_pool()
    jobs = [(gate.turnstile, item) for item in range(10)]
    results = pool.imap(tasks.first_waits, jobs, 1)
    gate.wait_arrivals(1)
    if not parallel.forks:
        gate.permit()
    pool.terminate()
    pool.join()
    ended: list[BaseException | int] = []
    try:
        ended.extend(results)
    except (cf.CancelledError, Exception) as error:
        ended.append(error)
    assert ended == list(range(10)) or isinstance(ended[-1], (cf.CancelledError, Exception))


def test_a_thread_that_waits_for_a_result_is_woken_by_terminate(
    forking: Engine, new_pool: Callable[..., Any], gate: Gate
) -> None:
    pool = new_pool()
    woken: list[BaseException] = []

    def wait() -> None:
        try:
            pool.map(tasks.first_waits, [(gate.turnstile, item) for item in range(10)])
        except (cf.CancelledError, Exception) as error:
            woken.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    gate.wait_arrivals(1)
    pool.terminate()
    waiter.join(30)
    assert not waiter.is_alive()
    assert len(woken) == 1
    pool.join()


def test_after_join_the_workers_are_gone(forking: Engine, new_pool: Callable[..., Any]) -> None:
    before = descendant_pids()
    pool = new_pool()
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]
    pids = worker_pids(pool)
    assert all(is_alive(pid) for pid in pids)
    pool.close()
    pool.join()
    assert not any(is_alive(pid) for pid in pids)
    assert descendant_pids() - before == set()


def test_a_forgotten_pool_is_collected_and_takes_its_workers_along(forking: Engine, fullcourt: ModuleType) -> None:
    pool = fullcourt.Pool(**forking.options)
    pool.map(tasks.square, range(10))
    pids = worker_pids(pool)
    sentinels = [os.pidfd_open(pid) for pid in pids]
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    if gone() is not None:
        for fd in sentinels:
            os.close(fd)
        pytest.fail("something still holds the forgotten pool")
    import select

    for fd in sentinels:
        assert select.select([fd], [], [], 30)[0], "a worker of a forgotten pool lives on"
        os.close(fd)


SCRIPT = """
import fullcourt

offset = 1

class Point:
    def __init__(self, x):
        self.x = x

def move(point):
    return Point(point.x + offset)

pool = fullcourt.Pool(**{options!r})
print([point.x for point in pool.map(move, [Point(1), Point(2)])])
print(pool.map(lambda x: x + offset, range(3)))
print(pool.submit(move, Point(5)).result().x, flush=True)
"""


@pytest.mark.parametrize("kind", ["file", "command", "stdin"])
def test_a_program_without_guard_and_without_close_works_and_ends(kind: str, engine: Engine, tmp_path: Path) -> None:
    program = SCRIPT.format(options=engine.options)
    command, text = [sys.executable, "-W", "error"], None
    if kind == "file":
        path = tmp_path / "program.py"
        path.write_text(program)
        command.append(str(path))
    elif kind == "command":
        command += ["-c", program]
    else:
        command.append("-")
        text = program
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("[2, 3]\n[1, 2, 3]\n6\n", "", 0)


# --- initializer


def test_the_initializer_has_run_before_any_task(new_pool: Callable[..., Any]) -> None:
    with new_pool(initializer=tasks.initialize, initargs=("colour", ["blue"])) as pool:
        assert pool.map(tasks.read_setting, ["colour"] * 50) == [["blue"]] * 50


def test_the_initializer_may_be_a_lambda(new_pool: Callable[..., Any], tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with new_pool(initializer=lambda path: tasks.append_line(path, "ready"), initargs=(str(journal),)) as pool:
        pool.map(tasks.square, range(20))
    assert set(journal.read_text().split()) == {"ready"}


def test_a_failing_initializer_fails_the_pool_once_with_its_error(
    new_pool: Callable[..., Any], engine: Engine, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with pytest.raises(ValueError, match="the initializer cannot work here"):
        pool = new_pool(initializer=tasks.failing_initializer, initargs=(str(journal),))
        futures = [pool.submit(tasks.square, i) for i in range(8)]
        cf.wait(futures, timeout=30)
        assert all(future.done() for future in futures)
        for future in futures:
            future.result(0)
    n_runs = len(journal.read_text().split())
    assert 1 <= n_runs <= max(1, engine.n_slots), f"the initializer ran {n_runs} times"


def test_after_its_initializer_failed_a_pool_refuses_work_and_ends(
    new_pool: Callable[..., Any], engine: Engine, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    try:
        pool = new_pool(initializer=tasks.failing_initializer, initargs=(str(journal),))
    except ValueError:
        return  # it may as well be told at once
    with pytest.raises(ValueError, match="the initializer cannot work here"):
        pool.map(tasks.square, range(100))
    with pytest.raises(Exception, match=r"\S"):
        pool.submit(tasks.square, 1).result(30)
    pool.close()
    pool.join()
    assert len(journal.read_text().split()) <= max(1, engine.n_slots)


# --- recycling


@pytest.mark.parametrize("chunksize", [None, 1, 5, 24])
def test_workers_are_replaced_after_so_many_tasks_not_chunks(
    chunksize: int | None, forking: Engine, new_pool: Callable[..., Any]
) -> None:
    pool = new_pool(max_tasks_per_child=4)
    pids = pool.map(tasks.worker_pid, range(24), chunksize)
    per_worker = Counter(pids)
    assert max(per_worker.values()) <= 4
    assert len(per_worker) >= 6
    pool.close()
    pool.join()


def test_a_worker_for_each_task_never_stalls(forking: Engine, new_pool: Callable[..., Any]) -> None:
    n_tasks = 10 if "spawn" in str(forking.options) else 60
    pool = new_pool(max_tasks_per_child=1)
    pids = [future.result(60) for future in [pool.submit(tasks.worker_pid) for _ in range(n_tasks)]]
    assert len(set(pids)) == n_tasks
    pool.close()
    pool.join()


def test_a_replaced_worker_is_initialized_too(forking: Engine, new_pool: Callable[..., Any]) -> None:
    pool = new_pool(max_tasks_per_child=2, initializer=tasks.initialize, initargs=("colour", "blue"))
    assert pool.map(tasks.read_setting, ["colour"] * 10) == ["blue"] * 10


def test_a_closed_pool_that_is_entered_goes_on_with_what_it_has(new_pool: Callable[..., Any], fullcourt: Any) -> None:
    pool = new_pool()
    futures = [pool.submit(time.sleep, 0.05) for _ in range(3)]
    pool.close()
    with pytest.raises(fullcourt.PoolClosed), pool:
        pass
    assert [future.result(30) for future in futures] == [None] * 3
    pool.join()
