"""What the tests of queues, locks and arrays inside of pools, queues and pipelines run elsewhere."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import fullcourt
from fullcourt import Stage


def add_under_lock(shared: Any, cell: Any) -> None:
    """Add to a number that lies in a queue of one item, under a lock that was broadcast."""
    with shared.value:
        cell.put(cell.get(timeout=30) + 1)


def hold_for_ever(lock: Any, held: Any) -> None:
    """Take a lock, and do not heed an exception."""
    lock.acquire()
    held.put(os.getpid())
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(1000)


def hold_and_sleep(lock: Any, held: Any) -> None:
    with lock:
        held.put(os.getpid())
        time.sleep(1000)


def put_for_ever(items: Any, name: int) -> None:
    n = 0
    while True:
        items.put((name, n))
        n += 1


def take_all(items: Any, out: Any) -> None:
    """Take to the end; say whether each producer's items came in order, and how many there were."""
    last: dict[int, int] = {}
    in_order = True
    n = 0
    for name, i in items:
        in_order = in_order and i > last.get(name, -1)
        last[name] = i
        n += 1
    out.put((in_order, n))


def answer_through(ends: Any) -> None:
    """Take the end of a pipe out of a queue, and answer through it."""
    end = ends.get(timeout=30)
    with end:
        end.send(("from", end.recv()))


def add_one_in_place(arrays: Any, done: Any) -> None:
    array = arrays.get(timeout=30)
    array += 1
    done.put(array)


def add_place(array_and_place: Any) -> Any:
    array, place = array_and_place
    array[place] += place
    return array, place


def grow(shared: Any) -> int:
    return int(shared.open().sum())


def run_inner_pipeline(n: int) -> list[int]:
    """A stage that runs a pipeline in a pool of its own."""
    with fullcourt.Pool(threads=1) as pool:
        return pool.pipeline(Stage(plus_one, threads=2), Stage(double, threads=1)).map(range(n))


def run_inner_pool(n: int) -> int:
    """A stage that uses a pool of its own."""
    with fullcourt.Pool(1, start_method="fork") as pool:
        return sum(pool.map(double, range(n)))


def ask_pool(pool_and_n: Any) -> int:
    """A stage that uses the pool which the pipeline belongs to."""
    pool, n = pool_and_n
    return sum(pool.map(plus_one, range(n)))


def plus_one(x: int) -> int:
    return x + 1


def double(x: int) -> int:
    return 2 * x


class Thing:
    def __init__(self, notes: Any) -> None:
        self.notes = notes
        notes.put(("made", os.getpid()))

    def end(self) -> None:
        self.notes.put(("ended", os.getpid()))


def make_thing(notes: Any) -> int:
    fullcourt.worker_state().once("thing", lambda: Thing(notes), Thing.end)
    return os.getpid()


def make_thing_below(pool: Any, notes: Any, depth: int) -> set[int]:
    """Make it here, and where nested tasks run."""
    below: set[int] = pool.submit(make_thing_below, pool, notes, depth - 1).result(60) if depth else set()
    return below | {make_thing(notes)}


def make_thing_and_die(notes: Any) -> None:
    make_thing(notes)
    os._exit(1)
