"""An endless stream as input: `imap` takes from it only as far ahead as it must, so memory stays the same.

Run it: `python examples/endless_stream.py`
"""

import itertools
import math
from collections.abc import Iterator

import fullcourt

N_WANTED = 20_000
n_taken = 0


def readings() -> Iterator[int]:
    """Numbers without end, as from a sensor; counts how many were taken."""
    global n_taken
    for n in itertools.count():
        n_taken += 1
        yield n


def is_prime(n: int) -> bool:
    """Whether `n` is a prime."""
    return n > 1 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


n_primes = 0
furthest_ahead = 0
with fullcourt.Pool(2) as pool:
    for i, prime in enumerate(pool.imap(is_prime, readings()), start=1):
        n_primes += prime
        furthest_ahead = max(furthest_ahead, n_taken - i)
        if i == N_WANTED:
            break  # the stream has no end, so the reader makes one

assert n_primes == 2262  # the primes below 20,000
print(f"{N_WANTED:,} results used, {n_primes:,} of them primes")
print(f"never more than {furthest_ahead:,} items ahead of the reader")
assert furthest_ahead < N_WANTED
