"""Fixtures of the conformance suite: every engine, one shared pool for each, fresh pools where state matters.

`fullcourt` is imported by a fixture and not by the modules, so that collection never depends on the package.
"""

from __future__ import annotations

import importlib
from multiprocessing.pool import ThreadPool
from typing import TYPE_CHECKING, Any

import pytest
from conformance_harness import Engine, Gate, engines

from tests.leaks import FAILED, Snapshot, wait_until_clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType


class SharedPool:
    """One pool per engine for the whole run, replaced after a test that failed, so that failures do not spread."""

    current: SharedPool | None = None

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.pool: Any = make()

    def discard(self) -> None:
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.terminate()
            pool.join()

    def renew(self) -> None:
        if self.pool is None:
            self.pool = self._make()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # Before any fixture: what the new pool starts is not what the coming test leaves behind.
    if SharedPool.current is not None:
        SharedPool.current.renew()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """The leak check, for tests with pools of their own: a shared pool may start a thread or a worker at any time."""
    if "pool" not in request.fixturenames:
        request.getfixturevalue("_nothing_is_left_behind")
    return


@pytest.fixture(scope="session")
def fullcourt() -> ModuleType:
    return importlib.import_module("fullcourt")


@pytest.fixture(scope="session", params=engines(), ids=str)
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.param
    return chosen


@pytest.fixture(scope="module")  # not longer: its threads, and the oracle's, must not run beside the tests of forks
def shared_pool(engine: Engine, fullcourt: ModuleType, oracle: ThreadPool) -> Iterator[SharedPool]:
    before = Snapshot.take()
    SharedPool.current = shared = SharedPool(lambda: fullcourt.Pool(**engine.options))
    yield shared
    SharedPool.current = None
    shared.discard()
    left, _ = wait_until_clean(before)
    assert not left, f"the shared pool left behind: {left}"


@pytest.fixture
def pool(shared_pool: SharedPool, gates: list[Gate], request: pytest.FixtureRequest) -> Iterator[Any]:
    """The engine's shared pool: for tests that leave it as they found it."""
    yield shared_pool.pool
    for gate in gates:
        gate.release()
    if request.node.stash.get(FAILED, False):
        shared_pool.discard()


@pytest.fixture
def new_pool(engine: Engine, fullcourt: ModuleType, gates: list[Gate]) -> Iterator[Callable[..., Any]]:
    """Make fresh pools of this engine, with further options; they are terminated and joined after the test."""
    pools: list[Any] = []

    def make(**options: Any) -> Any:
        pools.append(fullcourt.Pool(**(engine.options | options)))
        return pools[-1]

    yield make
    for gate in gates:
        gate.release()
    for made in pools:
        made.terminate()
        made.join()


@pytest.fixture
def gates() -> Iterator[list[Gate]]:
    """The gates of this test. They are set up before the pools, and so closed after the last waiter is gone."""
    made: list[Gate] = []
    yield made
    for gate in made:
        gate.close()


@pytest.fixture
def gate(tmp_path: Path, gates: list[Gate]) -> Gate:
    gates.append(Gate(tmp_path))
    return gates[-1]


@pytest.fixture(scope="module")
def oracle() -> Iterator[ThreadPool]:
    """The standard library's own pool, whose answers ours must equal."""
    with ThreadPool(2) as made:
        yield made
