"""Stopping a task's thread softly, and taking that back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from fullcourt._os import soft_stop
from fullcourt._os.soft_stop import Slot


class Stopped(BaseException):
    """What is raised in the thread."""


def test_an_exception_that_comes_too_late_is_taken_back() -> None:
    """Whatever the moment: it arrives in the task, or in `leave`, or never; not afterwards."""
    n_seen = {"in task": 0, "in leave": 0, "never": 0}
    for i in range(300):
        slot, seen = list[Slot](), list[str]()
        begun, raised = threading.Event(), threading.Event()

        def work(i: int, slot: list[Slot], seen: list[str], begun: threading.Event, raised: threading.Event) -> None:
            slot.append(Slot())
            where = "in task"
            try:
                try:
                    slot[0].running = 1
                    begun.set()
                    if i % 3 == 0:
                        raised.wait()  # a call into C: the exception waits
                    for _ in range(i % 7 * 100):
                        pass
                    where = "in leave"
                finally:
                    slot[0].leave()
            except Stopped:
                seen.append(where)
            for _ in range(1000):  # here it must not arrive
                pass
            seen.append("never")

        thread = threading.Thread(target=work, args=(i, slot, seen, begun, raised))
        thread.start()
        begun.wait()
        slot[0].raise_in_thread(lambda running: running == 1, Stopped)
        raised.set()
        thread.join()
        assert seen[-1] == "never"
        n_seen[seen[0]] += 1
    assert n_seen["in task"] + n_seen["in leave"]


PROGRAM = """
import sys
from fullcourt._os import soft_stop
from fullcourt._os.soft_stop import Slot

slot = Slot()
slot.is_main = False  # as another thread's
slot._hit = True  # as if an exception were on its way
slot.leave()

def traced():
    return "done"

sys.settrace(lambda *_: None)
print(traced())
"""


def test_after_it_was_taken_back_a_traced_function_can_be_called() -> None:
    """CPython 3.11 looped for ever at its first line while the mark of an exception on its way stood."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "done\n", done.stderr


def test_taking_back_what_has_arrived_already_costs_little() -> None:
    slot = Slot()
    slot.is_main = False  # as another thread's
    began = time.perf_counter()
    slot._take_back()
    assert time.perf_counter() - began < 5


def test_a_signal_in_the_midst_of_the_call_does_not_call_again() -> None:
    """The call holds locks, and the same thread would wait for them for ever."""
    depths, depth = list[int](), 0

    def act() -> None:
        nonlocal depth
        depth += 1
        depths.append(depth)
        if len(depths) < 5:
            os.kill(os.getpid(), soft_stop.STOP_SIGNAL)
        for _ in range(100):
            pass
        depth -= 1

    before = signal.getsignal(soft_stop.STOP_SIGNAL)
    soft_stop.on_stop_signal(act)
    try:
        for _ in range(3):
            os.kill(os.getpid(), soft_stop.STOP_SIGNAL)
    finally:
        signal.signal(soft_stop.STOP_SIGNAL, before)
    assert depths == [1, 1, 1]


def test_a_stop_that_python_drops_may_come_again() -> None:
    dropped = list[bool]()

    class Lost:
        def __del__(self) -> None:
            slot.running = 7
            raiser = threading.Thread(target=slot.raise_in_thread, args=(lambda running: running == 7, Stopped))
            raiser.start()
            raiser.join()

    def act() -> bool:
        dropped.append(slot.was_dropped())
        return True

    def work() -> None:
        nonlocal slot
        slot = Slot()
        Lost()

    slot = Slot()
    before = sys.unraisablehook
    soft_stop.on_drop(Stopped, act)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        sys.unraisablehook = before
    assert dropped == [True]
    assert slot.running == 7
    assert not slot.was_dropped()
