"""Looks after tasks that have more asked of them than to run: time limits, stopping, retries, memory.

Everything here happens under the driver's lock, at events or when the moment ``due`` has come; nothing polls, except
memory, which can only be looked at, and is while tasks run that have a limit. Tasks without options cost nothing.

How a running task is stopped (a *stop*), each step after `grace` seconds if the one before did not end it::

    soft    an exception in the task, see fullcourt._os.soft_stop; a result that the task then gives still counts
    TERM    SIGTERM to its worker
    kill    SIGKILL to its worker and all that this has started; the worker is replaced

A worker with several slots is not killed for one of them. Its stuck slot is *abandoned*: the future ends, the worker
gets no new tasks and is replaced, and is killed when its other tasks have ended. So it is with sub-interpreters and
threads, except that these cannot be killed: what is abandoned there runs on, and is counted.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any

from fullcourt._core.model import Worker
from fullcourt._core.options import DEFAULT_GRACE_S
from fullcourt._engines.accounts import describe_task
from fullcourt._engines.jobs import Call, MapChunk, MapJob, Settlement
from fullcourt._os.soft_stop import STOP_SIGNAL
from fullcourt._os.system import descendants, is_stopped, kill_tree, private_bytes, resident_bytes, started_at
from fullcourt._transport.journal import ANY, CANCELLED, token
from fullcourt.errors import (
    StoppedByCancel,
    StoppedByTimeout,
    TaskCancelled,
    TaskMemoryExceeded,
    TaskStopped,
    TaskTimeout,
)

__all__ = ["Limits", "Supervisor"]

ALONE_S = 1.0  # see `_run_alone`
NEVER = float("inf")
LOOK_AT_MEMORY_S = 0.02  # how often, while there is a limit
RECYCLE_S = 0.25  # how often workers' size and age are looked at, while there is work
CALM = 0.8  # of the pool's memory limit: below it, tasks start again
PRESSED = 0.9  # above it, none start
UNBEGUN_S = 0.05  # how often one looks whether a task that is to be stopped has begun
ASK_AGAIN_S = 0.01  # a task that does not end is asked again so soon, and then each time after twice as long
SLACK_S = 0.03  # a process's start is known to a hundredth of a second
SOFT, TERM, KILL = 0, 1, 2


@dataclass(slots=True)
class Watch:
    """A chunk that was sent and is looked after."""

    chunk: Any
    worker_id: int
    due: float


@dataclass(slots=True)
class Stop:
    """A task that is being stopped. ``offset``: in its chunk; None: whichever of the chunk runs."""

    chunk: Any
    worker_id: int
    offset: int | None
    error: BaseException
    grace: float
    due: float
    stage: int = SOFT
    is_alone: bool = False  # whether its worker was rid of what it had not begun
    told: bool = False  # whether the task was asked softly: it had begun
    until: float = 0.0  # and how long that is tried
    again_s: float = ASK_AGAIN_S  # when it is asked once more
    below: set[tuple[int, float]] = field(default_factory=set)  # processes that it had started: pid, start

    def kill_below(self) -> None:
        """End what the task had started and left running."""
        for pid, since in self.below:
            if started_at(pid) == since:
                kill_tree(pid)


@dataclass(slots=True)
class Limits:
    """What a pool's workers may take. None: no limit."""

    memory: int | None = None  # of all workers together, in bytes
    memory_per_child: int | None = None
    age_per_child: float | None = None


class Supervisor:
    """One pool's. All methods are called under the driver's lock."""

    def __init__(self, driver: Any, limits: Limits) -> None:
        self._driver = driver
        self._engine = driver.engine
        self._scheduler = driver.scheduler
        self.limits = limits
        self._watches: dict[int, Watch] = {}  # by chunk id
        self.stops: dict[int, Stop] = {}  # by chunk id
        self._answers: dict[tuple[int, int], Stop] = {}  # what has ended, by chunk id and index, until its answer comes
        self._later: list[tuple[float, int, Any]] = []  # a heap of retries: when, order, chunk
        self._order = itertools.count()
        self.condemned: set[int] = set()  # workers with an abandoned slot
        self._requeue: set[int] = set()  # chunks whose worker is killed to free memory: they run again
        self._look_at_pool: float = NEVER
        # After a worker was killed to free memory, one task runs at a time: until as many have ended, or until then.
        self._alone_n = 0
        self._alone_until = 0.0
        self._alone_s = ALONE_S
        self.n_retried = 0
        self.n_abandoned = 0
        self.due: float = NEVER  # when time_passed is to be called next

    # -- what happens ----------------------------------------------------------------------------------------------

    def work_came(self, now: float) -> None:
        """There is work, where there was none: limits of the whole pool are looked at from now on."""
        limits = self.limits
        if self._look_at_pool < NEVER:
            return  # also where work comes and goes, the moment comes
        if limits.memory is not None:
            self._look_at_pool = now
        elif limits.memory_per_child is not None or limits.age_per_child is not None:
            self._look_at_pool = now + RECYCLE_S
        self.due = min(self.due, self._look_at_pool)

    def sent(self, chunk: Any, worker_id: int, now: float) -> None:
        """A chunk with options that ask for it was sent."""
        watch = Watch(chunk, worker_id, NEVER)
        if chunk.worker_id == worker_id:
            self._watches[chunk.id] = watch
            watch.due = self._next_look(watch, now)
            self.due = min(self.due, watch.due)

    def measured(self, now: float) -> None:
        """A task ended whose kind has a limit by the median: others may have one only now."""
        for watch in self._watches.values():
            if watch.due == NEVER:
                self.due = watch.due = now

    def time_passed(self, now: float) -> list[Settlement]:
        """The moment ``due`` has come."""
        settlements: list[Settlement] = []
        back: list[Any] = []
        while self._later and self._later[0][0] <= now:
            chunk = heapq.heappop(self._later)[2]
            back.append(chunk)
        if back:
            self._scheduler.came_back(back, now)
        for watch in list(self._watches.values()):
            if watch.due <= now:
                settlements += self._look(watch, now)
        for stop in list(self.stops.values()):
            if stop.due <= now:
                settlements += self._escalate(stop, now)
        if self._look_at_pool <= now:
            settlements += self._look_at_workers(now)
        self._set_due()
        return settlements

    def waits_for_answers(self) -> bool:
        """Whether something is being stopped: then :meth:`task_answered` is to hear of every answer."""
        return bool(self.stops or self._answers)

    def task_answered(self, chunk: Any, index: int, problem: BaseException | None) -> BaseException | None:
        """A task of a chunk that was being stopped has ended. Returns what it failed with; None: it has a result."""
        stop = self._answers.pop((chunk.id, index), None) or self.stops.get(chunk.id)
        if stop is None or (stop.offset is not None and chunk.start + stop.offset != index):
            return problem
        if stop.offset is None and problem is None and index < chunk.start + chunk.count - 1:
            return None  # an item that had ended before; the stop is for what of the chunk still runs
        if isinstance(stop.error, TaskMemoryExceeded):
            return problem  # its own: what the worker dies of is told by its death
        if self.stops.get(chunk.id) is stop:
            self._forget(stop)
        stop.kill_below()
        if problem is None:
            return None
        stop.error.__cause__ = problem.__cause__ if isinstance(problem, TaskStopped) else problem
        return stop.error

    def worker_lost(self, chunk: Any, index: int, error: BaseException) -> BaseException | None:
        """The worker of a task that had started died. Returns what the task failed with; None: it runs again."""
        self._watches.pop(chunk.id, None)
        if chunk.id in self._requeue:
            self._requeue.discard(chunk.id)
            return None
        stop = self.stops.get(chunk.id)
        if stop is None or (stop.offset is not None and chunk.start + stop.offset != index):
            return error
        self._forget(stop)
        stop.kill_below()  # of a worker that was killed as a tree nothing is left; SIGTERM reaches none but itself
        if not has_killed(stop, error):
            error.add_note(f"fullcourt: it died by itself just when it was to be stopped: {stop.error}")
            return error
        return named(stop.error, chunk, index)

    def not_started(self, chunk: Any) -> None:
        """The worker died to which a chunk was sent, before any task of it began: it goes elsewhere."""
        self._watches.pop(chunk.id, None)
        self._requeue.discard(chunk.id)  # else a later death would have it run again after it had started

    def frees(self, chunk: Any) -> bool:
        """Whether the worker of a chunk was killed to free memory: then nothing is known against the chunk."""
        return chunk.id in self._requeue

    def chunk_ended(self, chunk: Any) -> None:
        """All of a chunk has ended, or was given up."""
        self._watches.pop(chunk.id, None)
        self.stops.pop(chunk.id, None)  # `due` stays: at worst one looks once for nothing
        for key in [key for key in self._answers if key[0] == chunk.id]:
            del self._answers[key]

    # -- retries ---------------------------------------------------------------------------------------------------

    def tries_again(self, chunk: Any, index: int, error: BaseException, now: float, *, died: bool) -> bool:
        """Whether a task that failed is to run again; then it is taken care of. ``died``: it has ended its worker."""
        options = chunk.options
        if (
            options is None
            or chunk.attempt > options.retries
            or isinstance(error, TaskCancelled)
            or not isinstance(error, options.retry_on)
        ):
            return False
        driver = self._driver
        again: Any
        if type(chunk) is Call:
            if chunk.future is None:
                return False
            again = chunk
            again.id = driver.new_id()  # the worker may get it again: it must not look as if it had started there
            again.attempt += 1
            again.done = 0
        else:
            if not chunk.job.open:
                return False
            item = chunk.items[index - chunk.start]
            again = MapChunk(chunk.job, driver.new_id(), index, [item], chunk.attempt + 1)
        again.only_deaths = chunk.only_deaths and died
        self.n_retried += 1
        delay = options.delay_s(again.attempt - 1, random.random())
        heapq.heappush(self._later, (now + delay, next(self._order), again))
        self.due = min(self.due, now + delay)
        return True

    def withdraw(self, call: Call) -> bool:
        """A call is cancelled: whether it was waiting here for its next attempt."""
        for entry in self._later:
            if entry[2] is call:
                self._later.remove(entry)
                heapq.heapify(self._later)
                return True
        return False

    def withdraw_job(self, job: MapJob) -> None:
        """A map is over before its end: what of it waits here for its next attempt shall not run."""
        kept = [entry for entry in self._later if type(entry[2]) is Call or entry[2].job is not job]
        if len(kept) < len(self._later):
            self._later = kept
            heapq.heapify(kept)
            self._set_due()

    def n_waiting(self) -> int:
        """How many tasks wait for their next attempt."""
        return sum(chunk.count for _, _, chunk in self._later)

    def drain(self) -> list[Any]:
        """Take all that waits here: the pool ends."""
        chunks = [entry[2] for entry in self._later]
        self._later.clear()
        self._watches.clear()
        self.stops.clear()
        self._answers.clear()
        self._look_at_pool = NEVER
        self._set_due()
        return chunks

    # -- stopping --------------------------------------------------------------------------------------------------

    def cancel(self, chunk: Any, now: float) -> bool:
        """Stop whatever of a chunk runs. False: it cannot be stopped here."""
        if not self._engine.can_stop or chunk.worker_id is None:
            return False
        if chunk.id not in self.stops:
            grace = chunk.options.grace if chunk.options is not None else DEFAULT_GRACE_S
            self._begin(chunk, None, TaskCancelled("cancelled while it ran, and stopped"), now, grace)
        return True

    def _begin(
        self, chunk: Any, offset: int | None, error: BaseException, now: float, grace: float, stage: int = SOFT
    ) -> list[Settlement]:
        stop = Stop(chunk, chunk.worker_id, offset, error, grace, now, stage)
        self.stops[chunk.id] = stop
        if stage != SOFT:
            return self._escalate(stop, now)
        if self._engine.abandons_at_once:
            return self._abandon(stop, now)
        handle = self._engine.handles.get(stop.worker_id)
        if handle is None:
            return []
        if self._engine.started_by(stop.worker_id, chunk.id):
            self._ask(stop, now)
        else:
            stop.due = now + UNBEGUN_S
        self.due = min(self.due, stop.due)
        return []

    def _ask(self, stop: Stop, now: float) -> None:
        """Have an exception raised in the task: once, however often this is called.

        Where it would be lost, in the midst of the collection of an object, none is raised, and this has to come again.
        """
        chunk = stop.chunk
        where = 0 if type(chunk) is Call else ANY if stop.offset is None else stop.offset
        word = token(chunk.id, where)
        if isinstance(stop.error, TaskCancelled):
            word |= CANCELLED
        if not stop.told:
            stop.told = True
            stop.until = now + stop.grace
        stop.due = min(now + stop.again_s, stop.until)
        stop.again_s *= 2
        self._look_below(stop)
        self._engine.interrupt(stop.worker_id, chunk.id, word)

    def _look_below(self, stop: Stop) -> None:
        """Note what the task, which runs, has started so far."""
        handle = self._engine.handles.get(stop.worker_id)
        if handle is not None and handle.pid != os.getpid() and self._engine.n_slots == 1:  # else: another task's?
            stop.below.update(processes_since(handle.pid, self._since(stop.chunk)))

    def _since(self, chunk: Any) -> float:
        running = self._engine.running(chunk.worker_id, chunk.id)
        return running[1] if running is not None else perf_counter()

    def _escalate(self, stop: Stop, now: float) -> list[Settlement]:
        """What was tried did not end the task: go on with what is harder."""
        chunk, engine = stop.chunk, self._engine
        worker = self._scheduler.workers.get(stop.worker_id)
        if worker is None or chunk.id not in worker.sent:
            self._forget(stop)
            return []
        if stop.offset is not None and type(chunk) is not Call and stop.stage < KILL:
            running = engine.running(stop.worker_id, chunk.id)
            if running is None or running[0] != stop.offset:
                self._forget(stop)  # so that others of the chunk are looked after
                self._answers[chunk.id, chunk.start + stop.offset] = stop
                return []
        if not engine.started_by(stop.worker_id, chunk.id):
            # When it was looked for it was on its way, in another thread's hands: it is taken back now, or begins.
            if self._scheduler.may_take_back:
                self._scheduler.actions.append(("take_back", stop.worker_id))
            stop.due = now + UNBEGUN_S
            return []
        if stop.stage == SOFT and stop.grace > 0 and (not stop.told or now < stop.until):
            self._ask(stop, now)
            return []
        if engine.n_slots > 1 or not engine.can_kill:
            return self._abandon(stop, now)
        if not self._is_alone(stop, worker, now):
            stop.due = now + UNBEGUN_S
            return []
        if stop.stage == SOFT and stop.grace > 0:
            stop.stage = TERM
            self._look_below(stop)
            engine.signal(stop.worker_id, signal.SIGTERM)
            stop.due = now + stop.grace
        else:
            stop.stage = KILL
            engine.kill(stop.worker_id)
            stop.due = now + 1.0  # a process in an uninterruptible wait dies late
        return []

    def _is_alone(self, stop: Stop, worker: Worker, now: float) -> bool:
        """Before a worker is killed: have what lies unread in its link go elsewhere.

        Else the task might end, and another begin and be killed in its place. False: something that the worker was
        sent is not there, so it may be just about to begin; if the task still runs a moment later, it was not.
        """
        if stop.is_alone or not self._scheduler.may_take_back or not self._engine.takes_back_at_once:
            return True
        stop.is_alone = True
        self._scheduler.worker_orphaned(worker.id, now)  # else it would be sent there again
        if len(worker.sent) > 1:
            self._driver._taken_back(worker.id, self._engine.take_back(worker.id), now)
        return len(worker.sent) <= 1

    def _abandon(self, stop: Stop, now: float) -> list[Settlement]:
        """The task's future ends though the task does not."""
        chunk = stop.chunk
        self._forget(stop)
        handle = self._engine.handles.get(stop.worker_id)
        kind = StoppedByCancel if isinstance(stop.error, TaskCancelled) else StoppedByTimeout
        if not self._engine.abandon(stop.worker_id, chunk.id, kind):
            return []  # it has just ended
        self.n_abandoned += 1
        where = "its worker is replaced, and ends with its other tasks" if self._engine.can_kill else "it runs on"
        stop.error.add_note(f"fullcourt: the task could not be stopped softly, and was abandoned: {where}")
        self._watches.pop(chunk.id, None)
        self._scheduler.withdrawn(chunk, now)
        if self._engine.codec is not None:
            self._scheduler.worker_orphaned(stop.worker_id, now)
            if self._scheduler.may_take_back:  # the worker may never come to what it has not begun
                self._scheduler.actions.append(("take_back", stop.worker_id))
            self.condemned.add(stop.worker_id)
        error = named(stop.error, chunk, chunk.start)
        settlements: list[Settlement] = self._driver._task_failed(chunk, chunk.start, error, handle)
        self.execute(now)
        return settlements

    def execute(self, now: float) -> None:
        """Kill the condemned workers whose other tasks have ended."""
        for worker_id in list(self.condemned):
            worker = self._scheduler.workers.get(worker_id)
            if worker is None:
                self.condemned.discard(worker_id)
            elif not worker.sent:
                self.condemned.discard(worker_id)
                if not self._engine.kill(worker_id):  # it lives on in this process, but is the pool's no more
                    self._scheduler.worker_lost(worker_id, now)

    def _forget(self, stop: Stop) -> None:
        self.stops.pop(stop.chunk.id, None)
        watch = self._watches.get(stop.chunk.id)
        if watch is not None:
            watch.due = monotonic()
            self.due = min(self.due, watch.due)

    # -- time limits and memory of a task --------------------------------------------------------------------------

    def _next_look(self, watch: Watch, now: float) -> float:
        options = watch.chunk.options
        limit = options.limit_s(watch.chunk.estimate.durations)
        due = NEVER if limit is None else now + limit
        return min(due, now + LOOK_AT_MEMORY_S) if options.max_memory is not None else due

    def _look(self, watch: Watch, now: float) -> list[Settlement]:
        chunk, options = watch.chunk, watch.chunk.options
        if chunk.worker_id != watch.worker_id:
            self._watches.pop(chunk.id, None)
            return []
        if chunk.id in self.stops:
            watch.due = NEVER  # until that is over
            return []
        watch.due = self._next_look(watch, now)
        running = self._engine.running(watch.worker_id, chunk.id)
        if options.max_memory is not None and (running is not None or not options.is_timed):
            taken = self._memory_of(watch.worker_id, options.max_memory)
            if taken > options.max_memory and self._engine.started_by(watch.worker_id, chunk.id):
                too_much = TaskMemoryExceeded(
                    f"was stopped: its worker had {taken / 2**20:.0f} MiB resident, "
                    f"and {options.max_memory / 2**20:.0f} MiB are allowed (max_memory=)"
                )
                return self._begin(chunk, None, too_much, now, 0.0, KILL)
        limit = options.limit_s(chunk.estimate.durations)
        if limit is None:
            return []
        if running is None:
            self._leave_stopped(watch, now)
            return []
        offset, since = running
        ran_s = perf_counter() - since
        if ran_s < limit:
            watch.due = min(watch.due, now + limit - ran_s)
            return []
        told = f"{limit:g} s" if options.factor is None else f"{limit:.3g} s ({options.factor:g} times the median)"
        error = TaskTimeout(
            f"{describe_task(chunk, offset, plainly=True)} was stopped: it ran longer than its timeout of {told}"
        )
        return self._begin(chunk, offset, error, now, options.grace)

    def _leave_stopped(self, watch: Watch, now: float) -> None:
        """A task has not begun: if somebody has stopped its worker (SIGSTOP), it may never. Have it go elsewhere."""
        handle = self._engine.handles.get(watch.worker_id)
        worker = self._scheduler.workers.get(watch.worker_id)
        if handle is None or worker is None or handle.pid is None or not is_stopped(handle.pid):
            return
        begun = self._engine.started(handle)
        if watch.chunk.id in begun:
            return
        self._scheduler.worker_orphaned(worker.id, now)
        if self._engine.takes_back_at_once:
            self._driver._taken_back(worker.id, self._engine.take_back(worker.id), now)
        if any(chunk_id in begun for chunk_id in worker.sent):
            self.condemned.add(worker.id)
        else:  # what it still has, it has read and not begun: so it goes elsewhere, too
            self._engine.kill(worker.id)

    def _memory_of(self, worker_id: int, enough: float) -> int:
        """What a worker and all below it take; exactly, if that may be more than enough."""
        handle = self._engine.handles.get(worker_id)
        if handle is None or handle.pid is None:
            return 0
        pids = [handle.pid, *descendants(handle.pid)]
        taken = sum(map(resident_bytes, pids))
        return taken if taken <= enough else sum(map(private_bytes, pids))

    # -- the pool's memory, and worn-out workers -------------------------------------------------------------------

    def _look_at_workers(self, now: float) -> list[Settlement]:
        limits, scheduler = self.limits, self._scheduler
        if not self._driver._n_open:
            self._look_at_pool = NEVER  # until work comes
            return []
        self._look_at_pool = now + (LOOK_AT_MEMORY_S if limits.memory is not None else RECYCLE_S)
        enough = limits.memory_per_child or 0.0
        if limits.memory is not None:
            enough = min(enough or NEVER, CALM * limits.memory / max(1, len(scheduler.workers)))
        sizes = {worker_id: self._memory_of(worker_id, enough) for worker_id in list(scheduler.workers)}
        if limits.memory is not None and sum(sizes.values()) > CALM * limits.memory:
            # Those that are small were taken with what they share with the program and with each other.
            sizes = {worker_id: self._memory_of(worker_id, 0.0) for worker_id in sizes}
        for worker_id, worker in list(scheduler.workers.items()):
            handle = self._engine.handles.get(worker_id)
            if handle is None or worker.stopping or not handle.ready:
                continue
            too_big = limits.memory_per_child is not None and sizes[worker_id] > limits.memory_per_child
            too_old = limits.age_per_child is not None and now - handle.started_at > limits.age_per_child
            if too_big or too_old:
                scheduler.worker_orphaned(worker_id, now)
        if limits.memory is None:
            return []
        total = sum(sizes.values())
        if total > PRESSED * limits.memory:
            scheduler.pressure_changed(True, now)
        elif total < CALM * limits.memory and (now >= self._alone_until or self._n_ended() >= self._alone_n):
            scheduler.pressure_changed(False, now)
        return self._relieve(sizes, total, limits.memory, now) if total > limits.memory else []

    def _relieve(self, sizes: dict[int, int], total: int, limit: int, now: float) -> list[Settlement]:
        """Too much memory is taken: kill the worker whose task is the youngest, and have that task run again later.

        One that runs alone is not to answer for what idle workers keep, nor for what its own worker kept of others:
        those are replaced first, and it fails only in a worker that has run nothing else.
        """
        started: list[tuple[float, Any]] = []
        for worker in self._scheduler.workers.values():
            for chunk in worker.sent.values():
                if chunk.id in self.stops or chunk.id in self._requeue:
                    return []  # one is being stopped already: wait for what that brings
                running = self._engine.running(worker.id, chunk.id)
                if running is not None:
                    started.append((running[1], chunk))
                elif self._engine.started_by(worker.id, chunk.id):
                    started.append((worker.holding_since, chunk))
        if not started:
            return []
        chunk = max(started, key=lambda entry: entry[0])[1]
        own = sizes.get(chunk.worker_id, 0)
        if len(started) == 1 and own <= limit and self._release_idle(now):
            return []
        handle = self._engine.handles.get(chunk.worker_id)
        if len(started) > 1 or (handle is not None and handle.n_done):
            for other in list(self._scheduler.workers[chunk.worker_id].sent.values()):
                self._requeue.add(other.id)
            self._run_alone(now)
            self._engine.kill(chunk.worker_id)
            return []
        error = TaskMemoryExceeded(
            f"was stopped: alone, its worker took {own / 2**20:.0f} MiB, with idle ones "
            f"{total / 2**20:.0f} MiB, and the whole pool may take {limit / 2**20:.0f} MiB (memory_limit=)"
        )
        return self._begin(chunk, None, error, now, 0.0, KILL)

    def _run_alone(self, now: float) -> None:
        """What is killed would begin again at once, and together: where a worker has several slots, for ever.

        The time is limited, since the one that runs might wait for one that does not; and doubled each time, so that a
        task of any length comes to its end.
        """
        self._alone_s = 2 * self._alone_s if now < self._alone_until + 4 * self._alone_s else ALONE_S
        self._alone_until = now + self._alone_s
        self._alone_n = self._n_ended() + 1
        self._scheduler.pressure_changed(True, now)

    def _n_ended(self) -> int:
        return int(self._driver.n_done + self._driver.n_failed)

    def _release_idle(self, now: float) -> bool:
        """Have workers end that hold nothing and have run tasks. Returns whether any is to end, and its memory free."""
        found = False
        for worker_id, worker in list(self._scheduler.workers.items()):
            handle = self._engine.handles.get(worker_id)
            if worker.sent or handle is None:
                continue
            if not worker.stopping and handle.n_done:
                self._scheduler.worker_orphaned(worker_id, now)
            found = found or worker.stopping
        return found

    def _set_due(self) -> None:
        due = self._look_at_pool
        if self._later:
            due = min(due, self._later[0][0])
        for watch in self._watches.values():
            due = min(due, watch.due)
        for stop in self.stops.values():
            due = min(due, stop.due)
        self.due = due


def has_killed(stop: Stop, death: BaseException) -> bool:
    """Whether a stop is what a worker has died of, for all that is known. A cancelled task is cancelled in either way.

    Of being asked softly it dies only where the task has taken the signal's handler away. At SIGTERM, it may do what it
    wants.
    """
    exitcode = getattr(death, "exitcode", None)
    if isinstance(stop.error, TaskCancelled) or exitcode is None or sys.platform == "win32":
        return True
    if stop.stage != SOFT and stop.grace > 0:
        return True
    return exitcode == -STOP_SIGNAL or (stop.stage == KILL and exitcode == -signal.SIGKILL)


def as_told(stopped: TaskStopped) -> BaseException:
    """What is told to who waits for a task that was stopped."""
    error = (TaskCancelled if isinstance(stopped, StoppedByCancel) else TaskTimeout)("the task was stopped")
    error.__cause__ = stopped.__cause__
    return error


def named(error: BaseException, chunk: Any, index: int) -> BaseException:
    """What stopped a task: with its name if the worker was killed, whatever it ran, for only now that is known."""
    if isinstance(error, TaskMemoryExceeded):
        error.args = (f"{describe_task(chunk, index - chunk.start, plainly=True)} {error}",)
    return error


def processes_since(pid: int | None, since: float) -> list[tuple[int, float]]:
    """The processes below one that were started since then (seconds of ``perf_counter``), with their starts."""
    if pid is None:
        return []
    boot = _boot_clock() - perf_counter()
    found: list[tuple[int, float]] = []
    for child in descendants(pid):
        start = started_at(child)
        if start is not None and start >= since + boot - SLACK_S:
            found.append((child, start))
    return found


def _boot_clock() -> float:
    """Seconds since the system's boot, as /proc counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else 0.0
