"""Every call method, on every engine, answers as the standard library's pool does."""

from __future__ import annotations

import importlib
import itertools
import threading
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.pool import ThreadPool
from types import ModuleType
from typing import Any

import conformance_tasks as tasks
import pytest
from conformance_harness import Engine

pytestmark = pytest.mark.timeout(60)


def numbers(n: int) -> Iterator[int]:
    yield from range(n)


CALLS: dict[str, Callable[[Any], Any]] = {
    "apply": lambda p: p.apply(tasks.add, (1, 2), {"c": 3}),
    "apply without arguments": lambda p: p.apply(tasks.no_arguments),
    "apply with keywords only": lambda p: p.apply(tasks.keywords, kwds={"fn": 1, "self": 2, "args": 3}),
    "apply_async": lambda p: p.apply_async(tasks.add, (1,), {"b": 2}).get(30),
    "apply_async by keyword": lambda p: p.apply_async(func=tasks.add, args=(1,), kwds={"c": 2}).get(timeout=30),
    "map": lambda p: p.map(tasks.square, range(100)),
    "map of a list": lambda p: p.map(tasks.square, [3, 1, 2]),
    "map of a generator": lambda p: p.map(tasks.square, numbers(100)),
    "map of a set": lambda p: p.map(tasks.square, {5}),
    "map of a dict": lambda p: p.map(tasks.identity, {"a": 1, "b": 2}),
    "map of a string": lambda p: p.map(tasks.identity, "court"),
    "map of a built-in": lambda p: p.map(abs, range(-50, 50)),
    "map of nothing": lambda p: p.map(tasks.square, []),
    "map of an empty generator": lambda p: p.map(tasks.square, numbers(0)),
    "map of one": lambda p: p.map(tasks.square, [7]),
    "map of Nones": lambda p: p.map(tasks.identity, [None] * 10),
    "map, chunks of 1": lambda p: p.map(tasks.square, range(50), 1),
    "map, chunks of 7": lambda p: p.map(tasks.square, range(50), chunksize=7),
    "map, one large chunk": lambda p: p.map(tasks.square, range(50), chunksize=1000),
    "map, chunks of a generator": lambda p: p.map(tasks.square, numbers(50), chunksize=3),
    "map by keyword": lambda p: p.map(func=tasks.square, iterable=range(10), chunksize=2),
    "map_async": lambda p: p.map_async(tasks.square, range(50)).get(30),
    "map_async, chunks": lambda p: p.map_async(tasks.square, numbers(50), 4).get(30),
    "map_async of nothing": lambda p: p.map_async(tasks.square, []).get(30),
    "starmap": lambda p: p.starmap(tasks.add, [(1, 2), (3,), [4, 5]]),
    "starmap of a zip": lambda p: p.starmap(tasks.add, zip(range(50), range(50), strict=True), 5),
    "starmap of nothing": lambda p: p.starmap(tasks.add, []),
    "starmap_async": lambda p: p.starmap_async(tasks.add, [(i, 1) for i in range(50)]).get(30),
    "starmap_async, chunks": lambda p: p.starmap_async(tasks.add, [(i,) for i in range(9)], chunksize=2).get(30),
    "starmap_async of nothing": lambda p: p.starmap_async(tasks.add, iter(())).get(30),
    "imap": lambda p: list(p.imap(tasks.square, range(50))),
    "imap of a generator": lambda p: list(p.imap(tasks.square, numbers(50))),
    "imap, chunks": lambda p: list(p.imap(tasks.square, numbers(50), 7)),
    "imap of nothing": lambda p: list(p.imap(tasks.square, [])),
    "imap_unordered": lambda p: sorted(p.imap_unordered(tasks.square, range(50))),
    "imap_unordered of a generator": lambda p: sorted(p.imap_unordered(tasks.square, numbers(50), chunksize=7)),
    "imap_unordered of nothing": lambda p: list(p.imap_unordered(tasks.square, numbers(0))),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_answers_as_the_standard_library_does(call: Callable[[Any], Any], pool: Any, oracle: ThreadPool) -> None:
    answer, expected = call(pool), call(oracle)
    assert answer == expected
    assert type(answer) is type(expected)


def test_submit_passes_positions_and_keywords(pool: Any) -> None:
    assert pool.submit(tasks.add, 1, 2, c=3).result(30) == 6
    assert pool.submit(tasks.keywords, fn=1, self=2, timeout=3).result(30) == {"fn": 1, "self": 2, "timeout": 3}


def test_results_come_in_the_order_of_the_items_whatever_order_they_end_in(
    new_pool: Callable[..., Any], gate: Any, engine: Engine
) -> None:
    if engine.inline:
        pytest.skip("one slot: tasks end in the order they start in")
    pool = new_pool()
    jobs = [(gate.turnstile, item) for item in range(40)]
    waiting = pool.map_async(tasks.first_waits, jobs, chunksize=1)
    gate.wait_arrivals(1)
    gate.permit()
    assert waiting.get(30) == list(range(40))


def test_imap_unordered_gives_what_is_done_while_the_first_item_still_runs(
    new_pool: Callable[..., Any], gate: Any, engine: Engine
) -> None:
    if engine.inline:
        pytest.skip("one slot: the first item blocks all others")
    pool = new_pool()
    jobs = [(gate.turnstile, item) for item in range(40)]
    results = pool.imap_unordered(tasks.first_waits, jobs, 1)
    early = list(itertools.islice(results, 39))
    assert sorted(early) == list(range(1, 40))
    gate.permit()
    assert list(results) == [0]


def test_imap_gives_what_is_done_while_a_later_item_of_its_chunk_still_runs(
    new_pool: Callable[..., Any], gate: Any, engine: Engine
) -> None:
    if engine.inline:
        pytest.skip("one slot: an item that waits blocks the caller")
    pool = new_pool()
    results = pool.imap(tasks.fourth_waits, [(gate.turnstile, item) for item in range(8)], chunksize=8)
    assert list(itertools.islice(results, 3)) == [0, 1, 2]
    gate.permit()
    assert list(results) == [3, 4, 5, 6, 7]


def test_large_inputs_keep_their_order(pool: Any) -> None:
    assert pool.map(tasks.square, range(50_000)) == [i * i for i in range(50_000)]
    assert list(pool.imap(tasks.square, range(20_000))) == [i * i for i in range(20_000)]
    assert set(pool.imap_unordered(tasks.square, range(20_000))) == {i * i for i in range(20_000)}


def test_every_item_is_run_exactly_once(pool: Any, tmp_path: Any) -> None:
    journal = tmp_path / "journal"
    pool.map(partial(tasks.record, str(journal)), range(500))
    assert sorted(map(int, journal.read_text().split())) == list(range(500))


def test_twenty_thousand_submits_all_answer(pool: Any) -> None:
    futures = [pool.submit(tasks.square, i) for i in range(20_000)]
    assert [future.result(60) for future in futures] == [i * i for i in range(20_000)]


def test_a_burst_that_nobody_waits_for_is_done(pool: Any) -> None:
    pool.apply(tasks.square, (1,))  # how long it takes is known from here on
    futures = [pool.submit(tasks.square, i) for i in range(300)]
    done = threading.Event()
    left = iter(range(len(futures) - 1, -1, -1))
    lock = threading.Lock()

    def count(_: Any) -> None:
        with lock:
            if not next(left):
                done.set()

    for future in futures:
        future.add_done_callback(count)
    assert done.wait(30)
    assert [future.result(0) for future in futures] == [i * i for i in range(300)]


def test_the_end_of_a_burst_is_cancelled_or_done(pool: Any) -> None:
    pool.apply(tasks.square, (1,))
    futures = [pool.submit(tasks.square, i) for i in range(100)]
    answers = [future.cancel() for future in reversed(futures)][::-1]
    for i, (future, cancelled) in enumerate(zip(futures, answers, strict=True)):
        assert future.cancelled() == cancelled
        if not cancelled:
            assert future.result(30) == i * i


def test_a_burst_is_done_when_its_pool_is_closed_at_once(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    pool.apply(tasks.square, (1,))
    futures = [pool.submit(tasks.square, i) for i in range(100)]
    pool.close()
    pool.join()
    assert [future.result(0) for future in futures] == [i * i for i in range(100)]


def test_callbacks_get_the_result_and_only_the_right_one_is_called(pool: Any) -> None:
    good: list[Any] = []
    bad: list[Any] = []
    both = {"callback": good.append, "error_callback": bad.append}
    calls = [
        pool.apply_async(tasks.square, (3,), **both),
        pool.map_async(tasks.square, [1, 2], **both),
        pool.starmap_async(tasks.add, [(1, 2)], **both),
        pool.map_async(tasks.square, [], **both),
    ]
    assert [call.get(30) for call in calls] == [9, [1, 4], [3], []]
    assert sorted(good, key=str) == sorted([9, [1, 4], [3], []], key=str)
    assert not bad


def test_error_callbacks_get_the_exception(pool: Any) -> None:
    good: list[Any] = []
    bad: list[BaseException] = []
    both = {"callback": good.append, "error_callback": bad.append}
    calls = [
        pool.apply_async(tasks.fail_on, ("pear",), **both),
        pool.map_async(tasks.fail_on, ["apple", "pear"], **both),
        pool.starmap_async(tasks.fail_on, [("pear",)], **both),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="this item is bad: pear"):
            call.get(30)
    assert [type(error) for error in bad] == [ValueError] * 3
    assert not good


def test_callbacks_may_be_given_by_position_as_in_the_standard_library(pool: Any) -> None:
    seen: list[Any] = []
    pool.apply_async(tasks.add, (1,), {"b": 1}, seen.append, seen.append).get(30)
    pool.map_async(tasks.square, [2], 1, seen.append, seen.append).get(30)
    pool.starmap_async(tasks.add, [(1, 2)], 1, seen.append, seen.append).get(30)
    assert seen == [2, [4], [3]]


def test_a_callback_that_raises_costs_nothing_but_itself(pool: Any, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Any) -> None:
        raise RuntimeError("this callback is broken")

    assert pool.apply_async(tasks.square, (3,), callback=broken).get(30) == 9
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]


def test_callbacks_have_run_when_join_returns(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    seen: list[int] = []
    for i in range(50):
        pool.apply_async(tasks.square, (i,), callback=seen.append)
    pool.close()
    pool.join()
    assert sorted(seen) == [i * i for i in range(50)]


def test_a_callback_may_use_the_pool(pool: Any) -> None:
    chained: list[Any] = []
    ready = threading.Event()

    def go_on(result: int) -> None:
        chained.append(pool.submit(tasks.square, result))
        ready.set()

    pool.apply_async(tasks.square, (3,), callback=go_on).get(30)
    assert ready.wait(30)
    assert chained[0].result(30) == 81


def test_on_error_return_puts_a_failure_in_the_place_of_the_item(pool: Any, fullcourt: ModuleType) -> None:
    for results in (
        pool.map(tasks.fail_for_multiples_of_seven, range(50), on_error="return"),
        pool.map(tasks.fail_for_multiples_of_seven, range(50), chunksize=10, on_error="return"),
        list(pool.imap(tasks.fail_for_multiples_of_seven, numbers(50), on_error="return")),
    ):
        assert len(results) == 50
        for item, result in enumerate(results):
            if item % 7:
                assert result == item
            else:
                assert isinstance(result, fullcourt.Failure)
                assert isinstance(result.exception, LookupError)
                assert result.exception.args == (item,)
                assert (result.index, result.attempt) == (item, 1)


def test_on_error_return_works_for_starmap_and_unordered(pool: Any, fullcourt: ModuleType) -> None:
    results = pool.starmap(tasks.divide, [(1, 1), (1, 0), (4, 2)], on_error="return")
    assert [results[0], results[2]] == [1.0, 2.0]
    assert isinstance(results[1].exception, ZeroDivisionError)
    assert results[1].index == 1

    results = list(pool.imap_unordered(tasks.fail_for_multiples_of_seven, range(50), on_error="return"))
    failures = [result for result in results if isinstance(result, fullcourt.Failure)]
    assert sorted(failure.index for failure in failures) == list(range(0, 50, 7))
    assert {result for result in results if not isinstance(result, fullcourt.Failure)} == {
        i for i in range(50) if i % 7
    }


def test_on_error_return_holds_a_system_exit_too(pool: Any) -> None:
    (result,) = pool.map(tasks.exit_with, [3], on_error="return")
    assert isinstance(result.exception, SystemExit)


def test_on_error_raise_is_the_default(pool: Any) -> None:
    items = ["apple", "pear", "plum"]
    with pytest.raises(ValueError, match="pear"):
        pool.map(tasks.fail_on, items)
    with pytest.raises(ValueError, match="pear"):
        pool.map(tasks.fail_on, items, on_error="raise")
    with pytest.raises(ValueError, match="pear"):
        list(pool.imap(tasks.fail_on, items, on_error="raise"))


def test_after_an_error_imap_goes_on_with_the_next_item_as_in_the_standard_library(
    pool: Any, oracle: ThreadPool
) -> None:
    def collect(results: Any) -> list[Any]:
        seen: list[Any] = []
        while True:
            try:
                seen.append(next(results))
            except StopIteration:
                return seen
            except ValueError as error:
                seen.append(str(error))

    items = ["apple", "pear", "plum", "pear"]
    expected = collect(oracle.imap(tasks.fail_on, items))
    assert collect(pool.imap(tasks.fail_on, items, 1)) == expected
    unordered = collect(pool.imap_unordered(tasks.fail_on, items, 1))
    assert sorted(unordered) == sorted(expected)


@pytest.mark.parametrize("method", ["map", "starmap", "imap", "imap_unordered"])
def test_progress_writes_to_stderr_and_leaves_the_results_alone(
    method: str, pool: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    items: Any = [(i,) for i in range(200)] if method == "starmap" else range(200)
    results = list(getattr(pool, method)(tasks.square, items, progress=True))
    out, err = capfd.readouterr()
    assert sorted(results) == [i * i for i in range(200)]
    assert "200" in err
    assert out == ""


def test_progress_counts_failures(pool: Any, capfd: pytest.CaptureFixture[str]) -> None:
    pool.map(tasks.fail_for_multiples_of_seven, range(1, 22), progress=True, on_error="return")
    assert "3 failed" in capfd.readouterr().err


def test_progress_of_a_generator_whose_length_is_unknown(pool: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert list(pool.imap(tasks.square, numbers(50), progress=True)) == [i * i for i in range(50)]
    assert "50" in capfd.readouterr().err


def test_progress_tells_of_results_that_were_taken_before_they_were_reported(
    pool: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("fullcourt._engines.jobs").StreamJob, "_notify", notify_unreported)
    assert list(pool.imap(tasks.square, numbers(50), progress=True)) == [i * i for i in range(50)]
    assert "50" in capfd.readouterr().err


def notify_unreported(job: Any) -> list[Any]:
    """As if the thread that is to report were held up."""
    woken, job.waiting = list(job.waiting), type(job.waiting)()
    return [(waiting, None, None) for waiting in woken]


def test_without_progress_nothing_is_printed(pool: Any, capfd: pytest.CaptureFixture[str]) -> None:
    pool.map(tasks.square, range(100))
    assert capfd.readouterr() == ("", "")


def test_the_one_line_map_equals_the_pool(engine: Engine, fullcourt: ModuleType) -> None:
    assert fullcourt.map(tasks.square, range(20), **engine.options) == [i * i for i in range(20)]


def test_the_one_line_map_takes_the_options_of_map(
    engine: Engine, fullcourt: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    results = fullcourt.map(
        tasks.fail_on_negative, [1, -1, 2], **engine.options, chunksize=1, progress=True, on_error="return"
    )
    assert results[0::2] == [1, 2]
    assert isinstance(results[1], fullcourt.Failure)
    assert capfd.readouterr().err
