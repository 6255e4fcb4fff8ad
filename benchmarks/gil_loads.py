"""Threads of which it is known what they do with the GIL, because they keep their own clocks.

Each thread repeats a *step*: some parts of Python code, which hold the GIL, of native code, which does not, and of
sleep. Its CPU time is read at the run's begin and end only, and divided among the parts as they take it when the thread
is alone: the kernel takes that reading for an opportunity to give the core to another, so a sampler that waits for one
would find the thread at its clock, with the GIL, in every second look. What is left of the wall time, less the kernel's
count of time in the queue for a core, was spent waiting: for the GIL, or for a socket.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter, thread_time

__all__ = ["LOADS", "Truth", "run"]

N_ALONE = 20  # steps by which the parts are measured


@dataclass
class Truth:
    """What one thread did, by its own clocks, in seconds."""

    name: str
    tid: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    python_s: float = 0.0
    native_s: float = 0.0
    queued_s: float = 0.0
    slept_s: float = 0.0
    n_steps: int = 0
    waits: bool = False  # for a socket; what of it was the GIL is not known

    @property
    def gil_wait_s(self) -> float:
        """What is left."""
        return max(0.0, self.wall_s - self.cpu_s - self.queued_s - self.slept_s)


@dataclass
class Step:
    """What a thread repeats: in this order, Python code, native code, a sleep, a round trip."""

    name: str
    python: Callable[[], object] | None = None
    native: Callable[[], object] | None = None
    sleep_s: float = 0.0
    trip: Callable[[], object] | None = None
    parts: list[Callable[[], object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        sleep = (lambda: time.sleep(self.sleep_s)) if self.sleep_s else None
        self.parts = [part for part in (self.python, self.native, sleep, self.trip) if part is not None]

    def share_of_python(self) -> float:
        """Of its CPU time, measured in this thread, alone."""
        used = {self.python: 0.0, self.native: 0.0}
        for part in (self.python, self.native):
            for _ in range(N_ALONE if part is not None else 0):
                began = thread_time()
                part()  # type: ignore[misc]
                used[part] += thread_time() - began
        in_python = used[self.python] if self.python is not None else 0.0
        total = sum(used.values())
        return in_python / total if total else 0.0


def loop(n: int = 20_000) -> None:
    """Pure Python: some hundred microseconds."""
    for _ in range(n):
        pass


DATA = bytes(range(256)) * 8192  # 2 MiB


def sha256() -> bytes:
    return hashlib.sha256(DATA).digest()


def products() -> Step:
    import numpy as np

    matrix = np.ones((384, 384))
    return Step("products", native=lambda: matrix @ matrix)


def small_arrays() -> Step:
    import numpy as np

    array = np.ones(16)

    def add() -> None:
        for _ in range(500):
            array + array

    return Step("small arrays", python=add)


def echo(think_s: float) -> Step:
    """A round trip with another thread; what it waits for is not told apart."""
    client: list[socket.socket] = []

    def trip() -> None:
        if not client:
            mine, server = socket.socketpair()
            client.append(mine)

            def serve() -> None:
                with server:
                    while data := server.recv(64):
                        if think_s:
                            time.sleep(think_s)
                        server.sendall(data)

            threading.Thread(target=serve, daemon=True).start()
        client[0].sendall(b"x")
        client[0].recv(64)

    return Step("echo", trip=trip)


PYTHON = Step("python", python=loop)
HASHING = Step("hashing", native=sha256)
COMPRESSING = Step("compressing", native=lambda: zlib.compress(DATA, 1))
SLEEPING = Step("sleeping", sleep_s=0.01)  # what it takes longer than asked for is the GIL, or the timer: some 0.1 ms
MIXED = Step("mixed", python=lambda: loop(100_000), native=sha256, sleep_s=0.004)  # 2 ms each, and the sleep


# By name: the steps of the threads.
LOADS: dict[str, Callable[[], list[Step]]] = {
    "one Python loop": lambda: [PYTHON],
    "two Python loops": lambda: [PYTHON] * 2,
    "four Python loops": lambda: [PYTHON] * 4,
    "one hasher": lambda: [HASHING],
    "two hashers": lambda: [HASHING] * 2,
    "two compressors": lambda: [COMPRESSING] * 2,
    "a loop and a hasher": lambda: [PYTHON, HASHING],
    "four sleepers": lambda: [SLEEPING] * 4,
    "a loop and a sleeper": lambda: [PYTHON, SLEEPING],
    "a duty cycle": lambda: [MIXED],
    "three duty cycles": lambda: [MIXED] * 3,
    "a duty cycle and a loop": lambda: [MIXED, PYTHON],
    "an echo that thinks 2 ms": lambda: [echo(0.002)],
    "an echo that thinks, and a loop": lambda: [echo(0.002), PYTHON],
    "a bare echo (flagged)": lambda: [echo(0.0)],
    "matrix products": lambda: [products()],
    "two small-array loops": lambda: [small_arrays(), small_arrays()],
}


def queued_ns() -> int:
    with open("/proc/thread-self/schedstat", "rb") as file:
        return int(file.read().split()[1])


def run(name: str, seconds: float, ready: threading.Event, go: threading.Event, truths: list[Truth]) -> None:
    """Run a load for about so many seconds; `ready` is set when its threads wait for `go`. Blocks.

    `truths` is filled before that; the numbers of steps in it grow as they are taken, the rest comes at the end.
    """
    steps = LOADS[name]()
    truths += [Truth(step.name, waits=step.trip is not None) for step in steps]
    alone = threading.Lock()
    barrier = threading.Barrier(len(steps) + 1)

    def work(truth: Truth, step: Step) -> None:
        with alone:
            share = step.share_of_python()
        parts = step.parts
        truth.tid = threading.get_native_id()
        barrier.wait()
        go.wait()
        queued, cpu, began = queued_ns(), thread_time(), perf_counter()
        end = began + seconds
        while perf_counter() < end:
            for part in parts:
                part()
            truth.n_steps += 1
        truth.wall_s = perf_counter() - began
        truth.cpu_s = thread_time() - cpu
        truth.queued_s = (queued_ns() - queued) * 1e-9
        truth.slept_s = truth.n_steps * step.sleep_s
        truth.python_s = truth.cpu_s * share if not truth.waits else 0.0
        truth.native_s = truth.cpu_s - truth.python_s

    threads = [threading.Thread(target=work, args=pair) for pair in zip(truths, steps, strict=True)]
    for thread in threads:
        thread.start()
    barrier.wait()
    ready.set()
    for thread in threads:
        thread.join()
