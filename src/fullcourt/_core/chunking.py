"""How many tasks travel together.

One message should be some milliseconds of work: so its cost (0.1 ms in each of both processes, where all cores compute)
stays under a few per cent. Where something else waits for its turn, and where results are taken one by one, it is no
more than 2 ms. Until a task has been timed, chunks are of one; then they grow at most 16-fold a step, since the first
tasks may not be like the rest. Towards the end of the input a chunk is at most
half of an even share of what remains (guided self-scheduling, Polychronopoulos and Kuck 1987), so that all workers
finish together, but no less than 50 microseconds of work.
"""

from __future__ import annotations

__all__ = [
    "FLUSH_S",
    "HEAVY_BYTES",
    "LONG_S",
    "LOOK_N",
    "LOOK_S",
    "MAX_CHUNK",
    "TARGET_S",
    "WHOLE_FLUSH_S",
    "chunk_size",
]

TARGET_S = 0.002
LONG_S = 0.016  # where nothing else waits, nor anybody for anything but the end of the whole
HEAVY_BYTES = 250_000  # a map of which a chunk was more than that keeps to short ones: each worker holds two
SMALLEST_S = 0.00005
MAX_CHUNK = 8192  # as many as a worker's journal has places for
MAX_LAZY_CHUNK = 1024  # of an input whose end is not known: some such portions are read ahead of the results' consumer
GROWTH = 16
# While a chunk runs: after an item, results are handed over if they have waited for so long, or for longer where nobody
# waits for one of them; so often its slot looks whether it is time, and whether it is to go on, but after so many items
# at the latest, since what tiny items were may be long from now on.
FLUSH_S = 0.002
WHOLE_FLUSH_S = 0.02
LOOK_S = 0.0001
LOOK_N = 16


def chunk_size(
    mean_s: float | None, previous: int, remaining: int | None, n_slots: int, target_s: float = TARGET_S
) -> int:
    """Say how many tasks the next chunk of a stream should have.

    Args:
        mean_s: seconds that one task takes; None if none has been timed.
        previous: the size of this stream's last chunk; 0 at its start.
        remaining: tasks that are still to come, if known.
        n_slots: places where tasks run, in the whole pool.
        target_s: seconds of work that it should be.

    Returns:
        A number from 1 to :data:`MAX_CHUNK`, or :data:`MAX_LAZY_CHUNK` where it is not known what is to come.
    """
    if mean_s is None:
        return 1
    mean_s = max(mean_s, 1e-8)
    size = int(target_s / mean_s)
    if previous and size > GROWTH * previous:
        size = GROWTH * previous
    if remaining is None:
        size = min(size, MAX_LAZY_CHUNK)
    else:
        share = remaining // (2 * n_slots)
        if size > share:
            size = max(share, min(size, int(SMALLEST_S / mean_s)))
    return min(max(size, 1), MAX_CHUNK)
