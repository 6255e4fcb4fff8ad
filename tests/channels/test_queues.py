"""Queues keep their promises, whoever is at the other end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import multiprocessing
import os
import pickle
import queue
import random
import signal
import socket
import sys
import threading
from collections import Counter
from time import monotonic
from typing import Any

import pytest
from channel_tasks import (
    echo,
    fill,
    forward,
    put_and_die,
    put_numbers,
    put_numbers_and_stay,
    take_and_die,
)
from endpoints import KINDS, PROCESS_KINDS, QUICK_KINDS, endpoint, fork, kill, reap

import fullcourt
from fullcourt.channels._line import LIVES, Line
from fullcourt.channels._listeners import Listener

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="queues need Linux")

QUEUES = [fullcourt.Queue, fullcourt.SimpleQueue, fullcourt.JoinableQueue]
# More than the socket takes, so that the log is used.
MANY = 1200


@pytest.fixture(params=QUICK_KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def test_items_of_one_producer_come_in_order_and_end_with_it(kind: str) -> None:
    items: Any = fullcourt.Queue()
    with endpoint(kind) as there:
        there.start(put_numbers, items, "a", 300)
        if kind in {"thread", "pool-threads"}:  # it is the same object, and closed there
            there.join()
        assert list(items) == [("a", i) for i in range(300)] if kind not in {"thread", "pool-threads"} else True


@pytest.mark.parametrize("make", QUEUES)
def test_what_was_put_first_comes_first_whatever_the_size(make: Any) -> None:
    items = make()
    sent = [i if i % 7 else bytes(i * 40) for i in range(MANY)]
    for item in sent:
        items.put(item)
    assert [items.get() for _ in sent] == sent
    assert items.empty()
    items.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_trip_through_every_kind_of_endpoint(kind: str) -> None:
    to, back = fullcourt.Queue(), fullcourt.SimpleQueue()
    items = [1, "two", None, {"three": [3]}, bytes(100_000), 2.5]
    with endpoint(kind) as there:
        there.start(echo, to, back, len(items))
        for item in items:
            to.put(item)
        assert [back.get() for _ in items] == items


def test_each_item_of_many_producers_reaches_one_of_many_consumers_in_order(kind: str) -> None:
    n, producers, consumers = 400, 2, 2
    items, results = fullcourt.Queue(), fullcourt.Queue()
    with endpoint(kind) as there:
        for name in range(producers):
            there.start(put_numbers_and_stay, items, name, n, gate := fullcourt.Queue())
            gate.put(None)
        for _ in range(consumers):
            there.start(echo, items, results, n * producers // consumers)
        got = [results.get(timeout=60) for _ in range(n * producers)]
    assert Counter(got) == Counter((name, i) for name in range(producers) for i in range(n))


def test_order_holds_for_each_producer_while_the_log_is_used() -> None:
    items = fullcourt.Queue(0)

    def produce(name: int) -> Any:
        def run() -> None:
            rng = random.Random(name)
            i = 0
            while i < 3000:
                if rng.random() < 0.05:
                    n = items.put_many([(name, i + k) for k in range(40)])
                    assert n == 40
                    i += 40
                else:
                    items.put((name, i))
                    i += 1

        return run

    pids = [fork(produce(name)) for name in range(3)]
    seen = dict.fromkeys(range(3), -1)
    for name, i in items:
        assert i == seen[name] + 1
        seen[name] = i
    assert [reap(pid) for pid in pids] == [0, 0, 0]
    assert min(seen.values()) >= 2999


@pytest.mark.parametrize("method", PROCESS_KINDS)
def test_iteration_ends_when_the_last_producer_is_killed(method: str) -> None:
    items = fullcourt.Queue()
    with endpoint(method) as there:
        for _ in range(2):
            there.start(put_and_die, items, 50)
        assert len(list(items)) == 100


def test_iteration_ends_when_all_others_have_closed_and_begins_anew_after_a_put() -> None:
    items = fullcourt.Queue()
    pid = fork(lambda: put_numbers(items, "a", 3))
    assert len(list(items)) == 3
    reap(pid)
    items.put("mine")  # this process is a producer again
    pid = fork(lambda: put_numbers(items, "b", 1))
    reap(pid)
    assert [items.get(), items.get()] == ["mine", ("b", 0)]
    with pytest.raises(queue.Empty):
        items.get(timeout=0.01)


def test_iteration_ends_also_if_the_queue_was_given_away_meanwhile() -> None:
    items, other = fullcourt.Queue(), fullcourt.Queue()
    gate, go = fullcourt.Event(), threading.Event()
    pid = fork(lambda: (items.put(1), gate.wait(60)))
    got: list[Any] = []

    def consume() -> None:
        for item in items:
            got.append(item)
            go.set()

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    assert go.wait(30)
    while items._fds[LIVES] >= 0 or items._listeners:  # until it waits for the next item
        pass
    other.put(items)
    other.get(timeout=30).close()
    gate.set()
    assert reap(pid) == 0
    consumer.join(30)
    assert not consumer.is_alive()
    assert got == [1]


def give_through_a_queue(items: Any, _: str) -> None:
    other = fullcourt.Queue()
    other.put(items)
    other.get(timeout=30).close()


def give_to_a_pool(items: Any, method: str) -> None:
    with fullcourt.Pool(processes=1, start_method=method) as pool:
        pool.submit(put_numbers, items, "a", 0).result(30)


def give_to_a_process(items: Any, method: str) -> None:
    with fullcourt.Process(target=put_numbers, args=(items, "a", 0), start_method=method) as process:
        process.result(30)


GIVING = [
    pytest.param(give, method, id=f"{give.__name__}-{method}", marks=() if method == "fork" else pytest.mark.slow)
    for give in (give_to_a_pool, give_to_a_process)
    for method in PROCESS_KINDS
]


@pytest.mark.parametrize(("give", "method"), [(give_through_a_queue, ""), *GIVING])
def test_who_waits_for_a_first_item_sees_the_end_of_those_that_were_given_the_queue(
    give: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = fullcourt.Queue()
    asleep = threading.Event()
    wait = Listener.wait
    monkeypatch.setattr(Listener, "wait", lambda *args: (asleep.set(), wait(*args))[1])
    got: list[Any] = []
    consumer = threading.Thread(target=lambda: got.extend(items), daemon=True)
    consumer.start()
    assert asleep.wait(30)
    give(items, method)
    consumer.join(30)
    assert not consumer.is_alive()
    assert got == []


def test_a_giving_that_fails_ends_no_iteration() -> None:
    items, other = fullcourt.Queue(), fullcourt.Queue()
    got: list[Any] = []
    began = threading.Event()

    def consume() -> None:
        iterator = iter(items)
        began.set()
        got.extend(iterator)

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    assert began.wait(30)
    with pytest.raises(fullcourt.PicklingError):
        other.put((items, threading.Lock()))
    items.put("more")
    items.close()
    consumer.join(30)
    assert got == ["more"]


def test_threads_that_put_anew_at_once_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    items = fullcourt.Queue()
    pid = fork(lambda: put_numbers(items, "a", 1))
    assert len(list(items)) == 1  # from here on this process only takes, until it puts
    reap(pid)
    opened: list[Any] = []
    other = threading.Thread(target=items.put, args=("other's",))
    real = os.open

    def slow_open(path: Any, *args: Any) -> int:
        opened.append(path)
        if len(opened) == 1:
            other.start()
            other.join(0.3)  # it comes to its end, or waits
        return real(path, *args)

    monkeypatch.setattr("fullcourt.channels._line.os.open", slow_open)
    items.put("mine")
    other.join(30)
    monkeypatch.undo()
    assert len(opened) == 1


def test_a_chain_of_processes_ends_by_itself() -> None:
    first, second, third = (fullcourt.Queue() for _ in range(3))
    context = multiprocessing.get_context("spawn")
    links = [context.Process(target=forward, args=pair) for pair in ((first, second), (second, third))]
    for link in links:
        link.start()
    first.put_many(range(100))
    first.close()
    second.close()
    assert list(third) == list(range(100))
    for link in links:
        link.join()


def test_get_tells_the_end_where_a_process_only_takes() -> None:
    items = fullcourt.Queue()

    def consume() -> None:
        iterator = iter(items)
        assert next(iterator) == 1
        with pytest.raises(EOFError, match="closed it or ended"):
            items.get(timeout=30)

    pid = fork(consume)
    items.put(1)
    items.close()
    assert reap(pid) == 0


@pytest.mark.parametrize("timeout", [None, 0, 0.001, 30])
def test_the_end_is_told_also_to_who_does_not_wait(timeout: float | None) -> None:
    items = fullcourt.Queue()
    assert reap(fork(lambda: items.put(1))) == 0
    assert list(items) == [1]  # from here on this process only takes
    with pytest.raises(EOFError, match="closed it or ended"):
        items.get(block=timeout is not None, timeout=timeout)
    with pytest.raises(EOFError, match="closed it or ended"):
        asyncio.run(items.aget(timeout or 0))


@pytest.mark.parametrize("n", [2.5, "2", 0])
def test_a_number_of_items_that_is_none_is_refused_at_once(n: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"not {n!r}"):
        fullcourt.Queue().get_many(n)


@pytest.mark.parametrize("bound", [1.5, "3", None, 2**63])
def test_a_bound_that_is_no_number_of_items_is_refused(bound: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="maxsize must be"):
        fullcourt.Queue(bound)


def test_a_queue_given_to_tasks_ends_when_they_have_ended_and_leaves_no_descriptors() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with fullcourt.Pool(processes=2, start_method="fork") as pool:
        opened = len(os.listdir("/proc/self/fd"))
        first, second = fullcourt.Queue(), fullcourt.Queue()
        tasks = [pool.submit(forward, first, second) for _ in range(2)]
        first.put_many(range(40))
        first.close()
        assert sorted(second) == list(range(40))
        for task in tasks:
            task.result()
        kept = len(os.listdir("/proc/self/fd")) - opened
        assert kept < 2 * 7 * 2 + 5  # the two handles and what they wait with; nothing of the tasks that have ended
        del first, second, task, tasks
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("options", [{"processes": 1}, {"processes": 1, "threads": 2}])
def test_a_map_whose_function_has_a_queue_counts_until_all_its_items_have_ended(options: Any) -> None:
    items: Any = fullcourt.Queue()
    got: list[Any] = []
    consumer = threading.Thread(target=lambda: got.extend(items), daemon=True)
    with fullcourt.Pool(**options) as pool:
        results = pool.imap(items.put, range(3), buffersize=1)
        consumer.start()
        while not results._job.ready:  # the first item has ended, and the second waits here until its result is taken
            threading.Event().wait(0.001)
        consumer.join(0.2)
        assert consumer.is_alive()
        assert list(results) == [None] * 3
        consumer.join(30)
        assert got == [0, 1, 2]  # though the iterator of the results is still there
        given_up = pool.imap(items.put, itertools.count(), buffersize=1)
        assert next(given_up) is None
        given_up.close()
        assert next(iter(items)) == 0
        assert set(items) <= {1}


def test_a_pool_that_was_forked_later_is_not_waited_for() -> None:
    items = fullcourt.Queue()
    with fullcourt.Pool(processes=1, start_method="fork") as pool:
        pool.submit(len, "a").result()
        pid = fork(lambda: put_numbers(items, "a", 2))
        assert len(list(items)) == 2
        reap(pid)


# -- bounds, time, numbers ---------------------------------------------------------------------------------------------


def test_a_bound_holds_against_several_producers() -> None:
    items = fullcourt.Queue(5)
    pids = [fork(lambda: put_numbers(items, 0, 200)) for _ in range(3)]
    most = 0
    n = 0
    for _ in items:
        n += 1
        most = max(most, items.qsize())
    assert n == 600
    assert 0 < most <= 5
    for pid in pids:
        assert reap(pid) == 0


@pytest.mark.parametrize("maxsize", [1, 700])
def test_full_and_empty_and_qsize_are_exact(maxsize: int) -> None:
    items = fullcourt.Queue(maxsize)
    for i in range(maxsize):
        assert (items.full(), items.qsize()) == (False, i)
        items.put(i)
    assert items.full()
    with pytest.raises(queue.Full):
        items.put(0, block=False)
    began = monotonic()
    with pytest.raises(queue.Full):
        items.put(0, timeout=0.05)
    assert monotonic() - began >= 0.05
    for i in range(maxsize, 0, -1):
        assert items.qsize() == i
        items.get_nowait()
    assert items.empty()
    with pytest.raises(queue.Empty):
        items.get(block=False)
    began = monotonic()
    with pytest.raises(queue.Empty):
        items.get(timeout=0.05)
    assert monotonic() - began >= 0.05


def test_qsize_counts_what_lies_in_the_log() -> None:
    items = fullcourt.Queue()
    for i in range(MANY):
        items.put(i)
        assert items.qsize() == i + 1
    for i in range(MANY):
        items.get()
        assert items.qsize() == MANY - 1 - i


def test_a_put_that_waits_goes_on_when_another_process_takes() -> None:
    items = fullcourt.Queue(1)
    items.put("first")
    pid = fork(lambda: put_numbers(items, "second", 1))
    assert items.get(timeout=30) == "first"
    assert items.get(timeout=30) == ("second", 0)
    assert reap(pid) == 0


def test_groups_wait_for_room_and_say_how_many_were_put() -> None:
    items = fullcourt.Queue(10)
    assert items.put_many(range(100), block=False) == 10
    assert items.put_many(range(100), timeout=0.02) == 0
    assert items.get_many(4) == [0, 1, 2, 3]
    assert items.put_many(iter([10, 11]), block=False) == 2
    assert items.get_many(100) == [4, 5, 6, 7, 8, 9, 10, 11]
    with pytest.raises(queue.Empty):
        items.get_many(1, block=False)
    with pytest.raises(ValueError, match="at least 1"):
        items.get_many(0)


@pytest.mark.parametrize("bound", [1, 3, 40, 600])
def test_of_an_iterator_no_more_is_read_than_there_is_room_for(bound: int) -> None:
    items, numbers = fullcourt.Queue(bound), iter(range(bound + 100))
    assert items.put_many(numbers, timeout=0.001) == bound
    assert next(numbers) == bound + 1  # one was read ahead, to see whether there is one
    assert items.put_many(iter([]), timeout=0) == 0
    assert [items.get() for _ in range(bound)] == list(range(bound))
    assert items.put_many(iter(range(bound))) == bound  # does not wait for room that it need not have
    assert [items.get() for _ in range(bound)] == list(range(bound))


@pytest.mark.parametrize("filled", [0, MANY], ids=["socket", "log"])
def test_an_item_that_cannot_be_read_costs_a_group_only_itself(filled: int) -> None:
    items = fullcourt.Queue()
    items.put_many(range(filled))
    for item in ("a", Unreadable(), "b", Unreadable(), "c"):
        items.put(item)
    got: list[Any] = []
    n_errors = 0
    while got[-1:] != ["c"] or n_errors < 2:
        try:
            got += items.get_many(MANY, timeout=5)
        except ZeroDivisionError:
            n_errors += 1
    assert got == [*range(filled), "a", "b", "c"]
    assert n_errors == 2


class Unreadable:
    """Can be pickled; reading it raises ZeroDivisionError."""

    def __reduce__(self) -> tuple[Any, ...]:
        return divmod, (1, 0)


def test_groups_go_through_in_order_between_processes() -> None:
    items = fullcourt.Queue(50)
    pid = fork(lambda: (items.put_many(range(2000)), items.close()))
    got: list[int] = []
    while len(got) < 2000:
        got += items.get_many(64, timeout=30)
    assert got == list(range(2000))
    reap(pid)


# -- what can be put ---------------------------------------------------------------------------------------------------


def test_arrays_arrive_without_a_copy_as_the_receivers_own(kind: str) -> None:
    numpy = pytest.importorskip("numpy")
    if kind == "pool-interpreters":
        pytest.skip("NumPy cannot be imported in several interpreters")
    to = fullcourt.Queue()
    array = numpy.arange(200_000)
    with endpoint(kind) as there:
        there.start(fill, array, to)
        arrived, was_writable = to.get(timeout=60)
    assert was_writable
    assert arrived.flags.writeable
    assert (arrived == numpy.arange(200_000) + 1).all()
    base: Any = arrived
    while isinstance(base, numpy.ndarray):
        base = base.base
    assert "mmap" in repr(base.obj)  # not memory that something was copied into


def test_a_queue_goes_through_a_queue_and_is_the_same_there(kind: str) -> None:
    to, gate = fullcourt.Queue(), fullcourt.Queue()
    with endpoint(kind) as there:
        there.start(echo, to, gate, 1)
        back = fullcourt.Queue()
        to.put((back, fullcourt.Lock(), back))
        one, lock, other = gate.get(timeout=60)
        assert one is other
        assert lock.acquire(block=False)
        one.put("through the copy")
        assert back.get(timeout=10) == "through the copy"


def test_what_came_with_an_item_is_kept_by_nobody_but_the_item() -> None:
    ends: Any = fullcourt.Queue()
    here, there = fullcourt.Pipe()
    ends.put(there)
    there.close()
    taken = iter(ends)
    next(taken).close()
    assert here.poll(0)
    with pytest.raises(EOFError):
        here.recv()
    here.close()


def test_a_queue_with_a_full_log_still_takes_descriptors() -> None:
    items = fullcourt.Queue()

    def produce() -> None:
        for i in range(MANY):
            items.put(i)
        items.put(fullcourt.Queue())
        items.put("last")

    pid = fork(produce)
    got = list(items)
    assert got[:MANY] == list(range(MANY))
    assert isinstance(got[MANY], fullcourt.Queue)
    assert got[MANY + 1] == "last"
    assert reap(pid) == 0


def test_connections_and_sockets_of_the_standard_library_can_be_sent() -> None:
    items = fullcourt.Queue()
    here, there = multiprocessing.Pipe()
    items.put(there)
    arrived = items.get()
    arrived.send("hello")
    assert here.recv() == "hello"
    for end in (here, there, arrived):
        end.close()


def test_what_cannot_be_pickled_is_refused_by_name_and_harms_nothing() -> None:
    items = fullcourt.Queue()
    with pytest.raises(fullcourt.PicklingError, match=r"\['door'\]"):
        items.put({"door": threading.Lock()})
    items.put(1)
    assert items.get() == 1


def test_lambdas_and_closures_can_be_sent() -> None:
    items = fullcourt.Queue()
    n = 3
    items.put(lambda x: x + n)
    assert items.get()(4) == 7


def test_a_plain_pickle_of_a_queue_is_refused_with_the_ways_that_work() -> None:
    with pytest.raises(fullcourt.PicklingError, match="through a fullcourt queue or pipe"):
        pickle.dumps(fullcourt.Queue())


def test_a_queue_can_be_sent_through_the_standard_librarys_pipes() -> None:
    here, there = multiprocessing.get_context("fork").Pipe()
    items = fullcourt.SimpleQueue()

    def child() -> None:
        there.recv().put("hello")

    pid = fork(child)
    here.send(items)
    assert items.get() == "hello"
    assert reap(pid) == 0
    here.close()
    there.close()
    multiprocessing.resource_sharer.stop()  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", PROCESS_KINDS)
def test_a_function_may_take_a_queue_along(method: str) -> None:
    items: Any = fullcourt.Queue()
    with fullcourt.Pool(processes=1, start_method=method) as pool:
        assert pool.map(lambda x: items.put((x, 1)), [1, 2, 3]) == [None] * 3
        assert sorted(items.get(timeout=30) for _ in range(3)) == [(1, 1), (2, 1), (3, 1)]


def remember(queue: Any) -> None:
    global remembered
    remembered = queue


def put_in_remembered(x: int) -> None:
    remembered.put(x)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.startswith("pool-")])
def test_an_initializer_can_be_given_a_queue(kind: str) -> None:
    items: Any = fullcourt.Queue()
    way = kind.partition("-")[2]
    options: dict[str, Any] = {
        "threads": {"processes": 0, "threads": 2},
        "interpreters": {"interpreters": 2},
    }.get(way, {"processes": 2, "start_method": way})
    with fullcourt.Pool(initializer=remember, initargs=(items,), **options) as pool:
        pool.map(put_in_remembered, range(20))
        assert sorted(items.get_many(20, timeout=30)) == list(range(20))
    remember(None)


def test_a_task_can_return_a_queue() -> None:
    with fullcourt.Pool(processes=1) as pool:
        items = pool.submit(fullcourt.Queue).result()
        items.put(1)
        assert items.get() == 1


def test_a_worker_that_dies_leaves_its_tasks_queues_to_the_next() -> None:
    items: Any = fullcourt.Queue()
    with fullcourt.Pool(processes=1) as pool:
        futures = [pool.submit(put_and_die, items, 1), pool.submit(put_numbers, items, "a", 1)]
        with pytest.raises(fullcourt.WorkerDied):
            futures[0].result()
        futures[1].result()
        assert items.get_many(2, timeout=30) == [0, ("a", 0)]


def test_the_portable_link_says_what_it_cannot_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable")
    with fullcourt.Pool(processes=1) as pool, pytest.raises(fullcourt.PicklingError, match="carries no file"):
        pool.submit(len, fullcourt.Queue()).result()


def test_other_systems_are_told_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    for make in (*QUEUES, fullcourt.Pipe, fullcourt.Lock, fullcourt.Event):
        with pytest.raises(fullcourt.NotSupported, match="needs Linux"):
            make()


# -- the end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*QUEUES, lambda: fullcourt.Pipe()[0]], ids=["queue", "simple", "joinable", "pipe"])
def test_a_cycle_goes_in_whatever_order_its_parts_are_collected(make: Any) -> None:
    handle = make()
    sockets = [value for value in vars(handle).values() if isinstance(value, socket.socket)]
    assert sockets
    numbers = [sock.fileno() for sock in sockets]
    for sock in sockets:
        sock.__del__()  # type: ignore[attr-defined]  # as the collector does, without a warning
    for number in numbers:
        os.fstat(number)  # still there: closed now, it could be another's when the handle closes it
    del handle, sock
    sockets.clear()
    gc.collect()
    for number in numbers:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(number)


def test_a_closed_queue_refuses_and_the_others_go_on() -> None:
    items = fullcourt.Queue()
    copy = fullcourt.Queue()
    copy.put(items)
    twin = copy.get()
    items.close()
    items.close()
    for call in (lambda: items.put(1), items.get, items.qsize, lambda: iter(items), items.shutdown):
        with pytest.raises(ValueError, match="is closed"):
            call()
    twin.put(1)
    assert twin.get() == 1


def test_shutdown_refuses_puts_and_lets_the_rest_be_taken() -> None:
    items = fullcourt.Queue()
    items.put(1)
    items.shutdown()
    with pytest.raises(fullcourt.ShutDown):
        items.put(2)
    with pytest.raises(fullcourt.ShutDown):
        items.put_many([2] * 50)
    assert items.get() == 1
    with pytest.raises(fullcourt.ShutDown):
        items.get()
    assert list(items) == []


def test_an_immediate_shutdown_drops_what_is_there() -> None:
    items = fullcourt.Queue()
    for i in range(MANY):
        items.put(i)
    items.shutdown(immediate=True)
    assert items.empty()
    with pytest.raises(fullcourt.ShutDown):
        items.get()


def test_shutdown_wakes_all_who_wait() -> None:
    items, full, waiting = fullcourt.Queue(), fullcourt.Queue(1), fullcourt.Queue()
    full.put(0)

    def waits(act: Any, *args: Any) -> Any:
        def run() -> None:
            waiting.put(None)
            with pytest.raises(fullcourt.ShutDown):
                act(*args)

        return run

    pids = [fork(waits(items.get)), fork(waits(items.get)), fork(waits(full.put, 1))]
    for _ in pids:
        waiting.get(timeout=30)
    items.shutdown()
    full.shutdown()
    assert [reap(pid) for pid in pids] == [0, 0, 0]


def test_descriptors_and_memory_go_with_the_last_handle() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for make in (*QUEUES, fullcourt.Lock, fullcourt.Condition, fullcourt.Barrier):
        thing = make(2) if make is fullcourt.Barrier else make()
        if hasattr(thing, "put"):
            thing.put(bytes(100_000))
            thing.get()
        del thing
    assert len(os.listdir("/proc/self/fd")) == before


# -- threads, event loops ----------------------------------------------------------------------------------------------


def test_threads_of_one_process_wait_for_each_other() -> None:
    items = fullcourt.Queue()
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(items))
    thread.start()
    for i in range(500):
        items.put(i)
    items.close()
    thread.join(30)
    assert got == list(range(500))


def test_coroutines_wait_without_blocking_the_loop() -> None:
    async def main() -> list[Any]:
        items = fullcourt.Queue(2)
        got: list[Any] = []

        async def consume() -> None:
            for _ in range(20):
                got.append(await items.aget(timeout=30))

        consumer = asyncio.create_task(consume())
        for i in range(20):
            await items.aput(i, timeout=30)
        await consumer
        with pytest.raises(queue.Empty):
            await items.aget(timeout=0.01)
        await items.aput(1)
        await items.aput(2)
        with pytest.raises(queue.Full):
            await items.aput(3, timeout=0.01)
        items.shutdown()
        got += [item async for item in items]
        return got

    assert asyncio.run(main()) == [*range(20), 1, 2]


@pytest.mark.parametrize("n_turns", range(8))
def test_a_coroutine_that_is_cancelled_while_an_item_comes_is_cancelled_and_leaves_it(n_turns: int) -> None:
    items = fullcourt.Queue()

    async def main() -> None:
        taker = asyncio.create_task(items.aget(timeout=30))
        await asyncio.sleep(0)  # it waits
        items.put("it")
        for _ in range(n_turns):  # of the loop, between the item's coming and the taker's waking
            await asyncio.sleep(0)
        if not taker.cancel():
            assert taker.result() == "it"
            return
        with pytest.raises(asyncio.CancelledError):
            await taker
        assert items.get(timeout=0) == "it"

    asyncio.run(main())


def test_a_coroutine_and_a_process_exchange_items() -> None:
    to, back = fullcourt.Queue(), fullcourt.Queue()
    pid = fork(lambda: echo(to, back, 50))

    async def main() -> None:
        for i in range(50):
            await to.aput(i)
            assert await back.aget(timeout=30) == i

    asyncio.run(main())
    assert reap(pid) == 0


# -- tasks to be done --------------------------------------------------------------------------------------------------


def test_join_waits_until_all_is_done() -> None:
    items = fullcourt.JoinableQueue()

    def work() -> None:
        for _ in range(30):
            items.get()
            items.task_done()

    for i in range(60):
        items.put(i)
    assert not items.join(timeout=0.01)
    pids = [fork(work), fork(work)]
    assert items.join(timeout=60)
    assert [reap(pid) for pid in pids] == [0, 0]
    with pytest.raises(ValueError, match="too many times"):
        items.task_done()


def test_join_does_not_wait_for_the_dead() -> None:
    items = fullcourt.JoinableQueue()
    items.put("lost")
    pid = fork(lambda: take_and_die(items))
    joined: list[bool] = []
    thread = threading.Thread(target=lambda: joined.append(items.join(60)))
    thread.start()
    assert reap(pid) == -signal.SIGKILL
    thread.join(60)
    assert joined == [True]


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_the_death_of_a_consumer_that_was_woken_wakes_another() -> None:
    """The kernel wakes one of those that wait. It is stopped, so that it cannot take the item; then it is killed."""
    items, ready, got = fullcourt.Queue(), fullcourt.Queue(), fullcourt.Queue()

    def consume() -> None:
        ready.put(os.getpid())
        got.put((os.getpid(), items.get(timeout=60)))

    first = fork(consume)
    wait_until_asleep(ready.get())
    os.kill(first, signal.SIGSTOP)
    os.waitid(os.P_PID, first, os.WSTOPPED)
    second = fork(consume)
    wait_until_asleep(ready.get())
    items.put("precious")
    kill(first)
    assert got.get(timeout=30) == (second, "precious")
    assert reap(second) == 0


def wait_until_asleep(pid: int) -> None:
    deadline = monotonic() + 30
    while monotonic() < deadline:
        with open(f"/proc/{pid}/wchan") as file:
            if "ep_poll" in file.read() or "do_epoll" in file.read():
                return
        with open(f"/proc/{pid}/syscall") as file:
            if file.read().split()[0] in {"232", "281", "441"}:  # epoll_wait, epoll_pwait, epoll_pwait2
                return
    raise AssertionError("the consumer did not begin to wait")


def test_a_stopped_consumer_holds_nobody_up() -> None:
    items, ready, got = fullcourt.Queue(), fullcourt.Queue(), fullcourt.Queue()

    def consume() -> None:
        ready.put(os.getpid())
        for item in items:
            got.put(item)

    first, second = fork(consume), fork(consume)
    for _ in range(2):
        wait_until_asleep(ready.get(timeout=30))
    os.kill(first, signal.SIGSTOP)
    for i in range(100):
        items.put(i)
    held = 100 - len([got.get(timeout=30) for _ in range(98)])
    assert held <= 2
    os.kill(first, signal.SIGCONT)
    items.close()
    assert [reap(first), reap(second)] == [0, 0]


def test_the_number_of_messages_in_a_socket_stays_below_the_modulus() -> None:
    line = Line()
    n = 0
    try:
        while True:
            line._send(bytes(513))
            n += 1
    except BlockingIOError:
        pass
    assert 100 < n < 512
    assert line._count() == n


# -- many producers, and readers that are behind -----------------------------------------------------------------------


def fill_socket(items: Any) -> int:
    """Put until the socket takes no more, as far as whoever puts can tell. Returns how many items that were."""
    n = 0
    while not items._stalled:
        items.put(n)
        n += 1
    return n


def test_a_queue_that_nobody_reads_takes_all_after_a_moment() -> None:
    items: Any = fullcourt.Queue()
    n = fill_socket(items)
    assert items._log.n_waiting == 1, "the first that found no room lies in the log"
    assert [items.get() for _ in range(n)] == list(range(n))


def test_what_waits_for_readers_takes_the_room_that_others_leave() -> None:
    """The kernel tells of room only when most of the socket is empty; other producers may never let it become so."""
    items: Any = fullcourt.Queue()
    with pytest.raises(queue.Empty):
        items.get(timeout=0.001)  # somebody reads
    taken: list[Any] = []
    for n in itertools.count():
        try:
            items._send(pickle.dumps(n).ljust(513, b"\0"))
        except BlockingIOError:
            break
    reader = threading.Timer(0.005, lambda: taken.append(items.get()))
    reader.start()
    items.put(n)
    reader.join()
    assert items._log.n_waiting == 0
    assert [*taken, *(items.get() for _ in range(n))] == list(range(n + 1))


def put_after_a_pause(items: Any, number: int, n: int, go: Any) -> None:
    go.wait()
    for i in range(n):
        items.put((number, i))


def test_many_producers_that_are_far_ahead_give_way_to_the_reader() -> None:
    """All begin before anybody reads, so that they come to the log together."""
    n_producers, n = 8, 1500
    items: Any = fullcourt.Queue()
    context = multiprocessing.get_context("fork")
    go = context.Event()
    producers = [context.Process(target=put_after_a_pause, args=(items, i, n, go)) for i in range(n_producers)]
    for producer in producers:
        producer.start()
    go.set()
    while not items._log.n_waiting:
        pass
    found = [items.get(timeout=60) for _ in range(n_producers * n)]
    for producer in producers:
        producer.join()
    assert items.empty()
    for number in range(n_producers):
        assert [i for who, i in found if who == number] == list(range(n)), "in the order in which it was put"


def test_whoever_has_to_wait_for_the_lock_knows() -> None:
    items: Any = fullcourt.Queue()
    own = items._monitor
    other = type(own)(items._fds[0], items._fds[1])  # as another process has it
    try:
        assert other.locked(lambda: other.n_awaited) == 0
        is_held, goes_on = threading.Event(), threading.Event()

        def hold() -> None:
            is_held.set()
            assert goes_on.wait(30)

        holder = threading.Thread(target=own.locked, args=(hold,))
        holder.start()
        assert is_held.wait(30)
        waiter = threading.Thread(target=other.locked, args=(int,))
        waiter.start()
        while not other.n_awaited:
            pass
        goes_on.set()
        holder.join()
        waiter.join()
        assert (own.n_awaited, other.n_awaited) == (0, 1)
    finally:
        other.close()
