"""A lazy map's two ends: several consumers, the input's own thread, the workers, in every order."""

from __future__ import annotations

from typing import Any

import pytest

from fullcourt._engines import streams as streams_module
from fullcourt.pool import Pool
from tests.interleave.fake_engine import MODULES, end, make_driver
from tests.interleave.interleaver import Interleaver, explore

N = 5
ALL = [streams_module, *MODULES]


def square(x: int) -> int:
    return x * x


class Input:
    """An iterator that counts who is inside: it must not be asked by two at once."""

    def __init__(self, world: Interleaver) -> None:
        self._world = world
        self._next = 0
        self._busy = False
        self.closed = False

    def __iter__(self) -> Input:
        return self

    def __next__(self) -> int:
        assert not self._busy, "two pull at once"
        self._busy = True
        self._world.point("pull")
        self._busy = False
        if self._next == N:
            raise StopIteration
        self._next += 1
        return self._next - 1


def make_pool(world: Interleaver) -> Any:
    pool = Pool.__new__(Pool)
    pool._driver = make_driver(world)
    pool._options = None
    return pool


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("pulled_by", ["a thread", "the consumers"])
def test_each_result_goes_to_one_of_several_consumers(pulled_by: str, ordered: bool) -> None:
    def scenario(world: Interleaver) -> Any:
        pool = make_pool(world)
        items = Input(world) if pulled_by == "a thread" else list(range(N))
        make = pool.imap if ordered else pool.imap_unordered
        results = make(square, items, 1, buffersize=2)
        seen: dict[str, list[int]] = {"one": [], "two": []}
        actors = [world.add(name, lambda name=name: seen[name].extend(results)) for name in seen]
        world.add("end", lambda: end(world, pool._driver, actors))

        def check() -> None:
            assert sorted(seen["one"] + seen["two"]) == [i * i for i in range(N)]
            if ordered:
                assert all(taken == sorted(taken) for taken in seen.values())
            assert pool._driver._n_open == 0

        return check

    explore(scenario, ALL, n_random=25, n_preempted=30)


def test_an_iterator_closed_while_its_input_is_pulled_and_another_thread_reads() -> None:
    def scenario(world: Interleaver) -> Any:
        pool = make_pool(world)
        results = pool.imap(square, Input(world), 1, buffersize=2)
        seen: list[int] = []
        actors = [
            world.add("reader", lambda: seen.extend(results)),
            world.add("closer", results.close),
        ]
        world.add("end", lambda: end(world, pool._driver, actors))

        def check() -> None:
            assert seen == [i * i for i in range(len(seen))]
            assert pool._driver._n_open == 0

        return check

    explore(scenario, ALL, n_random=30, n_preempted=40)


def test_the_pool_is_left_while_a_stream_is_read() -> None:
    """As `with` does it: close, then have streams end whose consumer may be that very thread."""

    def scenario(world: Interleaver) -> Any:
        pool = make_pool(world)
        driver = pool._driver
        results = pool.imap(square, list(range(N)), 1, buffersize=2)
        seen: list[int] = []

        def leave() -> None:
            driver.close()
            driver.lift_windows(all_inputs=False)
            driver.ended.wait()

        actors = [world.add("reader", lambda: seen.extend(results)), world.add("leaver", leave)]
        world.add("end", lambda: end(world, driver, actors))

        def check() -> None:
            assert seen == [i * i for i in range(N)]

        return check

    explore(scenario, ALL, n_random=30, n_preempted=40)
