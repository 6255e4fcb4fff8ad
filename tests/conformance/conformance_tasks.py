"""What the conformance tests send to workers. Imports stay light: under ``spawn`` every worker pays for them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn


@dataclass(frozen=True)
class Turnstile:
    """The task's side of a `Gate`: two named pipes, so it works alike in threads, processes and interpreters."""

    arrivals: str
    permits: str

    def arrive(self, tag: object) -> None:
        """Tell the test that this task runs. One line shorter than PIPE_BUF is written whole (pipe(7))."""
        fd = os.open(self.arrivals, os.O_WRONLY)
        try:
            os.write(fd, f"{tag}\n".encode())
        finally:
            os.close(fd)

    def wait_permit(self) -> None:
        """Block until the test hands out a permit."""
        fd = os.open(self.permits, os.O_RDONLY)
        try:
            os.read(fd, 1)
        finally:
            os.close(fd)


def pass_through(turnstile: Turnstile, item: Any) -> Any:
    turnstile.arrive(item)
    turnstile.wait_permit()
    return item


def block_on_first(turnstile: Turnstile, item: int) -> int:
    """Item 0 waits for a permit; all others return at once."""
    return int(pass_through(turnstile, item)) if item == 0 else item


def first_waits(job: tuple[Turnstile, int]) -> int:
    return block_on_first(*job)


def fourth_waits(job: tuple[Turnstile, int]) -> int:
    """Each takes so long that its result is handed over before the next item begins."""
    turnstile, item = job
    if item == 3:
        return int(pass_through(turnstile, item))
    time.sleep(0.01)
    return item


def arrive_then_wait_for(started: Turnstile, release: Turnstile, item: Any) -> Any:
    started.arrive(item)
    release.wait_permit()
    return item


def place_of_one_that_may_be_long(x: int) -> tuple[int, int] | None:
    """Items 100 to 179 take 5 ms, the others nothing. Returns where it ran, if it was a long one."""
    if not 100 <= x < 180:
        return None
    time.sleep(0.005)
    return os.getpid(), threading.get_ident()


def fail_among_long(x: int) -> None:
    """Items 4000 to 4059 take 20 ms, the others nothing; item 4020 fails."""
    if 4000 <= x < 4060:
        time.sleep(0.02)
    if x == 4020:
        raise ValueError(x)


def square(x: int) -> int:
    return x * x


def add(a: int, b: int = 0, *, c: int = 0) -> int:
    return a + b + c


def identity(x: Any) -> Any:
    return x


def no_arguments() -> str:
    return "called"


def keywords(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def fail_on(item: Any, bad: Any = "pear") -> Any:
    if item == bad:
        raise ValueError(f"this item is bad: {item}")
    return item


def fail_on_negative(x: int) -> int:
    if x < 0:
        raise ValueError(f"negative: {x}")
    return x


def fail_for_multiples_of_seven(x: int) -> int:
    if x % 7 == 0:
        raise LookupError(x)
    return x


def divide(a: float, b: float) -> float:
    return a / b


def chained() -> NoReturn:
    try:
        raise KeyError("inner cause")
    except KeyError as error:
        raise RuntimeError("outer effect") from error


def raise_it(error: BaseException) -> NoReturn:
    raise error


def exit_with(code: int) -> NoReturn:
    raise SystemExit(code)


def interrupt() -> NoReturn:
    raise KeyboardInterrupt("from the task")


def generator_exit() -> NoReturn:
    raise GeneratorExit("from the task")


class TwoArgumentsError(Exception):
    """Cannot be rebuilt by ``type(e)(*e.args)``, which is what pickle does with an exception."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place} broke because {reason}")
        self.place = place
        self.reason = reason


class KeywordOnlyError(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class HoldsALockError(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class UnloadableError(Exception):
    """Pickles well and fails when the caller reads it."""

    def __reduce__(self) -> Any:
        return _refuse_to_load, ("UnloadableError",)


def _refuse_to_load(name: str) -> NoReturn:
    raise RuntimeError(f"{name} refuses to be loaded")


HOSTILE = ("__class__", "__cause__", "__traceback__", "__bool__", "__getattribute__", "__setattr__", "__str__")


def raise_hostile(where: str) -> NoReturn:
    """Raise an exception that raises another as soon as it is asked for this."""

    def refuse(*_: object) -> NoReturn:
        raise RuntimeError(f"{where} is hostile")

    is_asked = where in ("__class__", "__cause__", "__traceback__")
    raise type("HostileError", (Exception,), {where: property(refuse) if is_asked else refuse})("kept")


def raise_two_arguments() -> NoReturn:
    raise TwoArgumentsError("the bridge", "of rust")


def raise_keyword_only() -> NoReturn:
    raise KeywordOnlyError(code=42)


def raise_holding_a_lock() -> NoReturn:
    raise HoldsALockError("the lock stays here")


def raise_unloadable() -> NoReturn:
    raise UnloadableError("cannot be read back")


class Holder:
    """Has one attribute with a speaking name, which need not pickle."""

    def __init__(self, padlock: Any = None) -> None:
        self.padlock = padlock


class Unprintable:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unprintable)

    def __hash__(self) -> int:
        return 0

    def __str__(self) -> str:
        return "unprintable"

    def __repr__(self) -> str:
        raise RuntimeError("no repr here")


class EndsWhenPickled:
    """Its pickling raises what ends a program."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        raise self.kind


class UnloadableResult:
    def __reduce__(self) -> Any:
        return _refuse_to_load, ("UnloadableResult",)


def return_a_lock() -> Any:
    return threading.Lock()


def return_holder_of_lock() -> Holder:
    return Holder(threading.Lock())


def return_unloadable() -> UnloadableResult:
    return UnloadableResult()


def unloadable_for_every_third(x: int) -> Any:
    return [x, UnloadableResult()] if x % 3 == 0 else [x]


def lock_for_item_three(x: int) -> Any:
    return threading.Lock() if x == 3 else x


class Adder:
    """A callable whose answer depends on state that the caller may change between two calls."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return self.n + x

    def plus(self, x: int) -> int:
        return self.n + x

    @classmethod
    def of_ten(cls, x: int) -> int:
        return cls(10)(x)

    @staticmethod
    def doubled(x: int) -> int:
        return 2 * x


def total(xs: Iterable[int]) -> int:
    return sum(xs)


def append_and_sum(xs: list[int], x: int) -> int:
    xs.append(x)
    return sum(xs)


def fill(size: int, byte: int) -> bytes:
    return bytes([byte]) * size


def reverse_bytes(data: bytes) -> bytes:
    return data[::-1]


def double_in_place(array: Any) -> Any:
    array *= 2
    return array


def is_writable(array: Any) -> bool:
    return bool(array.flags.writeable)


def ones(n: int, value: float) -> Any:
    import numpy as np

    return np.full(n, value)


def several_arrays(n: int) -> dict[str, Any]:
    import numpy as np

    return {"a": np.arange(n), "b": [np.zeros(n), np.ones((2, n), order="F")], "name": "both"}


def worker_pid(_: Any = None) -> int:
    return os.getpid()


def append_line(path: str, text: object) -> None:
    """One line, atomically: O_APPEND writes of a line do not interleave on a local file system."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)


def record(path: str, item: Any) -> Any:
    append_line(path, item)
    return item


def record_pid(path: str) -> int:
    append_line(path, os.getpid())
    return os.getpid()


SETTINGS: dict[str, Any] = {}


def initialize(key: str, value: Any) -> None:
    SETTINGS[key] = value


def read_setting(key: str) -> Any:
    return SETTINGS.get(key)


def failing_initializer(path: str) -> NoReturn:
    append_line(path, os.getpid())
    raise ValueError("the initializer cannot work here")


def thread_name() -> str:
    return threading.current_thread().name


def nested_map(options: dict[str, Any], items: list[int]) -> list[int]:
    import fullcourt

    with fullcourt.Pool(**options) as pool:
        return list(pool.map(square, items))


def nested_submit(options: dict[str, Any], depth: int) -> int:
    """Open a pool inside a task inside a pool, ``depth`` times."""
    import fullcourt

    if depth == 0:
        return 1
    with fullcourt.Pool(**options) as pool:
        return 1 + int(pool.submit(nested_submit, options, depth - 1).result())


def make_closure(n: int) -> Callable[[int], int]:
    def closure(x: int) -> int:
        return n + x

    return closure
