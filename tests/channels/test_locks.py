"""Locks keep their promises, and report the deaths of those that hold them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from time import monotonic
from typing import Any

import pytest
from channel_tasks import count_up, hold, hold_and_die, wait_and_tell, wait_on_condition
from endpoints import KINDS, PROCESS_KINDS, QUICK_KINDS, endpoint, fork, kill, reap

import fullcourt
from fullcourt.channels._monitor import WANTED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks need Linux")

MAKERS = [fullcourt.Lock, fullcourt.RLock, fullcourt.Semaphore, fullcourt.BoundedSemaphore]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=QUICK_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize(
    ("kind", "make"), [*((kind, fullcourt.Lock) for kind in KINDS), *(("fork", make) for make in MAKERS[1:])]
)
def test_only_one_at_a_time(kind: str, make: Any) -> None:
    lock = make()
    cell = fullcourt.Queue()
    cell.put(0)
    with endpoint(kind) as there:
        for _ in range(2):
            there.start(count_up, lock, cell, 60)
        there.join()
    assert cell.get() == 120


def test_try_wait_a_while_and_release(make: Any) -> None:
    lock = make()
    held, gate = fullcourt.Queue(), fullcourt.Queue()
    with endpoint("fork") as there:
        there.start(hold, lock, held, gate)
        held.get(timeout=30)
        assert lock.locked()
        assert not lock.acquire(block=False)
        began = monotonic()
        assert not lock.acquire(timeout=0.05)
        assert 0.05 <= monotonic() - began < 10
        assert not lock.acquire(timeout=-1)
        gate.put(None)
        assert lock.acquire(timeout=30)
        lock.release()


def test_the_holders_death_is_told_once_with_the_lock_held(make: Any) -> None:
    lock = make()
    held = fullcourt.Queue()
    with endpoint("forkserver") as there:
        process = there.start(hold_and_die, lock, held)
        pid = held.get(timeout=30)
        with pytest.raises(fullcourt.OwnerDied, match=f"pid {pid} ended while it held") as caught:
            lock.acquire(timeout=30)
        assert caught.value.pid == pid == process.pid
    assert lock.locked()
    lock.release()
    assert lock.acquire(block=False)
    lock.release()


def test_the_holders_death_wakes_who_waits(make: Any) -> None:
    lock = make()
    held, gate = fullcourt.Queue(), fullcourt.Queue()
    told: list[Any] = []

    def wait() -> None:
        try:
            lock.acquire(timeout=60)
        except fullcourt.OwnerDied as error:
            told.append(error.pid)
            lock.release()

    pid = fork(lambda: hold(lock, held, gate))
    assert held.get(timeout=30) == pid
    thread = threading.Thread(target=wait)
    thread.start()
    kill(pid)
    thread.join(30)
    assert told == [pid]


def test_a_with_statement_leaves_the_lock_free_when_it_reports_a_death(make: Any) -> None:
    lock = make()
    held = fullcourt.Queue()
    pid = fork(lambda: hold_and_die(lock, held))
    reap(pid)
    with pytest.raises(fullcourt.OwnerDied), lock:
        raise AssertionError
    with lock:
        pass


def test_a_release_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="more often than acquired"):
        fullcourt.Lock().release()
    with pytest.raises(AssertionError):
        fullcourt.RLock().release()
    with pytest.raises(ValueError, match="more often than acquired"):
        fullcourt.BoundedSemaphore(2).release()
    for value in (-1, 2**31):
        with pytest.raises(ValueError, match="from 0 to"):
            fullcourt.Semaphore(value)


def test_semaphores_say_how_many_are_free_and_of_how_many() -> None:
    free, bounded = fullcourt.Semaphore(3), fullcourt.BoundedSemaphore(3)
    with free, bounded:
        assert (repr(free), repr(bounded)) == ("<Semaphore(value=2)>", "<BoundedSemaphore(value=2, maxvalue=3)>")


@pytest.mark.parametrize("number", [1.5, "2", None])
def test_numbers_that_are_not_whole_are_refused_by_name(number: Any) -> None:
    for make in (fullcourt.Semaphore, fullcourt.BoundedSemaphore, fullcourt.Barrier):
        with pytest.raises(TypeError, match="must be a whole number"):
            make(number)


def test_a_condition_takes_no_lock_that_cannot_tell_who_holds_it() -> None:
    for lock in (threading.Lock(), fullcourt.Semaphore(1), 5):
        with pytest.raises(TypeError, match=r"must be a fullcourt\.Lock or RLock"):
            fullcourt.Condition(lock)  # type: ignore[arg-type]
    action: Any = 5
    with pytest.raises(TypeError, match="action must be callable"):
        fullcourt.Barrier(2, action)


def test_a_lock_may_be_released_by_another_process() -> None:
    lock = fullcourt.Lock()
    lock.acquire()
    assert reap(fork(lock.release)) == 0
    assert lock.acquire(block=False)


def test_a_reentrant_lock_is_its_threads() -> None:
    lock = fullcourt.RLock()
    lock.acquire()
    lock.acquire()
    tried: list[bool] = []
    thread = threading.Thread(target=lambda: tried.append(lock.acquire(block=False)))
    thread.start()
    thread.join()
    lock.release()
    assert tried == [False]
    assert lock.locked()
    lock.release()
    assert not lock.locked()


def test_a_semaphore_counts_and_gets_back_what_the_dead_held() -> None:
    places = fullcourt.Semaphore(3)

    def child() -> None:
        places.acquire()
        places.acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    assert reap(fork(child)) == -signal.SIGKILL
    assert places.acquire(block=False)
    with pytest.raises(fullcourt.OwnerDied):
        places.acquire(block=False)
    assert places.get_value() == 1
    assert places.acquire(block=False)
    assert not places.acquire(block=False)
    for _ in range(3):
        places.release()
    assert places.get_value() == 3
    places.release()
    assert places.get_value() == 4


def test_a_semaphore_that_begins_at_zero_is_a_signal() -> None:
    signals = fullcourt.Semaphore(0)
    pid = fork(lambda: (signals.acquire(), os.kill(os.getpid(), signal.SIGKILL)))
    signals.release()
    assert reap(pid) == -signal.SIGKILL
    assert not signals.acquire(block=False)
    signals.release()
    assert signals.acquire(block=False)


def test_a_signal_handler_may_use_what_it_interrupts() -> None:
    event = fullcourt.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: event.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(300):
            event.clear()
            assert event.wait(30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_coroutines_take_turns() -> None:
    async def main() -> int:
        lock = fullcourt.Lock()
        inside = most = 0

        async def work() -> None:
            nonlocal inside, most
            for _ in range(5):
                assert await lock.aacquire(timeout=30)
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.001)
                inside -= 1
                lock.release()

        await asyncio.gather(*(work() for _ in range(4)))
        assert lock.acquire()
        assert not await lock.aacquire(timeout=0.01)
        return most

    assert asyncio.run(main()) == 1


# -- events, conditions, barriers --------------------------------------------------------------------------------------


def test_an_event_wakes_all(kind: str) -> None:
    event, told = fullcourt.Event(), fullcourt.Queue()
    with endpoint(kind) as there:
        for _ in range(2):
            there.start(wait_and_tell, event, told)
        event.set()
        assert [told.get(timeout=60) for _ in range(2)] == [True, True]
    event.clear()
    assert not event.is_set()
    assert not event.wait(0.01)


def test_who_waits_for_an_event_is_told_even_if_it_is_cleared_at_once() -> None:
    event, told = fullcourt.Event(), fullcourt.Queue()
    pids = []
    for _ in range(2):
        event._words[WANTED] = 0
        pids.append(fork(lambda: wait_and_tell(event, told)))
        while not event._words[WANTED]:  # it says so once it waits for the next time that the event is set
            pass
    event.set()
    event.clear()
    assert [told.get(timeout=40) for _ in pids] == [True, True]
    assert [reap(pid) for pid in pids] == [0, 0]


def test_a_condition_notifies_as_many_as_it_is_told_to(kind: str) -> None:
    if kind == "pool-interpreters":
        pytest.skip("two workers only")
    condition, ready, told = fullcourt.Condition(), fullcourt.Queue(), fullcourt.Queue()
    with endpoint(kind) as there:
        for _ in range(3):
            there.start(wait_on_condition, condition, ready, told)
        ready_ones = [ready.get(timeout=60) for _ in range(3)]
        assert len(ready_ones) == 3
        with condition:  # they wait, since they have released the lock
            condition.notify(2)
        assert [told.get(timeout=30) for _ in range(2)] == [True, True]
        assert told.empty()
        with condition:
            condition.notify_all()
        assert told.get(timeout=30) is True


def test_a_notification_goes_to_one_that_lives() -> None:
    condition, ready, told = fullcourt.Condition(), fullcourt.Queue(), fullcourt.Queue()
    first = fork(lambda: wait_on_condition(condition, ready, told))
    ready.get(timeout=30)
    second = fork(lambda: wait_on_condition(condition, ready, told))
    ready.get(timeout=30)
    with condition:
        kill(first)
        condition.notify()
    assert told.get(timeout=30) is True
    assert reap(second) == 0


def test_a_condition_that_is_not_held_refuses() -> None:
    condition = fullcourt.Condition(fullcourt.Lock())
    for call in (condition.wait, condition.notify):
        with pytest.raises(AssertionError, match="needs its lock"):
            call()
    with condition:
        assert not condition.wait(0.01)
        assert condition.wait_for(lambda: True)


def test_a_condition_refuses_where_another_thread_holds_its_lock() -> None:
    condition = fullcourt.Condition(fullcourt.Lock())
    thread = threading.Thread(target=condition.acquire)
    thread.start()
    thread.join(30)
    for call in (condition.wait, condition.notify):
        with pytest.raises(AssertionError, match="held by this thread"):
            call()
    condition.release()


@pytest.mark.parametrize("method", PROCESS_KINDS)
def test_a_barrier_opens_when_all_are_there(method: str) -> None:
    barrier, told = fullcourt.Barrier(3), fullcourt.Queue()
    with endpoint(method) as there:
        for _ in range(2):
            there.start(wait_and_tell, barrier, told)
        mine = barrier.wait(60)
        assert sorted([mine, told.get(timeout=30), told.get(timeout=30)]) == [0, 1, 2]


def test_a_barrier_breaks_when_one_that_waits_dies() -> None:
    barrier, told = fullcourt.Barrier(3), fullcourt.Queue()
    pid = fork(lambda: wait_and_tell(barrier, told))
    broken: list[BaseException] = []

    def wait() -> None:
        try:
            barrier.wait(60)
        except threading.BrokenBarrierError as error:
            broken.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while barrier.n_waiting < 2:
        pass
    kill(pid)
    thread.join(30)
    (error,) = broken
    assert isinstance(error.__cause__, fullcourt.OwnerDied)
    assert error.__cause__.pid == pid
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken


def test_a_barrier_does_not_count_one_that_died_while_nobody_else_waited() -> None:
    barrier, told = fullcourt.Barrier(2), fullcourt.Queue()
    pid = fork(lambda: wait_and_tell(barrier, told))
    while not barrier.n_waiting:
        pass
    kill(pid)
    for _ in range(2):
        with pytest.raises(threading.BrokenBarrierError) as caught:
            barrier.wait(30)
        assert isinstance(caught.value.__cause__, fullcourt.OwnerDied)
        assert caught.value.__cause__.pid == pid
    barrier.reset()
    assert barrier.n_waiting == 0


def test_a_barriers_action_runs_once_a_round_before_all_go_on() -> None:
    counts: list[int] = []
    barrier = fullcourt.Barrier(3, action=lambda: counts.append(len(counts)))
    seen: list[int] = []

    def party() -> None:
        for _ in range(20):
            barrier.wait(60)
            seen.append(len(counts))

    threads = [threading.Thread(target=party) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(counts) == 20
    assert len(seen) == 60
    with pytest.raises(ValueError, match="1 to 600"):
        fullcourt.Barrier(0)
