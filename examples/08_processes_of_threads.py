"""Processes of threads: several processes, and in each of them several threads.

Run it: `python examples/08_processes_of_threads.py`
"""

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import fullcourt

N_PROCESSES = 2
N_THREADS = 4
NUMBERS = list(range(16))


def wait_and_square(number: int) -> tuple[int, int]:
    """Wait a tenth of a second; return the square of `number` and the id of the process that it was made in."""
    time.sleep(0.1)
    return number * number, os.getpid()


def square_on_threads(numbers: list[int]) -> list[tuple[int, int]]:
    """What one process of the standard library's half does: its share of the numbers, on its own threads."""
    with ThreadPoolExecutor(N_THREADS) as threads:
        return list(threads.map(wait_and_square, numbers))


def with_the_standard_library() -> list[int]:
    """A pool of processes, a pool of threads in each, and the input dealt out and put together again by hand."""
    start = time.perf_counter()
    shares = [NUMBERS[i::N_PROCESSES] for i in range(N_PROCESSES)]
    with multiprocessing.Pool(N_PROCESSES) as pool:
        answers = pool.map(square_on_threads, shares, chunksize=1)
        pool.close()
        pool.join()
    outcomes: list[tuple[int, int]] = [(0, 0)] * len(NUMBERS)
    for i, share in enumerate(answers):
        outcomes[i::N_PROCESSES] = share
    return report(outcomes, time.perf_counter() - start)


def with_fullcourt() -> list[int]:
    """The two numbers of one pool."""
    start = time.perf_counter()
    with fullcourt.Pool(processes=N_PROCESSES, threads=N_THREADS) as pool:
        outcomes = pool.map(wait_and_square, NUMBERS)
    return report(outcomes, time.perf_counter() - start)


def report(outcomes: list[tuple[int, int]], seconds: float) -> list[int]:
    """Print what the waits took together, and return the squares alone."""
    pids = {pid for _, pid in outcomes}
    assert os.getpid() not in pids
    squares = [square for square, _ in outcomes]
    print(f"{squares}")
    print(f"{len(NUMBERS)} waits of 0.1 s on {N_PROCESSES} processes of {N_THREADS} threads took {seconds:.2f} s")
    return squares


# For the standard library: where processes are spawned, its workers import this file again. fullcourt's do not.
if __name__ == "__main__":
    print("-- with the standard library --")
    expected = with_the_standard_library()
    print("-- with fullcourt --")
    result = with_fullcourt()
    assert result == expected
    print(f"both gave the same: {len(result)} squares")
