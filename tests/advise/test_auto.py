"""`Pool(mode="auto")`: whatever it chooses, each item runs once, and what a pool promises holds.

Where a test needs a certain choice it gives the facts; what a machine measures is left to `benchmarks/`.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import itertools
import os
import queue
import signal
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import advise_tasks as tasks
import pytest
from advise_tasks import facts_like

import fullcourt
from fullcourt import Failure, Pool
from fullcourt._advise import hub
from fullcourt._advise.calls import Calls, Pending
from fullcourt._advise.course import Course
from fullcourt._advise.facts import Facts
from fullcourt._advise.hub import Hub
from fullcourt._advise.model import Mode, choose, predict
from fullcourt._engines.future import Future

N = 400


@pytest.fixture
def pool() -> Iterator[Pool]:
    # Fresh interpreters may take seconds on a busy machine; then it changes over, rightly, and not as a test expects.
    with Pool(mode="auto", start_method="fork" if sys.platform == "linux" else None) as made:
        yield made


@pytest.fixture
def told(pool: Pool) -> Callable[..., Pool]:
    """The pool, with what it shall believe of a function; the modes that this leads to: see `test_model`."""

    def tell(fn: Callable[..., Any], facts: Facts) -> Pool:
        pool._driver.remember(fn, facts)  # type: ignore[attr-defined]
        return pool

    return tell


def journal(tmp_path: Path) -> tuple[Path, list[tuple[str, int]]]:
    path = tmp_path / "journal"
    path.touch()
    return path, [(str(path), i) for i in range(N)]


def each_once(path: Path, n: int = N) -> bool:
    return collections.Counter(map(int, path.read_text().split())) == dict.fromkeys(range(n), 1)


KINDS = {"processes": "python", "threads": "native", "many": "wait"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_each_item_runs_once_and_in_order(kind: str, told: Callable[..., Pool], tmp_path: Path) -> None:
    path, items = journal(tmp_path)
    pool = told(tasks.record, facts_like(kind, wall=0.01))
    assert pool.map(tasks.record, items) == [i * i for i in range(N)]
    assert each_once(path)


def test_each_item_runs_once_when_it_is_really_measured(pool: Pool, tmp_path: Path) -> None:
    path, items = journal(tmp_path)

    assert pool.map(tasks.record, itertools.chain(items)) == [i * i for i in range(N)]
    assert each_once(path)


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_lazy_maps_run_each_once(kind: str, method: str, told: Callable[..., Pool], tmp_path: Path) -> None:
    path, items = journal(tmp_path)
    pool = told(tasks.record, facts_like(kind, wall=0.01))
    results = list(getattr(pool, method)(tasks.record, iter(items)))
    assert sorted(results) == [i * i for i in range(N)]
    assert method == "imap_unordered" or results == sorted(results)
    assert each_once(path)


def test_python_code_is_moved_to_processes(told: Callable[..., Pool]) -> None:
    pool = told(tasks.where, facts_like("python", wall=0.01))
    pids = {pid for _, pid in pool.map(tasks.where, range(1000))}
    assert os.getpid() not in pids
    assert pool.explain().choices[-1].mode.processes


def test_what_is_measured_first_runs_here_and_the_rest_where_it_shall(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "fullcourt._advise.trial.facts_of", lambda *_: facts_like("python", wall=0.1)
    )  # whatever was seen
    answers = pool.map(tasks.where, range(1000))
    assert [n for n, _ in answers] == list(range(1000))
    pids = [pid for _, pid in answers]
    assert pids[0] == os.getpid()
    assert pids[-1] != os.getpid()


def test_a_tiny_job_starts_no_process() -> None:
    with Pool(mode="auto") as pool:
        assert pool.map(tasks.add_one, range(1000)) == list(range(1, 1001))
        assert pool.explain().choices[-1].mode.kind == "serial"
        assert not pool._driver.drivers.has_processes  # type: ignore[attr-defined]


def test_what_does_not_pickle_stays_on_threads(told: Callable[..., Pool]) -> None:
    lock = threading.Lock()

    def with_lock(n: int) -> int:
        with lock:
            return n

    pool = told(with_lock, facts_like("python", wall=0.1, obstacle="a lock"))
    assert pool.map(with_lock, range(200)) == list(range(200))


def test_one_item_that_does_not_pickle_runs_on_a_thread(told: Callable[..., Pool]) -> None:
    items: list[Any] = [*range(50), threading.Lock(), *range(50)]
    pool = told(type_and_pid, facts_like("python", wall=0.1))
    answers = pool.map(type_and_pid, items)
    assert [name for name, _ in answers] == [type(item).__name__ for item in items]
    assert answers[50][1] == os.getpid()
    assert answers[49][1] != os.getpid()


def type_and_pid(item: object) -> tuple[str, int]:
    return type(item).__name__, os.getpid()


def test_one_call_that_does_not_pickle_runs_on_a_thread(told: Callable[..., Pool]) -> None:
    pool = told(tasks.where, facts_like("python"))
    futures = [pool.submit(type_and_pid, i) for i in range(300)]
    futures.append(pool.submit(type_and_pid, threading.Lock()))
    assert [future.result()[0] for future in futures] == ["int"] * 300 + ["lock"]


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_errors_are_as_in_other_modes(kind: str, told: Callable[..., Pool]) -> None:
    pool = told(tasks.fail_on_seven, facts_like(kind, wall=0.1))
    with pytest.raises(ValueError, match="seven") as caught:
        pool.map(tasks.fail_on_seven, range(100))
    assert any("fail_on_seven(7)" in note and "item 7" in note for note in caught.value.__notes__)
    results = pool.map(tasks.fail_on_seven, range(100), on_error="return")
    assert [i for i, result in enumerate(results) if isinstance(result, Failure)] == [7]
    assert results[7].index == 7


def test_starmap_and_the_async_forms(told: Callable[..., Pool]) -> None:
    pool = told(tasks.add, facts_like("python", wall=0.1))
    pairs = [(i, 2 * i) for i in range(100)]
    assert pool.starmap(tasks.add, pairs) == [3 * i for i in range(100)]
    got: list[Any] = []
    assert pool.starmap_async(tasks.add, pairs, callback=got.append).get() == [3 * i for i in range(100)]
    assert got == [[3 * i for i in range(100)]]
    assert pool.map_async(tasks.wait, range(30)).get() == list(range(30))


def test_calls_of_all_kinds(pool: Pool) -> None:
    assert pool.apply(tasks.add, (1, 2)) == 3
    assert pool.submit(tasks.add, 1, b=2).result() == 3
    assert pool.apply_async(tasks.add, (1,), {"b": 2}).get() == 3
    futures = [pool.submit(tasks.compute, i) for i in range(200)]
    assert [future.result() for future in futures] == [tasks.compute(i) for i in range(200)]
    with pytest.raises(ValueError, match="seven") as caught:
        pool.submit(tasks.fail_on_seven, 7).result()
    assert any("fail_on_seven(7)" in note for note in caught.value.__notes__)


def test_calls_may_wait_for_each_other(pool: Pool) -> None:
    barrier = threading.Barrier(4)

    def meet(_: int) -> int:
        return barrier.wait(30)

    assert sorted(future.result(30) for future in [pool.submit(meet, i) for i in range(4)]) == [0, 1, 2, 3]


def test_items_may_wait_for_each_other(pool: Pool) -> None:
    barrier = threading.Barrier(2)

    def meet(_: int) -> int:
        return barrier.wait(30)

    assert sorted(pool.map(meet, range(4))) == [0, 0, 1, 1]


def test_a_task_may_use_its_pool(pool: Pool) -> None:
    def outer(n: int) -> int:
        return sum(pool.map(tasks.add_one, range(n))) + pool.submit(tasks.add_one, n).result()

    assert pool.map(outer, [1, 2, 3]) == [1 + 2, 3 + 3, 6 + 4]
    assert pool.submit(outer, 2).result() == 6


def test_an_endless_input_is_read_only_as_far_as_is_asked(told: Callable[..., Pool]) -> None:
    pulled: list[int] = []

    def endless() -> Iterator[int]:
        for i in itertools.count():
            pulled.append(i)
            yield i

    pool = told(tasks.where, facts_like("python", wall=0.1))
    results = pool.imap(tasks.where, endless(), buffersize=10)
    assert [n for n, _ in itertools.islice(results, 50)] == list(range(50))
    results.close()
    assert len(pulled) <= 61


def test_an_endless_input_is_measured_too(pool: Pool) -> None:
    results = pool.imap(tasks.compute, itertools.count())
    assert list(itertools.islice(results, N)) == [tasks.compute(i) for i in range(N)]
    results.close()


def test_an_iterator_that_is_dropped_ends_its_map(pool: Pool) -> None:
    results = pool.imap(tasks.wait, itertools.count())
    assert next(results) == 0
    del results  # leaving the pool waits for what it has


def test_an_input_that_raises_is_told_in_its_turn(pool: Pool) -> None:
    def broken() -> Iterator[int]:
        yield from range(20)
        raise LookupError("the input")

    results = pool.imap(tasks.wait, broken())
    got = [next(results) for _ in range(20)]
    with pytest.raises(LookupError, match="the input"):
        next(results)
    assert got == list(range(20))


def test_asyncio(told: Callable[..., Pool]) -> None:
    pool = told(tasks.where, facts_like("python", wall=0.1))

    async def use() -> list[int]:
        one = await pool.submit(tasks.add_one, 1)
        return [one, *[n async for n, _ in pool.aimap(tasks.where, range(50))]]

    assert asyncio.run(use()) == [2, *range(50)]


def test_a_map_can_be_cancelled(told: Callable[..., Pool]) -> None:
    pool = told(tasks.wait, facts_like("native"))
    future = pool.map_async(tasks.wait, range(100_000))
    assert future.cancel()
    assert future.cancelled()


def test_it_can_be_terminated_in_the_midst_of_all() -> None:
    pool = Pool(mode="auto")
    maps = [pool.map_async(tasks.compute, range(100_000)), pool.map_async(tasks.wait, range(100_000))]
    calls = [pool.submit(tasks.wait, i) for i in range(100)]
    pool.terminate()
    pool.join()
    assert all(future.done() for future in maps + calls)


def test_one_that_nobody_holds_ends_by_itself() -> None:
    pool = Pool(mode="auto")
    future = pool.map_async(tasks.wait, range(100))
    ended = pool._driver.ended
    del pool
    assert future.result() == list(range(100))
    assert ended.wait(30)


def test_it_changes_over_once_if_it_does_less_than_was_predicted(
    told: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullcourt._advise.course.WINDOW_S", 0.05)
    monkeypatch.setattr("fullcourt._advise.course.TRY_LEFT_S", float("inf"))  # processes are not tried before that
    calls: list[int] = []
    settle = fullcourt._advise.course.Course._settle_on

    def counted(self: Any, *args: Any) -> None:
        calls.append(1)
        settle(self, *args)

    monkeypatch.setattr("fullcourt._advise.course.Course._settle_on", counted)
    pool = told(tasks.compute, facts_like("wait", wall=0.0002))  # it is said to wait, and computes
    began = time.thread_time()
    for i in range(20):
        tasks.compute(i)
    n = int(20 * 4.0 / (time.thread_time() - began))  # some seconds: what is nearly done is left where it is
    assert pool.map(tasks.compute, range(n)) == [tasks.compute(i) for i in range(n)]
    choice = pool.explain().choices[-1]
    assert choice.changed_from is not None
    assert choice.changed_from.threads > 2
    assert len(calls) == 2
    assert f"In {choice.changed_from} it did" in choice.reason
    assert f"Before, it ran in {choice.changed_from}." in str(choice)


def test_what_waits_begins_in_threads_and_stays_there_while_the_gil_is_free(
    told: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullcourt._advise.course.TRY_LEFT_S", float("inf"))
    facts = facts_like("both", wall=0.02)
    assert choose(predict(facts), facts).mode.processes  # it is said to need the GIL for long, and only waits
    pool = told(tasks.wait_long, facts)
    assert pool.map(tasks.wait_long, range(2500)) == list(range(2500))
    choice = pool.explain().choices[-1]
    assert choice.mode.kind == "threads"
    assert choice.measured is not None
    assert choice.changed_from is None


def test_what_waits_goes_on_to_processes_if_the_gil_holds_it_up(
    told: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullcourt._advise.course.HELD_UP_CORES", 0.1)  # others may need the cores, too
    monkeypatch.setattr("fullcourt._advise.course.TRY_LEFT_S", float("inf"))
    pool = told(tasks.compute, facts_like("both", wall=0.005))
    results = pool.imap(tasks.compute, itertools.count())  # whose end is not known, so that it is always worth trying
    for i, result in enumerate(results):
        assert result == tasks.compute(i)
        choice = pool.explain().choices[-1]
        if "and processes might do more" in choice.reason:
            assert choice.mode.processes or "They were tried, and did not" in choice.reason
            break


def test_limits_of_time_are_kept_by_processes(pool: Pool) -> None:
    assert {pid for _, pid in pool.map(tasks.where, range(10), timeout=30)} != {os.getpid()}
    assert pool.submit(tasks.where, 1).result()[1] == os.getpid()
    assert pool.options(timeout=30).submit(tasks.where, 1).result()[1] != os.getpid()


def test_an_initializer_runs_before_tasks_wherever_they_run() -> None:
    with Pool(mode="auto", initializer=tasks.prepare, initargs=("here",)) as pool:
        pool._driver.remember(tasks.prepared, facts_like("python", wall=0.1))  # type: ignore[attr-defined]
        assert pool.submit(tasks.prepared, 0).result() == "here"
        assert set(pool.map(tasks.prepared, range(100))) == {"here"}


def test_an_initializer_that_fails_is_told() -> None:
    with (
        Pool(mode="auto", initializer=tasks.fail_on_seven, initargs=(7,)) as pool,
        pytest.raises(ValueError, match="seven"),
    ):
        pool.map(tasks.wait, range(10))


def test_progress_is_shown_once_for_all(told: Callable[..., Pool], capfd: pytest.CaptureFixture[str]) -> None:
    pool = told(tasks.wait, facts_like("python", wall=0.1))
    pool.map(tasks.wait, range(100), progress=True)
    assert "100" in capfd.readouterr().err


def test_statistics_are_of_all_its_workers(told: Callable[..., Pool]) -> None:
    pool = told(tasks.where, facts_like("python", wall=0.1))
    pool.map(tasks.where, range(100))
    pool.map(tasks.add_one, range(100))
    assert pool.statistics().n_done == 200


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "best"}, "auto"),
        ({"mode": "auto", "processes": 2}, "finds the number"),
        ({"mode": "auto", "threads": 2}, "finds the number"),
        ({"mode": "auto", "max_tasks_per_child": 2}, "max_tasks_per_child"),
        ({"mode": "auto", "memory_limit": "1G"}, "memory_limit"),
    ],
)
def test_what_contradicts_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Pool(**options)


def test_the_one_line_map_chooses_by_itself_unless_it_is_told() -> None:
    assert fullcourt.map(tasks.add_one, range(10)) == list(range(1, 11))
    assert not fullcourt.map(tasks.add_one, [])
    assert set(fullcourt.map(tasks.pid_of, range(4))) == {os.getpid()}  # a small job: no process was started
    assert os.getpid() not in fullcourt.map(tasks.pid_of, range(4), mode=None)
    assert os.getpid() not in fullcourt.map(tasks.pid_of, range(4), processes=1)


def shared_facts() -> Facts:
    """Of a function that waits for something of which there is one, as it seemed."""
    facts = facts_like("wait", wall=0.01)
    assert facts.pair is not None
    alone, pair = replace(facts.alone, gil_s=None), replace(facts.pair, wall_s=0.02, cpu_s=0.0001)
    return replace(facts, alone=alone, pair=pair)


@pytest.mark.parametrize("elsewhere_s", [0.01, 1.0], ids=["faster", "slower"])
def test_processes_are_tried_where_threads_cannot_tell(
    told: Callable[..., Pool], elsewhere_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fullcourt._advise.course.TRY_LEFT_S", 1.0)
    monkeypatch.setattr(Course, "_is_worth_more", lambda *_: False)  # on a busy machine it would change over before
    path, items = journal(tmp_path)
    pool = told(tasks.nap_and_record, shared_facts())
    triples = [(name, i, elsewhere_s) for name, i in items]
    assert pool.map(tasks.nap_and_record, triples) == [i * i for i in range(N)]
    assert each_once(path)
    choice = pool.explain().choices[-1]
    if elsewhere_s < 1:
        assert choice.mode.processes
        assert choice.changed_from == Mode(0, 1)
        assert "might do more" in choice.reason
    else:
        assert choice.mode == Mode(0, 1)
        assert choice.changed_from is None
        assert "did not" in choice.reason


class NotReadBack(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} {other}")


def fails_at_times(n: int) -> int:
    time.sleep(0.002)
    if n % 3 == 0:
        raise NotReadBack(n, n)
    return n


def test_what_cannot_be_read_back_stays_on_threads() -> None:
    with Pool(mode="auto") as pool:
        results = pool.map(fails_at_times, range(300), on_error="return")
    assert [str(r.exception) if isinstance(r, Failure) else r for r in results[:4]] == ["0 0", 1, 2, "3 3"]
    assert len(results) == 300


def test_mocks_are_functions_and_items_like_others() -> None:
    function = unittest.mock.MagicMock(return_value=7)
    assert fullcourt.map(function, range(3)) == [7, 7, 7]
    items = [unittest.mock.MagicMock() for _ in range(300)]
    assert fullcourt.map(lambda item: (time.sleep(0.002), item)[1], items) == items


def test_a_map_while_its_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "maps_at_import.py").write_text(
        "import time, fullcourt\n"
        "def wait(n):\n    time.sleep(0.002)\n    return n\n"
        "RESULTS = fullcourt.map(wait, range(400))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import maps_at_import  # type: ignore[import-not-found]

    assert list(range(400)) == maps_at_import.RESULTS


RELEASE = threading.Event()


def wait_or_fail(n: int) -> None:
    if n == 0:
        RELEASE.wait(60)
    elif n == 1:
        raise ValueError("at once")


@pytest.mark.parametrize("options", [{"mode": "auto"}, {"threads": 2}], ids=["auto", "threads"])
def test_an_error_is_not_kept_back_by_a_thread_that_waits(options: dict[str, Any]) -> None:
    RELEASE.clear()
    began = time.perf_counter()
    try:
        with pytest.raises(ValueError, match="at once"), Pool(**options) as pool:
            pool.map(wait_or_fail, range(8))
        assert time.perf_counter() - began < 50
        assert pool.statistics().n_in_flight == 0
    finally:
        RELEASE.set()  # the thread that was left ends


def test_worker_processes_have_no_locks_that_tasks_hold_in_threads() -> None:
    with Pool(mode="auto") as pool:
        let_go = threading.Event()
        held = pool.submit(tasks.hold_lock, let_go)
        while not tasks.LOCK.locked():
            time.sleep(0.001)
        pids = pool.map(tasks.take_lock, range(4), timeout=60)  # with a limit: it goes to processes at once
        assert not held.done()
        assert os.getpid() not in pids
        # Workers of another size come from another template.
        hub = cast("Hub", pool._driver)
        driver, mode = hub.drivers.for_mode(Mode(1, 2))
        assert mode == Mode(1, 2)
        future: fullcourt.Future[int] = fullcourt.Future(driver)
        driver.submit(tasks.take_lock, (1,), {}, future)
        assert future.result(timeout=60) not in {*pids, os.getpid()}
        assert not held.done()
        let_go.set()


def test_who_waits_leaves_worker_processes_that_have_ended() -> None:
    """Their place was taken by others: the map that is waited for goes on there."""
    with Pool(mode="auto") as pool:
        driver, _ = cast("Hub", pool._driver).drivers.for_mode(Mode(1, 1))
        driver.close()
        assert driver.ended.wait(20)
        began = time.perf_counter()
        assert not driver.wait(fullcourt.Future(driver), 60.0)
        assert time.perf_counter() - began < 30.0


def test_what_one_kind_of_processes_did_is_expected_of_the_other() -> None:
    predictions = {p.mode: p for p in predict(facts_like("python"))}
    tried = predictions[Mode(2, 1)]
    for mode, prediction in predictions.items():
        corrected = Course._corrected(prediction, tried, tried.rate / 4)
        assert corrected.rate == pytest.approx(prediction.rate / 4 if mode.processes else prediction.rate)


def test_forked_workers_know_what_the_program_knew_when_the_pool_was_opened() -> None:
    tasks.KNOWN.append("before")
    try:
        with Pool(mode="auto", start_method="fork") as pool:
            tasks.KNOWN.append("after")
            assert pool.map(tasks.known, range(2), timeout=20) == [["before"]] * 2
    finally:
        tasks.KNOWN.clear()


def test_what_worker_processes_are_forked_from_may_be_killed() -> None:
    with Pool(mode="auto", start_method="fork") as pool:
        (seed,) = cast("Hub", pool._driver).drivers._seeds
        os.kill(seed._pid, signal.SIGKILL)
        assert os.getpid() not in pool.map(tasks.pid_of, range(4), timeout=20)


def test_explicit_modes_are_as_before() -> None:
    with Pool(threads=2) as pool:
        assert pool.map(tasks.add_one, range(10)) == list(range(1, 11))
        assert not pool.explain().choices
        assert "told its mode" in str(pool.explain())


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.05, 0.15, 0.25, 0.5], ids=lambda s: f"{s}s")
def test_an_initializer_that_fails_while_calls_wait_fails_them_all(after_s: float) -> None:
    """Whichever thread hands a call on when the pool is broken, the error is that call's."""
    runs: list[None] = []

    def fail() -> None:
        runs.append(None)
        time.sleep(after_s)
        raise ValueError("the initializer cannot work here")

    pool = Pool(mode="auto", initializer=fail)
    try:
        futures: list[Any] = []
        with contextlib.suppress(ValueError):  # refused at once, once it is known
            futures.extend(pool.submit(abs, -i) for i in range(8))
        assert concurrent.futures.wait(futures, timeout=30).not_done == set()
        for future in futures:
            assert isinstance(future.exception(), ValueError)
        assert 1 <= len(runs) <= 2  # nothing is decided, and no other workers are started, before it is done
    finally:
        pool.terminate()
        pool.join()


def test_a_map_waits_for_a_slow_initializer_before_it_is_measured() -> None:
    runs: list[None] = []

    def fail() -> None:
        runs.append(None)
        time.sleep(0.5)
        raise ValueError("the initializer cannot work here")

    with Pool(mode="auto", initializer=fail) as pool, pytest.raises(ValueError, match="cannot work here"):
        pool.map(tasks.wait, range(100))
    assert 1 <= len(runs) <= 2


def test_a_call_on_its_way_to_a_worker_is_not_lost_when_the_pool_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(mode="auto")
    route = pool._driver.route  # type: ignore[attr-defined]

    def route_late(*args: Any, **kwargs: Any) -> None:
        pool.close()
        route(*args, **kwargs)

    assert pool.apply(abs, (-1,)) == 1
    monkeypatch.setattr(pool._driver, "route", route_late)
    assert pool.submit(abs, -2).result(30) == 2
    pool.join()


def test_calls_go_on_where_their_workers_were_replaced_by_others(told: Callable[..., Pool]) -> None:
    pool = told(tasks.add_one, facts_like("python", wall=0.1))
    drivers = pool._driver.drivers  # type: ignore[attr-defined]
    old, _ = drivers.for_mode(Mode(2, 1))
    pool._driver._calls[tasks.add.__code__] = calls = Calls(pool._driver, tasks.add)  # type: ignore[attr-defined]
    calls.driver = old
    assert pool.submit(tasks.add, 1, 2).result(30) == 3
    new, _ = drivers.for_mode(Mode(2, 4))
    assert new is not old
    assert pool.submit(tasks.add, 3, 4).result(30) == 7
    assert [pool.submit(tasks.add, i, i).result(30) for i in range(10)] == [2 * i for i in range(10)]
    assert not new.closed


def test_a_map_goes_on_where_its_workers_were_exchanged_before_it_came(
    told: Callable[..., Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = told(tasks.add_one, facts_like("python", wall=0.1))
    drivers = pool._driver.drivers  # type: ignore[attr-defined]
    for_mode = drivers.for_mode
    exchanged: list[Any] = []

    def for_mode_twice(mode: Mode) -> Any:
        found = for_mode(Mode(1, 1))
        if not exchanged:
            exchanged.append(for_mode(Mode(2, 1)))  # as the conductor of another map, just now
        return found

    monkeypatch.setattr(drivers, "for_mode", for_mode_twice)
    assert pool.map_async(tasks.add_one, range(200)).get(60) == list(range(1, 201))
    assert exchanged


def test_an_interrupt_while_a_call_is_handed_on_is_the_callers_and_the_call_is_not_lost(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.apply(abs, (-1,))
    driver = pool._driver.drivers.trial()  # type: ignore[attr-defined]
    submit = driver.submit
    calls: list[Any] = []

    def submit_and_interrupt(fn: Any, args: Any, kwargs: Any, future: Any, **options: Any) -> bool:
        done: bool = submit(fn, args, kwargs, future, **options)
        calls.append(future)
        signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(driver, "submit", submit_and_interrupt)
    ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with pytest.raises(KeyboardInterrupt):
        pool.submit(time.sleep, 0.1)
    calls[0].add_done_callback(ends.put)  # who waits for the result may be told before the callbacks are called
    assert calls[0].result(30) is None
    assert ends.get(timeout=30) is calls[0]


def test_explain_counts_the_items_of_a_map_that_has_just_returned(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    explained, ended = threading.Event(), Hub.course_ended

    def end_later(hub: Hub, course: Any) -> None:
        explained.wait(30)
        ended(hub, course)

    monkeypatch.setattr(Hub, "course_ended", end_later)
    try:
        pool.map(tasks.wait, range(150))
        assert pool.explain().choices[-1].n_items == 150
    finally:
        explained.set()


def test_items_that_do_not_pickle_run_in_threads_also_beside_workers_that_are_there() -> None:
    with Pool(mode="auto", start_method="fork") as pool:
        cast("Hub", pool._driver).remember(tasks.kind_of, facts_like("python", wall=0.1))
        assert pool.map(tasks.kind_of, range(50)) == ["int"] * 50  # its worker processes run
        for _ in range(3):
            assert pool.map(tasks.kind_of, [threading.Lock() for _ in range(100)]) == ["lock"] * 100
            assert list(pool.imap(tasks.kind_of, [threading.Lock() for _ in range(100)])) == ["lock"] * 100


class EndsLate(Future[Any]):
    """Of its end others could take what is next in line."""

    def _settle(self, result: Any, exception: BaseException | None) -> None:
        time.sleep(0.01)
        super()._settle(result, exception)


def test_who_leads_one_driver_hears_of_what_another_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share what there is to settle: that one has said so must not come before it is so."""
    with Pool(mode="auto", start_method="fork") as pool:
        cast("Hub", pool._driver).remember(tasks.kind_of, facts_like("python", wall=0.1))
        assert pool.map(tasks.kind_of, range(50)) == ["int"] * 50  # its worker processes run
        monkeypatch.setattr(hub, "Future", EndsLate)
        got = list(pool.imap(tasks.kind_of, [threading.Lock() for _ in range(100)]))
        assert got == ["lock"] * 100
        monkeypatch.undo()


class SlowList(list[int]):
    """Time enough for somebody else to read on."""

    def __iter__(self) -> Iterator[int]:
        for item in super().__iter__():
            time.sleep(0.001)
            yield item


def test_one_thread_at_a_time_reads_an_input() -> None:
    """Whoever asks for a map begins to read; and who gives it to other workers wants more at once."""
    with Pool(mode="auto", start_method="fork") as pool:
        cast("Hub", pool._driver).remember(tasks.add_one, facts_like("python", wall=0.1))
        for _ in range(10):
            assert list(pool.imap(tasks.add_one, SlowList(range(30)))) == list(range(1, 31))


class PickledLate:
    """Cannot be pickled, which shows only when somebody leads the worker processes."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def __reduce__(self) -> Any:
        until = time.monotonic() + 10
        while self.driver.roles._leader is None and time.monotonic() < until:
            time.sleep(0.001)
        raise TypeError("no")


def test_who_waits_hears_of_a_call_that_could_not_be_sent_after_all() -> None:
    with Pool(mode="auto", start_method="fork") as pool:
        many = cast("Hub", pool._driver)
        driver, _ = many.drivers.for_mode(Mode(2, 1))
        future: Future[str] = Future(cast("Any", many))
        call = Pending(tasks.kind_of, (PickledLate(driver),), {}, future, None)
        thread = threading.Thread(target=many.route, args=(call, driver))
        thread.start()
        assert future.result(20) == "PickledLate"
        thread.join()


def test_it_explains_how_many_calls_were_made() -> None:
    with Pool(mode="auto") as pool:
        futures = [pool.submit(tasks.kind_of, n) for n in range(200)]
        assert [future.result(30) for future in futures] == ["int"] * 200
        assert pool.apply(tasks.kind_of, ("one more",)) == "str"
        (choice,) = [choice for choice in pool.explain().choices if choice.function == "kind_of"]
        assert choice.n_items == 201
