"""The interleaver itself: it must find the races that are put before it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tests.interleave.interleaver import Interleaver, Lock, explore

HERE = [sys.modules[__name__]]


def counting(world: Interleaver, lock: Any) -> Any:
    counter = [0]

    def add() -> None:
        for _ in range(2):
            with lock:
                seen = counter[0]
                counter[0] = seen + 1

    world.add("one", add)
    world.add("two", add)

    def check() -> None:
        assert counter == [4]

    return check


class NoLock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_a_lost_update_is_found() -> None:
    with pytest.raises(AssertionError, match="counter|4"):
        explore(lambda world: counting(world, NoLock()), HERE, n_random=30, n_preempted=1_000)


def test_a_lock_prevents_it() -> None:
    explore(lambda world: counting(world, Lock(world)), HERE, n_random=100, n_preempted=1_000)


def test_a_deadlock_is_found() -> None:
    def crossing(world: Interleaver) -> Any:
        first, second = Lock(world), Lock(world)

        def take(one: Lock, other: Lock) -> None:
            with one, other:
                pass

        world.add("one", lambda: take(first, second))
        world.add("two", lambda: take(second, first))
        return lambda: None

    with pytest.raises(AssertionError, match="deadlock"):
        explore(crossing, HERE, n_random=0, n_preempted=1_000)


def test_a_lost_wakeup_is_found() -> None:
    def sleeping(world: Interleaver) -> Any:
        state = {"ready": False, "asleep": False}
        bell = Lock(world)
        bell.acquire()

        def sleep() -> None:
            if not state["ready"]:
                state["asleep"] = True
                bell.acquire()

        def wake() -> None:
            was_asleep = state["asleep"]
            state["ready"] = True
            if was_asleep:
                bell.release()

        world.add("sleeper", sleep)
        world.add("waker", wake)
        return lambda: None

    with pytest.raises(AssertionError, match="deadlock"):
        explore(sleeping, HERE, n_random=100, n_preempted=1_000)


def test_a_time_out_comes_when_nobody_else_can_go_on() -> None:
    seen: list[bool] = []

    def waiting(world: Interleaver) -> Any:
        lock = Lock(world)
        lock.acquire()
        world.add("one", lambda: seen.append(lock.acquire(timeout=3.0)))
        return lambda: None

    explore(waiting, HERE, n_random=3, n_preempted=10)
    assert set(seen) == {False}
