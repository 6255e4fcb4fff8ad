"""What the tests of advice run: importable in workers."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from typing import Any

from fullcourt._advise.facts import Facts, Stretch, Transport

BLOCK = bytes(1 << 16)


def record(pair: tuple[str, int]) -> int:
    """Note that this item ran, in a file that all processes share; a line is written at once."""
    path, item = pair
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{item}\n".encode())
    finally:
        os.close(fd)
    return item * item


def compute(n: int) -> int:
    """Pure Python, about a millisecond."""
    total = 0
    for i in range(10_000):
        total += i * n
    return total


def digest(n: int) -> str:
    return hashlib.sha256(BLOCK).hexdigest()


def wait(n: int) -> int:
    time.sleep(0.002)
    return n


def wait_long(n: int) -> int:
    time.sleep(0.02)
    return n


def fail_on_seven(n: int) -> int:
    time.sleep(0.001)
    if n == 7:
        raise ValueError("seven")
    return n


def add(a: int, b: int) -> int:
    time.sleep(0.001)
    return a + b


def where(n: int) -> tuple[int, int]:
    time.sleep(0.001)
    return n, os.getpid()


def give_lock(n: int) -> Any:
    """A result that does not pickle."""
    time.sleep(0.001)
    return threading.Lock()


def nothing() -> None:
    pass


def facts_like(
    kind: str, *, wall: float = 0.001, obstacle: str = "", cores: int = 2, free_threaded: bool = False
) -> Facts:
    """Facts of a function that computes in Python, or in native code, or does both, or waits."""
    transport = Transport(obstacle, 8, 1e-6, 1e-6, 8, 1e-6, 1e-6)
    if kind == "python":
        alone = Stretch(100, 1.0, wall, wall, gil_s=None if free_threaded else wall)
        pair = Stretch(100, 2.0, wall if free_threaded else 2 * wall, wall)
    elif kind == "native":
        alone = Stretch(100, 1.0, wall, wall, gil_s=0.01 * wall)
        pair = Stretch(100, 2.0, wall, wall)
    elif kind == "both":  # computes in Python for three tenths, and waits
        alone = Stretch(100, 1.0, wall, 0.3 * wall, gil_s=0.3 * wall)
        pair = Stretch(100, 2.0, wall, 0.3 * wall)
    else:
        alone = Stretch(100, 1.0, wall, 0.01 * wall, gil_s=0.01 * wall)
        pair = Stretch(100, 2.0, wall, 0.01 * wall)
    return Facts(alone, pair, transport, cores, free_threaded, start_method="fork")


def add_one(n: int) -> int:
    return n + 1


here = threading.local()


def prepare(word: str) -> None:
    here.word = word


def prepared(n: int) -> str:
    return here.word


def pid_of(_: object) -> int:
    return os.getpid()


LOCK = threading.Lock()
KNOWN: list[str] = []


def hold_lock(until: threading.Event) -> None:
    with LOCK:
        until.wait(120)


def take_lock(_: object) -> int:
    if not LOCK.acquire(timeout=10):
        raise TimeoutError("it was held when this process was forked")
    LOCK.release()
    return os.getpid()


def known(_: object) -> list[str]:
    return KNOWN


def nap_and_record(triple: tuple[str, int, float]) -> int:
    """Take 10 ms in the program's process, and so long in others; note that this item ran."""
    path, item, elsewhere_s = triple
    time.sleep(0.01 if os.getpid() == PROGRAM else elsewhere_s)
    return record((path, item))


PROGRAM = os.getpid()  # forked workers have their program's


def kind_of(item: object) -> str:
    time.sleep(0.001)
    return type(item).__name__
