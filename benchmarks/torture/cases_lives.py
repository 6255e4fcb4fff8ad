"""Cases: workers' lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.torture import work
from benchmarks.torture.casebook import Opener, Wrong, cases_of, check_healthy, must, name
from benchmarks.torture.pools import NotOffered

case = cases_of("Workers' lives")


@case("300 tasks with a fresh worker after every two", deadline_s=40)
def recycled(opener: Opener) -> None:
    with opener(max_tasks=2) as pool:
        must(pool.map(work.tiny, range(300)) == [x * x for x in range(300)], "wrong results")


@case("an initializer that raises: one error, no endless respawning")
def failing_initializer(opener: Opener) -> None:
    fail_first(opener, work.fail_to_start)


@case("an initializer that kills its process")
def dying_initializer(opener: Opener) -> None:
    fail_first(opener, work.die_at_start)


def fail_first(opener: Opener, initializer: Callable[[], None]) -> None:
    try:
        with opener(initializer=initializer) as pool:
            pool.run(work.tiny, 1)
    except NotOffered:
        raise
    except Exception:
        return
    raise Wrong("no error")


@case("a pool inside of a task")
def nested(opener: Opener) -> None:
    from benchmarks.torture.pools import POOLS

    me = next(key for key, value in POOLS.items() if value is opener)
    with opener() as pool:
        try:
            must(pool.run(work.use_inner_pool, me, 5) == 30, "wrong result")
        except NotOffered:
            raise
        except Exception as error:
            raise Wrong(f"refused: {name(error)}") from None


@case("a task submits to its own pool and waits, more of them than workers")
def own_pool(opener: Opener) -> None:
    work.pool = opener()  # workers that fork at the first submit find it there
    with work.pool as pool:
        outcomes = pool.batch([pool.reentrant_call(x) for x in range(6)])
        failed = [o[1] for o in outcomes if not o[0]]
        must(not failed, f"refused: {name(failed[0]) if failed else ''}")


@case("other threads hold locks while workers are started anew")
def fork_with_threads(opener: Opener) -> None:
    stop = threading.Event()

    def hold() -> None:
        while not stop.is_set():
            with work.LOCK:
                time.sleep(0.002)

    with opener() as pool:
        pool.run(work.tiny, 1)
        thread = threading.Thread(target=hold)
        thread.start()
        try:
            for _ in range(3):
                pids = {o[1] for o in pool.batch([(work.pid,)] * 6)}
                for process in pids:
                    os.kill(process, signal.SIGKILL)
                time.sleep(0.3)
                check_healthy(pool.batch([(work.take_lock, x) for x in range(6)]), [x * x for x in range(6)])
        finally:
            stop.set()
            thread.join()


@case("a program without a `__main__` guard, fork")
def unguarded_fork(opener: Opener) -> None:
    unguarded(opener, "fork")


@case("the same, forkserver", deadline_s=15)
def unguarded_forkserver(opener: Opener) -> None:
    unguarded(opener, "forkserver")


@case("the same, spawn", deadline_s=15)
def unguarded_spawn(opener: Opener) -> None:
    unguarded(opener, "spawn")


def unguarded(opener: Opener, method: str) -> None:
    """A program whose functions are in ``__main__``, run as a script."""
    from benchmarks.torture.pools import POOLS

    me = next(key for key, value in POOLS.items() if value is opener)
    source = f"""
import multiprocessing
multiprocessing.set_start_method({method!r}, force=True)
from benchmarks.torture.pools import POOLS
print("STARTED", flush=True)
def double(x):
    return 2 * x
with POOLS[{me!r}](2) as pool:
    print("RESULT", pool.map(double, range(5)), flush=True)
"""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "unguarded.py"
        script.write_text(source)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]),
                                                                   os.environ.get("PYTHONPATH", "")])}  # fmt: skip
        process = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, env=environment)  # fmt: skip
        try:
            text, _ = process.communicate(timeout=8)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Wrong("it did not end within 8 s") from None
    must("RESULT [0, 2, 4, 6, 8]" in text, f"no result; {len(text.splitlines())} lines of output")
    must(text.count("STARTED") == 1, f"the program ran {text.count('STARTED')} times")
