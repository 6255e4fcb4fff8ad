"""A map that is over before its end holds nothing that nobody will get: neither what was not run, nor what came."""

from __future__ import annotations

import sysconfig
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import fullcourt
from tests.methods import start_methods

# Without the GIL an object that another thread lets go of is finalized by the thread that made it, wherever that is
# just then: also with the pool's lock held, which nobody can prevent.
HAS_GIL = not sysconfig.get_config_var("Py_GIL_DISABLED")


class Item:
    """One whose end asks something of the pool: so it must not be finalized with the pool's lock held."""

    pool: fullcourt.Pool | None = None

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return float, (self.seconds,)

    def __del__(self) -> None:
        if Item.pool is not None and self.seconds == 1.0 and HAS_GIL:
            Item.pool.submit(abs, 1)


def work(item: Any) -> None:
    seconds = item.seconds if isinstance(item, Item) else item
    if seconds < 0:
        raise ValueError("a bad item")
    time.sleep(min(seconds, 0.001))


@pytest.fixture(params=["processes", "threads"])
def pool(request: pytest.FixtureRequest) -> Iterator[fullcourt.Pool]:
    options = {"start_method": start_methods()[0], "processes": 2} if request.param == "processes" else {"threads": 2}
    with fullcourt.Pool(**options) as pool:  # type: ignore[arg-type]
        Item.pool = pool
        yield pool
        Item.pool = None


def items(first: float = 0.001) -> tuple[list[Item], weakref.ref[Item]]:
    """Some seconds of work; the last item is far from being sent."""
    made = [Item(first), *(Item(0.001) for _ in range(5000)), Item(1.0)]
    return made, weakref.ref(made[-1])


def is_gone(ref: weakref.ref[Item]) -> bool:
    """Whether it is, within a moment: another thread may be about to let go of it. The work would take seconds."""
    limit = time.monotonic() + 1.0
    while ref() is not None:
        if time.monotonic() > limit:
            return False
        time.sleep(0.001)
    return True


def test_of_a_map_that_is_cancelled(pool: fullcourt.Pool) -> None:
    given, last = items()
    result = pool.map_async(work, given)
    del given
    time.sleep(0.01)
    result.cancel()
    assert last() is None
    with pytest.raises(fullcourt.TaskCancelled):
        result.get(30)


def test_of_a_map_that_failed(pool: fullcourt.Pool) -> None:
    given, last = items(first=-1.0)
    result = pool.map_async(work, given)
    del given
    with pytest.raises(ValueError, match="a bad item"):
        result.get(30)
    assert is_gone(last)


def test_of_an_imap_that_is_closed(pool: fullcourt.Pool) -> None:
    given, last = items()
    all_read = threading.Event()

    def source() -> Iterator[Item]:
        while given:
            yield given.pop(0)
        all_read.set()

    results = pool.imap(work, source(), buffersize=10_000)
    next(results)
    assert all_read.wait(30)
    assert last() is not None
    results.close()
    assert is_gone(last)


def test_of_a_pool_that_is_terminated() -> None:
    with fullcourt.Pool(threads=2) as pool:
        given, last = items()
        result = pool.map_async(work, given)
        del given
        pool.terminate()
        assert is_gone(last)
        with pytest.raises(fullcourt.FullcourtError):
            result.get(30)


def test_what_comes_of_it_later_is_not_kept(pool: fullcourt.Pool) -> None:
    """Its running items end after it was cancelled, with a result or, where failures are results, with an error."""
    result = pool.map_async(work, [0.001, -1.0] * 200, on_error="return")
    time.sleep(0.005)
    result.cancel()
    with pytest.raises(fullcourt.TaskCancelled):
        result.get(30)
    assert pool.map(work, [0.001] * 50) == [None] * 50


def test_of_a_chunk_that_has_ended(pool: fullcourt.Pool) -> None:
    """The last that is held of an item may be its chunk, which goes as its results come."""
    results = pool.imap(work, (Item(1.0) for _ in range(200)), chunksize=1)
    assert sum(1 for _ in results) == 200
