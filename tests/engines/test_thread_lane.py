"""Calls on threads take a short way while nothing else is open: nobody may be able to tell but by the clock."""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest

import fullcourt
from fullcourt import Pool, PoolClosed
from fullcourt.futures import ThreadPoolExecutor

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(threads=2)
    yield pool
    pool.terminate()
    pool.join()


def lane_of(pool: Pool) -> Any:
    driver: Any = pool._driver
    return driver.thread_lane


def hold_both(pool: Pool) -> threading.Event:
    """Have both threads wait for an event; returns it when they do."""
    go = threading.Event()
    begun = threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        go.wait(30)

    for _ in range(2):
        pool.submit(hold)
    for _ in range(2):
        assert begun.acquire(timeout=30)
    return go


def test_calls_go_the_short_way_and_count(pool: Pool) -> None:
    futures = [pool.submit(pow, i, 2) for i in range(1000)]
    assert lane_of(pool).open or all(future.done() for future in futures)
    assert [future.result() for future in futures] == [i * i for i in range(1000)]
    assert pool.apply(pow, (3, 2)) == 9
    statistics = pool.statistics()
    assert (statistics.n_done, statistics.n_failed, statistics.n_in_flight) == (1001, 0, 0)
    assert statistics.workers[0].n_done == 1001
    assert not pool._driver._n_open


def test_what_is_counted_outlives_the_pool() -> None:
    with Pool(threads=2) as pool:
        pool.apply(abs, (-1,))
    assert pool.statistics().n_done == 1


def test_another_thread_s_call_does_not_wait_for_a_long_row(pool: Pool) -> None:
    go = hold_both(pool)
    done: list[int] = []
    row = [pool.submit(done.append, i) for i in range(2000)]
    answers: list[int] = []

    def ask() -> None:
        answers.append(pool.submit(lambda: len(done)).result())

    asker = threading.Thread(target=ask)
    asker.start()
    while pool.statistics().n_in_flight < 2003:
        asker.join(0.001)
    go.set()
    asker.join(30)
    wait(row)
    assert answers[0] < 1000  # it took turns with that thread's, most of which came before it
    assert sorted(done) == list(range(2000))


def test_what_waits_can_be_cancelled_and_what_runs_is_said_to(pool: Pool) -> None:
    go = hold_both(pool)
    futures = [pool.submit(pow, i, 2) for i in range(10)]
    running = pool.submit(pow, 0, 0)
    assert not running.running()
    assert futures[3].cancel()
    assert futures[3].cancelled()
    go.set()
    assert [future.result() for i, future in enumerate(futures) if i != 3] == [i * i for i in range(10) if i != 3]
    with pytest.raises(CancelledError):
        futures[3].result()


def test_a_running_call_is_known_to_run(pool: Pool) -> None:
    go = threading.Event()
    begun = threading.Event()

    def hold() -> str:
        begun.set()
        go.wait(30)
        return "done"

    future = pool.submit(hold)
    assert begun.wait(30)
    assert future.running()
    assert not future.cancel()
    go.set()
    assert future.result(30) == "done"


def test_a_task_that_asks_its_own_pool_is_lent_a_slot(pool: Pool) -> None:
    def nest(depth: int) -> int:
        return 1 + sum(pool.map(nest, [depth - 1] * 2)) if depth else 1

    def ask(depth: int) -> int:
        return 1 + pool.submit(ask, depth - 1).result() if depth else 1

    futures = [pool.submit(nest, 3) for _ in range(6)] + [pool.submit(ask, 5) for _ in range(6)]
    assert [future.result(30) for future in futures] == [15] * 6 + [6] * 6


def test_an_exception_is_told_with_its_task(pool: Pool) -> None:
    futures = [pool.submit(divmod, i, i % 3) for i in range(9)]
    assert futures[1].result(30) == (1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        futures[3].result(30)
    assert "divmod(3, 0)" in caught.value.__notes__[0]
    with pytest.raises(SystemExit):
        pool.apply(raise_exit)
    assert [type(future.exception(30)) for future in futures] == [ZeroDivisionError, type(None), type(None)] * 3
    assert pool.statistics().n_failed == 4


def raise_exit() -> None:
    raise SystemExit(3)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_as_a_call_is_handed_over_leaves_nothing_open(
    when: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = lane_of(pool)
    give: Callable[[Any], None] = lane._give

    def interrupted(call: Any) -> None:
        if when == "after":
            give(call)
        raise KeyboardInterrupt

    go = hold_both(pool)
    monkeypatch.setattr(lane, "_give", interrupted)
    ran: list[int] = []
    for folds in (False, True):
        if folds:
            monkeypatch.setattr(lane, "_give", lambda call: (lane_folded(pool), interrupted(call)))
        with pytest.raises(KeyboardInterrupt):
            pool.submit(ran.append, 1)
    monkeypatch.setattr(lane, "_give", give)
    go.set()
    pool.close()
    pool.join()
    assert pool.statistics().n_in_flight == 0
    assert not ran


def lane_folded(pool: Pool) -> None:
    driver: Any = pool._driver
    driver.fold_in()


def submit_squares(pool: Pool, futures: list[Any]) -> None:
    """Submit many calls, one by one, until the pool takes no more."""
    with contextlib.suppress(PoolClosed):
        futures.extend(pool.submit(pow, k, 2) for k in range(2000))


def futures_of_ended(end: Callable[[Pool], None], n: int) -> list[Any]:
    """The futures of what was submitted to a pool until it was ended, after about so many."""
    pool = Pool(threads=2)
    futures: list[Any] = []
    submitter = threading.Thread(target=submit_squares, args=(pool, futures))
    submitter.start()
    while len(futures) < n and submitter.is_alive():
        submitter.join(0)
    end(pool)
    pool.join()
    submitter.join(30)
    return futures


def test_closing_beside_submitters_loses_nothing() -> None:
    for i in range(100):
        futures = futures_of_ended(Pool.close, 5 * i)
        assert [future.result(30) for future in futures] == [k * k for k in range(len(futures))]


def test_terminating_beside_submitters_ends_every_future() -> None:
    for i in range(100):
        futures = futures_of_ended(Pool.terminate, 5 * i)
        assert not wait(futures, 30).not_done
        for k, future in enumerate(futures):
            assert future.cancelled() or future.result() == k * k


def test_all_ways_at_once(pool: Pool) -> None:
    """Calls, calls that wait, maps, failures and cancellations from several threads: each ends once, with its own."""
    ran: Counter[int] = Counter()
    problems: list[BaseException] = []

    def square(i: int) -> int:
        ran[i] += 1
        if i % 7 == 3:
            raise ValueError(i)
        return i * i

    def use(first: int) -> None:
        draw = random.Random(first)
        numbers = iter(range(first, first + 10_000))
        try:
            for _ in range(60):
                kind = draw.randrange(4)
                if kind == 0:
                    futures = {i: pool.submit(square, i) for i in (next(numbers) for _ in range(draw.randrange(40)))}
                    for i, future in list(futures.items()):
                        if draw.random() < 0.1 and future.cancel():
                            assert not ran[i]
                            del futures[i]
                    for i, future in futures.items():
                        error = future.exception(30)
                        assert ran[i] == 1
                        assert str(error) == str(i) if i % 7 == 3 else future.result() == i * i
                elif kind == 1:
                    for i in (next(numbers) for _ in range(5)):
                        assert i % 7 == 3 or pool.apply(square, (i,)) == i * i
                else:
                    items = [next(numbers) for _ in range(draw.randrange(30))]
                    for i, result in zip(items, pool.map(square, items, on_error="return"), strict=True):
                        assert isinstance(result, fullcourt.Failure) if i % 7 == 3 else result == i * i
        except BaseException as error:
            problems.append(error)

    users = [threading.Thread(target=use, args=(k * 10_000,)) for k in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join(50)
    if problems:
        raise problems[0]
    assert pool.statistics().n_in_flight == 0
    assert max(ran.values()) == 1


def test_threads_on_demand_come_for_calls_of_the_lane() -> None:
    barrier = threading.Barrier(3)
    with ThreadPoolExecutor(3) as executor:
        futures = [executor.submit(barrier.wait, 30) for _ in range(3)]
        assert sorted(future.result(30) for future in futures) == [0, 1, 2]
        assert executor.submit(abs, -1).result(30) == 1
