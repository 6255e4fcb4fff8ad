"""Threads: many waits at the same time in one process.

Run it: `python examples/07_threads.py`
"""

import threading
import time

import fullcourt

N_WAITS = 8


def wait_a_little(number: int) -> int:
    """Wait a tenth of a second, as for an answer from a network; return the square of `number`."""
    time.sleep(0.1)
    return number * number


def with_the_standard_library() -> list[int]:
    """A `Thread` each; what they return is lost, so each writes into its own place of a list."""
    squares = [0] * N_WAITS

    def wait_into(number: int) -> None:
        squares[number] = wait_a_little(number)

    start = time.perf_counter()
    threads = [threading.Thread(target=wait_into, args=(number,)) for number in range(N_WAITS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report(squares, time.perf_counter() - start)
    return squares


def with_fullcourt() -> list[int]:
    """A pool by its number of threads; the results come back in the order of the input."""
    start = time.perf_counter()
    with fullcourt.Pool(threads=N_WAITS) as pool:
        squares = pool.map(wait_a_little, range(N_WAITS))
    report(squares, time.perf_counter() - start)
    return squares


def report(squares: list[int], seconds: float) -> None:
    """Print the squares and what the waits took together."""
    print(f"{squares}")
    print(f"{N_WAITS} waits of 0.1 s on {N_WAITS} threads took {seconds:.2f} s")


# Threads need no guard under either library; it is here so that the file can be imported without being run.
if __name__ == "__main__":
    print("-- with the standard library --")
    expected = with_the_standard_library()
    print("-- with fullcourt --")
    result = with_fullcourt()
    assert result == expected
    print(f"both gave the same: {result}")
