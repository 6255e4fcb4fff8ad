"""Threads of which it is known what they do with the GIL, because they keep their own clocks.

Each thread is a generator-free loop over a *step*, whose parts note their CPU time: what Python code used (it holds the
GIL), what native code used (it does not), how long was slept. What is left of the wall time, less the kernel's count of
time in the queue for a core, was spent waiting: for the GIL, or for a socket.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, thread_time

__all__ = ["LOADS", "Truth", "run"]


@dataclass
class Truth:
    """What one thread did, by its own clocks, in seconds."""

    name: str
    tid: int = 0
    wall_s: float = 0.0
    python_s: float = 0.0
    native_s: float = 0.0
    queued_s: float = 0.0
    slept_s: float = 0.0
    waited_s: float = 0.0  # for a socket; what of it was the GIL is not known
    n_steps: int = 0

    @property
    def gil_wait_s(self) -> float:
        """What is left."""
        known = self.python_s + self.native_s + self.queued_s + self.slept_s + self.waited_s
        return max(0.0, self.wall_s - known)


def python(truth: Truth, n: int = 20_000) -> None:
    """Pure Python: some hundred microseconds."""
    began = thread_time()
    for _ in range(n):
        pass
    truth.python_s += thread_time() - began


DATA = bytes(range(256)) * 8192  # 2 MiB


def hashing(truth: Truth) -> None:
    began = thread_time()
    hashlib.sha256(DATA).digest()
    truth.native_s += thread_time() - began


def compressing(truth: Truth) -> None:
    began = thread_time()
    zlib.compress(DATA, 1)
    truth.native_s += thread_time() - began


def sleeping(truth: Truth, seconds: float = 0.01) -> None:
    """What a sleep takes longer than asked for is the GIL, or the timer: some 0.1 ms."""
    time.sleep(seconds)
    truth.slept_s += seconds


def mixed(truth: Truth) -> None:
    """A duty cycle: 2 ms of Python, as much native code, 4 ms of sleep, about."""
    python(truth, 100_000)
    hashing(truth)
    sleeping(truth, 0.004)


def products(truth: Truth) -> None:
    import numpy as np

    matrix = np.ones((384, 384))
    began = thread_time()
    matrix @ matrix
    truth.native_s += thread_time() - began


def small_arrays(truth: Truth) -> None:
    import numpy as np

    array = np.ones(16)
    began = thread_time()
    for _ in range(500):
        array + array
    truth.python_s += thread_time() - began


def echo(truth: Truth, state: dict[str, socket.socket], think_s: float) -> None:
    """A round trip with another thread; what it waits for is not told apart."""
    client = state.get("client")
    if client is None:
        client, server = socket.socketpair()
        state["client"] = client

        def serve() -> None:
            with server:
                while data := server.recv(64):
                    if think_s:
                        time.sleep(think_s)
                    server.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
    cpu, began = thread_time(), perf_counter()
    client.sendall(b"x")
    client.recv(64)
    used = thread_time() - cpu
    truth.native_s += used
    truth.waited_s += perf_counter() - began - used


Step = Callable[[Truth], None]


def echo_step(think_s: float) -> Step:
    state: dict[str, socket.socket] = {}
    return lambda truth: echo(truth, state, think_s)


# By name: the steps of the threads.
LOADS: dict[str, Callable[[], list[tuple[str, Step]]]] = {
    "one Python loop": lambda: [("python", python)],
    "two Python loops": lambda: [("python", python)] * 2,
    "four Python loops": lambda: [("python", python)] * 4,
    "one hasher": lambda: [("hashing", hashing)],
    "two hashers": lambda: [("hashing", hashing)] * 2,
    "two compressors": lambda: [("compressing", compressing)] * 2,
    "a loop and a hasher": lambda: [("python", python), ("hashing", hashing)],
    "four sleepers": lambda: [("sleeping", sleeping)] * 4,
    "a loop and a sleeper": lambda: [("python", python), ("sleeping", sleeping)],
    "a duty cycle": lambda: [("mixed", mixed)],
    "three duty cycles": lambda: [("mixed", mixed)] * 3,
    "a duty cycle and a loop": lambda: [("mixed", mixed), ("python", python)],
    "an echo that thinks 2 ms": lambda: [("echo", echo_step(0.002))],
    "an echo that thinks, and a loop": lambda: [("echo", echo_step(0.002)), ("python", python)],
    "a bare echo (flagged)": lambda: [("echo", echo_step(0.0))],
    "matrix products": lambda: [("products", products)],
    "two small-array loops": lambda: [("small arrays", small_arrays)] * 2,
}


def queued_ns() -> int:
    with open("/proc/thread-self/schedstat", "rb") as file:
        return int(file.read().split()[1])


def run(name: str, seconds: float, ready: threading.Event, go: threading.Event) -> list[Truth]:
    """Run a load for about so many seconds; `ready` is set when its threads wait for `go`. Blocks."""
    steps = LOADS[name]()
    truths = [Truth(kind) for kind, _ in steps]
    barrier = threading.Barrier(len(steps) + 1)

    def work(truth: Truth, step: Step) -> None:
        step(Truth("warm"))
        truth.tid = threading.get_native_id()
        barrier.wait()
        go.wait()
        queued, began = queued_ns(), perf_counter()
        end = began + seconds
        while perf_counter() < end:
            step(truth)
            truth.n_steps += 1
        truth.wall_s = perf_counter() - began
        truth.queued_s = (queued_ns() - queued) * 1e-9

    threads = [threading.Thread(target=work, args=pair) for pair in zip(truths, [s for _, s in steps], strict=True)]
    for thread in threads:
        thread.start()
    barrier.wait()
    ready.set()
    for thread in threads:
        thread.join()
    return truths
