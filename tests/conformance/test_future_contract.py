"""What `submit` and the ``_async`` calls return: a `concurrent.futures.Future` with multiprocessing's methods too."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import multiprocessing
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import conformance_tasks as tasks
import pytest
from conformance_harness import Engine

pytestmark = pytest.mark.timeout(60)

TIMEOUTS = (TimeoutError, multiprocessing.TimeoutError)


@pytest.fixture
def parallel(engine: Engine) -> Engine:
    if engine.inline:
        pytest.skip("in the caller a task is done before its future can be looked at")
    if engine.name == "auto":
        pytest.skip("how many tasks run at once is its own choice")
    return engine


def block_all_slots(pool: Any, gate: Any, engine: Engine) -> list[Any]:
    futures = [pool.submit(tasks.pass_through, gate.turnstile, i) for i in range(engine.n_slots)]
    gate.wait_arrivals(engine.n_slots)
    return futures


def test_it_is_one_class(pool: Any, fullcourt: ModuleType) -> None:
    futures = [
        pool.submit(tasks.square, 1),
        pool.apply_async(tasks.square, (1,)),
        pool.map_async(tasks.square, [1]),
        pool.starmap_async(tasks.square, [(1,)]),
    ]
    assert {type(future) for future in futures} == {fullcourt.Future}
    assert issubclass(fullcourt.Future, cf.Future)
    for future in futures:
        future.result(30)


def test_wait_and_as_completed_take_them(pool: Any) -> None:
    futures = [pool.submit(tasks.square, i) for i in range(50)]
    done, not_done = cf.wait(futures, timeout=30)
    assert (done, not_done) == (set(futures), set())
    futures = [pool.submit(tasks.square, i) for i in range(50)]
    assert sorted(future.result() for future in cf.as_completed(futures, timeout=30)) == [i * i for i in range(50)]


def test_wait_for_the_first_returns_while_others_run(parallel: Engine, new_pool: Callable[..., Any], gate: Any) -> None:
    pool = new_pool()
    blocked = pool.submit(tasks.pass_through, gate.turnstile, 1)
    gate.wait_arrivals(1)
    quick = pool.submit(tasks.square, 3)
    done, not_done = cf.wait([blocked, quick], timeout=30, return_when=cf.FIRST_COMPLETED)
    assert (done, not_done) == ({quick}, {blocked})
    done, not_done = cf.wait([blocked], timeout=0.01)
    assert (done, not_done) == (set(), {blocked})
    gate.permit()
    assert blocked.result(30) == 1


def test_wait_for_the_first_exception(parallel: Engine, new_pool: Callable[..., Any], gate: Any) -> None:
    pool = new_pool()
    blocked = pool.submit(tasks.pass_through, gate.turnstile, 1)
    gate.wait_arrivals(1)
    failing = pool.submit(tasks.fail_on, "pear")
    done, _ = cf.wait([blocked, failing], timeout=30, return_when=cf.FIRST_EXCEPTION)
    assert done == {failing}
    gate.permit()
    blocked.result(30)


def test_result_and_get_time_out_and_can_be_asked_again(
    parallel: Engine, new_pool: Callable[..., Any], gate: Any
) -> None:
    pool = new_pool()
    future = pool.submit(tasks.pass_through, gate.turnstile, "answer")
    gate.wait_arrivals(1)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)
    with pytest.raises(TimeoutError):
        future.exception(timeout=0)
    with pytest.raises(TIMEOUTS):
        future.get(timeout=0.01)
    future.wait(timeout=0.01)
    assert not future.ready()
    assert not future.done()
    with pytest.raises(ValueError, match=r"\S"):
        future.successful()
    gate.permit()
    assert future.result(30) == "answer"


def test_a_future_that_is_done_says_so(pool: Any) -> None:
    future = pool.submit(tasks.square, 3)
    future.wait(30)
    assert future.ready()
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert future.successful()
    assert (future.get(), future.get(0), future.result(), future.exception()) == (9, 9, 9, None)


def test_a_future_that_failed_says_so(pool: Any) -> None:
    future = pool.submit(tasks.fail_on, "pear")
    future.wait()
    assert future.ready()
    assert not future.successful()
    assert isinstance(future.exception(), ValueError)
    for ask in (future.get, future.result):
        with pytest.raises(ValueError, match="pear"):
            ask()


def test_done_callbacks_are_called_with_the_future_in_order(pool: Any) -> None:
    future = pool.submit(tasks.square, 3)
    seen: list[Any] = []
    called = threading.Event()
    future.add_done_callback(lambda f: seen.append((1, f)))
    future.add_done_callback(lambda f: (seen.append((2, f)), called.set()))
    assert called.wait(30)
    assert seen == [(1, future), (2, future)]
    future.add_done_callback(lambda f: seen.append((3, f)))
    assert seen[2] == (3, future)


def test_done_callbacks_are_called_though_nobody_waits_in_the_pool(
    parallel: Engine, new_pool: Callable[..., Any], gate: Any
) -> None:
    pool = new_pool()
    called = threading.Event()
    pool.submit(tasks.pass_through, gate.turnstile, 1).add_done_callback(lambda _: called.set())
    gate.wait_arrivals(1)
    gate.permit()
    assert called.wait(30)


def test_a_done_callback_that_raises_is_logged_and_costs_nothing(pool: Any, caplog: pytest.LogCaptureFixture) -> None:
    future = pool.submit(tasks.square, 3)
    called = threading.Event()

    def broken(_: Any) -> None:
        called.set()
        raise RuntimeError("this callback is broken")

    future.add_done_callback(broken)
    assert called.wait(30)
    assert future.result(30) == 9
    assert pool.submit(tasks.square, 4).result(30) == 16


def test_a_pending_task_can_be_cancelled_and_never_runs(
    parallel: Engine, new_pool: Callable[..., Any], gate: Any, tmp_path: Any
) -> None:
    pool = new_pool()
    journal = tmp_path / "journal"
    blocked = block_all_slots(pool, gate, parallel)
    pending = [pool.submit(tasks.record, str(journal), i) for i in range(20)]
    called = threading.Event()
    pending[10].add_done_callback(lambda _: called.set())
    cancelled = [future for future in pending[::2] if future.cancel()]
    assert cancelled == pending[::2]
    assert called.wait(30)
    gate.permit(parallel.n_slots)
    assert sorted(future.result(30) for future in blocked) == list(range(parallel.n_slots))
    for i, future in enumerate(pending):
        if i % 2:
            assert future.result(30) == i
        else:
            assert future.cancelled()
            assert future.done()
            with pytest.raises(cf.CancelledError):
                future.result(30)
            with pytest.raises(cf.CancelledError):
                future.exception(30)
    assert sorted(map(int, journal.read_text().split())) == list(range(1, 20, 2))


def test_what_is_done_cannot_be_cancelled(pool: Any) -> None:
    future = pool.submit(tasks.square, 3)
    future.result(30)
    assert not future.cancel()
    assert not future.cancelled()


def test_cancel_tells_the_truth_about_a_running_task(parallel: Engine, new_pool: Callable[..., Any], gate: Any) -> None:
    pool = new_pool()
    future = pool.submit(tasks.pass_through, gate.turnstile, 1)
    gate.wait_arrivals(1)
    if future.cancel():  # then it must be stopped for good, and the pool go on
        assert future.cancelled()
        assert pool.submit(tasks.square, 2).result(30) == 4
    else:
        assert not future.cancelled()
        gate.permit()
        assert future.result(30) == 1


def test_asyncio_awaits_wrapped_futures(pool: Any) -> None:
    async def main() -> list[int]:
        futures = [asyncio.wrap_future(pool.submit(tasks.square, i)) for i in range(100)]
        return await asyncio.wait_for(asyncio.gather(*futures), 30)

    assert asyncio.run(main()) == [i * i for i in range(100)]


def test_run_in_executor_takes_the_pool(pool: Any) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        with pytest.raises(ValueError, match="pear"):
            await loop.run_in_executor(pool, tasks.fail_on, "pear")
        return int(await loop.run_in_executor(pool, tasks.add, 1, 2))

    assert asyncio.run(main()) == 3


def test_the_event_loop_turns_while_a_task_runs(parallel: Engine, new_pool: Callable[..., Any], gate: Any) -> None:
    pool = new_pool()

    async def main() -> Any:
        waiting = asyncio.wrap_future(pool.submit(tasks.pass_through, gate.turnstile, "answer"))
        await asyncio.get_running_loop().run_in_executor(None, gate.wait_arrivals, 1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        gate.permit()
        return await asyncio.wait_for(waiting, 30)

    assert asyncio.run(main()) == "answer"


def test_several_threads_may_wait_for_one_future(parallel: Engine, new_pool: Callable[..., Any], gate: Any) -> None:
    pool = new_pool()
    future = pool.submit(tasks.pass_through, gate.turnstile, "answer")
    answers: list[Any] = []
    waiters = [threading.Thread(target=lambda: answers.append(future.result(30))) for _ in range(8)]
    for waiter in waiters:
        waiter.start()
    gate.wait_arrivals(1)
    gate.permit()
    for waiter in waiters:
        waiter.join(30)
    assert answers == ["answer"] * 8
