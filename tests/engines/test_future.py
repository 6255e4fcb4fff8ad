"""The future by itself: settled by hand, or by a settler that stands in for the driver.

What futures of a pool do is the conformance suite's; here is what every future promises, and the races.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import gc
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from fullcourt._engines import future as future_module
from fullcourt._engines.future import Future
from fullcourt.errors import TaskCancelled


class FakeSettler:
    """A driver that settles what it is told to, when it is waited for."""

    def __init__(self) -> None:
        self.when_waited: Callable[[Future[Any]], object] | None = None
        self.waits: list[float | None] = []
        self.n_hurries = 0
        self.running: set[int] = set()

    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        self.waits.append(timeout)
        if self.when_waited is not None:
            self.when_waited(future)
        return future.done()

    def cancel(self, future: Future[Any]) -> bool:
        return future._settle_cancelled()

    def hurry(self) -> None:
        self.n_hurries += 1

    def is_running(self, future: Future[Any]) -> bool:
        return id(future) in self.running


@pytest.fixture
def settler() -> FakeSettler:
    return FakeSettler()


def ended_with(result: Any = None, error: BaseException | None = None) -> Future[Any]:
    future: Future[Any] = Future()
    future._settle(result, error)
    return future


def cancelled() -> Future[Any]:
    future: Future[Any] = Future()
    future._settle_cancelled()
    return future


# -- questions --------------------------------------------------------------------------------------------------------


def test_a_new_one_is_pending() -> None:
    future: Future[int] = Future()
    assert isinstance(future, cf.Future)
    assert not future.done()
    assert not future.ready()
    assert not future.running()
    assert not future.cancelled()
    with pytest.raises(ValueError, match="not ready"):
        future.successful()


def test_one_with_a_result() -> None:
    future = ended_with(5)
    assert future.done()
    assert future.ready()
    assert future.successful()
    assert not future.running()
    assert not future.cancelled()
    assert (future.result(), future.get(0), future.exception()) == (5, 5, None)
    assert future.wait(0)


def test_one_with_an_exception() -> None:
    error = KeyError("k")
    future = ended_with(None, error)
    assert future.done()
    assert not future.successful()
    assert future.exception() is error
    for ask in (future.result, future.get):
        with pytest.raises(KeyError) as caught:
            ask()
        assert caught.value is error


def test_one_that_was_cancelled() -> None:
    future = cancelled()
    assert future.done()
    assert future.cancelled()
    assert not future.successful()
    assert future.cancel()
    for ask in (future.result, future.get, future.exception):
        with pytest.raises(cf.CancelledError):
            ask()
        with pytest.raises(TaskCancelled):
            ask()


def test_none_and_false_are_results_like_others() -> None:
    assert ended_with(None).result() is None
    assert ended_with(False).get() is False


def test_it_runs_when_its_settler_says_so(settler: FakeSettler) -> None:
    future: Future[int] = Future(settler)
    assert not future.running()
    settler.running.add(id(future))
    assert future.running()
    future.set_result(1)
    assert not future.running()


def test_its_repr_says_how_it_stands() -> None:
    assert "state=pending" in repr(Future())
    assert "state=finished returned int" in repr(ended_with(5))
    assert "state=finished raised KeyError" in repr(ended_with(None, KeyError()))
    assert "state=cancelled" in repr(cancelled())


# -- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["result", "get", "exception"])
def test_asking_too_early_is_a_timeout(ask: str, settler: FakeSettler) -> None:
    for future in (Future[int](), Future[int](settler)):
        with pytest.raises(TimeoutError, match=r"no result within 0\.01 s"):
            getattr(future, ask)(timeout=0.01)
        assert not future.wait(0.01)
    assert settler.waits == [0.01, 0.01]


def test_whoever_waits_has_the_settler_drive(settler: FakeSettler) -> None:
    settler.when_waited = lambda future: future.set_result(7)
    assert Future[int](settler).result() == 7
    assert Future[int](settler).get(3) == 7
    assert Future[int](settler).exception(4) is None
    assert Future[int](settler).wait()
    assert settler.waits == [None, 3, 4, None]


def test_once_it_has_ended_nobody_drives(settler: FakeSettler) -> None:
    future: Future[int] = Future(settler)
    future.set_result(1)
    assert (future.result(), future.get(), future.exception(), future.wait()) == (1, 1, None, True)
    assert settler.waits == []


def test_a_thread_that_waits_by_hand_is_woken() -> None:
    future: Future[int] = Future()
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(future.result(30)))
    thread.start()
    future.set_result(3)
    thread.join(30)
    assert got == [3]


def test_the_standard_librarys_wait_and_as_completed_take_it() -> None:
    settled: list[Future[Any]] = [ended_with(1), ended_with(None, ValueError()), cancelled()]
    late: Future[int] = Future()
    done, not_done = cf.wait([*settled, late], timeout=0)
    assert (done, not_done) == (set(settled), {late})
    timer = threading.Thread(target=late.set_result, args=(4,))
    timer.start()
    assert set(cf.as_completed([*settled, late], timeout=30)) == {*settled, late}
    timer.join()
    assert cf.wait([late]).done == {late}


@pytest.mark.parametrize(
    ("settle", "when", "n_done"),
    [
        (lambda future: future.set_result(1), cf.FIRST_COMPLETED, 1),
        (lambda future: future.set_exception(ValueError()), cf.FIRST_EXCEPTION, 1),
        # As of any future that is run by hand: whoever runs it tells the waiters.
        (lambda future: future.cancel() and future.set_running_or_notify_cancel(), cf.FIRST_COMPLETED, 1),
    ],
)
def test_waiters_of_the_standard_library_are_told_of_every_end(
    settle: Callable[[Future[Any]], object], when: str, n_done: int
) -> None:
    first, second = Future[int](), Future[int]()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(cf.wait([first, second], 30, when)))
    thread.start()
    while not first.__dict__.get("_waiters"):  # until it has left its waiter
        assert thread.is_alive()
    settle(first)
    thread.join(30)
    assert found[0].done == {first}
    second.set_result(None)


def test_it_can_be_awaited() -> None:
    async def main() -> tuple[int, int]:
        early, late = ended_with(1), Future[int]()
        thread = threading.Thread(target=late.set_result, args=(2,))
        asyncio.get_running_loop().call_soon(thread.start)
        values = (await early, await late)
        thread.join()
        return values

    assert asyncio.run(main()) == (1, 2)


def test_cancelling_the_asyncio_task_that_awaits_it_cancels_it() -> None:
    future: Future[int] = Future()

    async def wait_for_it() -> int:
        return await future

    async def main() -> None:
        task = asyncio.create_task(wait_for_it())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert future.cancelled()


def test_an_exception_that_was_raised_does_not_keep_the_future_alive() -> None:
    future = ended_with(None, ValueError())
    watch = weakref.ref(future)
    with pytest.raises(ValueError):
        future.result()
    gc.disable()
    try:
        del future
        assert watch() is None
    finally:
        gc.enable()


# -- ending, exactly once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [lambda f: f.set_result(2), lambda f: f.set_exception(ValueError())])
@pytest.mark.parametrize("ended", [lambda: ended_with(1), lambda: ended_with(None, KeyError()), cancelled])
def test_it_ends_once(ended: Callable[[], Future[Any]], again: Callable[[Future[Any]], object]) -> None:
    future = ended()
    before = (future._state, future._result, future._exception)
    with pytest.raises(cf.InvalidStateError):
        again(future)
    assert (future._state, future._result, future._exception) == before


def test_what_has_ended_cannot_be_cancelled(settler: FakeSettler) -> None:
    for future in (ended_with(1), ended_with(None, KeyError())):
        assert not future.cancel()
        assert not future._settle_cancelled()
        assert not future.cancelled()
    owned: Future[int] = Future(settler)
    owned.set_result(1)
    assert not owned.cancel()


def test_what_has_not_ended_is_cancelled_by_its_settler(settler: FakeSettler) -> None:
    future: Future[int] = Future(settler)
    assert future.cancel()
    assert future.cancelled()


def test_it_lets_go_of_its_work_when_it_ends() -> None:
    for settle in (lambda f: f.set_result(1), lambda f: f.set_exception(KeyError()), lambda f: f.cancel()):
        future: Future[int] = Future()
        future.work = object()
        settle(future)
        assert future.work is None


def test_a_hand_run_future_goes_through_the_states_of_the_standard_library() -> None:
    future: Future[int] = Future()
    assert future.set_running_or_notify_cancel()
    assert future.running()
    with pytest.raises(RuntimeError):
        future.set_running_or_notify_cancel()
    future.set_result(1)
    assert future.result() == 1
    assert not cancelled().set_running_or_notify_cancel()


def test_a_hand_run_future_that_runs_cannot_be_cancelled() -> None:
    ours, theirs = Future[int](), cf.Future[int]()
    for future in (ours, theirs):
        future.set_running_or_notify_cancel()
        assert not future.cancel()
        assert future.running()
        future.set_result(1)
        assert future.result() == 1


# -- callbacks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settle", [lambda f: f.set_result(1), lambda f: f.set_exception(KeyError()), lambda f: f.cancel()]
)
def test_callbacks_run_in_their_order_when_it_ends_and_at_once_afterwards(
    settle: Callable[[Future[int]], object],
) -> None:
    future: Future[int] = Future()
    seen: list[Any] = []
    future.add_done_callback(lambda f: seen.append(("first", f.done())))
    future.add_done_callback(lambda f: seen.append(("second", f.done())))
    assert seen == []
    settle(future)
    assert seen == [("first", True), ("second", True)]
    future.add_done_callback(lambda f: seen.append(("third", f is future)))
    assert seen[2:] == [("third", True)]


def test_a_callback_that_fails_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise ValueError("in a callback")

    seen: list[int] = []
    future: Future[int] = Future()
    with caplog.at_level(logging.ERROR):
        future.add_done_callback(fail)
        future.add_done_callback(lambda f: seen.append(f.result()))
        future.set_result(1)
        future.add_done_callback(fail)
    assert seen == [1]
    assert [record.exc_info is not None and str(record.exc_info[1]) for record in caplog.records] == [
        "in a callback"
    ] * 2


def test_a_callback_may_be_added_by_a_callback() -> None:
    future: Future[int] = Future()
    seen: list[int] = []
    future.add_done_callback(lambda f: f.add_done_callback(lambda g: seen.append(g.result())))
    future.set_result(8)
    assert seen == [8]


def test_a_callback_makes_the_settler_hurry(settler: FakeSettler) -> None:
    future: Future[int] = Future(settler)
    future.add_done_callback(lambda _: None)
    assert settler.n_hurries == 1
    future.set_result(1)
    future.add_done_callback(lambda _: None)
    assert settler.n_hurries == 1


@pytest.mark.parametrize(
    ("settle", "expected"),
    [
        (lambda f: f.set_result(1), [("result", 1), "done"]),
        (lambda f: f.set_exception(KeyError("k")), [("error", "KeyError"), "done"]),
    ],
)
def test_the_callbacks_of_apply_async_come_before_all_else(
    settle: Callable[[Future[int]], object], expected: list[Any]
) -> None:
    future: Future[int] = Future()
    seen: list[Any] = []
    future._on_end = (
        lambda value: seen.append(("result", value)),
        lambda error: seen.append(("error", type(error).__name__)),
    )
    future.add_done_callback(lambda _: seen.append("done"))
    settle(future)
    assert seen == expected


def test_a_missing_callback_of_apply_async_is_passed_over() -> None:
    for future in (Future[int](), Future[int]()):
        future._on_end = (None, None)
    future.set_result(1)
    other: Future[int] = Future()
    other._on_end = (None, None)
    other.set_exception(KeyError())
    assert other.done()


def test_the_error_callback_of_apply_async_is_told_of_a_cancellation_once() -> None:
    future: Future[int] = Future()
    seen: list[BaseException] = []
    future._on_end = (None, seen.append)
    assert future.cancel()
    assert future.cancel()
    assert [type(error) for error in seen] == [TaskCancelled]
    assert future._on_end is None  # it keeps nothing alive any more


def test_a_callback_of_apply_async_that_fails_is_logged_and_the_future_ends(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: object) -> None:
        raise ValueError("in a callback")

    future: Future[int] = Future()
    future._on_end = (fail, None)
    with caplog.at_level(logging.ERROR):
        future.set_result(1)
    assert future.result() == 1
    assert len(caplog.records) == 1


# -- races ------------------------------------------------------------------------------------------------------------


def held_lock() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lock


@pytest.mark.parametrize(
    "settle", [lambda f: f.set_result(1), lambda f: f.set_exception(KeyError()), lambda f: f.cancel()]
)
def test_every_lock_that_was_left_with_it_is_released_when_it_ends(settle: Callable[[Future[int]], object]) -> None:
    future: Future[int] = Future()
    locks = [held_lock() for _ in range(3)]
    assert all(future.block(lock) for lock in locks)
    future.unblock(locks[1])
    settle(future)
    assert [lock.locked() for lock in locks] == [False, True, False]


def test_a_lock_that_comes_too_late_is_refused() -> None:
    assert not ended_with(1).block(held_lock())
    assert not cancelled().block(held_lock())


def test_a_lock_that_was_released_by_somebody_else_does_no_harm() -> None:
    future: Future[int] = Future()
    promoted, other = held_lock(), held_lock()
    future.block(promoted)
    future.block(other)
    promoted.release()
    future.set_result(1)
    assert not other.locked()


class TakesItselfAway:
    """A lock whose sleeper runs on, and takes its lock away, the moment it is released."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future
        self.released = False

    def release(self) -> None:
        self.released = True
        self.future.unblock(self)


@pytest.mark.parametrize("with_condition", [False, True])
@pytest.mark.parametrize("settle", [lambda f: f.set_result(1), lambda f: f.cancel()])
def test_a_waiter_that_runs_on_at_once_does_not_hide_the_next_one(
    settle: Callable[[Future[int]], object], with_condition: bool
) -> None:
    """1. Two threads wait. 2. The settler releases the first. 3. It runs, and unblocks. 4. The second must wake."""
    future: Future[int] = Future()
    if with_condition:
        future.add_done_callback(lambda _: None)
    locks = [TakesItselfAway(future) for _ in range(4)]
    for lock in locks:
        future.block(lock)
    settle(future)
    assert [lock.released for lock in locks] == [True] * 4


@pytest.mark.parametrize("settle", [lambda f: f.set_result(1), lambda f: f.cancel()])
def test_callbacks_run_without_any_lock(settle: Callable[[Future[int]], object]) -> None:
    """A callback may wait for another future, which another thread settles."""
    future, other = Future[int](), Future[int]()
    seen: list[bool] = []

    def callback(_: object) -> None:
        def settle_other() -> None:
            other.add_done_callback(lambda _: None)
            other.set_result(2)

        thread = threading.Thread(target=settle_other)
        thread.start()
        thread.join(2)
        seen.append(not thread.is_alive())
        threads.append(thread)

    threads: list[threading.Thread] = []
    future.add_done_callback(callback)
    settle(future)
    threads[0].join()
    assert seen == [True]


def test_waiters_and_settlers_in_many_threads_all_come_through() -> None:
    futures = [Future[int]() for _ in range(200)]
    barrier = threading.Barrier(5)
    called: list[int] = []
    got: list[list[int]] = [[], [], []]

    def settle() -> None:
        barrier.wait()
        for number, future in enumerate(futures):
            future.set_result(number)

    def wait_by_lock() -> None:
        barrier.wait()
        for future in futures:
            lock = held_lock()
            if future.block(lock):
                assert lock.acquire(timeout=30)
            future.unblock(lock)
            got[0].append(future.result(0))

    def wait_by_condition() -> None:
        barrier.wait()
        got[1].extend(future.result(30) for future in futures)

    def wait_by_callback() -> None:
        barrier.wait()
        for future in futures:
            future.add_done_callback(lambda f: called.append(f.result()))

    def wait_by_library() -> None:
        barrier.wait()
        got[2].extend(sorted(future.result() for future in cf.as_completed(futures, 30)))

    threads = [
        threading.Thread(target=target)
        for target in (settle, wait_by_lock, wait_by_condition, wait_by_callback, wait_by_library)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == [list(range(200))] * 3
    assert sorted(called) == list(range(200))


def test_of_threads_that_settle_at_once_exactly_one_succeeds() -> None:
    """Futures that users settle by hand keep the standard library's promise."""
    for _ in range(50):
        future: Future[int] = Future()
        barrier = threading.Barrier(4)
        won: list[int] = []

        def settle(number: int, future: Future[int] = future, barrier: Any = barrier, won: list[int] = won) -> None:
            barrier.wait()
            try:
                future.set_result(number)
            except cf.InvalidStateError:
                return
            won.append(number)

        threads = [threading.Thread(target=settle, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == [future.result()]


def test_what_a_future_lets_go_of_is_finalized_while_its_lock_is_free() -> None:
    """Arguments and results are the user's, and so are their finalizers: they may wait for who wants that lock."""
    owned: list[bool] = []

    class Value:
        def __del__(self) -> None:
            owned.append(future_module.guard._is_owned())  # type: ignore[attr-defined]

    outcomes: deque[Any] = deque()
    for _ in range(100):
        future: Future[Any] = Future()
        future.work = Value()
        outcomes.append((future, Value(), None))
    del future
    outcomes.append((None, print, None))
    assert future_module.settle_plain(outcomes) == (None, print, None)
    assert not outcomes
    assert owned == [False] * 200
