"""What runs can be stopped, truly; and what was asked for a task (time, retries, memory, priority) is kept."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import os
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from conformance_harness import is_alive

import fullcourt
from fullcourt.errors import exit_name
from tests.faults import stop_tasks as tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc and signals"),
]

PROCESSES: dict[str, dict[str, Any]] = {
    "fork": {"processes": 2, "start_method": "fork"},
    "forkserver": {"processes": 2, "start_method": "forkserver"},
    "spawn": {"processes": 2, "start_method": "spawn"},
    "portable": {"processes": 2},
}
MANY_SLOTS = {"fork-x-threads": {"processes": 2, "threads": 2, "start_method": "fork"}}
IN_PROCESS: dict[str, dict[str, Any]] = {"threads": {"threads": 2}}
if sys.version_info >= (3, 14):
    IN_PROCESS["interpreters"] = {"interpreters": 2}
ALL = PROCESSES | MANY_SLOTS | IN_PROCESS

NewPool = "Callable[..., fullcourt.Pool]"


@pytest.fixture
def new_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., fullcourt.Pool]]:
    pools: list[fullcourt.Pool] = []

    def make(engine: str, **options: Any) -> fullcourt.Pool:
        monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable" if engine == "portable" else "native")
        pools.append(fullcourt.Pool(**(ALL[engine] | options)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()
        pool.join()


class Notes:
    """The file to which tasks append lines."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        path.touch()

    def lines(self) -> list[str]:
        with open(self.path, encoding="ascii") as file:
            return file.read().splitlines()

    def wait_for(self, word: str, within_s: float = 30.0) -> str:
        """The rest of the first line that begins with this word."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            for line in self.lines():
                if line.startswith(word):
                    return line.removeprefix(word).strip()
            time.sleep(0.005)
        raise AssertionError(f"no line {word!r} within {within_s} s")


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


def wait_until(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    until = time.monotonic() + within_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    return condition()


def goes_on(pool: fullcourt.Pool) -> bool:
    return pool.map(abs, range(-20, 0)) == list(range(20, 0, -1))


# -- time limits -------------------------------------------------------------------------------------------------------

WAYS = ["sleep_then_note", "sleep_deaf", "compute_in_c"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", PROCESSES)
def test_a_task_whose_time_is_over_is_stopped(engine: str, way: str, new_pool: Any, notes: Notes) -> None:
    pool = new_pool(engine)
    future = pool.options(timeout=0.3, grace=0.2).submit(getattr(tasks, way), notes.path, 20)
    with pytest.raises(fullcourt.TaskTimeout, match=r"ran longer than its timeout of 0.3 s") as caught:
        future.result(60)
    assert isinstance(caught.value, TimeoutError)
    assert any(way in note and "attempt 1" in note for note in caught.value.__notes__)
    assert goes_on(pool)
    assert "ended" not in notes.lines()
    assert pool.statistics().n_abandoned == 0
    assert pool.statistics().n_in_flight == 0


@pytest.mark.parametrize("engine", PROCESSES | MANY_SLOTS)
def test_the_traceback_says_where_a_task_was_stopped(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    with pytest.raises(fullcourt.TaskTimeout) as caught:  # a thread that sleeps hears of it when it wakes
        pool.options(timeout=0.2, grace=20).apply(tasks.sleep_if, (1, 1, 0.5))
    assert "sleep_if" in str(caught.value.__cause__)


@pytest.mark.parametrize("engine", ALL)
def test_one_item_of_a_map_is_stopped_and_the_others_are_not(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    seconds = 60 if engine not in IN_PROCESS else 1  # what is abandoned in this process must end before the test does
    items = [(x, 7, seconds) for x in range(40)]
    results = pool.starmap(tasks.sleep_if, items, timeout=0.4, grace=0.1, on_error="return")
    assert [x for x in range(40) if results[x] != x * x] == [7]
    failure = results[7]
    assert isinstance(failure, fullcourt.Failure)
    assert isinstance(failure.exception, fullcourt.TaskTimeout)
    assert failure.index == 7
    assert goes_on(pool)


@pytest.mark.parametrize("engine", ALL)
def test_items_of_a_stream_are_stopped_too(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    items = iter([(x, 3, 60 if engine not in IN_PROCESS else 1) for x in range(10)])
    view = pool.options(timeout=0.4, grace=0.1)
    stream = view.imap(star, items)
    results: list[Any] = []
    while True:
        try:
            results.append(next(stream))
        except StopIteration:
            break
        except fullcourt.TaskTimeout:
            results.append("timeout")
    assert results == [x * x if x != 3 else "timeout" for x in range(10)]


def star(item: tuple[int, int, float]) -> int:
    return tasks.sleep_if(*item)


@pytest.mark.parametrize("engine", ["fork", "threads"])
def test_a_multiple_of_the_median_is_a_limit(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    function = tasks.sleep_tenth_or_long if engine == "fork" else sleep_tenth_or_second
    results = pool.map(function, range(12), timeout="10x", grace=0.1, on_error="return", chunksize=1)
    assert [i for i, result in enumerate(results) if isinstance(result, fullcourt.Failure)] == [9]
    assert "times the median" in str(results[9].exception)


@pytest.mark.parametrize("engine", PROCESSES)
def test_a_late_answer_of_a_stopped_item_is_told_with_its_limit(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    results = pool.map(tasks.answer_slowly, range(6), timeout=0.2, grace=0.1, on_error="return", chunksize=6)
    assert [i for i, result in enumerate(results) if isinstance(result, fullcourt.Failure)] == [3]
    assert isinstance(results[3].exception, fullcourt.TaskTimeout)
    assert "longer than its timeout of 0.2 s" in str(results[3].exception)
    assert isinstance(results[3].exception.__cause__, tasks.SlowToLoad)


def sleep_tenth_or_second(x: int) -> int:
    time.sleep(1.0 if x == 9 else 0.02)
    return x


@pytest.mark.parametrize("engine", ["fork", "threads"])
def test_waiting_for_a_worker_does_not_count(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    view = pool.options(timeout=1.0)
    futures = [view.submit(tasks.pid_after, 0.2) for _ in range(20)]  # the last waits two seconds
    assert all(isinstance(future.result(30), int) for future in futures)


@pytest.mark.parametrize("engine", PROCESSES)
def test_what_a_task_gives_when_it_is_stopped_counts(engine: str, new_pool: Any, notes: Notes) -> None:
    pool = new_pool(engine)
    assert pool.options(timeout=0.2).submit(tasks.give_what_there_is, notes.path, 20).result(30) == "partial"


def test_what_fails_in_the_cleanup_is_the_cause(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")
    with pytest.raises(fullcourt.TaskTimeout) as caught:
        pool.options(timeout=0.2).apply(tasks.fail_in_cleanup, (notes.path, 20))
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("engine", PROCESSES)
@pytest.mark.parametrize("grace", [0, 0.2])
def test_what_a_stopped_task_started_goes_with_it(grace: float, engine: str, new_pool: Any, notes: Notes) -> None:
    pool = new_pool(engine)
    with pytest.raises(fullcourt.TaskTimeout):
        pool.options(timeout=0.5, grace=grace).apply(tasks.start_child_and_sleep, (notes.path, 20))
    child = int(notes.wait_for("child"))
    assert wait_until(lambda: not is_alive(child))


@pytest.mark.parametrize("engine", PROCESSES)
def test_what_a_task_started_goes_with_it_if_its_worker_ends_at_the_second_step(
    engine: str, new_pool: Any, notes: Notes
) -> None:
    pool = new_pool(engine)
    with pytest.raises(fullcourt.TaskTimeout):
        pool.options(timeout=0.5, grace=0.1).apply(tasks.start_child_and_linger, (notes.path, 20))
    child = int(notes.wait_for("child"))
    assert wait_until(lambda: not is_alive(child))


@pytest.mark.parametrize("engine", MANY_SLOTS)
def test_a_stuck_slot_costs_the_other_tasks_of_its_worker_nothing(engine: str, new_pool: Any, notes: Notes) -> None:
    pool = new_pool(engine, processes=1)
    beside = pool.submit(tasks.sleep_then_note, notes.path, 1.5)
    notes.wait_for("begun")
    with pytest.raises(fullcourt.TaskTimeout):
        pool.options(timeout=0.2, grace=0.1).apply(tasks.sleep_deaf, (notes.path + "2", 60))
    stuck = int(Notes(_path(notes.path + "2")).wait_for("begun"))
    assert pool.statistics().n_abandoned == 1
    assert goes_on(pool)
    assert beside.result(30) == "done"
    assert wait_until(lambda: not is_alive(stuck))


@pytest.mark.parametrize("engine", MANY_SLOTS)
def test_what_a_stuck_worker_has_not_begun_runs_elsewhere_when_it_is_given_up(
    engine: str, new_pool: Any, notes: Notes
) -> None:
    pool = new_pool(engine, processes=1)
    stuck = pool.options(timeout=1.0, grace=0.1).submit(tasks.stop_own_process, notes.path)
    pid = int(notes.wait_for("begun"))
    assert wait_until(lambda: state_of(pid) == "T")
    beside = pool.submit(abs, -3)  # for its other slot
    assert isinstance(stuck.exception(30), fullcourt.TaskTimeout)
    assert beside.result(30) == 3
    assert wait_until(lambda: not is_alive(pid))


def state_of(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]


def _path(name: str) -> Path:
    from pathlib import Path

    return Path(name)


@pytest.mark.parametrize("engine", IN_PROCESS)
def test_where_nothing_can_be_killed_the_future_ends_and_that_is_said(engine: str, new_pool: Any, notes: Notes) -> None:
    pool = new_pool(engine)
    began = time.monotonic()
    futures = [pool.options(timeout=0.2).submit(tasks.sleep_deaf, notes.path, 1.5) for _ in range(4)]
    for future in futures:
        error = future.exception(30)
        assert isinstance(error, fullcourt.TaskTimeout)
        assert any("abandoned" in note for note in error.__notes__)
    assert time.monotonic() - began < 1.4
    assert pool.statistics().n_abandoned == 4
    assert goes_on(pool)  # its slots were made anew
    assert wait_until(lambda: notes.lines().count("ended") == 4)


def test_a_thread_that_runs_python_hears_that_its_time_is_over(new_pool: Any) -> None:
    pool = new_pool("threads")
    heard = threading.Event()

    def spin() -> None:
        try:
            while True:
                pass
        except fullcourt.TaskStopped:
            heard.set()
            raise

    with pytest.raises(fullcourt.TaskTimeout):
        pool.options(timeout=0.2).apply(spin)
    assert heard.wait(30)


def test_a_thread_hears_that_its_time_is_over_before_its_task_begins(new_pool: Any) -> None:
    """It is found as soon as it is entered."""
    pool = new_pool("threads", threads=1)
    engine = pool._driver.engine
    heard: list[bool] = []
    abandoners: list[threading.Thread] = []

    class AbandonAtOnce(dict[int, Any]):
        def __setitem__(self, chunk_id: int, watched: Any) -> None:
            super().__setitem__(chunk_id, watched)
            abandoning = threading.Thread(target=lambda: heard.append(engine.abandon(1, chunk_id, TimeoutError)))
            abandoners.append(abandoning)
            abandoning.start()
            abandoning.join()  # the exception may come in here, before that thread has told what it did

    engine._watched = AbandonAtOnce()
    begun: list[int] = []
    pool.options(timeout=60).submit(begun.append, 1)
    pool.apply(abs, (-1,))  # by the thread that has taken the other's place
    engine.threads[0].join(30)
    abandoners[0].join(30)
    assert heard == [True]
    assert not begun


def test_tasks_that_end_just_as_their_time_does(new_pool: Any) -> None:
    """The exception must hit the task, or nothing: never the worker's own loop."""
    pool = new_pool("fork")
    view = pool.options(timeout=0.005, grace=5.0)
    n_late = 0
    for i in range(150):
        try:
            view.apply(tasks.pid_after, (0.004 + (i % 10) * 0.0002,))
        except fullcourt.TaskTimeout:
            n_late += 1
    assert goes_on(pool)
    assert pool.statistics().n_done + n_late == 150 + 20


def test_items_that_end_just_as_their_time_does(new_pool: Any) -> None:
    pool = new_pool("fork-x-threads")
    results = pool.map(
        tasks.pid_after, [0.004 + (i % 10) * 0.0002 for i in range(200)], timeout=0.005, grace=5.0, on_error="return"
    )
    assert len(results) == 200
    assert all(isinstance(result, int) or isinstance(result.exception, fullcourt.TaskTimeout) for result in results)
    assert goes_on(pool)


# -- cancelling what runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("engine", PROCESSES)
def test_a_running_task_is_cancelled_and_the_answer_is_the_truth(
    engine: str, way: str, new_pool: Any, notes: Notes
) -> None:
    pool = new_pool(engine)
    future = pool.options(grace=0.1).submit(getattr(tasks, way), notes.path, 20)
    notes.wait_for("begun")
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(CancelledError):
        future.result(0)
    assert goes_on(pool)
    assert "ended" not in notes.lines()
    assert not future.running()


def test_cancelling_comes_too_late_for_a_task_that_gives_a_result(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")

    def insist(path: str) -> str:
        tasks.note(path, "begun")
        with contextlib.suppress(fullcourt.TaskStopped):
            time.sleep(20)
        return "done all the same"

    future = pool.submit(insist, notes.path)
    notes.wait_for("begun")
    assert not future.cancel()
    assert future.result(0) == "done all the same"


@pytest.mark.parametrize("engine", IN_PROCESS)
def test_what_cannot_be_stopped_is_not_called_cancelled(engine: str, new_pool: Any, notes: Notes) -> None:
    pool = new_pool(engine)
    future = pool.submit(tasks.sleep_then_note, notes.path, 0.5)
    notes.wait_for("begun")
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result(30) == "done"


def test_cancelling_from_an_event_loop_does_not_block_it(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")

    async def main() -> None:
        future = pool.options(grace=0.3).submit(tasks.sleep_deaf, notes.path, 20)
        await asyncio.to_thread(notes.wait_for, "begun")
        began = time.monotonic()
        assert future.cancel()
        assert time.monotonic() - began < 0.25
        assert future.cancelled()

    asyncio.run(main())
    pid = int(notes.wait_for("begun"))
    assert wait_until(lambda: not is_alive(pid))  # it was deaf: its worker had to go
    assert goes_on(pool)


def test_cancelling_the_asyncio_task_that_awaits_stops_the_work(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")

    async def main() -> None:
        async def wait_for_it() -> None:
            await pool.submit(tasks.sleep_then_note, notes.path, 20)

        task = asyncio.create_task(wait_for_it())
        await asyncio.to_thread(notes.wait_for, "begun")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert goes_on(pool)
    assert wait_until(lambda: pool.statistics().n_in_flight == 0)
    assert "ended" not in notes.lines()


@pytest.mark.parametrize("engine", PROCESSES)
def test_cancelling_a_map_stops_what_runs_of_it(engine: str, new_pool: Any, notes: Notes) -> None:
    pool = new_pool(engine)
    future = pool.starmap_async(tasks.sleep_then_note, [(notes.path, 20)] * 10, chunksize=5)
    notes.wait_for("begun")
    assert future.cancel()
    began = time.monotonic()
    assert goes_on(pool)  # on both workers
    assert time.monotonic() - began < 15
    assert "ended" not in notes.lines()


def cancel_and_tell(future: fullcourt.Future[Any], answers: list[bool]) -> None:
    answers.append(future.cancel())


@pytest.mark.parametrize("engine", PROCESSES)
def test_a_stop_that_comes_before_the_task_does_is_not_lost(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine, processes=1)
    pid = pool.apply(os.getpid)
    with pytest.raises(fullcourt.TaskTimeout):
        pool.options(timeout=0.05, grace=60).apply(tasks.wait_for_ever, (tasks.ReadUntilStopped(),))
    assert pool.apply(os.getpid) == pid  # it was not the worker's end


@pytest.mark.parametrize("task", [tasks.pass_over_errors_for_ever, tasks.run_an_event_loop_for_ever])
@pytest.mark.parametrize("engine", PROCESSES)
def test_a_stop_comes_through_what_passes_over_errors(engine: str, task: Any, new_pool: Any) -> None:
    pool = new_pool(engine, processes=1)
    pool.apply(importlib.import_module, ("asyncio",))  # one that is stopped half-way leaves half of it
    pid = pool.apply(os.getpid)
    for i in range(20):
        with pytest.raises(fullcourt.TaskTimeout):
            pool.options(timeout=0.01 + 0.0001 * i, grace=60).apply(task)
    assert pool.apply(os.getpid) == pid


@pytest.mark.parametrize("engine", PROCESSES | MANY_SLOTS)
def test_a_stop_that_comes_while_an_object_is_collected_is_not_lost(engine: str, new_pool: Any) -> None:
    """An exception in a ``__del__``, or in what a weak reference calls, is dropped by Python, or by the user's code."""
    pool = new_pool(engine, processes=1)
    pid = pool.apply(os.getpid)
    for _ in range(30):
        with pytest.raises(fullcourt.TaskTimeout):
            pool.options(timeout=0.01, grace=60).apply(tasks.collect_for_ever)
    assert pool.apply(os.getpid) == pid


@pytest.mark.parametrize("engine", PROCESSES | MANY_SLOTS)
def test_a_cancelled_map_keeps_no_worker(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    pids = {worker.pid for worker in pool.statistics().workers}
    for i in range(60):
        pool.map(abs, range(8), chunksize=1)  # short tasks, so that several are sent ahead
        future = pool.options(grace=60).map_async(tasks.wait_for_ever, range(40), chunksize=1)
        time.sleep(0.0005 * i)  # items are about to begin, have begun, or wait
        assert future.cancel()
    assert pool.map(abs, range(8), chunksize=1) == list(range(8))
    assert {worker.pid for worker in pool.statistics().workers} == pids


@pytest.mark.parametrize("engine", PROCESSES | MANY_SLOTS)
def test_a_task_is_stopped_while_it_uses_its_own_pool(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    pool.starmap(tasks.use_the_pool, [(pool, 1)] * 4)
    for i in range(60):
        with pytest.raises(fullcourt.TaskTimeout):  # softly: the grace is longer than this test may take
            pool.options(timeout=0.002 + 0.0002 * i, grace=1000).apply(tasks.use_the_pool_for_ever, (pool,))
        assert pool.starmap(tasks.use_the_pool, [(pool, i)] * 2) == [[i] * 3] * 2
    assert pool.statistics().n_abandoned == 0


@pytest.mark.parametrize("how", ["put, get", "put_many, get_many", "with lock", "set, wait, clear", "notify, wait"])
def test_a_task_that_is_stopped_while_it_uses_a_channel_leaves_it_in_order(how: str, new_pool: Any) -> None:
    pool = new_pool("fork")
    queue, lock, event, condition = fullcourt.Queue(10), fullcourt.Lock(), fullcourt.Event(), fullcourt.Condition()
    for i in range(150):
        with pytest.raises(fullcourt.TaskTimeout):  # softly: the grace is longer than this test may take
            pool.options(timeout=0.002 + 0.00002 * i, grace=1000).apply(
                tasks.use_a_channel_for_ever, (how, queue, lock, event, condition)
            )
        assert lock.acquire(timeout=30)
        lock.release()
        assert condition.acquire(timeout=30)
        condition.release()
        event.set()
        assert event.wait(30)
        event.clear()
        while not queue.empty():
            queue.get(timeout=30)
        queue.put("more", timeout=30)
        assert queue.get(timeout=30) == "more"


def test_cancelling_again_and_again_from_many_threads(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")
    for _ in range(30):
        future = pool.submit(time.sleep, 20)
        answers: list[bool] = []
        threads = [threading.Thread(target=cancel_and_tell, args=(future, answers)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * 4
    assert goes_on(pool)


@pytest.mark.parametrize("engine", ["fork", "forkserver", "portable"])
def test_a_call_that_is_cancelled_on_its_way_to_a_busy_worker_does_not_wait_for_it(
    engine: str, new_pool: Any, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps: (1) a thread gives the call to the worker, (2) another one looks for it there, (3) the first one sends it.

    Then it lies behind what runs, and nobody looked again: the one who cancelled it waited until its turn had come.
    """
    pool = new_pool(engine, processes=1)
    busy = pool.submit(tasks.sleep_then_note, notes.path, 60)
    notes.wait_for("begun")
    driver = pool._driver
    on_its_way, go_on = threading.Event(), threading.Event()
    given: list[Any] = []
    send = driver.engine.send

    def send_late(worker_id: int, chunk: Any) -> Any:
        if getattr(chunk, "fn", None) is abs:
            given.append(chunk.future)
            on_its_way.set()
            assert go_on.wait(30)
        return send(worker_id, chunk)

    monkeypatch.setattr(driver.engine, "send", send_late)
    submitter = threading.Thread(target=pool.submit, args=(abs, -1))
    submitter.start()
    assert on_its_way.wait(30)
    answers: list[bool] = []
    canceller = threading.Thread(target=cancel_and_tell, args=(given[0], answers))
    canceller.start()
    assert wait_until(lambda: bool(driver.supervisor.stops))
    go_on.set()
    canceller.join(20)
    assert answers == [True]
    submitter.join()
    assert not busy.done()
    assert busy.cancel()
    assert goes_on(pool)


@pytest.mark.parametrize("grace", [0.1, 0], ids=["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("engine", ["fork", "forkserver", "spawn"])
def test_what_waits_behind_a_task_that_is_stopped_is_not_killed_in_its_place(
    engine: str, grace: float, new_pool: Any, notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task ends just when its worker is killed."""
    pool = new_pool(engine, processes=1)
    pool.apply(abs, (-1,))
    behind = Notes(tmp_path / "behind")
    end = pool._driver.engine
    signalled, kill = end.signal, end.kill

    def let_end_first() -> None:
        tasks.note(notes.path, "end")
        wait_until(lambda: bool(behind.lines()), 1.0)

    monkeypatch.setattr(end, "interrupt", lambda *_: None)
    monkeypatch.setattr(end, "signal", lambda *arguments: (let_end_first(), signalled(*arguments)))
    monkeypatch.setattr(end, "kill", lambda worker_id: (let_end_first(), kill(worker_id))[1])
    stopped = pool.options(timeout=0.3, grace=grace).submit(tasks.sleep_deaf_until_told, notes.path)
    waiting = pool.submit(tasks.sleep_then_note, behind.path, 1.5)
    assert waiting.result(30) == "done"
    assert stopped.exception(30) is None or isinstance(stopped.exception(), fullcourt.TaskTimeout)
    assert [line.split()[0] for line in behind.lines()] == ["begun", "ended"]


@pytest.mark.parametrize("grace", [60, 0], ids=["softly", "at-once"])
@pytest.mark.parametrize("engine", PROCESSES)
def test_a_worker_that_dies_by_itself_when_its_time_is_over_is_said_to_have(
    engine: str, grace: float, new_pool: Any, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = new_pool(engine, processes=1)
    end = pool._driver.engine
    pid = pool.apply(os.getpid)
    kill = end.kill

    def die(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it is killed when it is dead, too
            os.kill(pid, signal.SIGSEGV)
        assert wait_until(lambda: not is_alive(pid))

    monkeypatch.setattr(end, "interrupt", die)
    monkeypatch.setattr(end, "kill", lambda worker_id: (die(), kill(worker_id)))
    error = pool.options(timeout=0.1, grace=grace).submit(tasks.sleep_then_note, notes.path, 20).exception(30)
    assert isinstance(error, fullcourt.WorkerDied)
    assert error.exitcode == -signal.SIGSEGV
    assert any("ran longer than its timeout" in note for note in error.__notes__)
    monkeypatch.undo()
    assert goes_on(pool)


# -- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ALL | {"inline": {}})
def test_a_task_that_fails_is_tried_again(
    engine: str, new_pool: Any, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALL, "inline", {"processes": 0})
    pool = new_pool(engine)
    assert pool.options(retries=5).apply(tasks.fail_until, (notes.path, 4)) == 4
    assert pool.statistics().n_retried == 3
    assert pool.statistics().n_failed == 0


@pytest.mark.parametrize("engine", ["fork", "threads", "inline"])
def test_retries_wait_longer_and_longer(
    engine: str, new_pool: Any, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALL, "inline", {"processes": 0})
    pool = new_pool(engine)
    with pytest.raises(ValueError, match="attempt 4") as caught:
        pool.options(retries=3, backoff=0.1).apply(tasks.fail_until, (notes.path, 99))
    assert any("attempt 4" in note for note in caught.value.__notes__)
    times = [float(line) for line in notes.lines()]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(wait >= least for wait, least in zip(waits, [0.05, 0.1, 0.2], strict=True))


@pytest.mark.parametrize("engine", ALL)
def test_items_of_a_map_are_tried_again_each_for_itself(engine: str, new_pool: Any, tmp_path: Path) -> None:
    pool = new_pool(engine)
    items = [(str(tmp_path / f"item{i}"), 3 if i % 2 else 1) for i in range(8)]
    assert pool.starmap(tasks.fail_until, items, retries=2) == [3 if i % 2 else 1 for i in range(8)]


def test_only_what_is_named_is_tried_again(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")
    with pytest.raises(ValueError, match="attempt 1"):
        pool.options(retries=3, retry_on=(KeyError, fullcourt.WorkerDied)).apply(tasks.fail_until, (notes.path, 9))
    assert len(notes.lines()) == 1


@pytest.mark.parametrize("engine", PROCESSES | MANY_SLOTS)
def test_an_item_that_ends_its_worker_on_every_attempt_is_set_aside(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    results = pool.map(tasks.die_if, range(6), retries=2, on_error="return")
    failure = results.pop(3)
    assert results == [0, 1, 2, 4, 5]
    assert failure.attempt == 3
    assert isinstance(failure.exception, fullcourt.WorkerDied)
    assert any("set aside" in note for note in failure.exception.__notes__)
    assert exit_name(failure.exception.exitcode) == "was killed by SIGKILL"
    assert goes_on(pool)


@pytest.mark.parametrize("ends", [["fail", "die"], ["die", "fail", "die"], ["raise"] * 2], ids="-".join)
def test_only_what_ended_its_worker_on_every_attempt_is_said_to_have(
    ends: list[str], new_pool: Any, notes: Notes
) -> None:
    pool = new_pool("fork", processes=1)
    retrying = pool.options(retries=len(ends) - 1)
    in_map = retrying.map_async(partial(tasks.end_each_time, notes.path, ends), [0], on_error="return")
    died = [in_map.result(30)[0].exception]
    os.truncate(notes.path, 0)
    died.append(retrying.submit(tasks.end_each_time, notes.path, ends, 0).exception(30))
    for error in died:
        assert isinstance(error, fullcourt.WorkerDied)
        assert not any("set aside" in note for note in error.__notes__)


def test_a_task_that_is_stopped_can_be_tried_again(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")
    with pytest.raises(fullcourt.TaskTimeout):
        pool.options(timeout=0.2, retries=2).apply(tasks.sleep_then_note, (notes.path, 20))
    assert len(notes.lines()) == 3


def test_a_call_that_waits_for_its_next_attempt_can_be_cancelled(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")
    future = pool.options(retries=3, backoff=50).submit(tasks.fail_until, notes.path, 9)
    assert wait_until(lambda: pool.statistics().n_retried == 1)
    assert future.cancel()
    assert pool.statistics().n_in_flight == 0


@pytest.mark.parametrize("engine", ["fork", "threads"])
def test_a_map_that_is_over_keeps_nothing_that_waits_for_its_next_attempt(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    cancelled = pool.map_async(tasks.fail_with, ["ValueError"] * 3, chunksize=1, retries=3, backoff=50)
    dropped = pool.imap(tasks.fail_with, ["ValueError"] * 3, chunksize=1, retries=3, backoff=50)
    assert wait_until(lambda: pool.statistics().n_retried == 6)
    assert cancelled.cancel()
    assert pool.statistics().n_in_flight == 3
    dropped.close()
    assert pool.statistics().n_in_flight == 0


def test_a_map_in_the_caller_that_fails_waits_for_no_other_attempt() -> None:
    begun = time.monotonic()
    with fullcourt.Pool(processes=0) as pool, pytest.raises(KeyError):
        pool.map(tasks.fail_with, ["ValueError", "KeyError"], retries=3, backoff=50, retry_on=ValueError)
    assert time.monotonic() - begun < 20


def test_a_pool_that_ends_forgets_what_waits_for_its_next_attempt(new_pool: Any, notes: Notes) -> None:
    for engine in ("fork", "threads"):
        pool = new_pool(engine)
        future = pool.options(retries=3, backoff=50).submit(tasks.fail_until, notes.path + engine, 9)
        assert wait_until(lambda p=pool: p.statistics().n_retried == 1)
        pool.terminate()
        pool.join()
        assert future.cancelled()


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", PROCESSES | MANY_SLOTS)
def test_a_task_that_takes_too_much_memory_is_stopped(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    with pytest.raises(fullcourt.TaskMemoryExceeded, match="100 MiB are allowed") as caught:
        pool.options(max_memory="100M").apply(tasks.take_memory, (300_000_000, 20))
    assert isinstance(caught.value, MemoryError)
    assert pool.options(max_memory="500M").apply(tasks.take_memory, (1_000_000, 0.1)) == 1_000_000
    assert goes_on(pool)


def test_a_map_goes_on_without_the_item_that_takes_too_much(new_pool: Any) -> None:
    pool = new_pool("fork")
    items = [(300_000_000 if i == 5 else 1000, 20 if i == 5 else 0) for i in range(10)]
    results = pool.starmap(tasks.take_memory, items, max_memory="150M", on_error="return")
    assert [i for i, result in enumerate(results) if isinstance(result, fullcourt.Failure)] == [5]
    assert isinstance(results[5].exception, fullcourt.TaskMemoryExceeded)


@pytest.mark.parametrize("timed", [{}, {"timeout": 60}], ids=["untimed", "timed"])
def test_what_is_stopped_for_its_memory_is_the_item_that_runs(
    timed: dict[str, Any], new_pool: Any, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not one that failed by itself before the worker was killed."""
    pool = new_pool("fork", processes=1)
    engine = pool._driver.engine
    kill = engine.kill

    def kill_at_second_item(worker_id: int) -> bool:
        tasks.note(notes.path, "fail")
        notes.wait_for("begun")
        return bool(kill(worker_id))

    monkeypatch.setattr(engine, "kill", kill_at_second_item)
    items = [(notes.path, i, 300_000_000) for i in range(3)]
    results = pool.starmap(tasks.grow_and_fail_first, items, 3, max_memory="150M", on_error="return", **timed)
    assert isinstance(results[0].exception, ValueError)
    stopped = results[1].exception
    assert isinstance(stopped, fullcourt.TaskMemoryExceeded)
    assert str(stopped).startswith(f"grow_and_fail_first({notes.path!r}, 1, 300000000) was stopped: its worker had")
    assert results[2] == 2


def test_an_item_that_takes_too_much_costs_the_others_in_its_chunk_nothing_beside_threads(new_pool: Any) -> None:
    pool = new_pool("fork-x-threads", processes=1)
    items = [(300_000_000 if i == 2 else 1000, 20 if i == 2 else 0) for i in range(6)]
    future = pool.starmap_async(tasks.take_memory, items, 6, max_memory="150M", on_error="return")
    results = future.result(30)
    assert isinstance(results[2].exception, fullcourt.TaskMemoryExceeded)
    assert all(result == 1000 or isinstance(result, fullcourt.Failure) for result in results[:2] + results[3:])


def test_a_pool_under_pressure_runs_fewer_tasks_at_a_time(new_pool: Any) -> None:
    pool = new_pool("fork", processes=4, memory_limit="400M")
    sizes = [200_000_000] * 6  # any two fit, and no three
    assert pool.starmap(tasks.take_memory, [(size, 0.3) for size in sizes], chunksize=1) == sizes


def test_a_task_that_takes_more_than_the_pool_may_fails_alone(new_pool: Any) -> None:
    pool = new_pool("fork", memory_limit="150M")
    with pytest.raises(fullcourt.TaskMemoryExceeded, match="memory_limit"):
        pool.apply(tasks.take_memory, (300_000_000, 20))
    assert goes_on(pool)


def test_workers_that_have_grown_are_replaced(new_pool: Any) -> None:
    pool = new_pool("fork", processes=1, max_memory_per_child="100M")
    first = pool.apply(tasks.pid_after_taking, (150_000_000,))
    pids: set[int] = set()
    assert wait_until(lambda: pids.add(pool.apply(tasks.pid_after, (0.05,))) or first not in pids or len(pids) > 1)
    assert goes_on(pool)
    assert wait_until(lambda: not is_alive(first))


def test_workers_that_are_old_are_replaced_without_a_loss(new_pool: Any) -> None:
    pool = new_pool("fork", processes=2, max_age_per_child=0.3)
    pids = pool.map(tasks.pid_after, [0.02] * 150, chunksize=1)
    assert len(pids) == 150
    assert len(set(pids)) > 3


# -- priority ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["fork", "threads"])
def test_tasks_of_a_higher_priority_start_first(engine: str, new_pool: Any, notes: Notes) -> None:
    pool = new_pool(engine, **({"processes": 1} if engine == "fork" else {"threads": 1}))
    blocker = pool.submit(tasks.sleep_then_note, notes.path + "0", 0.5)
    Notes(_path(notes.path + "0")).wait_for("begun")
    futures = [pool.submit(tasks.note, notes.path, f"low {i}") for i in range(20)]
    futures += [pool.options(priority=5).submit(tasks.note, notes.path, f"high {i}") for i in range(5)]
    futures += [pool.options(priority=-1).submit(tasks.note, notes.path, "last")]
    futures += [pool.options(priority=9).submit(tasks.note, notes.path, "first")]
    blocker.result(30)
    for future in futures:
        future.result(30)
    order = notes.lines()
    assert order[-1] == "last"
    at_high = [order.index(f"high {i}") for i in range(5)]
    assert at_high == sorted(at_high)
    # What the worker already held (a few tasks) is not overtaken.
    n_before = sum(line.startswith("low") for line in order[: order.index("first")])
    assert order.index("first") < at_high[0] < 20
    assert n_before < 20


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"timeout": 0}, ValueError, "timeout must be more than 0"),
        ({"timeout": -1}, ValueError, "timeout must be more than 0"),
        ({"timeout": float("nan")}, ValueError, "timeout must be more than 0"),
        ({"timeout": "3"}, ValueError, "as '3x'"),
        ({"timeout": "0x"}, ValueError, "as '3x'"),
        ({"timeout": True}, TypeError, "number of seconds"),
        ({"retries": -1}, ValueError, "at least 0"),
        ({"retries": 1.5}, TypeError, "integer"),
        ({"backoff": -0.1}, ValueError, "backoff must be at least 0"),
        ({"retry_on": "ValueError"}, TypeError, "exception classes"),
        ({"max_memory": "much"}, ValueError, "'500M'"),
        ({"max_memory": 0}, ValueError, "at least one byte"),
        ({"priority": "high"}, TypeError, "integer"),
        ({"grace": None}, TypeError, "number of seconds"),
        ({"time_out": 3}, TypeError, "no option of a task; there are timeout"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], error: type[Exception], says: str, new_pool: Any
) -> None:
    pool = new_pool("threads")
    with pytest.raises(error, match=says):
        pool.options(**options)
    with pytest.raises(error, match=says):
        pool.map(abs, [1], **options)


def test_what_an_engine_cannot_do_is_said_at_once(new_pool: Any) -> None:
    with pytest.raises(fullcourt.NotSupported, match="share this process's memory"):
        new_pool("threads").options(max_memory="1G")
    with fullcourt.Pool(processes=0) as inline, pytest.raises(fullcourt.NotSupported, match="cannot stop"):
        inline.options(timeout=1)


def test_a_view_is_a_pool_with_other_options(new_pool: Any) -> None:
    pool = new_pool("threads")
    view = pool.options(retries=1)
    assert view.options(priority=2).map(abs, [-1]) == [1]
    assert view.statistics().n_done == 1
    assert os.getpid() == view.apply(os.getpid)


# -- task groups -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ALL)
def test_a_group_ends_with_its_last_task(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    with pool.task_group() as group:
        futures = [group.start(tasks.sleep_if, x, -1) for x in range(10)]
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [x * x for x in range(10)]


@pytest.mark.parametrize("engine", PROCESSES | MANY_SLOTS)
def test_the_first_failure_of_a_group_stops_the_others(engine: str, new_pool: Any, notes: Notes) -> None:
    pool = new_pool(engine)
    with pytest.raises(ExceptionGroup) as caught, pool.options(grace=0.1).task_group() as group:
        other = group.start(tasks.sleep_then_note, notes.path, 30)
        notes.wait_for("begun")
        group.start(int, "no number")
    (error,) = caught.value.exceptions
    assert isinstance(error, ValueError)
    assert other.cancelled()
    assert "ended" not in notes.lines()
    assert goes_on(pool)


def test_a_group_has_a_deadline(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")
    with pytest.raises(ExceptionGroup) as caught, pool.task_group(deadline=0.3) as group:
        group.start(tasks.sleep_then_note, notes.path, 30)
    (error,) = caught.value.exceptions
    assert isinstance(error, fullcourt.TaskTimeout)
    with pool.task_group(deadline=60) as group:
        group.start(abs, -1)


def test_a_group_that_had_failed_before_its_deadline_tells_only_that(new_pool: Any, notes: Notes) -> None:
    """Though it is not over yet: a task that cannot be stopped softly takes its time."""
    pool = new_pool("fork")
    with pytest.raises(ExceptionGroup) as caught, pool.task_group(deadline=60) as group:
        group.start(tasks.sleep_deaf, notes.path, 2)
        notes.wait_for("begun")
        group.start(tasks.fail_with, "LookupError").wait()
        assert wait_until(lambda: group._state == "cancelled")
        group._expire()  # as the timer does
    assert [type(error) for error in caught.value.exceptions] == [LookupError]


def test_what_the_body_of_a_group_raises_is_told_with_the_rest(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")
    with pytest.raises(ExceptionGroup) as caught, pool.task_group() as group:
        future = group.start(tasks.sleep_then_note, notes.path, 30)
        notes.wait_for("begun")
        raise LookupError("mine")
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    assert future.cancelled()
    with pytest.raises(KeyboardInterrupt), pool.task_group() as group:
        group.start(tasks.sleep_then_note, notes.path, 30)
        raise KeyboardInterrupt


def test_a_group_takes_no_tasks_before_or_after(new_pool: Any) -> None:
    pool = new_pool("threads")
    group = pool.task_group()
    with pytest.raises(RuntimeError, match="not entered"):
        group.start(abs, 1)
    with group:
        group.start(abs, 1)
    with pytest.raises(RuntimeError, match="left"):
        group.start(abs, 1)


def test_a_group_in_an_event_loop(new_pool: Any, notes: Notes) -> None:
    pool = new_pool("fork")

    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticker = asyncio.create_task(tick())
        async with pool.task_group() as group:
            group.start(time.sleep, 0.4)
        assert ticks > 10
        with pytest.raises(ExceptionGroup):
            async with pool.task_group() as group:
                group.start(tasks.sleep_then_note, notes.path, 30)
                group.start(int, "x")
        ticker.cancel()

    asyncio.run(main())
    assert "ended" not in notes.lines()


# -- what tasks leave behind -------------------------------------------------------------------------------------------


def fork_and_come_back() -> str:
    pid = os.fork()
    if not pid:
        return "child"
    os.waitpid(pid, 0)
    return "worker"


@pytest.mark.parametrize("engine", ["fork", "forkserver", "spawn", "portable"])
def test_a_fork_of_a_worker_that_comes_back_from_its_task_ends(engine: str, new_pool: Any) -> None:
    pool = new_pool(engine)
    assert [pool.apply(fork_and_come_back) for _ in range(4)] == ["worker"] * 4
    assert goes_on(pool)


def stop_iteration(x: int) -> int:
    if x == 2:
        raise StopIteration("two")
    return x


@pytest.mark.parametrize("engine", ["fork", "threads"])
def test_a_task_that_raises_stop_iteration_does_not_end_the_stream(engine: str, new_pool: Any) -> None:
    stream = new_pool(engine).imap(stop_iteration, range(4), chunksize=1)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(RuntimeError, match="StopIteration"):
        next(stream)
    assert list(stream) == [3]
