"""What is said of a task: short, cheap, and where locks are held without running anybody's code."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib
from typing import Any

import pytest

import fullcourt
from fullcourt._engines.accounts import describe


@dataclasses.dataclass
class Job:
    path: pathlib.Path
    sizes: list[int]
    secret: str = dataclasses.field(default="", repr=False)


class Loud:
    """Its repr must not run where locks are held."""

    def __repr__(self) -> str:
        raise AssertionError("this runs the user's code")


def resize(*args: Any, **kwargs: Any) -> None:
    """Named in the texts."""


ORDINARY: list[Any] = [
    0, -1.5, None, True, ..., "text", b"bytes", [], (), {}, set(), frozenset(), [1, [2, (3,)]], (1,), (1, 2),
    {"a": 1, 2: [3]}, {5}, frozenset({6}), range(3), dt.date(2026, 1, 2), pathlib.PurePosixPath("a/b"),
    Job(pathlib.Path("c"), [1, 2]),
]  # fmt: skip


@pytest.mark.parametrize("plainly", [False, True])
@pytest.mark.parametrize("value", ORDINARY, ids=repr)
def test_an_ordinary_value_is_shown_as_its_repr(value: Any, plainly: bool) -> None:
    assert describe(resize, (value,), {"key": value}, plainly=plainly) == f"resize({value!r}, key={value!r})"


def test_under_a_lock_no_code_of_the_users_runs() -> None:
    assert describe(resize, (Loud(), [Loud()], {"a": Loud()}), {}, plainly=True) == (
        "resize(<Loud>, [<Loud>], {'a': <Loud>})"
    )


def test_a_repr_that_raises_is_no_failure() -> None:
    assert describe(resize, (Loud(),), {}) == "resize(...)"


def test_of_what_is_large_only_the_beginning_is_read() -> None:
    read: list[int] = []

    class Counted:
        def __repr__(self) -> str:
            read.append(1)
            return "x"

    text = describe(resize, ([Counted() for _ in range(10_000)],), {})
    assert len(read) < 100
    assert text.startswith("resize([x, x, ")
    assert text.endswith("...)")
    assert len(describe(resize, ("a" * 10_000_000, 1 << 1_000_000, [[[[[[[1]]]]]]]), {})) < 300


@pytest.mark.parametrize("kind", [{"threads": 2}, {"processes": 2}], ids=["threads", "processes"])
def test_the_repr_of_a_failed_tasks_argument_may_use_the_pool(kind: dict[str, int]) -> None:
    """It runs in the thread that brings the error, which holds no lock meanwhile."""
    seen: list[int] = []

    class Asks:
        def __repr__(self) -> str:
            seen.append(pools[0].statistics().n_done)
            return "Asks()"

        def __reduce__(self) -> tuple[Any, ...]:
            return int, (0,)

    pools: list[fullcourt.Pool] = []
    with fullcourt.Pool(**kind) as pool:  # type: ignore[arg-type]
        pools.append(pool)
        future = pool.submit(fails, Asks())
        with pytest.raises(ZeroDivisionError) as caught:
            future.result(60)
        results = pool.map(fails, [Asks()] * 3, on_error="return")
    assert "fails(Asks())" in caught.value.__notes__[-1]
    assert len(results) == 3
    assert len(seen) >= 4


def fails(_: Any) -> float:
    return 1 / 0
