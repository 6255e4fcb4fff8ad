"""The driver between callers, workers and deaths, in every order: each task ends once, and nothing runs twice."""

from __future__ import annotations

import concurrent.futures as cf
import itertools
from typing import Any

import pytest

from fullcourt._engines import calls as calls_module
from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import MAP, MapJob
from fullcourt._engines.lane import Lane
from fullcourt.errors import PoolClosed, TaskCancelled, WorkerDied
from tests.interleave.fake_engine import MODULES, die, end, make_driver, nap
from tests.interleave.interleaver import Interleaver, explore


class Outcomes:
    """What became of futures: callbacks count how often each ended, tasks how often each ran."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.ran: list[int] = []
        self.ended: list[int] = []
        self.futures: list[Future[Any]] = []
        self._numbers = itertools.count()

    def run(self, i: int) -> int:
        self.ran.append(i)
        return i * i

    def submit(self, fn: Any = None) -> Future[Any]:
        i = next(self._numbers)
        future: Future[Any] = Future(self.driver)
        future.number = i  # type: ignore[attr-defined]
        self.futures.append(future)
        future._on_end = (lambda _: self.ended.append(i), lambda _: self.ended.append(i))
        if fn is None:
            self.driver.submit(by_number, (i,), {}, future)
        else:
            self.driver.submit(fn, (), {}, future)
        return future

    def check(self) -> None:
        assert sorted(self.ended) == list(range(len(self.futures)))
        self.check_end()

    def check_end(self) -> None:
        assert len(set(self.ran)) == len(self.ran), f"ran twice: {self.ran}"
        assert self.driver._n_open == 0
        assert not self.driver.scheduler.workers
        assert self.driver.engine.closed
        self.driver.scheduler.check()


here: Outcomes


def by_number(i: int) -> int:
    return here.run(i)


def new(world: Interleaver, n_workers: int = 1) -> Outcomes:
    global here
    here = Outcomes(make_driver(world, n_workers))
    return here


def outcome(future: Future[Any]) -> Any:
    try:
        return future.result()
    except (cf.CancelledError, WorkerDied) as error:
        return type(error)


def test_waiters_of_calls_from_two_threads_get_their_results() -> None:
    def scenario(world: Interleaver) -> Any:
        all_ = new(world)
        seen: dict[str, Any] = {}

        def use(name: str) -> None:
            future = all_.submit()
            seen[name] = future.result() == future.number**2  # type: ignore[attr-defined]

        actors = [world.add(name, lambda name=name: use(name)) for name in ("one", "two")]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            assert seen == {"one": True, "two": True}
            all_.check()

        return check

    explore(scenario, MODULES, n_random=40, n_preempted=60)


def test_a_cancellation_tells_the_truth() -> None:
    def scenario(world: Interleaver) -> Any:
        all_ = new(world)
        first, second = all_.submit(), all_.submit()
        seen: list[Any] = []
        answers: list[bool] = []
        actors = [
            world.add("waiter", lambda: seen.extend((outcome(second), outcome(first)))),
            world.add("canceller", lambda: answers.append(second.cancel())),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            (cancelled,) = answers
            assert second.cancelled() == cancelled
            assert (1 in all_.ran) != cancelled
            assert seen[1] == 0
            assert (seen[0] == 1) != cancelled
            all_.check()

        return check

    explore(scenario, MODULES, n_random=40, n_preempted=60)


def test_a_cancellation_beside_a_death() -> None:
    def scenario(world: Interleaver) -> Any:
        all_ = new(world, 2)
        futures = [all_.submit(), all_.submit(die), all_.submit(), all_.submit()]
        seen: list[Any] = []
        answers: list[bool] = []
        actors = [
            world.add("waiter", lambda: seen.extend(map(outcome, futures))),
            world.add("canceller", lambda: answers.append(futures[2].cancel())),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            assert seen[0] == 0
            assert seen[1] is WorkerDied
            assert (seen[2] == 4) != answers[0]
            assert (2 in all_.ran) != answers[0]
            assert seen[3] == 9
            all_.check()

        return check

    explore(scenario, MODULES, n_random=40, n_preempted=60)


def test_a_running_call_is_cancelled_beside_another_that_waits_behind_it() -> None:
    def scenario(world: Interleaver) -> Any:
        all_ = new(world, 2)
        naps = [all_.submit(nap), all_.submit(nap)]
        work = [all_.submit(), all_.submit()]
        seen: list[Any] = []
        answers: list[bool] = []
        actors = [
            world.add("canceller", lambda: answers.append(naps[0].cancel())),
            world.add("other canceller", lambda: answers.append(naps[1].cancel())),
            world.add("waiter", lambda: seen.extend(map(outcome, work))),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            assert answers == [True, True]
            assert seen == [4, 9]
            all_.check()

        return check

    explore(scenario, MODULES, n_random=60, n_preempted=80)


def test_calls_that_wait_behind_others_are_cancelled_by_two() -> None:
    """Each takes back what lies beside the other's, and what a free worker takes over meanwhile."""

    def scenario(world: Interleaver) -> Any:
        all_ = new(world, 2)
        futures = [all_.submit() for _ in range(5)]
        answers: dict[int, bool] = {}

        def cancel(*numbers: int) -> None:
            for i in numbers:
                answers[i] = futures[i].cancel()

        actors = [
            world.add("canceller", lambda: cancel(4, 2)),
            world.add("other canceller", lambda: cancel(3)),
            world.add("waiter", lambda: list(map(outcome, futures))),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            for i, future in enumerate(futures):
                assert future.cancelled() == answers.get(i, False)
                if not future.cancelled():
                    assert future.result(0) == i * i
                    assert i in all_.ran
            all_.check()

        return check

    explore(scenario, MODULES, n_random=60, n_preempted=80)


def in_a_burst(world: Interleaver, longest: int = 0) -> tuple[Outcomes, Future[Any]]:
    """With one call of a tiny function open; beyond so many, calls gather."""
    all_ = new(world)
    all_.driver._burst = longest
    first = all_.submit()
    first.work.estimate.mean_s = 0.0
    return all_, first


def test_calls_that_gather_are_run_or_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a burst of tiny calls: those that find no free slot wait for the next look for results."""
    monkeypatch.setattr(calls_module, "TINY_S", 1.0)

    def scenario(world: Interleaver) -> Any:
        all_, _ = in_a_burst(world)
        gathered = [all_.submit(), all_.submit()]
        assert all_.driver._inbox
        more: list[Future[Any]] = []
        answers: list[bool] = []
        seen: list[Any] = []
        actors = [
            world.add("submitter", lambda: more.extend((all_.submit(), all_.submit()))),
            world.add("canceller", lambda: answers.append(gathered[1].cancel())),
            world.add("waiter", lambda: seen.extend(map(outcome, gathered))),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            assert seen[0] == 1
            assert (seen[1] == 4) != answers[0]
            assert (2 in all_.ran) != answers[0]
            assert [future.result(0) for future in more] == [9, 16]
            all_.check()

        return check

    explore(scenario, MODULES, n_random=60, n_preempted=80)


@pytest.mark.parametrize("burst", [0, 100])
def test_calls_of_one_thread_start_in_their_order_whoever_sends_them(
    burst: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_module, "TINY_S", 1.0)

    def scenario(world: Interleaver) -> Any:
        all_, first = in_a_burst(world, burst)
        later: list[Future[Any]] = []
        actors = [
            world.add("submitter", lambda: later.extend(all_.submit() for _ in range(4))),
            world.add("waiter", first.result),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            assert all_.ran == [0, 1, 2, 3, 4]
            all_.check()

        return check

    explore(scenario, MODULES, n_random=100, n_preempted=150)


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_calls_gather_while_the_pool_is_ended(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is run, cancelled by the end, or refused; none is forgotten."""
    monkeypatch.setattr(calls_module, "TINY_S", 1.0)

    def scenario(world: Interleaver) -> Any:
        all_, _ = in_a_burst(world)
        refused: list[int] = []

        def submit() -> None:
            for _ in range(3):
                try:
                    all_.submit()
                except PoolClosed:
                    refused.append(all_.futures.pop().number)  # type: ignore[attr-defined]

        actors = [world.add("submitter", submit), world.add("ender", getattr(all_.driver, how))]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            for future in all_.futures:
                assert future.done()
                assert how == "terminate" or future.result(0) == future.number**2  # type: ignore[attr-defined]
            assert sorted([*all_.ended, *refused]) == list(range(4))
            assert not set(all_.ran) & set(refused)
            assert not all_.driver._inbox
            all_.check_end()

        return check

    explore(scenario, MODULES, n_random=100, n_preempted=200)


def test_a_call_comes_while_another_thread_replaces_a_worker_that_died() -> None:
    def scenario(world: Interleaver) -> Any:
        all_ = new(world, 2)
        deadly = all_.submit(die)
        seen: list[Any] = []
        more: list[Any] = []
        actors = [
            world.add("waiter", lambda: seen.append(outcome(deadly))),
            world.add("submitter", lambda: more.extend(outcome(all_.submit()) for _ in range(3))),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            assert seen == [WorkerDied]
            assert more == [1, 4, 9]
            all_.check()

        return check

    explore(scenario, MODULES, n_random=60, n_preempted=120)


def called(all_: Outcomes, *fns: Any) -> list[Any]:
    """Calls that are waited for, one after the other: by number, or of these functions."""
    seen: list[Any] = []
    for fn in fns:
        i = next(all_._numbers)
        try:
            seen.append(all_.driver.call(by_number, (i,), {}) == i * i if fn is None else all_.driver.call(fn, (), {}))
        except (cf.CancelledError, PoolClosed, WorkerDied) as error:
            seen.append(type(error))
    return seen


@pytest.mark.parametrize("n_workers", [1, 2])
def test_calls_that_are_waited_for_meet_those_of_others(n_workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[bool] = []
    monkeypatch.setattr(Lane, "run", lambda lane, call, run=Lane.run: ways.append(run(lane, call)) or ways[-1])

    def scenario(world: Interleaver) -> Any:
        all_ = new(world, n_workers)
        seen: list[Any] = []
        more: list[Any] = []
        actors = [
            world.add("one", lambda: seen.extend(called(all_, None, die, None))),
            world.add("two", lambda: seen.extend(called(all_, None, None))),
            world.add("three", lambda: more.extend(outcome(all_.submit()) for _ in range(2))),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            assert sorted(map(str, seen)) == sorted(map(str, [True, True, True, True, WorkerDied]))
            assert more == [future.number**2 for future in all_.futures]  # type: ignore[attr-defined]
            assert len(all_.ran) == 6
            all_.check_end()

        return check

    explore(scenario, MODULES, n_random=40, n_preempted=60)
    assert {True, False} <= set(ways)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_calls_go_before_what_a_map_has_sent(n_workers: int) -> None:
    overtook: list[bool] = []

    def scenario(world: Interleaver) -> Any:
        all_ = new(world, n_workers)
        numbers = all_._numbers
        next(numbers)  # the map's first item is 0, and so on
        for _ in range(8):
            next(numbers)
        scheduler = all_.driver.scheduler
        own = scheduler.overtook
        scheduler.overtook = lambda *args: overtook.append(own(*args)) or overtook[-1]  # type: ignore[method-assign, func-returns-value]
        future = start_map(all_, 9, 1)
        seen: list[Any] = []
        map_seen: list[Any] = []
        actors = [
            world.add("waiter", lambda: map_seen.extend(outcome(future))),
            world.add("one", lambda: seen.extend(called(all_, None, die, None))),
            world.add("two", lambda: seen.extend(called(all_, None))),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            assert map_seen == [i * i for i in range(9)]
            assert sorted(map(str, seen)) == sorted(map(str, [True, True, True, WorkerDied]))
            all_.check_end()

        return check

    explore(scenario, MODULES, n_random=40, n_preempted=60)
    assert {True, False} <= set(overtook)


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_a_pool_ends_beside_a_call_that_is_waited_for(how: str) -> None:
    def scenario(world: Interleaver) -> Any:
        all_ = new(world)
        seen: list[Any] = []
        actors = [
            world.add("caller", lambda: seen.extend(called(all_, None, None))),
            world.add("ender", getattr(all_.driver, how)),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            refused = [one for one in seen if one is not True]
            assert len(seen) == 2
            assert set(refused) <= ({PoolClosed} if how == "close" else {PoolClosed, TaskCancelled})
            assert seen[: 2 - len(refused)] == [True] * (2 - len(refused))
            assert len(all_.ran) >= 2 - len(refused)
            all_.check_end()

        return check

    explore(scenario, MODULES, n_random=40, n_preempted=60)


def start_map(all_: Outcomes, n: int, chunksize: int, *, deadly: int = -1) -> Future[Any]:
    def run(i: int) -> int:
        all_.ran.append(i)
        if i == deadly:
            die()
        return i * i

    future: Future[Any] = Future(all_.driver)
    all_.futures.append(future)
    future._on_end = (lambda _: all_.ended.append(0), lambda _: all_.ended.append(0))
    function = all_.driver.functions.get(abs) if all_.driver.functions else None
    job = MapJob(MAP, run, function, range(n), chunksize, all_.driver.new_id, future, True, None)
    all_.driver.start_job(job)
    return future


@pytest.mark.parametrize("deadly", [-1, 3])
def test_a_map_cancelled_while_it_runs_ends_once(deadly: int) -> None:
    def scenario(world: Interleaver) -> Any:
        all_ = new(world, 2)
        future = start_map(all_, 7, 2, deadly=deadly)
        seen: list[Any] = []
        actors = [
            world.add("waiter", lambda: seen.append(outcome(future))),
            world.add("canceller", future.cancel),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            if not future.cancelled():
                expected = [i * i for i in range(7)]
                assert [x for i, x in enumerate(seen[0]) if i != deadly] == [
                    x for i, x in enumerate(expected) if i != deadly
                ]
            all_.check()

        return check

    explore(scenario, MODULES, n_random=40, n_preempted=60)


def test_the_pool_is_terminated_while_calls_run_and_wait() -> None:
    def scenario(world: Interleaver) -> Any:
        all_ = new(world)
        futures = [all_.submit(), all_.submit()]
        seen: list[Any] = []
        actors = [
            world.add("waiter", lambda: seen.extend(map(outcome, futures))),
            world.add("terminator", all_.driver.terminate),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            for i, result in enumerate(seen):
                assert result == i * i or futures[i].cancelled()
            all_.check()

        return check

    explore(scenario, MODULES, n_random=40, n_preempted=60)


def test_the_pool_is_closed_while_another_thread_waits() -> None:
    def scenario(world: Interleaver) -> Any:
        all_ = new(world)
        futures = [all_.submit(), all_.submit(die), all_.submit()]
        seen: list[Any] = []
        actors = [
            world.add("waiter", lambda: seen.extend(map(outcome, futures))),
            world.add("closer", all_.driver.close),
            world.add("joiner", lambda: (all_.driver.close(), all_.driver.ended.wait())),
        ]
        world.add("end", lambda: end(world, all_.driver, actors))

        def check() -> None:
            assert seen == [0, WorkerDied, 4]
            all_.check()

        return check

    explore(scenario, MODULES, n_random=40, n_preempted=60)
