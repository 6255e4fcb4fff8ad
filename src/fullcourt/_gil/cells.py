"""A stretch of a thread's time, and how it is split into states: pure. For the sampler: imports little."""

from __future__ import annotations

from fullcourt._gil.waits import GIL_WAIT, LOCK, N_STATES

__all__ = ["CELL", "RUNNABLE", "WAITS", "WOKEN", "states_of"]

# In the place of a blocked thread's state:
RUNNABLE = -2
WOKEN = -3  # it was blocked, has been woken, and has not had a core since
CELL = (
    "time", "run", "queued", "w_held", "w_native", "w_gil_wait", "w_lock", "w_sleep", "w_network", "w_file", "w_other",
    "held_off", "holder", "n", "w_woken",
)  # fmt: skip
TIME, RUN, QUEUE, W_HELD, W_NATIVE, W_BLOCKED = range(6)
HELD_OFF, HOLDER, N, W_WOKEN = 11, 12, 13, 14
N_CELL = len(CELL)
EMPTY = bytes(4 * N_CELL)

MANY = 20  # samples, from which on they tell something of themselves
WAITS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024)  # ms: the upper ends of the histogram of waits


def states_of(cell: list[float], like: list[float]) -> list[float]:
    """Split a cell's time into the states, in its unit; where it has no sample of a kind, in the proportions of `like`.

    The parts add up to the cell's time. With no samples at all, run time counts as held, and blocked time as other.
    On a virtual machine some time is neither counted as run nor as queued: the host had the core. It is known by there
    being more time left over than samples saw the thread blocked, and counts as queued.
    """
    time, run, queued = cell[TIME], cell[RUN], cell[QUEUE]
    if run + queued > time:  # the counters are brought up to date at clock ticks and switches only
        shrink = time / (run + queued) if run + queued else 0.0
        run, queued = run * shrink, queued * shrink
    states = [0.0] * N_STATES
    native = _weights(cell, like, W_HELD, W_BLOCKED, default=0)[1]
    states[0], states[1] = run * (1.0 - native), run * native
    left = max(0.0, time - run - queued)
    seen = _share_blocked(cell if cell[N] >= MANY else like)
    blocked = min(left, time * seen) if cell[N] >= MANY or not seen else left
    states[3] = queued + left - blocked
    weights = _weights(cell, like, W_BLOCKED, HELD_OFF, default=5)
    states[GIL_WAIT] = blocked * weights[0]
    for index in range(5):
        states[LOCK + index] = blocked * weights[1 + index]
    return states


def _share_blocked(cell: list[float]) -> float:
    """The share of the time in which samples saw a thread blocked, and twice its standard error.

    The sampler and a thread that is woken for it, or beside it, want the same core: such moments are seen more often
    than they last. What the counters do not tell of them is blocked time.
    """
    if not cell[TIME] or not cell[N]:
        return 1.0
    blocked = sum(cell[W_BLOCKED:HELD_OFF]) + max(0.0, cell[W_WOKEN] - cell[QUEUE])
    share = min(1.0, blocked / cell[TIME])
    return min(1.0, share + 2.0 * (share * (1.0 - share) / cell[N]) ** 0.5) if share else 0.0


def _weights(cell: list[float], like: list[float], begin: int, end: int, default: int) -> list[float]:
    for source in (cell, like):
        total = sum(source[begin:end])
        if total > 0:
            return [weight / total for weight in source[begin:end]]
    return [1.0 if index == default else 0.0 for index in range(end - begin)]
