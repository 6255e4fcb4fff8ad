"""What the faces' tests run in workers: importable by name under every start method."""

from __future__ import annotations

import multiprocessing.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

shared: list[Any] = []


def keep(*values: Any) -> None:
    """An initializer: keep what it was given."""
    shared[:] = values


def kept() -> list[Any]:
    return list(shared)


def count_up(times: int) -> None:
    """Add to a shared value under a lock."""
    lock, value = shared
    for _ in range(times):
        with lock:
            value.value += 1


def put_through_queue(item: Any) -> int:
    shared[0].put((item, os.getpid()))
    return os.getpid()


def who_am_i(_: Any = None) -> tuple[str, tuple[int, ...], int, bool]:
    process: Any = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    assert parent is not None
    return process.name, process._identity, parent.pid or 0, parent.is_alive()


def double(x: int) -> int:
    return 2 * x


def reciprocal(x: int) -> float:
    return 1 / x


def die(_: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(*_: Any) -> None:
    raise ValueError("this initializer refuses")


def leave() -> None:
    sys.exit(3)


def write_and_wait(path: str) -> str:
    """Say that it has begun, and wait until the file holds "go"."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("began ")
    while "go" not in Path(path).read_text(encoding="utf-8"):
        time.sleep(0.005)
    return "went"


def note(path: str, item: Any) -> Any:
    """Leave a trace of having run."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{item}\n".encode())
    os.close(fd)
    return item


def fail_on_three(path: str, item: int) -> int:
    note(path, item)
    if item == 3:
        raise ValueError("three")
    return item


class Unreadable:
    """Pickles, and cannot be read back."""

    def __reduce__(self) -> Any:
        return int, ("not a number",)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("it will not be pickled")


def unreadable() -> Unreadable:
    return Unreadable()


def send(connection: Any, value: Any) -> None:
    connection.send(value)
    connection.close()


def set_in(mapping: Any, key: Any, value: Any) -> None:
    mapping[key] = value


def stay_at_the_end(path: str) -> int:
    """Have this process end only when there is such a file, or after 10 s; returns its number."""
    multiprocessing.util.Finalize(None, wait_for_file, args=(path,), exitpriority=1)
    return os.getpid()


def wait_for_file(path: str) -> None:
    deadline = time.monotonic() + 10
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.005)
