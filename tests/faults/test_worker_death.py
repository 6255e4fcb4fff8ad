"""A death costs the tasks that were running there, and nothing else: whoever dies, however, whenever.

"Never ran" and "may have run" are different facts. A task that had started is never started again; one that had not is
run elsewhere, free of charge. The tests count both by journals to which tasks append.
"""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import conformance_tasks
import pytest
from conformance_harness import descendant_pids, descends_from_here, is_alive

from tests.faults import fault_tasks as tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from conformance_harness import Gate

    from tests.faults.conftest import Journal

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc, signals and pidfds"),
]

DEATHS = {"SIGKILL": ("SIGKILL",), "exit 3": ("exit", "3"), "SIGABRT": ("SIGABRT",)}


def worker_pids(pool: Any) -> list[int]:
    return [worker.pid for worker in pool.statistics().workers]


def kill(pid: int) -> bool:
    """SIGKILL a process that descends from this one; whether it was there to be killed."""
    if not is_alive(pid) or not descends_from_here(pid):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def wait_gone(pids: list[int], within_s: float) -> list[int]:
    """Wait until all have ended; the pids of those that have not by then. A zombie has ended."""
    end = time.monotonic() + within_s
    late = []
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
                late.append(pid)
        finally:
            os.close(fd)
    return late


def text_of(error: BaseException | None) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


# --- a task that kills its own worker


@pytest.mark.parametrize("how", DEATHS)
def test_a_crash_costs_only_the_task_that_had_started(
    how: str, new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    futures = [pool.submit(tasks.square_or_die, str(journal), 40, how, i) for i in range(100)]
    error = futures[40].exception(30)
    assert isinstance(error, fullcourt.errors.WorkerDied)
    assert isinstance(error, BrokenProcessPool)
    assert [future.result(30) for i, future in enumerate(futures) if i != 40] == [i * i for i in range(100) if i != 40]
    assert journal.n_runs() == dict.fromkeys(range(100), 1)

    text = text_of(error)
    assert all(word in text for word in DEATHS[how]), text
    assert str(journal.pid_of(40)) in text
    assert "square_or_die" in text
    assert "40" in text
    assert pool.map(tasks.square, range(50)) == [i * i for i in range(50)]


def test_a_crash_in_a_map_of_tiny_items_costs_one(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    run = partial(tasks.square_or_die, str(journal), 500, "SIGKILL")
    results = pool.map(run, range(1_000), on_error="return")
    failures = [result for result in results if isinstance(result, fullcourt.Failure)]
    assert [failure.index for failure in failures] == [500]
    assert isinstance(failures[0].exception, fullcourt.errors.WorkerDied)
    assert [result for i, result in enumerate(results) if i != 500] == [i * i for i in range(1_000) if i != 500]
    assert journal.n_runs() == dict.fromkeys(range(1_000), 1)


def test_a_result_that_will_not_load_is_that_items_failure_though_its_worker_died(
    new_pool: Callable[..., Any], fullcourt: ModuleType
) -> None:
    pool = new_pool()
    items = ["unreadable", "SIGKILL", "text"]
    unreadable, died, text = pool.map(tasks.give_or_die, items, 3, on_error="return")
    assert isinstance(unreadable.exception, tasks.LoadingError)
    assert "result could not be read back" in text_of(unreadable.exception)
    assert isinstance(died.exception, fullcourt.errors.WorkerDied)
    assert text == "text"
    names = pool.apply(tasks.map_in_a_task, (pool, tasks.give_or_die, items, 3))
    assert names == ["LoadingError", "WorkerDied", "str"]
    assert pool.map(tasks.square, range(50)) == [i * i for i in range(50)]


@pytest.mark.parametrize("chunksize", [1, 50, 1_000])
def test_a_crash_inside_a_chunk_costs_one_item_of_it(
    chunksize: int, new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    run = partial(tasks.square_or_die, str(journal), 500, "exit 3")
    results = pool.map(run, range(1_000), chunksize=chunksize, on_error="return")
    assert [i for i, result in enumerate(results) if isinstance(result, fullcourt.Failure)] == [500]
    assert [result for i, result in enumerate(results) if i != 500] == [i * i for i in range(1_000) if i != 500]
    assert journal.n_runs() == dict.fromkeys(range(1_000), 1)


def test_a_crash_in_a_map_is_raised_and_the_pool_goes_on(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    run = partial(tasks.square_or_die, str(journal), 7, "SIGKILL")
    with pytest.raises(fullcourt.errors.WorkerDied, match="SIGKILL"):
        pool.map(run, range(100))
    with pytest.raises(fullcourt.errors.WorkerDied, match="SIGKILL"):
        list(pool.imap(partial(tasks.square_or_die, str(journal), 1_007, "SIGKILL"), range(1_000, 1_100)))
    assert pool.map(tasks.square, range(50)) == [i * i for i in range(50)]
    assert set(journal.n_runs().values()) == {1}


def test_imap_goes_on_behind_a_crash(new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType) -> None:
    pool = new_pool()
    run = partial(tasks.square_or_die, str(journal), 7, "SIGKILL")
    results = list(pool.imap(run, range(100), 1, on_error="return"))
    assert isinstance(results[7].exception, fullcourt.errors.WorkerDied)
    assert results[:7] + results[8:] == [i * i for i in range(100) if i != 7]
    unordered = list(
        pool.imap_unordered(
            partial(tasks.square_or_die, str(journal), 207, "exit 3"), range(200, 300), on_error="return"
        )
    )
    assert sum(isinstance(result, fullcourt.Failure) for result in unordered) == 1
    assert len(unordered) == 100
    assert set(journal.n_runs().values()) == {1}


def test_every_task_may_die(new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType) -> None:
    pool = new_pool()
    futures = [pool.submit(tasks.square_or_die, str(journal), i, "SIGKILL", i) for i in range(12)]
    assert all(isinstance(future.exception(50), fullcourt.errors.WorkerDied) for future in futures)
    assert journal.n_runs() == dict.fromkeys(range(12), 1)
    assert pool.submit(tasks.square, 3).result(30) == 9


def test_a_crash_beside_threads_costs_no_more_than_was_running_there(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool(threads=2)
    futures = [pool.submit(tasks.square_or_die, str(journal), 40, "SIGKILL", i) for i in range(200)]
    cf.wait(futures, timeout=50)
    lost = [i for i, future in enumerate(futures) if future.exception(0) is not None]
    assert 40 in lost
    assert len(lost) <= 2
    assert all(isinstance(futures[i].exception(0), fullcourt.errors.WorkerDied) for i in lost)
    assert [future.result(0) for i, future in enumerate(futures) if i not in lost] == [
        i * i for i in range(200) if i not in lost
    ]
    assert max(journal.n_runs().values()) == 1
    assert pool.map(tasks.square, range(50)) == [i * i for i in range(50)]


def test_waiters_of_every_kind_learn_of_a_death(new_pool: Callable[..., Any], fullcourt: ModuleType) -> None:
    pool = new_pool()
    called = threading.Event()
    errors: list[BaseException] = []
    with pytest.raises(fullcourt.errors.WorkerDied):
        pool.apply(tasks.die, ("SIGKILL",))
    handle = pool.apply_async(tasks.die, ("SIGKILL",), error_callback=lambda e: (errors.append(e), called.set()))
    assert called.wait(30)
    assert isinstance(errors[0], fullcourt.errors.WorkerDied)
    assert handle.ready()
    assert not handle.successful()
    future = pool.submit(tasks.die, "SIGKILL")
    assert cf.wait([future], timeout=30).done == {future}
    assert pool.statistics().n_in_flight == 0
    assert pool.statistics().n_failed == 3


def test_a_death_before_the_task_began_kills_not_one_worker_after_another(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    """An argument that kills whoever unpickles it: the task has not started, and must not be tried for ever."""
    pool = new_pool()
    others = [pool.submit(tasks.square, i) for i in range(50)]
    poisoned = pool.submit(str, tasks.KillsWhoUnpicklesIt(str(journal)))
    others += [pool.submit(tasks.square, i) for i in range(50)]
    error = poisoned.exception(50)
    assert isinstance(error, fullcourt.errors.WorkerDied)
    assert [other.result(30) for other in others] == [i * i for i in range(50)] * 2
    assert 1 <= len(journal.lines()) <= 5


def test_a_poisoned_item_of_a_chunk_costs_that_item_alone(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    items = [*map(str, range(10)), tasks.KillsWhoUnpicklesIt(str(journal)), *map(str, range(10, 20))]
    results = pool.map(len, items, chunksize=len(items), on_error="return")
    assert [i for i, result in enumerate(results) if isinstance(result, fullcourt.Failure)] == [10]
    assert isinstance(results[10].exception, fullcourt.errors.WorkerDied)
    assert 1 <= len(journal.lines()) <= 5


def test_a_poisoned_function_kills_not_one_worker_after_another(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    results = pool.map(tasks.KillsWhoUnpicklesIt(str(journal)), range(3), on_error="return")
    assert all(isinstance(result.exception, fullcourt.errors.WorkerDied) for result in results)
    assert 1 <= len(journal.lines()) <= 15
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]


def test_a_death_while_the_result_is_pickled_counts_as_a_started_task(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    others = [pool.submit(tasks.square, i) for i in range(50)]
    future = pool.submit(tasks.return_a_killer, str(journal))
    assert isinstance(future.exception(30), fullcourt.errors.WorkerDied)
    assert len(journal.lines()) == 1
    assert [other.result(30) for other in others] == [i * i for i in range(50)]


def test_a_death_while_a_large_result_is_on_its_way_leaves_a_whole_result_or_none(
    new_pool: Callable[..., Any], fullcourt: ModuleType
) -> None:
    pool = new_pool()
    for n_bytes in (10, 300_000, 20_000_000):
        future = pool.submit(tasks.large_result_then_die, n_bytes)
        error = future.exception(30)
        assert isinstance(error, fullcourt.errors.WorkerDied) or future.result(0) == bytes(n_bytes)
    assert pool.map(tasks.square, range(20)) == [i * i for i in range(20)]


def test_a_grandchild_that_holds_the_link_open_hides_no_death(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    future = pool.submit(tasks.start_a_child_and_wait, str(journal))
    assert isinstance(future.exception(30), fullcourt.errors.WorkerDied)
    assert pool.map(tasks.square, range(20)) == [i * i for i in range(20)]


def test_a_worker_that_dies_in_its_initializer_is_not_replaced_for_ever(
    new_pool: Callable[..., Any], journal: Journal
) -> None:
    with pytest.raises(Exception, match=r"exit|died|initializer"):
        new_pool(initializer=tasks.die_in_initializer, initargs=(str(journal),)).submit(tasks.square, 1).result(50)
    assert 1 <= len(journal.lines()) <= 6


# --- killed from outside


def test_a_worker_killed_while_idle_costs_nothing(new_pool: Callable[..., Any], journal: Journal) -> None:
    pool = new_pool()
    run = partial(tasks.note_and_square, str(journal))
    for round_ in range(3):
        items = range(round_ * 200, round_ * 200 + 200)
        assert pool.map(run, items) == [i * i for i in items]
        victim = random.choice(worker_pids(pool))
        started = time.perf_counter()
        kill(victim)
        items = range(10_000 + round_ * 200, 10_000 + round_ * 200 + 200)
        futures = [pool.submit(run, i) for i in items]
        assert [future.result(30) for future in futures] == [i * i for i in items]
        print(f"200 tasks after the death of an idle worker: {1e3 * (time.perf_counter() - started):.1f} ms")
    assert set(journal.n_runs().values()) == {1}


def test_an_idle_worker_that_was_killed_is_replaced(new_pool: Callable[..., Any], gate: Gate) -> None:
    pool = new_pool()
    pool.map(tasks.square, range(20))
    victims = worker_pids(pool)
    kill(victims[0])
    assert wait_gone(victims[:1], 10) == []
    blocked = [pool.submit(conformance_tasks.pass_through, gate.turnstile, i) for i in range(2)]
    gate.wait_arrivals(2, 30)  # both slots work at once again
    gate.permit(2)
    assert [future.result(30) for future in blocked] == [0, 1]
    assert victims[0] not in worker_pids(pool)


def test_a_worker_killed_while_busy_costs_its_task_alone(
    new_pool: Callable[..., Any], gate: Gate, journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    blocked = [pool.submit(conformance_tasks.pass_through, gate.turnstile, f"item-{i}") for i in range(2)]
    gate.wait_arrivals(2)
    waiting = [pool.submit(tasks.note_and_square, str(journal), i) for i in range(100)]
    victim = worker_pids(pool)[0]
    started = time.perf_counter()
    kill(victim)
    assert cf.wait(blocked, timeout=30, return_when=cf.FIRST_COMPLETED).done
    (dead,) = [future for future in blocked if future.done()]
    error = dead.exception(0)
    assert isinstance(error, fullcourt.errors.WorkerDied)
    text = text_of(error)
    assert "SIGKILL" in text
    assert str(victim) in text
    assert f"item-{blocked.index(dead)}" in text
    # The other worker is still blocked, so the replacement alone does these, also what had been sent to either.
    assert [future.result(30) for future in waiting] == [i * i for i in range(100)]
    print(f"100 tasks after the death of a busy worker: {1e3 * (time.perf_counter() - started):.1f} ms")
    gate.permit()
    (alive,) = [future for future in blocked if future is not dead]
    assert alive.result(30) == f"item-{blocked.index(alive)}"
    assert journal.n_runs() == dict.fromkeys(range(100), 1)


def test_all_workers_killed_at_once_while_idle(new_pool: Callable[..., Any], journal: Journal) -> None:
    pool = new_pool()
    pool.map(tasks.square, range(20))
    for pid in worker_pids(pool):
        kill(pid)
    futures = [pool.submit(tasks.note_and_square, str(journal), i) for i in range(100)]
    assert [future.result(30) for future in futures] == [i * i for i in range(100)]
    assert journal.n_runs() == dict.fromkeys(range(100), 1)


def test_all_workers_killed_at_once_while_busy(
    new_pool: Callable[..., Any], gate: Gate, journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    blocked = [pool.submit(conformance_tasks.pass_through, gate.turnstile, i) for i in range(2)]
    gate.wait_arrivals(2)
    waiting = [pool.submit(tasks.note_and_square, str(journal), i) for i in range(100)]
    for pid in worker_pids(pool):
        kill(pid)
    assert all(isinstance(future.exception(30), fullcourt.errors.WorkerDied) for future in blocked)
    assert [future.result(30) for future in waiting] == [i * i for i in range(100)]
    assert journal.n_runs() == dict.fromkeys(range(100), 1)


def test_a_worker_stopped_by_a_signal_is_not_taken_for_dead(new_pool: Callable[..., Any], gate: Gate) -> None:
    pool = new_pool()
    blocked = pool.submit(conformance_tasks.pass_through, gate.turnstile, 1)
    gate.wait_arrivals(1)
    pids = worker_pids(pool)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        pool.submit(tasks.square, 2).result(0.2)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    gate.permit()
    assert blocked.result(30) == 1
    assert pool.submit(tasks.square, 2).result(30) == 4


def test_what_has_a_time_limit_does_not_wait_for_an_idle_worker_that_was_stopped(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    pool.map(tasks.square, range(20))
    pids = worker_pids(pool)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0)
    assert pool.options(timeout=0.1).submit(tasks.square, 2).result(30) == 4
    assert pool.map(tasks.square, range(50), timeout=0.1) == [i * i for i in range(50)]
    assert not set(pids) <= set(worker_pids(pool))


def test_terminate_stops_a_stopped_and_a_stubborn_worker(new_pool: Callable[..., Any]) -> None:
    pool = new_pool()
    stubborn = pool.submit(tasks.ignore_polite_signals)
    pool.submit(tasks.square, 2).result(30)
    pids = worker_pids(pool)
    os.kill(pids[0], signal.SIGSTOP)
    started = time.perf_counter()
    pool.terminate()
    pool.join()
    print(f"terminate and join: {1e3 * (time.perf_counter() - started):.0f} ms")
    assert not any(is_alive(pid) for pid in pids)
    assert stubborn.done()


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_helpers_killed_cost_no_task_and_the_pool_goes_on(
    busy: bool, new_pool: Callable[..., Any], gate: Gate, journal: Journal, fullcourt: ModuleType
) -> None:
    """Whatever processes a pool has beside its workers (a template that forks them): they die, and work goes on."""
    before = descendant_pids()
    pool = new_pool()
    pool.map(tasks.square, range(20))
    helpers = descendant_pids() - before - set(worker_pids(pool))
    blocked = [pool.submit(conformance_tasks.pass_through, gate.turnstile, i) for i in range(2 * busy)]
    gate.wait_arrivals(2 * busy)
    for pid in helpers:
        kill(pid)
    assert wait_gone(sorted(helpers), 10) == []
    gate.permit(2 * busy)
    # The workers may go with their template; then what had started there is told as such, never run again.
    for i, future in enumerate(blocked):
        error = future.exception(30)
        assert isinstance(error, fullcourt.errors.WorkerDied) if error else future.result(0) == i
    futures = [pool.submit(tasks.note_and_square, str(journal), i) for i in range(100)]
    assert [future.result(30) for future in futures] == [i * i for i in range(100)]

    for pid in worker_pids(pool):  # and workers can still be replaced
        kill(pid)
    futures = [pool.submit(tasks.note_and_square, str(journal), i) for i in range(100, 200)]
    assert [future.result(30) for future in futures] == [i * i for i in range(100, 200)]
    assert journal.n_runs() == dict.fromkeys(range(200), 1)


def test_everything_below_the_pool_killed_at_once(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    before = descendant_pids()
    pool = new_pool()
    pool.map(tasks.square, range(20))
    for pid in descendant_pids() - before:
        kill(pid)
    futures = [pool.submit(tasks.note_and_square, str(journal), i) for i in range(100)]
    assert [future.result(30) for future in futures] == [i * i for i in range(100)]
    assert journal.n_runs() == dict.fromkeys(range(100), 1)


# --- storms


def storm(pool: Any, journal: Journal, n_tasks: int, n_kills: int, worker_died: type[BaseException]) -> None:
    """Kill a random worker after every few results; account for every task afterwards."""
    futures: list[Any] = []
    n_killed = 0
    started = time.perf_counter()
    for wave in range(n_kills):
        n_new = n_tasks * (wave + 1) // n_kills - len(futures)
        new = [pool.submit(tasks.note_and_work, str(journal), len(futures) + i) for i in range(n_new)]
        futures += new
        # Anywhere in the wave: before its first task, among them, after its last.
        some = random.randrange(n_new + 1)
        for n_seen, _ in enumerate(cf.as_completed(new, timeout=30)):
            if n_seen >= some:
                break
        n_killed += kill(random.choice(worker_pids(pool)))
    _done, not_done = cf.wait(futures, timeout=50)
    assert not not_done, f"{len(not_done)} of {n_tasks} tasks hang"
    n_runs = journal.n_runs()
    n_died = 0
    for i, future in enumerate(futures):
        error = future.exception(0)
        if error is None:
            assert future.result(0) == i * i
            assert n_runs[i] == 1
        else:
            assert isinstance(error, worker_died)
            assert n_runs[i] <= 1
            n_died += 1
    assert n_died <= n_killed
    seconds = time.perf_counter() - started
    print(f"{n_killed} kills cost {n_died} of {n_tasks} tasks, and took {seconds:.1f} s")
    statistics = pool.statistics()
    assert (statistics.n_failed, statistics.n_in_flight) == (n_died, 0)
    assert pool.map(tasks.square, range(50)) == [i * i for i in range(50)]


@pytest.mark.slow
def test_a_storm_of_kills_loses_no_outcome(
    new_pool: Callable[..., Any], start_method: str, journal: Journal, fullcourt: ModuleType
) -> None:
    n_kills = 40 if start_method == "spawn" else 200  # a spawned worker costs a new interpreter
    storm(new_pool(), journal, 3_000, n_kills, fullcourt.errors.WorkerDied)


def test_a_breeze_of_kills_loses_no_outcome(
    new_pool: Callable[..., Any], journal: Journal, fullcourt: ModuleType
) -> None:
    storm(new_pool(), journal, 300, 10, fullcourt.errors.WorkerDied)


@pytest.mark.slow
def test_a_storm_over_a_map_gives_every_item_one_outcome(
    new_pool: Callable[..., Any], start_method: str, journal: Journal, fullcourt: ModuleType
) -> None:
    pool = new_pool()
    run = partial(tasks.note_and_work, str(journal))
    n_items, every = 3_000, 300 if start_method == "spawn" else 30
    n_killed, results = 0, []
    for n_seen, result in enumerate(pool.imap(run, range(n_items), 7, on_error="return")):
        results.append(result)
        if n_seen % every == 0:
            kill(random.choice(worker_pids(pool)))
            n_killed += 1
    failures = [i for i, result in enumerate(results) if isinstance(result, fullcourt.Failure)]
    assert len(results) == n_items
    assert len(failures) <= n_killed
    n_runs = journal.n_runs()
    for i, result in enumerate(results):
        if i in failures:
            assert isinstance(result.exception, fullcourt.errors.WorkerDied)
            assert result.index == i
            assert n_runs[i] <= 1
        else:
            assert (result, n_runs[i]) == (i * i, 1)
    print(f"{n_killed} kills cost {len(failures)} of {n_items} items")


# --- the parent dies

PARENT = """
import os, sys
sys.path[:0] = {path!r}
import fullcourt
from conformance_harness import Gate, descendant_pids
from conformance_tasks import pass_through
from pathlib import Path
from tests.faults import fault_tasks

if __name__ == "__main__":
    gate = Gate(Path({folder!r}))
    pool = fullcourt.Pool(processes=3, start_method={start_method!r})
    future = pool.submit(pass_through, gate.turnstile, 1)
    gate.wait_arrivals(1)
    other = pool.submit({busy})
    pool.submit(abs, -1).result()
    print(*descendant_pids(servants=True), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    "busy",
    ["fault_tasks.spin_holding_the_gil", "fault_tasks.one_long_call_in_c", "fault_tasks.ignore_polite_signals"],
    ids=["spinning", "in-one-c-call", "deaf-to-signals"],
)
def test_nothing_outlives_a_parent_that_was_killed(busy: str, start_method: str, tmp_path: Any) -> None:
    program = tmp_path / "parent.py"
    paths = [path for path in sys.path if path]
    program.write_text(PARENT.format(path=paths, folder=str(tmp_path), start_method=start_method, busy=busy))
    parent = subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, text=True
    )
    with parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        started = time.perf_counter()
        parent.kill()
        late = wait_gone([parent.pid, *pids], within_s=1.0)
        print(f"{len(pids)} processes were gone after {1e3 * (time.perf_counter() - started):.0f} ms")
        for pid in late:
            os.kill(pid, signal.SIGKILL)
    assert len(pids) >= 3
    assert late == []


def test_a_program_whose_worker_died_ends_with_the_error(start_method: str, tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, fullcourt\n"
        f"pool = fullcourt.Pool(2, start_method={start_method!r})\n"
        "pool.map(lambda x: os._exit(3) if x == 5 else x, range(10))\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "WorkerDied" in done.stderr
    assert done.stderr.count("Traceback (most recent call last)") == 1


def test_what_tasks_leave_behind_is_no_zombie_when_it_has_ended(new_pool: Callable[..., Any]) -> None:
    pool = new_pool(max_tasks_per_child=1)  # what a task has started falls to the template when its worker ends
    pids = [pid for pair in pool.map(tasks.leave_two_behind, range(12), chunksize=1) for pid in pair]
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):  # a zombie is there, too
        assert time.monotonic() < deadline
    assert pool.apply(signal.getsignal, (signal.SIGCHLD,)) == signal.SIG_DFL
    assert pool.apply(signal.set_wakeup_fd, (-1,)) == -1
