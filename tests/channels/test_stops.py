"""An exception that a signal's handler raises in the midst of an operation holds nobody up, though its process lives.

So tasks are stopped when their time is over, and so comes Ctrl-C. CPython raises it at the beginning of a Python
function, after a call of a C function, and at jumps back: of these the first two are what a profiler sees.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from endpoints import fork, reap, wait_and_notify

import fullcourt

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="queues need Linux"),
    pytest.mark.faults,
]


class Stop(BaseException):
    """What the handler raises."""


def stop_at(n: int) -> None:
    """Raise at the nth moment at which CPython might, in the package's channels. Not before an operation has begun."""
    left = n

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal left
        if "/fullcourt/channels/" not in frame.f_code.co_filename or event not in {"call", "c_return"}:
            return
        if event == "call" and frame.f_code.co_name in {"__exit__", "release"}:
            return
        left -= 1
        if left == 0:
            sys.setprofile(None)
            raise Stop

    sys.setprofile(profile)


def sweep(operation: Callable[[], object], check: Callable[[], object], step: int = 1) -> int:
    """Have an operation stopped at its nth moment, for each nth moment in steps until one finishes; after each, check.

    Whoever was stopped is still there during the check. Returns how many were.
    """
    n = 0
    while True:
        n += step
        stopped_r, stopped_w = os.pipe()
        go_r, go_w = os.pipe()

        def child(n: int = n, stopped_w: int = stopped_w, go_r: int = go_r, go_w: int = go_w) -> None:
            os.close(go_w)
            outcome = b"f"
            try:
                stop_at(n)
                operation()
            except Stop:
                outcome = b"s"
            finally:
                sys.setprofile(None)
            os.write(stopped_w, outcome)
            os.read(go_r, 1)

        pid = fork(child)
        os.close(stopped_w)
        os.close(go_r)
        outcome = os.read(stopped_r, 1)
        try:
            check()
        finally:
            os.close(go_w)
            os.close(stopped_r)
            assert reap(pid) == 0, f"stopped at moment {n}"
        assert outcome in {b"f", b"s"}
        if outcome == b"f":
            return n // step - 1


MAKERS: list[Callable[[], Any]] = [
    fullcourt.Lock,
    fullcourt.RLock,
    fullcourt.Semaphore,
    fullcourt.BoundedSemaphore,
    fullcourt.Condition,
]


@pytest.mark.parametrize("make", MAKERS)
def test_who_is_stopped_in_taking_or_giving_back_a_lock_does_not_hold_it(make: Any) -> None:
    lock = make()

    def operation() -> None:
        with lock:
            pass

    def check() -> None:
        assert lock.acquire(timeout=10)
        lock.release()

    assert sweep(operation, check) >= 10


@pytest.mark.parametrize("maxsize", [0, 1])
@pytest.mark.parametrize("filled", [0, 600], ids=["socket", "log"])
def test_who_is_stopped_in_putting_or_taking_holds_nobody_up(maxsize: int, filled: int) -> None:
    items: Any = fullcourt.Queue(maxsize * (filled + 1))
    items.put_many(range(filled))

    def operation() -> None:
        items.put("its")
        items.get()

    def check() -> None:
        while not items.empty():
            items.get(timeout=10)
        items.put("after", timeout=10)
        assert items.get(timeout=10) == "after"
        with pytest.raises(queue.Empty):
            items.get(timeout=0)
        items.put_many(range(filled))

    assert sweep(operation, check) >= 3


def test_who_is_stopped_in_waiting_for_a_condition_takes_no_notification_along() -> None:
    condition = fullcourt.Condition()

    def operation() -> None:
        with condition:
            condition.wait(0.001)

    def check() -> None:
        assert wait_and_notify(condition) == [True]

    assert sweep(operation, check, step=random.randint(3, 7)) >= 5


def test_who_was_woken_for_an_item_and_is_stopped_leaves_it_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    from fullcourt.channels._listeners import Listener

    wait = Listener.wait
    waits = threading.Semaphore(0)
    stopped: list[bool] = []

    def wait_and_stop(self: Listener, words: Any, timeout: float | None) -> bool:
        waits.release()
        at_end = wait(self, words, timeout)
        if threading.current_thread().name == "stopped" and items.qsize():
            stopped.append(True)
            raise Stop
        return at_end

    def take() -> None:
        with contextlib.suppress(Stop, fullcourt.ShutDown):
            got.put(items.get(timeout=20))

    monkeypatch.setattr(Listener, "wait", wait_and_stop)
    for names in 10 * (("stopped", "other"), ("other", "stopped")):  # the kernel wakes one of them, as it likes
        items: Any = fullcourt.Queue()
        got: Any = queue.SimpleQueue()
        threads = [threading.Thread(target=take, name=name) for name in names]
        for thread in threads:
            thread.start()
            for _ in range(2):
                assert waits.acquire(timeout=10)
        items.put("item")
        # Not always the other: "stopped" may have been awake, and takes it if it comes after its look at the size.
        assert got.get(timeout=10) == "item"
        items.shutdown()
        for thread in threads:
            thread.join(10)
        assert got.empty()
        while waits.acquire(blocking=False):
            pass
        if stopped:
            return
    raise AssertionError("the other was woken each time")
