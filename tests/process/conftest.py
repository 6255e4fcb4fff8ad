"""Processes under every start method."""

from __future__ import annotations

import os
import sys

import pytest

from tests.methods import start_methods

if not sys.platform.startswith("linux") or os.environ.get("FULLCOURT_TRANSPORT") == "portable":
    collect_ignore_glob = ["test_process*.py", "test_fork*.py"]


@pytest.fixture(params=start_methods())
def start_method(request: pytest.FixtureRequest) -> str:
    return str(request.param)
