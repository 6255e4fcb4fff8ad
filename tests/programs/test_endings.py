"""How programs end, well or not: nothing hangs, nothing is left, and what is said is said once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.programs.running import GONE_S, HAS_PIDFD, start, still_there

if TYPE_CHECKING:
    from tests.programs.running import Program, Starts

pytestmark = pytest.mark.skipif(not HAS_PIDFD, reason="waits on pidfds, which only Linux has")

# How the main thread waits when Ctrl-C comes, and how many tasks have started by then.
INTERRUPTED: dict[str, tuple[str, int]] = {
    "for a result": ("pool = fullcourt.Pool(2, start_method=METHOD)\npool.submit(sleep).result()", 1),
    "for a map": ("pool = fullcourt.Pool(2, start_method=METHOD)\npool.map(sleep, range(4), chunksize=1)", 2),
    "for a map of tasks that compute": (
        "pool = fullcourt.Pool(2, start_method=METHOD)\npool.map(compute, range(4), chunksize=1)",
        2,
    ),
    "in a with block": (
        "with fullcourt.Pool(2, start_method=METHOD) as pool:\n    pool.map(sleep, range(4), chunksize=1)",
        2,
    ),
    "at the end of a with block": (
        "with fullcourt.Pool(2, start_method=METHOD) as pool:\n    [pool.submit(sleep) for _ in range(4)]",
        2,
    ),
    "for a stream": (
        """
        with fullcourt.Pool(2, start_method=METHOD) as pool:
            for _ in pool.imap_unordered(sleep, range(100), chunksize=1):
                pass
        """,
        2,
    ),
    "for join": (
        """
        pool = fullcourt.Pool(2, start_method=METHOD)
        futures = [pool.submit(sleep) for _ in range(4)]
        pool.close()
        pool.join()
        """,
        2,
    ),
    "for something else while tasks run": (
        """
        pool = fullcourt.Pool(2, start_method=METHOD)
        futures = [pool.submit(sleep) for _ in range(4)]
        time.sleep(100)
        """,
        2,
    ),
    "for something else with an idle pool": (
        "pool = fullcourt.Pool(2, start_method=METHOD)\npool.map(abs, range(4))\nsleep()",
        1,
    ),
    "for processes of threads": (
        "pool = fullcourt.Pool(2, threads=2, start_method=METHOD)\npool.map(sleep, range(8), chunksize=1)",
        4,
    ),
}


@pytest.mark.parametrize("to", ["the group", "the program"])
@pytest.mark.parametrize("waits", INTERRUPTED)
def test_ctrl_c_ends_a_program_that_waits(
    waits: str, to: str, start_method: str, program: Program, starts: Starts
) -> None:
    text, n_tasks = INTERRUPTED[waits]
    start(program, start_method, text)
    starts.wait(n_tasks)
    assert program.process is not None

    interrupted = time.monotonic()
    (os.killpg if to == "the group" else os.kill)(program.process.pid, signal.SIGINT)
    status = program.wait(10 + GONE_S)
    took_s = time.monotonic() - interrupted

    program.assert_nobody_is_left()
    errors = program.stderr()
    assert errors.count("Traceback (most recent call last)") == 1, errors
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert status == -signal.SIGINT
    assert took_s < GONE_S


def test_workers_that_are_just_starting_hear_no_ctrl_c(start_method: str, program: Program) -> None:
    program.write(
        "program.py",
        f"""
        import fullcourt

        for _ in range(3):
            with fullcourt.Pool(2, start_method={start_method!r}) as pool:
                assert pool.map(abs, range(100)) == list(range(100))
        print("done")
        """,
    )
    program.start("program.py")
    assert program.process is not None

    while program.process.poll() is None:
        for pid in program.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)

    assert program.wait() == 0, program.stderr()
    assert program.stdout() == "done\n"
    assert program.stderr() == ""


DOING: dict[str, tuple[str, int]] = {
    "sleep": ("pool = fullcourt.Pool(2, start_method=METHOD)\npool.map(sleep, range(4), chunksize=1)", 2),
    "compute": ("pool = fullcourt.Pool(2, start_method=METHOD)\npool.map(compute, range(4), chunksize=1)", 2),
    "sleep on threads": (
        "pool = fullcourt.Pool(2, threads=2, start_method=METHOD)\npool.map(sleep, range(8), chunksize=1)",
        4,
    ),
    "nothing": ("pool = fullcourt.Pool(2, start_method=METHOD)\npool.map(abs, range(4))\nsleep()", 1),
    "answer at length": (
        """
        def answer(x):
            started()
            return bytes(50_000_000)

        pool = fullcourt.Pool(2, start_method=METHOD)
        for _ in pool.imap(answer, range(100), chunksize=1):
            pass
        """,
        3,
    ),
}


@pytest.mark.faults
@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("doing", DOING)
def test_workers_go_when_the_parent_is_killed_while_they(
    doing: str, with_signal: signal.Signals, start_method: str, program: Program, starts: Starts
) -> None:
    text, n_tasks = DOING[doing]
    start(program, start_method, text)
    starts.wait(n_tasks)
    assert program.process is not None
    workers = program.workers()
    assert len(workers) >= 2

    os.kill(program.process.pid, with_signal)
    assert program.wait(10) == -with_signal
    assert still_there(workers, GONE_S) == []
    program.assert_nobody_is_left()
    assert "Traceback" not in program.stderr()


# What a program does last, its exit status, and what the last line of stderr must be.
LAST_ACTS: dict[str, tuple[str, int, str]] = {
    "leaves an idle pool open": ("print(pool.map(abs, range(3)))", 0, ""),
    "leaves a pool that it never used": ("", 0, ""),
    "leaves a pool in a cycle of references": (
        "cycle = [pool]\ncycle.append(cycle)\nprint(pool.map(abs, range(3)))",
        0,
        "",
    ),
    "leaves results that nobody took": ("futures = [pool.submit(abs, -1) for _ in range(100)]", 0, ""),
    "leaves a failed task that nobody looked at": ("pool.submit(int, 'x').exception()", 0, ""),
    "leaves a stream half read": (
        "import itertools\nstream = pool.imap(abs, itertools.count())\nprint(next(stream), next(stream))",
        0,
        "",
    ),
    "exits with a status": ("pool.map(abs, range(3))\nsys.exit(3)", 3, ""),
    "exits with a status from a with block": ("with pool:\n    pool.map(abs, range(3))\n    sys.exit(3)", 3, ""),
    "exits from a with block while tasks run": (
        "with pool:\n    future = pool.submit(sleep)\n    STARTED\n    sys.exit(3)",
        3,
        "",
    ),
    "fails": ("pool.map(abs, range(3))\nraise ValueError('its own')", 1, "ValueError: its own"),
    "fails in a with block while tasks run": (
        "with pool:\n    future = pool.submit(sleep)\n    STARTED\n    raise ValueError('its own')",
        1,
        "ValueError: its own",
    ),
    "terminates while tasks run": ("future = pool.submit(sleep)\nSTARTED\npool.terminate()\npool.join()", 0, ""),
}


@pytest.mark.parametrize("act", LAST_ACTS)
def test_nothing_hangs_and_nobody_is_left_when_a_program(
    act: str, start_method: str, program: Program, starts: Starts
) -> None:
    text, status, last_line = LAST_ACTS[act]
    # The program itself waits for its task here: the pipe's reading end stays open in the test, so no byte is lost.
    text = text.replace("STARTED", "os.read(os.open('started', os.O_RDONLY), 1)")
    start(program, start_method, f"pool = fullcourt.Pool(2, start_method=METHOD)\n{text}")
    assert program.wait(20) == status
    program.assert_nobody_is_left()
    errors = program.stderr()
    if last_line:
        assert errors.count("Traceback (most recent call last)") == 1, errors
        assert last_line in errors.splitlines(), errors
    else:
        assert errors == ""


def test_a_failing_task_that_nobody_catches_is_told_once_with_its_item(start_method: str, program: Program) -> None:
    text = """
        def divide(x):
            return 1 / x

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            pool.map(divide, [1, 2, 0])
    """
    start(program, start_method, text)
    assert program.wait(20) == 1
    program.assert_nobody_is_left()
    errors = program.stderr()
    assert "ZeroDivisionError: division by zero" in errors
    assert "divide" in errors
    assert "return 1 / x" in errors or "in divide" in errors  # the worker's own traceback
    assert errors.splitlines()[-1] != ""


def test_output_that_was_not_flushed_is_written_once(start_method: str, program: Program) -> None:
    text = """
        sys.stdout.write("not flushed yet. ")
        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(abs, [-1]))
    """
    start(program, start_method, text)
    assert program.wait(20) == 0
    assert program.stdout() == "not flushed yet. [1]\n"


def test_a_worker_that_is_killed_costs_its_task_alone(start_method: str, program: Program) -> None:
    text = """
        import signal
        from concurrent.futures.process import BrokenProcessPool

        def work(x):
            if x == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return x

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            outcomes = pool.map(work, range(5), on_error="return")
        died = outcomes.pop(2)
        print(outcomes, died.index, isinstance(died.exception, BrokenProcessPool), "SIGKILL" in str(died.exception))
    """
    start(program, start_method, text)
    assert program.wait(20) == 0
    program.assert_nobody_is_left()
    assert program.stdout() == "[0, 1, 3, 4] 2 True True\n"
    assert program.stderr() == ""
