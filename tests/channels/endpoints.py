"""Ways to run a function elsewhere: what the conformance tests of queues, pipes and locks run against."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

import fullcourt

KINDS = ["thread", "fork", "forkserver", "spawn", "pool-fork", "pool-forkserver", "pool-spawn", "pool-threads"]
KINDS += ["process-fork", "process-forkserver", "process-spawn"]  # fullcourt's; the plain ones are multiprocessing's
if sys.version_info >= (3, 14):
    KINDS.append("pool-interpreters")
# The same, those that start interpreters marked as slow: one test runs against all of them in any case.
QUICK_KINDS = [
    pytest.param(kind, marks=pytest.mark.slow) if kind.endswith(("forkserver", "spawn")) else kind for kind in KINDS
]
# Those whose endpoints can be killed, one by one.
PROCESS_KINDS = ["fork", "forkserver", "spawn"]


class Endpoint:
    """Runs functions elsewhere, each on its own thread, process or slot."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pool: Any = None
        self.running: list[Any] = []
        way = kind.partition("pool-")[2]
        if way == "threads":
            self.pool = fullcourt.Pool(processes=0, threads=4)
        elif way == "interpreters":
            self.pool = fullcourt.Pool(interpreters=2)
        elif way:
            self.pool = fullcourt.Pool(processes=4, start_method=way)

    def start(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run a function elsewhere; the arguments travel there."""
        if self.pool is not None:
            future = self.pool.submit(fn, *args)
            self.running.append(future.result)
            return future
        if self.kind == "thread":
            thread = threading.Thread(target=fn, args=args)
            thread.start()
            self.running.append(thread.join)
            return thread
        ours = self.kind.partition("process-")[2]
        process: Any
        if ours:
            process = fullcourt.Process(target=fn, args=args, start_method=ours)
        else:
            process = cast("Any", multiprocessing.get_context(self.kind)).Process(target=fn, args=args)
        process.start()
        self.running.append(process.join)
        return process

    def join(self) -> None:
        """Wait for all that was started."""
        for wait in self.running:
            wait(30)
        self.running.clear()

    def close(self) -> None:
        if self.pool is not None:
            self.pool.terminate()
            if self.kind not in {
                "pool-threads",
                "pool-interpreters",
            }:  # there a task may still wait for what never comes
                self.pool.join()


@contextlib.contextmanager
def endpoint(kind: str) -> Iterator[Endpoint]:
    there = Endpoint(kind)
    try:
        yield there
        there.join()
    finally:
        there.close()


def fork(fn: Callable[[], object]) -> int:
    """Run a function in a forked child. Returns its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        fn()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def wait_and_notify(condition: Any) -> list[bool]:
    """Have a thread wait for a condition, and notify it. What `wait` told it."""
    told: list[bool] = []
    ready = threading.Event()

    def wait() -> None:
        with condition:
            ready.set()
            told.append(condition.wait(10))

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait(10)
    with condition:
        condition.notify()
    thread.join(20)
    return told


def reap(pid: int) -> int:
    """Wait for a child. Returns its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert reap(pid) == -signal.SIGKILL


def die_at(n: int) -> None:
    """Have this process kill itself before the nth instruction that it executes in the package's channels."""
    left = n

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        name = frame.f_code.co_filename
        if "/fullcourt/channels/" not in name and "/fullcourt/_transport/" not in name:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def sweep(operation: Callable[[], object], check: Callable[[bool], object], step: int = 1) -> int:
    """Run an operation in a child that is killed at its nth instruction, for n up to where one finishes unharmed.

    After each, `check` is called in this process; with whether the child finished. Returns about how many were killed.
    """
    n = random.randint(1, step)
    while True:

        def child(n: int = n) -> None:
            die_at(n)
            operation()
            sys.settrace(None)

        code = reap(fork(child))
        assert code in {0, -signal.SIGKILL}, f"the child, to be killed at instruction {n}, ended with {code}"
        check(code == 0)
        if code == 0:
            return n // step
        n += step
