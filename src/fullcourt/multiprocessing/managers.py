"""``multiprocessing.managers`` with a ``SyncManager`` whose pools are fullcourt's."""

from __future__ import annotations

import multiprocessing.managers as standard
from multiprocessing.managers import *  # noqa: F403  # pyright: ignore[reportAssignmentType]
from typing import Any

from fullcourt.multiprocessing.pool import Pool

__all__ = standard.__all__  # pyright: ignore[reportUnsupportedDunderAll]


class SyncManager(standard.SyncManager):  # type: ignore[no-redef]  # pyright: ignore[reportAssignmentType]
    """Shared objects in a process of their own, as the standard library's class of this name."""


SyncManager.register("Pool", Pool, standard.PoolProxy)  # type: ignore[attr-defined]


def __getattr__(name: str) -> Any:
    return getattr(standard, name)
