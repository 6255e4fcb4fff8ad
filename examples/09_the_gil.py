"""The GIL, shown by a count-down: two threads that compute are no faster than one.

Run it: `python examples/09_the_gil.py`. On a free-threaded Python the same file shows the opposite.
"""

import sys
import threading
import time

import fullcourt

COUNT = 2_000_000


def count_down(n: int) -> int:
    """Count from `n` to 0, in Python, which holds the GIL all the while."""
    while n > 0:
        n -= 1
    return n


def with_the_standard_library() -> list[int]:
    """The whole count on one thread, then half of it on each of two."""
    ends: list[int] = []

    def count_into(n: int) -> None:
        ends.append(count_down(n))

    start = time.perf_counter()
    thread = threading.Thread(target=count_into, args=(COUNT,))
    thread.start()
    thread.join()
    report("one thread", time.perf_counter() - start)

    start = time.perf_counter()
    threads = [threading.Thread(target=count_into, args=(COUNT // 2,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report("two threads", time.perf_counter() - start)
    return ends


def with_fullcourt() -> list[int]:
    """The same on pools of threads; then two processes, which have a GIL each: one word of the call changes."""
    with fullcourt.Pool(threads=1) as pool:
        start = time.perf_counter()
        ends = pool.map(count_down, [COUNT])
        report("one thread", time.perf_counter() - start)
    with fullcourt.Pool(threads=2) as pool:
        start = time.perf_counter()
        ends += pool.map(count_down, [COUNT // 2] * 2)
        report("two threads", time.perf_counter() - start)
    with fullcourt.Pool(processes=2) as pool:
        pool.map(abs, range(2))  # so that the time below is the counting's, not the processes' start
        start = time.perf_counter()
        assert pool.map(count_down, [COUNT // 2] * 2) == [0, 0]
        report("two processes", time.perf_counter() - start)
    return ends


def report(who: str, seconds: float) -> None:
    """Print one line of the table."""
    print(f"  {COUNT:,} counted down on {who:<14} {seconds:.3f} s")


def has_gil() -> bool:
    """Whether this interpreter runs with its GIL; before 3.13 every one did."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


# Neither half needs this guard (the first has threads only); it is here so that the file can be imported.
if __name__ == "__main__":
    print(f"this Python has {'a' if has_gil() else 'no'} GIL")
    print("-- with the standard library --")
    expected = with_the_standard_library()
    print("-- with fullcourt --")
    result = with_fullcourt()
    assert result == expected
    if has_gil():
        print("Threads that compute take turns at the one GIL: two count no faster than one. Processes have one each.")
    else:
        print("Threads need no GIL here, so two count at the same time, each on a core if there is one.")
    print(f"both gave the same: {result}")
