"""Tasks that die. Imports stay light: under ``spawn`` every worker pays for them."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


def leave_two_behind(_: object) -> tuple[int, int]:
    """Start a process that starts another, and wait for neither of the two. Returns their pids."""
    code = "sleep 0.1 & echo $!"
    child = subprocess.Popen(["sh", "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    child.stdout.close()
    child.returncode = 0  # for its `__del__`, which would warn
    return child.pid, grandchild


def die(how: str) -> NoReturn:
    """End this process in the way named: ``SIGKILL``, ``exit 3`` or ``SIGABRT``."""
    with contextlib.suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "exit 3":
        os._exit(3)
    elif how == "SIGABRT":
        import faulthandler

        faulthandler.disable()  # pytest enables it in whoever forks from it; its dump would be noise
        os.abort()
    raise AssertionError(f"survived {how}")


def append_line(path: str, text: object) -> None:
    """One line, atomically: O_APPEND writes of a line do not interleave on a local file system."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def square(x: int) -> int:
    return x * x


def square_or_die(journal: str, deadly: int, how: str, item: int) -> int:
    """Note item and pid in the journal, then die if the item is the deadly one."""
    append_line(journal, f"{item} {os.getpid()}")
    if item == deadly:
        die(how)
    return item * item


def note_and_square(journal: str, item: int) -> int:
    append_line(journal, f"{item} {os.getpid()}")
    return item * item


def note_and_work(journal: str, item: int) -> int:
    append_line(journal, f"{item} {os.getpid()}")
    return item * item + 0 * sum(range(2_000))


def spin_holding_the_gil() -> None:
    while True:
        pass


def one_long_call_in_c() -> int:
    """Hold the GIL in one C call for hours: no Python code, and so no watching thread, runs meanwhile."""
    return sum(range(10**13))


def ignore_polite_signals() -> None:
    """Block as a stubborn worker would, deaf to SIGTERM and SIGINT."""
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    spin_holding_the_gil()


def die_in_initializer(journal: str) -> NoReturn:
    append_line(journal, os.getpid())
    os._exit(3)


class KillsWhoUnpicklesIt:
    """An argument at which a worker dies before the task has begun."""

    def __init__(self, journal: str) -> None:
        self.journal = journal

    def __reduce__(self) -> Any:
        return note_and_exit, (self.journal, os.getpid())

    def __call__(self, x: int) -> int:
        return x


def note_and_exit(journal: str, pickled_by: int) -> str:
    if os.getpid() != pickled_by:
        append_line(journal, os.getpid())
        os._exit(3)
    return "read where it was written"


class KillsWhoPicklesIt:
    """A result at which a worker dies after the task has ended."""

    def __reduce__(self) -> Any:
        os._exit(3)


def return_a_killer(journal: str) -> KillsWhoPicklesIt:
    append_line(journal, os.getpid())
    return KillsWhoPicklesIt()


def large_result_then_die(n_bytes: int) -> bytes:
    """Die a moment after the answer was made, from a thread, while it may be on its way."""
    import threading

    threading.Timer(0.001, os._exit, (3,)).start()
    return bytes(n_bytes)


def start_a_child_and_wait(journal: str) -> None:
    """Fork a grandchild that holds this worker's descriptors open, then die."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)  # until the writing end is closed, which its parent's death does
        os._exit(0)
    append_line(journal, pid)
    os.kill(os.getpid(), signal.SIGKILL)


# --- tasks of the sweeps


def result_of(kind: str, i: int) -> Any:
    """What the task of that kind and number gives; an exception: it raises that."""
    if kind == "none":
        return None
    if kind == "text":
        return f"result {i}"
    if kind == "block":
        return bytes([i % 256]) * 80_000  # beyond what travels in a frame
    if kind == "error":
        return ValueError(i)
    return i * i


def note_and_give(log: str, kinds: tuple[str, ...], i: int) -> Any:
    """Append one's number to the log, then give (or raise) the result of one's kind."""
    append_line(log, i)
    result = result_of(kinds[i % len(kinds)], i)
    if isinstance(result, Exception):
        raise result
    return result


def note_and_tell(log: str, kinds: tuple[str, ...], i: int) -> tuple[int, Any]:
    """The same, with one's number."""
    return i, note_and_give(log, kinds, i)


class LoadingError(Exception):
    """An argument that will not load."""


class LoadsToAnError:
    def __init__(self, i: int) -> None:
        self.i = i

    def __reduce__(self) -> Any:
        return raise_loading_error, (self.i,)


def raise_loading_error(i: int) -> None:
    raise LoadingError(i)


def give_or_die(how: str) -> Any:
    """Give what is asked for, or end this process."""
    return LoadsToAnError(7) if how == "unreadable" else how if how == "text" else die(how)


def map_in_a_task(pool: Any, fn: Callable[[Any], Any], items: list[Any], chunksize: int) -> list[str]:
    """Map on the pool that this task runs in; tell results, and failures by their types' names."""
    outcomes = pool.map(fn, items, chunksize, on_error="return")
    return [type(getattr(outcome, "exception", outcome)).__name__ for outcome in outcomes]


# --- tasks of the storm


class TwoArguments(Exception):
    """Pickles, but does not load: the error of a library that nobody can change."""

    def __init__(self, first: object, second: object) -> None:
        super().__init__(first)


def storm_task(log: str, kind: str, i: int) -> Any:
    """Append one's number, then end in the way of one's kind."""
    append_line(log, i)
    if kind in CRASHES:
        crash(kind)
    if kind == "sys.exit":
        sys.exit(i)
    if kind == "no pickle":
        return threading.Lock()
    if kind == "two arguments":
        raise TwoArguments(i, i)
    if kind == "flaky":
        raise ConnectionError(i)
    if kind in ("sleep", "cancel running"):
        time.sleep(100)
    if kind == "deaf":
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(100)
    if kind == "hog":
        hog = bytearray(HOG_BYTES)
        hog[::4096] = b"x" * len(hog[::4096])
        time.sleep(100)
    result = result_of(kind, i)
    if isinstance(result, Exception):
        raise result
    return result


HOG_BYTES = 400 << 20
CRASHES = ("SIGKILL", "exit 3", "SIGSEGV", "SIGTERM")


def crash(how: str) -> NoReturn:
    """End this process."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if how == "exit 3":
        os._exit(3)
    number = getattr(signal, how)
    if number != signal.SIGKILL:
        faulthandler.disable()
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    time.sleep(100)
    raise AssertionError(f"survived {how}")


def use_up(limit: str) -> None:
    """Let this process open no more files, or write none."""
    import resource

    kind = getattr(resource, limit)
    resource.setrlimit(kind, (0, resource.getrlimit(kind)[1]))


def allow_no_more_threads(ended: str) -> None:
    """Let this process have no more memory than it has, and half of a thread's stack; note at its end that it ended."""
    import atexit
    import resource
    from pathlib import Path

    atexit.register(Path(ended).write_text, "exit functions were called")
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = n_pages * resource.getpagesize() + (4 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def some_bytes(n: int) -> bytes:
    return b"x" * n


def raise_large(n: int) -> NoReturn:
    raise ValueError(b"x" * n)
