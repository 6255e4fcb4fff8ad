"""Sleepers, and the queue that threads sleep at: with eventfds, and with locks where there are none."""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
import time
from typing import Any

import pytest

from fullcourt._os.sleepers import Handover, Sleeper, Sleepers

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["eventfd", "lock"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "lock":

        def no_descriptor(*_: int) -> int:
            raise OSError(errno.EMFILE, "none left")

        monkeypatch.setattr(os, "eventfd", no_descriptor, raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("needs Linux")
    return str(request.param)


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_sleep_is_ended_once_also_ahead_of_it(kind: str) -> None:
    sleeper = Sleeper()
    sleeper.release()
    assert sleeper.sleep()
    assert not sleeper.sleep(0)
    assert not sleeper.sleep(0.01)
    timer = threading.Timer(0.1, sleeper.release)
    timer.start()
    began = time.monotonic()
    assert sleeper.sleep(30)
    assert time.monotonic() - began < 20
    timer.join()
    sleeper.close()


def test_what_was_told_and_not_heard_can_be_forgotten(kind: str) -> None:
    sleeper = Sleeper()
    sleeper.forget()
    sleeper.release()
    sleeper.forget()
    assert not sleeper.sleep(0.01)
    sleeper.close()


def test_a_signal_whose_handler_raises_nothing_ends_no_sleep(kind: str) -> None:
    """Whichever thread it comes to."""
    came: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda number, _: came.append(number))
    queue: Handover[str] = Handover()
    taken: list[str] = []
    slept = Sleeper()
    ready = Sleeper()

    def take() -> None:
        ready.release()
        taken.append(queue.get(Sleeper()))
        slept.release()

    def disturb() -> None:
        for thread in (threads[0], threading.main_thread()) * 20:
            signal.pthread_kill(thread.ident or 0, signal.SIGUSR1)
            time.sleep(0.01)  # also beyond the time in which a long sleep looks up
        queue.put("work")

    threads = [threading.Thread(target=act) for act in (take, disturb)]
    try:
        threads[0].start()
        ready.sleep()
        threads[1].start()
        assert slept.sleep()
        assert taken == ["work"]
        assert came
    finally:
        for thread in threads:
            thread.join()
        signal.signal(signal.SIGUSR1, old)


def test_a_sleep_without_end_lets_signals_through(kind: str) -> None:
    def wake(number: int, frame: object) -> None:
        raise KeyError

    old = signal.signal(signal.SIGUSR1, wake)
    sleeper = Sleeper()
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(KeyError):
            sleeper.sleep()
    finally:
        signal.signal(signal.SIGUSR1, old)
        timer.join()
    sleeper.close()


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="needs Linux")
def test_many_sleep_by_few_descriptors() -> None:
    before = n_descriptors()
    many = [Sleeper() for _ in range(300)]
    assert n_descriptors() - before <= 64
    for sleeper in many:
        sleeper.release()
        assert sleeper.sleep(0.01)
    for sleeper in many:
        sleeper.close()
    assert n_descriptors() == before


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="needs Linux")
def test_where_no_descriptor_is_left_a_wait_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_: int) -> int:
        raise OSError(errno.EMFILE, "none left")

    sleeper = Sleeper()
    monkeypatch.setattr(select, "epoll", no_descriptor)
    assert not sleeper.sleep(0.01)
    sleeper.release()
    sleeper.forget()
    threading.Timer(0.05, sleeper.release).start()
    assert sleeper.sleep(30)
    sleeper.close()


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="needs Linux")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_wakes_nobody_in_its_parent_and_takes_nothing_of_it() -> None:
    sleeper = Sleeper()
    assert not sleeper.sleep(0.01)
    pid = os.fork()
    if not pid:
        try:
            sleeper.release()
            code = 0 if sleeper.sleep(5) and not sleeper.sleep(0.3) else 1
        except BaseException:
            code = 2
        os._exit(code)
    assert not sleeper.sleep(0.1)
    sleeper.release()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sleeper.sleep(5)
    sleeper.close()


class Outcome:
    """A future, as far as it matters here."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.is_over = False
        self.blocked: list[Any] = []

    def block(self, sleeper: Any) -> bool:
        with self.lock:
            self.blocked.append(sleeper)
            return not self.is_over

    def unblock(self, sleeper: Any) -> None:
        with self.lock:
            if sleeper in self.blocked:
                self.blocked.remove(sleeper)

    def done(self) -> bool:
        return self.is_over

    def end(self) -> None:
        with self.lock:
            self.is_over = True
            for sleeper in self.blocked:
                sleeper.release()
            self.blocked.clear()


def test_waits_that_end_just_as_their_time_does_leave_nothing_for_later_ones(kind: str) -> None:
    before = n_descriptors()
    sleepers = Sleepers()
    for i in range(300):
        outcome = Outcome()
        ender = threading.Timer(0.001, outcome.end)
        ender.start()
        sleepers.wait(outcome, 0.0008 + 0.00001 * (i % 60))
        ender.join()
        never = Outcome()
        assert not sleepers.wait(never, 0.0001)
        assert not never.blocked
    sleepers.close()
    assert not sleepers.wait(Outcome(), 0.001)
    assert n_descriptors() == before


def test_all_that_is_put_is_taken_once_whoever_sleeps(kind: str) -> None:
    before = n_descriptors()
    queue: Handover[int | None] = Handover()
    taken: list[list[int]] = [[] for _ in range(4)]

    def take(mine: list[int], pause: float) -> None:
        sleeper = Sleeper()
        while (item := queue.get(sleeper)) is not None:
            mine.append(item)
            if item % 7 == 0:
                time.sleep(pause)
        sleeper.close()

    def put(first: int) -> None:
        for i in range(first, first + 3000):
            (queue.put if i % 2 else queue.put_whole)(i)
            if i % 50 == 0:
                time.sleep(0.001)  # they fall asleep

    takers = [threading.Thread(target=take, args=(mine, 0.0001 * i)) for i, mine in enumerate(taken)]
    givers = [threading.Thread(target=put, args=(first,)) for first in (0, 10_000, 20_000)]
    for thread in takers + givers:
        thread.start()
    for thread in givers:
        thread.join()
    for _ in takers:
        queue.put(None)
    for thread in takers:
        thread.join()
    assert sorted(item for mine in taken for item in mine) == [
        i for first in (0, 10_000, 20_000) for i in range(first, first + 3000)
    ]
    assert n_descriptors() == before


def test_the_thread_that_fell_asleep_last_is_woken_first() -> None:
    queue: Handover[str | None] = Handover()
    took: list[str] = []

    def take(name: str) -> None:
        sleeper = Sleeper()
        while queue.get(sleeper) is not None:
            took.append(name)
        sleeper.close()

    threads = []
    for n, name in enumerate(("first", "second"), 1):
        threads.append(threading.Thread(target=take, args=(name,)))
        threads[-1].start()
        while len(queue._asleep) < n:
            time.sleep(0.001)
    for _ in range(20):
        queue.put("work")
        while len(queue._asleep) < 2:
            time.sleep(0.0001)
    for _ in threads:
        queue.put(None)
    for thread in threads:
        thread.join()
    assert took == ["second"] * 20
