"""A process that has used up what it may have: tasks fail with that error, and nobody hangs or dies of it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import fault_tasks as tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="limits of resource(7)"),
]

LARGE = 3_000_000


@pytest.mark.parametrize("slots", [{}, {"threads": 2}], ids=["one slot", "two slots"])
@pytest.mark.parametrize("limit", ["RLIMIT_NOFILE", "RLIMIT_FSIZE"])
def test_a_worker_that_may_open_nothing_says_so_of_what_is_large_and_works_on(
    new_pool: Callable[..., Any], limit: str, slots: dict[str, int]
) -> None:
    pool = new_pool(processes=1, **slots)
    pool.apply(tasks.use_up, (limit,))
    with pytest.raises(OSError, match="Too many open files|File too large") as caught:
        pool.apply(tasks.some_bytes, (LARGE,))
    assert "the task ran" in "".join(caught.value.__notes__)
    with pytest.raises(OSError, match="Too many open files|File too large"):
        pool.submit(tasks.raise_large, LARGE).result()
    outcomes = pool.map(tasks.some_bytes, [1, LARGE, 2], chunksize=3, on_error="return")
    assert [outcomes[0], outcomes[2]] == [b"x", b"xx"]
    assert isinstance(outcomes[1].exception, OSError)
    assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
    assert len({worker.pid for worker in pool.statistics().workers}) == 1


def test_a_worker_that_may_start_no_thread_ends_as_any_other(
    new_pool: Callable[..., Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = tmp_path / "ended"
    pool = new_pool(processes=1)
    pool.apply(tasks.allow_no_more_threads, (str(ended),))
    assert pool.apply(abs, (-3,)) == 3
    pool.close()
    pool.join()
    assert ended.read_text() == "exit functions were called"
    assert not capfd.readouterr().err
