"""What the type checkers must see of the public face. Checked by mypy and basedpyright, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import fullcourt
from fullcourt import Child, Pipeline, Process, Shared, Stage, Thread
from fullcourt.gil import PoolObservation, Report
from fullcourt.pool import Broadcast, PipelineIterator, PoolStatistics, ResultIterator, StageStatistics


def double(x: int) -> float:
    return 2.0 * x


def name_of(first: str, *, last: str) -> str:
    return first + last


def futures(pool: fullcourt.Pool) -> None:
    assert_type(pool.submit(double, 3), fullcourt.Future[float])
    assert_type(pool.submit(name_of, "a", last="b").result(), str)
    assert_type(pool.apply(double, (3,)), float)
    assert_type(pool.apply_async(double, (3,)).get(timeout=1.0), float)
    pool.submit(double, "three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def maps(pool: fullcourt.Pool) -> None:
    assert_type(pool.map(double, [1, 2]), list[float])
    assert_type(pool.starmap(name_of, [("a",)]), list[str])
    assert_type(pool.map_async(double, [1, 2]), fullcourt.Future[list[float]])
    assert_type(pool.imap(double, [1, 2]), ResultIterator[float])
    assert_type(iter(pool.imap_unordered(double, [1, 2])), Iterator[float])
    assert_type(fullcourt.map(double, [1, 2], threads=2), list[float])


def advice(pool: fullcourt.Pool) -> None:
    advice = fullcourt.advise(double, [1, 2])
    assert_type(advice, fullcourt.Advice[float])
    assert_type(advice.results, list[float])
    assert_type(advice.options, dict[str, int])
    assert_type(advice.choice.threads, int)
    assert_type(fullcourt.map(double, [1, 2]), list[float])
    assert_type(pool.explain().choices[-1].measured, float | None)
    fullcourt.Pool(mode="best")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def lifecycle() -> None:
    with fullcourt.Pool(2, threads=2) as pool:
        assert_type(pool, fullcourt.Pool)
        assert_type(pool.statistics(), PoolStatistics)


def observations(pool: fullcourt.Pool) -> None:
    with fullcourt.observe() as observation, pool.observe(rate=100) as of_pool:
        assert_type(observation, fullcourt.Observation)
        assert_type(of_pool, PoolObservation)
    assert_type(observation.report, Report)
    assert_type(of_pool.why, str)


async def awaiting(pool: fullcourt.Pool) -> None:
    assert_type(await pool.submit(double, 3), float)
    async with pool as same:
        assert_type(same, fullcourt.Pool)
        async for result in same.aimap(double, [1, 2]):
            assert_type(result, float)
        assert_type(await anext(same.aimap(double, numbers(), ordered=False)), float)


async def numbers() -> AsyncIterator[int]:
    yield 1


def processes() -> None:
    process = Process(target=double, args=(3,))
    assert_type(process, Process[float])
    assert_type(process.result(1.0), float)
    assert_type(process.exception(), BaseException | None)
    assert_type(process.exitcode, int | None)
    with Process(target=name_of, args=("a",), kwargs={"last": "b"}, daemon=True) as other:
        assert_type(other.result(), str)
    assert_type(Thread(target=double, args=(3,)).result(), float)
    assert_type(fullcourt.fork(), Child | None)
    Process(target=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def awaiting_processes() -> None:
    assert_type(await Process(target=double, args=(3,)), float)
    assert_type(await Thread(target=double, args=(3,)), float)


def shared(table: dict[str, int], pool: fullcourt.Pool) -> None:
    assert_type(fullcourt.share(b"abc"), Shared[memoryview])
    assert_type(fullcourt.share(table).open(), dict[str, int])
    assert_type(pool.broadcast(table), Broadcast[dict[str, int]])
    assert_type(pool.broadcast(table).value, dict[str, int])
    assert_type(fullcourt.worker_state().once("n", lambda: 3), int)


def pipelines(pool: fullcourt.Pool) -> None:
    assert_type(Stage(double, threads=2), Stage[int, float])
    line = pool.pipeline(Stage(int, threads=2), double, str)
    assert_type(pool.pipeline(double), Pipeline[int, float])
    assert_type(pool.pipeline(double, str), Pipeline[int, str])
    assert_type(line.map(["1"]), list[str])
    assert_type(pool.pipeline(double).imap([1]), PipelineIterator[float])
    assert_type(pool.pipeline(double).imap([1]).statistics(), tuple[StageStatistics, ...])
    pool.pipeline(double).map(["a"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
