"""Many processes by `Pool`: `apply_async`, `close`, `join`.

Run it: `python examples/03_many_processes.py`
"""

import multiprocessing
import time

import fullcourt

N_TASKS = 6


def task(number: int) -> str:
    """A task that takes a tenth of a second and says which one it was."""
    time.sleep(0.1)
    return f"task {number} done"


def with_the_standard_library() -> list[str]:
    """Four worker processes share six tasks; `close` says that no more will come, `join` waits for the workers."""
    done: list[str] = []
    start = time.perf_counter()
    pool = multiprocessing.Pool(4)
    for number in range(N_TASKS):
        pool.apply_async(task, args=(number,), callback=done.append)
    pool.close()
    pool.join()
    report(done, time.perf_counter() - start)
    return sorted(done)


def with_fullcourt() -> list[str]:
    """The same six lines, with another name in front of `Pool`."""
    done: list[str] = []
    start = time.perf_counter()
    pool = fullcourt.Pool(4)
    for number in range(N_TASKS):
        pool.apply_async(task, args=(number,), callback=done.append)
    pool.close()
    pool.join()
    report(done, time.perf_counter() - start)
    return sorted(done)


def report(done: list[str], seconds: float) -> None:
    """Print what came back, in the order in which it came."""
    for line in done:
        print(f"  {line}")
    print(f"{len(done)} tasks of 0.1 s on 4 processes took {seconds:.2f} s")


# For the standard library: where processes are spawned, its workers import this file again. fullcourt's do not.
if __name__ == "__main__":
    print("-- with the standard library --")
    expected = with_the_standard_library()
    print("-- with fullcourt --")
    result = with_fullcourt()
    assert result == expected
    print(f"both gave the same: {len(result)} tasks done")
