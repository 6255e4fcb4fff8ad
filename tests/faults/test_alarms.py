"""Signal handlers that raise, as of programs that bound what takes too long by an alarm, at any moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import fullcourt

pytestmark = pytest.mark.timeout(60)

# Another process signals this one, often, as no thread of it could: between any two instructions.
SIGNALLER = """
import os, random, signal, sys, time
while True:
    os.kill(int(sys.argv[1]), signal.SIGUSR1)
    time.sleep(random.uniform(0.0001, 0.002))
"""


class AlarmError(Exception):
    """Not one that any code expects."""


class Alarm:
    """A handler that raises once each time that it is set."""

    def __init__(self) -> None:
        self.raises: type[Exception] | None = None

    def handle(self, number: int, frame: object) -> None:
        kind, self.raises = self.raises, None
        if kind is not None:
            raise kind("the alarm")


@pytest.fixture
def alarm() -> Iterator[Alarm]:
    made = Alarm()
    old = signal.signal(signal.SIGUSR1, made.handle)
    yield made
    signal.signal(signal.SIGUSR1, old)


def signal_and_sleep(pid: int) -> None:
    os.kill(pid, signal.SIGUSR1)
    time.sleep(60)


def square(n: int) -> int:
    return n * n


@pytest.mark.parametrize("kind", [AlarmError, ValueError, TimeoutError, BlockingIOError])
def test_what_a_handler_raises_ends_a_wait(kind: type[Exception], alarm: Alarm) -> None:
    with fullcourt.Pool(1) as pool:
        pool.map(square, range(2))
        alarm.raises = kind
        with pytest.raises(kind, match="the alarm"):
            pool.map(signal_and_sleep, [os.getpid()])
        assert pool.map(square, range(3)) == [0, 1, 4]


@pytest.mark.parametrize("workers", [{"processes": 1}, {"processes": 1, "threads": 2}], ids=str)
def test_a_map_that_a_handler_ends_before_it_is_waited_for_stops(
    workers: Any, alarm: Alarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fullcourt.Pool(**workers) as pool:
        pool.map(square, range(2))
        start: Any = pool._driver.scheduler.stream_filled

        def start_and_signal(*args: Any) -> None:
            start(*args)
            alarm.raises = AlarmError
            signal.raise_signal(signal.SIGUSR1)

        with monkeypatch.context() as patch:
            patch.setattr(pool._driver.scheduler, "stream_filled", start_and_signal)
            with pytest.raises(AlarmError):
                pool.map(time.sleep, [60] * 10)
            with pytest.raises(AlarmError):
                pool.imap(time.sleep, [60] * 10)
        assert pool.map(square, range(3)) == [0, 1, 4]


@pytest.mark.parametrize("workers", [{"processes": 2}, {"threads": 2}], ids=["processes", "threads"])
def test_what_a_handler_raises_at_any_moment_leaves_the_pool_usable(workers: Any, alarm: Alarm) -> None:
    n_raised = 0
    with fullcourt.Pool(**workers) as pool:
        signaller = subprocess.Popen([sys.executable, "-c", SIGNALLER, str(os.getpid())])
        try:
            while n_raised < 300:
                try:
                    alarm.raises = AlarmError
                    for n in range(10):
                        assert pool.apply(square, (n,)) == n * n
                    assert pool.map(square, range(300)) == [n * n for n in range(300)]
                except (AlarmError, fullcourt.errors.PicklingError):  # the latter if it came into pickling
                    n_raised += 1
                alarm.raises = None
                assert pool.submit(square, 5).result(30) == 25
        finally:
            alarm.raises = None
            signaller.kill()
            signaller.wait()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], object]) -> Iterator[None]:
    """Alarms go to this handler, and no timer runs: not the test's own limit of time either."""
    before = signal.getitimer(signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    old = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, old)
        signal.setitimer(signal.ITIMER_REAL, *before)


@pytest.mark.parametrize("timer", [0.0, 0.3], ids=["once", "again and again"])
def test_an_alarm_comes_through_a_callback_that_never_ends(timer: float, caplog: pytest.LogCaptureFixture) -> None:
    """Held back at first: the callback is called in the midst of a step."""
    began: list[float] = []
    raised: list[float] = []
    never = threading.Event()

    def block(_: Any) -> None:
        began.append(time.monotonic())
        assert threading.current_thread() is threading.main_thread()
        signal.setitimer(signal.ITIMER_REAL, 0.01, timer)
        # A signal that comes just before a wait for a lock does not end it, in any Python: one that comes once be here.
        time.sleep(0.1)
        never.wait()

    def handle(number: int, frame: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raised.append(time.monotonic())
        raise AlarmError

    with handled(handle), fullcourt.Pool(1) as pool:
        result = pool.apply_async(nap, (0.05,), callback=block)
        with pytest.raises(AlarmError):
            result.get()
        assert result.get() == 0.05
        assert 0.9 < raised[0] - began[0] < 30
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
        assert pool.map(square, range(3)) == [0, 1, 4]
    assert "a callback failed" in caplog.text
    assert len(raised) == 1
    caplog.clear()  # its traceback holds the pool


def test_an_alarm_set_again_while_one_is_held_comes_through(caplog: pytest.LogCaptureFixture) -> None:
    """The second one is none that has been held for a second, and the last that the user's own timer makes."""

    def set_again(_: Any) -> None:
        signal.raise_signal(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 0.2)  # in place of the one that would come through
        while True:
            time.sleep(1)

    def handle(number: int, frame: object) -> None:
        raise AlarmError

    with handled(handle), fullcourt.Pool(1) as pool:
        result = pool.apply_async(nap, (0.05,), callback=set_again)
        with pytest.raises(AlarmError):
            result.get()
        assert result.get() == 0.05
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert "a callback failed" in caplog.text
    caplog.clear()  # its traceback holds the pool


def test_an_alarm_that_was_held_for_a_moment_comes_once() -> None:
    came: list[int] = []

    def block(_: Any) -> None:
        signal.raise_signal(signal.SIGALRM)
        assert not came

    with handled(lambda number, _: came.append(number)), fullcourt.Pool(1) as pool:
        assert pool.apply_async(nap, (0.05,), callback=block).get() == 0.05
        assert came == [signal.SIGALRM]
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


class Slow:
    """Takes 0.7 s to pickle."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        time.sleep(0.7)
        return Slow, (self.number,)


def number_of(slow: Slow) -> int:
    return slow.number


@pytest.mark.parametrize("chunksize", [1, 2])
@pytest.mark.parametrize("kind", [AlarmError, KeyboardInterrupt])
def test_an_alarm_that_comes_through_while_items_are_pickled_is_raised(
    kind: type[BaseException], chunksize: int
) -> None:
    """Held for a second it comes through in the midst of that, where exceptions are caught; nothing is forgotten."""

    def handle(number: int, frame: object) -> None:
        raise kind

    with handled(handle), fullcourt.Pool(2) as pool:
        pool.map(abs, range(10))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(kind):
            pool.map(number_of, [Slow(i) for i in range(4)], chunksize=chunksize)
        assert pool.map(number_of, [Slow(i) for i in range(2)], chunksize=1) == [0, 1]
        assert pool.statistics().n_in_flight == 0
