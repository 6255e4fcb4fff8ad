"""Locks that are held by `with`, while a signal's handler raises again and again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fullcourt._os.locks import Bell, Condition, Letter, make_lock, make_rlock

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")


armed: list[bool] = []  # whether the handler raises


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupted() -> Iterator[None]:
    """A handler raises after every half millisecond that the main thread computes, once each time it is armed.

    (Once, on a virtual machine whose host was busy, it was told of a timer when none was set any more.)
    """

    def handle(number: int, frame: object) -> None:
        if armed:
            armed.clear()
            raise Interrupted

    old = signal.signal(signal.SIGVTALRM, handle)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, old)


def is_held(lock: Any) -> bool:
    answers: list[bool] = []

    def ask() -> None:
        answers.append(not lock.acquire(blocking=False))
        if not answers[0]:
            lock.release()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return answers[0]


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("make", [make_lock, make_rlock, Condition])
def test_no_exception_leaves_a_lock_held(make: Callable[[], Any]) -> None:
    lock = make()
    n_interrupts = 0
    end = time.thread_time() + 0.5
    while time.thread_time() < end:
        try:
            armed.append(True)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005)
            while True:
                with lock:
                    pass
        except Interrupted:
            n_interrupts += 1
        assert not is_held(lock), f"held after {n_interrupts} interrupts"
    assert n_interrupts > 50


def test_a_lock_is_not_got_twice_by_one_thread_that_asks() -> None:
    lock = make_lock()
    with lock:
        assert not lock.acquire(blocking=False)
        assert is_held(lock)
    assert not is_held(lock)
    with make_rlock() as _, Condition() as _:
        pass


def test_a_condition_waits_and_is_notified() -> None:
    condition = Condition(make_lock())
    seen: list[bool] = []

    def wait() -> None:
        with condition:
            seen.append(condition.wait(30))

    thread = threading.Thread(target=wait)
    thread.start()
    while not seen:
        with condition:
            condition.notify()
    thread.join()
    assert seen == [True]


def test_a_wait_whose_time_is_over_before_it_begins_ends() -> None:
    """CPython's SimpleQueue waits for ever then, up to 3.12: in its first wait, or the first one after a ring."""
    assert not any(Bell().wait(1e-9) for _ in range(100_000))
    assert not Bell().wait(-1.0)


def test_rings_that_nobody_has_waited_for_count_as_one() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait(0.0)
    assert not bell.wait(0.0)


def test_a_ring_ends_a_wait() -> None:
    bell = Bell()
    heard: list[bool] = []
    thread = threading.Thread(target=lambda: heard.append(bell.wait()))
    thread.start()
    bell.ring()
    thread.join()
    assert heard == [True]


def test_a_letter_is_there_from_when_it_is_brought() -> None:
    letter = Letter()
    assert letter.get(0.001) is None
    letter.put([1])
    assert letter.get(1.0) == [1]
    assert letter.get(0.0) == [1]
