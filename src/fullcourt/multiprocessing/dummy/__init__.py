"""``multiprocessing.dummy``: its API with threads, and fullcourt's ``ThreadPool`` as ``Pool``."""

from __future__ import annotations

import multiprocessing.dummy as standard
from collections.abc import Callable, Iterable
from multiprocessing.dummy import *  # noqa: F403
from typing import Any

from fullcourt.multiprocessing.pool import ThreadPool

__all__ = standard.__all__  # pyright: ignore[reportUnsupportedDunderAll]


def Pool(  # type: ignore[no-redef]  # noqa: N802  multiprocessing's name
    processes: int | None = None, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()
) -> ThreadPool:
    """A pool of threads."""
    return ThreadPool(processes, initializer, initargs)


def __getattr__(name: str) -> Any:
    return getattr(standard, name)
