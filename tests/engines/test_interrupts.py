"""Ctrl-C while the main thread submits: the pool loses nothing, and ends."""

import subprocess
import sys

PROGRAM = """
import random, signal, threading
import fullcourt

pool = fullcourt.Pool(2)
pool.apply(abs, (1,))
main = threading.main_thread().ident
armed, over = threading.Event(), threading.Event()

def interrupt():  # one at a time: the next only when the last was seen
    while not over.is_set():
        if armed.wait(0.2):
            armed.clear()
            over.wait(random.uniform(0.0005, 0.0025))
            if not over.is_set():
                signal.pthread_kill(main, signal.SIGINT)

thread = threading.Thread(target=interrupt)
thread.start()
futures, n_seen = [], 0
while n_seen < 60:
    try:
        armed.set()
        while True:
            futures.append(pool.submit(abs, -1))
            if len(futures) % 50 == 0:
                futures[-1].result()
    except KeyboardInterrupt:
        n_seen += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
over.set()
thread.join()
assert [future.result(60) for future in futures] == [1] * len(futures)
pool.close()
pool.join()
print("all answered")
"""


def test_interrupts_while_submitting_lose_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("all answered\n", "", 0)
