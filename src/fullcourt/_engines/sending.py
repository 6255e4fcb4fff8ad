"""The driver, what the scheduler decided: workers are started and stopped, chunks are sent and taken back.

Also what is due at a certain time, since that leads to such decisions too.
"""

from __future__ import annotations

import errno
from time import monotonic, perf_counter
from typing import Any

from fullcourt import errors
from fullcourt._core.scheduler import Action
from fullcourt._engines.future import Future
from fullcourt._engines.jobs import Call, CallStream, Settlement
from fullcourt._engines.nested import Relay
from fullcourt._engines.outcomes import Outcomes
from fullcourt._engines.roles import wait_aside
from fullcourt._engines.supervisor import NEVER
from fullcourt.errors import PicklingError

__all__ = ["Sending"]


class Sending(Outcomes):
    """The part of the driver that has the engine do what the scheduler decided."""

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
        if self._outcomes or self._deferred:
            self._have_handed_out()
        elif self._broken is not None:  # it ends by itself
            self.will_wait_elsewhere()

    def _start_workers(self, actions: list[Action]) -> list[Settlement]:
        """Start those that are to be started: under the lock, since other threads may be told to send to them."""
        for action in actions:
            if action[0] == "start":
                try:
                    self.engine.start(action[1])
                except OSError as error:
                    why = f"a worker could not be started: {error}"
                    if error.errno == errno.EFBIG:
                        why += ". A limit on the size of files (ulimit -f) is too low: it holds for shared memory, too"
                    settlements = self._break(errors.PoolBroken(why))
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
                    if not engine.part(action[1], action[2]):
                        with self._lock:
                            self.scheduler.not_parted(action[2], monotonic())
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

    def _forget_functions(self, worker_id: int, chunks: list[Any]) -> None:
        """What a frame that was taken back brought along has not arrived."""
        handle = self.engine.handles.get(worker_id) if self.functions is not None else None
        if handle is not None:
            for chunk in chunks:
                handle.known.discard(chunk.function.id)

    # -- What is due --------------------------------------------------------------------------------------------------

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

    def _release_held(self, now: float) -> None:
        """The time of those that were held back is over, or a worker may be free for them. Under the lock."""
        while self._held:
            job = self._held.pop()
            job.held = False
            job.fed_at = now
            self.scheduler.stream_filled(job, now)
