"""What the type checkers must see of the standard library's faces. Checked by mypy and basedpyright, never run."""

import asyncio
import concurrent.futures
from collections.abc import Iterator
from typing import assert_type

import fullcourt
from fullcourt import futures
from fullcourt.multiprocessing import Pool, ThreadPool
from fullcourt.multiprocessing.pool import ApplyResult, IMapIterator, MapResult


def double(x: int) -> float:
    return 2.0 * x


def executors(threads: futures.ThreadPoolExecutor, processes: futures.ProcessPoolExecutor) -> None:
    assert_type(threads.submit(double, 3), fullcourt.Future[float])
    assert_type(processes.submit(double, 3).result(), float)
    assert_type(processes.map(double, [1, 2], chunksize=2, buffersize=3), Iterator[float])
    processes.submit(double, "three")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(processes)


def take(standard: concurrent.futures.Executor) -> None:
    """It takes ours."""


async def loops(loop: asyncio.AbstractEventLoop) -> None:
    loop.set_default_executor(futures.ThreadPoolExecutor(2))
    with futures.ProcessPoolExecutor(max_workers=2) as executor:
        assert_type(await executor.submit(double, 3), float)


def pools() -> None:
    with Pool(2) as pool, ThreadPool(2) as threads:
        assert_type(pool, Pool)
        assert_type(pool.apply(double, (3,)), float)
        assert_type(pool.apply_async(double, (3,)), ApplyResult[float])
        assert_type(pool.map(double, [1]), list[float])
        assert_type(threads.map_async(double, [1]), MapResult[list[float]])
        assert_type(pool.imap(double, [1]), IMapIterator[float])
