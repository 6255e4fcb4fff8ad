"""What the parts of the driver share: its state, whether it is open, and who is woken."""

from __future__ import annotations

import abc
import itertools
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from fullcourt._core.model import Estimate
from fullcourt._core.scheduler import Scheduler
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import Call, CallStream, MapJob, Settlement, StreamJob
from fullcourt._engines.lane import Lane
from fullcourt._engines.nested import Lending, Relays
from fullcourt._engines.roles import Roles
from fullcourt._engines.supervisor import Limits, Supervisor
from fullcourt._engines.thread_lane import ThreadLane
from fullcourt._engines.timekeeper import Timekeeper
from fullcourt._os.locks import make_lock
from fullcourt._os.sleepers import Sleepers
from fullcourt._transport.functions import FunctionTable
from fullcourt.errors import PoolClosed

__all__ = ["DriverBase"]


class DriverBase(abc.ABC):
    """What all parts of a driver share. One pool's."""

    is_nested = False  # a worker's own, whose calls must have been sent when the task that submits them ends

    roles: Roles
    ended: Future[None]  # settled when the last worker is gone
    timekeeper: Timekeeper
    sleepers: Sleepers
    thread_lane: ThreadLane | None
    _lane: Lane | None
    _burst: int  # so many open calls make a burst

    def __init__(self, engine: Any, scheduler: Scheduler, name: str, limits: Limits | None) -> None:
        self.engine = engine
        self.scheduler = scheduler
        self.name = name
        self.pid = os.getpid()
        self._lock = make_lock()
        self.new_id = itertools.count(1).__next__
        self.functions = FunctionTable(engine.codec) if engine.codec is not None else None
        self._estimates: dict[object, Estimate] = {}  # where functions are not pickled
        # What is open.
        self._n_open: int = 0
        self._jobs: set[MapJob] = set()
        self._streams: dict[tuple[object, int], CallStream] = {}  # by whose calls they are of, and priority
        self._inbox: deque[Call] = deque()  # calls of a burst that are not given to the scheduler yet
        self._held: list[StreamJob] = []
        self._abandoned_jobs: list[StreamJob] = []
        # What is to be done without the lock.
        self._arrived: deque[Any] = deque()  # events that were received and not yet read; the leader's
        self._outcomes: deque[Settlement] = deque()  # futures to be settled
        self._deferred: deque[Callable[[], None]] = deque()
        # How it stands.
        self.closed = False
        self._terminated = False
        self._abandoned = False
        self._broken: BaseException | None = None
        self._n_stillborn: int = 0
        self._since_driven: int = 0
        self._calls_back = False  # a future has had callbacks
        self._n_oom_kills = 0  # of before there were workers
        # What is counted.
        self.n_done: int = 0
        self.n_failed: int = 0
        self.busy_of_lost_s: float = 0.0
        self.pickling_s: float = 0.0
        self._limited = limits is not None
        self.supervisor = Supervisor(self, limits or Limits())
        self.relays = Relays(self)
        self.lending = Lending(self)

    @abc.abstractmethod
    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait for a future of this pool, driving it if nobody else does. Returns whether it has ended."""

    @abc.abstractmethod
    def cancel(self, future: Future[Any], *, waits: bool = True, running: bool = True) -> bool:
        """Cancel a call, or stop a map. Returns whether it was cancelled."""

    @abc.abstractmethod
    def is_running(self, future: Future[Any]) -> bool:
        """Whether a worker has begun a future's task."""

    def is_foreign(self) -> bool:
        """Whether this is a fork of the process whose pool this is."""
        return self.pid != os.getpid()

    def _foreign_message(self) -> str:
        return f"this pool belongs to process {self.pid}; a forked process cannot use it, but can open one of its own"

    def _check_open(self) -> None:
        if self._broken is None and not self.closed and self.pid == os.getpid():
            return
        if self._broken is not None:
            raise self._broken
        if self.closed and not self._takes_nested():
            raise PoolClosed("the pool is closed and takes no more work; open a new one, or submit before close()")
        if self.is_foreign():
            raise PoolClosed(self._foreign_message())

    def _takes_nested(self) -> bool:
        """Whether this is a running task, which may still use its own pool though that is closed."""
        return self.functions is None and not self.scheduler.closing and self.engine.current_chunk() is not None

    def will_wait_elsewhere(self) -> None:
        """Work was started that the caller may not wait for."""
        if self.engine.needs_driving and self.roles.parked:
            self.roles.arm()

    def hurry(self) -> None:
        """Somebody wants to be called back: the background thread should not wait for its grace to end."""
        self._calls_back = True
        if self.engine.needs_driving and not self.ended.done():
            self.roles.arm(urgent=True)

    def call_aside(self, act: Callable[[], object]) -> None:
        """Have the background thread do something, so that no caller's thread must, whatever locks it holds."""
        self.roles.call(act)
