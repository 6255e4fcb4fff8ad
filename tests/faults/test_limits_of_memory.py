"""The pool's limit of memory: who answers for what idle workers keep."""

from __future__ import annotations

import os
import sys
import time

import pytest

import fullcourt
from fullcourt import Pool
from fullcourt._os.system import resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

MIB = 1 << 20
kept: list[bytearray] = []


def filled(n_bytes: int) -> bytearray:
    memory = bytearray(n_bytes)
    memory[::4096] = b"x" * len(memory[::4096])
    return memory


def keep(n_bytes: int) -> int:
    kept.append(filled(n_bytes))
    time.sleep(0.2)
    return n_bytes


def use(n_bytes: int) -> int:
    memory = filled(n_bytes)
    time.sleep(0.4)
    return len(memory)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_task_that_fits_does_not_fail_for_what_others_left_in_memory(n_workers: int) -> None:
    """In its own worker, or in one that is idle: both are replaced instead."""
    with Pool(n_workers, start_method="fork", memory_limit="400M") as pool:
        assert pool.map(keep, [280 * MIB // n_workers] * n_workers, 1) == [280 * MIB // n_workers] * n_workers
        assert pool.apply(use, (180 * MIB,)) == 180 * MIB
        assert pool.apply(use, (180 * MIB,)) == 180 * MIB


def test_a_task_that_does_not_fit_fails_also_after_others() -> None:
    with Pool(2, start_method="fork", memory_limit="200M") as pool:
        assert pool.map(use, [MIB] * 4, 1) == [MIB] * 4
        with pytest.raises(fullcourt.TaskMemoryExceeded, match="memory_limit"):
            pool.apply(use, (400 * MIB,))
        assert pool.apply(use, (MIB,)) == MIB


@pytest.mark.parametrize(("n_workers", "n_slots"), [(1, 2), (2, 2), (1, 4)])
def test_tasks_that_fit_alone_and_not_together_end_one_after_the_other(n_workers: int, n_slots: int) -> None:
    """A worker of several slots is killed with all of its tasks: these must not begin again together for ever."""
    with Pool(n_workers, threads=n_slots, start_method="fork", memory_limit="300M") as pool:
        futures = [pool.submit(use, 200 * MIB) for _ in range(n_workers * n_slots)]
        assert [future.result(60) for future in futures] == [200 * MIB] * len(futures)


def test_what_workers_share_with_the_program_counts_for_none_of_them() -> None:
    ballast = filled(max(0, 110 * MIB - resident_bytes(os.getpid())))
    with Pool(2, start_method="fork", memory_limit="300M") as pool:
        assert all(resident_bytes(worker.pid or 0) > 50 * MIB for worker in pool.statistics().workers)
        assert pool.apply(use, (210 * MIB,)) == 210 * MIB
    del ballast


class Heavy:
    """A function whose loading takes memory, and time."""

    def __call__(self, x: int) -> int:
        return x

    def __reduce__(self) -> tuple[object, ...]:
        return load_heavily, ()


def load_heavily() -> Heavy:
    KEPT_BY_LOADING.append(filled(60 * MIB))
    time.sleep(0.3)
    return Heavy()


KEPT_BY_LOADING: list[bytearray] = []


def test_a_function_whose_worker_is_killed_for_memory_while_it_is_loaded_is_not_to_blame() -> None:
    with Pool(2, start_method="fork", memory_limit="140M") as pool:
        futures = [pool.submit(*call) for i in range(5) for call in ((use, 90 * MIB), (Heavy(), i))]
        assert [future.result(60) for future in futures] == [n for i in range(5) for n in (90 * MIB, i)]
