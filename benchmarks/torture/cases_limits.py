"""Cases: time limits and cancelling."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from benchmarks.torture import work
from benchmarks.torture.casebook import Opener, Wrong, cases_of, check_healthy, must, name, still_works
from benchmarks.torture.pools import NotOffered, Outcome

case = cases_of("Time limits and cancelling")


def stops_at_limit(opener: Opener, fn: Callable[..., Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, opener() as pool:
        path = os.path.join(folder, "beat")
        pool.run(work.tiny, 1)
        began = time.monotonic()
        try:
            found = pool.run_limited(0.5, fn, path, 6.0)
        except NotOffered:
            raise
        except Exception as error:
            must("imeout" in type(error).__name__, f"it raised {name(error)}")
        else:
            raise Wrong(f"no error, but {found!r}")
        must(time.monotonic() - began < 3.0, "the error came late")
        time.sleep(0.6)
        must(not work.beats(path), "the error came, but the work goes on")
        still_works(pool)


@case("a limit of 0.5 s stops a task of 6 s", deadline_s=15)
def limit(opener: Opener) -> None:
    stops_at_limit(opener, work.beat)


@case("likewise a task that ignores SIGTERM and swallows exceptions", deadline_s=15)
def limit_of_stubborn(opener: Opener) -> None:
    stops_at_limit(opener, work.beat_stubbornly)


@case("likewise the process that a task started", deadline_s=15)
def limit_of_child(opener: Opener) -> None:
    stops_at_limit(opener, work.beat_in_child)


@case("likewise a task inside of one endless C call", deadline_s=15)
def limit_in_c(opener: Opener) -> None:
    with opener() as pool:
        try:
            pool.run_limited(0.5, work.in_c)
        except NotOffered:
            raise
        except Exception as error:
            must("imeout" in type(error).__name__, f"it raised {name(error)}")
        still_works(pool)


@case("a limit costs no other task", deadline_s=15)
def limit_costs_no_other(opener: Opener) -> None:
    with opener() as pool:
        outcomes: list[Outcome] = []
        submit_others = threading.Thread(
            target=lambda: outcomes.extend(pool.batch([(work.nap, 0.05)] * 40)))  # fmt: skip
        submit_others.start()
        with suppress(Exception):
            try:
                pool.run_limited(0.3, work.nap, 6.0)
            except NotOffered:
                outcomes.append((False, NotOffered()))
        submit_others.join()
        if any(isinstance(o[1], NotOffered) for o in outcomes):
            raise NotOffered
        check_healthy(outcomes, [0.05] * 40)


@case("`cancel()` of a running task stops it, and says so", deadline_s=15)
def cancel_running(opener: Opener) -> None:
    with tempfile.TemporaryDirectory() as folder, opener() as pool:
        path = os.path.join(folder, "beat")
        pool.run(work.tiny, 1)
        handle = pool.submit(work.beat, path, 4.0)
        while not work.beats(path):
            time.sleep(0.01)
        said = pool.cancel_running(handle)
        time.sleep(0.8)
        runs = work.beats(path)
        if said:
            must(not runs, "it said cancelled, but the work goes on")
        else:
            raise Wrong("it cannot be cancelled" + (", and goes on" if runs else ""))
        still_works(pool)


@case("`cancel()` of a waiting task: it never runs")
def cancel_waiting(opener: Opener) -> None:
    with tempfile.TemporaryDirectory() as folder, opener() as pool:
        path = os.path.join(folder, "beat")
        busy = [pool.submit(work.nap, 0.7) for _ in range(2)]
        time.sleep(0.2)
        waiting = [pool.submit(work.nap, 0.1) for _ in range(6)] + [pool.submit(work.beat, path, 0.1)]
        must(pool.cancel_running(waiting[-1]), "it could not be cancelled")
        for handle in (*busy, *waiting[:-1]):
            pool.wait(handle)
        must(not os.path.exists(path), "it said cancelled, and ran")


@case("`with` left by an exception: out within 2 s, tasks stopped", deadline_s=15)
def left_by_exception(opener: Opener) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "beat")
        began = 0.0
        try:
            with opener() as pool:
                pool.run(work.tiny, 1)
                pool.submit(work.beat, path, 5.0)
                while not work.beats(path):
                    time.sleep(0.01)
                began = time.monotonic()
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        took = time.monotonic() - began
        must(took < 2.0, f"it took {took:.1f} s")
        time.sleep(0.5)
        must(not work.beats(path), "the task goes on")


@case("a memory limit of 300 MB ends a task that takes more", deadline_s=20)
def memory_limit(opener: Opener) -> None:
    with opener() as pool:
        pool.run(work.tiny, 1)
        try:
            pool.run_in_memory(300, work.hog, 800)
        except NotOffered:
            raise
        except Exception as error:
            must("emory" in str(error) or "emory" in type(error).__name__, f"it raised {name(error)}")
        else:
            raise Wrong("it had its 800 MB")
        still_works(pool)
