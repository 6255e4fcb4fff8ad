"""Queues go along with tasks that tasks hand to their own pool: through the pool, which is no user of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from channel_tasks import ask_for_a_queue, ask_with_a_bound_method, ask_with_a_map, relay_numbers

import fullcourt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="queues need Linux")

POOLS: list[dict[str, Any]] = [{"processes": 2, "start_method": "fork"}, {"processes": 0, "threads": 2}]
if sys.version_info >= (3, 14):
    POOLS.append({"interpreters": 2})


@pytest.fixture(params=POOLS, ids=str)
def pool(request: pytest.FixtureRequest) -> Iterator[Any]:
    with fullcourt.Pool(**request.param) as opened:
        yield opened


def test_nested_tasks_see_the_end_of_a_queue_when_its_producers_have_ended(pool: Any) -> None:
    if "threads" in repr(pool):
        pytest.skip("one handle for all: who closes it, closes it for all")
    taken = pool.submit(relay_numbers, pool, 300).result(60)
    assert sorted(taken) == [(name, i) for name in "ab" for i in range(300)]


def test_a_nested_task_returns_a_queue(pool: Any) -> None:
    items = pool.submit(ask_for_a_queue, pool).result(60)
    assert [items.get(timeout=10), items.get(timeout=10)] == ["a", "b"]


def test_function_and_arguments_of_a_nested_task_hold_queues(pool: Any) -> None:
    assert pool.submit(ask_with_a_bound_method, pool).result(60) == "inner"


def test_items_and_results_of_a_nested_map_are_queues(pool: Any) -> None:
    assert pool.submit(ask_with_a_map, pool).result(60) == [1, 2, 3, 4, 5]


def test_the_pool_keeps_no_descriptors_of_nested_tasks() -> None:
    with fullcourt.Pool(processes=2, start_method="fork") as pool:
        pool.submit(ask_with_a_bound_method, pool).result(60)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            pool.submit(ask_with_a_bound_method, pool).result(60)
            pool.submit(ask_with_a_map, pool).result(60)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
