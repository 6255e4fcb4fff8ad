"""Leader, followers, background: in every order somebody leads while there is work, never two, and all are woken."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from fullcourt._engines import future as future_module
from fullcourt._engines import roles as roles_module
from fullcourt._engines.future import Future
from fullcourt._engines.roles import Roles
from tests.interleave.interleaver import Interleaver, explore

MODULES = [roles_module, future_module]


class Engine:
    """Where outcomes arrive; who leads settles their futures, as the driver does."""

    def __init__(self, world: Interleaver, n: int) -> None:
        self._world = world
        self._arrived: deque[int] = deque()
        self._woken = False
        self._leads = False
        self.over = False
        self.n_open = n
        self.n_steps = 0
        self.n_busy = 0  # threads that may still arm the background
        self.roles = Roles(self.step, self.wake, lambda: self.n_open > 0, lambda: self.over, "test")
        self.futures: list[Future[int]] = [Future(self) for _ in range(n)]

    def step(self, timeout: float | None) -> None:
        assert not self._leads, "two lead"
        self._leads = True
        self.n_steps += 1
        assert self.n_steps < 500, "it turns in a circle"
        try:
            self._world.block(lambda: bool(self._arrived) or self._woken, timeout)
            self._woken = False
        finally:
            self._leads = False
        while self._arrived:
            i = self._arrived.popleft()
            self.n_open -= 1
            self.futures[i]._settle(i, None)
        self.roles.tell()

    def wake(self) -> None:
        self._woken = True
        self._world.point("wake")

    def arrive(self, i: int) -> None:
        self._arrived.append(i)
        self._world.point("arrive")

    # a settler, for the futures

    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        return future.done() or self.roles.wait(future, timeout)

    def cancel(self, future: Future[Any]) -> bool:
        return False

    def hurry(self) -> None:
        self.roles.arm(urgent=True)

    def is_running(self, future: Future[Any]) -> bool:
        return False

    def end(self) -> None:
        """The last actor: waits for all, then ends the background thread, as the pool's end does."""
        self._world.block(lambda: not self.n_busy and all(future.done() for future in self.futures))
        self.over = True
        self.roles.end()


def check_of(engine: Engine) -> Any:
    def check() -> None:
        assert all(future.result(0) == i for i, future in enumerate(engine.futures))
        assert engine.roles._leader is None
        assert not engine.roles._followers

    return check


@pytest.mark.parametrize("n_waiters", [1, 2, 3])
def test_all_who_wait_get_their_results(n_waiters: int) -> None:
    def scenario(world: Interleaver) -> Any:
        engine = Engine(world, n_waiters)
        for i in range(n_waiters):
            world.add(f"waiter {i}", lambda i=i: engine.futures[i].result())
        world.add("worker", lambda: [engine.arrive(i) for i in reversed(range(n_waiters))])
        world.add("end", engine.end)
        return check_of(engine)

    explore(scenario, MODULES, n_random=150, n_preempted=300)


def test_work_that_nobody_waits_for_is_driven_in_the_background() -> None:
    def scenario(world: Interleaver) -> Any:
        engine = Engine(world, 2)
        engine.n_open = 0

        def submit() -> None:
            for i in range(2):
                engine.n_open += 1
                engine.arrive(i)
                if engine.roles.parked:
                    engine.roles.arm()
            engine.n_busy -= 1

        engine.n_busy += 1
        world.add("submitter", submit)
        world.add("end", engine.end)
        return check_of(engine)

    explore(scenario, MODULES, n_random=200, n_preempted=400)


def test_a_waiter_that_comes_while_the_background_leads_and_one_that_times_out() -> None:
    def scenario(world: Interleaver) -> Any:
        engine = Engine(world, 2)
        engine.roles.arm(urgent=True)

        def impatient() -> None:
            if not engine.futures[1].wait(0.001):
                engine.futures[1].wait(None)

        world.add("waiter", engine.futures[0].result)
        world.add("impatient", impatient)
        world.add("worker", lambda: [engine.arrive(i) for i in range(2)])
        world.add("end", engine.end)
        return check_of(engine)

    explore(scenario, MODULES, n_random=200, n_preempted=300)


def test_one_who_submits_and_looks_beside_one_who_waits() -> None:
    def scenario(world: Interleaver) -> Any:
        engine = Engine(world, 2)

        def submit() -> None:
            engine.arrive(0)
            engine.roles.try_step(0)
            engine.arrive(1)
            engine.roles.try_step(0)
            if engine.roles.parked:
                engine.roles.arm()
            engine.n_busy -= 1

        engine.n_busy += 1
        world.add("submitter", submit)
        world.add("waiter", engine.futures[1].result)
        world.add("end", engine.end)
        return check_of(engine)

    explore(scenario, MODULES, n_random=200, n_preempted=300)
