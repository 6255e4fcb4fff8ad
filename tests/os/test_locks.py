"""Locks that are held by `with`, while a signal's handler raises again and again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fullcourt._os.locks import Condition, make_lock, make_rlock

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupted() -> Iterator[None]:
    """A handler raises after every half millisecond that the main thread computes."""

    def handle(number: int, frame: object) -> None:
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
