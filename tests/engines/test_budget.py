"""Workers get their share of the cores, and so do pools and libraries inside of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import fullcourt
from fullcourt._os.budget import COUNT_VARIABLES, LIBRARY_VARIABLES
from tests.engines import budget_tasks as tasks
from tests.engines.output_harness import FEW, KINDS

pytestmark = pytest.mark.timeout(60)

NewPool = Callable[..., Any]


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LIBRARY_VARIABLES, *COUNT_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHON_CPU_COUNT", "8")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_pool(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[NewPool]:
    pools: list[Any] = []
    if kind == "portable":
        monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable")

    def make(**options: Any) -> Any:
        pools.append(fullcourt.Pool(**(KINDS[kind] | options)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()
        pool.join()


few = pytest.mark.parametrize("kind", FEW, indirect=True)
processes = pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "interpreters"], indirect=True)
fresh = pytest.mark.parametrize("kind", ["spawn", "portable"], indirect=True)


def n_slots(kind: str) -> int:
    options = KINDS[kind]
    return int(options.get("processes", options.get("interpreters")) * options.get("threads", 1))


def test_each_slot_has_its_share(new_pool: NewPool, kind: str) -> None:
    assert set(new_pool().map(tasks.share, range(10))) == {8 // n_slots(kind)}


@few
def test_a_nested_pool_takes_its_share(new_pool: NewPool) -> None:
    assert new_pool().apply(tasks.size_of_a_nested_pool) == (4, [1, 1, 1])


def test_a_pool_of_threads_shares_too() -> None:
    with fullcourt.Pool(threads=4) as pool:
        assert pool.map(tasks.share, range(8)) == [2] * 8
    assert tasks.share() == 8
    with fullcourt.Pool(processes=0) as pool:
        assert pool.apply(tasks.share) == 8


@processes
def test_the_environment_of_a_worker(new_pool: NewPool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "5")
    told = new_pool().apply(tasks.environment)
    assert told.pop("MKL_NUM_THREADS") == "5"
    assert set(told.values()) == {str(8 // n_slots(kind))}


@fresh
@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python does not read PYTHON_CPU_COUNT")
def test_python_itself_counts_the_share(new_pool: NewPool) -> None:
    assert new_pool().apply(tasks.python_s_count) == 4


@processes
def test_blas_uses_the_share(new_pool: NewPool, kind: str) -> None:
    """The limit of a library that was loaded before the fork, and of one that a task loads."""
    threadpoolctl: Any = pytest.importorskip("threadpoolctl")
    pytest.importorskip("numpy")
    before = threadpoolctl.threadpool_info()
    if not any(lib["user_api"] == "blas" for lib in before):
        pytest.skip("NumPy has no BLAS that can be limited")
    most = max(lib["num_threads"] for lib in before)
    pool = new_pool(processes=8)
    counts, n_threads = pool.apply(tasks.blas_threads)
    assert set(counts) == {1}
    if kind in ("fork", "forkserver", "spawn"):
        assert n_threads <= 1
    after = threadpoolctl.threadpool_info()
    assert max(lib["num_threads"] for lib in after) == most
