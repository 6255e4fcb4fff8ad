"""What the tests of queues, pipes and locks run elsewhere: importable there by name."""

from __future__ import annotations

import os
import signal
import time
from typing import Any


def put_numbers(queue: Any, name: Any, n: int) -> None:
    for i in range(n):
        queue.put((name, i))
    if hasattr(queue, "close"):
        queue.close()


def put_numbers_and_stay(queue: Any, name: Any, n: int, gate: Any) -> None:
    for i in range(n):
        queue.put((name, i))
    gate.get()


def forward(source: Any, target: Any) -> None:
    """Take from one queue to its end, and put into another."""
    for item in source:
        target.put(item)
    target.close()


def echo(source: Any, target: Any, n: int) -> None:
    for _ in range(n):
        target.put(source.get())


def echo_pipe(end: Any) -> None:
    with end:
        while not isinstance(item := end.recv(), str) or item != "stop":
            end.send(item)


def put_and_die(queue: Any, n: int) -> None:
    for i in range(n):
        queue.put(i)
    os.kill(os.getpid(), signal.SIGKILL)


def take_and_die(queue: Any) -> None:
    queue.get()
    os.kill(os.getpid(), signal.SIGKILL)


def hold_and_die(lock: Any, held: Any) -> None:
    lock.acquire()
    held.put(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def hold(lock: Any, held: Any, gate: Any) -> None:
    lock.acquire()
    held.put(os.getpid())
    gate.get()
    lock.release()


def count_up(lock: Any, cell: Any, n: int) -> None:
    """Add to a number that lies in a queue of one item, which only one may do at a time."""
    for _ in range(n):
        with lock:
            value = cell.get(timeout=0)
            cell.put(value + 1)


def wait_and_tell(waits: Any, told: Any) -> None:
    told.put(waits.wait(30))


def wait_on_condition(condition: Any, ready: Any, told: Any) -> None:
    with condition:
        ready.put(os.getpid())
        told.put(condition.wait(30))


def fill(array: Any, queue: Any) -> None:
    array += 1
    queue.put((array, array.flags.writeable))


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def relay_numbers(pool: Any, n: int) -> list[Any]:
    """Have nested tasks put into a queue and read it to its end."""
    import fullcourt

    items: Any = fullcourt.Queue()
    taken = pool.submit(list, items)
    puts = [pool.submit(put_numbers, items, name, n) for name in "ab"]
    for put in puts:
        put.result(30)
    items.close()
    return taken.result(30)  # type: ignore[no-any-return]


def ask_for_a_queue(pool: Any) -> Any:
    """A queue that a nested task has made, and put into."""
    items: Any = pool.submit(make_queue, "a").result(30)
    items.put("b")
    return items


def make_queue(item: Any) -> Any:
    import fullcourt

    items: Any = fullcourt.Queue()
    items.put(item)
    return items


def ask_with_a_bound_method(pool: Any) -> Any:
    """The function of a nested task holds descriptors, and so do its arguments."""
    import fullcourt

    items: Any = fullcourt.Queue()
    pool.submit(items.put, make_queue("inner")).result(30)
    return items.get(timeout=10).get(timeout=10)


def ask_with_a_map(pool: Any) -> list[Any]:
    """Each item of a nested map is a queue, and so is each result."""
    return [items.get(timeout=10) for items in pool.map(add_one, [make_queue(i) for i in range(5)])]


def add_one(items: Any) -> Any:
    items.put(items.get(timeout=10) + 1)
    return items


def put_into_broadcast(shared: Any, item: Any) -> None:
    shared.value.put((item, os.getpid()))
