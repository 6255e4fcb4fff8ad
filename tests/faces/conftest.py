"""Fixtures of the faces' tests: one context of ours for each start method."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest


@pytest.fixture(params=multiprocessing.get_all_start_methods())
def context(request: pytest.FixtureRequest) -> Any:
    import fullcourt.multiprocessing

    return fullcourt.multiprocessing.get_context(request.param)
