"""A process that has used up what it may have: tasks fail with that error, and nobody hangs or dies of it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import fullcourt
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


FAILS_TO_OPEN = """
import gc, os, resource, sys, threading, time
import fullcourt

def n_open():
    return len(os.listdir("/proc/self/fd")) - 1

if __name__ == "__main__":
    with fullcourt.Pool(2):
        pass
    for n_free in range(1, 12):
        before = n_open()
        for _ in range(2):
            resource.setrlimit(resource.RLIMIT_NOFILE, (n_open() + n_free, 20000))
            try:
                with fullcourt.Pool(2, start_method=sys.argv[1]) as pool:
                    pool.map(abs, [1])
            except OSError:
                pass
            except fullcourt.PoolBroken as error:
                assert "could not be started" in str(error), error
            resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))
        gc.collect()
        until = time.monotonic() + 20
        while n_open() > before or threading.active_count() > 1:
            assert time.monotonic() < until, (n_free, n_open() - before, threading.enumerate())
            time.sleep(0.01)
    print("nothing is left")
"""

CLOSED = """
import os, sys
import fullcourt

def talk(x):
    print("hello", file=sys.stderr)
    return x

if __name__ == "__main__":
    log = os.dup(1)
    for fd in (0, 1, 2):
        os.close(fd)
    for _ in range(3):
        with fullcourt.Pool(2, start_method=sys.argv[1]) as pool:
            assert pool.map(talk, range(20)) == list(range(20))
    os.write(log, b"all is well\\n")
"""


def run_program(folder: Path, text: str, *arguments: str) -> str:
    path = folder / "program.py"
    path.write_text(text, encoding="utf-8")
    command = [sys.executable, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_pool_that_cannot_be_opened_keeps_nothing(tmp_path: Path, method: str) -> None:
    assert run_program(tmp_path, FAILS_TO_OPEN, method) == "nothing is left\n"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_is_printed_where_the_standard_streams_are_closed_is_dropped(tmp_path: Path, method: str) -> None:
    assert run_program(tmp_path, CLOSED, method) == "all is well\n"


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_how_the_process_ended_that_starts_the_workers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    (tmp_path / "deadly_module.py").write_text("import os\nos._exit(7)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        pytest.raises(fullcourt.WorkerDied, match="exited with code 7"),
        fullcourt.Pool(2, start_method=method, preload=["deadly_module"]) as pool,
    ):
        pool.map(abs, range(3))
