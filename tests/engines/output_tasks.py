"""Tasks that print, log and warn: importable in every worker."""

from __future__ import annotations

import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import fullcourt
from fullcourt._os.soft_stop import STOP_SIGNAL


def say(text: str, end: str = "\n") -> str:
    print(text, end=end)
    return text


def complain(text: str) -> None:
    print(text, file=sys.stderr)


def count_to(who: int, n: int = 20) -> int:
    for i in range(n):
        print(who, i)
    return who


def say_bytes(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say_lines(n: int, width: int, progress: str = os.devnull) -> int:
    """Print lines, and grow the file `progress` by a byte for each."""
    line = "x" * width
    with Path(progress).open("ab", buffering=0) as file:
        for _ in range(n):
            print(line)
            file.write(b".")
    return n


def say_for_ever(text: str) -> None:
    while True:
        print(text)
        logging.getLogger("app").error("%s...", text[:20])


def log_until_stopped_in_the_making_of_a_record() -> None:
    """Be stopped where a log record is made, in a part of it that passes over exceptions; then wait for ever."""
    stopped: list[int] = []
    act: Any = signal.getsignal(STOP_SIGNAL)
    genuine = multiprocessing.current_process

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        act(number, frame)

    def wait() -> Any:
        multiprocessing.current_process = genuine
        while not stopped:
            time.sleep(0.001)
        return genuine()

    signal.signal(STOP_SIGNAL, stop)
    multiprocessing.current_process = wait  # type: ignore[assignment]
    try:
        logging.getLogger("app").error("once")
        while True:
            time.sleep(0.01)
    finally:
        signal.signal(STOP_SIGNAL, act)


def say_then_wait(text: str, turnstile: Any, *, flush: bool = True) -> None:
    print(text, end="", flush=flush)
    turnstile.arrive("here")
    turnstile.wait_permit()


def say_in_threads(n: int) -> None:
    def run(who: str) -> None:
        for _ in range(50):
            print(who, who, who, who)

    threads = [threading.Thread(target=run, args=(chr(97 + i),)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def say_in_many_parts(who: int) -> None:
    for _ in range(30):
        print(who, who, who, who, sep="-")


def leave_a_line_open_in_a_thread() -> None:
    thread = threading.Thread(target=lambda: print("open", end=""))
    thread.start()
    thread.join()


def print_in_a_forked_child(text: str) -> int:
    child = multiprocessing.get_context("fork").Process(target=log_and_say, args=(text,))
    child.start()
    child.join()
    return child.exitcode or 0


def log_and_say(text: str) -> None:
    print(text, flush=True)
    logging.getLogger("app").error("logged %s", text)


def nested(text: str) -> None:
    with fullcourt.Pool(1, start_method="fork") as pool:
        pool.apply(log_and_say, (text,))


def describe_stdout() -> dict[str, Any]:
    out = sys.stdout
    out.close()
    return {
        "isatty": out.isatty(),
        "encoding": out.encoding,
        "writable": out.writable(),
        "name": out.name,
        "closed": out.closed,
        "written": out.write("abc\n"),
    }


def write_nonsense() -> None:
    sys.stdout.write(b"bytes")  # type: ignore[arg-type]


def log(name: str, level: int, message: object, *args: object, extra: dict[str, Any] | None = None) -> int:
    logging.getLogger(name).log(level, message, *args, extra=extra)
    return os.getpid()


def log_the_unpicklable() -> None:
    lock = threading.Lock()
    logging.getLogger("app").error("lock %s", lock, extra={"lock": lock, "path": Path("a")})


class OnlyHere:
    """Pickles in a worker, and cannot be loaded elsewhere."""

    def __reduce__(self) -> Any:
        return load_only_in, (os.getpid(),)

    def __repr__(self) -> str:
        return "<only here>"


def load_only_in(pid: int) -> OnlyHere:
    if os.getpid() != pid:
        raise RuntimeError("not here")
    return OnlyHere()


def log_what_loads_only_there() -> None:
    logging.getLogger("app").error("%s", 1, extra={"thing": OnlyHere()})


def log_wrongly() -> str:
    logging.getLogger("app").error("%d", "no number")
    return "went on"


def log_an_exception() -> None:
    try:
        raise KeyError("missing")
    except KeyError:
        logging.getLogger("app").exception("failed")


def is_enabled(name: str, level: int) -> bool:
    return logging.getLogger(name).isEnabledFor(level)


def is_enabled_at_info(name: str) -> bool:
    return logging.getLogger(name).isEnabledFor(logging.INFO)


def warn(text: str, category: type[Warning] = UserWarning) -> str:
    warnings.warn(text, category, stacklevel=1)
    return text


def warn_often(n: int) -> int:
    for _ in range(n):
        warnings.warn("often", stacklevel=1)
    return n


def warn_of_a_local_class() -> None:
    class Local(RuntimeWarning):
        def __reduce__(self) -> Any:
            raise TypeError

    warnings.warn(Local("local"), stacklevel=1)


def crash(text: str) -> None:
    print(text)
    ctypes.string_at(0)


def crash_at(i: int) -> int:
    if i == 21:
        ctypes.string_at(0)
    return i


def die(text: str, number: int) -> None:
    print(text)
    print("not flushed", end="")
    os.kill(os.getpid(), number)


def crash_in_a_child_then_die() -> None:
    pid = os.fork()
    if not pid:
        ctypes.string_at(0)
    os.waitpid(pid, 0)
    os.kill(os.getpid(), signal.SIGABRT)


def sleep_and_say(seconds: float, text: str) -> None:
    time.sleep(seconds)
    print(text)


class SaysAtItsEnd:
    """Prints when it is collected: perhaps inside of a send."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        print("collected")


def make_garbage(n: int) -> int:
    for i in range(n):
        SaysAtItsEnd()
        print("line", i)
    gc.collect()  # at the latest
    return n
