"""`fullcourt.multiprocessing`'s pools: what CPython's own tests (tests/stdlib) do not ask."""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import multiprocessing
import os
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import face_tasks as tasks
import pytest

import fullcourt
import fullcourt.multiprocessing
from fullcourt import WorkerDied
from fullcourt.multiprocessing import Pool, ThreadPool, TimeoutError, get_context  # noqa: A004
from fullcourt.multiprocessing.pool import AsyncResult, MapResult

WAIT_S = 30

multiprocessing.Value("i", 0)  # the standard library's heap of shared values keeps its first block open for ever


@pytest.fixture(scope="module", params=["processes", "threads"])
def pool(request: pytest.FixtureRequest) -> Any:
    with Pool(2) if request.param == "processes" else ThreadPool(2) as made:
        assert len(made._pool) == 2  # they have all been started before a test looks at what it leaves
        made.apply_async(time.sleep, (0.1,)).wait()  # so has the pool's own thread; and somebody has waited
        yield made
        made.close()
        made.join()


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while text not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, f"{text!r} never came"
        time.sleep(0.005)


# -- the same face -------------------------------------------------------------------------------------------------

METHODS = [
    "apply", "apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered", "close",
    "terminate", "join", "__init__",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["Pool", "ThreadPool"])
def test_signatures_are_those_of_the_running_python(name: str, method: str) -> None:
    import multiprocessing.pool

    ours = inspect.signature(getattr(getattr(fullcourt.multiprocessing.pool, name), method)).parameters
    theirs = inspect.signature(getattr(getattr(multiprocessing.pool, name), method)).parameters
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


def test_every_public_name_and_module_is_there() -> None:
    import importlib
    import pkgutil

    for name in multiprocessing.__all__:
        assert hasattr(fullcourt.multiprocessing, name), name
    for module in pkgutil.iter_modules(multiprocessing.__path__):
        if module.name.startswith("popen_") or module.name == "resource_tracker":
            continue
        ours = importlib.import_module(f"fullcourt.multiprocessing.{module.name}")
        theirs = importlib.import_module(f"multiprocessing.{module.name}")
        for name in vars(theirs):
            assert hasattr(ours, name), f"{module.name}.{name}"


def test_what_is_not_ours_is_the_standard_librarys_own() -> None:
    for name in ("Value", "Array", "current_process", "set_start_method", "TimeoutError"):
        assert getattr(fullcourt.multiprocessing, name) == getattr(multiprocessing, name)
    from fullcourt.multiprocessing.shared_memory import SharedMemory

    assert SharedMemory is __import__("multiprocessing.shared_memory").shared_memory.SharedMemory


def test_contexts_are_the_standard_librarys_with_our_pool(context: Any) -> None:
    method = context.get_start_method()
    theirs = multiprocessing.get_context(method)
    assert isinstance(context, type(theirs))
    assert issubclass(context.Process, multiprocessing.process.BaseProcess)
    assert context.Process.__name__ == theirs.Process.__name__
    assert get_context(method) is context
    assert context.get_context() is context
    with context.Pool(1) as pool:
        assert isinstance(pool, Pool)
        assert pool.apply(abs, (-1,)) == 1
    with pytest.raises(ValueError, match="cannot find context for 'court'"):
        get_context("court")


def test_pools_and_results_are_instances_of_the_standard_librarys(pool: Any) -> None:
    import multiprocessing.pool as standard

    assert isinstance(pool, standard.Pool)
    assert isinstance(pool.apply_async(abs, (-1,)), standard.AsyncResult)
    assert isinstance(pool.imap(abs, [1]), standard.IMapIterator)
    assert isinstance(pool.imap_unordered(abs, [1]), standard.IMapUnorderedIterator)
    assert isinstance(ThreadPool, type)


@pytest.mark.parametrize("count", [0, -1])
def test_a_pool_of_nothing_is_refused(count: int) -> None:
    for kind in (Pool, ThreadPool):
        with pytest.raises(ValueError, match="Number of processes must be at least 1"):
            kind(count)


def test_a_pool_cannot_be_pickled(pool: Any) -> None:
    with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
        pickle.dumps(pool)


# -- the documentation's examples ----------------------------------------------------------------------------------


def test_the_documentations_example_of_a_pool() -> None:
    with Pool(processes=4) as pool:
        assert pool.map(tasks.double, range(10)) == [2 * i for i in range(10)]
        assert sorted(pool.imap_unordered(tasks.double, range(10))) == [2 * i for i in range(10)]
        res = pool.apply_async(tasks.double, (20,))
        assert res.get(timeout=WAIT_S) == 40
        res = pool.apply_async(os.getpid, ())
        assert res.get(timeout=WAIT_S) in [p.pid for p in pool._pool]
        multiple = [pool.apply_async(os.getpid, ()) for _ in range(4)]
        assert all(r.get(timeout=WAIT_S) > 0 for r in multiple)
        res = pool.apply_async(time.sleep, (60,))
        with pytest.raises(multiprocessing.TimeoutError):
            res.get(timeout=0.01)


def test_calls_and_maps(pool: Any) -> None:
    assert pool.apply(divmod, (17, 5)) == (3, 2)
    assert pool.apply(int, ("ff",), {"base": 16}) == 255
    assert pool.starmap(pow, [(2, 10), (3, 2)]) == [1024, 9]
    assert pool.starmap_async(pow, [(2, 10)], chunksize=3).get(WAIT_S) == [1024]
    assert pool.map(tasks.double, (i for i in range(100)), chunksize=7) == [2 * i for i in range(100)]
    assert list(pool.imap(tasks.double, range(100), 9)) == [2 * i for i in range(100)]
    assert sorted(pool.imap_unordered(tasks.double, iter(range(100)))) == [2 * i for i in range(100)]
    assert pool.map(abs, []) == []


def test_results_have_the_methods_of_async_results(pool: Any, tmp_path: Path) -> None:
    path = tmp_path / "f"
    result = pool.apply_async(tasks.write_and_wait, (str(path),))
    assert isinstance(result, AsyncResult)
    wait_for(path, "began")
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    with pytest.raises(TimeoutError):
        result.get(0.01)
    result.wait(0.01)
    path.write_text("go")
    result.wait()
    assert result.ready()
    assert result.successful()
    failed = pool.apply_async(tasks.reciprocal, (0,))
    failed.wait(WAIT_S)
    assert not failed.successful()
    with pytest.raises(ZeroDivisionError):
        failed.get()


def test_callbacks_come_before_the_waiters(pool: Any) -> None:
    seen: list[Any] = []
    assert pool.apply_async(abs, (-1,), callback=seen.append, error_callback=seen.append).get(WAIT_S) == 1
    assert pool.map_async(abs, [-2, -3], callback=seen.append).get(WAIT_S) == [2, 3]
    with pytest.raises(ZeroDivisionError):
        pool.map_async(tasks.reciprocal, [0], callback=seen.append, error_callback=seen.append).get(WAIT_S)
    assert seen[:2] == [1, [2, 3]]
    assert isinstance(seen[2], ZeroDivisionError)


def test_a_map_runs_all_its_items_whatever_some_of_them_raise(pool: Any, tmp_path: Path) -> None:
    path = str(tmp_path / type(pool).__name__)
    with pytest.raises(ValueError, match="three"):
        pool.map(functools.partial(tasks.fail_on_three, path), range(200))
    assert sorted(map(int, Path(path).read_text().split())) == list(range(200))


def test_a_maps_result_tells_what_is_left(pool: Any) -> None:
    result = pool.map_async(abs, range(10))
    assert isinstance(result, MapResult)
    result.wait(WAIT_S)
    assert result._number_left == 0


def test_an_iteration_goes_on_after_a_failure_and_can_wait_a_limited_time(pool: Any, tmp_path: Path) -> None:
    results = pool.imap(tasks.reciprocal, [1, 0, 2])
    assert results.next(timeout=WAIT_S) == 1.0
    with pytest.raises(ZeroDivisionError):
        results.next()
    assert next(results) == 0.5
    with pytest.raises(StopIteration):
        results.next()
    path = tmp_path / "f"
    results = pool.imap_unordered(tasks.write_and_wait, [str(path)])
    with pytest.raises(TimeoutError):
        results.next(timeout=0.01)
    wait_for(path, "began")
    path.write_text("go")
    assert results.next(WAIT_S) == "went"


def test_an_iteration_that_nobody_reads_is_run_all_the_same(tmp_path: Path) -> None:
    for make in (Pool, ThreadPool):
        for source in (range(300), (i for i in range(300))):
            path = tmp_path / f"{make.__name__}-{type(source).__name__}"
            with make(2) as pool:
                pool.imap_unordered(functools.partial(tasks.note, str(path)), source)
                gc.collect()
                pool.close()
                pool.join()
            assert len(path.read_text().split()) == 300


def test_an_endless_input_is_read_in_bounded_memory() -> None:
    for make in (Pool, ThreadPool):
        source = itertools.count()
        with make(2) as pool:
            results = pool.imap(tasks.double, source)
            assert list(itertools.islice(results, 5)) == [0, 2, 4, 6, 8]
            assert next(source) < 50_000
        pool.join()


def test_what_pickling_raises_is_raised_as_it_is() -> None:
    with Pool(1) as pool:
        with pytest.raises(RuntimeError, match="it will not be pickled"):
            pool.map(tasks.double, [tasks.Unpicklable()])
        with pytest.raises(multiprocessing.pool.MaybeEncodingError):  # type: ignore[attr-defined]
            pool.apply(threading.Lock)
        with pytest.raises(ValueError, match="not a number"):
            pool.apply(tasks.unreadable)
        assert pool.apply(abs, (-1,)) == 1


def test_a_tasks_exit_is_its_outcome() -> None:
    with Pool(1) as pool:
        with pytest.raises(SystemExit):
            pool.apply(tasks.leave)
        assert pool.apply(abs, (-1,)) == 1


# -- workers -------------------------------------------------------------------------------------------------------


def test_an_initializers_locks_queues_and_shared_values_arrive(context: Any) -> None:
    lock, value, queue = context.Lock(), context.Value("i", 0), context.Queue()
    with context.Pool(2, tasks.keep, (lock, value)) as pool:
        pool.map(tasks.count_up, [50] * 4, chunksize=1)
        assert value.value == 200
    with context.Pool(2, tasks.keep, (queue,), maxtasksperchild=1) as pool:
        pids = set(pool.map(tasks.put_through_queue, range(4), chunksize=1))  # also in those that took others' places
        assert {queue.get(timeout=WAIT_S)[1] for _ in range(4)} == pids
        assert len(pids) == 4
    queue.close()
    queue.join_thread()


def test_managers_proxies_travel(context: Any) -> None:
    with context.Manager() as manager, context.Pool(2) as pool:
        mapping, lock, queue = manager.dict(), manager.Lock(), manager.Queue()
        pool.starmap(tasks.set_in, [(mapping, i, 2 * i) for i in range(4)])
        assert mapping.copy() == {i: 2 * i for i in range(4)}
        with lock:
            pool.apply_async(queue.put, ("sent",)).get(WAIT_S)
        assert queue.get(timeout=WAIT_S) == "sent"


def test_connections_travel_and_close(context: Any) -> None:
    reader, writer = context.Pipe(duplex=False)
    with context.Pool(1) as pool:
        pool.apply(tasks.send, (writer, "hello"))
        writer.close()
        assert reader.poll(WAIT_S)
        assert reader.recv() == "hello"
    reader.close()


@pytest.mark.parametrize("make", [get_context, multiprocessing.get_context], ids=["ours", "theirs"])
def test_named_locks_and_queues_travel_in_tasks(make: Any) -> None:
    queue = make("spawn").Queue()
    with get_context("spawn").Pool(1) as pool:
        pool.apply(queue.put, ("in a task",))
        assert queue.get(timeout=WAIT_S) == "in a task"
    queue.close()
    queue.join_thread()


def test_shared_memory_outlives_the_workers_that_attached(context: Any) -> None:
    from fullcourt.multiprocessing.shared_memory import SharedMemory

    block = SharedMemory(create=True, size=16)
    try:
        with context.Pool(2) as pool:
            pool.starmap(write_byte, [(block.name, i, i + 1) for i in range(4)])
            pool.close()
            pool.join()
        again = SharedMemory(block.name)
        assert bytes(again.buf[:4]) == b"\1\2\3\4"
        again.close()
    finally:
        block.close()
        block.unlink()


def write_byte(name: str, index: int, value: int) -> None:
    from multiprocessing.shared_memory import SharedMemory

    block = SharedMemory(name)
    block.buf[index] = value
    block.close()


def test_workers_take_themselves_for_children_of_the_program(context: Any) -> None:
    with context.Pool(2) as pool:
        names = {pool.apply(tasks.who_am_i) for _ in range(3)}
    assert all(name.rpartition("-")[0].endswith("PoolWorker") for name, *_ in names)
    assert {identity for _, identity, _, _ in names} <= {(1,), (2,)}
    assert {pid for _, _, pid, _ in names} == {os.getpid()}


def test_the_workers_can_be_looked_at() -> None:
    with Pool(2) as pool:
        workers = pool._pool
        assert pool._processes == len(workers) == 2
        assert all(worker.is_alive() and worker.exitcode is None and worker.pid for worker in workers)
        assert len({worker.pid for worker in workers}) == 2
        assert multiprocessing.connection.wait([w.sentinel for w in workers], timeout=0) == []  # type: ignore[attr-defined]
    for worker in workers:
        worker.join(WAIT_S)
        assert not worker.is_alive()


@pytest.mark.faults
def test_a_dead_worker_costs_its_task_and_nobody_waits_for_ever(context: Any) -> None:
    with context.Pool(2) as pool:
        with pytest.raises(WorkerDied):
            pool.apply(tasks.die)
        lost = pool.map_async(tasks.die, [None], error_callback=lambda _: None)
        assert pool.map(tasks.double, range(50)) == [2 * i for i in range(50)]
        with pytest.raises(WorkerDied):
            lost.get(WAIT_S)
        victim = pool._pool[0]
        victim.terminate()
        victim.join(WAIT_S)
        assert pool.map(tasks.double, range(50)) == [2 * i for i in range(50)]


def test_a_failed_initializer_fails_the_pool_once(context: Any) -> None:
    with context.Pool(2, tasks.refuse) as pool, pytest.raises(ValueError, match="this initializer refuses"):
        pool.map(abs, range(10))


def test_maxtasksperchild_counts_tasks() -> None:
    with Pool(1, maxtasksperchild=3) as pool:
        pids = [pool.apply(os.getpid) for _ in range(9)]
    assert len(set(pids)) == 3


def test_pools_can_be_opened_in_tasks() -> None:
    with Pool(2) as pool:
        assert pool.map(inner_map, range(3)) == [[0], [0, 2], [0, 2, 4]]


def inner_map(n: int) -> list[int]:
    with Pool(1) as pool:
        return pool.map(tasks.double, range(n + 1))


# -- the end -------------------------------------------------------------------------------------------------------


def test_a_pool_takes_no_work_after_its_end() -> None:
    for make in (Pool, ThreadPool):
        pool = make(1)
        with pytest.raises(ValueError, match="Pool is still running"):
            pool.join()
        pool.close()
        for call in (pool.map, pool.imap, pool.map_async, pool.imap_unordered):
            with pytest.raises(ValueError, match="Pool not running"):
                call(abs, [1])
        with pytest.raises(ValueError, match="Pool not running"):
            pool.apply_async(abs, (1,))
        pool.join()
        with pytest.raises(ValueError, match="Pool not running"), pool:
            pass


def test_close_and_join_let_all_run(tmp_path: Path) -> None:
    for make in (Pool, ThreadPool):
        path = tmp_path / make.__name__
        pool = make(2)
        results = [pool.apply_async(tasks.note, (str(path), i)) for i in range(100)]
        pool.close()
        pool.join()
        assert sorted(r.get(0) for r in results) == list(range(100))


def test_with_terminates(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with Pool(1) as pool:
        running = pool.apply_async(tasks.write_and_wait, (str(path),), error_callback=lambda e: pytest.fail(repr(e)))
        wait_for(path, "began")
    pool.join()
    with pytest.raises(fullcourt.TaskCancelled):
        running.get(WAIT_S)


def test_terminate_may_be_called_from_a_callback() -> None:
    ended = threading.Event()
    pool = Pool(2)

    def stop(_: Any) -> None:
        pool.terminate()
        ended.set()

    pool.apply_async(tasks.reciprocal, (0,), error_callback=stop)
    assert ended.wait(WAIT_S)
    pool.join()


def test_a_pool_that_was_left_open_is_told_of() -> None:
    pool = Pool(1)
    with pytest.warns(ResourceWarning, match="unclosed running multiprocessing pool"):  # noqa: PT031
        del pool
        gc.collect()


def test_a_result_keeps_its_task_alive_when_the_pool_is_dropped() -> None:
    with pytest.warns(ResourceWarning, match="unclosed running"):  # noqa: PT031
        result = Pool(1).apply_async(tasks.double, (4,))
        gc.collect()
    assert result.get(WAIT_S) == 8


# -- recipes that programs use -------------------------------------------------------------------------------------


def test_the_recipe_for_nested_pools_still_runs() -> None:
    class NoDaemonProcess(multiprocessing.Process):
        daemon = property(lambda self: False, lambda self, value: None)  # type: ignore[assignment]

    context = type(get_context())

    class NoDaemonContext(context):  # type: ignore[misc, valid-type]
        Process = NoDaemonProcess

    class NestablePool(fullcourt.multiprocessing.pool.Pool):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["context"] = NoDaemonContext()
            super().__init__(*args, **kwargs)

    with NestablePool(2) as pool:
        assert pool.map(inner_map, [1]) == [[0, 2]]


def test_dummys_pool_is_our_thread_pool() -> None:
    from fullcourt.multiprocessing.dummy import Pool as DummyPool

    with DummyPool(2) as pool:
        assert isinstance(pool, ThreadPool)
        assert pool.map(abs, [-1]) == [1]


@pytest.mark.parametrize("kind", [Pool, ThreadPool])
def test_callbacks_are_never_for_a_thread_that_submits(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    submits, called = True, []

    def note(_: Any) -> None:
        called.append(submits and threading.get_ident() == me)

    me = threading.get_ident()
    with kind(2) as pool:
        pool.apply(abs, (0,))
        with monkeypatch.context() as patch:
            patch.setattr(pool._inner.driver.roles, "arm", lambda *, urgent=False: None)  # no thread helps
            results = [pool.apply_async(abs, (-n,), callback=note) for n in range(500)]
            results += [pool.map_async(abs, [-n], callback=note) for n in range(50)]
            if kind is Pool:
                results.append(pool.apply_async(abs, (tasks.Unpicklable(),), error_callback=note))
                results.append(pool.map_async(tasks.Unpicklable().__str__, [1], error_callback=note))
            submits = False
            for result in results:
                result.wait(WAIT_S)
    assert len(called) == len(results)
    assert not any(called)


def test_a_map_of_nothing_calls_nobody_back(pool: Any) -> None:
    called: list[Any] = []
    assert pool.map_async(abs, [], callback=called.append).get(WAIT_S) == []
    assert called == []


def test_a_chunksize_that_is_no_whole_number_is_refused_at_once(pool: Any) -> None:
    for call in (pool.map, pool.map_async, pool.imap, pool.imap_unordered, pool.starmap):
        with pytest.raises(TypeError):
            call(abs, [1, 2], chunksize=1.5)
    assert pool.map(abs, [-1]) == [1]


def test_an_unknown_start_method_is_left_to_the_standard_library() -> None:
    class Other(type(multiprocessing.get_context("spawn"))):  # type: ignore[misc]
        def get_start_method(self, allow_none: bool = False) -> str:
            return "of another library"

    with fullcourt.multiprocessing.pool.Pool(1, context=Other()) as pool:
        assert not isinstance(pool, Pool)
        assert pool.apply(abs, (-1,)) == 1
        pool.close()
        pool.join()
