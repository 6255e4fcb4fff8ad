"""dask's graphs on our pools."""

from __future__ import annotations

import operator
import os
import sys
import threading
from typing import Any

import pytest

# In the extra `integrations`, so that it is here where CI runs the slow tests.
dask = pytest.importorskip("dask", reason="it is installed on one Python only")

import fullcourt.dask  # noqa: E402

pytest.importorskip("dask.bag", reason="it needs some of dask's own extras")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=[{"threads": 2}, {"processes": 2}], ids=["threads", "processes"])
def pool(request: pytest.FixtureRequest) -> Any:
    with fullcourt.Pool(**request.param) as pool:
        pool.map(abs, range(10))
        pool.submit(abs, -1).result()  # also the thread that it has for what nobody waits for is there now
        yield pool


def where(_: object = None) -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def total(values: list[int]) -> int:
    return sum(values)


def graph() -> Any:
    squares = [dask.delayed(operator.mul)(n, n) for n in range(10)]
    return dask.delayed(total)(squares)


def test_delayed_calls_run_in_the_pool(pool: Any) -> None:
    scheduler = fullcourt.dask.scheduler(pool)
    assert graph().compute(scheduler=scheduler) == 285
    with dask.config.set(scheduler=scheduler):
        assert graph().compute() == 285
        places = set(dask.compute(*(dask.delayed(where, pure=False)() for _ in range(20))))
    assert where() not in places
    assert len(places) <= 2
    assert ({pid for pid, _ in places} == {os.getpid()}) == (pool.processes == 0)


def test_a_pool_may_be_the_scheduler_itself(pool: Any) -> None:
    assert graph().compute(scheduler=pool) == 285
    assert dask.bag.from_sequence(range(10)).map(lambda x: x + 1).sum().compute(scheduler=pool) == 55
    with dask.config.set(scheduler=pool):
        assert graph().compute() == 285


def test_bags_run_in_the_pool(pool: Any) -> None:
    bag = dask.bag.from_sequence(range(100), npartitions=7)
    scheduler = fullcourt.dask.scheduler(pool)
    assert bag.map(lambda x: x + 1).filter(lambda x: x % 2).sum().compute(scheduler=scheduler) == 2500


def test_the_configured_pool_is_taken_by_dasks_own_schedulers(pool: Any) -> None:
    with dask.config.set(pool=pool):
        assert graph().compute(scheduler="processes") == 285
        assert dask.bag.from_sequence(range(10)).sum().compute() == 45
        if not pool.processes:
            assert graph().compute() == 285


def test_arrays_run_in_the_pool(pool: Any) -> None:
    array = pytest.importorskip("dask.array", reason="it needs NumPy")
    x = array.arange(10_000, chunks=1000)
    assert int((x**2).sum().compute(scheduler=fullcourt.dask.scheduler(pool))) == sum(n**2 for n in range(10_000))


def test_a_tasks_exception_reaches_the_caller(pool: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        dask.delayed(operator.floordiv)(1, 0).compute(scheduler=fullcourt.dask.scheduler(pool))


def test_what_is_no_pool_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes a fullcourt\.Pool"):
        fullcourt.dask.scheduler(3)  # type: ignore[arg-type]


def test_without_dask_it_is_said_what_to_install(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask.threaded", "dask.multiprocessing"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install dask"):
        fullcourt.dask.scheduler(pool)
