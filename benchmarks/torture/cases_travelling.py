"""Cases: what cannot travel."""

from __future__ import annotations

import threading
from typing import Any

from benchmarks.torture import work
from benchmarks.torture.casebook import (
    Opener,
    Wrong,
    cases_of,
    check_healthy,
    must,
    name,
    one_bad_among_good,
    still_works,
)
from benchmarks.torture.pools import NotOffered

case = cases_of("What cannot travel")


@case("an argument that cannot be pickled")
def unpicklable_argument(opener: Opener) -> None:
    one_bad_among_good(opener, work.length, threading.Lock())


@case("a result that cannot be pickled: a lock")
def unpicklable_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_lock)


@case("a result that cannot be pickled: a generator")
def generator_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_generator)


@case("a result that fails to load in the parent")
def unloadable_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_fails_to_load)


@case("an argument that fails to load in the worker")
def unloadable_argument(opener: Opener) -> None:
    one_bad_among_good(opener, work.length, work.FailsToLoad())


@case("an argument whose pickling raises SystemExit")
def exits_when_pickled(opener: Opener) -> None:
    with opener() as pool:
        try:
            outcomes = pool.batch([(work.length, work.ExitsWhenPickled()), *[(work.square, x) for x in range(5)]])
        except SystemExit:
            outcomes = [(False, SystemExit()), *pool.batch([(work.square, x) for x in range(5)])]
        must(not outcomes[0][0], "it gave a result")
        check_healthy(outcomes[1:], [x * x for x in range(5)])


@case("a result whose pickling raises SystemExit")
def exits_when_pickled_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_exits_when_pickled)


@case("a result nested 100,000 deep")
def nested_result(opener: Opener) -> None:
    one_bad_among_good(opener, work.return_nested, 100_000)


@case("one bad item in a map of 1,000")
def bad_item_in_map(opener: Opener) -> None:
    items: list[Any] = list(range(1000))
    items[500] = threading.Lock()
    with opener() as pool:
        try:
            pool.map(work.tiny, items)
        except BaseException as error:
            must(isinstance(error, Exception), f"it raised {name(error)}")
        else:
            raise Wrong("no error")
        still_works(pool)


@case("a lambda")
def a_lambda(opener: Opener) -> None:
    with opener() as pool:
        try:
            must(pool.run(lambda x: x + 1, 1) == 2, "wrong result")
        except NotOffered:
            raise
        except Exception as error:
            raise Wrong(f"refused: {name(error)}") from None


@case("a closure and a local class as its result")
def a_closure(opener: Opener) -> None:
    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    def make(x: int) -> Local:
        return Local(x + 1)

    with opener() as pool:
        try:
            must(pool.run(make, 1).x == 2, "wrong result")
        except NotOffered:
            raise
        except Exception as error:
            raise Wrong(f"refused: {name(error)}") from None


@case("300 MB there and back", deadline_s=30)
def huge(opener: Opener) -> None:
    with opener() as pool:
        must(pool.run(work.length, b"x" * 300_000_000) == 300_000_000, "wrong length")
        must(len(pool.run(work.zeros, 300_000_000)) == 300_000_000, "wrong length")


@case("1,000 results of 200 KB that nobody takes, then the end", deadline_s=20)
def untaken_results(opener: Opener) -> None:
    with opener() as pool:
        for _ in range(1000):
            pool.submit(work.zeros, 200_000)
