"""`Pool.pipeline`: stages that each run in their own way."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time

import pytest

import fullcourt
from fullcourt import Failure, Pipeline, Pool, PoolClosed, Stage, WorkerDied
from tests.methods import start_methods
from tests.pipelines import pipeline_tasks as tasks

T = 60.0
PORTABLE = os.environ.get("FULLCOURT_TRANSPORT") == "portable"  # which has no fork
METHODS = [m for m in start_methods() if m != "fork" or not PORTABLE]


@pytest.fixture(scope="module")
def pool():
    with Pool(threads=2, name="base") as pool:
        pool.submit(time.sleep, 0.02).result()  # who waits for the first time makes a descriptor, which is kept
        yield pool


@pytest.mark.parametrize("method", METHODS)
def test_items_pass_all_stages_in_order(pool, method):
    line = pool.pipeline(Stage(tasks.plus_one, threads=3), Stage(tasks.double, processes=2, start_method=method), str)
    assert line.map(range(200)) == [str(2 * (x + 1)) for x in range(200)]
    assert line.map([]) == []  # and it can be run again


def test_lambdas_work_in_processes(pool):
    k = 3
    assert pool.pipeline(Stage(lambda x: x * k, processes=1), lambda x: x + k).map(range(5)) == [3, 6, 9, 12, 15]


@pytest.mark.parametrize(
    "options", [{"processes": 2}, {"processes": 0}, {"threads": 2}, {"processes": 1, "threads": 2}]
)
def test_stages_without_workers_run_on_the_pool(options):
    with Pool(**options) as pool:
        line = pool.pipeline(tasks.plus_one, tasks.double)
        assert line.map(iter(range(100))) == [2 * (x + 1) for x in range(100)]
        assert sorted(line.imap_unordered(range(100))) == [2 * (x + 1) for x in range(100)]


def test_each_stage_runs_where_it_says(pool):
    ((x, pid, _),) = pool.pipeline(Stage(tasks.where, processes=1)).map([5])
    assert x == 5
    assert pid != os.getpid()
    ((_, pid, in_main_thread),) = pool.pipeline(Stage(tasks.where, threads=1)).map([5])
    assert pid == os.getpid()
    assert not in_main_thread
    line = pool.pipeline(Stage(tasks.use_prepared, processes=1, initializer=tasks.set_up, initargs=(100,)))
    assert line.map([1, 2]) == [101, 102]


def test_stages_overlap(pool):
    """The first item passes the whole line while the second waits in the first stage."""
    second_may_go = threading.Event()

    def first(x):
        if x == 1:
            assert second_may_go.wait(T)
        return x

    results = pool.pipeline(Stage(first, threads=2), Stage(tasks.plus_one, threads=1)).imap(range(2))
    assert results.next(T) == 1
    second_may_go.set()
    assert list(results) == [2]


def test_the_input_is_read_lazily_and_no_more_than_the_buffer(pool):
    read = []

    def source():
        for i in itertools.count():
            read.append(i)
            yield i

    results = pool.pipeline(Stage(tasks.plus_one, threads=2), tasks.double).imap(source(), buffersize=10)
    assert [next(results) for _ in range(100)] == [2 * (x + 1) for x in range(100)]
    results.close()
    assert len(read) <= 111


def test_a_slow_last_stage_holds_the_first_back(pool):
    go = threading.Event()
    n_started = itertools.count()
    started = []

    def first(x):
        started.append(next(n_started))
        return x

    results = pool.pipeline(Stage(first, threads=2), Stage(lambda x: go.wait(T) and x, threads=1)).imap(
        itertools.count(), buffersize=8
    )
    for _ in range(200):
        threading.Event().wait(0.001)
    assert len(started) <= 8
    go.set()
    assert [next(results) for _ in range(20)] == list(range(20))
    results.close()


def test_an_error_concerns_its_item_alone(pool):
    line = pool.pipeline(Stage(tasks.plus_one, threads=2), Stage(tasks.fail_on_seven, processes=1), tasks.double)
    results = line.imap(range(10))
    assert [next(results) for _ in range(6)] == [2, 4, 6, 8, 10, 12]
    with pytest.raises(ValueError, match="seven") as caught:
        next(results)
    assert "fullcourt: in stage fail_on_seven of a pipeline, with item 6 of its input" in caught.value.__notes__
    assert list(results) == [16, 18, 20]
    with pytest.raises(ValueError, match="seven"):
        line.map(range(10))
    returned = line.map(range(10), on_error="return")
    assert isinstance(returned[6], Failure)
    assert returned[6].index == 6
    assert isinstance(returned[6].exception, ValueError)
    assert returned[7] == 16


def test_an_error_of_the_input_comes_after_the_results_before_it(pool):
    def source():
        yield 1
        yield 2
        raise OSError("the input broke")

    results = pool.pipeline(tasks.plus_one, tasks.double).imap(source())
    assert [next(results), next(results)] == [4, 6]
    with pytest.raises(OSError, match="the input broke"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.faults
@pytest.mark.parametrize("method", METHODS)
def test_items_whose_worker_died_are_run_again(pool, method, tmp_path):
    line = pool.pipeline(
        Stage(lambda x: (str(tmp_path), x), threads=2),
        Stage(tasks.die_once, processes=2, start_method=method, retries=1),
        tasks.double,
    )
    results = line.imap(range(40))
    assert list(results) == [2 * x for x in range(40)]
    assert [stage.pool.n_retried for stage in results.statistics()] == [0, 4, 0]
    assert [stage.n_done for stage in results.statistics()] == [40, 40, 40]


@pytest.mark.faults
def test_an_item_that_always_kills_is_given_up_and_named(pool):
    line = pool.pipeline(Stage(tasks.die_always_on_three, processes=2, retries=2), tasks.double)
    results = line.map(range(6), on_error="return")
    assert results[:3] == [0, 2, 4]
    assert results[4:] == [8, 10]
    assert isinstance(results[3], Failure)
    assert isinstance(results[3].exception, WorkerDied)
    assert results[3].attempt == 3
    with pytest.raises(WorkerDied):
        pool.pipeline(Stage(tasks.die_always_on_three, processes=1)).map(range(6))


@pytest.mark.faults
def test_none_is_lost_while_workers_die_at_random(pool):
    written = []
    line = pool.pipeline(
        Stage(tasks.plus_one, threads=2),
        Stage(tasks.die_at_random, processes=2, start_method="fork" if "fork" in METHODS else None, retries=20),
        Stage(written.append, threads=1),
    )
    results = line.imap_unordered(iter(range(20_000)))
    assert sum(1 for _ in results) == 20_000
    assert sorted(written) == list(range(1, 20_001))
    assert results.statistics()[1].pool.n_retried >= 1


def test_a_pool_that_cannot_start_ends_the_run(pool):
    line = pool.pipeline(tasks.plus_one, Stage(tasks.double, processes=1, initializer=tasks.explode), tasks.double)
    with pytest.raises(RuntimeError, match="no worker shall start"):
        line.map(range(1000))


def test_leaving_the_pool_ends_a_run_over_an_open_input():
    with Pool(threads=1) as pool:
        results = pool.pipeline(Stage(tasks.plus_one, threads=1), tasks.double).imap(itertools.count())
        assert next(results) == 2
    with pytest.raises(PoolClosed):
        list(results)


def test_leaving_the_pool_waits_for_a_run_over_a_list():
    with Pool(threads=1) as pool:
        results = pool.pipeline(Stage(tasks.plus_one, threads=1), tasks.double).imap(list(range(1000)))
    assert list(results) == [2 * (x + 1) for x in range(1000)]


def test_terminating_the_pool_ends_a_run():
    with Pool(threads=1) as pool:
        results = pool.pipeline(tasks.plus_one, Stage(tasks.double, threads=1)).imap(itertools.count())
        next(results)
        pool.terminate()
        with pytest.raises(fullcourt.TaskCancelled):
            list(results)
        pool.join()


def test_a_dropped_iterator_ends_its_run(pool):
    """Its threads end, which the leak check sees."""
    results = pool.pipeline(Stage(tasks.plus_one, threads=2), Stage(tasks.double, processes=1)).imap(itertools.count())
    assert next(results) == 2
    del results
    gc.collect()


def test_a_closed_iterator_gives_nothing_more(pool):
    results = pool.pipeline(Stage(tasks.plus_one, threads=2)).imap(range(8))
    assert next(results) == 1
    while results.statistics()[0].n_done < 8:
        threading.Event().wait(0.001)
    results.close()
    assert list(results) == []


def test_a_stage_that_raises_StopIteration_does_not_end_the_results(pool):  # noqa: N802
    line = pool.pipeline(Stage(tasks.next_of, threads=1))
    results = line.imap([[1], [], [3]])
    assert next(results) == 1
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        next(results)
    assert "with item 1 of its input" in "".join(caught.value.__cause__.__notes__)
    assert list(results) == [3]
    with pytest.raises(RuntimeError, match="StopIteration"):
        line.map([[1], [], [3]])


def test_a_timeout_goes_on(pool):
    go = threading.Event()
    results = pool.pipeline(Stage(lambda x: go.wait(T) and x, threads=1)).imap([5])
    with pytest.raises(TimeoutError, match="goes on"):
        results.next(0.01)
    go.set()
    assert results.next(T) == 5


def test_several_consumers_share_one_run(pool):
    results = pool.pipeline(Stage(tasks.plus_one, threads=2), tasks.double).imap_unordered(range(2000))
    taken = []
    threads = [threading.Thread(target=lambda: taken.extend(results)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(T)
    assert sorted(taken) == [2 * (x + 1) for x in range(2000)]


def test_statistics_tell_of_each_stage(pool):
    results = pool.pipeline(Stage(tasks.plus_one, processes=1, name="grow"), tasks.double).imap(range(50))
    list(itertools.islice(results, 50))
    grow, double = results.statistics()
    assert (grow.name, grow.n_done, grow.n_failed, grow.n_here) == ("grow", 50, 0, 0)
    assert (double.name, double.n_done) == ("double", 50)
    assert grow.pool.n_done == 50
    results.close()
    results.close()


def test_one_bar_tells_how_far_it_is(pool, capfd):
    pool.pipeline(Stage(tasks.plus_one, threads=1), tasks.double).map(range(30), progress=True)
    assert "30 of 30" in capfd.readouterr().err


def test_bad_arguments_are_told_before_anything_starts(pool):
    with pytest.raises(TypeError, match="at least one stage"):
        pool.pipeline()
    with pytest.raises(TypeError, match="callable"):
        pool.pipeline(3)
    with pytest.raises(ValueError, match="processes must be at least 1"):
        Stage(abs, processes=0)
    with pytest.raises(TypeError, match="retries"):
        Stage(abs, retries="many")
    with pytest.raises(ValueError, match="runs on the pool's workers"):
        Stage(abs, initializer=tasks.set_up)
    line = pool.pipeline(abs)
    assert isinstance(line, Pipeline)
    with pytest.raises(TypeError, match="iterable"):
        line.map(3)
    with pytest.raises(ValueError, match="on_error"):
        line.map([1], on_error="ignore")
    with pytest.raises(ValueError, match="buffersize"):
        line.imap([1], buffersize=0)
    with pytest.raises(ValueError, match="start_method"):
        pool.pipeline(Stage(abs, threads=1, start_method="fork")).map([1])
    assert repr(pool.pipeline(Stage(tasks.double, threads=2), abs)) == "<Pipeline double threads=2 | abs>"
