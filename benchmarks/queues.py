"""Queues and pipes against the standard library's, in turns: python benchmarks/queues.py [--quick] [CASE ...].

Cases:

    1x1, 4x4     messages per second of small tuples, producers x consumers, each a process
    2x2-many     the same with put_many and get_many; against faster-fifo's own put_many and get_many, if installed
    published    the cases that faster-fifo publishes about itself, by put and get and by put and get_many; against it
                 (if installed) and the standard library; items per second
    round-trip   microseconds to send a small tuple through a pipe and get it back through a queue
    arrays       10 MB arrays per second, one producer, one consumer
    full         microseconds to put 20,000 items that nobody takes yet, and to take them, each

Each case runs ours and theirs alternately and prints the medians, and the median of the ratios of neighbours: a busy
machine slows both.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

import fullcourt

context = multiprocessing.get_context("fork")

PUBLISHED = ((1, 1), (1, 10), (10, 1), (3, 20), (20, 3), (20, 20))  # producers, consumers


def wait_for_start(ready: Any, go: Any) -> None:
    ready.send(None)
    go.wait()


def produce(queue: Any, item: Any, n: int, ready: Any, go: Any) -> None:
    wait_for_start(ready, go)
    for _ in range(n):
        queue.put(item)


def produce_many(queue: Any, item: Any, n: int, ready: Any, go: Any) -> None:
    group = [item] * 100
    wait_for_start(ready, go)
    for _ in range(n // 100):
        queue.put_many(group)


def consume(queue: Any, n: int, done: Any, go: Any) -> None:
    wait_for_start(done, go)
    for _ in range(n):
        queue.get()
    done.send(None)


def consume_many(queue: Any, n: int, done: Any, go: Any) -> None:
    # faster-fifo's first argument is another one, and it gives up after a while
    take = queue.get_many if isinstance(queue, fullcourt.Queue) else lambda n: queue.get_many(max_messages_to_get=n)
    wait_for_start(done, go)
    got = 0
    while got < n:
        with contextlib.suppress(Empty):
            got += len(take(min(1000, n - got)))
    done.send(None)


def throughput(
    make: Callable[[], Any],
    producers: int,
    consumers: int,
    n: int,
    item: Any = (1, "two", 3.0),
    *,
    put_many: bool = False,
    get_many: bool = False,
) -> float:
    """Items per second, from the moment when all processes are there to the last consumer's end."""
    queue = make()
    n -= n % (producers * consumers)
    ours, theirs = context.Pipe()
    go = context.Event()
    processes = [
        context.Process(target=consume_many if get_many else consume, args=(queue, n // consumers, theirs, go))
        for _ in range(consumers)
    ]
    processes += [
        context.Process(target=produce_many if put_many else produce, args=(queue, item, n // producers, theirs, go))
        for _ in range(producers)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ours.recv()
    began = time.perf_counter()
    go.set()
    for _ in range(consumers):
        ours.recv()
    seconds = time.perf_counter() - began
    for process in processes:
        process.join()
    ours.close()
    theirs.close()
    return n / seconds


def answer(end: Any, queue: Any) -> None:
    while (item := end.recv()) is not None:
        queue.put(item)


def round_trip(make_pipe: Callable[[], Any], make_queue: Callable[[], Any], n: int) -> float:
    """Round trips per second."""
    (mine, its), queue = make_pipe(), make_queue()
    process = context.Process(target=answer, args=(its, queue))
    process.start()
    mine.send(0)
    queue.get()
    began = time.perf_counter()
    for i in range(n):
        mine.send((i, "x"))
        queue.get()
    seconds = time.perf_counter() - began
    mine.send(None)
    process.join()
    mine.close()
    its.close()
    return n / seconds


def unread(make: Callable[[], Any], n: int) -> float:
    """Items per second, put before any is taken."""
    queue = make()
    began = time.perf_counter()
    for i in range(n):
        queue.put((i, "x"))
    for _ in range(n):
        queue.get()
    return n / (time.perf_counter() - began)


def compare(name: str, unit: str, runs: int, **sides: Callable[[], float]) -> None:
    """Run the sides in turns and print the medians; the ratios are the first side's to each other's."""
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(runs):
        for side, run in sides.items():
            rates[side].append(run())
    first, *others = sides
    line = ", ".join(f"{side} {show(statistics.median(found), unit)}" for side, found in rates.items())
    for other in others:
        ratio = statistics.median(a / b for a, b in zip(rates[first], rates[other], strict=True))
        line += f"; {ratio:.2f} x {other}"
    print(f"{name:<10} {line}", flush=True)


def show(rate: float, unit: str) -> str:
    return f"{1e6 / rate:.1f} us" if unit == "us" else f"{rate:,.0f} {unit}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "cases", nargs="*", help="1x1, 4x4, 2x2-many, published, round-trip, arrays, full (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, and three runs")
    options = parser.parse_args(arguments)
    runs, n = (3, 4000) if options.quick else (7, 40_000)
    theirs = context.Queue

    def wanted(case: str) -> bool:
        return not options.cases or case in options.cases

    for producers, consumers in ((1, 1), (4, 4)):
        if wanted(case := f"{producers}x{consumers}"):
            compare(
                case,
                "items/s",
                runs,
                fullcourt=lambda p=producers, c=consumers: throughput(fullcourt.Queue, p, c, n),
                multiprocessing=lambda p=producers, c=consumers: throughput(theirs, p, c, n),
            )
    ours_and_fifo: dict[str, Callable[[], Any]] = {"fullcourt": fullcourt.Queue}
    with contextlib.suppress(ImportError):
        fifo = importlib.import_module("faster_fifo")
        ours_and_fifo["faster_fifo"] = lambda: fifo.Queue(100_000_000)
    if wanted("2x2-many"):
        sides: dict[str, Callable[[], float]] = {
            name: lambda make=make: throughput(make, 2, 2, 5 * n, put_many=True, get_many=True)
            for name, make in ours_and_fifo.items()
        }
        compare("2x2-many", "items/s", runs, **sides)
    if wanted("published"):
        for case in PUBLISHED:
            sides = {}
            for many in ("", "_get_many"):
                for name, make in ours_and_fifo.items():
                    sides[name + many] = lambda make=make, case=case, many=many: throughput(
                        make, *case, n, get_many=bool(many)
                    )
            sides["multiprocessing"] = lambda case=case: throughput(theirs, *case, n)
            compare(f"{case[0]}x{case[1]}", "items/s", runs, **sides)
    if wanted("round-trip"):
        compare(
            "round-trip",
            "us",
            runs,
            fullcourt=lambda: round_trip(fullcourt.Pipe, fullcourt.Queue, n // 10),
            multiprocessing=lambda: round_trip(context.Pipe, theirs, n // 10),
        )
    if wanted("arrays"):
        try:
            array = importlib.import_module("numpy").zeros(10_000_000 // 8)
        except ImportError:
            print("arrays     needs NumPy")
        else:
            compare(
                "arrays",
                "items/s",
                runs,
                fullcourt=lambda: throughput(fullcourt.Queue, 1, 1, max(10, n // 400), array),
                multiprocessing=lambda: throughput(theirs, 1, 1, max(10, n // 400), array),
            )
    if wanted("full"):
        compare(
            "full",
            "us",
            runs,
            fullcourt=lambda: unread(fullcourt.Queue, n // 2),
            multiprocessing=lambda: unread(theirs, n // 2),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
