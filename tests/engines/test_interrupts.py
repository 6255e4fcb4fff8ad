"""Ctrl-C while the main thread submits: the pool loses nothing, and ends."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc, random, signal, sys, threading, time
import fullcourt

passed_over = []  # what came in the callback of a weak reference, or in a finalizer, as that of a pool is
sys.unraisablehook = lambda told: passed_over.append(told.exc_type)

pool = fullcourt.Pool(2)
pool.apply(abs, (1,))
main = threading.main_thread().ident
armed, over = threading.Event(), threading.Event()

def interrupt():  # one at a time: the next only when the last was seen
    while not over.is_set():
        armed.wait(0.2)  # where Python passes over one, nobody arms again
        armed.clear()
        over.wait(random.uniform(0.0005, LONGEST))
        if not over.is_set():
            signal.pthread_kill(main, signal.SIGINT)

thread = threading.Thread(target=interrupt)
thread.start()
futures, n_seen = [], 0
while n_seen < 60:
    try:
        armed.set()
        while True:
            ACT
    except KeyboardInterrupt:
        n_seen += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
over.set()
thread.join()
CHECK
pool.close()
pool.join()
print("all answered")
"""

SUBMIT = """
            futures.append(pool.submit(abs, -1))
            if len(futures) % 50 == 0:
                futures[-1].result()
"""
CANCEL = """
            for _ in range(8):
                futures.append(pool.submit(time.sleep, 0.0001))
            for future in futures[-8:]:
                future.cancel()
"""
MAKE = """
            fullcourt.Pool(threads=2).terminate()
"""


def run(act: str, longest_s: float, check: str) -> None:
    program = PROGRAM.replace("            ACT\n", act).replace("CHECK", check).replace("LONGEST", str(longest_s))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("all answered\n", "", 0)


def test_interrupts_while_submitting_lose_nothing() -> None:
    run(SUBMIT, 0.0025, "assert [future.result(60) for future in futures] == [1] * len(futures)")


def test_interrupts_while_cancelling_lose_nothing() -> None:
    run(CANCEL, 0.0025, "assert all(future.cancelled() or future.result(60) is None for future in futures)")


@pytest.mark.parametrize("options", ["processes=1", "threads=2"])
def test_interrupts_while_pools_are_made_leave_none_behind(options: str) -> None:
    check = """
gc.collect()
until = time.monotonic() + 60
while time.monotonic() < until and threading.active_count() > 2 + 2 * len(passed_over):
    time.sleep(0.01)
assert threading.active_count() <= 2 + 2 * len(passed_over), threading.enumerate()
assert set(passed_over) <= {KeyboardInterrupt}
"""
    run(MAKE.replace("threads=2", options), 0.01, check)
