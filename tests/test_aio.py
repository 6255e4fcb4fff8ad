"""The pool for asyncio: awaited futures, `aimap`, and `async with`, on every kind of worker that must not block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import time
from typing import Any, Self

import pytest

import fullcourt

DEADLINE_S = 60


def run(main: Any) -> Any:
    """Run a coroutine function in a loop of its own; one that hangs fails."""

    async def bounded() -> Any:
        async with asyncio.timeout(DEADLINE_S):
            return await main()

    return asyncio.run(bounded(), debug=False)


def square(x: int) -> int:
    return x * x


def raise_it(error: BaseException) -> None:
    raise error


def touch_and_sleep(path: str, seconds: float) -> None:
    with open(path, "w") as file:
        file.write("began")
    time.sleep(seconds)


class Heart:
    """Beats in the loop; the longest pause tells whether something blocked it."""

    async def __aenter__(self) -> Self:
        self.longest_s = 0.0
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.001)
            self.longest_s = max(self.longest_s, time.monotonic() - before)


class Source:
    """An asynchronous input that knows how much was taken from it, and whether it was closed."""

    def __init__(self, n: float = float("inf"), error: BaseException | None = None) -> None:
        self.n = n
        self.error = error
        self.n_taken = 0
        self.closed = asyncio.Event()

    async def items(self) -> Any:
        try:
            while self.n_taken < self.n:
                self.n_taken += 1
                if self.n_taken % 5 == 0:
                    await asyncio.sleep(0)
                yield self.n_taken - 1
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


@pytest.fixture(params=[{"processes": 2}, {"threads": 2}], ids=["processes", "threads"])
def options(request: pytest.FixtureRequest) -> dict[str, int]:
    chosen: dict[str, int] = request.param
    return chosen


# -- one call ----------------------------------------------------------------------------------------------------------


def test_a_call_can_be_awaited(options: dict[str, int]) -> None:
    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            assert await pool.submit(square, 3) == 9
            assert await asyncio.gather(*(pool.submit(square, x) for x in range(200))) == [x * x for x in range(200)]
            assert await pool.map_async(square, [1, 2]) == [1, 4]
            with pytest.raises(ZeroDivisionError):
                await pool.submit(divmod, 1, 0)

    run(main)


def test_the_loop_takes_the_pool_as_an_executor(options: dict[str, int]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with fullcourt.Pool(**options) as pool:
            assert await loop.run_in_executor(pool, square, 4) == 16
            calls = [loop.run_in_executor(pool, square, x) for x in range(100)]
            assert await asyncio.gather(*calls) == [x * x for x in range(100)]
            with pytest.raises(ZeroDivisionError):
                await loop.run_in_executor(pool, divmod, 1, 0)

    run(main)


def test_one_future_can_be_awaited_by_several_tasks_and_loops() -> None:
    release = threading.Event()
    with fullcourt.Pool(threads=1) as pool:
        future = pool.submit(release.wait, DEADLINE_S)

        async def main() -> list[bool]:
            async def one() -> bool:
                return await future

            tasks = [asyncio.create_task(one()) for _ in range(3)]
            await asyncio.sleep(0)
            release.set()
            return await asyncio.gather(*tasks)

        thread = threading.Thread(target=lambda: found.append(run(main)))
        found: list[Any] = []
        thread.start()
        assert run(main) == [True, True, True]
        thread.join()
        assert found == [[True, True, True]]


def test_an_awaited_future_that_was_cancelled_raises_what_both_libraries_call_cancelled() -> None:
    release = threading.Event()

    async def main() -> None:
        async with fullcourt.Pool(threads=1) as pool:
            busy = pool.submit(release.wait, DEADLINE_S)
            waiting = pool.submit(square, 1)
            asyncio.get_running_loop().call_soon(waiting.cancel)
            with pytest.raises(asyncio.CancelledError) as caught:
                await waiting
            assert isinstance(caught.value, concurrent.futures.CancelledError)
            assert isinstance(caught.value, fullcourt.TaskCancelled)
            release.set()
            await busy

    run(main)


def test_a_task_that_raises_StopIteration_does_not_hang_who_awaits_it() -> None:  # noqa: N802
    async def main() -> None:
        async with fullcourt.Pool(threads=1) as pool:
            with pytest.raises(RuntimeError, match="StopIteration"):
                await pool.submit(raise_it, StopIteration(3))
            with pytest.raises(RuntimeError, match="StopAsyncIteration"):
                async for _ in pool.aimap(raise_it, [StopAsyncIteration(3)]):
                    pass

    run(main)


def test_cancelling_the_awaiting_task_cancels_a_call_that_waits(options: dict[str, int], tmp_path: Any) -> None:
    ran = tmp_path / "ran"

    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            n = 2
            busy = [pool.submit(touch_and_sleep, str(tmp_path / f"busy{i}"), 0.2) for i in range(n)]

            async def call() -> None:
                await pool.submit(touch_and_sleep, str(ran), 0)

            task = asyncio.create_task(call())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for future in busy:
                await future
            assert await pool.submit(square, 2) == 4
        assert not ran.exists()

    run(main)


def test_a_result_that_comes_after_its_loop_is_closed_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()
    with fullcourt.Pool(threads=1) as pool:
        future = pool.submit(release.wait, DEADLINE_S)
        loop = asyncio.new_event_loop()

        async def wait_for_it() -> None:
            await asyncio.wait_for(asyncio.shield(future), 0.001)

        with pytest.raises(TimeoutError):
            loop.run_until_complete(wait_for_it())
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        release.set()
        assert future.result(DEADLINE_S)
    assert not caplog.records


# -- aimap -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_aimap_gives_every_result(processes: int, ordered: bool, asynchronous: bool) -> None:
    async def main() -> None:
        async with fullcourt.Pool(processes) as pool:
            for n in (0, 1, 3000):
                items = Source(n).items() if asynchronous else (x for x in range(n))
                results = [r async for r in pool.aimap(square, items, ordered=ordered)]
                if not ordered:
                    results.sort()
                assert results == [x * x for x in range(n)]

    run(main)


def test_aimap_takes_the_same_options_as_imap(options: dict[str, int]) -> None:
    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            found = [r async for r in pool.aimap(int, ["1", "x", "3"], 2, on_error="return")]
            assert found[0] == 1 and found[2] == 3
            assert isinstance(found[1], fullcourt.Failure) and found[1].index == 1
            for bad in ({"chunksize": 0}, {"buffersize": 0}, {"on_error": "ignore"}):
                with pytest.raises(ValueError):
                    pool.aimap(int, [], **bad)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="asynchronous"):
                pool.aimap(int, 3)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="callable"):
                pool.aimap(3, [])  # type: ignore[arg-type]
        with pytest.raises(fullcourt.PoolClosed):
            pool.aimap(int, [])

    run(main)


def test_after_a_failed_item_the_iteration_goes_on(options: dict[str, int]) -> None:
    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            results = pool.aimap(int, ["1", "x", "3"])
            assert await anext(results) == 1
            with pytest.raises(ValueError):
                await anext(results)
            assert await anext(results) == 3
            with pytest.raises(StopAsyncIteration):
                await anext(results)
            with pytest.raises(StopAsyncIteration):
                await anext(results)

    run(main)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_an_error_of_the_input_comes_in_its_turn(options: dict[str, int], asynchronous: bool) -> None:
    def plain() -> Any:
        yield from range(20)
        raise KeyError("input")

    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            items = Source(20, KeyError("input")).items() if asynchronous else plain()
            found = []
            with pytest.raises(KeyError, match="input"):
                async for result in pool.aimap(square, items):
                    found.append(result)  # noqa: PERF401
            assert found == [x * x for x in range(20)]

    run(main)


@pytest.mark.parametrize("ordered", [True, False])
def test_no_more_than_the_buffer_is_taken_from_an_endless_input(options: dict[str, int], ordered: bool) -> None:
    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            source = Source()
            results = pool.aimap(square, source.items(), ordered=ordered, buffersize=10)
            for n in range(1, 200):
                await anext(results)
                assert source.n_taken <= n + 10
            await asyncio.sleep(0.05)
            assert source.n_taken <= n + 10
            await results.aclose()
            assert source.closed.is_set()

            n_plain = 0

            def count() -> Any:
                nonlocal n_plain
                while True:
                    n_plain += 1
                    yield n_plain

            results = pool.aimap(square, count(), ordered=ordered, buffersize=10)
            for n in range(1, 200):
                await anext(results)
                assert n_plain <= n + 10
            await results.aclose()

    run(main)


def test_without_a_buffersize_an_endless_input_is_bounded_too(options: dict[str, int]) -> None:
    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            source = Source()
            results = pool.aimap(time.sleep, (0.001 async for _ in source.items()))
            await anext(results)
            await asyncio.sleep(0.2)
            assert source.n_taken < 2000
            await results.aclose()

    run(main)


def test_breaking_out_of_the_loop_stops_the_map_and_closes_the_input(options: dict[str, int]) -> None:
    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            source = Source()
            async for result in pool.aimap(square, source.items()):
                if result >= 100:
                    break
            gc.collect()
            await source.closed.wait()
            taken = source.n_taken
            await asyncio.sleep(0.02)
            assert source.n_taken == taken
            assert await pool.submit(square, 3) == 9

    run(main)


def test_the_end_of_a_cancelled_consumer_stops_the_map(options: dict[str, int]) -> None:
    """Also where its frame, and the iterator in it, are kept alive by the traceback."""

    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            source = Source()
            began = asyncio.Event()

            async def consume() -> None:
                results = pool.aimap(time.sleep, (0.2 async for _ in source.items()))
                began.set()
                async for _ in results:
                    pass

            task = asyncio.create_task(consume())
            await began.wait()
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as kept:
                await task
            await source.closed.wait()
            del kept

    run(main)


@pytest.mark.parametrize("way", ["wait_for", "timeout"])
def test_a_time_out_of_one_result_loses_none(options: dict[str, int], way: str) -> None:
    async def main() -> None:
        n_timeouts = 0
        async with fullcourt.Pool(**options) as pool:
            results = pool.aimap(time.sleep, [0.02] * 10)
            found = []
            while True:
                try:
                    if way == "wait_for":
                        found.append(await asyncio.wait_for(anext(results), 0.001))
                    else:
                        async with asyncio.timeout(0.001):
                            found.append(await anext(results))
                except TimeoutError:
                    n_timeouts += 1
                except StopAsyncIteration:
                    break
        assert found == [None] * 10
        assert n_timeouts

    run(main)


def test_several_tasks_and_loops_share_one_iterator() -> None:
    found: list[int] = []
    with fullcourt.Pool(2) as pool:
        results = pool.aimap(square, (x for x in range(2000)))

        async def consume() -> None:
            async for result in results:
                found.append(result)
                await asyncio.sleep(0)

        async def main() -> None:
            tasks = [asyncio.create_task(consume()) for _ in range(3)]
            await asyncio.sleep(0.001)
            cancelled = asyncio.create_task(consume())
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.gather(*tasks)

        threads = [threading.Thread(target=run, args=(main,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(found) == [x * x for x in range(2000)]


def test_closing_an_iterator_ends_the_iteration_of_everybody(options: dict[str, int]) -> None:
    never = threading.Event()

    def block() -> Any:
        never.wait(DEADLINE_S)
        yield 1

    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            results = pool.aimap(square, block())

            async def consume() -> list[int]:
                return [result async for result in results]

            tasks = [asyncio.create_task(consume()) for _ in range(3)]
            await asyncio.sleep(0)
            await results.aclose()
            assert await asyncio.gather(*tasks) == [[], [], []]
            never.set()

    run(main)


def test_an_asynchronous_input_can_be_given_before_there_is_a_loop() -> None:
    with fullcourt.Pool(threads=2) as pool:
        source = Source(50)
        results = pool.aimap(square, source.items())
        assert not source.n_taken

        async def main() -> list[int]:
            return [result async for result in results]

        assert run(main) == [x * x for x in range(50)]
        pool.aimap(square, source.items())  # dropped at once


def test_a_loop_that_ends_before_the_map_leaves_nothing_behind(options: dict[str, int]) -> None:
    with fullcourt.Pool(**options) as pool:
        source = Source()
        kept = []

        async def main() -> int:
            kept.append(pool.aimap(square, source.items()))
            return await anext(kept[0])

        assert run(main) == 0
        assert source.closed.is_set()
        assert pool.apply(square, (3,)) == 9


def test_leaving_the_pool_ends_an_endless_aimap() -> None:
    async def main() -> None:
        source = Source()
        async with fullcourt.Pool(2) as pool:
            results = pool.aimap(square, source.items())
            assert await anext(results) == 0
        with pytest.raises(fullcourt.PoolClosed):
            async for _ in results:
                pass
        await results.aclose()
        assert source.closed.is_set()

    run(main)


# -- nothing blocks the loop -------------------------------------------------------------------------------------------


def test_inputs_and_tasks_that_block_do_not_block_the_loop(options: dict[str, int]) -> None:
    def slow() -> Any:
        for _ in range(3):
            time.sleep(0.4)
            yield 0.4

    async def main() -> None:
        async with Heart() as heart:
            async with fullcourt.Pool(**options) as pool:
                heart.longest_s = 0.0  # the fork itself is the constructor's
                assert [r async for r in pool.aimap(time.sleep, slow())] == [None] * 3
                await pool.submit(time.sleep, 0.4)
                pool.submit(time.sleep, 0.4)
            # well under what each of those would block it for, on a busy machine
            assert heart.longest_s < 0.3

    run(main)


class SlowToPickle:
    def __reduce__(self) -> tuple[Any, ...]:
        time.sleep(0.4)
        return int, ()


def test_pickling_the_items_of_aimap_does_not_block_the_loop() -> None:
    async def main() -> None:
        async with fullcourt.Pool(2) as pool, Heart() as heart:
            assert [r async for r in pool.aimap(square, [SlowToPickle()])] == [0]

            async def one() -> Any:
                yield SlowToPickle()

            assert [r async for r in pool.aimap(square, one())] == [0]
            assert heart.longest_s < 0.3

    run(main)


def test_a_consumer_that_never_waits_lets_others_run() -> None:
    async def main() -> None:
        async with fullcourt.Pool(2) as pool, Heart() as heart:
            async for _ in pool.aimap(square, range(200_000)):
                pass
            assert heart.longest_s < 0.3

    run(main)


# -- async with --------------------------------------------------------------------------------------------------------


def test_async_with_waits_for_what_was_submitted(options: dict[str, int]) -> None:
    async def main() -> None:
        async with fullcourt.Pool(**options) as pool:
            futures = [pool.submit(time.sleep, 0.05) for _ in range(4)]
        assert all(future.done() and not future.cancelled() for future in futures)

    run(main)


def test_async_with_whose_body_raises_stops_the_work() -> None:
    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(KeyError):
            async with fullcourt.Pool(2) as pool:
                future = pool.submit(time.sleep, DEADLINE_S)
                raise KeyError
        assert future.cancelled()
        assert time.monotonic() - began < DEADLINE_S / 2

    run(main)


@pytest.mark.parametrize("where", ["body", "exit"])
def test_cancelling_the_task_inside_async_with_stops_the_work(where: str) -> None:
    async def main() -> None:
        futures = []
        there = asyncio.Event()

        async def body() -> None:
            async with fullcourt.Pool(2) as pool:
                futures.append(pool.submit(time.sleep, DEADLINE_S))
                there.set()
                if where == "body":
                    await futures[0]

        began = time.monotonic()
        task = asyncio.create_task(body())
        await there.wait()
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert futures[0].cancelled()
        assert time.monotonic() - began < DEADLINE_S / 2

    run(main)


def test_async_with_on_a_closed_pool_raises() -> None:
    async def main() -> None:
        pool = fullcourt.Pool(threads=1)
        pool.close()
        pool.join()
        with pytest.raises(fullcourt.PoolClosed):
            async with pool:
                pass

    run(main)
