"""Loads the leak check for everything that pytest runs here: tests, and the examples in src's docstrings.

It also tells `./check` what runs at each moment: a test that no signal handler ends is ended from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["tests.leaks"]

NOW = os.environ.pop("FULLCOURT_TEST_NOW", None)  # not for what the tests start
GRACE_S = 60.0  # after its own limit of time, which a signal handler keeps
END_S = 120.0  # of the run: its threads and atexit functions


def tell(limit_s: float, what: str) -> None:
    """Say what runs now, and how long it may."""
    if NOW:
        Path(NOW).write_text(f"{limit_s} {what}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Tell of each test."""
    marker = item.get_closest_marker("timeout")
    limit = marker.args[0] if marker is not None and marker.args else item.config.getini("timeout")
    tell(float(limit) + GRACE_S, item.nodeid)
    return (yield)


def pytest_unconfigure() -> None:
    """Tell that all that is left is to end."""
    tell(END_S, "the end of the run")
