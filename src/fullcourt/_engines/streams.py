"""The two ends of a lazy map: the iterator that hands out its results, and the feeder that reads its input."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

from fullcourt._engines.driver import Driver
from fullcourt._engines.jobs import StreamJob
from fullcourt._os.locks import Bell
from fullcourt._os.threads import make_thread
from fullcourt._os.waits import checked

__all__ = ["Feeder", "ResultIterator", "no_end"]

R = TypeVar("R")


def no_end(error: BaseException, who: str) -> BaseException:
    """What is raised for an item's error: StopIteration would end the caller's loop as if there were no more items."""
    if not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"{who} raised {error!r}")
    told.__cause__ = error
    return told


class ResultIterator(Generic[R]):
    """What ``imap`` and ``imap_unordered`` return. Several threads may read from one; each result goes to one of them.

    Dropping it, or :meth:`close`, stops the map: no more input is pulled, what has not started does not start.
    """

    def __init__(
        self, driver: Driver, job: StreamJob, refill: Callable[[], None], close_bar: Callable[[], None]
    ) -> None:
        self._driver = driver
        self._job = job
        self._refill = refill
        self._close_bar = close_bar
        self._finalizer = weakref.finalize(self, abandon_iterator, driver, job, refill)
        self._finalizer.atexit = False

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        return self.next()

    def next(self, timeout: float | None = None) -> R:
        """The next result.

        Raises:
            StopIteration: there is none any more.
            TimeoutError: it has not come within so many seconds (``multiprocessing.TimeoutError``, too).
            Exception: what that item's task raised; the iteration can go on. (A StopIteration as a RuntimeError, whose
                cause it is, as generators have it.)
        """
        job = self._job
        while True:
            try:
                good, value = job.ready.popleft()
                break
            except IndexError:
                pass
            if (job.finished or job.stopped) and not job.ready:
                self._end()
            if timeout is not None:
                checked(timeout)
            if not self._driver.wait_for_result(job, timeout) and not job.ready:
                raise timeout_error(timeout)
        if not job.exhausted:
            self._refill()
        if good:
            return cast("R", value)
        value = no_end(value, "the task")
        try:
            raise value
        finally:
            del value, self

    def _end(self) -> None:
        self._close_bar()
        self._finalizer()
        error, self._job.input_error = self._job.input_error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop the map. Idempotent; what has started runs to its end, its results are dropped.

        A thread that waits for the next result meanwhile gets StopIteration.
        """
        if self._finalizer.alive:
            self._finalizer()
            self._driver.stop_job(self._job)
        self._close_bar()


def timeout_error(timeout: float | None) -> Exception:
    import multiprocessing

    class NoResultYet(multiprocessing.TimeoutError, TimeoutError):
        """Both of the standard library's."""

    return NoResultYet(f"no result within {timeout} s; the task goes on")


def abandon_iterator(driver: Driver, job: StreamJob, refill: Callable[[], None]) -> None:
    job.abandoned = True
    driver.abandon_job(job)
    refill()  # a feeder that waits for room sees that it is over


class Feeder:
    """Pulls a stream's input: in the consumer's thread where it cannot block, else in a thread of its own."""

    def __init__(self, driver: Driver, job: StreamJob, iterable: Iterable[Any], *, own_thread: bool) -> None:
        self._driver = driver
        self._job = job
        self._wake = Bell()
        self._sleeping = False
        self._pulling = threading.Lock()  # several consumers may refill at once; never waited for
        self._iterator: Iterator[Any] | None = None
        job.refill = self.refill
        self._iterable: Iterable[Any] | None = iterable if own_thread else None
        try:
            if own_thread:
                make_thread(self._run, f"{driver.name}-input").start()
            else:
                self._iterator = iter(iterable)
                self.refill()  # somebody may have done so by now: the job runs already
        except BaseException:  # there will be no iterator of results whose end would be this job's
            driver.stop_job(job)
            self.refill()  # its thread, if it runs already, sees that
            raise

    def refill(self) -> None:
        """Pull more, if there is room for a good portion."""
        job = self._job
        if is_stopped(job):
            self._iterator = None  # the user's generator is closed now
            self._sleeping = False
            self._wake.ring()
        elif self._iterator is not None:
            # Look again after each pull: who was turned away meanwhile may have made the room.
            while self._wants_more() and self._pulling.acquire(blocking=False):
                try:
                    if self._wants_more():
                        self._pull_here()
                finally:
                    self._pulling.release()
        elif self._sleeping and (2 * job.room() >= job.window()):
            self._sleeping = False
            self._wake.ring()

    def _wants_more(self) -> bool:
        job = self._job
        return not (job.exhausted or is_stopped(job)) and 2 * job.room() >= job.window()

    def _pull_here(self) -> None:
        job = self._job
        n = job.room()
        if n <= 0:  # the window has shrunk meanwhile
            return
        iterator = cast("Iterator[Any]", self._iterator)
        error: BaseException | None = None
        n_before = job.n_pulled
        try:
            for item in itertools.islice(iterator, n):
                job.input.append(item)
                job.n_pulled += 1
        except Exception as problem:  # noqa: BLE001  it reaches the consumer, in its turn
            error = problem
        if job.n_pulled > n_before and not job.queued:
            self._driver.feed(job)
        if error is not None or job.n_pulled < n_before + n:
            self._driver.input_ended(job, error)

    def _run(self) -> None:
        job, driver = self._job, self._driver
        error: BaseException | None = None
        try:
            iterator = iter(cast("Iterable[Any]", self._iterable))
            self._iterable = None
            append = job.input.append
            while not is_stopped(job):
                for _ in range(job.room()):
                    item = next(iterator)
                    append(item)
                    job.n_pulled += 1
                    if not job.queued and (not job.held or len(job.input) >= job.last_size):
                        driver.feed(job)
                    if is_stopped(job):
                        break
                self._sleeping = True
                if job.room() > 0 or is_stopped(job):  # changed since: `refill` may have seen us awake
                    self._sleeping = False
                    continue
                self._wake.wait()
        except StopIteration:
            pass
        except BaseException as problem:  # noqa: BLE001  it reaches the consumer, in its turn
            error = problem
        item = iterator = cast("Any", None)  # hold nothing of the user's
        driver.input_ended(job, error)


def is_stopped(job: StreamJob) -> bool:
    """Another thread may have stopped it since one last looked; type checkers do not expect that of an attribute."""
    return job.stopped or job.abandoned
