"""The drivers of an auto pool: opened when they are first needed, by what is to run there."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from fullcourt._advise.calls import Pending
from fullcourt._advise.legs import Leg
from fullcourt._advise.model import Mode
from fullcourt._core.options import Options
from fullcourt._engines.broadcast import Broadcast, new_key
from fullcourt._engines.build import build_driver, sow
from fullcourt._engines.driver import Driver
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import MapChunk, Settlement
from fullcourt._engines.methods import portable_transport
from fullcourt._os.locks import make_lock
from fullcourt.errors import PicklingError

if TYPE_CHECKING:
    from fullcourt._advise.hub import Hub
    from fullcourt._engines.template import Seed

__all__ = ["Drivers"]


class Drivers:
    """Owns them. Any thread may use it.

    Attributes:
        all: those that were opened.
        initialized: whether an initializer has been run to its end in the trial threads, or there is none.
        is_opening: whether a driver is being opened that is not in `all` yet.
    """

    def __init__(self, hub: Hub, options: dict[str, Any]) -> None:
        self.all: list[Driver] = []
        self._hub = hub
        self._options = options
        self.opening = make_lock()  # held while a driver is opened; before it no other lock
        self.is_opening = False
        self._by_threads: dict[int, Driver] = {}
        self._processes: Driver | None = None
        self._process_mode = Mode(0, 1)
        self._replaced: weakref.WeakSet[Driver] = weakref.WeakSet()
        self._broadcasts: dict[int, Any] = {}  # for worker processes that come later
        self._seeds: list[Seed] = []  # a template that was forked before there were tasks in threads; at most one
        self.initialized = options["initializer"] is None
        self._init_error: BaseException | None = None

    @property
    def error(self) -> BaseException | None:
        """What broke the trial threads, as an initializer that failed; then the pool is broken."""
        trial = self._by_threads.get(2)
        return (trial._broken if trial is not None else None) or self._init_error

    def _initialize(self, *args: Any) -> None:
        """The initializer of the trial threads: nothing is measured, nor decided, before it is done."""
        try:
            self._options["initializer"](*args)
        except BaseException as error:
            self._init_error = error
            raise
        finally:
            self.initialized = True
            self._hub.ring()

    def open(self) -> None:
        """If worker processes shall be forked: fork what they will be forked from, before any task has run here.

        Not by default: that takes long in a large program, whose memory is then copied page by page as it changes.
        """
        if self._options["start_method"] == "fork":
            seed = sow(**self._options)
            if seed is not None:
                self._seeds.append(seed)

    def close_seed(self) -> None:
        """It is not needed, or not any more. Takes no lock."""
        while self._seeds:
            with contextlib.suppress(IndexError):  # another thread was quicker
                self._seeds.pop().close()

    @property
    def has_processes(self) -> bool:
        """Whether worker processes were ever started."""
        return self._processes is not None

    def trial(self) -> Driver:
        """The two threads in which things are tried, and small ones done."""
        return self.threads(2)

    def threads(self, n: int) -> Driver:
        driver = self._by_threads.get(n)
        if driver is not None:
            return driver
        with self.opening:
            driver = self._by_threads.get(n)
            if driver is None:
                driver = self._build(Driver, processes=0, threads=n)
                self._by_threads[n] = driver
        return driver

    def for_mode(self, mode: Mode) -> tuple[Driver, Mode]:
        """Where something of that mode runs, opened if need be; and which mode that really is."""
        if not mode.processes:
            return self.threads(max(2, mode.threads)), mode
        with self.opening:
            driver = self._processes
            if driver is not None and self._process_mode != mode and not driver._n_open:
                self._replaced.add(driver)
                driver.close()  # idle, and of another size; it refuses what somebody hands in just now
                driver = None
            if driver is None or driver.closed:
                sender = self._build(
                    Sender, processes=mode.processes, threads=mode.threads if mode.threads > 1 else None
                )
                for key, value in list(self._broadcasts.items()):
                    send(sender, key, value)
                self._processes, self._process_mode = sender, mode
                driver = sender
            return driver, self._process_mode

    def instead_of(self, closed: Driver) -> Driver:
        """The worker processes that have taken the place of those of another size. Itself: none have."""
        with self.opening:
            return closed if self._processes is None or closed not in self._replaced else self._processes

    def _build(self, kind: type[Driver], *, processes: int, threads: int | None) -> Driver:
        """Make and open a driver. Under ``_opening``."""
        options = dict(self._options)
        if not processes:
            options.update(start_method=None, preload=())
            if not self.initialized and threads == 2:
                options.update(initializer=self._initialize)
        seed = None
        if processes and not portable_transport():
            with contextlib.suppress(IndexError):
                seed = self._seeds.pop()
            if seed is not None and not seed.is_alive():
                seed.close()
                seed = None
            options.update(start_method="fork" if seed is not None else self._hub.start_method)
        self._hub.will_open()
        try:
            driver = build_driver(processes=processes, threads=threads, kind=kind, **options)
            if isinstance(driver, Sender):
                driver.hub = self._hub
                driver.roles.lets_go = True
            if seed is not None:
                driver.engine.seed = seed
            driver.open()
            self.all.append(driver)
        finally:
            self.is_opening = False
            if self._hub._terminated:  # the end of others may have waited for this
                self._hub._driver_ended(None)
        driver.ended.add_done_callback(self._hub._driver_ended)
        if self._hub._terminated:
            driver.terminate()
        elif self._hub._closing:
            driver.close()
        return driver

    def let_go(self) -> None:
        """Hold nothing of the program's any more."""
        self._options.update(initializer=None, initargs=())

    def within(self) -> Driver | None:
        """The driver of threads whose task the caller is."""
        for driver in list(self._by_threads.values()):
            if driver.engine.current_chunk() is not None:
                return driver
        return None

    def broadcast(self, value: Any) -> Broadcast[Any]:
        """Give a value to all worker processes, also to those that come later."""
        key = new_key()
        self._broadcasts[key] = value
        with self.opening:
            if self._processes is not None:
                send(self._processes, key, value)
        return Broadcast(key, value, self._forget_value)

    def _forget_value(self, key: int) -> None:
        self._broadcasts.pop(key, None)
        if self._processes is not None:
            self._processes._forget_value(key)


class Sender(Driver):
    """A driver of worker processes: what cannot be sent there goes to the pool's threads, instead of failing."""

    hub: Hub

    def _prepare(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: Future[Any],
        options: Options | None,
    ) -> Any:
        trial: Future[Any] = Future(self)
        call = super()._prepare(fn, args, kwargs, trial, options)
        if call is None:
            self.n_failed -= 1
            future.call_back(self.hub.tell_leaders, hurries=False)  # who waits for it may lead here by now
            self.hub.route(Pending(fn, args, kwargs, future, options), self.hub.drivers.trial())
            return None
        call.future = future
        future.work = call
        return call

    def _cannot_send(self, chunk: Any, worker_id: int, problem: PicklingError) -> list[Settlement]:
        if type(chunk) is not MapChunk or chunk.count > 1 or not isinstance(chunk.job, Leg):
            return super()._cannot_send(chunk, worker_id, problem)
        leg = chunk.job
        with self._lock:
            if chunk.worker_id != worker_id:
                return []
            self.scheduler.withdrawn(chunk, monotonic())
            if not leg.open:
                return []
            leg.forget(chunk.start)
        return [(None, partial(self.hub.run_stray, leg.course, chunk.start, chunk.items[0]), None)]


def send(driver: Driver, key: int, value: Any) -> None:
    """Give a value to all worker processes."""
    frame = driver.engine.frame_of(key, driver.engine.codec.encode(value))
    with driver.roles.shield, driver._lock:
        driver.engine.broadcast(key, frame)
