"""Queues, pipes, locks, shared arrays, broadcasts, worker state and pipelines, used together."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from collections import Counter
from typing import Any

import pytest
import together_tasks as tasks
from endpoints import PROCESS_KINDS, QUICK_KINDS, endpoint

import fullcourt
from fullcourt import OwnerDied, Stage

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="queues need Linux")

T = 60.0
POOLS: list[dict[str, Any]] = [
    {"processes": 2, "start_method": "fork"},
    {"processes": 1, "threads": 2},
    {"processes": 0, "threads": 2},
]
if sys.version_info >= (3, 14):
    POOLS.append({"interpreters": 2})
LOCKS: list[Any] = [fullcourt.Lock, fullcourt.RLock, fullcourt.Semaphore, fullcourt.BoundedSemaphore]


@pytest.fixture(params=POOLS, ids=str)
def pool(request: pytest.FixtureRequest) -> Any:
    with fullcourt.Pool(**request.param) as opened:
        yield opened


@pytest.mark.parametrize("make", [*LOCKS, fullcourt.Condition])
def test_a_broadcast_lock_lets_one_task_in_at_a_time(pool: Any, make: Any) -> None:
    shared, cell = pool.broadcast(make()), fullcourt.Queue(1)
    cell.put(0)
    pool.starmap(tasks.add_under_lock, [(shared, cell)] * 40, chunksize=1)
    assert cell.get(timeout=0) == 40


@pytest.mark.faults
@pytest.mark.parametrize("make", LOCKS)
def test_a_lock_whose_holder_was_killed_by_its_timeout_goes_to_the_next_who_is_told(make: Any) -> None:
    lock, held = make(), fullcourt.Queue()
    with fullcourt.Pool(1, start_method="fork") as pool:
        task = pool.options(timeout=0.2, grace=0.1).submit(tasks.hold_for_ever, lock, held)
        pid = held.get(timeout=T)
        with pytest.raises(OwnerDied, match=str(pid)):
            lock.acquire(timeout=T)
        assert isinstance(task.exception(T), fullcourt.TaskTimeout)
        lock.release()
        assert lock.acquire(block=False)
        lock.release()


@pytest.mark.parametrize("make", LOCKS)
def test_a_lock_is_given_back_when_the_exception_of_a_timeout_ends_its_holder(make: Any) -> None:
    lock, held = make(), fullcourt.Queue()
    with fullcourt.Pool(1, start_method="fork") as pool:
        pid = pool.apply(os.getpid)
        task = pool.options(timeout=0.2, grace=30).submit(tasks.hold_and_sleep, lock, held)
        assert held.get(timeout=T) == pid
        assert lock.acquire(timeout=T)  # and OwnerDied is not raised: the worker lives
        lock.release()
        assert isinstance(task.exception(T), fullcourt.TaskTimeout)
        assert pool.apply(os.getpid) == pid


@pytest.mark.faults
@pytest.mark.parametrize("maxsize", [0, 1, 50])
def test_consumers_come_to_the_end_when_producers_are_killed_at_any_moment(maxsize: int) -> None:
    context = multiprocessing.get_context("fork")
    items, out = fullcourt.Queue(maxsize), fullcourt.Queue()
    producers = [context.Process(target=tasks.put_for_ever, args=(items, name)) for name in range(3)]
    consumers = [context.Process(target=tasks.take_all, args=(items, out)) for _ in range(2)]
    for process in producers + consumers:
        process.start()
    mine = [items.get(timeout=T) for _ in range(random.randint(1, 200))]
    items.close()
    for process in producers:
        os.kill(process.pid or 0, signal.SIGKILL)
    for process in producers + consumers:
        process.join(T)
        assert process.exitcode is not None, "it hangs"
        process.close()
    assert [out.get(timeout=0)[0] for _ in consumers] == [True, True]
    assert max(Counter(mine).values()) == 1


@pytest.mark.parametrize("kind", QUICK_KINDS)
def test_an_end_of_a_pipe_goes_through_a_queue(kind: str) -> None:
    ends: Any = fullcourt.Queue()
    with endpoint(kind) as other:
        here, there = fullcourt.Pipe()  # not before: a pool that is forked from this process would hold its ends, too
        other.start(tasks.answer_through, ends)
        ends.put(there)
        there.close()
        here.send("here")
        assert here.recv() == ("from", "here")
        with pytest.raises(EOFError):  # its only other end was over there
            here.recv()
    here.close()


@pytest.mark.parametrize("kind", [kind for kind in QUICK_KINDS if kind != "pool-interpreters"])  # NumPy is in one only
def test_a_shared_array_goes_through_queues_and_stays_one(kind: str) -> None:
    pytest.importorskip("numpy")
    array = fullcourt.empty(1000, int)
    arrays: Any = fullcourt.Queue()
    done: Any = fullcourt.Queue()
    with endpoint(kind) as there:
        there.start(tasks.add_one_in_place, arrays, done)
        arrays.put(array)
        back = done.get(timeout=T)
    assert array.sum() == 1000
    back[0] = 7
    assert array[0] == 7


def test_a_shared_array_goes_through_a_pipeline_and_stays_one() -> None:
    pytest.importorskip("numpy")
    array = fullcourt.empty(20, int)
    with fullcourt.Pool(2, start_method="fork") as pool, fullcourt.share(array + 1) as ones:
        line = pool.pipeline(Stage(tasks.add_place, threads=2), tasks.add_place, Stage(tasks.add_place, processes=1))
        assert [place for _, place in line.map([(array, place) for place in range(20)])] == list(range(20))
        assert pool.pipeline(Stage(tasks.grow, processes=1), tasks.plus_one).map([ones] * 3) == [21] * 3
    assert array.tolist() == [3 * place for place in range(20)]


def test_a_stage_runs_a_pipeline_or_a_pool_of_its_own() -> None:
    with fullcourt.Pool(1, start_method="fork") as pool:
        line = pool.pipeline(Stage(tasks.run_inner_pipeline, processes=2, start_method="fork"), Stage(len, threads=1))
        assert line.map([1, 3, 5]) == [1, 3, 5]
        line = pool.pipeline(tasks.run_inner_pipeline, sum)
        assert line.map([3, 4]) == [12, 20]
        line = pool.pipeline(Stage(tasks.run_inner_pool, processes=2, start_method="fork"), tasks.run_inner_pool)
        assert line.map([2, 3]) == [2, 30]


def test_a_stage_uses_the_pool_of_its_pipeline(pool: Any) -> None:
    assert pool.pipeline(tasks.ask_pool, tasks.double).map([(pool, n) for n in range(5)]) == [0, 2, 6, 12, 20]


def test_workers_that_nested_tasks_started_make_and_end_their_own_state() -> None:
    notes: Any = fullcourt.Queue()
    with fullcourt.Pool(1, start_method="fork") as pool:
        pids = pool.submit(tasks.make_thing_below, pool, notes, 3).result(T)
        assert len(pids) == 4
    told = notes.get_many(100)
    assert Counter(told) == Counter([("made", pid) for pid in pids] + [("ended", pid) for pid in pids])


@pytest.mark.faults
def test_state_is_made_anew_after_a_recycling_which_ends_it_and_after_a_death_which_does_not() -> None:
    notes: Any = fullcourt.Queue()
    with fullcourt.Pool(1, start_method="fork", max_tasks_per_child=2) as pool:
        pids = {pool.apply(tasks.make_thing, (notes,)) for _ in range(4)}
        assert len(pids) == 2
        assert isinstance(pool.submit(tasks.make_thing_and_die, notes).exception(T), fullcourt.WorkerDied)
    told = Counter(word for word, _ in notes.get_many(100))
    assert told == {"made": 3, "ended": 2}


@pytest.mark.parametrize("kind", PROCESS_KINDS)
def test_a_broadcast_queue_of_locks(kind: str) -> None:
    with fullcourt.Pool(2, start_method=kind) as pool:
        lock, items, cell = fullcourt.Lock(), fullcourt.Queue(), fullcourt.Queue(1)
        items.put(lock)
        shared, cell_shared = pool.broadcast(items), pool.broadcast(cell)
        cell.put(0)
        assert pool.apply(lambda: shared.value.get(timeout=30).acquire())
        assert not lock.acquire(block=False)
        lock.release()
        pool.apply(lambda: cell_shared.value.put(cell_shared.value.get() + 1))
        assert cell.get(timeout=0) == 1
