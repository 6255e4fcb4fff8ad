"""Tasks that look at the cores they may use: importable in every worker."""

from __future__ import annotations

import os
from typing import Any

import fullcourt
from fullcourt._os.budget import LIBRARY_VARIABLES
from fullcourt._os.cpus import usable_cores


def share(_: object = None) -> int:
    return usable_cores().count


def size_of_a_nested_pool(_: object = None) -> tuple[int, list[int]]:
    with fullcourt.Pool(start_method="spawn") as pool:
        return pool.processes, pool.map(share, range(3))


def environment() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in (*LIBRARY_VARIABLES, "FULLCOURT_CORES", "LOKY_MAX_CPU_COUNT")}


def python_s_count() -> int | None:
    return getattr(os, "process_cpu_count", os.cpu_count)()


def blas_threads() -> tuple[list[int], int]:
    """What the BLAS libraries may use, and how many threads there are, after they were used."""
    import numpy as np
    import threadpoolctl

    big: Any = np.ones((400, 400))
    big @ big
    found = [lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
    return found, len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
