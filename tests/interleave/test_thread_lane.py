"""The lane of calls on threads beside whatever folds it, in every order: each call ends once, none runs twice."""

from __future__ import annotations

import concurrent.futures as cf
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from fullcourt._core.scheduler import Scheduler
from fullcourt._engines import future as future_module
from fullcourt._engines import local as local_module
from fullcourt._engines import roles as roles_module
from fullcourt._engines import supervisor as supervisor_module
from fullcourt._engines import thread_lane as lane_module
from fullcourt._engines import timekeeper as timekeeper_module
from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import MAP, MapJob
from fullcourt._engines.local import ThreadEngine
from fullcourt._os import sleepers as sleepers_module
from fullcourt.errors import PoolClosed, TaskCancelled
from tests.interleave.fake_engine import OF_THE_DRIVER, end
from tests.interleave.interleaver import Interleaver, explore

MODULES = [
    *OF_THE_DRIVER,
    lane_module,
    local_module,
    roles_module,
    future_module,
    supervisor_module,
    timekeeper_module,
    sleepers_module,
]


class Threads:
    """A pool of two threads, and what became of its calls."""

    def __init__(self) -> None:
        engine = ThreadEngine(2, "pool", None, (), 1)
        self.driver = engine.driver = Driver(engine, Scheduler(1, 2, grows=True), "pool")
        self.driver.open()
        self.ran: list[int] = []
        self.ended: list[int] = []
        self.futures: list[Future[Any]] = []
        self._numbers = itertools.count()

    def submit(self, fn: Callable[[int], Any] | None = None) -> Future[Any]:
        """Have a number squared, or something else done with it."""
        i = next(self._numbers)
        future: Future[Any] = Future(self.driver)
        future._on_end = (lambda _: self.ended.append(i), lambda _: self.ended.append(i))
        future.number = i  # type: ignore[attr-defined]
        self.driver.submit(fn or self.square, (i,), {}, future)
        self.futures.append(future)
        return future

    def square(self, i: int) -> int:
        self.ran.append(i)
        return i * i

    def fail(self, i: int) -> int:
        self.ran.append(i)
        raise ValueError(i)

    def check(self) -> None:
        assert sorted(self.ended) == sorted(future.number for future in self.futures)  # type: ignore[attr-defined]
        for future in self.futures:
            number: int = future.number  # type: ignore[attr-defined]
            assert outcome(future) in (number**2, TaskCancelled, ValueError)
            assert future.cancelled() or self.ran.count(number) == 1
        assert len(set(self.ran)) == len(self.ran), f"ran twice: {self.ran}"
        assert self.driver._n_open == 0
        assert not self.driver.thread_lane.open  # type: ignore[union-attr]
        assert not self.driver.scheduler.workers
        self.driver.scheduler.check()


def outcome(future: Future[Any]) -> Any:
    try:
        return future.result()
    except (cf.CancelledError, ValueError) as error:
        return type(error)


def try_everything(scenario: Any) -> None:
    explore(scenario, MODULES, n_random=80, n_preempted=160)


def test_calls_of_two_threads_get_their_results() -> None:
    def scenario(world: Interleaver) -> Any:
        pool = Threads()

        def use() -> None:
            futures = [pool.submit() for _ in range(3)]
            for future in futures:
                assert future.result() == future.number**2  # type: ignore[attr-defined]

        actors = [world.add(name, use) for name in ("one", "two")]
        world.add("end", lambda: end(world, pool.driver, actors))
        return pool.check

    try_everything(scenario)


def test_a_call_that_is_waited_for_at_once_is_woken() -> None:
    def scenario(world: Interleaver) -> Any:
        pool = Threads()
        seen: list[int] = []
        actors = [
            world.add("caller", lambda: seen.extend(pool.driver.call(pool.square, (i,), {}) for i in (10, 11))),
            world.add("other", lambda: outcome(pool.submit())),
        ]
        world.add("end", lambda: end(world, pool.driver, actors))

        def check() -> None:
            assert seen == [100, 121]
            pool.check()

        return check

    try_everything(scenario)


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_a_pool_that_ends_while_calls_are_submitted_loses_none(how: str) -> None:
    def scenario(world: Interleaver) -> Any:
        pool = Threads()

        def use() -> None:
            try:
                for _ in range(4):
                    pool.submit()
            except PoolClosed:
                return

        def stop() -> None:
            getattr(pool.driver, how)()

        actors = [world.add("submitter", use), world.add("stopper", stop)]
        world.add("end", lambda: end(world, pool.driver, actors))
        return lambda: (check_ended(pool), pool.check())

    def check_ended(pool: Threads) -> None:
        if how == "close":
            assert not any(future.cancelled() for future in pool.futures)
        refused = [i for i in pool.ended if i >= len(pool.futures)]  # it was cancelled before it was refused
        assert how == "terminate" or not refused
        for i in refused:
            pool.ended.remove(i)

    try_everything(scenario)


def test_a_cancellation_tells_the_truth() -> None:
    def scenario(world: Interleaver) -> Any:
        pool = Threads()
        answers: list[bool] = []

        def use() -> None:
            futures = [pool.submit() for _ in range(3)]
            for future in futures:
                outcome(future)

        def cancel() -> None:
            world.block(lambda: len(pool.futures) > 1)
            answers.append(pool.futures[1].cancel())

        actors = [world.add("submitter", use), world.add("canceller", cancel)]
        world.add("end", lambda: end(world, pool.driver, actors))

        def check() -> None:
            assert answers == [pool.futures[1].cancelled()]
            assert pool.ran.count(1) == (not answers[0])
            pool.check()

        return check

    try_everything(scenario)


def test_a_call_that_fails_takes_none_with_it() -> None:
    def scenario(world: Interleaver) -> Any:
        pool = Threads()

        def use() -> None:
            futures = [pool.submit(), pool.submit(pool.fail), pool.submit(), pool.submit(pool.fail), pool.submit()]
            assert [outcome(future) for future in futures] == [0, ValueError, 4, ValueError, 16]
            assert not pool.driver.n_unfinished()

        actors = [world.add("submitter", use)]
        world.add("end", lambda: end(world, pool.driver, actors))

        def check() -> None:
            assert pool.driver.n_failed == 2
            assert pool.driver.statistics()["n_done"] == 3
            pool.check()

        return check

    try_everything(scenario)


def test_a_map_that_comes_between_calls_has_its_turn() -> None:
    def scenario(world: Interleaver) -> Any:
        pool = Threads()
        squares: list[Any] = []

        def use() -> None:
            for future in [pool.submit() for _ in range(4)]:
                outcome(future)

        def use_map() -> None:
            future: Future[Any] = Future(pool.driver)
            pool.driver.start_job(
                MapJob(MAP, pool.square, None, [20, 21, 22], 1, pool.driver.new_id, future, False, None)
            )
            squares.extend(future.result())

        actors = [world.add("submitter", use), world.add("mapper", use_map)]
        world.add("end", lambda: end(world, pool.driver, actors))

        def check() -> None:
            assert squares == [400, 441, 484]
            pool.check()

        return check

    try_everything(scenario)


def test_what_has_not_begun_can_be_ended() -> None:
    def scenario(world: Interleaver) -> Any:
        pool = Threads()

        def use() -> None:
            for future in [pool.submit() for _ in range(4)]:
                outcome(future)

        actors = [
            world.add("submitter", use),
            world.add("ender", lambda: pool.driver.end_unstarted(TaskCancelled("ended"))),
        ]
        world.add("end", lambda: end(world, pool.driver, actors))
        return pool.check

    try_everything(scenario)
