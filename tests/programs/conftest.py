from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from tests.programs.running import Program, Starts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path)
    yield made
    made.end()


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def start_method(request: pytest.FixtureRequest) -> str:
    method: str = request.param
    return method


@pytest.fixture
def starts(program: Program) -> Iterator[Starts]:
    made = Starts(program)
    yield made
    made.close()
