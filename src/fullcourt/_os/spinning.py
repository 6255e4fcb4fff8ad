"""Waiting awake, for a moment, for what is about to come.

To fall asleep and be woken is most of what a tiny task costs: 15 us and more on each side, most on virtual machines,
whose idle cores the host takes away. Whoever waits awake has it within 2 us, but keeps a core that somebody else may
need. So it is done only where it pays, and that shows by itself:

- Nothing came: the next waits are slept through, each time twice as many. The same where it comes, but late, again and
  again: then a wait awake costs more than it saves.
- Between two looks the core was gone, or the GIL: somebody else needs it. If that cost more than the waits awake have
  saved since it was gone the last time, many more waits are slept through, each time twice as many.

Who waits asleep is late by a wake-up, and so whoever waits awake for him sees him late at first. So waits last for as
long as a slow wake-up, and some late ones are forgiven: else neither side would ever begin.

Measured on 2 cores of a virtual machine, a call of a pool's worker and its answer: 78 us asleep, 20 awake; beside one,
two and four programs that compute, 27, 27 and 55 asleep, and 3 to 7 % more by the waits that try whether it pays.

*Source*: adaptive mutexes, which spin, then block. To spin for as long as a wake-up takes costs at most twice the best
(Karlin, Li, Manasse, Owicki: "Empirical studies of competitive spinning for a shared-memory multiprocessor", 1991).
"""

from __future__ import annotations

from time import perf_counter

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["SPIN_S", "Spinner"]

SPIN_S = 200e-6
LATE_S = 50e-6  # what comes after that has not come near enough ...
MOST_LATE = 16  # ... and so often one after another it is forgiven,
LATE_AGAIN = 4  # or so often while waits are in vain
GONE_S = 100e-6  # a look takes 1 to 2 us
SAVED_S = 20e-6  # by a wait awake: a wake-up
SLEPT_AT_FIRST = 8
MOST_VAIN = 8  # the exponents of two of how many waits are slept through: after vain ones ...
LEAST_GONE, MOST_GONE = 6, 16  # ... and where the core was gone


class Spinner:
    """One waiter's. One thread at a time.

    Args:
        may_spin: whether it ever does.

    Attributes:
        n_to_sleep: how many of the next waits are slept through.
    """

    __slots__ = ("_gone", "_n_good", "_n_late", "_vain", "n_to_sleep")

    def __init__(self, *, may_spin: bool) -> None:
        self.n_to_sleep = SLEPT_AT_FIRST if may_spin else 1 << 62
        self._vain = 0
        self._gone = LEAST_GONE
        self._n_late = 0
        self._n_good = 0  # since the core was gone

    def wait(self, look: Callable[[], Any]) -> Any:
        """Look again and again, where that pays. Returns what was found; what is false: nothing, go to sleep."""
        if self.n_to_sleep > 0:
            self.n_to_sleep -= 1
            return None
        return self.spin(look)

    def spin(self, look: Callable[[], Any]) -> Any:
        """:meth:`wait`, awake in any case."""
        began = last = perf_counter()
        longest = 0.0
        while True:
            found = look()
            now = perf_counter()
            longest = max(longest, now - last)
            if found or now - began > SPIN_S:
                break
            last = now
        if longest > GONE_S:
            if self._n_good * SAVED_S > longest:
                self._gone = LEAST_GONE
            else:
                self.n_to_sleep = 1 << self._gone
                self._gone = min(MOST_GONE, self._gone + 1)
            self._n_good = 0
        elif found and now - began <= LATE_S:
            self._n_late = self._vain = 0
            self._n_good += 1
        elif found and self._n_late < (LATE_AGAIN if self._vain else MOST_LATE):
            self._n_late += 1
        else:
            self._n_late = 0
            self._vain = min(MOST_VAIN, self._vain + 1)
            self.n_to_sleep = 1 << self._vain
        return found
