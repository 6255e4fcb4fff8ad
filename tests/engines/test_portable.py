"""Pools over the portable transport, forced on this system: a part of the conformance suite, and what is its own.

The whole suite runs over it with FULLCOURT_TRANSPORT=portable in the environment.
"""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import conformance_tasks as tasks
import pytest
from conformance_harness import Gate, descendant_pids, is_alive

import fullcourt
from fullcourt.errors import NotSupported, PicklingError, WorkerDied
from tests.faults import fault_tasks

pytestmark = pytest.mark.timeout(60)

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _portable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


@pytest.fixture(params=[{}, {"threads": 2}], ids=["processes", "processes-x-threads"])
def new_pool(request: pytest.FixtureRequest, gate: Gate) -> Iterator[Callable[..., Any]]:
    pools: list[Any] = []

    def make(**options: Any) -> Any:
        pools.append(fullcourt.Pool(2, **(request.param | options)))
        return pools[-1]

    yield make
    gate.release()
    for pool in pools:
        pool.terminate()
        pool.join()


def worker_pids(pool: Any) -> list[int]:
    return [worker.pid for worker in pool.statistics().workers]


# --- the choice


def test_fork_is_refused_and_the_message_says_what_to_do() -> None:
    with pytest.raises(NotSupported, match=r"(?s)fork.*portable.*fresh\s.*'spawn'"):
        fullcourt.Pool(2, start_method="fork")


@pytest.mark.parametrize("start_method", [None, "spawn", "forkserver"])
def test_the_other_start_methods_are_fresh_interpreters(start_method: str | None) -> None:
    with fullcourt.Pool(1, start_method=start_method) as pool:
        assert pool.apply(os.getppid) == os.getpid()  # no template stands between
        assert pool.apply(lambda: "tests.faults.fault_tasks" in sys.modules) is False


def test_an_unknown_transport_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLCOURT_TRANSPORT", "pigeon")
    with pytest.raises(ValueError, match=r"pigeon.*portable"):
        fullcourt.Pool(2)


# --- what every engine does


def test_calls_of_every_kind(new_pool: Callable[..., Any]) -> None:
    offset = 5
    with new_pool() as pool:
        assert pool.apply(tasks.add, (1, 2), {"c": 3}) == 6
        assert pool.map(tasks.square, range(1_000)) == [i * i for i in range(1_000)]
        assert pool.map(lambda x: x + offset, range(10)) == list(range(5, 15))
        assert pool.starmap(tasks.add, [(1, 2), (3, 4)]) == [3, 7]
        assert list(pool.imap(tasks.square, range(500))) == [i * i for i in range(500)]
        assert sorted(pool.imap_unordered(tasks.square, range(500))) == [i * i for i in range(500)]
        futures = [pool.submit(tasks.square, i) for i in range(2_000)]
        assert [future.result(30) for future in futures] == [i * i for i in range(2_000)]
        with contextlib.closing(pool.imap(tasks.square, itertools.count())) as endless:
            assert list(itertools.islice(endless, 1_000)) == [i * i for i in range(1_000)]
    assert pool.statistics().n_done >= 5_000


def test_errors_reach_the_caller_as_themselves(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    with pytest.raises(ZeroDivisionError) as caught:
        pool.submit(tasks.divide, 1, 0).result(30)
    assert "divide(1, 0)" in "\n".join(caught.value.__notes__)
    with pytest.raises(PicklingError, match="lock"):
        pool.submit(tasks.return_a_lock).result(30)
    results = pool.map(tasks.fail_on_negative, [1, -1, 2], chunksize=3, on_error="return")
    assert [results[0], results[2]] == [1, 2]
    assert isinstance(results[1].exception, ValueError)


def test_an_initializer_runs_in_every_worker_and_its_failure_fails_the_pool(new_pool: Callable[..., Any]) -> None:
    with new_pool(initializer=tasks.initialize, initargs=("colour", bytearray(200_000))) as pool:
        assert pool.map(lambda key: len(tasks.read_setting(key)), ["colour"] * 50) == [200_000] * 50
    with pytest.raises(ZeroDivisionError):
        new_pool(initializer=tasks.divide, initargs=(1, 0)).submit(tasks.square, 1).result(30)


def test_workers_are_replaced_after_so_many_tasks(new_pool: Callable[..., Any]) -> None:
    with new_pool(max_tasks_per_child=5) as pool:
        pids = pool.map(tasks.worker_pid, range(15))
    assert max(map(pids.count, pids)) <= 5


def test_a_pool_in_a_task_of_a_pool(new_pool: Callable[..., Any]) -> None:
    with new_pool() as pool:
        assert pool.submit(tasks.nested_map, {"processes": 1}, [1, 2, 3]).result(50) == [1, 4, 9]


def test_arrays_come_back_equal_and_writable(new_pool: Callable[..., Any]) -> None:
    np = pytest.importorskip("numpy")
    with new_pool() as pool:
        source = np.arange(1_250_000, dtype=float)
        for result in [pool.submit(tasks.double_in_place, source) for _ in range(4)]:
            back = result.result(30)
            np.testing.assert_array_equal(back, source * 2)
            back += 1
        assert source[1] == 1


def test_a_pool_that_is_never_used_ends_at_once(new_pool: Callable[..., Any]) -> None:
    with new_pool():
        pass
    new_pool().terminate()


# --- the link


def test_large_arguments_and_results_both_ways_at_once_do_not_deadlock(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    data = [bytes([i]) * (5 * MIB + i) for i in range(24)]
    futures = [pool.submit(tasks.identity, item) for item in data]
    assert all(future.result(50) == item for future, item in zip(futures, data, strict=True))
    assert pool.map(tasks.reverse_bytes, data[:8], chunksize=4) == [item[::-1] for item in data[:8]]


def test_sending_to_workers_that_do_not_read_blocks_nobody(new_pool: Callable[..., Any]) -> None:
    if sys.platform == "win32":
        pytest.skip("processes are not stopped by signals there")
    pool = new_pool()
    pool.map(tasks.square, range(20))
    pids = worker_pids(pool)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        futures = [pool.submit(len, bytes(3 * MIB)) for _ in range(20)]
        with pytest.raises(TimeoutError):
            futures[0].result(0.2)
        assert futures[-1].cancel()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert [future.result(30) for future in futures[:-1]] == [3 * MIB] * 19


def test_short_tasks_do_not_wait_behind_a_long_one(new_pool: Callable[..., Any], gate: Gate) -> None:
    pool = new_pool()
    pool.map(tasks.square, range(100))
    long = pool.submit(tasks.pass_through, gate.turnstile, "long")
    short = [pool.submit(tasks.square, i) for i in range(500)]
    assert [future.result(30) for future in short] == [i * i for i in range(500)]
    assert not long.done()
    gate.permit()
    assert long.result(30) == "long"


def test_what_waits_in_a_worker_can_be_cancelled(new_pool: Callable[..., Any], gate: Gate, tmp_path: Path) -> None:
    pool = new_pool()
    n_slots = 2 * pool._driver.scheduler.n_slots
    journal = tmp_path / "journal"
    journal.touch()
    blocked = [pool.submit(tasks.pass_through, gate.turnstile, i) for i in range(n_slots)]
    gate.wait_arrivals(n_slots)
    waiting = [pool.submit(tasks.record, str(journal), i) for i in range(10)]
    assert all(future.cancel() for future in waiting)
    gate.permit(n_slots)
    assert [future.result(30) for future in blocked] == list(range(n_slots))
    assert journal.read_text() == ""


# --- deaths


@pytest.mark.faults
@pytest.mark.parametrize("how", ["SIGKILL", "exit 3"])
def test_a_crash_costs_the_task_that_had_started(how: str, new_pool: Callable[..., Any], tmp_path: Path) -> None:
    pool = new_pool()
    journal = tmp_path / "journal"
    futures = [pool.submit(fault_tasks.square_or_die, str(journal), 40, how, i) for i in range(100)]
    error = futures[40].exception(30)
    assert isinstance(error, WorkerDied)
    assert how.rsplit(maxsplit=1)[-1] in str(error)
    assert error.exitcode == (3 if how == "exit 3" else -signal.SIGKILL)
    assert (error.peak_bytes or 1e9) > 1e6
    cf.wait(futures, timeout=30)
    lost = [i for i, future in enumerate(futures) if future.exception(0) is not None]
    assert len(lost) <= pool._driver.scheduler.n_slots
    assert [future.result(0) for i, future in enumerate(futures) if i not in lost] == [
        i * i for i in range(100) if i not in lost
    ]
    noted = [line.split()[0] for line in journal.read_text().splitlines()]
    assert len(noted) == len(set(noted))


@pytest.mark.faults
def test_a_crash_inside_a_chunk_costs_one_item_of_it(tmp_path: Path, new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    run = [(str(tmp_path / "journal"), 50, "exit 3", i) for i in range(100)]
    results = pool.starmap(fault_tasks.square_or_die, run, chunksize=100, on_error="return")
    assert [i for i, result in enumerate(results) if isinstance(result, fullcourt.Failure)] == [50]


@linux
@pytest.mark.faults
def test_a_grandchild_that_holds_the_link_open_hides_no_death(new_pool: Callable[..., Any], tmp_path: Path) -> None:
    pool = new_pool()
    future = pool.submit(fault_tasks.start_a_child_and_wait, str(tmp_path / "journal"))
    assert isinstance(future.exception(30), WorkerDied)
    assert pool.map(tasks.square, range(20)) == [i * i for i in range(20)]


@pytest.mark.faults
def test_a_death_while_a_large_result_is_on_its_way(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    for n_bytes in (10, 300_000, 20_000_000):
        future = pool.submit(fault_tasks.large_result_then_die, n_bytes)
        assert isinstance(future.exception(30), WorkerDied) or future.result(0) == bytes(n_bytes)
    assert pool.map(tasks.square, range(20)) == [i * i for i in range(20)]


@linux
@pytest.mark.faults
def test_terminate_stops_a_stopped_and_a_stubborn_worker(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    stubborn = pool.submit(fault_tasks.ignore_polite_signals)
    pool.submit(tasks.square, 2).result(30)
    pids = worker_pids(pool)
    os.kill(pids[0], signal.SIGSTOP)
    pool.terminate()
    pool.join()
    assert not any(is_alive(pid) for pid in pids)
    assert stubborn.done()


PARENT = """
import os, sys
sys.path[:0] = {path!r}
import fullcourt
from conformance_harness import Gate, descendant_pids
from conformance_tasks import pass_through
from pathlib import Path
from tests.faults import fault_tasks

gate = Gate(Path({folder!r}))
pool = fullcourt.Pool(3)
future = pool.submit(pass_through, gate.turnstile, 1)
gate.wait_arrivals(1)
other = pool.submit({busy})
pool.submit(abs, -1).result()
print(*descendant_pids(servants=True), flush=True)
sys.stdin.read()
"""


@linux
@pytest.mark.faults
@pytest.mark.parametrize("busy", ["spin_holding_the_gil", "one_long_call_in_c", "ignore_polite_signals"])
def test_nothing_outlives_a_parent_that_was_killed(busy: str, tmp_path: Path) -> None:
    program, temporary = tmp_path / "parent.py", tmp_path / "temporary"
    temporary.mkdir()
    paths = [path for path in sys.path if path]
    text = PARENT.format(path=paths, folder=str(tmp_path), busy=f"fault_tasks.{busy}")
    program.write_text(text)
    parent = subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(temporary)},
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert list(temporary.iterdir()) == []
        sentinels = [os.pidfd_open(pid) for pid in pids]
        parent.kill()
        import select

        until = time.monotonic() + 1.0
        late = [fd for fd in sentinels if not select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]]
        for fd in late:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        for fd in sentinels:
            os.close(fd)
    assert late == []
    assert list(temporary.iterdir()) == []


@linux
def test_a_pool_leaves_no_file_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = descendant_pids()
    with fullcourt.Pool(2) as pool:
        pool.map(tasks.square, range(100))
        assert list(tmp_path.iterdir()) == []
        assert len(descendant_pids() - before) == 2
    assert list(tmp_path.iterdir()) == []
    assert descendant_pids() - before == set()


# --- other systems, as far as they can be played here

LINUX_ONLY = """
import os, select, signal, socket, sys

def forget(module, *names):
    for name in list(vars(module)):
        if name in names or name.startswith(tuple(n[:-1] for n in names if n.endswith("*"))):
            delattr(module, name)

forget(select, "epoll", "EPOLL*")
forget(os, "memfd_create", "MFD_*", "eventfd*", "EFD_*", "pidfd_open", "sched_getaffinity", "waitid", "posix_fallocate")
forget(signal, "pidfd_send_signal", "sigtimedwait")
forget(socket, "SOCK_SEQPACKET", "SOCK_CLOEXEC", "SOCK_NONBLOCK")
"""

# What Windows lacks besides; not enough of it is left to start anything, but all must import.
UNIX_ONLY = """
import subprocess, tempfile, threading, concurrent.futures.process, multiprocessing.connection, multiprocessing.pool
import multiprocessing.util, shutil, getpass, random, logging, http.server, urllib.request, zlib, hashlib, json
forget(socket, "AF_UNIX", "SCM_*", "MSG_DONTWAIT", "CMSG_*", "socketpair", "send_fds", "recv_fds")
forget(select, "poll", "POLL*")
forget(os, "fork*", "wait*", "posix_*", "POSIX_*", "getppid", "geteuid", "getuid", "O_ASYNC", "O_NONBLOCK", "W*")
forget(os, "register_at_fork", "kill*", "setsid", "getpgid", "setpgid", "pipe2", "preadv", "pread", "pwrite")
forget(signal, "SIGKILL", "SIGSTOP", "SIGIO", "SIGALRM", "SIGCHLD", "SIGHUP", "SIGPIPE", "SIGUSR*", "pthread_*")
for name in ("fcntl", "resource", "termios", "pwd", "grp", "_posixsubprocess"):
    sys.modules[name] = None
"""


def test_everything_imports_where_there_is_nothing_of_linux_or_unix() -> None:
    program = (
        LINUX_ONLY
        + UNIX_ONLY
        + textwrap.dedent(
            """
        import importlib, pkgutil, sys
        import fullcourt
        sys.modules["joblib"] = sys.modules["dask"] = None  # they have their own ways on such systems
        for module in pkgutil.walk_packages(fullcourt.__path__, "fullcourt."):
            # The submodules of `multiprocessing` are the standard library's, which know their system at their import.
            if not module.name.endswith("__main__") and not module.name.startswith("fullcourt.multiprocessing."):
                try:
                    importlib.import_module(module.name)
                except ImportError as error:
                    known = ("rich", "cloudpickle", "fcntl", "joblib", "dask")
                    assert error.name in known or any(name in str(error) for name in known), error
                    print(module.name, error)
        assert callable(fullcourt.Pool)
        assert fullcourt.Pool(threads=2).map(abs, [-1]) == [1]
        print("imported")
        """
        )
    )
    done = run_program(program, {})
    assert done.stderr == ""
    assert done.stdout.endswith("imported\n")


def test_pools_work_where_there_is_nothing_of_linux(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LINUX_ONLY)  # every interpreter imports it: workers, too
    program = """
    import os, select, sys
    import fullcourt
    assert not hasattr(os, "memfd_create") and not hasattr(select, "epoll")
    for options in ({}, {"threads": 2}):
        with fullcourt.Pool(2, **options) as pool:
            assert pool.map(lambda _: hasattr(select, "epoll") or hasattr(os, "eventfd"), range(10)) == [False] * 10
            assert pool.submit(len, bytearray(10_000_000)).result() == 10_000_000
            died = pool.submit(os._exit, 3).exception()
            assert died.exitcode == 3, died
            assert len(pool.map(str, range(1000))) == 1000
    print("worked")
    """
    done = run_program(textwrap.dedent(program), {"PYTHONPATH": str(tmp_path)})
    assert (done.stdout, done.stderr, done.returncode) == ("worked\n", "", 0)


def run_program(text: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    source = str(Path(fullcourt.__file__).parents[1])
    paths = [path for path in (environment.get("PYTHONPATH"), source) if path]
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
