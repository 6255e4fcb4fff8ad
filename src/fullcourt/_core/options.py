"""What a caller may ask for a task beyond its running: a time limit, retries, a memory limit, a place in the queue.

Pure: reads no clock; randomness comes in as an argument.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypedDict, cast

__all__ = ["DEFAULT_GRACE_S", "Durations", "OptionFields", "Options", "merge", "parse_bytes"]

DEFAULT_GRACE_S = 1.0
MAX_DELAY_S = 60.0
MIN_SAMPLES = 3  # a median of fewer durations says nothing
LONGEST_S = 1e9  # 31 years: more is taken for this
MAX_PRIORITY = 1 << 32  # those of nested tasks are above
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class OptionFields(TypedDict, total=False):
    """The options as keywords; see :meth:`fullcourt.Pool.options`."""

    timeout: float | str | None
    retries: int
    backoff: float
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    max_memory: int | str | None
    priority: int
    grace: float


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one call or map, checked.

    Attributes:
        timeout: seconds that one attempt may run; None: no limit, or see `factor`.
        factor: as `timeout`, as a multiple of the running median of the durations.
        retries: how many times a task that failed is tried again.
        backoff: seconds before the first retry; doubled for each further one, with jitter.
        retry_on: the exceptions after which a task is tried again.
        max_memory: bytes that the task's worker may have resident.
        priority: tasks of a higher one start first.
        grace: seconds between one way of stopping a task and the next, harder one.
    """

    timeout: float | None = None
    factor: float | None = None
    retries: int = 0
    backoff: float = 0.0
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    max_memory: int | None = None
    priority: int = 0
    grace: float = DEFAULT_GRACE_S

    @property
    def is_timed(self) -> bool:
        """Whether attempts have a time limit."""
        return self.timeout is not None or self.factor is not None

    @property
    def is_watched(self) -> bool:
        """Whether a running attempt must be looked after."""
        return self.timeout is not None or self.factor is not None or self.max_memory is not None

    def limit_s(self, durations: Durations | None) -> float | None:
        """Seconds that an attempt may run, as far as is known now."""
        if self.factor is None:
            return self.timeout
        median = durations.median() if durations is not None else None
        return None if median is None else self.factor * median

    def delay_s(self, attempt: int, random: float) -> float:
        """Seconds to wait after that attempt (from 1) has failed; ``random`` from 0 to 1.

        Exponential backoff with equal jitter: half of the interval is fixed, half of it random, so that tasks which
        failed together do not come back together.
        """
        longest: float = min(MAX_DELAY_S, self.backoff * 2.0 ** min(attempt - 1, 60))
        return longest * (0.5 + 0.5 * random)


class Durations:
    """The median of the last durations of one function or map, in seconds."""

    __slots__ = ("_recent", "_sorted")

    SIZE = 255

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        """Take in one task's duration."""
        if len(self._recent) >= self.SIZE:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._recent.append(seconds)
        insort(self._sorted, seconds)

    def median(self) -> float | None:
        """None until there are three."""
        n = len(self._sorted)
        return self._sorted[n // 2] if n >= MIN_SAMPLES else None


def merge(base: Options | None, fields: OptionFields) -> Options | None:
    """The base with these fields changed, each checked. None: nothing is asked for.

    Raises:
        TypeError, ValueError: what is wrong, and what would be right.
    """
    if not fields:
        return base
    changes: dict[str, Any] = {}
    for name, value in fields.items():
        check = CHECKS.get(name)
        if check is None:
            raise TypeError(f"{name!r} is no option of a task; there are {', '.join(CHECKS)}")
        changes.update(check(name, value))
    merged = replace(base or Options(), **changes)
    return None if merged == Options() else merged


def parse_bytes(name: str, value: object) -> int | None:
    """``2_000_000``, ``"500M"``, ``"1.5 GiB"`` in bytes; units are powers of 1024."""
    if value is None:
        return None
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", value, re.IGNORECASE)
        if found is None:
            raise ValueError(
                f"{name}={value!r} is not understood: give bytes as a number, or as in '500M' or '1.5 GiB'"
            )
        value = float(found[1]) * UNITS[found[2].upper()]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of bytes or a text as '500M', not {value!r}")
    if not 1 <= value < 1 << 63:
        raise ValueError(f"{name} must be at least one byte, and less than 2**63, not {value!r}")
    return int(value)


def _number(name: str, value: object, least: float, *, above: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if not (value > least if above else value >= least) or value == float("inf"):
        raise ValueError(f"{name} must be {'more than' if above else 'at least'} {least:g}, not {value!r}")
    return float(min(value, LONGEST_S))


def _timeout(name: str, value: object) -> dict[str, Any]:
    if value is None:
        return {"timeout": None, "factor": None}
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*x\s*", value)
        if found is None or not 0 < float(found[1]) < LONGEST_S:
            raise ValueError(f"timeout={value!r} is not understood: give seconds, or a multiple of the median as '3x'")
        return {"timeout": None, "factor": float(found[1])}
    return {"timeout": _number(name, value, 0, above=True), "factor": None}


def _seconds(name: str, value: object) -> dict[str, Any]:
    return {name: _number(name, value, 0)}


def _retries(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"retries must be an integer, not {value!r}")
    if value < 0:
        raise ValueError(f"retries must be at least 0, not {value}")
    return {name: value}


def _retry_on(name: str, value: object) -> dict[str, Any]:
    classes = tuple(cast("Iterable[Any]", value)) if isinstance(value, (tuple, list, set, frozenset)) else (value,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise TypeError(f"retry_on takes exception classes, not {one!r}")
    return {name: classes}


def _memory(name: str, value: object) -> dict[str, Any]:
    return {name: parse_bytes(name, value)}


def _priority(name: str, value: object) -> dict[str, Any]:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"priority must be an integer, not {value!r}; tasks of a higher one start first")
    if abs(value) > MAX_PRIORITY:
        raise ValueError(f"priority must be between -{MAX_PRIORITY} and {MAX_PRIORITY}, not {value}")
    return {name: value}


CHECKS = {
    "timeout": _timeout,
    "retries": _retries,
    "backoff": _seconds,
    "retry_on": _retry_on,
    "max_memory": _memory,
    "priority": _priority,
    "grace": _seconds,
}
