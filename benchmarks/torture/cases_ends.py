"""Cases: the program ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from benchmarks.torture import work
from benchmarks.torture.casebook import Opener, cases_of, check_healthy, must
from benchmarks.torture.pools import NotOffered

case = cases_of("The program ends")


def keep_busy(opener: Opener, fn: Callable[..., Any] = work.nap, *args: Any) -> None:
    """Four long tasks; READY when two run."""
    pool = opener()
    with pool:
        calls = [(fn, *(args or (60.0,)))] * 4
        done = threading.Event()
        with suppress(NotOffered):
            pool.run(work.tiny, 1)

        def tell() -> None:
            if not done.wait(0.6):
                print("READY", flush=True)

        threading.Thread(target=tell, daemon=True).start()
        pool.hold(calls)


@case("SIGKILL of the program: all workers gone within a second", signal=signal.SIGKILL)
def parent_killed(opener: Opener) -> None:
    keep_busy(opener)


@case("the same, workers idle", signal=signal.SIGKILL)
def parent_killed_idle(opener: Opener) -> None:
    pool = opener()
    pool.batch([(work.pid,)] * 4)
    print("READY", flush=True)
    time.sleep(60)
    pool.close()


@case("the same, and the processes that tasks started", signal=signal.SIGKILL)
def parent_killed_grandchildren(opener: Opener) -> None:
    with opener() as pool:
        pool.batch([(work.start_sleeper,)] * 2)
        print("READY", flush=True)
        pool.hold([(work.nap, 60)] * 2)


@case("Ctrl-C: out within a second, one traceback", signal=signal.SIGINT, to_group=True)
def ctrl_c(opener: Opener) -> None:
    keep_busy(opener)


@case("Ctrl-C while a map of tiny tasks runs", signal=signal.SIGINT, to_group=True)
def ctrl_c_in_map(opener: Opener) -> None:
    with opener() as pool:
        threading.Timer(0.8, lambda: print("READY", flush=True)).start()
        pool.map(work.square, range(200_000))


@case("SIGINT to the program alone (`kill -INT`)", signal=signal.SIGINT)
def sigint_alone(opener: Opener) -> None:
    keep_busy(opener)


@case("SIGTERM: no worker left within a second", signal=signal.SIGTERM)
def sigterm(opener: Opener) -> None:
    keep_busy(opener)


@case("the interpreter exits with a pool open and idle")
def exit_with_pool_open(opener: Opener) -> None:
    work.pool = opener()
    work.pool.batch([(work.square, 2)] * 4)


@case("the interpreter exits with tasks running and a traceback", deadline_s=8)
def exit_by_error(opener: Opener) -> None:
    work.pool = opener()
    work.pool.run(work.tiny, 1)
    for _ in range(2):
        work.pool.submit(work.nap, 3.0)
    print("EXPECT-TRACEBACK", flush=True)
    raise ZeroDivisionError("the program's own")


@case("os._exit() of the program")
def os_exit_of_program(opener: Opener) -> None:
    pool = opener()
    pool.batch([(work.square, 2)] * 4)
    print("EXPECT-EXIT", flush=True)
    os._exit(0)


@case("a pool that nobody holds any more ends its workers")
def forgotten(opener: Opener) -> None:
    import gc

    pool = opener()
    pids = {o[1] for o in pool.batch([(work.pid,)] * 6)}
    del pool
    gc.collect()
    until = time.monotonic() + 4
    while time.monotonic() < until and any(os.path.exists(f"/proc/{p}") for p in pids):
        time.sleep(0.05)
    must(not any(os.path.exists(f"/proc/{p}") for p in pids), "its workers go on")


@case("a task leaves a thread behind that does not end")
def thread_left(opener: Opener) -> None:
    with opener() as pool:
        pool.run(work.start_thread)


@case("a task leaves a process behind")
def process_left(opener: Opener) -> None:
    with opener() as pool:
        pool.run(work.start_sleeper)


@case("a task ignores SIGTERM; the pool ends all the same")
def ignored_sigterm(opener: Opener) -> None:
    with opener() as pool:
        pool.batch([(work.ignore_sigterm,)] * 4)
        pool.run(work.tiny, 1)


@case("terminate() with 10,000 tasks queued")
def terminated(opener: Opener) -> None:
    pool = opener()
    for _ in range(10_000):
        pool.submit(work.square, 2)
    pool.terminate()


@case("the program forks after it opened a pool")
def program_forks(opener: Opener) -> None:
    import warnings

    warnings.simplefilter("ignore")
    with opener() as pool:
        pool.run(work.tiny, 1)
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        child = os.fork()
        if not child:
            sys.exit(0)  # with all that runs at an interpreter's exit
        os.waitpid(child, 0)
        check_healthy(pool.batch([(work.square, x) for x in range(10)]), [x * x for x in range(10)])
