"""The driver, what workers report: frames are read, without the lock, and taken in, under it."""

from __future__ import annotations

import contextlib
import pickle
from functools import partial
from time import monotonic, perf_counter
from typing import Any

from fullcourt._core.model import Chunk
from fullcourt._engines.accounts import call_of
from fullcourt._engines.jobs import SENT, Call, Settlement
from fullcourt._engines.linked import Broken, FrameArrived, Handle, Lost, Orphaned
from fullcourt._engines.nested import Relay, one_result
from fullcourt._engines.sending import Sending
from fullcourt._engines.supervisor import NEVER
from fullcourt._transport import frames
from fullcourt._transport.codec import decode
from fullcourt._transport.functions import with_fallback
from fullcourt._transport.journal import Unreadable
from fullcourt._transport.link import Body, read_body
from fullcourt._transport.remote_errors import RESULT_UNREADABLE, add_note, load_exception, sound

__all__ = ["SAMPLED", "Arrivals"]

# Of single calls, one in 16 is timed while it is pickled: reading the clock costs a tenth of that pickling.
SAMPLED = 15


class Arrivals(Sending):
    """The part of the driver that takes in what workers report."""

    def handle_events(self, events: list[Any]) -> None:
        """Take in what the engine reported."""
        if not events and not self._arrived:
            if self.scheduler.look_again_at is not None or self.supervisor.due < NEVER:
                self.tend()
            return
        # In a queue of the driver's: while what workers print is delivered, an interrupt may come, or a log handler may
        # wait for a task; neither must lose what comes after.
        self._arrived.extend(events)
        read: list[Any] = []
        began = perf_counter()
        while self._arrived:  # reading runs user code: before the lock
            event = self._arrived.popleft()
            if type(event) is not FrameArrived:
                if type(event) is Lost:
                    if read:  # what it had answered does not lie in its journal any more
                        self._take_in(read)
                        read = []
                    event.left = self._left_by(event.handle)
                read.append((event, None, None))
            elif event.fields[0] < frames.OUTPUT:
                read.append((event, *self._read(event)))
                if event.fields[0] == frames.ERROR:
                    self._name_call(event)
            else:
                if read:
                    self._take_in(read)
                    read = []
                began += self._deliver(event)
        self.pickling_s += perf_counter() - began
        self._take_in(read)

    def _deliver(self, event: FrameArrived) -> float:
        """A worker printed, logged or warned. May block; an interrupt comes through, and only this output is lost.

        Returns the seconds that it took.
        """
        began = perf_counter()
        kind, _, _, _, number, flush, _, _ = event.fields
        output = self.engine.output
        shield = self.roles.shield
        with contextlib.suppress(OSError):  # no memory to read it
            payload = read_body(event.data, event.fields, event.fd).payload
            shield.wait_begins()
            try:
                output.deliver(event.handle, kind, number, bool(flush), payload)
            finally:
                shield.wait_ends()
        return perf_counter() - began

    def _take_in(self, read: list[Any]) -> None:
        """Take in events that were read."""
        settlements: list[Settlement] = []
        with self._lock:
            now = monotonic()
            n_taken = 0
            while n_taken < len(read):
                n_calls = self._calls_done(read, n_taken, now, settlements)
                n_taken += n_calls or 1
                if n_calls:
                    continue
                event, value, problem = read[n_taken - 1]
                if type(event) is FrameArrived:
                    settlements += self._frame(event, value, problem, now)
                elif type(event) is Lost:
                    settlements += self._worker_lost(event, now)
                elif type(event) is Orphaned:
                    self.scheduler.worker_orphaned(event.handle.id, now)
                elif type(event) is Broken:
                    settlements += self._break(event.error)
            settlements += self._tend(now)
            self._after_event()
        self._perform()
        self._settle(settlements)

    def _calls_done(self, read: list[Any], first: int, now: float, settlements: list[Settlement]) -> int:
        """Take in the results of calls that one worker has told in a row, from there on. Returns how many these are.

        :meth:`_frame` and :meth:`Scheduler.ended`, written out for what comes most.
        """
        handle = read[first][0].handle if type(read[first][0]) is FrameArrived else None
        worker = self.scheduler.workers.get(handle.id) if handle is not None and not self.supervisor.stops else None
        if handle is None or worker is None:
            return 0
        sent: dict[int, Any] = worker.sent
        ended: list[tuple[Chunk, float]] = []
        for n in range(first, len(read)):
            event, value, problem = read[n]
            if problem is not None or type(event) is not FrameArrived or event.handle is not handle:
                break
            kind, _, _, chunk_id, _, _, _, seconds = event.fields
            chunk = sent.get(chunk_id)
            if kind != frames.RESULT or type(chunk) is not Call or chunk.options is not None:
                break
            handle.busy_s += seconds
            ended.append((chunk, seconds))
            future = chunk.future
            if future is not None:
                settlements.append((future, value, None))
            chunk.future = None
            chunk.payload = SENT
            chunk.function.n_fatal_loads = 0
        if ended:
            self.scheduler.calls_ended(worker, ended, now)
            handle.n_done += len(ended)
            self.n_done += len(ended)
            self._n_open -= len(ended)
        return len(ended)

    def _handle_frame(self, event: FrameArrived) -> None:
        """A single frame, as most come: :meth:`handle_events` without its lists."""
        sampled = not (self.n_done & SAMPLED)
        began = perf_counter() if sampled else 0.0
        value, problem = self._read(event)
        if sampled:
            self.pickling_s += (perf_counter() - began) * (SAMPLED + 1)
        if problem is not None:
            self._name_call(event)
        with self._lock:
            now = monotonic()
            settlements = self._frame(event, value, problem, now)
            if self.scheduler.look_again_at is not None or self.supervisor.due <= now:
                settlements += self._tend(now)
            if self.closed or self._abandoned_jobs or self.supervisor.condemned:
                self._after_event()
        if self.scheduler.actions:
            self._perform()
        self._settle(settlements)

    # -- Frames -------------------------------------------------------------------------------------------------------

    def _read(self, event: FrameArrived) -> tuple[Any, BaseException | None]:
        kind, flags = event.fields[:2]
        body: Body | None = None
        try:
            if kind == frames.REPLIES_OPEN:
                return None, None
            if frames.RESULT <= kind <= frames.RESULTS and not flags and not self.relays.open:  # as most
                return pickle.loads(memoryview(event.data)[frames.HEADER_BYTES :]), None
            body = read_body(event.data, event.fields, event.fd)
            if kind >= frames.NESTED or event.fields[3] in self.relays.open:
                return (decode(body.payload), body.to_pass_on()) if kind == frames.NESTED else body, None
            if kind in (frames.RESULT, frames.RESULTS):
                return decode(body.payload, body.buffers, body.descriptors), None
            if kind in (frames.ERROR, frames.INIT_FAILED, frames.UNLOADABLE_FUNCTION):
                return None, load_exception(body.payload)
        except BaseException as error:  # noqa: BLE001
            if kind == frames.RESULTS and event.fields[5] > 1 and not isinstance(error, KeyboardInterrupt):
                results = read_each(event, body)
                if results is not None:
                    return results, None
            error = sound(error)
            add_note(error, RESULT_UNREADABLE)
            return None, error
        return None, None

    def _frame(self, event: FrameArrived, value: Any, problem: BaseException | None, now: float) -> list[Settlement]:
        kind, _, _, chunk_id, start, count, _, seconds = event.fields
        handle = event.handle
        if kind > frames.ERROR:
            return self._unusual_frame(event, value, problem, now)
        worker = self.scheduler.workers.get(handle.id)
        chunk: Any = worker.sent.get(chunk_id) if worker is not None else None
        if chunk is None:
            return []  # told twice, or of a job that is over
        if type(chunk) is Relay:
            return self.relays.answered(chunk, event, value, problem)
        handle.busy_s += seconds
        if type(chunk) is Call and problem is None and chunk.options is None and not self.supervisor.stops:  # as most
            handle.n_done += 1
            self.scheduler.ended(chunk, 1, seconds, now)
            chunk.function.n_fatal_loads = 0
            self.n_done += 1
            self._n_open -= 1
            future, chunk.future, chunk.payload = chunk.future, None, SENT
            return [(future, value, None)] if future is not None else []
        event.chunk = chunk
        if problem is None:
            handle.n_done += count
        if self.supervisor.waits_for_answers():
            for index in range(start, start + count):
                problem = self.supervisor.task_answered(chunk, index, problem)
        self.scheduler.ended(chunk, count, seconds, now)
        if chunk.function.n_fatal_loads:
            chunk.function.n_fatal_loads = 0
        if chunk.options is not None:
            self._note_end(chunk, now)
        if problem is None and type(value) is SomeResults:
            return self._some_done(chunk, start, value, handle)
        if problem is None:
            return self._tasks_done(chunk, start, value if kind == frames.RESULTS else [value])
        settlements: list[Settlement] = []
        for index in range(start, start + count):
            settlements += self._task_failed(chunk, index, problem, handle, event.call)
        return settlements

    def _unusual_frame(
        self, event: FrameArrived, value: Any, problem: BaseException | None, now: float
    ) -> list[Settlement]:
        """A frame that brings no outcome of a task."""
        kind, _, _, chunk_id, *_ = event.fields
        handle = event.handle
        if kind >= frames.NESTED:
            return self.relays.asked(event, value, problem, now)
        if kind == frames.READY:
            handle.ready = True
            self._n_stillborn = 0
            self.engine.worker_ready(handle, chunk_id)
            return []
        if kind == frames.INIT_FAILED:
            assert problem is not None
            add_note(problem, f"fullcourt: this is the initializer of {self.name}, in worker pid {handle.pid}")
            return self._break(problem)
        worker = self.scheduler.workers.get(handle.id)
        chunk: Any = worker.sent.get(chunk_id) if worker is not None else None
        if chunk is None:
            return []  # told twice, or of a job that is over
        if kind == frames.MISSING:
            handle.known.discard(chunk.function.id)
            self._requeue([chunk], now)
            return []
        if type(chunk) is Relay:
            return self.relays.answered(chunk, event, value, problem)
        if kind == frames.UNLOADABLE:
            self.supervisor.chunk_ended(chunk)
            self.scheduler.withdrawn(chunk, now)
            self.scheduler.came_back(self._singles(chunk), now)
            return []
        if kind == frames.REVOKED:
            self._given_back(chunk, event.fields[5], now)
            return []
        if kind == frames.UNLOADABLE_FUNCTION:
            assert problem is not None
            self._deferred.append(partial(self._send_fallback, handle, chunk, problem))
        return []

    def _name_call(self, event: FrameArrived) -> None:
        """Say which call an answer is of. Without the lock: it runs the arguments' ``__repr__``."""
        worker = self.scheduler.workers.get(event.handle.id)
        chunk = worker.sent.get(event.fields[3]) if worker is not None else None
        if chunk is not None and event.fields[5] == 1:
            event.call = call_of(chunk, event.fields[4])

    def _note_end(self, chunk: Any, now: float) -> None:
        """A task with options ended."""
        if chunk.worker_id is None:
            self.supervisor.chunk_ended(chunk)
        if chunk.options.factor is not None:
            self.supervisor.measured(now)

    def _given_back(self, chunk: Any, n_left: int, now: float) -> None:
        """So many tasks of a chunk, its last, were not begun, as was asked for. Under the lock."""
        if chunk.job.open:
            self.scheduler.parted(chunk, chunk.count - n_left, now)
        else:
            self.supervisor.chunk_ended(chunk)
            self.scheduler.withdrawn(chunk, now)

    def _send_fallback(self, handle: Handle, chunk: Any, problem: BaseException) -> None:
        """A worker could not load a function by its name: send it again in another way, once. Without the lock."""
        function = chunk.function
        error: BaseException | None = None
        if not function.fell_back:
            try:
                data = with_fallback(chunk.fn if type(chunk) is Call else chunk.job.fn, function.data)
            except Exception:  # noqa: BLE001  it cannot go by value; the worker's own error says more
                error = problem
            else:
                function.data = data
                function.fell_back = True
        elif len(function.data) and handle.id not in function.tried:
            function.tried.add(handle.id)
        else:
            error = problem
        settlements: list[Settlement] = []
        with self._lock:
            handle.known.discard(function.id)
            now = monotonic()
            if error is None:
                self.scheduler.taken_back([chunk], now)
            elif chunk.worker_id is not None:
                self.supervisor.chunk_ended(chunk)
                for index in range(chunk.start, chunk.start + chunk.count):
                    self.scheduler.ended(chunk, 1, 0.0, now)
                    settlements += self._task_failed(chunk, index, error, handle)
        self._perform()
        self._settle(settlements)

    def _left_by(self, handle: Handle) -> dict[int, list[Any]]:
        """Read the results that a dead worker left in its journal, by chunk. Without the lock: it runs user code."""
        left: dict[int, list[Any]] = {}
        worker = self.scheduler.workers.get(handle.id)
        started = self.engine.started(handle)
        for chunk in list(worker.sent.values()) if worker is not None else ():
            kept: Any = chunk
            if chunk.id in started and kept.kind != frames.CALL:
                results = left[chunk.id] = self.engine.results_of(handle, chunk, started[chunk.id])
                for result in results:
                    if type(result) is Unreadable:
                        result.error = sound(result.error)
                        add_note(result.error, RESULT_UNREADABLE)
                if type(kept) is Relay:
                    left[chunk.id] = list(map(one_result, results))
        return left

    # -- What slots in this process report ----------------------------------------------------------------------------

    def finished(
        self, handle: Any, chunk: Any, start: int, values: list[Any], error: BaseException | None, seconds: float
    ) -> None:
        """A slot in this process has run tasks: these results, or the one at ``start`` failed. Called by the slot."""
        call = None
        if error is not None:
            error = sound(error)
            call = call_of(chunk, start)
        with self._lock:
            worker_id = chunk.worker_id
            if worker_id is None:
                return  # the job is over
            count = 1 if error is not None else len(values)
            if error is None:
                handle.n_done += count
            handle.busy_s += seconds
            now = monotonic()
            resumed = self.lending.resumed_by(chunk, count, failed=error is not None)
            self.scheduler.ended(chunk, count, seconds, now, resumed)
            if chunk.options is not None:
                self._note_end(chunk, now)
            if error is None:
                settlements = self._tasks_done(chunk, start, values)
            else:
                settlements = self._task_failed(chunk, start, error, handle, call)
            if self.closed or self._abandoned_jobs:
                self._after_event()
            due = self.supervisor.due
        if self.scheduler.actions and not self.engine.runs_inline:
            self._perform()
        if due < NEVER:
            self._look_at_clock()
        self._settle(settlements)

    def gave_up(self, chunk: Any, n_left: int) -> None:
        """A slot in this process ran so many tasks of a chunk no more: its job has stopped, or it was to be parted."""
        with self._lock:
            self._given_back(chunk, n_left, monotonic())
        if not self.engine.runs_inline:
            self._perform()

    def initializer_failed(self, error: BaseException) -> None:
        """An initializer in this process failed: so does the pool, with that error."""
        error = sound(error)
        add_note(error, f"fullcourt: this is the initializer of {self.name}")
        with self._lock:
            settlements = self._break(error)
            self._after_event()
        self._perform()
        self._settle(settlements)

    def worker_ended(self, worker_id: int) -> None:
        """A worker in this process has ended, as it was told."""
        with self._lock:
            if worker_id in self.scheduler.workers:
                self.scheduler.worker_lost(worker_id, monotonic())
            self._after_event()
        self._settle([])


class SomeResults(list[Any]):
    """Of a batch, each of which may be :class:`Unreadable`."""


def read_each(event: FrameArrived, body: Body | None) -> SomeResults | None:
    """Read a batch of results again, of which some would not load. None: what is wrong with it concerns them all."""
    from fullcourt._transport.partly import load_each

    if body is None and event.fields[1]:
        return None  # it could not be received
    if body is not None and body.descriptors is not None:
        return None  # what they hold has been taken
    payload, buffers = memoryview(event.data)[frames.HEADER_BYTES :], None
    if body is not None:
        payload, buffers = memoryview(body.payload), body.buffers
    try:
        results = SomeResults(load_each(payload, buffers))
    except Exception:  # noqa: BLE001  the error that is known says it
        return None
    for result in results:
        if type(result) is Unreadable:
            result.error = sound(result.error)
            add_note(result.error, RESULT_UNREADABLE)
    return results if len(results) == event.fields[5] else None
