"""One core budget for a pool, its workers, and the pools and numerical libraries inside of these.

A pool divides the cores that it may use by its slots. The share is told

- to pools in its workers: by the environment variable ``FULLCOURT_CORES`` in worker processes, for all that they start;
  elsewhere by a note in the thread or interpreter; :func:`fullcourt._os.cpus.usable_cores` reads both;
- to other pools there: ``PYTHON_CPU_COUNT`` (Python 3.13 and later read it when they start) and ``LOKY_MAX_CPU_COUNT``;
- to the libraries that bring threads of their own: by the variables below, unless the user has set them, and by
  `threadpoolctl` where it is installed and they are loaded already.

Forked workers get the limits of loaded libraries by the fork: they are set in the program for the millisecond in which
the template is forked. Set in the worker, OpenBLAS would start all its threads first (0.3.31, read and measured).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from importlib import import_module

from fullcourt._os.locks import make_lock

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "CORES_VARIABLE",
    "LIBRARY_VARIABLES",
    "is_in_pool_thread",
    "libraries_limited",
    "limit_this_thread",
    "own_share",
    "set_share",
    "worker_environment",
]

# How many cores this process and what it starts may use; pools set it in their workers.
CORES_VARIABLE = "FULLCOURT_CORES"
# What the libraries read when they are loaded.
LIBRARY_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
COUNT_VARIABLES = (CORES_VARIABLE, "PYTHON_CPU_COUNT", "LOKY_MAX_CPU_COUNT")
# By threadpoolctl's name of a kind of library: what its user may have set.
VARIABLES_OF = {
    "openblas": ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"),
    "mkl": ("MKL_NUM_THREADS", "OMP_NUM_THREADS"),
    "blis": ("BLIS_NUM_THREADS", "OMP_NUM_THREADS"),
    "openmp": ("OMP_NUM_THREADS",),
}
# Without any of these there is no library to be limited: threadpoolctl need not be imported (10 ms).
BRINGERS = frozenset(
    ("faiss", "jax", "lightgbm", "mkl", "numba", "numpy", "scipy", "sklearn", "tensorflow", "torch", "xgboost")
)

# Held while the program's own limits are lowered for a fork; a second pool would take the lowered ones for the real.
lock = make_lock()
# threadpoolctl's controller, and how many modules there were when it looked for libraries.
looked: tuple[int, Any] = (0, None)


class Shares(threading.local):
    """What a pool of threads gave to each of its threads."""

    of_thread: int | None = None


shares = Shares()
share_of_interpreter: int | None = None  # each sub-interpreter has a variable of its own


def set_share(count: int, *, of_thread: bool) -> None:
    """Note how many cores tasks in this thread, or in this interpreter, may use."""
    global share_of_interpreter  # noqa: PLW0603
    if of_thread:
        shares.of_thread = count
    else:
        share_of_interpreter = count


def is_in_pool_thread() -> bool:
    """Whether the calling thread runs the tasks of a pool of threads."""
    return shares.of_thread is not None


def own_share(environ: Mapping[str, str] | None = None) -> int | None:
    """How many cores a pool has left for what runs here; None outside of pools."""
    noted = shares.of_thread or share_of_interpreter
    if noted is not None:
        return noted
    value = (os.environ if environ is None else environ).get(CORES_VARIABLE, "")
    return int(value) if value.isascii() and value.isdigit() and int(value) > 0 else None


def worker_environment(share: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables to be set for worker processes that may use so many cores for each task."""
    wanted: dict[str, str] = {}
    for name in COUNT_VARIABLES:
        wanted[name] = str(share)
    for name in LIBRARY_VARIABLES:
        # Numba refuses to compile when this changes under it.
        if not is_users(name, environ) and not (name.startswith("NUMBA") and "numba" in sys.modules):
            wanted[name] = str(share)
    return wanted


def is_users(name: str, environ: Mapping[str, str]) -> bool:
    """Whether the user has set a variable, and not a pool further up, which sets all to one number."""
    value = environ.get(name)
    return bool(value) and value != environ.get(CORES_VARIABLE)


def loaded_libraries() -> list[Any]:
    """The loaded libraries that have threads of their own and may be limited; empty without threadpoolctl."""
    global looked  # noqa: PLW0603  the search takes 3 ms, and finds the same while nothing is imported
    if BRINGERS.isdisjoint(sys.modules):
        return []
    if looked[0] != len(sys.modules):
        try:
            threadpoolctl: Any = import_module("threadpoolctl")
        except ImportError:
            return []
        looked = (len(sys.modules), threadpoolctl.ThreadpoolController())
    return [
        library
        for library in looked[1].lib_controllers
        if not any(is_users(name, os.environ) for name in VARIABLES_OF.get(library.internal_api, ()))
    ]


@contextlib.contextmanager
def libraries_limited(share: int) -> Iterator[None]:
    """Within this, loaded libraries use at most so many threads; what is forked off within keeps that for good."""
    owner = os.getpid()
    if not lock.acquire(timeout=1):  # this process was forked while another thread held it
        yield
        return
    lowered: list[tuple[Any, int]] = []
    try:
        with contextlib.suppress(Exception):  # whatever a library's own functions make of it
            for library in loaded_libraries():
                before = library.num_threads
                if before is not None and before > share:
                    lowered.append((library, before))
                    library.set_num_threads(share)
        yield
    finally:
        if os.getpid() == owner:
            for library, before in lowered:
                with contextlib.suppress(Exception):
                    library.set_num_threads(before)
        lock.release()


def limit_this_thread() -> None:
    """Limit the teams that OpenMP gives to this thread to its share of the cores. Other threads are not touched."""
    share = own_share()
    if share is not None:
        with contextlib.suppress(Exception):
            for library in loaded_libraries():
                if library.user_api == "openmp" and library.num_threads > share:
                    library.set_num_threads(share)
