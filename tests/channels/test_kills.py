"""A process killed at any instruction costs at most the item that it held, and holds nobody up."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from endpoints import fork, reap, sweep, wait_and_notify

import fullcourt
from fullcourt.channels._line import SHUT
from fullcourt.channels._listeners import Listener
from fullcourt.channels._monitor import Waiter

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="queues need Linux"),
    pytest.mark.faults,
    pytest.mark.skipif(sys.gettrace() is not None, reason="the sweep traces"),
]

# What waits; what another process does, which ends the waiting; and whether that was done.
Waited = tuple[Callable[[], object], Callable[[], object], Callable[[], bool]]

FILL = 600  # more than a socket takes: what comes after lies in the log


def drained(items: Any) -> list[Any]:
    got = []
    try:
        while True:
            got.append(items.get(timeout=0) if not isinstance(items, fullcourt.SimpleQueue) else items.get())
    except queue.Empty:
        return got


@pytest.fixture
def step() -> int:
    """At every so many instructions; the first is drawn, so that repeated runs come to all. 1 takes half an hour."""
    return int(os.environ.get("FULLCOURT_SWEEP_STEP", "17"))


@pytest.mark.parametrize("filled", [0, FILL], ids=["socket", "log"])
@pytest.mark.parametrize("maxsize", [0, 1000], ids=["unbounded", "bounded"])
@pytest.mark.parametrize("joinable", [False, True], ids=["Queue", "JoinableQueue"])
def test_a_putter_killed_anywhere(step: int, filled: int, maxsize: int, joinable: bool) -> None:
    items: Any = fullcourt.JoinableQueue(maxsize) if joinable else fullcourt.Queue(maxsize)

    def operation() -> None:
        items.put("its")

    def check(finished: bool) -> None:
        size = items.qsize()
        items.put("after", timeout=10)
        got = drained(items)
        assert len(got) == size + 1
        assert got[:filled] == list(range(filled))
        assert got[filled:] in ([["its", "after"]] if finished else [["its", "after"], ["after"]])
        assert items.empty()
        items.put_many(range(filled))

    items.put_many(range(filled))
    assert sweep(operation, check, step) >= 2


@pytest.mark.parametrize("filled", [3, FILL], ids=["socket", "log"])
@pytest.mark.parametrize("joinable", [False, True], ids=["Queue", "JoinableQueue"])
def test_a_taker_killed_anywhere(step: int, filled: int, joinable: bool) -> None:
    items: Any = fullcourt.JoinableQueue() if joinable else fullcourt.Queue()

    def operation() -> None:
        items.get()
        if joinable:
            items.task_done()

    def check(finished: bool) -> None:
        size = items.qsize()
        assert size in ({filled - 1} if finished else {filled, filled - 1})
        got = drained(items)
        assert got == list(range(filled))[filled - size :]
        if joinable:
            for _ in got:
                items.task_done()
            assert items.join(timeout=10)
        items.put_many(range(filled))

    items.put_many(range(filled))
    assert sweep(operation, check, step) >= 2


def test_one_killed_anywhere_while_it_waits_for_an_item(step: int) -> None:
    items, other = fullcourt.Queue(), fullcourt.Queue()

    def operation() -> None:
        with pytest.raises(queue.Empty):
            items.get(timeout=0.001)

    def check(finished: bool) -> None:
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(items.get(timeout=30)))
        thread.start()
        items.put("for the living")
        thread.join(30)
        assert got == ["for the living"]
        assert other.empty()

    sweep(operation, check, step)


def test_one_killed_anywhere_while_it_waits_for_room(step: int) -> None:
    items = fullcourt.Queue(1)
    items.put(0)

    def operation() -> None:
        with pytest.raises(queue.Full):
            items.put(1, timeout=0.001)

    def check(finished: bool) -> None:
        assert items.get(timeout=10) == 0
        items.put(0, timeout=10)
        assert items.full()

    sweep(operation, check, step)


def test_a_group_is_put_whole_or_not_at_all(step: int) -> None:
    items = fullcourt.Queue()

    def operation() -> None:
        items.put_many(range(50))

    def check(finished: bool) -> None:
        assert drained(items) in ([list(range(50))] if finished else [[], list(range(50))])

    sweep(operation, check, step)


def test_a_large_item_arrives_whole_or_not_at_all(step: int) -> None:
    items, inner = fullcourt.Queue(), fullcourt.Queue()

    def operation() -> None:
        items.put([bytearray(100_000), inner])

    def check(finished: bool) -> None:
        got = drained(items)
        assert len(got) == 1 if finished else len(got) <= 1
        for array, arrived in got:
            assert array == bytearray(100_000)
            arrived.put(1)
            assert inner.get(timeout=10) == 1

    sweep(operation, check, max(step, 5))


def test_one_that_begins_or_ends_to_iterate_killed_anywhere(step: int) -> None:
    items = fullcourt.Queue()

    def operation() -> None:
        assert next(iter(items)) == 1
        items.put(2)
        items.close()

    def check(finished: bool) -> None:
        got = list(items)  # comes to its end, since this process puts nothing itself
        assert got in ([[2]] if finished else [[1], [], [2]])
        assert reap(fork(lambda: items.put(1))) == 0

    assert reap(fork(lambda: items.put(1))) == 0
    sweep(operation, check, step)


MAKERS: list[Callable[[], Any]] = [fullcourt.Lock, fullcourt.RLock, fullcourt.Semaphore, fullcourt.BoundedSemaphore]


@pytest.mark.parametrize("make", MAKERS)
def test_a_holder_killed_anywhere(step: int, make: Any) -> None:
    lock = make()
    deaths = 0

    def operation() -> None:
        with lock:
            pass

    def check(finished: bool) -> None:
        nonlocal deaths
        try:
            assert lock.acquire(timeout=10)
        except fullcourt.OwnerDied:
            assert not finished
            deaths += 1
        if make is not fullcourt.RLock:
            assert not lock.acquire(block=False)
        lock.release()
        assert lock.acquire(block=False)  # told once
        lock.release()

    sweep(operation, check, step)
    assert deaths


def test_one_killed_anywhere_while_it_waits_for_a_lock(step: int) -> None:
    lock = fullcourt.Lock()
    lock.acquire()

    def operation() -> None:
        assert not lock.acquire(timeout=0.001)

    def check(finished: bool) -> None:
        lock.release()
        assert lock.acquire(timeout=10)

    sweep(operation, check, step)


def test_one_killed_anywhere_at_an_event(step: int) -> None:
    event = fullcourt.Event()

    def operation() -> None:
        event.set()
        event.clear()
        event.wait(0.001)

    def check(finished: bool) -> None:
        event.set()
        assert event.wait(10)
        event.clear()

    sweep(operation, check, step)


def test_one_killed_anywhere_at_a_condition(step: int) -> None:
    condition = fullcourt.Condition()

    def operation() -> None:
        with condition:
            condition.wait(0.001)
            condition.notify_all()

    def acquire() -> None:
        with contextlib.suppress(fullcourt.OwnerDied):
            assert condition.acquire(timeout=10)

    def check(finished: bool) -> None:
        acquire()
        condition.release()
        assert wait_and_notify(condition) == [True]

    sweep(operation, check, max(step, 3))


def test_one_killed_anywhere_at_a_barrier(step: int) -> None:
    barrier = fullcourt.Barrier(2)

    def operation() -> None:
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(0.001)

    def check(finished: bool) -> None:
        barrier.reset()
        thread = threading.Thread(target=barrier.wait, args=(10,))
        thread.start()
        assert barrier.wait(10) in {0, 1}
        thread.join(20)

    sweep(operation, check, max(step, 3))


def wait_for_event() -> Waited:
    event = fullcourt.Event()
    return event.wait, event.set, event.is_set


def wait_for_semaphore() -> Waited:
    semaphore = fullcourt.Semaphore(0)
    return semaphore.acquire, semaphore.release, lambda: semaphore.get_value() > 0


def wait_for_lock() -> Waited:
    lock = fullcourt.Lock()
    lock.acquire()
    return lock.acquire, lock.release, lambda: not lock.locked()


def wait_for_notification() -> Waited:
    condition = fullcourt.Condition()

    def wait() -> None:
        with contextlib.suppress(fullcourt.OwnerDied), condition:
            condition.wait()

    def notify() -> None:
        with contextlib.suppress(fullcourt.OwnerDied):
            condition.acquire()
        condition.notify()
        condition.release()

    return wait, notify, lambda: "0 waiting" in repr(condition)


def wait_for_item() -> Waited:
    items = fullcourt.Queue()
    return items.get, lambda: items.put_many(range(20)), lambda: not items.empty()


def wait_for_shutdown() -> Waited:
    items = fullcourt.Queue()

    def wait() -> None:
        with pytest.raises(fullcourt.ShutDown):
            items.get()

    return wait, items.shutdown, lambda: items._words[SHUT] != 0


def wait_for_room() -> Waited:
    items = fullcourt.Queue(1)
    items.put(0)
    return lambda: items.put(1), items.get, lambda: not items.full()


WAITS = [
    wait_for_room,
    wait_for_event,
    wait_for_semaphore,
    wait_for_lock,
    wait_for_notification,
    wait_for_item,
    wait_for_shutdown,
]


@pytest.mark.parametrize("begin", WAITS)
def test_who_waits_is_woken_by_one_killed_anywhere(step: int, begin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done before the kill is enough: nobody need do anything more."""
    asleep = threading.Event()
    for waiter in (Waiter, Listener):
        monkeypatch.setattr(waiter, "wait", announced(waiter.wait, asleep))

    def start() -> tuple[Any, Any, threading.Thread]:
        asleep.clear()
        wait, act, is_done = begin()  # anew: so no ring is left over from before
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        assert asleep.wait(30)
        return act, is_done, thread

    act, is_done, thread = start()

    def check(finished: bool) -> None:
        nonlocal act, is_done, thread
        if not is_done():  # or the one that waited has already taken it
            with contextlib.suppress(ValueError, AssertionError):
                act()
        thread.join(30)
        assert not thread.is_alive()
        act, is_done, thread = start()

    sweep(lambda: act(), check, max(1, step // 4))  # noqa: PLW0108  it is another one each time
    with contextlib.suppress(Exception):
        act()
    thread.join(30)


def announced(wait: Callable[..., Any], asleep: threading.Event) -> Callable[..., Any]:
    """The same, which says when it begins: what rings from then on is heard."""

    def wait_and_tell(*args: Any) -> Any:
        asleep.set()
        return wait(*args)

    return wait_and_tell
