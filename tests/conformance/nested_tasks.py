"""Tasks that use their own pool. Imports stay light: under ``spawn`` every worker pays for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import conformance_tasks as tasks


def down(pool: Any, depth: int) -> int:
    """Each level waits for the next."""
    return 0 if depth == 0 else 1 + pool.submit(down, pool, depth - 1).result()


def fib(pool: Any, n: int) -> int:
    if n < 2:
        return n
    later = pool.submit(fib, pool, n - 2)
    return int(pool.apply(fib, (pool, n - 1)) + later.result())


def sum_of_squares(pool: Any, n: int) -> int:
    return sum(pool.map(tasks.square, range(n)))


def table(pool: Any, n: int) -> list[int]:
    """A map inside of a map, if it is itself mapped."""
    return list(pool.starmap(sum_of_squares, [(pool, i) for i in range(n)]))


def first_of(pool: Any, n: int) -> list[int]:
    """Takes some results of an endless input, and leaves."""
    results = pool.imap(tasks.square, endless())
    taken = [next(results) for _ in range(n)]
    results.close()
    return taken


def endless() -> Iterator[int]:
    i = 0
    while True:
        yield i
        i += 1


def lazily(pool: Any, n: int) -> int:
    return sum(pool.imap(tasks.square, (i for i in range(n)))) + sum(pool.imap_unordered(tasks.square, range(n)))


def meet(pool: Any, turnstile: tasks.Turnstile, name: int) -> int:
    """Wait for the others, so that all slots hold one of these; then for a task of one's own."""
    tasks.pass_through(turnstile, name)
    return int(pool.apply(tasks.square, (name,)))


def fail_below(pool: Any, depth: int) -> Any:
    return tasks.raise_it(KeyError("at the bottom")) if depth == 0 else pool.apply(fail_below, (pool, depth - 1))


def rescue(pool: Any) -> str:
    try:
        pool.apply(fail_below, (pool, 1))
    except KeyError as error:
        return f"rescued {error.args[0]}"
    return "nothing failed"


def failures(pool: Any) -> list[str]:
    results = pool.map(tasks.fail_on_negative, [1, -2, 3], on_error="return")
    return [type(getattr(result, "exception", result)).__name__ for result in results]


def gather_in_an_event_loop(pool: Any, n: int) -> int:
    async def run() -> int:
        return sum(await asyncio.gather(*(pool.submit(tasks.square, i) for i in range(n))))

    return asyncio.run(run())


def as_they_complete(pool: Any, n: int) -> int:
    futures = [pool.submit(tasks.square, i) for i in range(n)]
    return sum(future.result() for future in concurrent.futures.as_completed(futures))


def from_a_thread(pool: Any, n: int) -> int:
    """The task itself waits for a thread that waits for the pool."""
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(sum_of_squares(pool, n)))
    thread.start()
    thread.join()
    return results[0]


def call_back(pool: Any, n: int) -> int:
    """Nobody waits for a future; its callback wakes the task."""
    results: list[int] = []
    done = threading.Event()
    pool.apply_async(sum_of_squares, (pool, n), callback=lambda result: (results.append(result), done.set()))
    done.wait()
    return results[0]


def cancel_what_waits(pool: Any, turnstile: tasks.Turnstile, n: int) -> tuple[int, int]:
    """Submits tasks that block, cancels those that have not started, lets the others go."""
    futures = [pool.submit(tasks.pass_through, turnstile, i) for i in range(n)]
    n_cancelled = sum(future.cancel() for future in reversed(futures))
    fd = os.open(turnstile.permits, os.O_WRONLY)
    os.write(fd, b"." * n)
    os.close(fd)
    concurrent.futures.wait(futures)
    return n_cancelled, sum(future.cancelled() for future in futures)


def stop_what_runs(pool: Any, turnstile: tasks.Turnstile) -> str:
    fd = os.open(turnstile.arrivals, os.O_RDONLY)
    future = pool.submit(tasks.pass_through, turnstile, "it runs")
    os.read(fd, 100)
    os.close(fd)
    future.cancel()
    return "cancelled" if future.cancelled() else "not cancelled"


def limited(pool: Any) -> list[Any]:
    """A call and an item of a map run for ever; another does not."""
    strict = pool.options(timeout=0.2, grace=0.2, retries=1)
    [failure, result] = strict.map(sleep_for_ever_at_zero, [0, 3], on_error="return")
    return [
        type(strict.submit(sleep_for_ever_at_zero, 0).exception()).__name__,
        type(failure.exception).__name__,
        result,
    ]


def sleep_for_ever_at_zero(x: int) -> int:
    while x == 0:
        time.sleep(60)
    return x * x


def leave_behind(pool: Any, path: str, n: int) -> None:
    """Submits tasks and does not wait for them."""
    for i in range(n):
        pool.submit(tasks.append_line, path, i)


def crawl(pool: Any, path: str, page: int) -> None:
    """Each page has two more, down to the leaves; nobody waits."""
    tasks.append_line(path, page)
    if page < 32:
        pool.submit(crawl, pool, path, 2 * page)
        pool.submit(crawl, pool, path, 2 * page + 1)


def ways_to_end(pool: Any) -> list[str]:
    told: list[str] = []
    for method in (pool.close, pool.terminate, pool.join):
        try:
            method()
        except Exception as error:
            told.append(type(error).__name__)
    return told


def itself(pool: Any) -> Any:
    return pool


def die() -> None:
    os.kill(os.getpid(), 9)


def survive_a_death(pool: Any) -> str:
    try:
        pool.apply(die)
    except Exception as error:
        return f"{type(error).__name__} in another process: {error.pid != os.getpid()}"
    return "nobody died"


def deaths_in_a_map(pool: Any, n: int) -> list[Any]:
    results = pool.map(die_for_multiples_of_five, range(n), on_error="return")
    return [type(result.exception).__name__ if hasattr(result, "exception") else result for result in results]


def die_for_multiples_of_five(x: int) -> int:
    if x % 5 == 0:
        die()
    return x


def die_while_waiting(pool: Any, turnstile: tasks.Turnstile) -> None:
    futures = [pool.submit(tasks.pass_through, turnstile, i) for i in range(8)]
    turnstile.arrive(f"pid {os.getpid()}")
    concurrent.futures.wait(futures)


def wait_for_one_that_waits(pool: Any, turnstile: tasks.Turnstile, name: int) -> Any:
    return pool.apply(tasks.pass_through, (turnstile, name))


def use_after_a_fork(pool: Any) -> str:
    import multiprocessing

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(attempt(pool)))
    child.start()
    told = receiver.recv()
    child.join()
    return str(told)


def attempt(pool: Any) -> str:
    try:
        return str(pool.apply(tasks.square, (2,)))
    except Exception as error:
        return type(error).__name__


def pids_at_work(pool: Any, depth: int) -> list[int]:
    mine = [os.getpid()]
    return mine if depth == 0 else mine + pool.apply(pids_at_work, (pool, depth - 1))


def round_trip(pool: Any, data: bytes) -> bytes:
    return bytes(pool.apply(tasks.reverse_bytes, (data,)))


def submit_many(pool: Any, path: str, n: int) -> None:
    """Submit a burst, and end without waiting for it."""
    pool.submit(tasks.append_line, path, 0).result()
    for number in range(1, n):
        pool.submit(tasks.append_line, path, number)
