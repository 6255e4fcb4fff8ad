"""Time limits at their edges: very long ones, multiples of a median, interrupts while a pool is terminated."""

from __future__ import annotations

import math
import signal
import subprocess
import threading
import time
from typing import Any

import pytest

import fullcourt
from fullcourt import Pool, TaskTimeout

LONG_S = 3e6  # more than epoll takes


def fail_at_third(i: int) -> int:
    time.sleep(0.0005)
    if i % 3 == 0:
        raise ValueError(i)
    return i


def hang_at_five(i: int) -> int:
    time.sleep(60 if i == 5 else 0.005)
    return i


def run_sleep(seconds: float) -> int:
    return subprocess.run(["sleep", str(seconds)], check=False).returncode


@pytest.mark.parametrize("engine", [{"processes": 1}, {"threads": 1}], ids=["processes", "threads"])
def test_one_may_wait_for_months(engine: dict[str, int]) -> None:
    with Pool(**engine) as pool:
        assert pool.submit(abs, -1).result(threading.TIMEOUT_MAX) == 1
        assert pool.imap(abs, [-1]).next(LONG_S) == 1
        assert pool.map(abs, [-1, -2], timeout=LONG_S) == [1, 2]
        ended = threading.Event()
        future = pool.options(timeout=LONG_S).submit(abs, -3)
        future.add_done_callback(lambda _: ended.set())  # the background thread leads
        assert ended.wait(30)
        assert pool.options(timeout=threading.TIMEOUT_MAX).submit(abs, -4).result(30) == 4


def test_queues_locks_and_processes_may_be_waited_for_for_months() -> None:
    queue: Any = fullcourt.Queue()
    timer = threading.Timer(0.1, queue.put, ["item"])
    timer.start()
    assert queue.get(timeout=LONG_S) == "item"
    timer.join()
    one, other = fullcourt.Pipe()
    timer = threading.Timer(0.1, other.send, ["message"])
    timer.start()
    assert one.poll(LONG_S)
    timer.join()
    event = fullcourt.Event()
    timer = threading.Timer(0.1, event.set)
    timer.start()
    assert event.wait(LONG_S)
    timer.join()
    process = fullcourt.Process(target=time.sleep, args=(0.1,))
    process.start()
    process.join(LONG_S)
    assert process.exitcode == 0


def test_no_number_is_no_time() -> None:
    with Pool(1) as pool:
        held = pool.submit(time.sleep, 0.2)
        with pytest.raises(ValueError, match="nan"):
            held.result(math.nan)
        with pytest.raises(ValueError, match="deadline"):
            pool.task_group(deadline=math.nan)
        with pytest.raises(ValueError, match="timeout"):
            pool.options(timeout=math.nan)
        with pytest.raises(ValueError, match="max_memory"):
            pool.options(max_memory=math.inf)
        with pytest.raises(ValueError, match="priority"):
            pool.options(priority=time.time_ns())


@pytest.mark.parametrize("chunksize", [None, 8])
def test_items_that_fail_do_not_count_as_instants_in_the_median(chunksize: int | None) -> None:
    with Pool(2) as pool:
        found = pool.map(fail_at_third, range(600), chunksize, timeout="100000x", on_error="return")
    failures = [one.exception for one in found if isinstance(one, fullcourt.Failure)]
    assert len(failures) == 200
    assert all(isinstance(error, ValueError) for error in failures)


def test_a_multiple_of_the_median_holds_within_a_chunk() -> None:
    with Pool(1) as pool:
        found = pool.map(hang_at_five, range(8), 8, timeout="200x", on_error="return")
    assert found[:5] == [0, 1, 2, 3, 4]
    assert isinstance(found[5].exception, TaskTimeout)
    assert found[6:] == [6, 7]


def test_a_task_that_is_stopped_takes_no_other_tasks_processes_along() -> None:
    with Pool(1, threads=2) as pool:
        sibling = pool.submit(run_sleep, 1.0)
        while not pool.statistics().n_in_flight:
            time.sleep(0.001)
        time.sleep(0.1)
        with pytest.raises(TaskTimeout):
            pool.options(timeout=0.3).submit(spin_until_stopped).result(30)
        assert sibling.result(30) == 0


def spin_until_stopped() -> None:
    while True:
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_an_interrupt_at_the_beginning_of_leaving_with_leaves_no_worker(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(1)
    future = pool.submit(time.sleep, 600)
    driver = pool._driver
    end = getattr(driver, how)
    interrupts = iter([signal.SIGINT])

    def end_and_interrupt() -> None:
        for number in interrupts:
            signal.raise_signal(number)
        end()

    monkeypatch.setattr(driver, how, end_and_interrupt)
    with pytest.raises(KeyboardInterrupt), pool:
        if how == "terminate":
            raise ValueError("the body's")
    assert driver._terminated
    pool.join()
    assert future.cancelled()


def test_an_interrupt_while_a_pool_is_terminated_comes_after_that() -> None:
    pool = Pool(1)
    futures = [pool.submit(time.sleep, 60) for _ in range(4)]
    driver = pool._driver
    fail_all = driver._fail_all

    def fail_all_and_interrupt(*args: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return fail_all(*args)

    driver._fail_all = fail_all_and_interrupt  # type: ignore[method-assign, union-attr, assignment]
    with pytest.raises(KeyboardInterrupt):
        pool.terminate()
    pool.join()
    assert all(future.cancelled() for future in futures)


class SlowToPickle:
    def __reduce__(self) -> Any:
        time.sleep(60)
        return int, ()


def give_slowly(i: int) -> object:
    return SlowToPickle() if i == 5 else i


@pytest.mark.parametrize("slots", [{}, {"threads": 2}], ids=["one slot", "two slots"])
def test_a_limit_holds_while_the_result_is_pickled(slots: dict[str, int]) -> None:
    with Pool(1, **slots) as pool:  # type: ignore[arg-type]
        limited = pool.options(timeout=0.2, grace=0.05)
        results: list[Any]
        assert isinstance(limited.submit(give_slowly, 5).exception(30), TaskTimeout)
        results = limited.map(give_slowly, range(20), on_error="return")
        assert isinstance(results[5].exception, TaskTimeout)
        assert [result for result in results if isinstance(result, int)] == [i for i in range(20) if i != 5]
