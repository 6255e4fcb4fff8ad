"""An engine whose workers are actors, for the real driver: links, journal and death, without a process."""

from __future__ import annotations

import os
import pickle
from collections import deque
from types import SimpleNamespace
from typing import Any

from fullcourt._core.scheduler import Scheduler
from fullcourt._engines import arrivals, calls, driver, driver_base, maps, outcomes, sending
from fullcourt._engines import future as future_module
from fullcourt._engines import lane as lane_module
from fullcourt._engines import roles as roles_module
from fullcourt._engines import supervisor as supervisor_module
from fullcourt._engines import timekeeper as timekeeper_module
from fullcourt._engines.driver import Driver
from fullcourt._engines.jobs import Call
from fullcourt._engines.linked import FrameArrived, Lost
from fullcourt._transport import frames
from fullcourt._transport.codec import Codec
from fullcourt._transport.journal import REGION_BYTES, RUNNING
from fullcourt._transport.link import make_frame
from fullcourt._transport.remote_errors import dump_exception
from fullcourt.errors import TaskCancelled
from tests.interleave.interleaver import Interleaver, Queue

OF_THE_DRIVER = [driver_base, outcomes, sending, arrivals, maps, calls, driver]
MODULES = [*OF_THE_DRIVER, lane_module, roles_module, future_module, supervisor_module, timekeeper_module]


class Death(BaseException):
    """A task's worker dies of it."""


def die() -> None:
    raise Death


def nap() -> None:
    """A task that runs until it is stopped."""
    raise Death


class Worker:
    """A worker's handle, and the worker."""

    def __init__(self, worker_id: int, engine: FakeEngine) -> None:
        self.id = worker_id
        self.pid = os.getpid()  # never another number: what a process started is killed with it
        self.name = f"worker-{worker_id}"
        self.known: set[int] = set()
        self.page = bytes(REGION_BYTES)
        self.ready = True
        self.failure = None
        self.n_done = 0
        self.busy_s = 0.0
        self.started_at = 0.0
        self.link = SimpleNamespace(bytes_in=0, bytes_out=0, flush=lambda: None)
        self.frames = Queue(engine.world)
        self.started: Any = None
        self.results: list[Any] = []
        self.revoked: set[int] = set()
        self.killed = False
        self.stopped = 0  # the chunk whose task an exception is to be raised in
        self._engine = engine

    def serve(self) -> None:
        exitcode = 0
        try:
            while (chunk := self.frames.get()) is not None:
                self._run(chunk)
        except Death:
            exitcode = -9
        self._engine.post(Lost(self, exitcode, None))  # type: ignore[arg-type]

    def _run(self, chunk: Any) -> None:
        world = self._engine.world
        self.results = []
        self.started = chunk.id
        if type(chunk) is Call:
            if chunk.fn is nap:
                world.block(lambda: self.killed or self.stopped == chunk.id)
                if not self.killed:
                    self._answer(frames.ERROR, chunk, 1, TaskCancelled("stopped"))
                    return
            self._answer(frames.RESULT, chunk, 1, chunk.fn(*chunk.args))
            return
        for item in chunk.items:
            if self.killed:
                raise Death
            if chunk.id in self.revoked:
                self._answer(frames.REVOKED, chunk, chunk.count, None)
                return
            self.results.append(chunk.job.fn(item))
            world.point("item")
        self._answer(frames.RESULTS, chunk, chunk.count, self.results)

    def _answer(self, kind: int, chunk: Any, count: int, value: Any) -> None:
        if self.killed:
            raise Death
        payload = dump_exception(value, "", Codec()) if kind == frames.ERROR else pickle.dumps(value)
        frame = make_frame(kind, 0, chunk.id, chunk.start, count, 0.001, b"", payload, [])
        fields = frames.unpack(frame.data)
        self._engine.post(FrameArrived(self, fields, frame.data, -1))  # type: ignore[arg-type]


class FakeEngine:
    needs_driving = True
    runs_inline = False
    can_take_back = True
    can_stop = can_kill = True
    abandons_at_once = False
    awaits_one = takes_back_at_once = True
    has_lane = False
    n_slots = 1

    def __init__(self, world: Interleaver) -> None:
        self.world = world
        self.codec = Codec()
        self.handles: dict[int, Worker] = {}
        self._arrived: deque[Any] = deque()
        self._woken = False
        self._leads = False
        self.closed = False

    def post(self, event: Any) -> None:
        self._arrived.append(event)
        self.world.point("post")

    # what the driver calls

    def open(self, first: object = ()) -> None: ...

    def look(self) -> None: ...

    def let_go(self) -> None: ...

    def start(self, worker_id: int) -> None:
        worker = self.handles[worker_id] = Worker(worker_id, self)
        self.world.add(worker.name, worker.serve)

    def send(self, worker_id: int, chunk: Any) -> None:
        worker = self.handles.get(worker_id)
        if worker is not None:
            worker.frames.put(chunk)

    def take_back(self, worker_id: int) -> list[int]:
        worker = self.handles.get(worker_id)
        if worker is None:
            return []
        # A single step, as each receive from the link is.
        queue = worker.frames._items
        taken = [queue.popleft() for _ in range(len(queue))]
        queue.extend(chunk for chunk in taken if chunk is None)
        return [chunk.id for chunk in taken if chunk is not None]

    def part(self, worker_id: int, chunk: Any) -> bool:
        self.revoke(worker_id, [chunk.id])
        return True

    def revoke(self, worker_id: int, chunk_ids: list[int]) -> None:
        if worker_id in self.handles:
            self.handles[worker_id].revoked.update(chunk_ids)

    def stop(self, worker_id: int) -> None:
        if worker_id in self.handles:
            self.handles[worker_id].frames.put(None)

    def kill(self, worker_id: int) -> bool:
        worker = self.handles.get(worker_id)
        if worker is not None:
            worker.killed = True
            worker.frames.put(None)
        return True

    def end(self) -> None:
        for worker_id in list(self.handles):
            self.kill(worker_id)

    def wait(self, timeout: float | None) -> tuple[()]:
        assert not self._leads, "two lead"
        self._leads = True
        self.world.block(lambda: bool(self._arrived) or self._woken, timeout)
        self._leads = False
        self._woken = False
        return ()

    def collect(self, ready: Any) -> list[Any]:
        events = list(self._arrived)
        self._arrived.clear()
        for event in events:
            if type(event) is Lost:
                self.handles.pop(event.handle.id, None)
        return events

    def sole_frame(self, ready: Any, handle: Worker) -> Any:
        if len(self._arrived) == 1 and type(self._arrived[0]) is FrameArrived and self._arrived[0].handle is handle:
            return self._arrived.popleft()
        return None

    def wake(self) -> None:
        self._woken = True
        self.world.point("wake")

    def worker_ready(self, handle: Any, pid: int) -> None: ...

    def signal(self, worker_id: int, number: int) -> None: ...

    def interrupt(self, worker_id: int, chunk_id: int, stop: int) -> None:
        if worker_id in self.handles:
            self.handles[worker_id].stopped = chunk_id

    def running(self, worker_id: int, chunk_id: int) -> Any:
        return (0, 0.0) if self.started_by(worker_id, chunk_id) else None

    def started_by(self, worker_id: int, chunk_id: int) -> bool:
        worker = self.handles.get(worker_id)
        return worker is not None and worker.started == chunk_id

    def started(self, handle: Worker) -> dict[int, int]:
        return {handle.started: 0}

    def results_of(self, handle: Worker, chunk: Any, slot_index: int) -> list[Any]:
        return handle.results[chunk.done :]

    def phase(self, handle: Worker, slot_index: int) -> int:
        return RUNNING

    def close(self) -> None:
        self.closed = True


def make_driver(world: Interleaver, n_workers: int = 1) -> Driver:
    engine = FakeEngine(world)
    driver = Driver(engine, Scheduler(n_workers, 1), "pool")
    driver.open()
    return driver


def end(world: Interleaver, driver: Driver, others: list[Any]) -> None:
    """The last actor: ends the pool when the others are over."""
    world.block(lambda: all(actor.over for actor in others))
    driver.close()
    driver.ended.wait()
    driver.roles.join()
