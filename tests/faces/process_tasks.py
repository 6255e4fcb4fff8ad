"""What the processes of the faces' tests run; imported by name."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

from fullcourt.multiprocessing import Process, current_process, parent_process


def describe(queue: Any) -> None:
    here, parent = current_process(), parent_process()
    assert parent is not None
    queue.put((here.name, here.pid == os.getpid(), here.daemon, bytes(here.authkey), parent.pid, parent.is_alive()))


def fail() -> None:
    raise ValueError("out of bounds")


def leave(code: Any) -> None:
    sys.exit(code)


def unpicklable() -> Any:
    return threading.Lock()


class Counter(Process):
    """A subclass, as programs write them."""

    def __init__(self, queue: Any, n: int) -> None:
        super().__init__(name="counter", daemon=True)
        self.queue = queue
        self.n = n

    def run(self) -> None:
        for i in range(self.n):
            self.queue.put(i)


def has_children(queue: Any) -> None:
    child = Process(target=queue.put, args=("grandchild",))
    child.start()
    child.join()
    queue.put((child.name, child.exitcode))


def add(value: Any, lock: Any, n: int) -> None:
    for _ in range(n):
        with lock:
            value.value += 1


def wait_for_value(value: Any, condition: Any) -> None:
    with condition:
        value.value = 1
        condition.notify()


def write_shared(name: str) -> None:
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(name)
    memory.buf[0] = 7
    memory.close()


def square(x: int) -> int:
    return x * x


def append(numbers: Any, n: int) -> None:
    numbers.append(n)
