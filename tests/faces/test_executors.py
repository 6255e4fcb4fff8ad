"""`fullcourt.futures`: what CPython's own tests (tests/stdlib) do not ask."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import inspect
import itertools
import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import face_tasks as tasks
import pytest

from fullcourt import WorkerDied, futures
from fullcourt.errors import NotSupported
from fullcourt.futures import (
    BrokenExecutor,
    CancelledError,
    InterpreterPoolExecutor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from fullcourt.futures.process import BrokenProcessPool, TaskUnreadable
from fullcourt.futures.thread import BrokenThreadPool

WAIT_S = 30


def wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while text not in (path.read_text() if path.exists() else ""):
        assert time.monotonic() < deadline, f"{text!r} never came"
        time.sleep(0.005)


# -- the same face -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ProcessPoolExecutor", "ThreadPoolExecutor"])
@pytest.mark.parametrize("method", ["__init__", "submit", "map", "shutdown"])
def test_signatures_are_those_of_the_running_python(name: str, method: str) -> None:
    ours = inspect.signature(getattr(getattr(futures, name), method)).parameters
    theirs = inspect.signature(getattr(getattr(concurrent.futures, name), method)).parameters

    def shape(parameters: Any) -> list[Any]:
        return [(p.name, p.kind, p.default) for p in parameters.values() if p.name not in {"buffersize", "ctxkwargs"}]

    assert shape(ours) == shape(theirs)


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_what_later_pythons_have_is_there(method: str) -> None:
    assert callable(getattr(ProcessPoolExecutor, method))
    assert "buffersize" in inspect.signature(ThreadPoolExecutor.map).parameters


def test_every_public_name_of_the_standard_library_is_there() -> None:
    for name in concurrent.futures.__all__:
        assert hasattr(futures, name), name
    for module in ("_base", "process", "thread"):
        ours, theirs = getattr(futures, module), getattr(concurrent.futures, module)
        for name in dir(theirs):
            assert hasattr(ours, name), f"{module}.{name}"


def test_executors_and_futures_are_instances_of_the_standard_librarys() -> None:
    with ThreadPoolExecutor(1) as threads, ProcessPoolExecutor(1) as processes:
        assert isinstance(threads, concurrent.futures.ThreadPoolExecutor)
        assert isinstance(processes, concurrent.futures.ProcessPoolExecutor)
        assert isinstance(threads.submit(abs, -1), concurrent.futures.Future)
        assert isinstance(processes.submit(abs, -1), futures.Future)


def test_the_exceptions_are_the_standard_librarys() -> None:
    assert BrokenProcessPool is concurrent.futures.process.BrokenProcessPool
    assert BrokenThreadPool is concurrent.futures.thread.BrokenThreadPool
    assert futures.TimeoutError is concurrent.futures.TimeoutError
    assert issubclass(WorkerDied, BrokenProcessPool)


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "text"),
    [
        (ThreadPoolExecutor, {"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        (ProcessPoolExecutor, {"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        (ThreadPoolExecutor, {"initializer": 3}, TypeError, "initializer must be a callable"),
        (ProcessPoolExecutor, {"initializer": 3}, TypeError, "initializer must be a callable"),
        (ProcessPoolExecutor, {"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        (ProcessPoolExecutor, {"max_tasks_per_child": 1.5}, TypeError, "max_tasks_per_child must be an integer"),
    ],
)
def test_wrong_arguments_raise_what_they_raise_there(kind: Any, arguments: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        kind(**arguments)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_recycling_needs_another_method_than_fork() -> None:
    with pytest.raises(ValueError, match="max_tasks_per_child is incompatible with the 'fork'"):
        ProcessPoolExecutor(1, multiprocessing.get_context("fork"), max_tasks_per_child=2)


# -- calls ---------------------------------------------------------------------------------------------------------


def test_the_documentations_first_example() -> None:
    with ThreadPoolExecutor(max_workers=1) as executor:
        assert executor.submit(pow, 323, 1235).result() == pow(323, 1235)


def test_results_exceptions_and_tracebacks_come_back(context: Any) -> None:
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert executor.submit(tasks.double, x=4).result(WAIT_S) == 8
        with pytest.raises(ZeroDivisionError) as caught:
            executor.submit(tasks.reciprocal, 0).result(WAIT_S)
    assert type(caught.value.__cause__) is concurrent.futures.process._RemoteTraceback
    assert "reciprocal" in str(caught.value.__cause__)


def test_what_is_not_callable_fails_its_future_and_not_submit() -> None:
    with ThreadPoolExecutor(1) as threads, ProcessPoolExecutor(1) as processes:
        for executor in (threads, processes):
            with pytest.raises(TypeError, match="not callable"):
                executor.submit(5).result(WAIT_S)  # type: ignore[arg-type]


def test_what_pickling_raises_is_raised_as_it_is() -> None:
    with ProcessPoolExecutor(1) as executor:
        with pytest.raises(RuntimeError, match="it will not be pickled"):
            executor.submit(tasks.double, tasks.Unpicklable()).result(WAIT_S)
        with pytest.raises(TypeError, match="cannot be pickled|cannot pickle"):
            executor.submit(tasks.double, threading.Lock()).result(WAIT_S)
        assert executor.submit(tasks.double, 1).result(WAIT_S) == 2


def test_unreadable_arguments_and_results_cost_their_call_alone() -> None:
    with ProcessPoolExecutor(1) as executor:
        for future in (executor.submit(tasks.double, tasks.Unreadable()), executor.submit(tasks.unreadable)):
            error = future.exception(WAIT_S)
            assert isinstance(error, TaskUnreadable)
            assert isinstance(error, BrokenProcessPool)
            assert isinstance(error.__cause__, ValueError)
        assert executor.submit(tasks.double, 1).result(WAIT_S) == 2


def test_wait_and_as_completed_take_futures_of_several_executors() -> None:
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2) as processes:
        mixed = [executor.submit(tasks.double, i) for i in range(6) for executor in (threads, processes)]
        assert sorted(future.result() for future in as_completed(mixed, timeout=WAIT_S)) == [
            2 * i for i in range(6) for _ in "ab"
        ]
        done, not_done = wait(mixed, timeout=WAIT_S, return_when=futures.ALL_COMPLETED)
    assert len(done) == 12
    assert not not_done


@pytest.mark.faults
def test_a_dead_worker_costs_its_call_and_the_executor_goes_on(context: Any) -> None:
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        lost = executor.submit(tasks.die)
        others = [executor.submit(tasks.double, i) for i in range(20)]
        with pytest.raises(BrokenProcessPool) as caught:
            lost.result(WAIT_S)
        assert isinstance(caught.value, WorkerDied)
        assert [future.result(WAIT_S) for future in others] == [2 * i for i in range(20)]
        assert executor.submit(tasks.double, 7).result(WAIT_S) == 14


# -- workers -------------------------------------------------------------------------------------------------------


def test_an_executor_that_was_never_used_starts_nothing() -> None:
    before = threading.active_count()
    with ProcessPoolExecutor(50) as processes, ThreadPoolExecutor(500):
        assert threading.active_count() == before
        assert processes._processes == {}


def test_threads_start_when_none_is_free_and_are_named() -> None:
    with ThreadPoolExecutor(100, thread_name_prefix="court") as executor:
        for _ in range(5):
            executor.submit(abs, -1).result(WAIT_S)
        assert len(executor._threads) <= 2
        assert executor.submit(lambda: threading.current_thread().name).result(WAIT_S).startswith("court_")
        barrier = threading.Barrier(20)
        for future in [executor.submit(barrier.wait, WAIT_S) for _ in range(20)]:
            future.result(WAIT_S)
        assert 20 <= len(executor._threads) <= 100


def test_fresh_workers_start_when_none_is_free() -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as executor:
        executor.submit(abs, -1).result(WAIT_S)
        executor.submit(abs, -1).result(WAIT_S)
        assert len(executor._processes) == 1


def test_workers_take_themselves_for_children_of_the_program(context: Any) -> None:
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        name, identity, parent_pid, parent_lives = executor.submit(tasks.who_am_i).result(WAIT_S)
        (child,) = executor._processes.values()
    assert name.endswith("Process-1")
    assert identity == (1,)
    assert parent_lives
    assert parent_pid == __import__("os").getpid()
    child.join(WAIT_S)
    assert not child.is_alive()


def test_an_initializers_locks_and_queues_arrive(context: Any) -> None:
    queue, lock = context.Queue(), context.Lock()
    with ProcessPoolExecutor(2, context, tasks.keep, (queue, lock)) as executor:
        pids = set(executor.map(tasks.put_through_queue, range(4)))
        assert {queue.get(timeout=WAIT_S)[1] for _ in range(4)} == pids
    queue.close()
    queue.join_thread()


def test_a_failed_initializer_breaks_the_executor_as_it_does_there(context: Any, caplog: Any) -> None:
    with ProcessPoolExecutor(2, context, tasks.refuse) as executor:
        future = executor.submit(abs, -1)
        assert type(future.exception(WAIT_S)) is BrokenProcessPool
        with pytest.raises(BrokenProcessPool, match="this initializer refuses"):
            executor.submit(abs, -1)
    with caplog.at_level(logging.CRITICAL, "concurrent.futures"), ThreadPoolExecutor(2, "", tasks.refuse) as threads:
        assert type(threads.submit(abs, -1).exception(WAIT_S)) is BrokenThreadPool
        with pytest.raises(BrokenExecutor):
            threads.submit(abs, -1)
    assert "Exception in initializer" in caplog.text


def test_workers_are_replaced_after_their_share() -> None:
    with ProcessPoolExecutor(1, max_tasks_per_child=2) as executor:
        pids = [executor.submit(__import__("os").getpid).result(WAIT_S) for _ in range(6)]
    assert len(set(pids)) == 3


def test_a_worker_that_has_done_its_share_is_none_of_the_executors_any_more(tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, max_tasks_per_child=2) as executor:
        first = executor.submit(tasks.stay_at_the_end, str(tmp_path / "f")).result(WAIT_S)
        assert executor.submit(os.getpid).result(WAIT_S) == first
        second = executor.submit(os.getpid).result(WAIT_S)
        assert second != first
        assert list(executor._processes) == [second]
        (tmp_path / "f").write_text("go")


@pytest.mark.parametrize("how", ["terminate_workers", "kill_workers"])
def test_workers_can_be_ended_at_once(how: str, tmp_path: Path) -> None:
    executor = ProcessPoolExecutor(1)
    running = executor.submit(tasks.write_and_wait, str(tmp_path / "f"))
    waiting = [executor.submit(abs, -1) for _ in range(5)]
    wait_for(tmp_path / "f", "began")
    getattr(executor, how)()
    assert isinstance(running.exception(WAIT_S), BrokenProcessPool)
    assert all(future.cancelled() for future in wait(waiting, WAIT_S).done)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(abs, -1)
    executor.shutdown()


# -- map -----------------------------------------------------------------------------------------------------------


def both() -> list[Any]:
    return [ThreadPoolExecutor(2), ProcessPoolExecutor(2)]


@pytest.mark.parametrize("chunksize", [1, 7, 100])
def test_map_gives_what_map_gives(chunksize: int) -> None:
    for executor in both():
        with executor:
            assert list(executor.map(pow, range(50), itertools.repeat(2), chunksize=chunksize)) == [
                i**2 for i in range(50)
            ]
            assert list(executor.map(abs, [])) == []
            assert list(executor.map(abs)) == []


def test_maps_results_before_a_failure_come_first_and_what_follows_is_cancelled(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    for executor in both():
        with executor:
            results = executor.map(functools.partial(tasks.fail_on_three, path), range(1000))
            assert [next(results) for _ in range(3)] == [0, 1, 2]
            with pytest.raises(ValueError, match="three"):
                next(results)
            assert list(results) == []


def test_map_runs_all_although_nobody_looks(tmp_path: Path) -> None:
    for executor in both():
        path = tmp_path / type(executor).__name__
        with executor:
            executor.map(functools.partial(tasks.note, str(path)), range(30))
        assert len(path.read_text().split()) == 30


def test_closing_maps_iterator_cancels_what_has_not_started(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with (
        ProcessPoolExecutor(1) as executor,
        contextlib.closing(executor.map(tasks.write_and_wait, [str(path)] * 50)) as it,
    ):
        wait_for(path, "began")
        path.write_text("go")
        assert next(it) == "went"
    assert path.read_text().count("began") < 50


def test_maps_timeout_counts_from_the_call(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for executor in both():
        path.write_text("")
        with executor:
            results = executor.map(tasks.write_and_wait, [str(path)], timeout=0.3)
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                next(results)
            assert time.monotonic() - began < WAIT_S
            path.write_text("go")


def test_map_with_a_buffersize_reads_no_further_ahead() -> None:
    for executor in both():
        with executor:
            counter = itertools.count()
            results = executor.map(tasks.double, counter, buffersize=4)
            assert [next(results) for _ in range(10)] == [2 * i for i in range(10)]
            assert next(counter) <= 15
            results.close()  # type: ignore[attr-defined]


def test_map_of_what_cannot_be_pickled_raises_that() -> None:
    with ProcessPoolExecutor(1) as executor, pytest.raises(RuntimeError, match="it will not be pickled"):
        list(executor.map(tasks.double, [tasks.Unpicklable()]))


def test_maps_iterator_can_always_be_closed() -> None:
    for executor in both():
        with executor:
            for items in ([], [1], [tasks.Unpicklable()]):
                executor.map(tasks.double, items).close()  # type: ignore[attr-defined]


def test_numbers_that_are_not_whole_are_taken_or_refused_at_once() -> None:
    with pytest.raises(TypeError):
        ProcessPoolExecutor(1.5)  # type: ignore[arg-type]
    with ThreadPoolExecutor(1.5) as threads:  # type: ignore[arg-type]
        assert list(threads.map(abs, [-1, -2])) == [1, 2]
    with ProcessPoolExecutor(1) as processes:
        with pytest.raises(TypeError):
            processes.map(abs, [-1], chunksize=1.5)  # type: ignore[arg-type]
        assert processes.submit(abs, -1).result(WAIT_S) == 1


# -- callbacks -----------------------------------------------------------------------------------------------------


def test_callbacks_are_never_for_a_thread_that_submits_or_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    with ProcessPoolExecutor(2) as executor:
        executor.submit(abs, 0).result(WAIT_S)
        assert executor._pool is not None
        with monkeypatch.context() as patch:
            patch.setattr(executor._pool.driver.roles, "arm", lambda *, urgent=False: None)  # no thread helps
            futures_ = []
            for n in range(500):
                futures_.append(executor.submit(abs, -n))
                futures_[-1].add_done_callback(lambda _: called.append(threading.get_ident()))
            assert [future.result(WAIT_S) for future in futures_] == list(range(500))
            assert threading.get_ident() not in called
        last = executor.submit(abs, 1)
        last.add_done_callback(lambda _: called.append(threading.get_ident()))
    assert len(called) == 501  # before shutdown returns
    assert threading.get_ident() not in called


def test_a_lock_that_callbacks_want_may_be_held_by_who_submits_and_waits() -> None:
    lock = threading.Lock()
    n_called = 0

    def count(_: Any) -> None:
        nonlocal n_called
        with lock:
            n_called += 1

    with ProcessPoolExecutor(2) as executor:
        for n in range(500):
            with lock:
                future = executor.submit(abs, -n)
            future.add_done_callback(count)
            with lock:
                assert future.result(WAIT_S) == n
    assert n_called == 500


def test_callbacks_may_wait_for_other_calls() -> None:
    for executor in both():
        with executor:
            inner: concurrent.futures.Future[int] = concurrent.futures.Future()

            def wait_inside(_: Any, executor: Any = executor, inner: Any = inner) -> None:
                other = executor.submit(abs, -7)
                other.add_done_callback(lambda future: inner.set_result(future.result()))
                other.result(WAIT_S)

            executor.submit(abs, 1).add_done_callback(wait_inside)
            assert inner.result(WAIT_S) == 7


def test_the_programs_end_waits_for_threads_that_tasks_started(tmp_path: Path) -> None:
    program = (
        "import threading\n"
        "from fullcourt.futures import ThreadPoolExecutor\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    print('late')\n"
        "executor = ThreadPoolExecutor(1)\n"
        "executor.submit(lambda: threading.Thread(target=late).start()).result()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert (done.stdout, done.stderr) == ("late\n", "")


# -- subclasses ----------------------------------------------------------------------------------------------------


def test_a_subclass_that_changes_submit_changes_map() -> None:
    class Doubling(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            return super().submit(lambda: 2 * fn(*args, **kwargs))

    class Counting(ProcessPoolExecutor):
        n = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            self.n += 1
            return super().submit(fn, *args, **kwargs)

    with Doubling(2) as threads, Counting(2) as processes:
        assert list(threads.map(abs, [-1, -2])) == [2, 4]
        assert list(processes.map(abs, [-1, -2])) == [1, 2]
        assert processes.n == 2


# -- the end -------------------------------------------------------------------------------------------------------


def test_shutdown_waits_and_then_nothing_is_taken() -> None:
    for executor in both():
        futures_ = [executor.submit(tasks.double, i) for i in range(50)]
        executor.shutdown()
        assert all(future.done() for future in futures_)
        executor.shutdown()
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.submit(abs, -1)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.map(abs, [1])


def test_shutdown_without_waiting_lets_the_rest_run(tmp_path: Path) -> None:
    for executor in both():
        path = tmp_path / type(executor).__name__
        future = executor.submit(tasks.write_and_wait, str(path))
        executor.shutdown(wait=False)
        assert not future.done()
        wait_for(path, "began")
        path.write_text("go")
        assert future.result(WAIT_S) == "went"
        executor.shutdown()


def test_shutdown_cancels_what_has_not_started_if_asked(tmp_path: Path) -> None:
    for executor in [ThreadPoolExecutor(1), ProcessPoolExecutor(1)]:
        path = tmp_path / type(executor).__name__
        running = executor.submit(tasks.write_and_wait, str(path))
        wait_for(path, "began")
        rest = [executor.submit(tasks.double, i) for i in range(20)]
        executor.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in rest)
        with pytest.raises(CancelledError):
            rest[0].result()
        path.write_text("go")
        assert running.result(WAIT_S) == "went"
        executor.shutdown()


def test_running_and_cancel_tell_the_truth(tmp_path: Path) -> None:
    for executor in [ThreadPoolExecutor(1), ProcessPoolExecutor(1)]:
        path = tmp_path / type(executor).__name__
        with executor:
            first, second = executor.submit(tasks.write_and_wait, str(path)), executor.submit(abs, -1)
            wait_for(path, "began")
            assert first.running()
            assert not second.running()
            assert second.cancel()
            path.write_text("go")
            assert first.result(WAIT_S) == "went"
            assert not first.cancel()


def test_a_dropped_executor_finishes_what_it_was_given() -> None:
    for make in (ThreadPoolExecutor, ProcessPoolExecutor):
        futures_ = [make(2).submit(tasks.double, i) for i in range(3)]
        gc.collect()
        assert [future.result(WAIT_S) for future in futures_] == [0, 2, 4]


def test_an_executor_cannot_be_pickled_and_its_queue_can_be_asked(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(tasks.write_and_wait, str(path))
        wait_for(path, "began")
        for _ in range(3):
            executor.submit(abs, -1)
        assert executor._work_queue.qsize() == 3
        with pytest.raises(TypeError):
            pickle.dumps(executor)
        path.write_text("go")
        running.result(WAIT_S)


# -- asyncio -------------------------------------------------------------------------------------------------------


def test_asyncio_takes_them() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        with ProcessPoolExecutor(2) as executor:
            awaited = await asyncio.gather(*(loop.run_in_executor(executor, tasks.double, i) for i in range(5)))
            return [*awaited, await asyncio.to_thread(tasks.double, 50), await executor.submit(tasks.double, 60)]

    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 100, 120]


# -- interpreters --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="they are there")
def test_interpreters_say_from_which_python_on_they_are_there() -> None:
    with pytest.raises(NotSupported, match=r"3\.14"):
        InterpreterPoolExecutor(2)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="needs Python 3.14")
def test_interpreters_run_calls_and_refuse_closures() -> None:
    captured = 1
    with InterpreterPoolExecutor(2, initializer=tasks.keep, initargs=(5,)) as executor:
        assert list(executor.map(tasks.double, range(5))) == [0, 2, 4, 6, 8]
        assert executor.submit(tasks.kept).result(WAIT_S) == [5]
        error = executor.submit(lambda: captured).exception(WAIT_S)
    assert type(error).__name__ == "NotShareableError"
