"""The cases: each is a function of the pool's class, which runs in a program of its own.

A case ends in silence if the pool did what its users should get, and raises :class:`Wrong` (an outcome that is not
true), :class:`Lost` (other tasks than the guilty one suffered) or :class:`NotOffered`. Hangs, late ends and leftover
processes are the runner's to see. Cases with ``signal`` print READY when the runner shall send it.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.torture import work
from benchmarks.torture.pools import NotOffered, Outcome, Tortured

__all__ = ["CASES", "Case", "Lost", "Wrong"]

Opener = type[Tortured]


class Wrong(Exception):
    """The pool gave a wrong outcome."""


class Lost(Exception):
    """Tasks that had nothing to do with it lost their results."""


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        key: its name.
        group: heading in the table.
        title: what happens.
        run: the program.
        deadline_s: after so long it counts as a hang.
        signal: sent by the runner when the program says READY.
        to_group: whether to the whole process group, as a terminal does.
        end_s: the program and all its processes must be gone so many seconds after the signal.
    """

    key: str
    group: str
    title: str
    run: Callable[[Opener], None]
    deadline_s: float = 10.0
    signal: int | None = None
    to_group: bool = False
    end_s: float = 1.0


CASES: dict[str, Case] = {}
group = ""


def case(title: str, **options: Any) -> Callable[[Callable[[Opener], None]], Callable[[Opener], None]]:
    def add(run: Callable[[Opener], None]) -> Callable[[Opener], None]:
        key = run.__name__.replace("_", "-")
        CASES[key] = Case(key, group, title, run, **options)
        return run

    return add


# -- what cases check -------------------------------------------------------------------------------------------------


def must(truth: object, what: str) -> None:
    if not truth:
        raise Wrong(what)


def name(error: object) -> str:
    return f"{type(error).__name__}: {error}"[:90] if not isinstance(error, work.UnreadableText) else "UnreadableText"


def check_healthy(outcomes: list[Outcome], expected: list[Any]) -> None:
    """All of these tasks must have their results."""
    failed = [o[1] for o in outcomes if not o[0]]
    if failed:
        raise Lost(f"{len(failed)} of {len(outcomes)} healthy tasks failed: {name(failed[0])}")
    must([o[1] for o in outcomes] == expected, "healthy tasks gave wrong results")


def still_works(pool: Tortured) -> None:
    try:
        outcomes = pool.batch([(work.square, x) for x in range(10)])
    except NotOffered:
        raise
    except BaseException as error:
        raise Lost(f"the pool is of no use afterwards: {name(error)}") from None
    failed = [o[1] for o in outcomes if not o[0]]
    if failed:
        raise Lost(f"the pool is of no use afterwards: {name(failed[0])}")


def one_bad_among_good(opener: Opener, bad: Callable[..., Any], *args: Any) -> BaseException:
    """A bad task among 20 good ones: it alone fails. Returns its error."""
    with opener() as pool:
        pool.run(work.tiny, 1)
        calls: list[Any] = [(work.square, x) for x in range(20)]
        calls.insert(7, (bad, *args))
        outcomes = pool.batch(calls)
        guilty = outcomes.pop(7)
        must(not guilty[0], "the bad task gave a result")
        check_healthy(outcomes, [x * x for x in range(20)])
        still_works(pool)
        return guilty[1]  # type: ignore[no-any-return]


def raises_alone(opener: Opener, fn: Callable[..., Any], *expected: type[BaseException]) -> None:
    error = one_bad_among_good(opener, fn)
    if expected:
        must(isinstance(error, expected), f"it raised {name(error)}")


# -- deaths -----------------------------------------------------------------------------------------------------------

group = "A worker dies"


def must_tell_of_death(error: BaseException) -> None:
    must(isinstance(error, Exception), f"it raised {name(error)}")


@case("SIGKILL in a task")
def killed(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.die_by_sigkill))


@case("segmentation fault in a task")
def segfault(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.die_by_segfault))


@case("abort() in a task")
def aborted(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.die_by_abort))


@case("os._exit() in a task")
def exited(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.die_by_exit))


@case("SIGKILL of all workers while they are idle")
def killed_when_idle(opener: Opener) -> None:
    with opener() as pool:
        pids = {o[1] for o in pool.batch([(work.pid,)] * 6)}
        for process in pids:
            os.kill(process, signal.SIGKILL)
        check_healthy(pool.batch([(work.square, x) for x in range(20)]), [x * x for x in range(20)])


@case("SIGKILL in item 500 of a map of 1,000 tiny ones")
def killed_in_map(opener: Opener) -> None:
    with opener() as pool:
        outcomes = pool.map_of_tiny(work.die_at_500, 1000)
        must(not outcomes[500][0], "the item that died gave a result")
        del outcomes[500]
        check_healthy(outcomes, [x * x for x in range(1000) if x != 500])
        still_works(pool)


@case("ten deaths, one after the other")
def killed_ten_times(opener: Opener) -> None:
    with opener() as pool:
        outcomes = pool.batch([(work.die_by_sigkill,), (work.square, 3)] * 10)
        must(not any(o[0] for o in outcomes[::2]), "a dead task gave a result")
        check_healthy(outcomes[1::2], [9] * 10)
        still_works(pool)


@case("an argument that kills who reads it")
def killed_by_argument(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.length, work.KillsWhenLoaded()))


@case("a task closes all files of its worker")
def closed_files(opener: Opener) -> None:
    with opener() as pool:
        pool.run(work.tiny, 1)
        calls: list[Any] = [(work.square, x) for x in range(20)]
        calls.insert(7, (work.close_all_files,))
        outcomes = pool.batch(calls)
        outcomes.pop(7)
        check_healthy(outcomes, [x * x for x in range(20)])
        still_works(pool)


@case("a task forks, and the child goes on as the worker")
def forked_worker(opener: Opener) -> None:
    with opener() as pool:
        calls: list[Any] = [(work.square, x) for x in range(20)]
        calls.insert(7, (work.fork_and_return,))
        outcomes = pool.batch(calls)
        outcomes.pop(7)
        check_healthy(outcomes, [x * x for x in range(20)])
        still_works(pool)


@case("after deaths no zombie is left")
def zombies(opener: Opener) -> None:
    with opener() as pool:
        for _ in range(3):
            with suppress(Exception):
                pool.run(work.die_by_exit)
        with suppress(Exception):
            still_works(pool)
        time.sleep(0.2)
        found = [line for line in children_of(os.getpid()) if line[1] == "Z"]
        must(not found, f"{len(found)} zombies")


def children_of(parent: int) -> list[tuple[int, str]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append((int(entry), fields[0]))
    return found


# -- exceptions -------------------------------------------------------------------------------------------------------

group = "A task raises"


@case("an exception that will not unpickle (two-argument `__init__`)")
def two_argument_exception(opener: Opener) -> None:
    error = one_bad_among_good(opener, work.raise_two_arguments)
    must("two" in str(error) or "TwoArguments" in name(error), f"its text is lost: {name(error)}")


@case("an exception that holds a lock")
def exception_with_lock(opener: Opener) -> None:
    error = one_bad_among_good(opener, work.raise_with_lock)
    must("has a lock" in str(error) or "WithLock" in name(error), f"its text is lost: {name(error)}")


@case("an exception whose `__str__` and `__repr__` raise")
def unreadable_exception(opener: Opener) -> None:
    one_bad_among_good(opener, work.raise_unreadable)


@case("an exception whose `__reduce__` raises")
def irreducible_exception(opener: Opener) -> None:
    one_bad_among_good(opener, work.raise_bad_reduce)


@case("`sys.exit()`")
def system_exit(opener: Opener) -> None:
    raises_alone(opener, work.raise_system_exit)


@case("`KeyboardInterrupt`")
def keyboard_interrupt(opener: Opener) -> None:
    raises_alone(opener, work.raise_keyboard_interrupt)


@case("a `BaseException` of the user's")
def base_exception(opener: Opener) -> None:
    raises_alone(opener, work.raise_base_exception)


@case("`GeneratorExit`")
def generator_exit(opener: Opener) -> None:
    raises_alone(opener, work.raise_generator_exit)


@case("`StopIteration`, in `submit` and in a lazy map")
def stop_iteration(opener: Opener) -> None:
    raises_alone(opener, work.raise_stop_iteration)
    with opener() as pool:
        try:
            found = list(pool.lazily(stop_at_3, range(6)))
        except NotOffered:
            return
        except Exception:
            return
        raise Wrong(f"the map ended in silence after {len(found)} of 6 items")


def stop_at_3(x: int) -> int:
    if x == 3:
        raise StopIteration
    return x


@case("its own `TimeoutError`, `CancelledError`, `BrokenProcessPool` are told from the pool's")
def own_errors(opener: Opener) -> None:
    from concurrent.futures import CancelledError
    from concurrent.futures.process import BrokenProcessPool

    raises_alone(opener, work.raise_timeout, TimeoutError)
    raises_alone(opener, work.raise_broken_pool, BrokenProcessPool)
    raises_alone(opener, work.raise_cancelled, CancelledError)


@case("endless recursion")
def recursion(opener: Opener) -> None:
    raises_alone(opener, work.recurse, RecursionError)


@case("a chain of 2,000 causes")
def deep_chain(opener: Opener) -> None:
    raises_alone(opener, work.raise_deep_chain)


@case("an item whose `repr` raises")
def unreadable_item(opener: Opener) -> None:
    error = one_bad_among_good(opener, work.fail_with, work.UnreadableItem())
    must(isinstance(error, ValueError), f"it raised {name(error)}")


@case("the error says which item failed")
def names_item(opener: Opener) -> None:
    import traceback

    with opener() as pool:
        try:
            pool.map(work.raise_value_error, ["apple", "pear", "plum"])
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            must("apple" in text.replace("no apple", "") or "index 0" in text or "[0]" in text,
                 "nothing names function and item")  # fmt: skip
            return
        raise Wrong("no error")


# -- what cannot travel -----------------------------------------------------------------------------------------------

group = "What cannot travel"


@case("an argument that cannot be pickled")
def unpicklable_argument(opener: Opener) -> None:
    one_bad_among_good(opener, work.length, threading.Lock())


@case("a result that cannot be pickled: a lock")
def unpicklable_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_lock)


@case("a result that cannot be pickled: a generator")
def generator_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_generator)


@case("a result that fails to load in the parent")
def unloadable_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_fails_to_load)


@case("an argument that fails to load in the worker")
def unloadable_argument(opener: Opener) -> None:
    one_bad_among_good(opener, work.length, work.FailsToLoad())


@case("an argument whose pickling raises SystemExit")
def exits_when_pickled(opener: Opener) -> None:
    with opener() as pool:
        try:
            outcomes = pool.batch([(work.length, work.ExitsWhenPickled()), *[(work.square, x) for x in range(5)]])
        except SystemExit:
            outcomes = [(False, SystemExit()), *pool.batch([(work.square, x) for x in range(5)])]
        must(not outcomes[0][0], "it gave a result")
        check_healthy(outcomes[1:], [x * x for x in range(5)])


@case("a result whose pickling raises SystemExit")
def exits_when_pickled_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_exits_when_pickled)


@case("a result nested 100,000 deep")
def nested_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_nested, 100_000)


@case("one bad item in a map of 1,000")
def bad_item_in_map(opener: Opener) -> None:
    items: list[Any] = list(range(1000))
    items[500] = threading.Lock()
    with opener() as pool:
        try:
            pool.map(work.tiny, items)
        except BaseException as error:
            must(isinstance(error, Exception), f"it raised {name(error)}")
        else:
            raise Wrong("no error")
        still_works(pool)


@case("a lambda")
def a_lambda(opener: Opener) -> None:
    with opener() as pool:
        try:
            must(pool.run(lambda x: x + 1, 1) == 2, "wrong result")
        except NotOffered:
            raise
        except Exception as error:
            raise Wrong(f"refused: {name(error)}") from None


@case("a closure and a local class as its result")
def a_closure(opener: Opener) -> None:
    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    def make(x: int) -> Local:
        return Local(x + 1)

    with opener() as pool:
        try:
            must(pool.run(make, 1).x == 2, "wrong result")
        except NotOffered:
            raise
        except Exception as error:
            raise Wrong(f"refused: {name(error)}") from None


@case("300 MB there and back", deadline_s=30)
def huge(opener: Opener) -> None:
    with opener() as pool:
        must(pool.run(work.length, b"x" * 300_000_000) == 300_000_000, "wrong length")
        must(len(pool.run(work.zeros, 300_000_000)) == 300_000_000, "wrong length")


@case("1,000 results of 200 KB that nobody takes, then the end", deadline_s=20)
def untaken_results(opener: Opener) -> None:
    with opener() as pool:
        for _ in range(1000):
            pool.submit(work.zeros, 200_000)


# -- time -------------------------------------------------------------------------------------------------------------

group = "Time limits and cancelling"


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


# -- ends -------------------------------------------------------------------------------------------------------------

group = "The program ends"


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


# -- life -------------------------------------------------------------------------------------------------------------

group = "Workers' lives"


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


# -- surroundings -----------------------------------------------------------------------------------------------------

group = "Hard surroundings"


@case("standard input is closed")
def closed_stdin(opener: Opener) -> None:
    os.close(0)
    basic(opener)


@case("standard input, output and error are closed")
def closed_standard_files(opener: Opener) -> None:
    saved = os.dup(1), os.dup(2)
    high = [os.dup2(fd, 200 + i) for i, fd in enumerate(saved)]
    for fd in (0, 1, 2, *saved):
        os.close(fd)
    try:
        basic(opener)
    finally:
        os.dup2(high[0], 1)
        os.dup2(high[1], 2)


@case("`sys.stdin`, `sys.stdout`, `sys.stderr` are None (as under pythonw)")
def no_standard_streams(opener: Opener) -> None:
    saved = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]
    try:
        basic(opener)
    finally:
        sys.stdin, sys.stdout, sys.stderr = saved


@case("1,500 files are open (numbers beyond 1,024)")
def many_files(opener: Opener) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
    basic(opener)
    for fd in files:
        os.close(fd)


@case("only four files more may be opened: an error, no hang")
def no_more_files(opener: Opener) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    files = []
    with suppress(OSError):
        while True:
            files.append(os.open("/dev/null", os.O_RDONLY))
    for fd in files[-4:]:
        os.close(fd)
    try:
        with opener() as pool:
            pool.run(work.tiny, 2)
    except NotOffered:
        raise
    except BaseException as error:
        for fd in files[:-4]:
            os.close(fd)
        must(isinstance(error, Exception), f"it raised {name(error)}")


@case("the working directory is deleted")
def no_directory(opener: Opener) -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    basic(opener)


@case("a task closes standard input and file 0")
def task_closes_stdin(opener: Opener) -> None:
    with opener() as pool:
        pool.batch([(work.close_standard_files,)] * 4)
        still_works(pool)


@case("a lazy map of an endless generator: first results within 2 s, bounded reading", deadline_s=8)
def endless(opener: Opener) -> None:
    read = 0

    def items() -> Any:
        nonlocal read
        for x in itertools.count():
            read += 1
            yield x

    pool = opener()
    found: list[Any] = []
    results = pool.lazily(work.tiny, items())
    for _ in range(100):
        found.append(next(results))
    must(found == [x * x for x in range(100)], "wrong results")
    time.sleep(0.5)
    must(read < 50_000, f"{read:,} items were read for 100 results")
    print("EXPECT-EXIT", flush=True)
    os._exit(0)


@case("an input that raises half-way: its error, and the pool goes on")
def failing_input(opener: Opener) -> None:
    def items() -> Any:
        yield from range(10)
        raise LookupError("the input's own")

    with opener() as pool:
        try:
            pool.map(work.tiny, items())
        except LookupError:
            pass
        else:
            raise Wrong("no error")
        still_works(pool)


@case("eight threads submit at once")
def many_threads(opener: Opener) -> None:
    wrong: list[str] = []
    with opener() as pool:

        def use(i: int) -> None:
            outcomes = pool.batch([(work.tiny, x) for x in range(i, i + 200)])
            if [o[1] for o in outcomes] != [x * x for x in range(i, i + 200)]:
                wrong.append(str([o[1] for o in outcomes if not o[0]][:1]))

        threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    must(not wrong, f"wrong results: {wrong[:1]}")


def basic(opener: Opener) -> None:
    with opener() as pool:
        outcomes = pool.batch([(work.square, x) for x in range(10)])
        failed = [o[1] for o in outcomes if not o[0]]
        must(not failed, f"refused: {name(failed[0]) if failed else ''}")
        must([o[1] for o in outcomes] == [x * x for x in range(10)], "wrong results")
