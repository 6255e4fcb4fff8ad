"""Dividing the cores: what a pool's workers are told, and the libraries there."""

from __future__ import annotations

import ctypes.util
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from fullcourt._os import budget
from fullcourt._os.budget import LIBRARY_VARIABLES, libraries_limited, own_share, set_share, worker_environment
from fullcourt._os.cpus import share_of, usable_cores


@pytest.fixture(autouse=True)
def _no_budget_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LIBRARY_VARIABLES, *budget.COUNT_VARIABLES):
        monkeypatch.delenv(name, raising=False)


class Library:
    """As threadpoolctl shows one."""

    def __init__(self, n: int, internal_api: str = "openblas", user_api: str = "blas") -> None:
        self.num_threads = n
        self.internal_api = internal_api
        self.user_api = user_api

    def set_num_threads(self, n: int) -> None:
        self.num_threads = n


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> list[Library]:
    found = [Library(8), Library(1, "mkl"), Library(6, "openmp", "openmp")]

    class Controller:
        lib_controllers = found

    class Module:
        ThreadpoolController = Controller

    monkeypatch.setattr(budget, "import_module", lambda name: Module)
    monkeypatch.setattr(budget, "BRINGERS", frozenset(["os"]))
    monkeypatch.setattr(budget, "looked", (0, None))
    return found


def counts(libraries: list[Library]) -> list[int]:
    return [library.num_threads for library in libraries]


@pytest.mark.parametrize(("cores", "n_slots", "share"), [(8, 2, 4), (8, 3, 2), (8, 8, 1), (8, 100, 1), (1, 1, 1)])
def test_the_cores_are_divided_by_the_slots(cores: int, n_slots: int, share: int) -> None:
    assert share_of(cores, n_slots) == share


def test_a_share_comes_before_all_else() -> None:
    environ = {"FULLCOURT_CORES": "3", "PYTHON_CPU_COUNT": "16"}
    assert usable_cores(environ=environ).count == 3
    assert "FULLCOURT_CORES" in usable_cores(environ=environ).reason


@pytest.mark.parametrize("value", ["", "0", "-2", "many", "1.5", "²"])
def test_a_share_that_is_none_is_ignored(value: str) -> None:
    assert own_share({"FULLCOURT_CORES": value}) is None
    assert usable_cores(environ={"FULLCOURT_CORES": value, "PYTHON_CPU_COUNT": "16"}).count == 16


def test_a_thread_s_share_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLCOURT_CORES", "7")
    seen: list[int | None] = []

    def run() -> None:
        set_share(2, of_thread=True)
        seen.append(own_share())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [2]
    assert own_share() == 7


def test_an_interpreter_s_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "share_of_interpreter", None)
    set_share(5, of_thread=False)
    assert usable_cores().count == 5


def test_the_environment_of_workers() -> None:
    environment = worker_environment(3, {"PYTHON_CPU_COUNT": "16", "PATH": "/bin"})
    names = set(LIBRARY_VARIABLES) | {"FULLCOURT_CORES", "PYTHON_CPU_COUNT", "LOKY_MAX_CPU_COUNT"}
    assert environment == dict.fromkeys(names, "3")


def test_what_the_user_has_set_stays() -> None:
    assert "OMP_NUM_THREADS" not in worker_environment(3, {"OMP_NUM_THREADS": "8"})
    # A pool further up has set this one, and not the user.
    assert worker_environment(1, {"OMP_NUM_THREADS": "3", "FULLCOURT_CORES": "3"})["OMP_NUM_THREADS"] == "1"
    assert "MKL_NUM_THREADS" not in worker_environment(1, {"MKL_NUM_THREADS": "8", "FULLCOURT_CORES": "3"})


def test_numba_is_not_told_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(budget.sys.modules, "numba", budget)
    assert "NUMBA_NUM_THREADS" not in worker_environment(3, {})


def test_libraries_are_limited_for_a_moment(libraries: list[Library]) -> None:
    with libraries_limited(2):
        assert counts(libraries) == [2, 1, 2]
    assert counts(libraries) == [8, 1, 6]
    with pytest.raises(KeyError), libraries_limited(2):
        raise KeyError
    assert counts(libraries) == [8, 1, 6]
    assert not budget.lock.locked()


def test_a_forked_process_keeps_the_limits(libraries: list[Library]) -> None:
    read, write = os.pipe()
    with libraries_limited(2):
        pid = os.fork()
    if not pid:
        os.write(write, f"{counts(libraries)} {budget.lock.locked()}".encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"[2, 1, 2] False"
    os.close(read)
    os.close(write)
    assert counts(libraries) == [8, 1, 6]


def test_a_library_that_the_user_has_set_is_left_alone(
    libraries: list[Library], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "8")
    with libraries_limited(2):
        assert counts(libraries) == [8, 1, 2]


def test_limits_of_pools_that_open_at_once_are_undone(libraries: list[Library]) -> None:
    together = threading.Barrier(4)

    def run(share: int) -> None:
        together.wait()
        for _ in range(200):
            with libraries_limited(share):
                assert counts(libraries)[0] == share

    threads = [threading.Thread(target=run, args=(share,)) for share in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(libraries) == [8, 1, 6]


def test_a_library_that_fails_is_no_trouble(libraries: list[Library], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(n: int) -> None:
        raise OSError

    monkeypatch.setattr(libraries[0], "set_num_threads", fail)
    with libraries_limited(2):
        pass
    assert counts(libraries) == [8, 1, 6]


def test_a_thread_limits_openmp_alone(libraries: list[Library], monkeypatch: pytest.MonkeyPatch) -> None:
    budget.limit_this_thread()
    assert counts(libraries) == [8, 1, 6]  # it is in no pool
    monkeypatch.setenv("FULLCOURT_CORES", "2")
    budget.limit_this_thread()
    assert counts(libraries) == [8, 1, 2]


def find_openmp() -> str | None:
    name = ctypes.util.find_library("gomp")
    return name or next((str(path) for path in Path("/usr/lib").rglob("libgomp.so*")), None)


@pytest.mark.skipif(find_openmp() is None, reason="there is no OpenMP library here")
def test_openmp_limits_are_a_thread_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pool of threads relies on."""
    threadpoolctl: Any = pytest.importorskip("threadpoolctl")
    library = ctypes.CDLL(find_openmp())
    library.omp_set_num_threads(7)
    monkeypatch.setattr(budget, "BRINGERS", frozenset(["os"]))
    monkeypatch.setattr(budget, "looked", (0, None))
    seen: list[int] = []

    def run() -> None:
        library.omp_set_num_threads(7)
        set_share(3, of_thread=True)
        budget.limit_this_thread()
        seen.append(library.omp_get_max_threads())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert threadpoolctl
    assert (seen, library.omp_get_max_threads()) == ([3], 7)
