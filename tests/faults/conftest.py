"""Fixtures of the fault tests: process engines under every start method; journals of what ran."""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from conformance_harness import Gate

from tests.methods import start_methods

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import ModuleType


# Acts when it is imported; pytest must not do that, looking for doctests.
collect_ignore = ["template_steps.py"]


@dataclass(frozen=True)
class Journal:
    """A file to which tasks append what they run: one line each, ``item pid``."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()]

    def n_runs(self) -> Counter[int]:
        """How often each item was begun."""
        return Counter(int(item) for item, _ in self.lines())

    def pid_of(self, item: int) -> int:
        (pid,) = [int(pid) for noted, pid in self.lines() if int(noted) == item]
        return pid


@pytest.fixture(scope="session")
def fullcourt() -> ModuleType:
    return importlib.import_module("fullcourt")


@pytest.fixture(params=start_methods())
def start_method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gates() -> Iterator[list[Gate]]:
    made: list[Gate] = []
    yield made
    for gate in made:
        gate.close()


@pytest.fixture
def gate(tmp_path: Path, gates: list[Gate]) -> Gate:
    gates.append(Gate(tmp_path))
    return gates[-1]


@pytest.fixture
def new_pool(start_method: str, fullcourt: ModuleType, gates: list[Gate]) -> Iterator[Callable[..., Any]]:
    pools: list[Any] = []

    def make(**options: Any) -> Any:
        pools.append(fullcourt.Pool(**({"processes": 2, "start_method": start_method} | options)))
        return pools[-1]

    yield make
    for gate in gates:
        gate.release()
    for pool in pools:
        pool.terminate()
        pool.join()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    path = tmp_path / "journal"
    path.touch()
    return Journal(path)
