import json
import os
import sys
import time

import pytest

import fullcourt
from fullcourt._gil.pool_facts import dilation, facts_of
from fullcourt._gil.pool_view import TASK_TRACK
from fullcourt._gil.pool_watch import Lane, PoolWatch, Span
from fullcourt._gil.pool_words import PoolFacts, why
from fullcourt._gil.report import Report, Times


def report(n_cores=4):
    return Report(10.0, "sampled", (), Times(), 2500, 250.0, 0.01, (), n_cores, 0.0, 0.1)


def facts(**known):
    return PoolFacts(
        **{"active_s": 10.0, "n_slots": 4, "n_tasks": 1000, "n_messages": 1000, "in_tasks_s": 39.0, "n_cores": 4}
        | known
    )


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"on_core_s": 39.0}, "The pool is well used: its 4 slots were in tasks 98% of the time, and 3.9 of 4 cores"),
        ({"n_tasks": 0}, "The pool ran no task"),
        (
            {"n_tasks": 900_000, "n_messages": 450_000, "in_tasks_s": 4.0, "n_workers": 4, "pickling_s": 9.0},
            "Tasks too small: 900,000 tasks took 4 us each and travelled 2 at a time",
        ),
        (
            {"n_tasks": 40, "n_messages": 40, "in_tasks_s": 4.0, "n_workers": 4, "pickling_s": 9.0},
            "Pickling too heavy: the pool's process pickled, sent and read for 9.00 of 10.00 s (90%)",
        ),
        (
            {"in_tasks_s": 10.0, "starved_s": 30.0, "from_iterator": True},
            "Input too slow: it gave 100 items a second, and the 4 slots could take 400; they waited for it 75%",
        ),
        (
            {
                "in_tasks_s": 16.0, "tail_s": 8.0, "tail_idle_s": 24.0, "longest_s": 9.0, "longest_name": "render",
                "longest_ended_last": True,
            },
            "One long task at the end: render ran for 9.00 s, 8.00 s of it while at least half of the 4 slots",
        ),
        (
            {"n_workers": 4, "n_native_threads": 16, "queued_s": 120.0, "on_core_s": 39.0},
            "Threads of native libraries fight each other: 16 of them",
        ),
        ({"gil_wait_s": 29.0, "on_core_s": 10.0}, "The GIL: tasks waited for it 29.0 of the 39.0 s that they took"),
        ({"dilation": 2.0, "on_core_s": 39.0}, "Memory-bound: a task takes 2.0 times as long with all 4 slots busy"),
        ({"on_core_s": 1.0, "blocked_s": 38.0}, "Too few slots: all 4 were in tasks 98% of the time, while 0.10 cores"),
        ({"on_core_s": 39.0, "n_cores": 16}, "Too few slots: all 4 were in tasks 98% of the time, while 3.9 of 16"),
        ({"in_tasks_s": 4.0}, "The 4 slots were in tasks 10% of the time"),
    ],
)  # fmt: skip
def test_each_case_is_named_with_its_numbers(known, said):
    assert why(facts(**known)).startswith(said)


def test_slots_that_never_had_a_task_waited_for_the_input_too():
    lanes = [Lane(1, "a", [Span(float(n), n + 0.1, 0.1, 1, "f", 0.1) for n in range(11)])]
    found = facts_of(lanes, [], report(), n_slots=2, n_workers=2, n_messages=11, from_iterator=True)
    assert found.starved_s == pytest.approx(2 * 10.0 - 10 * 0.1)
    assert "they waited for it 94% of the time" in why(found)


def test_no_part_of_a_task_is_longer_than_the_task():
    known = {"in_tasks_s": 16.0, "tail_s": 8.0, "tail_idle_s": 24.0, "longest_s": 7.5, "longest_ended_last": True}
    assert "ran for 7.50 s, 7.50 s of it while" in why(facts(**known))


def test_facts_come_from_the_spans():
    lanes = [
        Lane(1, "a", [Span(0.0, 1.0, 1.0, 10, "f", 0.1), Span(1.0, 9.0, 8.0, 1, "g", 8.0)]),
        Lane(2, "b", [Span(0.0, 1.0, 1.0, 10, "f", 0.1)]),
    ]
    pickling = [
        Span(-5.0, 0.2, 5.2, 0, "p", 5.2), Span(0.1, 0.3, 0.2, 0, "p", 0.2), Span(20.0, 21.0, 1.0, 0, "p", 1.0)
    ]  # fmt: skip
    found = facts_of(lanes, pickling, report(), n_slots=2, n_workers=2, n_messages=21, from_iterator=False)
    assert (found.active_s, found.n_tasks, found.in_tasks_s) == (9.0, 21, 10.0)
    assert found.tail_s == found.tail_idle_s == 8.0
    assert found.longest_ended_last
    assert found.longest_name == "g"
    assert found.pickling_s == pytest.approx(0.3)  # what overlaps counts once, what lies outside not at all
    assert why(found).startswith("One long task at the end: g ran for 8.00 s")


def test_tasks_that_slow_each_other_down_are_seen():
    spans = [Span(i, i + 1.0, 1.0, 1, "f", 1.0) for i in range(10)]
    for i in range(10):
        spans += [Span(20.0 + 2 * i, 22.0 + 2 * i, 2.0, 1, "f", 2.0) for _ in range(2)]
    assert dilation(spans, 2) == pytest.approx(2.0)
    assert dilation(spans[:10], 2) == 0.0


@pytest.mark.parametrize("kind", [{"processes": 2}, {"threads": 2}, {"processes": 1, "threads": 2}])
def test_a_pools_tasks_are_on_its_timeline(kind, tmp_path):
    with fullcourt.Pool(name="seen", **kind) as pool:
        pool.map(abs, range(10))
        with pool.observe() as observation:
            pool.map(time.sleep, [0.03] * 12, chunksize=1)
        pool.map(abs, range(10))
    found = observation.facts
    assert found.n_tasks == 12
    assert found.in_tasks_s >= 12 * 0.03
    assert found.n_slots == 2
    begins = "Too few slots" if found.foreign_cores <= 0.5 else ("Too few slots", "Other programs took")
    assert observation.why.startswith(begins)
    observation.html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "tasks of seen-" in text
    assert observation.why.partition(" slots")[0] in text
    observation.trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert sum(event["name"] == "sleep" and event["tid"] >= TASK_TRACK for event in events) == 12
    if "processes" in kind:
        names = [process.name for process in observation.report.processes]
        assert "seen-1" in names
        assert "template, which starts the workers" in names


@pytest.mark.parametrize("kind", [{"processes": 2}, {"threads": 2}, {"processes": 1, "threads": 2}])
@pytest.mark.parametrize("how", ["one by one", "a burst"])
def test_calls_are_seen_that_usually_take_a_short_way(kind, how):
    with fullcourt.Pool(**kind) as pool:
        pool.apply(abs, (-1,))
        with pool.observe() as observation:
            if how == "one by one":
                results = [pool.apply(divmod, (i, 2)) for i in range(50)]
            else:
                results = [future.result() for future in [pool.submit(divmod, i, 2) for i in range(50)]]
        assert results == [divmod(i, 2) for i in range(50)]
        assert observation.facts.n_tasks == 50
        assert pool.apply(abs, (-2,)) == 2
        assert observation.facts.n_tasks == 50


def test_an_observed_pool_is_left_as_it_was():
    with fullcourt.Pool(1) as pool:
        before = dict(vars(pool._driver)), dict(vars(pool._driver.engine))
        with pool.observe():
            assert vars(pool._driver).keys() > before[0].keys()
            assert pool.map(abs, [-1, 2]) == [1, 2]
        assert vars(pool._driver).keys() == before[0].keys()
        assert vars(pool._driver.engine).keys() == before[1].keys()
        assert pool.apply(abs, (-3,)) == 3


def test_a_worker_that_died_has_its_name():
    with fullcourt.Pool(1, name="seen") as pool, pool.observe() as observation:
        pool.map(abs, range(4))
        with pytest.raises(fullcourt.WorkerDied):
            pool.apply(exit_at_once)
        pool.map(abs, range(4))
    assert [life.name for life in observation._watch.lost] == ["seen-1"]


def exit_at_once():
    import os

    os._exit(3)


def test_many_spans_become_few():
    watch = PoolWatch(None)
    lane = Lane(1, "a")
    watch.lanes[1, "a"] = [lane]
    spans = lane.spans
    for i in range(50_000):
        watch._add(spans, Span(i * 1.0, i + 0.9, 0.9, 1, f"f{i % 3}", 0.9))
    assert len(spans) <= 20_000
    assert sum(span.n_tasks for span in spans) == 50_000
    assert sum(span.seconds for span in spans) == pytest.approx(45_000)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="interpreters need Python 3.14")
def test_interpreters_have_a_gil_each():
    with fullcourt.Pool(interpreters=2) as pool:
        pool.map(abs, range(10))
        with pool.observe() as observation:
            pool.map(sum, [range(3_000_000)] * 6, chunksize=1)
    (process,) = [process for process in observation.report.processes if process.pid == os.getpid()]
    assert len(process.gils) == 3
    # One after the other under one GIL, their shares could not be more than 1 together.
    busy = sorted(gil.held_share for gil in process.gils)[1:]
    assert sum(busy) > 1.2


@pytest.mark.parametrize("kind", [{"processes": 1}, {"threads": 1}])
def test_a_pool_may_be_observed_twice_at_once(kind):
    with fullcourt.Pool(**kind) as pool:
        before = dict(vars(pool._driver)).keys(), dict(vars(pool._driver.engine)).keys()
        first, second = pool.observe(), pool.observe()
        first.__enter__()
        pool.map(abs, range(3), chunksize=1)
        second.__enter__()
        pool.map(abs, range(5), chunksize=1)
        first.__exit__(None, None, None)
        pool.map(abs, range(7), chunksize=1)
        second.__exit__(None, None, None)
        pool.map(abs, range(9), chunksize=1)
        assert (first.facts.n_tasks, second.facts.n_tasks) == (8, 12)
        assert (vars(pool._driver).keys(), vars(pool._driver.engine).keys()) == before
