"""What tells a thread that runs from one that was woken and has no core yet: the kernel's counts, here from a file."""

import os
import subprocess
import sys

import pytest

from fullcourt._gil.cells import RUNNABLE
from fullcourt._gil.waits import FILE, GIL_WAIT, LOCK, NETWORK, OTHER, kind_of_file
from fullcourt._gil.watched import Thread


@pytest.fixture
def thread(tmp_path):
    thread = Thread(os.getpid(), os.getpid(), 1)
    os.close(thread.status)
    thread.status = os.open(tmp_path / "status", os.O_RDWR | os.O_CREAT)
    yield thread
    thread.close()


def look(thread, state, begun, left, ousted, run=0):
    """One sample: how often it got a core, left one by itself, and was ousted from one."""
    text = f"Name:\tx\nvoluntary_ctxt_switches:\t{left}\nnonvoluntary_ctxt_switches:\t{ousted}\nx86_features:\t\n"
    os.pwrite(thread.status, text.encode(), 0)
    os.truncate(thread.status, len(text))
    return thread.was_woken(state, run, begun)


@pytest.fixture(params=[0, 1, 37])
def missed(request):
    """How many cores that it got the system has not counted."""
    return request.param


def test_on_a_core(thread, missed):
    look(thread, GIL_WAIT, 7, 5 + missed, 2)
    assert not look(thread, RUNNABLE, 8, 5 + missed, 2)
    assert not look(thread, RUNNABLE, 8, 5 + missed, 2)
    assert not look(thread, RUNNABLE, 9, 6 + missed, 2)


def test_woken(thread, missed):
    look(thread, GIL_WAIT, 7, 5 + missed, 2)
    look(thread, RUNNABLE, 8, 5 + missed, 2)
    assert look(thread, RUNNABLE, 9, 7 + missed, 2)  # it got a core once more, and left it by itself
    assert look(thread, RUNNABLE, 9, 7 + missed, 2)  # and has had none since
    assert not look(thread, RUNNABLE, 10, 7 + missed, 2)


def test_woken_since_it_was_seen_blocked(thread, missed):
    look(thread, GIL_WAIT, 7, 5 + missed, 2)
    look(thread, RUNNABLE, 8, 5 + missed, 2)
    assert not look(thread, GIL_WAIT, 8, 6 + missed, 2)
    assert look(thread, RUNNABLE, 8, 6 + missed, 2)
    assert not look(thread, GIL_WAIT, 11, 9 + missed, 2)
    assert look(thread, RUNNABLE, 12, 10 + missed, 2)
    assert not look(thread, RUNNABLE, 13, 10 + missed, 2)


def test_ousted(thread, missed):
    look(thread, GIL_WAIT, 7, 5 + missed, 2)
    look(thread, RUNNABLE, 8, 5 + missed, 2)
    assert not look(thread, RUNNABLE, 9, 6 + missed, 3)
    assert not look(thread, RUNNABLE, 11, 7 + missed, 4)  # and left by itself, too: it is not known what it did last
    assert look(thread, RUNNABLE, 12, 8 + missed, 4)


def test_a_core_that_was_missed_shows_by_the_time_on_it(thread):
    look(thread, GIL_WAIT, 7, 5, 2, run=100)
    assert look(thread, RUNNABLE, 7, 5, 2, run=100)
    assert not look(thread, RUNNABLE, 7, 5, 2, run=4100)
    assert not look(thread, RUNNABLE, 8, 6, 2, run=5000)  # on a core again: it has left one as often as it was counted


def test_of_a_thread_that_was_never_seen_blocked_nothing_is_claimed(thread):
    assert not look(thread, RUNNABLE, 9, 7, 2)
    assert not look(thread, RUNNABLE, 10, 8, 2)


@pytest.mark.skipif(os.uname().machine not in ("x86_64", "aarch64"), reason="only of these the call's number is known")
def test_the_sampler_asks_to_be_woken_promptly():
    code = "from fullcourt._os.system import wake_promptly as w; print(w(), open('/proc/self/timerslack_ns').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "1"]


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="needs Linux")
def test_what_a_wait_for_a_descriptor_is(tmp_path):
    ends = os.pipe()
    bell = os.eventfd(0)
    with open(tmp_path / "file", "w", encoding="utf-8") as file:
        kinds = [kind_of_file(os.getpid(), fd) for fd in (ends[0], bell, file.fileno(), 1 << 20)]
    for fd in (*ends, bell):
        os.close(fd)
    assert kinds == [NETWORK, LOCK, FILE, OTHER]
