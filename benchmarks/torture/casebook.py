"""What a case is, and what cases check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.torture import work
from benchmarks.torture.pools import NotOffered, Outcome, Tortured

__all__ = [
    "CASES",
    "Case",
    "Lost",
    "Opener",
    "Wrong",
    "cases_of",
    "check_healthy",
    "must",
    "name",
    "one_bad_among_good",
    "still_works",
]

Opener = type[Tortured]


class Wrong(Exception):
    """The pool gave a wrong outcome."""


class Lost(Exception):
    """Tasks that had nothing to do with it lost their results."""


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        key: its name.
        group: heading in the table.
        title: what happens.
        run: the program.
        deadline_s: after so long it counts as a hang.
        signal: sent by the runner when the program says READY.
        to_group: whether to the whole process group, as a terminal does.
        end_s: the program and all its processes must be gone so many seconds after the signal.
    """

    key: str
    group: str
    title: str
    run: Callable[[Opener], None]
    deadline_s: float = 10.0
    signal: int | None = None
    to_group: bool = False
    end_s: float = 1.0


CASES: dict[str, Case] = {}

Program = Callable[[Opener], None]


def cases_of(group: str) -> Callable[..., Callable[[Program], Program]]:
    """A decorator that takes up the cases of one group: its arguments are the title and the case's other attributes."""

    def case(title: str, **options: Any) -> Callable[[Program], Program]:
        def add(run: Program) -> Program:
            key = run.__name__.replace("_", "-")
            CASES[key] = Case(key, group, title, run, **options)
            return run

        return add

    return case


def must(truth: object, what: str) -> None:
    if not truth:
        raise Wrong(what)


def name(error: object) -> str:
    return f"{type(error).__name__}: {error}"[:90] if not isinstance(error, work.UnreadableText) else "UnreadableText"


def check_healthy(outcomes: list[Outcome], expected: list[Any]) -> None:
    """All of these tasks must have their results."""
    failed = [o[1] for o in outcomes if not o[0]]
    if failed:
        raise Lost(f"{len(failed)} of {len(outcomes)} healthy tasks failed: {name(failed[0])}")
    must([o[1] for o in outcomes] == expected, "healthy tasks gave wrong results")


def still_works(pool: Tortured) -> None:
    try:
        outcomes = pool.batch([(work.square, x) for x in range(10)])
    except NotOffered:
        raise
    except BaseException as error:
        raise Lost(f"the pool is of no use afterwards: {name(error)}") from None
    failed = [o[1] for o in outcomes if not o[0]]
    if failed:
        raise Lost(f"the pool is of no use afterwards: {name(failed[0])}")


def one_bad_among_good(opener: Opener, bad: Callable[..., Any], *args: Any) -> BaseException:
    """A bad task among 20 good ones: it alone fails. Returns its error."""
    with opener() as pool:
        pool.run(work.tiny, 1)
        calls: list[Any] = [(work.square, x) for x in range(20)]
        calls.insert(7, (bad, *args))
        outcomes = pool.batch(calls)
        guilty = outcomes.pop(7)
        must(not guilty[0], "the bad task gave a result")
        check_healthy(outcomes, [x * x for x in range(20)])
        still_works(pool)
        return guilty[1]  # type: ignore[no-any-return]
