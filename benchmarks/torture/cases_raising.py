"""Cases: a task raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.torture import work
from benchmarks.torture.casebook import Opener, Wrong, cases_of, must, name, one_bad_among_good
from benchmarks.torture.pools import NotOffered

case = cases_of("A task raises")


def raises_alone(opener: Opener, fn: Callable[..., Any], *expected: type[BaseException]) -> None:
    error = one_bad_among_good(opener, fn)
    if expected:
        must(isinstance(error, expected), f"it raised {name(error)}")


@case("an exception that will not unpickle (two-argument `__init__`)")
def two_argument_exception(opener: Opener) -> None:
    error = one_bad_among_good(opener, work.raise_two_arguments)
    must("two" in str(error) or "TwoArguments" in name(error), f"its text is lost: {name(error)}")


@case("an exception that holds a lock")
def exception_with_lock(opener: Opener) -> None:
    error = one_bad_among_good(opener, work.raise_with_lock)
    must("has a lock" in str(error) or "WithLock" in name(error), f"its text is lost: {name(error)}")


@case("an exception whose `__str__` and `__repr__` raise")
def unreadable_exception(opener: Opener) -> None:
    one_bad_among_good(opener, work.raise_unreadable)


@case("an exception whose `__reduce__` raises")
def irreducible_exception(opener: Opener) -> None:
    one_bad_among_good(opener, work.raise_bad_reduce)


@case("`sys.exit()`")
def system_exit(opener: Opener) -> None:
    raises_alone(opener, work.raise_system_exit)


@case("`KeyboardInterrupt`")
def keyboard_interrupt(opener: Opener) -> None:
    raises_alone(opener, work.raise_keyboard_interrupt)


@case("a `BaseException` of the user's")
def base_exception(opener: Opener) -> None:
    raises_alone(opener, work.raise_base_exception)


@case("`GeneratorExit`")
def generator_exit(opener: Opener) -> None:
    raises_alone(opener, work.raise_generator_exit)


@case("`StopIteration`, in `submit` and in a lazy map")
def stop_iteration(opener: Opener) -> None:
    raises_alone(opener, work.raise_stop_iteration)
    with opener() as pool:
        try:
            found = list(pool.lazily(stop_at_3, range(6)))
        except NotOffered:
            return
        except Exception:
            return
        raise Wrong(f"the map ended in silence after {len(found)} of 6 items")


def stop_at_3(x: int) -> int:
    if x == 3:
        raise StopIteration
    return x


@case("its own `TimeoutError`, `CancelledError`, `BrokenProcessPool` are told from the pool's")
def own_errors(opener: Opener) -> None:
    from concurrent.futures import CancelledError
    from concurrent.futures.process import BrokenProcessPool

    raises_alone(opener, work.raise_timeout, TimeoutError)
    raises_alone(opener, work.raise_broken_pool, BrokenProcessPool)
    raises_alone(opener, work.raise_cancelled, CancelledError)


@case("endless recursion")
def recursion(opener: Opener) -> None:
    raises_alone(opener, work.recurse, RecursionError)


@case("a chain of 2,000 causes")
def deep_chain(opener: Opener) -> None:
    raises_alone(opener, work.raise_deep_chain)


@case("an item whose `repr` raises")
def unreadable_item(opener: Opener) -> None:
    error = one_bad_among_good(opener, work.fail_with, work.UnreadableItem())
    must(isinstance(error, ValueError), f"it raised {name(error)}")


@case("the error says which item failed")
def names_item(opener: Opener) -> None:
    import traceback

    with opener() as pool:
        try:
            pool.map(work.raise_value_error, ["apple", "pear", "plum"])
        except Exception as error:
            text = "".join(traceback.format_exception(error))
            must("apple" in text.replace("no apple", "") or "index 0" in text or "[0]" in text,
                 "nothing names function and item")  # fmt: skip
            return
        raise Wrong("no error")
