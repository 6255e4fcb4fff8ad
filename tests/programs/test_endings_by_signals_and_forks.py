"""The rarer ends of programs: two interrupts, handlers that raise, `os._exit`, forks, exec, threads, nested pools."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from tests.methods import start_methods
from tests.programs.running import GONE_S, HAS_PIDFD, start, still_there

if TYPE_CHECKING:
    from tests.programs.running import Program, Starts

pytestmark = pytest.mark.skipif(not HAS_PIDFD, reason="waits on pidfds, which only Linux has")

# How the main thread waits when the signal comes; two tasks have started by then.
WAITS = {
    "for a map": "pool = fullcourt.Pool(2, start_method=METHOD)\npool.map(sleep, range(4), chunksize=1)",
    "in a with block": (
        "with fullcourt.Pool(2, start_method=METHOD) as pool:\n    pool.map(deaf, range(4), chunksize=1)"
    ),
    "at the end of a with block": (
        "with fullcourt.Pool(2, start_method=METHOD) as pool:\n    [pool.submit(compute) for _ in range(4)]"
    ),
    "for something else": (
        """
        pool = fullcourt.Pool(2, start_method=METHOD)
        futures = [pool.submit(sleep) for _ in range(4)]
        time.sleep(100)
        """
    ),
}
METHODS = start_methods()
DEAF = """
import signal

def deaf(*_):
    started()
    while True:
        try:
            time.sleep(100)
        except BaseException:
            pass

"""


@pytest.fixture(params=[pytest.param(m, marks=[pytest.mark.slow] if m == "spawn" else []) for m in METHODS])
def start_method(request: pytest.FixtureRequest) -> str:
    """Spawn with the slow tests: its parent is the same."""
    return str(request.param)


def run_until_started(program: Program, starts: Starts, start_method: str, text: str, n: int = 2) -> int:
    """Start a program, wait until so many tasks have started; its pid."""
    start(program, start_method, DEAF + textwrap.dedent(text))
    starts.wait(n)
    assert program.process is not None
    return program.process.pid


@pytest.mark.parametrize("waits", WAITS)
def test_a_second_ctrl_c_changes_nothing_but_the_time(
    waits: str, start_method: str, program: Program, starts: Starts
) -> None:
    pid = run_until_started(program, starts, start_method, WAITS[waits])
    interrupted = time.monotonic()
    os.killpg(pid, signal.SIGINT)
    os.killpg(pid, signal.SIGINT)
    program.wait(10 + GONE_S)
    took_s = time.monotonic() - interrupted
    program.assert_nobody_is_left()
    assert took_s < GONE_S
    assert "KeyboardInterrupt" in program.stderr()  # the second may come while the first is told, or at the exit


def test_a_second_ctrl_c_ends_a_program_that_holds_on(start_method: str, program: Program, starts: Starts) -> None:
    text = """
        pool = fullcourt.Pool(2, start_method=METHOD)
        try:
            pool.map(sleep, range(2), chunksize=1)
        except KeyboardInterrupt:
            print("first", flush=True)
            pool.submit(sleep).result()
    """
    pid = run_until_started(program, starts, start_method, text)
    os.killpg(pid, signal.SIGINT)
    starts.wait(1)
    interrupted = time.monotonic()
    os.killpg(pid, signal.SIGINT)
    assert program.wait(10 + GONE_S) == -signal.SIGINT
    assert time.monotonic() - interrupted < GONE_S
    program.assert_nobody_is_left()
    assert program.stdout() == "first\n"


@pytest.mark.parametrize("waits", WAITS)
def test_a_sigterm_handler_that_exits_is_obeyed(
    waits: str, start_method: str, program: Program, starts: Starts
) -> None:
    text = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(43))\n" + textwrap.dedent(WAITS[waits])
    pid = run_until_started(program, starts, start_method, text)
    terminated = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    status = program.wait(10 + GONE_S)
    took_s = time.monotonic() - terminated
    program.assert_nobody_is_left()
    assert (status, program.stderr()) == (43, "")
    assert took_s < GONE_S


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT, signal.SIGSEGV])
def test_nobody_outlives_a_program_that_any_signal_ends(
    number: signal.Signals, start_method: str, program: Program, starts: Starts
) -> None:
    text = "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n" + WAITS["in a with block"]
    pid = run_until_started(program, starts, start_method, text)
    os.kill(pid, number)
    assert program.wait(10) == -number
    program.assert_nobody_is_left()


# What a program does, its exit status, what it prints.
ACTS: dict[str, tuple[str, int, str]] = {
    "calls os._exit": ("future = pool.submit(sleep)\nSTARTED\nos._exit(5)", 5, ""),
    "calls os._exit in a with block": (
        "with pool:\n    future = pool.submit(deaf)\n    STARTED\n    os._exit(5)",
        5,
        "",
    ),
    "calls os._exit from another thread": (
        """
        import threading
        future = pool.submit(sleep)
        STARTED
        threading.Thread(target=os._exit, args=(5,)).start()
        future.result()
        """,
        5,
        "",
    ),
    "execs another program": (
        "future = pool.submit(sleep)\nSTARTED\nos.execv(sys.executable, [sys.executable, '-c', 'print(6)'])",
        0,
        "6\n",
    ),
    "forks a child that execs": (
        """
        pool.map(abs, range(4))
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "print(6)"])
        os.wait()
        print(pool.map(abs, [-7]))
        """,
        0,
        "6\n[7]\n",
    ),
    "forks a child that exits": (
        """
        pool.map(abs, range(4))
        if os.fork() == 0:
            sys.exit(0)
        print(os.wait()[1], pool.map(abs, [-7]))
        """,
        0,
        "0 [7]\n",
    ),
    "forks a child that exits from a with block": (
        """
        with pool:
            pool.map(abs, range(4))
            if os.fork() == 0:
                sys.exit(0)
            print(os.wait()[1], pool.map(abs, [-7]))
        """,
        0,
        "0 [7]\n",
    ),
    "forks a child while tasks run, which uses the pool": (
        """
        future = pool.submit(abs, -7)
        running = pool.submit(sleep)
        STARTED
        if os.fork() == 0:
            try:
                pool.map(abs, [-1])
            except fullcourt.PoolClosed as error:
                print("belongs to process" in str(error), flush=True)
            sys.exit(0)
        os.wait()
        print(future.result(), running.cancel())
        """,
        0,
        "True\n7 True\n",
    ),
    "forks a child that has a pool of its own": (
        """
        pool.map(abs, range(4))
        if os.fork() == 0:
            with fullcourt.Pool(2, start_method=METHOD) as mine:
                print(mine.map(abs, [-6]), flush=True)
            sys.exit(0)
        print(os.wait()[1], pool.map(abs, [-7]))
        """,
        0,
        "[6]\n0 [7]\n",
    ),
    "runs a process of the standard library": (
        """
        import multiprocessing
        pool.map(abs, range(4))
        process = multiprocessing.get_context("fork").Process(target=print, args=(6,))
        process.start()
        process.join()
        print(process.exitcode, pool.map(abs, [-7]))
        """,
        0,
        "6\n0 [7]\n",
    ),
    "exits while a daemon thread uses the pool": (
        """
        import threading
        def use():
            while True:
                pool.map(abs, range(100))
        threading.Thread(target=use, daemon=True).start()
        time.sleep(0.2)
        """,
        0,
        "",
    ),
    "exits while a daemon thread waits for a result": (
        """
        import threading
        threading.Thread(target=lambda: pool.submit(sleep).result(), daemon=True).start()
        STARTED
        """,
        0,
        "",
    ),
    "ends its main thread while another uses the pool": (
        """
        import threading
        def use():
            time.sleep(0.1)
            print(pool.map(abs, [-7]))
        threading.Thread(target=use).start()
        """,
        0,
        "[7]\n",
    ),
    "opens a pool in a task and exits": (
        """
        def inner():
            with fullcourt.Pool(2) as pool:
                pool.map(sleep, range(2), chunksize=1)
        future = pool.submit(inner)
        STARTED
        """,
        0,
        "",
    ),
    "leaves many pools": ("pools = [fullcourt.Pool(1, start_method=METHOD) for _ in range(5)]", 0, ""),
    "dies of its own signal": (
        "future = pool.submit(sleep)\nSTARTED\nos.kill(os.getpid(), signal.SIGKILL)",
        -signal.SIGKILL,
        "",
    ),
}


@pytest.mark.parametrize("act", ACTS)
def test_nobody_is_left_when_a_program(act: str, start_method: str, program: Program, starts: Starts) -> None:
    text, status, output = ACTS[act]
    # The program itself waits for its task here: the pipe's reading end stays open in the test, so no byte is lost.
    text = text.replace("STARTED", "os.read(os.open('started', os.O_RDONLY), 1)")
    start(
        program,
        start_method,
        DEAF
        + "import warnings\nwarnings.simplefilter('ignore', DeprecationWarning)  # of os.fork beside threads\n"
        + "pool = fullcourt.Pool(2, start_method=METHOD)\n"
        + textwrap.dedent(text),
    )
    assert program.wait(20) == status, program.stderr()
    program.assert_nobody_is_left()
    assert program.stdout() == output, program.stderr()
    if "daemon thread" in act:  # its call is cancelled, which Python tells as any thread's exception
        endings = [line for line in program.stderr().splitlines() if line.startswith("fullcourt.")]
        assert all("TaskCancelled" in line or "PoolClosed" in line for line in endings), program.stderr()
    else:
        assert program.stderr() == ""


@pytest.mark.faults
def test_workers_of_nested_pools_go_when_the_program_is_killed(
    start_method: str, program: Program, starts: Starts
) -> None:
    text = """
        def inner(_):
            with fullcourt.Pool(2) as pool:
                pool.map(deaf, range(2), chunksize=1)

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            pool.map(inner, range(2), chunksize=1)
    """
    pid = run_until_started(program, starts, start_method, textwrap.dedent(text), n=4)
    workers = program.workers()
    assert len(workers) >= 6
    os.kill(pid, signal.SIGKILL)
    program.wait(10)
    assert still_there(workers, GONE_S) == []
    program.assert_nobody_is_left()


@pytest.mark.faults
def test_workers_go_when_the_program_is_killed_and_a_fork_of_it_lives_on(
    start_method: str, program: Program, starts: Starts
) -> None:
    """The fork holds the pool's ends of all links open: no end of file tells that the pool is gone."""
    text = """
        import warnings
        warnings.simplefilter('ignore', DeprecationWarning)
        pool = fullcourt.Pool(2, start_method=METHOD)
        futures = [pool.submit(deaf) for _ in range(2)]
        while sum(future.running() for future in futures) < 2:
            time.sleep(0.01)
        fork = os.fork()
        if fork == 0:
            started()
            time.sleep(100)
        print(fork, flush=True)
        time.sleep(100)
    """
    pid = run_until_started(program, starts, start_method, textwrap.dedent(text), n=3)
    while not program.stdout().endswith("\n"):
        time.sleep(0.01)
    fork = int(program.stdout())
    workers = [worker for worker in program.workers() if worker != fork]
    assert len(workers) >= 2
    os.kill(pid, signal.SIGKILL)
    program.wait(10)
    assert still_there(workers, GONE_S) == []
    os.kill(fork, signal.SIGKILL)
    program.assert_nobody_is_left()
