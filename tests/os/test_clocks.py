"""The clocks of threads: true while a thread runs, and harmless when it has ended."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from fullcourt._os.clocks import ThreadClock

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no clock tells of another thread")


def ended_thread() -> threading.Thread:
    """One that the kernel has no more: `join` returns some microseconds before."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    until = time.monotonic() + 30
    while os.path.exists(f"/proc/self/task/{thread.native_id}") and time.monotonic() < until:
        time.sleep(0.0001)
    return thread


def test_the_clock_of_a_thread_that_has_ended_tells_nothing() -> None:
    """Asked by pthread_getcpuclockid, the first of some hundred crashed the program."""
    for thread in [ended_thread() for _ in range(200)]:
        assert ThreadClock(thread).read() == (0.0, 0.0)


def test_the_clock_of_a_thread_that_has_not_begun_tells_nothing() -> None:
    assert ThreadClock(threading.Thread(target=int)).read() == (0.0, 0.0)


@linux_only
def test_a_threads_clock_counts_its_work_and_not_that_of_others() -> None:
    begun, told = threading.Event(), threading.Event()

    def work() -> None:
        while time.thread_time() < 0.03:
            sum(range(1000))
        begun.set()
        told.wait(60)

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    clock = ThreadClock(thread)
    while time.thread_time() < 0.05:  # ours
        sum(range(1000))
    first = clock.read()[0]
    while time.thread_time() < 0.1:
        sum(range(1000))
    assert 0.03 <= first <= clock.read()[0] < first + 0.03
    told.set()
    thread.join()


@linux_only
def test_the_clock_of_the_calling_thread_is_its_cpu_time() -> None:
    before = time.thread_time()
    told = ThreadClock().read()[0]
    assert before <= told <= time.thread_time()
