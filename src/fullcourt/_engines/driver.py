"""The driver: where scheduler and engine meet.

It takes work from the callers, feeds events to the scheduler, has the engine do what the scheduler decided, and
settles futures. It has no thread of its own while callers wait: see :mod:`roles`.

Cost per call with processes (submit and result, one at a time): two pickles, two system calls here, one wait, no
thread switch; some 310 lines of Python here and 76 in the worker, which makes it four to five times what a hand-written
pair of ends takes. Per item of a map: its share of a chunk's pickle, 0.05 us, and of one list slice.

``_lock`` protects the scheduler, the open jobs and the counts. It is held for microseconds; no user code runs under it:
pickling, callbacks and iterators are outside. What the scheduler wants done is done outside, too, by whichever thread
takes the actions; only workers are started under it, since other threads may be told to send to them.

Invariants:

1. Every future is settled exactly once, by whoever took its chunk out of the scheduler under ``_lock``.
2. While work is open and somebody waits, somebody leads; while work is open and nobody waits, the background thread
   is armed.
3. A chunk that a worker may have begun is never sent again; one that it cannot have begun always is.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic, perf_counter
from typing import Any, TypeVar

from fullcourt import errors
from fullcourt._core.model import NESTED, Chunk, Estimate, Rest
from fullcourt._core.options import Durations, Options
from fullcourt._core.scheduler import Action, Scheduler
from fullcourt._engines.accounts import annotate, call_of, death, describe_task, take_statistics
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import SENT, Call, CallStream, MapChunk, MapJob, Settlement, StreamJob
from fullcourt._engines.lane import Lane
from fullcourt._engines.linked import Broken, FrameArrived, Handle, Lost, Orphaned
from fullcourt._engines.nested import Lending, Relay, Relays, nested_priority, one_result
from fullcourt._engines.roles import Roles, wait_aside
from fullcourt._engines.state import Broadcast, new_key
from fullcourt._engines.supervisor import NEVER, Limits, Supervisor, as_told
from fullcourt._engines.thread_lane import ThreadLane
from fullcourt._engines.timekeeper import Timekeeper
from fullcourt._os.locks import make_lock
from fullcourt._os.system import n_oom_kills
from fullcourt._os.waits import acquire
from fullcourt._transport import frames
from fullcourt._transport.codec import decode
from fullcourt._transport.functions import FunctionTable, with_fallback
from fullcourt._transport.journal import LOADING, LOADING_FUNCTION, Unreadable
from fullcourt._transport.link import Body, read_body
from fullcourt._transport.remote_errors import RESULT_UNREADABLE, add_note, load_exception, sound
from fullcourt.errors import NotSupported, PicklingError, PoolClosed, TaskCancelled, TaskStopped, exit_name

__all__ = ["Driver"]

R = TypeVar("R")

# A thread that submits without waiting looks for results itself this often: the background thread, competing with it
# for the GIL, would get its turn only every 5 ms.
DRIVE_EVERY = 32
# So many tiny calls to each slot, which nobody waits for yet, are a burst: further ones gather until the next look for
# results. A call that wakes a sleeping worker costs 11 us, one that goes after it 2.
BURST = 2
MAX_ESTIMATES = 512
# Of single calls, one in 16 is timed while it is pickled: reading the clock costs a tenth of that pickling.
SAMPLED = 15
# Below this a task is not worth a frame of its own; so long its item may wait for company.
TINY_S = 0.0001
HOLD_S = 0.001
# So many workers in a row that end before they are ready mean that none ever will be; more of them where somebody
# else may have killed them, and a later one may be spared.
MAX_STILLBORN = 4
# So many workers in a row may end while they load a function, before it counts as deadly.
MAX_FATAL_LOADS = 3
MAX_STILLBORN_KILLED = 20


class Driver:
    """Runs one pool's work on one engine. All public methods may be called from any thread."""

    is_nested = False  # a worker's own, whose calls must have been sent when the task that submits them ends

    def __init__(self, engine: Any, scheduler: Scheduler, name: str, limits: Limits | None = None) -> None:
        self.engine = engine
        self.scheduler = scheduler
        self.name = name
        self.pid = os.getpid()
        self._lock = make_lock()
        self._ids = itertools.count(1)
        self.new_id = self._ids.__next__
        self._streams: dict[tuple[object, int], CallStream] = {}  # by whose calls they are of, and priority
        self._jobs: set[MapJob] = set()
        self._n_open = 0
        self._since_driven = 0
        self._calls_back = False  # a future has had callbacks
        self._n_stillborn = 0
        self.closed = False
        self._terminated = False
        self._abandoned = False
        self._broken: BaseException | None = None
        self.ended: Future[None] = Future(self)  # settled when the last worker is gone
        self.roles = Roles(self._step, engine.wake, self._has_work, self.ended.done, name)
        self.n_done = 0
        self.n_failed = 0
        self.functions = FunctionTable(engine.codec) if engine.codec is not None else None
        self.relays = Relays(self)
        self.lending = Lending(self)
        self._deferred: deque[Callable[[], None]] = deque()  # to be done without the lock
        self._arrived: deque[Any] = deque()  # events that were received and not yet read; the leader's
        self._outcomes: deque[Settlement] = deque()  # futures to be settled without the lock
        self._abandoned_jobs: list[StreamJob] = []
        self._held: list[StreamJob] = []
        self._inbox: deque[Call] = deque()  # calls of a burst that are not given to the scheduler yet
        gathers = engine.needs_driving and not self.is_nested
        self._burst = BURST * engine.n_slots * scheduler.n_workers if gathers else 1 << 60
        self.busy_of_lost_s = 0.0
        self.pickling_s = 0.0
        self._limited = limits is not None
        self._n_oom_kills = n_oom_kills() if engine.needs_driving else 0
        self.supervisor = Supervisor(self, limits or Limits())
        self._lane = Lane(self) if Lane.fits(self) else None
        self.thread_lane = ThreadLane(self) if engine.has_lane and limits is None else None
        self._estimates: dict[object, Estimate] = {}  # where functions are not pickled
        # An engine whose own threads settle futures has nobody who waits for the moment that something is due.
        self.timekeeper = Timekeeper(self.tend, lambda: self.supervisor.due, name)

    def open(self) -> None:
        """Start the workers."""
        with self.roles.shield:  # what is half open nobody could end
            self.engine.open()
            with self._lock:
                self.scheduler.opened(monotonic())
            self._perform()

    # -- work in ---------------------------------------------------------------------------------------------------

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
            if self.roles.parked:
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
        if self.thread_lane is not None and options is None:
            ended = threading.Lock()
            ended.acquire()
            future._blocked = [ended]  # nobody else knows it yet
            if self.thread_lane.submit(fn, args, kwargs, future):
                acquire(ended, None)
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

    def stream_of(self, owner: object, priority: int) -> CallStream:
        """Of the calls of a thread, as a rule. Under the lock."""
        key = owner, priority
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = CallStream(Estimate(), priority)
            self._forget_streams(key)
        return stream

    def _have_wait(self, call: Call, priority: int, now: float) -> None:
        """No worker has room for a call, or others wait already: it goes to its thread's stream. Under the lock."""
        call.stream = stream = self.stream_of(threading.get_ident(), priority)
        stream.append(call)
        if not stream.queued or priority >= NESTED:
            self.scheduler.stream_filled(stream, now)

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
        """Under the lock."""
        streams: dict[object, CallStream] = {}
        while self._inbox:
            call = self._inbox.popleft()
            self._came(call, now)
            stream = streams.get(call.stream)
            if stream is None:
                stream = streams[call.stream] = self.stream_of(call.stream, 0)
            call.stream = stream
            stream.append(call)
        for stream in streams.values():
            self.scheduler.stream_filled(stream, now)

    def cannot_part(self, options: Options | None) -> bool:
        """Whether items with these options must travel one by one: a stuck one cannot be parted from others here."""
        return options is not None and options.is_watched and (self.engine.n_slots > 1 or not self.engine.can_kill)

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

    def want_worker(self) -> None:
        """Have one worker more be started, if it waits for demand."""
        if self.is_foreign():
            raise PoolClosed(self._foreign_message())
        with self.roles.shield, self._lock:
            if not self.closed:
                self.scheduler.worker_wanted(monotonic())
        self._perform()

    def start_job(self, job: MapJob) -> None:
        """Have a map run."""
        job.future.work = job
        if self.functions is None:
            self.lending.job(job)
        try:
            with self.roles.shield:
                with self._lock:
                    self._check_open()
                    if self.thread_lane is not None:
                        self.thread_lane.fold(monotonic())
                    self._jobs.add(job)
                    job.begin()
                    if self._limited and not self._n_open:
                        self.supervisor.work_came(monotonic())
                    self._n_open += 1
                    self.scheduler.stream_filled(job, monotonic())
                self._perform_held()
            self._perform()
        except BaseException:  # an interrupt: nobody will have the future
            with self.roles.shield:
                if job in self._jobs:
                    self._cancel_job(job)
            raise

    def broadcast(self, value: Any) -> Broadcast[Any]:
        """Give a value to every worker, also to those that come later; returns its handle. Raises PicklingError."""
        key = new_key()
        self._check_open()
        if self.functions is not None:
            frame = self.engine.frame_of(key, self.engine.codec.encode(value))  # runs user code: without the lock
            with self.roles.shield, self._lock:
                self._check_open()
                self.engine.broadcast(key, frame)
        return Broadcast(key, value, self._forget_value)

    def _forget_value(self, key: int) -> None:
        if self.functions is not None and not self.is_foreign():
            with self.roles.shield, self._lock:
                self.engine.forget(key)

    def feed(self, job: StreamJob) -> None:
        """A job's input, which was empty or had no place in the scheduler, has items.

        Items of tiny tasks that come one by one, but quickly, are held back for up to a millisecond, to travel
        together: else workers that are faster than the input would get a frame for each.
        """
        held = False
        with self.roles.shield, self._lock:
            now = monotonic()
            mean_s = job.estimate.mean_s
            if (
                self.engine.needs_driving
                and not job.held
                and mean_s is not None
                and mean_s < TINY_S
                and now - job.fed_at < HOLD_S
                and len(job.input) < job.last_size
            ):
                held = job.held = True
                self._held.append(job)
                if self.scheduler.look_again_at is None or self.scheduler.look_again_at > now + HOLD_S:
                    self.scheduler.look_again_at = now + HOLD_S
            elif not job.held or len(job.input) >= job.last_size:
                job.fed_at = now
                self.scheduler.stream_filled(job, now)
        if held:
            self.roles.tell()  # the leader must wake in time
        else:
            self._perform()

    def _release_held(self, now: float) -> None:
        """The time of those that were held back is over, or a worker may be free for them. Under the lock."""
        while self._held:
            job = self._held.pop()
            job.held = False
            job.fed_at = now
            self.scheduler.stream_filled(job, now)

    def input_ended(self, job: StreamJob, error: BaseException | None) -> None:
        """A job's iterator is exhausted, or raised."""
        with self.roles.shield:
            with self._lock:
                self._release_held(monotonic())
                settlements = job.input_ended(error)
                self._close_job(job)
                self._after_event()
            self._perform_held()
            self._settle(settlements)
        self._perform()

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

    def _given_back(self, chunk: Any, n_left: int, now: float) -> None:
        """So many tasks of a chunk, its last, were not begun, as was asked for. Under the lock."""
        if chunk.job.open:
            self.scheduler.parted(chunk, chunk.count - n_left, now)
        else:
            self.supervisor.chunk_ended(chunk)
            self.scheduler.withdrawn(chunk, now)

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

    def lift_windows(self, *, all_inputs: bool) -> None:
        """Somebody waits for the end: streams whose consumer may be that very thread must be able to end.

        With ``all_inputs``, each input is read to its end; else only those that surely have one.
        """
        for job in list(self._jobs):
            if not isinstance(job, StreamJob):
                continue
            if all_inputs or job.finite:
                job.unbounded = True
                if job.refill is not None:
                    job.refill()
            else:
                self.input_ended(job, PoolClosed("the pool was left before the input of this imap was read to its end"))
                if job.refill is not None:
                    job.refill()

    def abandon_job(self, job: StreamJob) -> None:
        """Nobody will take this job's results. Called by the garbage collector: never waits for a lock."""
        self._abandoned_jobs.append(job)
        if self._lock.acquire(blocking=False):
            try:
                self._abort_abandoned()
                self._after_event()
            finally:
                self._lock.release()

    def stop_job(self, job: StreamJob) -> None:
        """A job's iterator was closed, perhaps while another thread waits for its next result. May wait for a lock."""
        self.abandon_job(job)
        if self.is_foreign():
            return
        with self.roles.shield, self._lock:
            self._after_event()
        self._perform()
        self._settle([])

    def _abort_abandoned(self) -> None:
        while self._abandoned_jobs:
            job = self._abandoned_jobs.pop()
            self._outcomes.extend(settlement for settlement in job.abort(None) if settlement[0] is not None)
            self._close_job(job)
            if job.queued:
                self.scheduler.streams.remove(job)
                job.queued = False

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

    def is_foreign(self) -> bool:
        """Whether this is a fork of the process whose pool this is."""
        return self.pid != os.getpid()

    def _foreign_message(self) -> str:
        return f"this pool belongs to process {self.pid}; a forked process cannot use it, but can open one of its own"

    def _forget_streams(self, mine: object) -> None:
        """Threads come and go; keep no streams for those that went."""
        if len(self._streams) > 64:
            for key, stream in list(self._streams.items()):
                if not stream.queued and stream.is_empty() and key != mine:
                    del self._streams[key]

    # -- actions and events ----------------------------------------------------------------------------------------

    def _perform(self) -> None:
        """Do what the scheduler decided. Outside of the lock: pickling runs user code, sending releases the GIL."""
        if not self.scheduler.actions:
            return
        if self.engine.runs_inline:
            self._perform_shielded()  # the tasks themselves run in here, and may be interrupted
            while self.supervisor.due < NEVER:  # and who retries them, if not the caller
                wait_aside(Future(), self.supervisor.due - monotonic())
                self.tend()
            return
        with self.roles.shield:
            self._perform_shielded()

    def _perform_held(self) -> None:
        """:meth:`_perform`, before the shield opens: an interrupt that it held back must not leave actions undone.

        Not where the tasks themselves would run here.
        """
        if self.scheduler.actions and not self.engine.runs_inline:
            self._perform_shielded()

    def _perform_shielded(self) -> None:
        # Nothing is settled in between: a callback may wait for a call that is yet to be sent here.
        scheduler = self.scheduler
        while scheduler.actions:
            with self._lock:
                actions, scheduler.actions = scheduler.actions, []
                self._outcomes.extend(self._start_workers(actions))
                streams = self._begin_to_send(actions)
            try:
                self._do(actions)
            finally:
                if streams:
                    self._have_sent(streams)
        if self._outcomes:
            self._have_handed_out()

    def _do(self, actions: list[Action]) -> None:
        engine = self.engine
        n_begun = 0
        try:
            engine.look()
            for action in actions:
                n_begun += 1
                if action[0] == "send":
                    chunk: Any = action[2]
                    if chunk.count > 1:
                        began = perf_counter()
                        problem = engine.send(action[1], chunk)
                        self.pickling_s += perf_counter() - began
                    else:
                        problem = engine.send(action[1], chunk)
                    if problem is not None:
                        self._outcomes.extend(self._cannot_send(chunk, action[1], problem))
                    elif chunk.options is not None and chunk.options.is_watched:
                        self._watch(chunk, action[1])
                elif action[0] == "take_back":
                    self._take_back(action[1])
                elif action[0] == "part":
                    engine.part(action[1], action[2])
                elif action[0] == "stop":
                    engine.stop(action[1])
                elif action[0] == "grow":
                    engine.grow(action[1])
                elif action[0] == "shrink":
                    engine.shrink(action[1])
        except BaseException as error:  # a second Ctrl-C, or an alarm that was held for long
            with self._lock:
                self.scheduler.actions[:0] = actions[n_begun:]
            last = actions[n_begun - 1] if n_begun else None
            if last is not None and last[0] == "send" and not engine.runs_inline:
                self._outcomes.extend(self._broke_off(last[1], last[2], error))
            raise

    def _broke_off(self, worker_id: int, chunk: Any, error: BaseException) -> list[Settlement]:
        """An exception came while a chunk was being sent. Nobody knows whether it was: so it must not be sent again."""
        with self._lock:
            if chunk.worker_id != worker_id:
                return []
            self.scheduler.withdrawn(chunk, monotonic())
            if type(chunk) is Relay:
                return self.relays.cannot_send(chunk, PicklingError(f"sending it was interrupted: {error!r}"))
            settlements: list[Settlement] = []
            for index in range(chunk.start, chunk.start + chunk.count):
                settlements += self._task_failed(chunk, index, error, None)
            return settlements

    def _begin_to_send(self, actions: list[Action]) -> list[CallStream]:
        """Have no later calls of the same threads be taken until these actions are done. Under the lock."""
        streams: list[CallStream] = []
        if not self.engine.runs_inline:
            for action in actions:
                if action[0] == "send" and type(action[2]) is Call:
                    stream = action[2].stream
                    if stream is not None and not stream.sending:
                        stream.sending = True
                        streams.append(stream)
        return streams

    def _have_sent(self, streams: list[CallStream]) -> None:
        with self._lock:
            for stream in streams:
                stream.sending = False
                if stream.n_live:
                    self.scheduler.stream_filled(stream, monotonic())

    def _watch(self, chunk: Any, worker_id: int) -> None:
        with self._lock:
            before = self.supervisor.due
            self.supervisor.sent(chunk, worker_id, monotonic())
            sooner = self.supervisor.due < before
        if sooner:
            self._look_at_clock()

    def _look_at_clock(self) -> None:
        """Something may be due sooner than whoever waits knows."""
        if self.engine.needs_driving:
            self.roles.tell()
        elif not self.engine.runs_inline:
            self.timekeeper.look()

    def tend(self) -> None:
        """Do what is due."""
        with self.roles.shield:
            with self._lock:
                settlements = self._tend(monotonic())
                self._after_event()
            self._perform()
            self._settle(settlements)

    def _tend(self, now: float) -> list[Settlement]:
        if self.scheduler.look_again_at is not None:
            self._release_held(now)
            self.scheduler.time_passed(now)
        supervisor = self.supervisor
        return supervisor.time_passed(now) if supervisor.due <= now else []

    def _start_workers(self, actions: list[Action]) -> list[Settlement]:
        """Start those that are to be started: under the lock, since other threads may be told to send to them."""
        for action in actions:
            if action[0] == "start":
                try:
                    self.engine.start(action[1])
                except OSError as error:
                    settlements = self._break(errors.PoolBroken(f"a worker could not be started: {error}"))
                    self._forget_unstarted()
                    self._after_event()
                    return settlements
        return []

    def _forget_unstarted(self) -> None:
        """Workers whose start will not be carried out any more: nobody would ever report their end."""
        now = monotonic()
        for worker_id in list(self.scheduler.workers):
            if worker_id not in self.engine.handles:
                self.scheduler.worker_lost(worker_id, now)

    def _cannot_send(self, chunk: Any, worker_id: int, problem: PicklingError) -> list[Settlement]:
        """A chunk would not pickle: its one task fails, or its tasks are sent one by one to find the bad one."""
        with self._lock:
            if chunk.worker_id != worker_id:
                return []  # the worker died meanwhile; whoever sends it elsewhere sees the same
            now = monotonic()
            self.scheduler.withdrawn(chunk, now)
            if type(chunk) is Relay:
                return self.relays.cannot_send(chunk, problem)
            if chunk.count > 1:
                if chunk.job.open:
                    self.scheduler.came_back(self._singles(chunk), now)
                return []
            return self._task_failed(chunk, chunk.start, problem, None)

    def _singles(self, chunk: MapChunk) -> list[Any]:
        return [MapChunk(chunk.job, self.new_id(), chunk.start + i, [item]) for i, item in enumerate(chunk.items)]

    def _take_back(self, worker_id: int) -> None:
        ids = self.engine.take_back(worker_id)
        with self._lock:
            self._taken_back(worker_id, ids, monotonic())

    def _taken_back(self, worker_id: int, ids: list[int], now: float) -> None:
        """These chunks lay unread in a worker's link. Under the lock."""
        worker = self.scheduler.workers.get(worker_id)
        if worker is not None:
            chunks = [worker.sent[i] for i in ids if i in worker.sent]
            self._forget_functions(worker_id, chunks)
            self._requeue(chunks, now)

    def _requeue(self, chunks: list[Any], now: float) -> None:
        """Chunks that did not start go elsewhere, unless their job is over."""
        for chunk in chunks:
            if not self._shall_run(chunk, now) or self._was_being_stopped(chunk):
                self.scheduler.withdrawn(chunk, now)
        self.scheduler.taken_back(chunks, now)

    def _shall_run(self, chunk: Any, now: float) -> bool:
        """Whether anybody still wants a chunk that has not started."""
        if type(chunk) is Relay:
            return self.relays.is_wanted(chunk, now)
        return bool(chunk.is_wanted())

    def _was_being_stopped(self, chunk: Any) -> bool:
        """A chunk comes back unrun: whether it is a call that was being cancelled. Then that is its end."""
        stop = self.supervisor.stops.get(chunk.id)
        if stop is None or type(chunk) is not Call:
            return False
        self.supervisor.chunk_ended(chunk)
        self._n_open -= 1
        if chunk.future is not None:
            self._outcomes.append((chunk.future, None, stop.error))
            chunk.future = None
        return True

    def _stop_sent(self, job: MapJob) -> None:
        """A job is over before its end: what was sent of it shall not run, what waits unread is taken back."""
        for worker in self.scheduler.workers.values():
            mine = [chunk for chunk in worker.sent.values() if type(chunk) is MapChunk and chunk.job is job]
            if mine:
                self.engine.revoke(worker.id, [chunk.id for chunk in mine])
                if len(worker.sent) > 1:
                    self.scheduler.actions.append(("take_back", worker.id))

    def _forget_functions(self, worker_id: int, chunks: list[Any]) -> None:
        """What a frame that was taken back brought along has not arrived."""
        handle = self.engine.handles.get(worker_id) if self.functions is not None else None
        if handle is not None:
            for chunk in chunks:
                handle.known.discard(chunk.function.id)

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

    def _read(self, event: FrameArrived) -> tuple[Any, BaseException | None]:
        kind, flags = event.fields[:2]
        body: Body | None = None
        try:
            if kind == frames.REPLIES_OPEN:
                return None, None
            if frames.RESULT <= kind <= frames.RESULTS and not flags and not self.relays.open:  # as most
                return decode(memoryview(event.data)[frames.HEADER_BYTES :]), None
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

    def _name_call(self, event: FrameArrived) -> None:
        """Say which call an answer is of. Without the lock: it runs the arguments' ``__repr__``."""
        worker = self.scheduler.workers.get(event.handle.id)
        chunk = worker.sent.get(event.fields[3]) if worker is not None else None
        if chunk is not None and event.fields[5] == 1:
            event.call = call_of(chunk, event.fields[4])

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

    def _note_end(self, chunk: Any, now: float) -> None:
        """A task with options ended."""
        if chunk.worker_id is None:
            self.supervisor.chunk_ended(chunk)
        if chunk.options.factor is not None:
            self.supervisor.measured(now)

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

    # -- outcomes (under the lock) ------------------------------------------------------------------------------------

    def _tasks_done(self, chunk: Any, start: int, values: list[Any]) -> list[Settlement]:
        self.n_done += len(values)
        if type(chunk) is Call:
            self._n_open -= 1
            future = chunk.future
            chunk.future = None
            chunk.payload = SENT  # its descriptors, if it has any, are closed though the future is kept
            return [(future, values[0], None)] if future is not None else []
        settlements: list[Settlement] = chunk.job.put(start, values)
        self._close_job(chunk.job)
        return settlements

    def _some_done(self, chunk: Any, start: int, results: Sequence[Any], handle: Handle) -> list[Settlement]:
        """:meth:`_tasks_done`, of results that may be :class:`Unreadable`."""
        settlements: list[Settlement] = []
        for index, result in enumerate(results, start):
            if type(result) is Unreadable:
                settlements += self._task_failed(chunk, index, result.error, handle)
            else:
                settlements += self._tasks_done(chunk, index, [result])
        return settlements

    def _task_failed(
        self, chunk: Any, index: int, error: BaseException, handle: Handle | None, call: str | None = None
    ) -> list[Settlement]:
        """``call``: which one it is of, in words, if it could be asked without the lock."""
        if type(chunk) is Relay:
            return self.relays.failed(chunk, index, error, handle)
        if isinstance(error, TaskStopped):  # it came just as the task ended, and its stop was thought to be over
            error = as_told(error)
        options = chunk.options
        if options is not None and options.retries and handle is not None:
            attempt = chunk.attempt
            died = (
                isinstance(error, errors.WorkerDied) and error.pid == handle.pid
            )  # not that of a pool that the task has
            if self.supervisor.tries_again(chunk, index, error, monotonic(), died=died):
                return []
            if attempt > options.retries and died and chunk.only_deaths:
                error.add_note(f"fullcourt: set aside, since it ended its worker on each of {attempt} attempts")
        self.n_failed += 1
        if call is None:
            call = describe_task(chunk, index - chunk.start, plainly=True)
        if type(chunk) is Call:
            annotate(error, call, None, handle, chunk.attempt)
            self._n_open -= 1
            future = chunk.future
            chunk.future = None
            chunk.payload = SENT
            return [(future, None, error)] if future is not None else []
        job = chunk.job
        annotate(error, call, index, handle, chunk.attempt)
        settlements: list[Settlement] = job.fail(index, error, chunk.attempt)
        self._close_job(job)
        return settlements

    def _close_job(self, job: MapJob) -> None:
        if not job.open and job in self._jobs:
            self._jobs.discard(job)
            job.end()
            self._n_open -= 1
            if job.outer is not None:
                self.lending.ended(job.outer)
            if job.stopped_early:
                self.supervisor.withdraw_job(job)
                self._stop_sent(job)

    def _worker_lost(self, event: Lost, now: float) -> list[Settlement]:
        """A worker died, or ended as it was told. What had not started goes elsewhere; what had, fails."""
        handle = event.handle
        settlements: list[Settlement] = []
        if handle.id not in self.scheduler.workers:
            return settlements
        started = self.engine.started(handle)
        n_oom_before, self._n_oom_kills = self._n_oom_kills, n_oom_kills()
        dead = partial(death, event, by_oom_killer=self._n_oom_kills > n_oom_before)
        self.busy_of_lost_s += handle.busy_s
        held: list[Any] = self.scheduler.worker_lost(handle.id, now)
        back: list[Any] = []
        for chunk in held:
            if chunk.id not in started:
                self.supervisor.not_started(chunk)
                if not self._was_being_stopped(chunk):
                    back.append(chunk)
                continue
            phase = self.engine.phase(handle, started[chunk.id])
            if phase == LOADING_FUNCTION and chunk.id not in self.supervisor.stops:  # no task of it had started
                chunk.function.n_fatal_loads += 1
                if chunk.function.n_fatal_loads < MAX_FATAL_LOADS:
                    self.supervisor.not_started(chunk)
                    back.append(chunk)
                    continue
                self.supervisor.chunk_ended(chunk)
                for index in range(chunk.start, chunk.start + chunk.count):
                    error = dead(describe_task(chunk, index - chunk.start, plainly=True))
                    error.add_note("fullcourt: it died while it loaded the function")
                    settlements += self._task_failed(chunk, index, error, handle)
                continue
            if type(chunk) is Relay:
                again, told = self.relays.died(chunk, event.left.get(chunk.id, ()), phase, dead, handle)
                back += again
                settlements += told
                continue
            if type(chunk) is MapChunk and phase == LOADING and chunk.count > 1:  # one of its items does that: find it
                back += self._singles(chunk)
                continue
            if type(chunk) is Call:
                failure = self.supervisor.worker_lost(chunk, 0, dead(describe_task(chunk, 0, plainly=True)))
                if failure is None:
                    back.append(chunk)
                else:
                    settlements += self._task_failed(chunk, 0, failure, handle)
                continue
            left = event.left.get(chunk.id, ())
            settlements += self._some_done(chunk, chunk.start + chunk.done, left, handle)
            culprit = chunk.done + len(left)
            if culprit < chunk.count:
                error = dead(describe_task(chunk, culprit, plainly=True))
                failure = self.supervisor.worker_lost(chunk, chunk.start + culprit, error)
                if failure is None:
                    if chunk.job.open:
                        back.append(chunk.cut(culprit))
                    continue
                settlements += self._task_failed(chunk, chunk.start + culprit, failure, handle)
                if culprit + 1 < chunk.count and chunk.job.open:
                    back.append(chunk.cut(culprit + 1))
        settlements += self.relays.origin_lost(handle, held, now)
        self.scheduler.came_back([chunk for chunk in back if self._shall_run(chunk, now)], now)
        if not handle.ready and not self.scheduler.closing:
            self._n_stillborn += 1
            killed = event.exitcode in (-signal.SIGKILL, -signal.SIGTERM)
            if self._n_stillborn >= (MAX_STILLBORN_KILLED if killed else MAX_STILLBORN):
                last = exit_name(event.exitcode) if handle.failure is None else f"failed: {handle.failure!r}"
                how = f"{self._n_stillborn} workers in a row ended before they were ready; the last {last}."
                # after what it held came back, so that it ends, too
                settlements += self._break(errors.WorkerDied(f"{how} Look at the initializer and at what is imported."))
        return settlements

    def _break(self, error: BaseException) -> list[Settlement]:
        """The pool cannot go on: everything that is open ends with this error."""
        if self._broken is None and not self.closed:
            self._broken = error
        self.closed = True  # first: who enters a call without the lock looks for it afterwards
        settlements = self._fail_all(error)
        if not self.scheduler.closing:
            self.scheduler.closed()
        return settlements

    def _fail_all(self, error: BaseException | None) -> list[Settlement]:
        settlements: list[Settlement] = []
        calls: list[Any] = [call for stream in self._streams.values() for call in stream.drain()]
        while self._inbox:
            calls.append(self._inbox.popleft())
        if self.thread_lane is not None:
            calls += self.thread_lane.take_all()
        others: list[Any] = [*self.scheduler.returned, *self.supervisor.drain()]
        self.scheduler.returned.clear()
        for stream in list(self.scheduler.streams):
            stream.queued = False
        self.scheduler.streams.clear()
        for worker in list(self.scheduler.workers.values()):
            for chunk in list(worker.sent.values()):
                others.append(chunk)
                self.scheduler.withdrawn(chunk, 0.0)
        calls += [chunk for chunk in others if type(chunk) is not MapChunk]
        settlements += self.relays.fail_all([call for call in calls if type(call) is Relay], error)
        for call in calls:
            if type(call) is Call and call.future is not None:
                settlements.append((call.future, None, error))
                call.future = None
        for job in list(self._jobs):
            settlements += job.abort(error)
            job.end()
            if isinstance(job, StreamJob) and job.refill is not None:
                self._deferred.append(job.refill)  # its feeder, which may wait for room, sees that it is over
        self._jobs.clear()
        self._n_open = 0
        return settlements

    def _after_event(self) -> None:
        """Close down when the last work has ended."""
        if self._abandoned_jobs:
            self._abort_abandoned()
        self.supervisor.execute(monotonic())
        if self.closed and not self._n_open and not self.scheduler.closing:
            self.scheduler.closed()
        if self.scheduler.closing and not self.scheduler.workers:
            self._deferred.append(self._finish)

    def _finish(self) -> None:
        if not self.ended.done():
            with self._lock:
                self.supervisor.drain()  # nothing is due any more
            self.timekeeper.look()
            self.engine.close()
            self.ended._settle(None, None)
            self.roles.end()

    def _settle(self, settlements: list[Settlement]) -> None:
        """Tell the users; their callbacks run here, without any lock."""
        if not self._deferred and not self._outcomes:
            if not settlements:
                return
            if len(settlements) == 1 and settlements[0][2] is None and settlements[0][0] is not None:
                settlements[0][0]._settle(settlements[0][1], None)
                if self._deferred or self._outcomes:  # by its callback
                    self._settle([])
                elif self.engine.needs_driving:
                    self.roles.tell()
                return
        # In a queue of the driver's: a callback may wait for another of these, and then hands it out itself.
        self._outcomes.extend(settlements)
        while True:
            try:
                future, result, error = self._outcomes.popleft()
            except IndexError:
                break
            if future is None:
                result()
            elif error is None:
                future._settle(result, None)
            elif isinstance(error, TaskCancelled):
                future._settle_cancelled()
            else:
                future._settle(None, error)
        while True:
            try:
                act = self._deferred.popleft()
            except IndexError:
                break
            act()
        if self.engine.needs_driving:
            self.roles.tell()

    def _hand_out(self, settlements: list[Settlement]) -> None:
        """Settle what came of sending: by whoever leads, since a thread that submits may hold what callbacks want."""
        if settlements:
            self._outcomes.extend(settlements)
            self._have_handed_out()

    def _have_handed_out(self) -> None:
        if not self.engine.needs_driving:
            self._settle([])
        elif not self.roles.leads:  # else its step does so, before it waits
            self.roles.tell()
            self.will_wait_elsewhere()

    def end_at_once(self, future: Future[Any], result: Any, error: BaseException | None) -> None:
        """End a future whose work need not begin. Its callbacks are not for the thread that submits it."""
        if future._on_end is None:
            future._settle(result, error)
        else:
            self._hand_out([(future, result, error)])

    # -- waiting --------------------------------------------------------------------------------------------------

    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait for a future of this pool, driving it if nobody else does. Returns whether it has ended."""
        if future.done():
            return True
        if self.is_foreign():
            raise PoolClosed(self._foreign_message())
        if self._outcomes or self._deferred:
            self._settle([])  # what an outer step of this thread has yet to hand out
        if self.engine.needs_driving:
            if self._inbox:
                self._empty_inbox()
            return self.roles.wait(future, timeout)
        if future is self.ended:
            self.check_waits_for_others()
        self.roles.shield.wait_begins()
        try:
            return wait_aside(future, timeout)
        finally:
            self.roles.shield.wait_ends()

    def check_waits_for_others(self) -> None:
        """Before the pool's end is waited for: this must not be one of the threads that end with it."""
        if not self.engine.needs_driving and self.engine.serves_here():
            raise NotSupported(
                f"{self.name} cannot be joined by one of its own tasks or their callbacks: it would wait for itself. "
                "Close it here, and join it from where it was opened."
            )

    def wait_for_result(self, job: StreamJob, timeout: float | None) -> bool:
        """Wait until a stream has a result or has ended. False: not within so many seconds."""
        waiting: Future[Any] = Future(self)
        with self._lock:
            if job.ready or job.finished or job.stopped:
                return True
            job.waiting.append(waiting)
        if job.refill is not None and not job.exhausted:
            job.refill()  # what was being delivered as its last result was taken may have made the room just now
        try:
            if self.wait(waiting, timeout):
                return True
        except BaseException:  # an interrupt
            with self._lock:
                if waiting in job.waiting:
                    job.waiting.remove(waiting)
                elif job.waiting and job.ready:  # another consumer may have what this one was woken for
                    self._outcomes.append((job.waiting.popleft(), None, None))
            self._settle([])
            raise
        with self._lock:
            if waiting in job.waiting:
                job.waiting.remove(waiting)
        return waiting.done()

    def _step(self, timeout: float | None) -> None:
        """Wait for something to happen, and deal with it. Only the leader calls this."""
        self._since_driven = 0
        if self.scheduler.actions:  # an interrupt left them
            self._perform_shielded()
        if self._inbox:
            self._empty_inbox()
        if self._outcomes:  # of what was just sent, or an interrupt, or a thread that submits, left them
            self._settle([])
            timeout = 0.0  # what is waited for may have been among them
        if self._abandoned and not self.closed:
            self._settle([])
            self.close()
        look_again_at = self.scheduler.look_again_at
        if self._arrived:
            timeout = 0.0  # an interrupt left them
        due = self.supervisor.due if look_again_at is None else min(look_again_at, self.supervisor.due)
        if due < NEVER:
            left = max(0.0, due - monotonic())
            timeout = left if timeout is None else min(timeout, left)
        shield = self.roles.shield
        shield.wait_begins()
        try:
            ready = self.engine.wait(timeout)
        finally:
            shield.wait_ends()
        if self._abandoned and self._deferred:
            self._settle([])  # before what has come makes room for what shall not be run any more
        events = self.engine.collect(ready)
        if (
            len(events) == 1
            and type(events[0]) is FrameArrived
            and events[0].fields[0] < frames.OUTPUT
            and not self._arrived
        ):
            self._handle_frame(events[0])
        else:
            self.handle_events(events)

    def _has_work(self) -> bool:
        is_ending = (self.closed or self._abandoned) and not self.ended.done()
        return self._n_open > 0 or bool(self._inbox or self._outcomes) or is_ending

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

    # -- cancelling and ending -------------------------------------------------------------------------------------

    def fold_in(self) -> None:
        """Have all that is open be the scheduler's: it is to be looked at, or changed."""
        if self._inbox:
            self._empty_inbox()
        if self.thread_lane is not None and self.thread_lane.open:
            with self.roles.shield:
                with self._lock:
                    self.thread_lane.fold(monotonic())
                self._perform_held()

    def is_running(self, future: Future[Any]) -> bool:
        """Whether a worker has begun a future's task."""
        self.fold_in()
        work = future.work
        worker_id = work.worker_id if isinstance(work, Call) else None
        handle = None if worker_id is None else self.engine.handles.get(worker_id)
        return handle is not None and work.id in self.engine.started(handle)

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

    def _cancel_job(self, job: MapJob) -> None:
        with self._lock:
            settlements = job.abort(TaskCancelled("cancelled"))
            self._close_job(job)
        self._perform()  # first take back what waits unread: else it begins when what runs is stopped
        with self._lock:
            self._stop_sent_items(job)
            self._after_event()
        self._perform()
        self._look_at_clock()
        self._settle(settlements)

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

    def _stop_sent_items(self, job: MapJob) -> None:
        """Stop what workers have of a map that was cancelled: it runs, or is about to."""
        now = monotonic()
        for worker in list(self.scheduler.workers.values()):
            for chunk in list(worker.sent.values()):
                if type(chunk) is MapChunk and chunk.job is job:
                    self.supervisor.cancel(chunk, now)

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

    def close(self) -> None:
        """Take no more work; end the workers when all is done. Does not wait."""
        if self.is_foreign():
            return  # a forked child leaves its parent's pool alone
        with self.roles.shield:
            with self._lock:
                if self.closed:
                    return
                self.closed = True
                self._take_inbox(monotonic())
            with self._lock:  # who uses the lane looks for that word after it has entered a call
                if self.thread_lane is not None:
                    self.thread_lane.fold(monotonic())
                self._after_event()
            self._perform_held()
            if not self.ended.done():
                self.will_wait_elsewhere()
        self._perform()
        self._settle([])

    def terminate(self) -> None:
        """Cancel all that is open and end the workers now. Does not wait."""
        if self.is_foreign():
            return
        with self.roles.shield:  # half of this would leave a pool that nobody can end
            with self._lock:
                if self._terminated:
                    return
                self._terminated = True
                self.closed = True
                self._outcomes.extend(self._fail_all(TaskCancelled("the pool was terminated")))
                self.scheduler.closing = True
                self.scheduler.actions.clear()
                self._forget_unstarted()
            self.engine.end()
            with self._lock:
                self._after_event()
            self._settle([])
            if not self.ended.done():
                self.will_wait_elsewhere()

    def statistics(self) -> dict[str, Any]:
        """Take a snapshot; see :func:`take_statistics`. Waits until the workers that are being started have pids."""
        if self.is_foreign():
            raise PoolClosed(self._foreign_message())
        until = monotonic() + 5.0
        while self.engine.needs_driving and not self.closed and monotonic() < until:
            if all(handle.pid is not None for handle in list(self.engine.handles.values())):
                break
            if not self.roles.try_step(0.1):
                wait_aside(Future(), 0.01)
        with self._lock:
            if self.thread_lane is not None:
                self.thread_lane.settle_tallies()
            return take_statistics(self, monotonic())

    def n_unfinished(self) -> int:
        """How many tasks were submitted (or read from an input) and have not ended. Under the lock."""
        scheduler = self.scheduler
        waiting = sum(stream.n_live for stream in self._streams.values())
        returned = sum(chunk.count - chunk.done for chunk in scheduler.returned)
        returned += sum(stream.available() for stream in scheduler.streams if type(stream) is Rest)
        returned += self.supervisor.n_waiting()
        waiting += len(self._inbox) + (len(self.thread_lane.open) if self.thread_lane is not None else 0)
        return scheduler.n_sent_tasks + waiting + returned + sum(job.available() for job in self._jobs)

    def abandon(self, error: BaseException | None = None) -> None:
        """Nobody holds the pool any more. Called by the garbage collector: takes no lock that another may hold.

        With an error, what has not started ends with it; else all that was submitted is done.
        """
        if self.is_foreign():
            return
        self._abandoned = True
        if error is not None:
            self._deferred.append(partial(self.end_unstarted, error))
        if self.engine.needs_driving:
            self.roles.ring()
        else:
            self.engine.call_soon(self.close)  # by a slot's thread: closing takes the lock


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


def runs_event_loop() -> bool:
    """Whether this thread is in the midst of an asyncio event loop."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None
