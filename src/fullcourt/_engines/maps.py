"""The driver, maps: their begin, their input, their results, and their end."""

from __future__ import annotations

from time import monotonic
from typing import Any

from fullcourt._engines.arrivals import Arrivals
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import MapChunk, MapJob, StreamJob
from fullcourt.errors import PoolClosed, TaskCancelled

__all__ = ["TINY_S", "Maps"]

# Below this a task is not worth a frame of its own; so long its item may wait for company.
TINY_S = 0.0001
HOLD_S = 0.001


class Maps(Arrivals):
    """The part of the driver that serves maps."""

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

    # -- The end of one -----------------------------------------------------------------------------------------------

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

    def _stop_sent_items(self, job: MapJob) -> None:
        """Stop what workers have of a map that was cancelled: it runs, or is about to."""
        now = monotonic()
        for worker in list(self.scheduler.workers.values()):
            for chunk in list(worker.sent.values()):
                if type(chunk) is MapChunk and chunk.job is job:
                    self.supervisor.cancel(chunk, now)

    def stop_job(self, job: StreamJob) -> None:
        """A job's iterator was closed, perhaps while another thread waits for its next result. May wait for a lock."""
        self.abandon_job(job)
        if self.is_foreign():
            return
        with self.roles.shield, self._lock:
            self._after_event()
        self._perform()
        self._settle([])

    def abandon_job(self, job: StreamJob) -> None:
        """Nobody will take this job's results. Called by the garbage collector: never waits for a lock."""
        self._abandoned_jobs.append(job)
        if self._lock.acquire(blocking=False):
            try:
                self._abort_abandoned()
                self._after_event()
            finally:
                self._lock.release()

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
