"""The start methods that Python itself has here."""

from __future__ import annotations

import multiprocessing

__all__ = ["start_methods"]


def start_methods() -> list[str]:
    """The running Python's default first. Not those that other libraries add when they are imported, as loky does."""
    return [method for method in multiprocessing.get_all_start_methods() if method in ("fork", "forkserver", "spawn")]
