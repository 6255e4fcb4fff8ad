"""The driver, what becomes of tasks: how one ends, and with it its future; a worker's loss; the pool's breakdown.

Under the lock it is noted how a task ended, which gives *settlements*: a future, and its result or its error. They are
handed out afterwards, without the lock, since callbacks run then.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from functools import partial
from time import monotonic
from typing import Any

from fullcourt import errors
from fullcourt._engines.accounts import annotate, death, describe_task
from fullcourt._engines.driver_base import DriverBase
from fullcourt._engines.future import Future, settle_plain
from fullcourt._engines.jobs import SENT, Call, MapChunk, MapJob, Settlement, StreamJob
from fullcourt._engines.linked import Handle, Lost
from fullcourt._engines.nested import Relay
from fullcourt._engines.supervisor import as_told
from fullcourt._os.system import n_oom_kills
from fullcourt._transport.journal import LOADING, LOADING_FUNCTION, Unreadable
from fullcourt.errors import TaskCancelled, TaskStopped, exit_name

__all__ = ["Outcomes"]

# So many workers in a row that end before they are ready mean that none ever will be; more of them where somebody
# else may have killed them, and a later one may be spared.
MAX_STILLBORN = 4
# So many workers in a row may end while they load a function, before it counts as deadly.
MAX_FATAL_LOADS = 3
MAX_STILLBORN_KILLED = 20


class Outcomes(DriverBase):
    """The part of the driver that ends tasks. What is not said to be without the lock is under it."""

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
        while (settlement := settle_plain(self._outcomes)) is not None:
            future, result, error = settlement
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

    # -- Of tasks (under the lock) ------------------------------------------------------------------------------------

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

    def _abort_abandoned(self) -> None:
        while self._abandoned_jobs:
            job = self._abandoned_jobs.pop()
            report, job.report = job.report, None  # nobody looks any more
            self._outcomes.extend(job.abort(None))
            job.report = report
            self._close_job(job)
            if job.queued:
                self.scheduler.streams.remove(job)
                job.queued = False

    def _stop_sent(self, job: MapJob) -> None:
        """A job is over before its end: what was sent of it shall not run, what waits unread is taken back."""
        for worker in self.scheduler.workers.values():
            mine = [chunk for chunk in worker.sent.values() if type(chunk) is MapChunk and chunk.job is job]
            if mine:
                self.engine.revoke(worker.id, [chunk.id for chunk in mine])
                if len(worker.sent) > 1:
                    self.scheduler.actions.append(("take_back", worker.id))

    # -- Of workers (under the lock) ----------------------------------------------------------------------------------

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
                chunk.function.n_fatal_loads += not self.supervisor.frees(chunk)
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

    def _singles(self, chunk: MapChunk) -> list[Any]:
        return [MapChunk(chunk.job, self.new_id(), chunk.start + i, [item]) for i, item in enumerate(chunk.items)]

    # -- Of the pool (under the lock) ---------------------------------------------------------------------------------

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
            self.sleepers.close()
            self.let_go()
            self.ended._settle(None, None)
            self.roles.end()

    def let_go(self) -> None:
        """Hold nothing of the program's any more: the pool, or the interpreter, ends.

        Its functions hold the globals of ``__main__``: as long as anything of the pool's holds one of these, Python
        does not clear them at its end, and a file among them keeps in its buffer what was written.
        """
        if self.functions is not None:
            self.functions.let_go()
            self.engine.codec.let_go()
        self._estimates.clear()
        self.engine.let_go()
