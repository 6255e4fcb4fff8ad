"""What is no number of seconds, and arguments of another kind, are told of at once: nan would never be over."""

import math
import time

import pytest

import fullcourt


def full_queue():
    queue = fullcourt.Queue(1)
    queue.put(1)
    return queue


def held_lock():
    lock = fullcourt.Lock()
    lock.acquire()
    return lock


WAITS = {
    "Lock.acquire": (held_lock, lambda lock, timeout: lock.acquire(timeout=timeout)),
    "Event.wait": (fullcourt.Event, lambda event, timeout: event.wait(timeout)),
    "Barrier.wait": (lambda: fullcourt.Barrier(2), lambda barrier, timeout: barrier.wait(timeout)),
    "Queue.put": (full_queue, lambda queue, timeout: queue.put(2, timeout=timeout)),
    "Queue.get": (fullcourt.Queue, lambda queue, timeout: queue.get(timeout=timeout)),
    "Queue.put_many": (full_queue, lambda queue, timeout: queue.put_many([2], timeout=timeout)),
    "Connection.poll": (lambda: fullcourt.Pipe()[0], lambda connection, timeout: connection.poll(timeout)),
}


@pytest.mark.parametrize(("timeout", "kind"), [(math.nan, ValueError), ("3", TypeError)])
@pytest.mark.parametrize("what", WAITS)
def test_a_timeout_that_is_no_number_is_refused(what, timeout, kind):
    make, wait = WAITS[what]
    waited_for = make()
    with pytest.raises(kind, match="timeout must be a number of seconds or None, not"):
        wait(waited_for, timeout)


@pytest.mark.parametrize(("timeout", "kind"), [(math.nan, ValueError), ("3", TypeError)])
@pytest.mark.parametrize("kinds", [{"processes": 1}, {"threads": 1}])
def test_a_future_refuses_such_a_timeout(kinds, timeout, kind):
    with fullcourt.Pool(**kinds) as pool:
        future = pool.submit(time.sleep, 0.2)
        with pytest.raises(kind, match="timeout must be a number of seconds or None, not"):
            future.result(timeout)
        assert future.result() is None


@pytest.mark.parametrize(("timeout", "kind"), [(math.nan, ValueError), ("3", TypeError)])
def test_a_process_refuses_such_a_timeout(timeout, kind):
    with fullcourt.Process(target=time.sleep, args=(0.2,)) as process:
        with pytest.raises(kind, match="timeout must be a number of seconds or None, not"):
            process.result(timeout)
        assert process.result() is None


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fullcourt.Semaphore("x"), "a semaphore's value must be a whole number, not 'x'"),
        (lambda: fullcourt.Semaphore(1.5), "a semaphore's value must be a whole number, not 1.5"),
        (lambda: fullcourt.Barrier(None), "number of parties must be a whole number, not None"),
        (lambda: fullcourt.Condition(3), "the lock of a condition must be a fullcourt.Lock or RLock, not 3"),
        (lambda: fullcourt.Pool(1, preload=[3]), "preload takes the names of modules, not"),
        (lambda: fullcourt.map(abs, 3), "a map needs an iterable, not 3"),
        (lambda: fullcourt.advise(abs, None), "items must be an iterable, not None"),
        (lambda: fullcourt.observe(rate="x"), "rate must be a number of looks a second, not 'x'"),
        (lambda: fullcourt.Thread(target=abs, args=3), "args must be a tuple of the target's arguments, not 3"),
    ],
)
def test_an_argument_of_another_kind_is_refused(call, says):
    with pytest.raises(TypeError, match=says):
        call()
