"""A pool under asyncio: `loop.run_in_executor`, `asyncio.wrap_future`, and a loop that stays awake meanwhile.

Run it: `python examples/asyncio_use.py`
"""

import asyncio
import math

import fullcourt

NUMBERS = [1_000_003, 1_299_709, 15_485_863, 15_485_867]


def smallest_factor(n: int) -> int:
    """The smallest factor of `n` above 1, found the slow way."""
    return next((d for d in range(2, math.isqrt(n) + 1) if n % d == 0), n)


async def heartbeat(beats: list[int]) -> None:
    """Beat while others work: a loop that somebody blocked would miss its beats."""
    while True:
        beats.append(len(beats))
        await asyncio.sleep(0.01)


async def main() -> None:
    """Ask the pool in both of asyncio's ways, and take what comes first as it comes."""
    beats: list[int] = []
    heart = asyncio.create_task(heartbeat(beats))
    loop = asyncio.get_running_loop()
    with fullcourt.Pool(2) as pool:
        by_executor = await asyncio.gather(*(loop.run_in_executor(pool, smallest_factor, n) for n in NUMBERS))
        print(f"run_in_executor: {by_executor}")

        wrapped = [asyncio.wrap_future(pool.submit(smallest_factor, n)) for n in NUMBERS]
        by_future = [await future for future in wrapped]
        print(f"wrap_future:     {by_future}")

        try:
            await asyncio.wrap_future(pool.submit(lambda: 1 / 0))
        except ZeroDivisionError as error:
            print(f"an exception:    {error}")
    heart.cancel()
    assert by_executor == by_future
    print(f"the loop went on meanwhile: {len(beats) > 0}")


asyncio.run(main())
