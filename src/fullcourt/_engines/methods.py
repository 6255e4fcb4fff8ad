"""Which start methods there are, and which kind of link. Light: processes by themselves import it, too."""

from __future__ import annotations

import os
import sys

__all__ = ["START_METHODS", "default_start_method", "portable_transport"]

START_METHODS = ("fork", "forkserver", "spawn")


def portable_transport() -> bool:
    """Whether links go over ``multiprocessing.connection``: where the system lacks what the fast ones need.

    The environment variable ``FULLCOURT_TRANSPORT=portable`` forces it, for testing.
    """
    forced = os.environ.get("FULLCOURT_TRANSPORT", "")
    if forced not in ("", "portable", "native"):
        raise ValueError(f"FULLCOURT_TRANSPORT is {forced!r}; it takes 'portable' or 'native'")
    return forced == "portable" or not sys.platform.startswith("linux")


def default_start_method() -> str:
    """The running Python's own default, as ``multiprocessing.get_start_method()`` names it."""
    import multiprocessing

    method = multiprocessing.get_start_method(allow_none=True)
    # Other libraries add methods of their own (loky does), and may make them the default.
    known = (name for name in multiprocessing.get_all_start_methods() if name in START_METHODS)
    return method if method in START_METHODS else next(known)
