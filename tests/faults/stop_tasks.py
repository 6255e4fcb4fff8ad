"""Tasks that take long, each in another way. Imports stay light: under ``spawn`` every worker pays for them."""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import subprocess
import time
import weakref
from typing import Any

from fullcourt import TaskStopped, WorkerDied
from fullcourt._os.soft_stop import STOP_SIGNAL


def note(path: str, text: object) -> None:
    """One line, atomically."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def sleep_then_note(path: str, seconds: float) -> str:
    note(path, f"begun {os.getpid()}")
    time.sleep(seconds)
    note(path, "ended")
    return "done"


def sleep_deaf(path: str, seconds: float) -> str:
    """Swallows what is raised in it, from the moment when it says that it has begun."""
    until = time.monotonic() + seconds
    is_told = False
    while time.monotonic() < until:
        with contextlib.suppress(BaseException):
            if not is_told:
                note(path, f"begun {os.getpid()}")
                is_told = True
            time.sleep(0.02)
    note(path, "ended")
    return "done"


def sleep_deaf_until_told(path: str) -> str:
    """Ends when something is noted there."""
    while not os.path.getsize(path):
        with contextlib.suppress(BaseException):
            time.sleep(0.002)
    return "done"


def stop_own_process(path: str) -> None:
    """It goes on when somebody sends SIGCONT, and sleeps then."""
    note(path, f"begun {os.getpid()}")
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


def compute_in_c(path: str, seconds: float) -> str:
    """One call of native code that never looks at signals."""
    import hashlib

    note(path, f"begun {os.getpid()}")
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", int(seconds * 1_000_000))
    note(path, "ended")
    return "done"


def give_what_there_is(path: str, seconds: float) -> str:
    """Makes the best of being stopped."""
    note(path, f"begun {os.getpid()}")
    try:
        time.sleep(seconds)
    except TaskStopped:
        return "partial"
    return "done"


def fail_in_cleanup(path: str, seconds: float) -> str:
    note(path, f"begun {os.getpid()}")
    try:
        time.sleep(seconds)
    finally:
        raise KeyError("cleanup")


def start_child_and_sleep(path: str, seconds: float) -> str:
    child = subprocess.Popen(["sleep", "100"])
    note(path, f"child {child.pid}")
    note(path, f"begun {os.getpid()}")
    time.sleep(seconds)
    return "done"


def start_child_and_linger(path: str, seconds: float) -> str:
    """As `subprocess.run` does, which waits a moment for its child before it lets a KeyboardInterrupt through."""
    try:
        return start_child_and_sleep(path, seconds)
    except TaskStopped:
        time.sleep(seconds)
        raise


def sleep_if(x: int, which: int = 7, seconds: float = 60.0) -> int:
    if x == which:
        time.sleep(seconds)
    return x * x


def sleep_tenth_or_long(x: int) -> int:
    time.sleep(60.0 if x == 9 else 0.02)
    return x


def fail_until(path: str, n: int) -> int:
    """Fails on all attempts before the n-th."""
    note(path, time.monotonic())
    with open(path, encoding="ascii") as file:
        attempt = len(file.readlines())
    if attempt < n:
        raise ValueError(f"attempt {attempt}")
    return attempt


def fail_with(kind: str) -> None:
    raise getattr(builtins, kind)(kind)


def end_each_time(path: str, ends: list[str], _: object) -> None:
    """Each attempt ends as it is said."""
    note(path, "attempt")
    with open(path, encoding="ascii") as file:
        end = ends[len(file.readlines()) - 1]
    if end == "die":
        os.kill(os.getpid(), 9)
    raise WorkerDied("of another pool", pid=1) if end == "raise" else ValueError(end)


def die_if(x: int, which: int = 3) -> int:
    if x == which:
        os.kill(os.getpid(), 9)
    return x


def take_memory(n_bytes: int, seconds: float) -> int:
    taken = bytearray(n_bytes)
    for i in range(0, n_bytes, 4096):
        taken[i] = 1
    time.sleep(seconds)
    return len(taken)


def grow_and_fail_first(path: str, i: int, n_bytes: int) -> int:
    """The first item of three takes memory, keeps it, and fails when it is told; the second waits for ever."""
    if i == 0:
        globals().setdefault("kept", []).append(b"x" * n_bytes)
        while not os.path.getsize(path):
            time.sleep(0.005)
        raise ValueError(i)
    if i == 1:
        note(path, "begun")
        time.sleep(60)
    return i


def pid_after_taking(n_bytes: int) -> int:
    globals().setdefault("kept", []).append(bytearray(os.urandom(1)) * n_bytes)
    return os.getpid()


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


class ReadUntilStopped:
    """Its unpickling lasts until the pool has signalled that the task shall stop."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return read_until_stopped, ()


def read_until_stopped() -> None:
    stopped: list[int] = []
    act: Any = signal.getsignal(STOP_SIGNAL)

    def stop(number: int, frame: object) -> None:
        stopped.append(number)
        act(number, frame)

    signal.signal(STOP_SIGNAL, stop)
    try:
        while not stopped:
            time.sleep(0.001)
    finally:
        signal.signal(STOP_SIGNAL, act)


def wait_for_ever(_: object) -> None:
    while True:
        time.sleep(0.01)


def pass_over_errors_for_ever() -> None:
    """As much code does that tries again, or does without."""
    while True:
        with contextlib.suppress(OSError):
            os.stat("/does not exist")
        with contextlib.suppress(Exception):
            raise TimeoutError


def run_an_event_loop_for_ever() -> None:
    """Whatever a callback raises, the loop goes on."""
    import asyncio

    loop = asyncio.new_event_loop()

    def call() -> None:
        burn()
        loop.call_soon(call)

    loop.call_soon(call)
    try:
        loop.run_forever()
    finally:
        loop.close()


class SlowToGo:
    """Its collection takes a while, and lets no exception through."""

    def __init__(self) -> None:
        weakref.finalize(self, burn)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            burn()


def burn() -> None:
    for _ in range(2_000):
        pass


def collect_for_ever() -> None:
    """A third of the time, objects are collected."""
    while True:
        SlowToGo()
        for _ in range(4):
            burn()


def use_the_pool_for_ever(pool: Any) -> None:
    """Ask its own pool for this and that."""
    while True:
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
        assert pool.submit(abs, -4).result() == 4
        assert pool.apply(abs, (-5,)) == 5
        assert list(pool.imap(abs, [-6, -7])) == [6, 7]


def use_the_pool(pool: Any, i: int) -> list[int]:
    future = pool.submit(abs, -i)
    return [*pool.map(abs, [-i, -i]), future.result()]


def use_a_channel_for_ever(how: str, queue: Any, lock: Any, event: Any, condition: Any) -> None:
    """Use one of them all the time, so that a stop comes in the midst of that."""
    while True:
        if how == "put, get":
            queue.put("item")
            queue.get()
        elif how == "put_many, get_many":
            queue.put_many([1, 2, 3])
            queue.get_many(3)
        elif how == "with lock":
            with lock:
                pass
        elif how == "set, wait, clear":
            event.set()
            event.wait()
            event.clear()
        else:
            with condition:
                condition.notify_all()
                condition.wait(0.0001)


class SlowToLoad(Exception):
    """One that the other side needs half a second to load."""

    def __reduce__(self) -> Any:
        return load_slowly, ()


def load_slowly() -> SlowToLoad:
    time.sleep(0.5)
    return SlowToLoad()


def answer_slowly(x: int) -> int:
    """One item sleeps until it is stopped, and fails with what takes long to load."""
    if x == 3:
        try:
            time.sleep(60)
        except BaseException:
            raise SlowToLoad from None
    return x
