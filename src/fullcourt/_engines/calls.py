"""The driver, single calls: how they come to a worker, alone and in bursts, and how they are cancelled."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Any, TypeVar

from fullcourt._core.model import NESTED, Estimate
from fullcourt._core.options import Durations, Options
from fullcourt._engines.arrivals import SAMPLED
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import Call, CallStream, MapJob, Settlement
from fullcourt._engines.maps import TINY_S, Maps
from fullcourt._engines.nested import nested_priority
from fullcourt._engines.roles import PARKED
from fullcourt.errors import PicklingError, TaskCancelled

__all__ = ["Calls", "runs_event_loop"]

R = TypeVar("R")
# A thread that submits without waiting looks for results itself this often: the background thread, competing with it
# for the GIL, would get its turn only every 5 ms.
DRIVE_EVERY = 32
MAX_ESTIMATES = 512


class Calls(Maps):
    """The part of the driver that serves single calls."""

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: Future[Any],
        *,
        options: Options | None = None,
    ) -> bool:
        """Have ``fn(*args, **kwargs)`` run, and the future settled. False: it will not pickle, and has failed."""
        if self.thread_lane is not None and options is None and self.thread_lane.submit(fn, args, kwargs, future):
            return True
        call = self._prepare(fn, args, kwargs, future, options)
        if call is None:
            return False
        if self._n_open <= self._burst or not self._gathers(call):
            with self.roles.shield:
                self._hand_in(call)
                self._perform_held()
            if self.scheduler.actions:
                self._perform()
        if self.engine.needs_driving:
            self._since_driven += 1
            if self.roles.state == PARKED:
                self.roles.arm()
            if self._since_driven >= DRIVE_EVERY:
                self._look_in_between()
        return True

    def _look_in_between(self) -> None:
        """Look for results; at least give to the scheduler what has gathered."""
        # No look where there are callbacks: the caller may hold a lock that they wait for.
        if (self._calls_back or not self.roles.try_step(0)) and self._inbox:
            self._since_driven = 0
            self._empty_inbox()

    def call(
        self, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any], options: Options | None = None
    ) -> R:
        """:meth:`submit` and wait: under one shield, and without the background thread."""
        future: Future[R] = Future(self)
        if self.thread_lane is not None and options is None and self.thread_lane.submit(fn, args, kwargs, future):
            return future.result()
        call = self._prepare(fn, args, kwargs, future, options)
        if call is not None:
            with self.roles.shield:
                if self._lane is None or not self._lane.run(call):
                    self._hand_in(call)
                    if self.engine.needs_driving:
                        self._drive_to_end(future)
                self._perform_held()
            if self.scheduler.actions:
                self._perform()
        return future.result()

    def _drive_to_end(self, future: Future[Any]) -> None:
        """Wait for a call that was just handed in. In the shield."""
        if self.scheduler.actions:
            self._perform()
        if self._outcomes or self._deferred:
            self._settle([])  # what an outer step of this thread has yet to hand out
        if self._inbox:
            self._empty_inbox()
        self.roles.wait_shielded(future, None)

    def _prepare(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        future: Future[Any],
        options: Options | None,
    ) -> Call | None:
        """Make a call of it, and pickle it: outside of the lock and the shield. None: it will not pickle."""
        if self.functions is None:
            call = Call(0, self._estimate_of(fn), future, fn, args, kwargs)
            self._check_open()
            self.lending.call(call)
        else:
            if self.pid != os.getpid():  # a fork, in which locks may be held by threads that are not there
                self._check_open()
            try:
                sampled = not (self.n_done & SAMPLED)
                began = perf_counter() if sampled else 0.0
                function = self.functions.get(fn)
                payload = self.engine.codec.encode_call(args, kwargs)
                if sampled:
                    self.pickling_s += (perf_counter() - began) * (SAMPLED + 1)
            except PicklingError as error:
                self._check_open()
                with self._lock:
                    self.n_failed += 1
                self.end_at_once(future, None, error)
                return None
            call = Call(0, function.estimate, future, fn, args, kwargs)
            call.function = function
            call.payload = payload
        future.work = call
        if options is not None:
            call.options = options
            if options.factor is not None and call.estimate.durations is None:
                call.estimate.durations = Durations()
        return call

    def _estimate_of(self, fn: Callable[..., Any]) -> Estimate:
        """What is known of a function's duration, where functions are not pickled and so not kept.

        By its code, where it has some: what it captured is not to be kept alive.
        """
        key: object = getattr(fn, "__code__", None) or type(fn)
        estimate = self._estimates.get(key)
        if estimate is None:
            if len(self._estimates) >= MAX_ESTIMATES:
                self._estimates.clear()
            estimate = self._estimates.setdefault(key, Estimate())
        return estimate

    def _hand_in(self, call: Call) -> None:
        """Give a call to the scheduler and, as a rule, at once to a worker. In the shield; actions may be left over."""
        priority = 0
        if call.options is not None and call.options.priority:
            priority = call.options.priority
        if self.functions is None and call.payload is not None:
            priority += nested_priority(call.payload.outer)
        with self._lock:
            if self.closed:
                self._check_open()
            now = monotonic()
            if self.thread_lane is not None:
                self.thread_lane.fold(now)
            if self._inbox:
                self._take_inbox(now)  # they came before
            self._came(call, now)
            # While another thread has actions to perform, a worker that is free may be one that has yet to be started.
            has_actions = self.scheduler.actions and not self.is_nested
            # And another thread may be about to send an earlier call of this one.
            stream = self._streams.get((threading.get_ident(), priority))
            at_once = not (has_actions or self.engine.runs_inline or (stream is not None and not stream.is_empty()))
            worker_id = self.scheduler.placed_at_once(call, now) if at_once else 0
            may_overtake = at_once and self.engine.takes_back_at_once  # the items of maps
            if not worker_id and not (may_overtake and self.scheduler.overtook(call, priority, now)):
                self._have_wait(call, priority, now)
        if worker_id:
            try:
                self.engine.look()
                problem = self.engine.send(worker_id, call)
            except BaseException as error:
                self._outcomes.extend(self._broke_off(worker_id, call, error))
                raise
            if problem is not None:
                self._hand_out(self._cannot_send(call, worker_id, problem))
            elif call.options is not None and call.options.is_watched:
                self._watch(call, worker_id)

    def _came(self, call: Call, now: float) -> None:
        """Count a call as open. Under the lock: on free-threaded Python two could draw the same number."""
        if self._limited and not self._n_open:
            self.supervisor.work_came(now)
        self._n_open += 1
        call.id = self.new_id()

    def _have_wait(self, call: Call, priority: int, now: float) -> None:
        """No worker has room for a call, or others wait already: it goes to its thread's stream. Under the lock."""
        call.stream = stream = self.stream_of(threading.get_ident(), priority)
        stream.append(call)
        if not stream.queued or priority >= NESTED:
            self.scheduler.stream_filled(stream, now)

    def stream_of(self, owner: object, priority: int) -> CallStream:
        """Of the calls of a thread, as a rule. Under the lock."""
        key = owner, priority
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = CallStream(Estimate(), priority)
            self._forget_streams(key)
        return stream

    def _forget_streams(self, mine: object) -> None:
        """Threads come and go; keep no streams for those that went."""
        if len(self._streams) > 64:
            for key, stream in list(self._streams.items()):
                if not stream.queued and stream.is_empty() and key != mine:
                    del self._streams[key]

    def cannot_part(self, options: Options | None) -> bool:
        """Whether items with these options must travel one by one: a stuck one cannot be parted from others here."""
        return options is not None and options.is_watched and (self.engine.n_slots > 1 or not self.engine.can_kill)

    # -- Bursts -------------------------------------------------------------------------------------------------------

    def _gathers(self, call: Call) -> bool:
        """If a call is one of many tiny ones and no slot is free, leave it for the next look for results.

        Whoever looks is told by an event of those that run, if nobody does so before. This needs neither the shield
        nor the lock: a signal's handler may raise before or after the call is entered, and either is well.
        """
        mean_s = call.estimate.mean_s
        if mean_s is None or mean_s >= TINY_S or self.scheduler.idle or call.options:
            return False
        call.stream = threading.get_ident()  # whose it is to be
        self._inbox.append(call)
        if self.closed or self.scheduler.idle:
            self._look_again(call)
        return True

    def _look_again(self, call: Call) -> None:
        """A call was entered; what was so before has changed just then, and who changed it may have looked before."""
        if self.closed:
            with self.roles.shield, self._lock:
                if call in self._inbox:  # else it was taken, and will be run
                    self._inbox.remove(call)
                    self._check_open()
        else:
            self._empty_inbox()

    def _empty_inbox(self) -> None:
        """Give the calls that have gathered to the scheduler."""
        with self.roles.shield:
            with self._lock:
                if not self.closed:  # else who closed has done so, and those that came later are refused
                    self._take_inbox(monotonic())
            if self.scheduler.actions:
                self._perform_shielded()

    def _take_inbox(self, now: float) -> None:
        """:meth:`_came` and `_have_wait`, written out for many. Under the lock."""
        streams: dict[object, CallStream] = {}
        if self._inbox and self._limited and not self._n_open:
            self.supervisor.work_came(now)
        while self._inbox:
            call = self._inbox.popleft()
            self._n_open += 1
            call.id = self.new_id()
            stream = streams.get(call.stream)
            if stream is None:
                stream = streams[call.stream] = self.stream_of(call.stream, 0)
            call.stream = stream
            stream.append(call)
        for stream in streams.values():
            self.scheduler.stream_filled(stream, now)

    # -- Cancelling ---------------------------------------------------------------------------------------------------

    def cancel(self, future: Future[Any], *, waits: bool = True, running: bool = True) -> bool:
        """Cancel a call, or stop a map.

        ``waits``: until what runs has ended, so that the answer is the truth. ``running``: also a call that runs.
        """
        if self.is_foreign():
            return False
        self.fold_in()
        work = future.work
        with self.roles.shield:  # one for all: what is taken from a worker, or out of the line, must get its end
            if isinstance(work, MapJob):
                self._cancel_job(work)
                return future.cancelled()
            if isinstance(work, Call) and not work.id and not future.done():
                with self._lock:  # another thread takes it from the inbox just now
                    pass
            if not isinstance(work, Call) or not work.id:  # that one has just left the lane: it has ended
                return future.cancelled()
            return self._cancel_call(future, work, waits, running)

    def _cancel_call(self, future: Future[Any], work: Call, waits: bool, running: bool) -> bool:
        while True:
            with self._lock:
                worker_id = work.worker_id
                cancelled = worker_id is None and work.future is not None
                if cancelled:
                    self._withdraw_waiting(work)
            if cancelled or (worker_id is not None and self._cancel_sent(work, worker_id)):
                break
            if not running:
                return False
            answer = self._stop_running(future, work, waits)
            if answer is not None:
                return answer
        with self._lock:
            self.supervisor.chunk_ended(work)
            self._after_event()
        self._perform()
        self._settle([(future, None, TaskCancelled("cancelled"))])
        return True

    def _cancel_sent(self, call: Call, worker_id: int) -> bool:
        """It lies in a worker's link: take it back, with what lies there beside it."""
        ids = self.engine.take_back(worker_id)
        found = False
        with self._lock:
            worker = self.scheduler.workers.get(worker_id)
            if worker is not None:
                chunks = [worker.sent[i] for i in ids if i in worker.sent]
                self._forget_functions(worker_id, chunks)
                now = monotonic()
                if call in chunks and call.future is not None:
                    found = True
                    chunks.remove(call)
                    self.scheduler.withdrawn(call, now)
                    call.future = None
                    self._n_open -= 1
                self._requeue(chunks, now)
        self._perform()
        if self._outcomes:
            self._settle([])
        return found

    def _withdraw_waiting(self, call: Call) -> None:
        if self.supervisor.withdraw(call):
            pass
        elif call in self.scheduler.returned:
            self.scheduler.returned.remove(call)
        else:
            stream = call.stream
            stream.cancel(call)
            if not stream.available() and stream.queued:
                self.scheduler.streams.remove(stream)
                stream.queued = False
        call.future = None
        self._n_open -= 1

    def _stop_running(self, future: Future[Any], call: Call, waits: bool) -> bool | None:
        """Stop a call that runs. Waits until it has stopped, or has ended otherwise: the answer shall be the truth.

        None: it does not run, but came back from its worker meanwhile, and waits again.

        In a thread that runs an event loop nothing waits: there the future is cancelled at once, and its task is
        stopped meanwhile.
        """
        with self._lock:
            if call.future is not None and call.worker_id is None:
                return None
            if call.future is None or not self.supervisor.cancel(call, monotonic()):
                return future.cancelled()
            at_once = waits and runs_event_loop()
            if at_once:
                call.future = None  # it stays open until the worker has told of its end
        self._perform()
        self._look_at_clock()
        if at_once:
            self._settle([(future, None, TaskCancelled("cancelled"))])
        if waits and not at_once:
            self.wait(future, None)
        else:
            self.will_wait_elsewhere()
        return future.cancelled()

    def is_running(self, future: Future[Any]) -> bool:
        """Whether a worker has begun a future's task."""
        self.fold_in()
        work = future.work
        worker_id = work.worker_id if isinstance(work, Call) else None
        handle = None if worker_id is None else self.engine.handles.get(worker_id)
        return handle is not None and work.id in self.engine.started(handle)

    def fold_in(self) -> None:
        """Have all that is open be the scheduler's: it is to be looked at, or changed."""
        if self._inbox:
            self._empty_inbox()
        if self.thread_lane is not None and self.thread_lane.open:
            with self.roles.shield:
                with self._lock:
                    self.thread_lane.fold(monotonic())
                self._perform_held()

    def end_unstarted(self, error: BaseException) -> None:
        """End all calls that no worker has begun or is just about to begin with this error; those that run go on.

        A call that another thread is handing to a worker at this moment counts as just about to begin.
        """
        if not self.is_foreign():
            with self.roles.shield:  # one for all: calls that have been taken out of the line must get their end
                self._end_unstarted(error)

    def _end_unstarted(self, error: BaseException) -> None:
        self.fold_in()
        with self._lock:
            calls = [call for stream in self._streams.values() for call in stream.drain()]
            calls += [chunk for chunk in self.scheduler.returned if type(chunk) is Call]
            self.scheduler.returned = deque(c for c in self.scheduler.returned if type(c) is not Call)
            for stream in [s for s in self.scheduler.streams if not s.available()]:
                self.scheduler.streams.remove(stream)
                stream.queued = False
            laden = list(self.scheduler.laden)
        for worker_id in laden:
            ids = self.engine.take_back(worker_id)
            with self._lock:
                worker = self.scheduler.workers.get(worker_id)
                chunks = [worker.sent[i] for i in ids if i in worker.sent] if worker is not None else []
                self._forget_functions(worker_id, chunks)
                now = monotonic()
                # What a free slot would have begun at once is let run.
                n_begun = len(worker.sent) - len(chunks) if worker is not None else 0
                n_spared = max(0, self.scheduler.n_slots - n_begun)
                spared, rest = chunks[:n_spared], chunks[n_spared:]
                taken = [chunk for chunk in rest if type(chunk) is Call]
                for call in taken:
                    self.scheduler.withdrawn(call, now)
                calls += taken
                self._requeue(spared + [chunk for chunk in rest if type(chunk) is not Call], now)
        settlements: list[Settlement] = []
        with self._lock:
            for call in calls:
                if call.future is not None:
                    settlements.append((call.future, None, error))
                    call.future = None
                    self._n_open -= 1
            self._after_event()
        self._perform()
        self._settle(settlements)


def runs_event_loop() -> bool:
    """Whether this thread is in the midst of an asyncio event loop."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None
