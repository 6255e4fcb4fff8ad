"""dask's graphs on fullcourt's pools.

    with fullcourt.Pool(4) as pool:
        result = collection.compute(scheduler=fullcourt.dask.scheduler(pool))

``dask.config.set(pool=pool)`` takes a pool, too, where dask's own scheduler suits it: ``"threads"``, the default of
arrays and delayed calls, for pools of threads; ``"processes"``, the default of bags, for all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from fullcourt.pool import Pool

__all__ = ["scheduler"]


def scheduler(pool: Pool) -> Callable[..., Any]:
    """A scheduler for dask, as its ``scheduler=`` takes it, that runs a graph's tasks in this pool.

    For ``compute(scheduler=...)`` and ``dask.config.set(scheduler=...)``. With worker processes or sub-interpreters it
    is dask's scheduler for processes, which pickles what tasks exchange; else its scheduler for threads. The pool stays
    open. May be called from several threads at once.

    Raises:
        ImportError: dask is missing; the message says what to install.
        TypeError: that is no pool.
    """
    if not isinstance(pool, Pool):
        raise TypeError(f"fullcourt.dask.scheduler takes a fullcourt.Pool, not {pool!r}")
    module = "dask.multiprocessing" if pool.processes or pool.interpreters else "dask.threaded"
    try:
        get = import_module(module).get
    except ImportError as error:
        raise ImportError("dask is not installed; install it with: pip install dask") from error
    return partial(get, pool=pool)
