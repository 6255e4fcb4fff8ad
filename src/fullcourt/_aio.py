"""The pool for asyncio: results as an asynchronous iterator, asynchronous inputs, and leaving without blocking.

Nothing here blocks a loop. Results are taken off by whoever drives the pool, which is a thread of ours; a consumer that
finds none leaves a :class:`Wake`, and is called back. Input is read aside: a plain iterable in a thread, since it may
block; an asynchronous one in a task of the loop, whose items a thread hands on, since that pickles.

Cost per result: one coroutine and one deque's ``popleft``, 0.5 us; a wake-up of the loop only when none was ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable
from time import monotonic
from typing import Any, Generic, Self, TypeVar, cast

from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Wake
from fullcourt._engines.jobs import StreamJob
from fullcourt._engines.streams import abandon_iterator, is_stopped
from fullcourt._os.locks import Bell
from fullcourt._os.threads import make_thread

__all__ = ["AsyncFeeder", "AsyncResultIterator", "in_loop", "leave"]

R = TypeVar("R")

# A consumer that always finds a result ready lets the loop's other tasks run this often.
TURN_S = 0.001


class AsyncResultIterator(Generic[R]):
    """What ``aimap`` returns: ``async for`` over results. Several tasks, of several loops, may read from one.

    Dropping it, or :meth:`aclose`, stops the map; and so does the end of a task that was cancelled while it waited
    here, unless other tasks read from it, too. A time-out around one ``anext`` costs nothing: the next call goes on
    where this one was.
    """

    def __init__(
        self,
        driver: Driver,
        job: StreamJob,
        refill: Callable[[], None],
        feeder: AsyncFeeder | None,
        close_bar: Callable[[], None],
    ) -> None:
        self._driver = driver
        self._job = job
        self._refill = refill
        self._feeder = feeder
        self._close_bar = close_bar
        self._turn_began = monotonic()
        self._reader: weakref.ref[asyncio.Task[Any]] | None = None  # the only task that has read from it
        self._watched = False
        self._shared = False
        self._finalizer = weakref.finalize(self, abandon_iterator, driver, job, refill)
        self._finalizer.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        """The next result, or the exception of that item's task: after one the iteration can go on."""
        job = self._job
        if self._feeder is not None:
            self._feeder.start()
        if not self._shared:
            self._note_reader()
        if monotonic() - self._turn_began > TURN_S:
            await asyncio.sleep(0)
            self._turn_began = monotonic()
        while True:
            try:
                good, value = job.ready.popleft()
                break
            except IndexError:
                pass
            if (job.finished or job.stopped) and not job.ready:
                self._end()
            await self._wait()
            self._turn_began = monotonic()
        if not job.exhausted:
            self._refill()
        if good:
            return cast("R", value)
        try:
            if isinstance(value, StopAsyncIteration):  # it would end the loop as if all were done
                raise RuntimeError("a task raised StopAsyncIteration") from value  # noqa: TRY004
            raise value
        finally:
            del value, self

    async def _wait(self) -> None:
        """Wait until there is a result, or the end."""
        driver, job = self._driver, self._job
        wake = Wake()
        with driver._lock:
            if job.ready or job.finished or job.stopped:
                return
            job.waiting.append(wake)
        driver.hurry()
        try:
            await wake.future
        except asyncio.CancelledError:
            with driver._lock:
                if wake in job.waiting:
                    job.waiting.remove(wake)
                    other = None
                else:  # woken and cancelled at once: what it was woken for is another's
                    other = job.waiting.popleft() if job.waiting else None
            if other is not None:
                other._settle(None, None)
            self._watch()
            raise

    def _note_reader(self) -> None:
        task = asyncio.current_task()
        if self._reader is None:
            self._reader = None if task is None else weakref.ref(task)
        elif self._reader() is not task:
            self._shared = True

    def _watch(self) -> None:
        """The task that waited was cancelled. If that ends it, nobody will take the rest.

        It may go on instead, after a time-out. Before Python 3.12 ``wait_for`` runs `anext` as a task of its own; the
        end of that one means nothing.
        """
        task = asyncio.current_task()
        if task is None or self._watched or getattr(task.get_coro(), "cr_code", None) is ANEXT_CODE:
            return
        self._watched = True
        mine = weakref.ref(self)

        def ended(task: asyncio.Task[Any]) -> None:
            results = mine()
            if results is not None and task.cancelled() and not results._shared:
                results._finalizer()

        task.add_done_callback(ended)

    def _end(self) -> None:
        self._close_bar()
        self._finalizer()
        error, self._job.input_error = self._job.input_error, None
        if error is not None:
            raise error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop the map. Idempotent. What has started runs to its end, its results are dropped.

        An asynchronous input is closed when this returns. A plain one is dropped; if its thread is blocked inside of
        it, that stays until it returns.
        """
        if self._finalizer.alive:
            self._finalizer()
            self._driver.stop_job(self._job)
        self._close_bar()
        if self._feeder is not None:
            await self._feeder.closed()


ANEXT_CODE = cast("Any", AsyncResultIterator).__anext__.__code__


class AsyncFeeder:
    """Pulls a stream's asynchronous input in a task of the loop, as far as there is room.

    Its items go to the scheduler from a thread: who fills a stream also pickles and sends. The inline pool has none;
    there the tasks run in the loop itself.
    """

    def __init__(self, driver: Driver, job: StreamJob, items: AsyncIterable[Any]) -> None:
        self._driver = driver
        self._job = job
        self._items: AsyncIterable[Any] | None = items
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None  # what the task waits for while there is no room
        self._sleeping = False
        self._bell = Bell()
        self._rung = False
        self._over = False
        self._error: BaseException | None = None
        job.refill = self.refill

    def start(self) -> None:
        """Begin to pull, in the running loop. Only the first call does anything."""
        if self._loop is None and not self._is_over():
            self._loop = asyncio.get_running_loop()
            if not self._driver.engine.runs_inline:
                make_thread(self._hand_on, f"{self._driver.name}-input").start()
            self._task = self._loop.create_task(self._pull(), name=f"{self._driver.name}-input")

    def refill(self) -> None:
        """There is more room, or the job is over. From any thread, and from the garbage collector."""
        job = self._job
        if self._is_over():
            self._over = True
            self._ring()
            self._call_in_loop(self._stop)
        elif self._sleeping and 2 * job.room() >= job.window():
            self._sleeping = False
            self._call_in_loop(self._go_on)

    async def closed(self) -> None:
        """Wait until the input is closed, if that is this loop's to do."""
        task = self._task
        if task is not None and self._loop is asyncio.get_running_loop() and task is not asyncio.current_task():
            await asyncio.wait([task])

    def _is_over(self) -> bool:
        return is_stopped(self._job) or self._job.exhausted

    def _call_in_loop(self, act: Callable[[], None]) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and its task with it
                self._loop.call_soon_threadsafe(act)

    def _go_on(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _stop(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.ring()

    async def _pull(self) -> None:
        job = self._job
        error: BaseException | None = None
        iterator: AsyncIterator[Any] | None = None
        try:
            iterator = aiter(cast("AsyncIterable[Any]", self._items))
            self._items = None
            while not self._is_over():
                if job.room() <= 0:
                    await self._wait_for_room()
                    continue
                item = await anext(iterator)
                job.input.append(item)
                job.n_pulled += 1
                self._tell()
                item = None
        except StopAsyncIteration:
            pass
        except GeneratorExit:  # the loop was closed around it
            iterator = None
            raise
        except BaseException as problem:
            error = problem  # it reaches the consumer, in its turn
            if not isinstance(problem, Exception):
                raise
        finally:
            try:
                if iterator is not None and hasattr(iterator, "aclose"):
                    await cast("Any", iterator).aclose()
            except Exception as problem:  # noqa: BLE001
                error = error or problem
            finally:
                self._ended(error)

    async def _wait_for_room(self) -> None:
        self._room = cast("asyncio.AbstractEventLoop", self._loop).create_future()
        self._sleeping = True
        if self._job.room() > 0 or self._is_over():  # changed since: `refill` may have seen us awake
            self._sleeping = False
            return
        await self._room

    def _tell(self) -> None:
        if not self._driver.engine.runs_inline:
            self._ring()
        elif not self._job.queued:
            self._driver.feed(self._job)

    def _ended(self, error: BaseException | None) -> None:
        self._error = error
        self._over = True
        if self._driver.engine.runs_inline:
            self._driver.input_ended(self._job, error)
        else:
            self._ring()

    def _hand_on(self) -> None:
        job, driver = self._job, self._driver
        while True:
            self._bell.wait()
            self._rung = False
            over = self._over
            if job.input and not is_stopped(job) and not job.queued and (over or not job.held or self._is_chunk()):
                driver.feed(job)
            if over:
                break
        error, self._error = self._error, None
        driver.input_ended(job, error)

    def _is_chunk(self) -> bool:
        return len(self._job.input) >= self._job.last_size


def in_loop() -> bool:
    """Whether the caller runs in a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def leave(exit_: Callable[[], None], terminate: Callable[[], None]) -> None:
    """Wait aside for a pool's end. If the waiting task is cancelled, have the pool end at once, and wait for that.

    A second cancellation leaves at once; the pool still ends.
    """
    wake = Wake()
    problems: list[BaseException] = []

    def wait_aside() -> None:
        try:
            exit_()
        except BaseException as problem:  # noqa: BLE001  it is raised in the task
            problems.append(problem)
        wake._settle(None, None)

    make_thread(wait_aside, "fullcourt-exit").start()
    try:
        await asyncio.shield(wake.future)
    except asyncio.CancelledError:
        terminate()
        await wake.future
        raise
    if problems:
        raise problems[0]
