"""A pool's return values: one by one with `get`, all at once with `map`, and an exception.

Run it: `python examples/04_return_values.py`
"""

import multiprocessing
from concurrent.futures import as_completed

import fullcourt

NUMBERS = [10, 0, 5, 2]


def divide_a_hundred_by(number: int) -> float:
    """100 / number; raises ZeroDivisionError for 0."""
    return 100 / number


def with_the_standard_library() -> list[str]:
    """`apply_async` gives an `AsyncResult`; its `get` gives the value, or raises what the task raised."""
    lines = []
    with multiprocessing.Pool(2) as pool:
        results = [pool.apply_async(divide_a_hundred_by, (number,)) for number in NUMBERS]
        for number, result in zip(NUMBERS, results, strict=True):
            try:
                lines.append(f"100 / {number} = {result.get()}")
            except ZeroDivisionError as error:
                lines.append(f"100 / {number}: {error}")
        lines.append(f"map: {pool.map(divide_a_hundred_by, [1, 2, 4])}")
        pool.close()  # leaving the block would terminate the workers, whatever they do
        pool.join()
    print("\n".join(lines))
    return lines


def with_fullcourt() -> list[str]:
    """The same calls; what `apply_async` gives is also a `concurrent.futures.Future`, and a failure tells its item."""
    lines = []
    with fullcourt.Pool(2) as pool:
        results = [pool.apply_async(divide_a_hundred_by, (number,)) for number in NUMBERS]
        for number, result in zip(NUMBERS, results, strict=True):
            try:
                lines.append(f"100 / {number} = {result.get()}")
            except ZeroDivisionError as error:
                lines.append(f"100 / {number}: {error}")
        lines.append(f"map: {pool.map(divide_a_hundred_by, [1, 2, 4])}")
        print("\n".join(lines))

        n_failed = sum(future.exception() is not None for future in as_completed(results))
        print(f"as futures: {len(results) - n_failed} have a value, {n_failed} has an exception")
        outcomes = pool.map(divide_a_hundred_by, NUMBERS, on_error="return")
    for outcome in outcomes:
        if isinstance(outcome, fullcourt.Failure):
            print(f"item {outcome.index} failed: {outcome.exception!r}; the others went on")
    return lines


# For the standard library: where processes are spawned, its workers import this file again. fullcourt's do not.
if __name__ == "__main__":
    print("-- with the standard library --")
    expected = with_the_standard_library()
    print("-- with fullcourt --")
    result = with_fullcourt()
    assert result == expected
    print(f"both gave the same: {len(result)} lines")
