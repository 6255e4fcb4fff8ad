"""What runs in the tortured workers: importable, so that every pool can send it by name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOCK = threading.Lock()
pool: Any = None  # the cell's pool, for tasks that use their own


def square(x: int) -> int:
    time.sleep(0.002)
    return x * x


def tiny(x: int) -> int:
    return x * x


def pid(_: Any = None) -> int:
    time.sleep(0.05)  # so that the other worker gets one, too
    return os.getpid()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


# -- deaths -----------------------------------------------------------------------------------------------------------


def die_by_sigkill(_: Any = None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def die_by_segfault(_: Any = None) -> None:
    import faulthandler

    faulthandler.disable()
    ctypes.string_at(0)


def die_by_abort(_: Any = None) -> None:
    os.abort()


def die_by_exit(_: Any = None) -> None:
    os._exit(3)


def die_at_500(x: int) -> int:
    if x == 500:
        os.kill(os.getpid(), signal.SIGKILL)
    return x * x


def close_all_files(_: Any = None) -> str:
    os.closerange(3, 4096)
    return "closed"


def fork_and_return(_: Any = None) -> int:
    """A forked child that goes on as if it were the worker."""
    os.fork()
    return 7


def hog(megabytes: int) -> int:
    blocks = []
    for _ in range(megabytes // 10):
        blocks.append(bytearray(b"x" * 10_000_000))
        time.sleep(0.005)
    time.sleep(5)
    return len(blocks)


# -- what is raised ---------------------------------------------------------------------------------------------------


class TwoArguments(Exception):
    """Pickle calls its __init__ with one argument, which fails."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class WithLock(Exception):
    def __init__(self) -> None:
        super().__init__("has a lock")
        self.lock = threading.Lock()


class UnreadableText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BadReduce(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("will not be reduced")


class Interrupting(BaseException):
    pass


def raise_two_arguments(_: Any = None) -> None:
    raise TwoArguments(1, "two")


def raise_with_lock(_: Any = None) -> None:
    raise WithLock


def raise_unreadable(_: Any = None) -> None:
    raise UnreadableText


def raise_bad_reduce(_: Any = None) -> None:
    raise BadReduce


def raise_system_exit(_: Any = None) -> None:
    sys.exit(5)


def raise_keyboard_interrupt(_: Any = None) -> None:
    raise KeyboardInterrupt


def raise_base_exception(_: Any = None) -> None:
    raise Interrupting


def raise_stop_iteration(_: Any = None) -> None:
    raise StopIteration(1)


def raise_generator_exit(_: Any = None) -> None:
    raise GeneratorExit


def raise_value_error(x: Any = None) -> None:
    raise ValueError(f"no {x}")


def raise_cancelled(_: Any = None) -> None:
    from concurrent.futures import CancelledError

    raise CancelledError


def raise_timeout(_: Any = None) -> None:
    raise TimeoutError("the task's own")


def raise_broken_pool(_: Any = None) -> None:
    from concurrent.futures.process import BrokenProcessPool

    raise BrokenProcessPool("the task's own")


def recurse(_: Any = None) -> int:
    return recurse() + 1


def raise_deep_chain(_: Any = None) -> None:
    error: BaseException = ValueError("the first")
    for i in range(2000):
        new = ValueError(i)
        new.__cause__ = error
        error = new
    raise error


# -- what is returned or passed ---------------------------------------------------------------------------------------


class FailsToLoad:
    """Pickles well, and will not be read back."""

    def __reduce__(self) -> Any:
        return fail_to_load, ()


def fail_to_load() -> None:
    raise RuntimeError("will not be loaded")


class KillsWhenLoaded:
    """Kills whoever reads it, unless that is the process that made it."""

    def __reduce__(self) -> Any:
        return kill_unless, (os.getpid(),)


def kill_unless(home: int) -> str:
    if os.getpid() != home:
        os.kill(os.getpid(), signal.SIGKILL)
    return "home"


class ExitsWhenPickled:
    def __reduce__(self) -> Any:
        raise SystemExit(1)


class UnreadableItem:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def fail_with(item: Any) -> None:
    raise ValueError("failed")


def return_lock(_: Any = None) -> Any:
    return threading.Lock()


def return_lambda(_: Any = None) -> Any:
    return lambda: 1


def return_generator(_: Any = None) -> Any:
    return (x for x in range(3))


def return_fails_to_load(_: Any = None) -> Any:
    return FailsToLoad()


def return_exits_when_pickled(_: Any = None) -> Any:
    return ExitsWhenPickled()


def return_nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def length(data: Any) -> int:
    return len(data)


def zeros(n: int) -> bytes:
    return bytes(n)


# -- time -------------------------------------------------------------------------------------------------------------


def beat(path: str, seconds: float) -> str:
    """Write the time into a file for so long: whoever reads it knows whether this still runs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        Path(path).write_text(repr(time.monotonic()))
        time.sleep(0.01)
    return "ran to its end"


def beat_stubbornly(path: str, seconds: float) -> str:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(BaseException):
            beat(path, until - time.monotonic())
    return "ran to its end"


def beat_in_child(path: str, seconds: float) -> str:
    """A process that the task starts does it."""
    code = f"from benchmarks.torture.work import beat; beat({path!r}, {seconds})"
    subprocess.run([sys.executable, "-c", code], check=False)
    return "ran to its end"


def beats(path: str) -> bool:
    """Whether somebody wrote within the last 0.3 s."""
    try:
        return time.monotonic() - float(Path(path).read_text() or 0) < 0.3
    except (FileNotFoundError, ValueError):
        return False


def in_c(_: Any = None) -> None:
    """Stay in one C call that checks no signals: this takes hours."""
    import re

    re.match(r"(a*)*b", "a" * 40)


# -- processes and threads of tasks -----------------------------------------------------------------------------------


def start_sleeper(_: Any = None) -> int:
    """Leave a process behind."""
    return subprocess.Popen(["sleep", "300"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL).pid  # fmt: skip


def start_thread(_: Any = None) -> str:
    """Leave a thread behind that does not end."""
    threading.Thread(target=time.sleep, args=(300,)).start()
    return "started"


def ignore_sigterm(_: Any = None) -> str:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return "ignored"


def take_lock(x: int) -> int:
    with LOCK:
        return x * x


def log_something(x: int) -> int:
    import logging

    logging.getLogger("torture").warning("task %d", x)
    return x * x


def use_own_pool(x: int) -> int:
    """A task that submits to the pool in which it runs, and waits."""
    return int(pool.run(tiny, x))


def use_given_pool(given: Any, x: int) -> int:
    """The same where a pool can be an argument."""
    return int(given.submit(tiny, x).result())


def use_inner_pool(name: str, x: int) -> int:
    """A task that opens a pool of its own."""
    from benchmarks.torture.pools import POOLS

    with POOLS[name](2) as inner:
        return sum(inner.map(tiny, range(x)))


def fail_to_start() -> None:
    raise RuntimeError("this initializer fails")


def die_at_start() -> None:
    os._exit(9)


def close_standard_files() -> None:
    sys.stdin.close()
    os.close(0)
