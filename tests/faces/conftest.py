"""Fixtures of the faces' tests: one context of ours for each start method."""

from __future__ import annotations

from typing import Any

import pytest

from tests.methods import start_methods


@pytest.fixture(params=start_methods())
def context(request: pytest.FixtureRequest) -> Any:
    import fullcourt.multiprocessing

    return fullcourt.multiprocessing.get_context(request.param)
