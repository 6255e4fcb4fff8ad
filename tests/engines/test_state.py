"""What is made once in a worker, and what is sent once to it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

import fullcourt
from fullcourt import NotSupported, PicklingError, Pool, PoolClosed, WorkerDied
from fullcourt._transport import frames, link
from tests.engines import state_tasks as tasks
from tests.methods import start_methods

T = 60.0
PORTABLE = os.environ.get("FULLCOURT_TRANSPORT") == "portable"  # which has no fork
METHODS = [m for m in start_methods() if m != "fork" or not PORTABLE]
KINDS = [
    *({"processes": 2, "start_method": method} for method in METHODS),
    {"processes": 1, "threads": 3},
    {"threads": 3},
    {"processes": 0},
]
if sys.version_info >= (3, 14):
    KINDS.append({"interpreters": 2})


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(f"{key}={value}" for key, value in kind.items()))
def kind(request):
    return request.param


def lines(path):
    return [line.split() for line in Path(path).read_text().splitlines()]


def test_a_value_is_made_once_per_worker_and_ended_with_it(kind, tmp_path):
    file = str(tmp_path / "notes")
    with Pool(**kind) as pool:
        users = set(pool.map(tasks.use, [file] * 60, chunksize=1))
        assert all(word == "made" for word, *_ in lines(file))
    made = [rest for word, *rest in lines(file) if word == "made"]
    ended = [rest for word, *rest in lines(file) if word == "ended"]
    if "interpreters" in kind:
        assert len(made) == len({ident for _, ident in users})
    else:
        assert len(made) == len({pid for pid, _ in users})
    assert sorted(pid for pid, _ in made) == sorted(pid for pid, _ in ended)


@pytest.mark.parametrize("kind", [{"processes": 1, "threads": 3}, {"threads": 3}])
def test_a_slot_can_have_a_state_of_its_own(kind, tmp_path):
    file = str(tmp_path / "notes")
    with Pool(**kind) as pool:
        users = set(pool.starmap(tasks.use, [(file, True)] * 60, chunksize=1))
    made = [rest for word, *rest in lines(file) if word == "made"]
    ended = [rest for word, *rest in lines(file) if word == "ended"]
    assert len(made) == len(users)
    assert sorted(made) == sorted(ended)  # each in its own thread


def test_attributes_stay_from_task_to_task():
    for options in ({"processes": 1}, {"threads": 1}, {"processes": 0}):
        with Pool(**options) as pool:
            assert [pool.apply(tasks.count) for _ in range(3)] == [1, 2, 3]
        with Pool(**options) as pool:
            assert pool.apply(tasks.count) == 1


def test_an_initializer_sees_the_same_state(tmp_path):
    file = str(tmp_path / "notes")
    for options in ({"processes": 1}, {"processes": 1, "threads": 2}, {"threads": 1}, {"processes": 0}):
        Path(file).write_text("")
        with Pool(initializer=tasks.use, initargs=(file,), **options) as pool:
            pool.apply(tasks.use, (file,))
        assert [word for word, *_ in lines(file)] == ["made", "ended"]


def test_a_recycled_worker_ends_what_it_made(tmp_path):
    file = str(tmp_path / "notes")
    with Pool(1, max_tasks_per_child=2) as pool:
        pool.map(tasks.use, [file] * 6, chunksize=1)
    assert sorted(word for word, *_ in lines(file)) == ["ended"] * 3 + ["made"] * 3


def test_a_finalizer_that_fails_does_not_hinder_the_others(tmp_path, caplog):
    file = str(tmp_path / "notes")
    with Pool(1) as pool:
        pool.apply(tasks.bad_finalizer, (file,))
    assert [word for word, *_ in lines(file)] == ["made", "ended"]
    assert "a finalizer of worker state failed" in caplog.text
    assert "cannot end" in caplog.text


@pytest.mark.faults
def test_a_worker_that_dies_ends_nothing(tmp_path):
    file = str(tmp_path / "notes")
    with Pool(1) as pool:
        assert isinstance(pool.submit(tasks.use_and_die, file).exception(T), WorkerDied)
        pool.apply(tasks.use, (file,))
    assert [word for word, *_ in lines(file)] == ["made", "made", "ended"]


def test_once_makes_one_also_for_many_threads():
    state = fullcourt.worker_state()
    made = []

    def make():
        made.append(1)
        threading.Event().wait(0.01)
        return object()

    got = []
    threads = [threading.Thread(target=lambda: got.append(state.once("a test's", make))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(T)
    assert len(made) == 1
    assert len(set(map(id, got))) == 1
    with pytest.raises(AttributeError, match="has no 'colour'"):
        _ = state.colour
    with pytest.raises(ZeroDivisionError):
        state.once("a failing one", lambda: 1 / 0)
    assert state.once("a failing one", lambda: 2) == 2


# -- broadcast ---------------------------------------------------------------------------------------------------------


def test_a_value_reaches_every_worker(kind):
    with Pool(**kind) as pool, pool.broadcast(100) as handle:
        assert handle.value == 100
        assert pool.starmap(tasks.add_value, [(handle, i) for i in range(50)], chunksize=1) == list(range(100, 150))
        assert pool.map(lambda x: handle.value + x, range(3)) == [100, 101, 102]


@pytest.mark.parametrize("method", METHODS)
def test_it_is_sent_once_to_each_worker_also_to_replacements(method, tmp_path):
    file = str(tmp_path / "notes")
    with Pool(2, start_method=method, max_tasks_per_child=5) as pool:
        handle = pool.broadcast(tasks.Loud(file))
        pids = pool.starmap(tasks.pid_with, [(handle, i) for i in range(40)], chunksize=1)
    loaded = [pid for _, pid, _ in lines(file)]
    assert len(set(pids)) >= 8
    assert set(map(str, pids)) <= set(loaded)
    assert len(loaded) == len(set(loaded))


@pytest.mark.skipif(sys.platform != "linux" or PORTABLE, reason="there a worker gives back by itself")
@pytest.mark.parametrize("threads", [None, 2])
def test_a_task_that_overtakes_it_waits_for_it(threads, monkeypatch):
    """It is taken out of a link beside tasks, to be put in again; the worker reads on meanwhile."""
    took = threading.Event()
    receive = link.receive_with_fd

    def receive_slowly(sock, flags=0):
        received = receive(sock, flags)
        if received[0] and received[0][0] == frames.BROADCAST:
            took.set()
            time.sleep(1.0)
        return received

    with Pool(1, threads=threads, start_method="fork") as pool:
        running = [pool.submit(time.sleep, 0.5) for _ in range(threads or 1)]
        while not all(future.running() for future in running):
            time.sleep(0.001)
        handle = pool.broadcast(100)
        behind = [pool.submit(tasks.add_value, handle, i) for i in range(2)]
        monkeypatch.setattr(link, "receive_with_fd", receive_slowly)
        taker = threading.Thread(target=pool._driver._take_back, args=(1,))
        taker.start()
        assert took.wait(T)
        assert [future.result(T) for future in behind] == [100, 101]
        taker.join()


@pytest.mark.faults
def test_a_worker_that_replaces_a_dead_one_has_it():
    with Pool(1) as pool:
        handle = pool.broadcast(10)
        assert pool.apply(tasks.add_value, (handle, 1)) == 11
        assert isinstance(pool.submit(os.kill, pool.apply(os.getpid), signal.SIGKILL).exception(T), WorkerDied)
        assert pool.apply(tasks.add_value, (handle, 2)) == 12


def test_large_buffers_are_one_memory_for_all_workers():
    np = pytest.importorskip("numpy")
    table = np.arange(1_000_000.0)
    with Pool(2) as pool:
        handle = pool.broadcast(table)
        assert set(pool.map(lambda i: float(handle.value[i]), range(20))) == set(map(float, range(20)))
        pids = [worker.pid for worker in pool.statistics().workers]
        if Path("/proc/self/maps").exists() and os.environ.get("FULLCOURT_TRANSPORT") != "portable":
            inodes = [
                {
                    line.split()[4]
                    for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
                    if ":fullcourt " in line
                }
                for pid in pids
            ]
            assert inodes[0] & inodes[1]


def test_many_values_before_many_tasks():
    """More than a link holds at once; and what is taken back from a link keeps its order."""
    with Pool(2, threads=2) as pool:
        handles = [pool.broadcast([i] * 2000) for i in range(300)]
        calls = [(handles[i % 300], [i]) for i in range(1500)]
        results = pool.starmap(tasks.add_value, calls, chunksize=1)
        assert [len(result) for result in results] == [2001] * 1500
        for handle in handles[:299]:
            handle.close()
        assert pool.apply(tasks.add_value, (handles[299], [])) == [299] * 2000


def test_a_value_that_was_forgotten_or_is_anothers_is_told():
    for options in ({"processes": 1}, {"processes": 1, "threads": 2}):
        with Pool(**options) as pool, Pool(1) as other:
            handle = pool.broadcast(1)
            with pytest.raises(LookupError, match="not broadcast to this worker"):
                other.apply(tasks.add_value, (handle, 1))
            assert pool.apply(tasks.add_value, (handle, 1)) == 2
            handle.close()
            handle.close()
            with pytest.raises(LookupError, match="not broadcast to this worker"):
                pool.apply(tasks.add_value, (handle, 1))
            with pytest.raises(LookupError, match="closed"):
                _ = handle.value


def test_a_value_that_cannot_be_sent_or_read_is_told():
    with Pool(1) as pool:
        with pytest.raises(PicklingError, match="lock"):
            pool.broadcast(threading.Lock())
        handle = pool.broadcast(tasks.Unloadable())
        with pytest.raises(OSError, match="not here"):
            pool.apply(tasks.add_value, (handle, 1))
        assert pool.apply(abs, (-1,)) == 1
    with pytest.raises(PoolClosed):
        pool.broadcast(1)


def test_threads_get_the_object_itself():
    table = {"a": 1}
    with Pool(threads=2) as pool:
        handle = pool.broadcast(table)
        assert pool.apply(tasks.id_of_value, (handle,)) == id(table)


# -- in tasks that use their own pool ----------------------------------------------------------------------------------


def test_a_task_runs_a_pipeline_on_its_own_pool(kind):
    with Pool(**kind) as pool:
        assert pool.submit(tasks.run_pipeline, pool, range(20)).result(T) == [str(x + 1) for x in range(20)]


def test_nested_tasks_find_broadcast_values(kind):
    with Pool(**kind) as pool:
        shared = pool.broadcast("court")
        assert pool.submit(tasks.ask_for_value, pool, shared).result(T) == "court"


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_inside_a_task_has_values_of_its_own_and_none_of_the_outer_pool(method):
    with Pool(1, start_method=method) as pool:
        for handle in [pool.broadcast(f"outer {i}") for i in range(5)]:
            found, error = pool.submit(tasks.ask_inner_pool, handle, method).result(T)
            assert found == [f"inner {i}" for i in range(5)]
            assert isinstance(error, LookupError)
            assert pool.apply(tasks.value_of, (handle,)).startswith("outer")


def test_only_the_pools_owner_broadcasts():
    with Pool(2) as pool, pytest.raises(NotSupported, match="argument"):
        pool.submit(tasks.broadcast_inside, pool).result(T)
