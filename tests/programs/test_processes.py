"""Programs that start processes by themselves: without a guard, from anywhere, and however they end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

from tests.programs.running import GONE_S, HAS_PIDFD, still_there

pytestmark = [
    pytest.mark.skipif(not HAS_PIDFD, reason="Process needs Linux"),
    pytest.mark.skipif(os.environ.get("FULLCOURT_TRANSPORT") == "portable", reason="Process needs the fast links"),
]

SCRIPT = """\
import fullcourt

class Double(fullcourt.Process):
    def __init__(self, n, **options):
        super().__init__(**options)
        self.n = n

    def run(self):
        return factor * self.n

def add(x):
    return x + offset

factor, offset = 2, 10
print("in the program")
with fullcourt.Process(target=add, args=(1,), start_method=METHOD) as one:
    print(one.result())
with Double(4, start_method=METHOD) as two:
    print(two.result())
with fullcourt.Process(target=lambda: [offset, factor], start_method=METHOD) as three:
    print(three.result())
"""
OUTPUT = "in the program\n11\n8\n[10, 2]\n"


def text_of(script, start_method):
    return textwrap.dedent(script).replace("METHOD", repr(start_method))


@pytest.mark.parametrize("how", ["a file", "-c", "stdin"])
def test_it_needs_no_guard(program, start_method, how):
    text = text_of(SCRIPT, start_method)
    if how == "a file":
        program.start(str(program.write("program.py", text)))
    elif how == "-c":
        program.start("-c", text)
    else:
        program.start("-", stdin=text)
    assert program.wait() == 0
    assert (program.stdout(), program.stderr()) == (OUTPUT, "")
    program.assert_nobody_is_left()


USES_A_LOCK = """\
import threading
import fullcourt

lock = threading.Lock()

def add(x):
    with lock:
        return x + 1

if __name__ == "__main__":
    with fullcourt.Process(target=add, args=(1,), start_method=METHOD) as process:
        print(process.result())
"""


def test_with_a_guard_it_may_use_what_cannot_be_pickled(program, start_method):
    program.start(str(program.write("program.py", text_of(USES_A_LOCK, start_method))))
    assert program.wait() == 0
    assert (program.stdout(), program.stderr()) == ("2\n", "")
    program.assert_nobody_is_left()


def test_outside_of_a_pool_the_state_of_a_slot_ends_with_the_program(program):
    program.start("-c", "import fullcourt; fullcourt.worker_state(per_slot=True).once('a', lambda: 'state', print)")
    assert program.wait() == 0
    assert (program.stdout(), program.stderr()) == ("state\n", "")


# Each is a program whose process runs when the program's own part is over; "ready" is written before.
RUNNING = """\
import fullcourt, subprocess, time

def work():
    subprocess.Popen(["sleep", "1000"])  # which ends without a word at Ctrl-C, also when it has only begun
    with open("ready.new", "w") as out:
        out.write("yes")
    import os
    os.rename("ready.new", "ready")
    while True:
        pass

process = fullcourt.Process(target=work, start_method=METHOD, daemon=DAEMON)
process.start()
if WAITS:
    process.join()
while not __import__("os").path.exists("ready"):
    time.sleep(0.01)
"""


def start_running(program, start_method, *, daemon, waits):
    text = text_of(RUNNING, start_method).replace("DAEMON", str(daemon)).replace("WAITS", str(waits))
    program.start(str(program.write("program.py", text)))
    deadline = time.monotonic() + 60
    while not (program.folder / "ready").exists():
        assert time.monotonic() < deadline, program.stderr()
        time.sleep(0.005)


@pytest.mark.faults
@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
def test_it_and_what_it_started_die_with_the_program(program, start_method, with_signal):
    start_running(program, start_method, daemon=False, waits=True)
    while len(processes := program.workers()) < 3:  # the keeper, the process, and what that started
        time.sleep(0.005)
    os.kill(program.process.pid, with_signal)
    assert program.wait() == -with_signal
    assert still_there(processes, GONE_S) == []


def test_ctrl_c_ends_a_program_that_waits_for_one(program, start_method):
    start_running(program, start_method, daemon=False, waits=True)
    os.killpg(program.process.pid, signal.SIGINT)
    assert program.wait() == -signal.SIGINT
    program.assert_nobody_is_left()
    assert program.stderr().count("Traceback") == 1
    assert program.stderr().rstrip().endswith("KeyboardInterrupt")


def test_a_daemonic_one_is_killed_at_the_programs_end(program, start_method):
    start_running(program, start_method, daemon=True, waits=False)
    assert program.wait() == 0
    program.assert_nobody_is_left()
    assert program.stderr() == ""


LEAVES = """\
import fullcourt, time

def work():
    time.sleep(0.3)
    print("done", flush=True)
    return 1 / 0

process = fullcourt.Process(target=work, start_method=METHOD, name="left alone")
process.start()
if JOINS:
    process.join()
print("left", flush=True)
"""


@pytest.mark.parametrize("joins", [False, True])
def test_another_is_waited_for_and_its_error_is_not_lost(program, start_method, joins):
    program.start(str(program.write("program.py", text_of(LEAVES, start_method).replace("JOINS", str(joins)))))
    assert program.wait() == 0
    assert program.stdout() == ("done\nleft\n" if joins else "left\ndone\n")
    assert "Process 'left alone'" in program.stderr()
    assert program.stderr().rstrip().endswith("ZeroDivisionError: division by zero")
    program.assert_nobody_is_left()


WITHIN = """\
import fullcourt

def inner(x):
    return x + 1

def outer(x):
    with fullcourt.Process(target=inner, args=(x,), start_method=METHOD) as process:
        return process.result()

with fullcourt.Pool(2, start_method=METHOD) as pool:
    print(pool.map(outer, range(3), chunksize=1))
"""


def test_tasks_of_a_pool_may_start_processes(program, start_method):
    program.start(str(program.write("program.py", text_of(WITHIN, start_method))))
    assert program.wait() == 0, program.stderr()
    assert (program.stdout(), program.stderr()) == ("[1, 2, 3]\n", "")
    program.assert_nobody_is_left()


SHARED = """\
import fullcourt, os, signal
block = fullcourt.share(b"x" * 10_000_000)
writable = fullcourt.share(bytes(10), writable=True)

def hold(block, i):
    view = block.open()
    assert view[5] == 120
    if i % 3 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return len(view)

with fullcourt.Pool(2, start_method=METHOD) as pool:
    futures = [pool.submit(hold, block, i) for i in range(6)]
    print([future.exception() is None for future in futures])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.faults
def test_shared_memory_goes_with_its_last_user_without_a_word(program, start_method):
    program.start(str(program.write("program.py", text_of(SHARED, start_method))))
    before = set(os.listdir("/dev/shm"))
    assert program.wait() == -signal.SIGKILL
    program.assert_nobody_is_left()
    assert program.stdout() in ("[False, True, True, False, True, True]\n", "")
    assert program.stderr() == ""
    assert not {name for name in set(os.listdir("/dev/shm")) - before if "fullcourt" in name}


FORK = """\
import fullcourt, os, sys
print("once")
with fullcourt.Pool(2, start_method="fork") as pool:
    print(sum(pool.map(abs, range(10))))
    child = fullcourt.fork()
    if child is None:
        print("child", os.getppid() != os.getpid())
        sys.exit(5)
    print(child.wait())
    print(pool.apply(abs, (-3,)))
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
def test_a_forked_child_leaves_the_parents_pool_alone(program):
    program.start("-W", "ignore::RuntimeWarning", str(program.write("program.py", FORK)))
    assert program.wait() == 0
    assert program.stdout() == "once\n45\nchild True\n5\n3\n"
    assert program.stderr() == ""
    program.assert_nobody_is_left()


def test_the_names_are_there(program):
    program.start("-c", "import fullcourt; [getattr(fullcourt, name) for name in fullcourt.__all__]")
    assert program.wait() == 0, program.stderr()
    assert Path(program.folder).exists()
