"""A future: settled, waited for, cancelled and asked at once, in every order."""

from __future__ import annotations

import concurrent.futures as cf
from typing import Any

import pytest

from fullcourt._engines import future as future_module
from fullcourt._engines import roles as roles_module
from fullcourt._engines.future import Future
from fullcourt._engines.roles import wait_aside
from fullcourt.errors import TaskCancelled
from tests.interleave.interleaver import Interleaver, explore

MODULES = [future_module, roles_module]


class Aside:
    """A settler whose futures are settled by another thread."""

    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        return wait_aside(future, timeout)

    def cancel(self, future: Future[Any]) -> bool:
        return future._settle_cancelled()

    def hurry(self) -> None: ...

    def is_running(self, future: Future[Any]) -> bool:
        return False


@pytest.mark.parametrize("with_callbacks", [False, True], ids=["bare", "with callbacks"])
@pytest.mark.parametrize("how", ["result", "error", "cancel"])
def test_all_who_wait_are_woken_whenever_it_ends(how: str, with_callbacks: bool) -> None:
    def scenario(world: Interleaver) -> Any:
        future: Future[int] = Future(Aside())
        seen: list[Any] = []
        called: list[Any] = []

        def wait() -> None:
            try:
                seen.append(future.result())
            except (ValueError, cf.CancelledError) as error:
                seen.append(type(error))

        def settle() -> None:
            if how == "result":
                future._settle(7, None)
            elif how == "error":
                future._settle(None, ValueError())
            else:
                assert future._settle_cancelled()

        world.add("waiter", wait)
        world.add("settler", settle)
        world.add("other waiter", lambda: wait() if not with_callbacks else future.add_done_callback(called.append))
        expected = {"result": 7, "error": ValueError, "cancel": TaskCancelled}[how]

        def check() -> None:
            assert seen == [expected] * (1 if with_callbacks else 2)
            assert called == ([future] if with_callbacks else [])
            assert not future._blocked

        return check

    explore(scenario, MODULES, n_random=60, n_preempted=300)


def test_a_wait_that_times_out_misses_no_end() -> None:
    def scenario(world: Interleaver) -> Any:
        future: Future[int] = Future(Aside())
        answers: list[bool] = []

        def wait() -> None:
            answers.append(future.wait(0.5))
            if not answers[-1]:
                assert future.wait(None)

        world.add("waiter", wait)
        world.add("settler", lambda: future._settle(7, None))

        def check() -> None:
            assert future.result(0) == 7
            assert not future._blocked

        return check

    explore(scenario, MODULES, n_random=100, n_preempted=300)


def test_it_ends_once_when_two_end_it_by_hand() -> None:
    def scenario(world: Interleaver) -> Any:
        future: Future[str] = Future()
        won: list[str] = []
        called: list[Any] = []
        future.add_done_callback(lambda f: called.append(f.cancelled() or f.result(0)))

        def set_result(name: str) -> None:
            try:
                future.set_result(name)
            except cf.InvalidStateError:
                return
            won.append(name)

        def cancel() -> None:
            if future.cancel():
                won.append("cancelled")

        world.add("one", lambda: set_result("one"))
        world.add("two", lambda: set_result("two"))
        world.add("canceller", cancel)

        def check() -> None:
            assert len(won) == 1
            assert called == ([True] if won == ["cancelled"] else won)

        return check

    explore(scenario, MODULES, n_random=100, n_preempted=400)


def test_the_standard_librarys_wait_counts_right() -> None:
    """``concurrent.futures.wait`` reads states under the conditions of all futures, while they end."""

    def scenario(world: Interleaver) -> Any:
        futures: list[Future[int]] = [Future(Aside()) for _ in range(3)]
        waiters: list[Any] = []

        class Waiter:
            """What ``concurrent.futures.wait`` installs."""

            def __init__(self) -> None:
                self.told: list[Any] = []

            def add(self, future: Any) -> None:
                self.told.append(future)

            add_result = add_exception = add_cancelled = add

        def watch() -> None:
            waiter = Waiter()
            waiters.append(waiter)
            with cf._base._AcquireFutures(futures):
                done = {future for future in futures if future.done()}
                for future in futures:
                    if future not in done:
                        future._waiters.append(waiter)
            world.block(lambda: len(waiter.told) == 3 - len(done))

        world.add("watcher", watch)
        world.add("first", lambda: (futures[0]._settle(1, None), futures[1]._settle_cancelled()))
        world.add("second", lambda: futures[2]._settle(None, ValueError()))

        def check() -> None:
            assert all(future.done() for future in futures)

        return check

    explore(scenario, MODULES, n_random=80, n_preempted=300)
