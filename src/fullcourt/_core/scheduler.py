"""The scheduler: a pure function of the events that it has seen.

It decides which tasks go where, and nothing else: it has no clock (times come in with the events), no lock, no
thread, no socket. Events are its methods, named in the past tense; what it wants done it appends to ``actions``, and
the driver does it, in order. One thread at a time may call it.

Cost per task: one dictionary insertion and removal, some comparisons; all sets are dictionaries, so that nothing
depends on how many workers or tasks there are.

Invariants (``check`` asserts them; the property tests call it after every event):

1. While a task waits, no worker has room (work is never held back while a slot is free), unless memory is short.
2. A chunk is in exactly one place: its stream, ``returned``, or one worker's ``sent``.
3. A worker is in ``idle`` if and only if it may be given tasks and holds fewer chunks than it has slots; in
   ``roomy`` if and only if it may be given tasks and has room (one whose link was full has room again when half of it
   is empty, one that is overdue has none behind what runs); in ``laden`` if and only if it holds more chunks than it
   has slots.
4. A worker that was given its last task (``max_tasks``) gets no other; it is stopped when what it holds has ended,
   and its successor is started when that last task is given, so that recycling costs no stall.
5. With ``on_demand``, a worker is started only when a task waits and no slot is free; ``n_unasked`` is how many more
   may be.
6. A task that waits for nested ones lends its slot. A worker whose slots are all lent is given nothing, and another
   serves in its place: ``n_wanted`` workers are active (neither stopping nor in reserve nor wholly lent), or fewer
   where they would be more than ``max_workers`` together with those wholly lent. With ``grows``, the worker itself gets
   a slot for each lent one.
7. Nested tasks go before all others, the deepest first: so those that wait for them are few.
8. A single task that comes while maps fill all slots goes before what lies unread in a link, which comes back and is
   sent again, and what runs there is parted (10) if it takes long: one such task at a time for each worker. Where a
   second stream comes beside a map that was alone, that is done with what is long of it, since both take turns.
9. What lies unread behind a task that turns out to be long does not wait for its end while others' slots become free:
   it comes back and goes before all that waits, and its worker, which is *overdue*, gets no more until it tells of an
   end.
10. What a worker has read and not begun does not wait either, when nothing else is left: a chunk of a map is *parted*.
    Its worker is asked, once, to give back what it has not begun, and that is a stream again, divided as it is sent.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Literal

from fullcourt._core.chunking import LONG_S, MAX_CHUNK, TARGET_S, chunk_size
from fullcourt._core.model import NESTED, Chunk, Rest, Stream, Worker

__all__ = ["Action", "Scheduler"]

# A worker's link holds this much work in advance, so that it never waits for the driver.
WINDOW_S = TARGET_S
# No more chunks than these lie in one link: a default AF_UNIX buffer holds 278 small messages.
MAX_SENT = 64
# A call goes before no more unread chunks than these: taking one back and sending it again costs about 10 us.
MAX_OVERTAKEN = 4
UNKNOWN_S = 0.001  # what an untimed task counts for in a worker's load
STEAL_S = 0.0002  # queued work below this is not worth taking back, unless it lies still
PART_S = TARGET_S  # what is left of a chunk and takes no longer than that is not worth parting
MOST_ROOM = 64  # so many workers are looked at for long chunks: more would take the pool a millisecond and more
CROWDED_S = 0.1  # so long after a single task came beside a map, its chunks stay short
STILL_S = 0.002  # a worker that reported nothing for so long is taken to be stuck in a long task

Action = (
    tuple[Literal["send"], int, Chunk]
    | tuple[Literal["take_back"], int]
    | tuple[Literal["part"], int, Chunk]
    | tuple[Literal["start"], int]
    | tuple[Literal["stop"], int]
    | tuple[Literal["grow"], int]
    | tuple[Literal["shrink"], int]
)


class Scheduler:
    """Gives waiting tasks to workers; see the module's head for the rules."""

    def __init__(
        self,
        n_workers: int,
        n_slots: int,
        *,
        max_tasks: int | None = None,
        may_take_back: bool = True,
        grows: bool = False,
        prefetches: bool = True,
        max_workers: int = 1 << 30,
        on_demand: bool = False,
    ) -> None:
        self.n_workers = n_workers
        self.n_unasked = n_workers if on_demand else 0
        self.n_slots = n_slots  # of each worker
        self.max_tasks = max_tasks
        self.may_take_back = may_take_back
        self.grows = grows
        self.most_held = 2 * n_slots if prefetches else n_slots  # chunks, whatever they take
        self.window_s = WINDOW_S if prefetches else 0.0
        self.max_workers = max(max_workers, n_workers)
        self.n_wanted = self.n_workers - self.n_unasked
        self.n_lent = 0  # slots, in all
        self.workers: dict[int, Worker] = {}
        self.actions: list[Action] = []
        self.idle: dict[int, Worker] = {}
        self.roomy: dict[int, Worker] = {}
        self.laden: dict[int, Worker] = {}
        self.partable: dict[int, Chunk] = {}  # what workers hold that may be parted, by id
        self.reserve: dict[int, Worker] = {}  # successors: they get work when those before them have ended theirs
        self.n_active = 0  # workers that are neither stopping nor in reserve nor wholly lent
        self.streams: deque[Stream] = deque()
        self.returned: deque[Chunk] = deque()
        self._rests: dict[int, Rest] = {}  # those in the row, by the id of their map's estimate
        self.look_again_at: float | None = None
        self.closing = False
        self.under_pressure = False  # memory is short: a task starts only where no other runs
        self._crowded_until = 0.0  # single tasks come beside maps
        self._has_long = False  # whether workers may hold long chunks
        self.n_sent_tasks = 0
        self._next_worker = 1

    # -- events ---------------------------------------------------------------------------------------------------

    def opened(self, now: float) -> None:
        """The pool was opened: start the workers, unless they wait for demand."""
        for _ in range(self.n_workers - self.n_unasked):
            self._start_worker(now)
        for worker_id in reversed(list(self.idle)):  # the first call is for the one that is there first
            self.idle[worker_id] = self.idle.pop(worker_id)

    def worker_wanted(self, now: float) -> None:
        """Somebody wants one worker more to be there, if there may be one, whether or not a task waits."""
        if self.n_unasked:
            self.n_unasked -= 1
            self.n_wanted += 1
            self._start_worker(now)

    def stream_filled(self, stream: Stream, now: float) -> None:
        """A stream that had nothing has tasks."""
        if not stream.queued and stream.available():
            if self.streams and stream.priority >= self.streams[0].priority:
                self._crowded_until = now + CROWDED_S
                if self._has_long:
                    self._make_room(now)
            self._enqueue(stream)
        if self.roomy or self.n_unasked:
            self._dispatch(now)

    def ended(self, chunk: Chunk, n_tasks: int, seconds: float, now: float, resumed: Chunk | None = None) -> None:
        """The next n tasks of a chunk that a worker holds have ended, in so many seconds.

        ``resumed``: the chunk whose task waited for just that; its slot is returned before anything else is sent.
        """
        worker_id = chunk.worker_id
        if worker_id is None:
            return
        chunk.done += n_tasks
        chunk.estimate.add(n_tasks, seconds)
        worker = self.workers[worker_id]
        worker.progress_at = now
        self.n_sent_tasks -= n_tasks
        if chunk.done < chunk.count:
            if worker.overdue:
                worker.overdue = False
                self._place(worker)
                self._dispatch(now)
            if chunk.count - chunk.done == 1:
                self.partable.pop(chunk.id, None)  # or one would look at it again and again until it ends
            if self.partable and self.idle and not self.has_waiting():
                self._steal(now)  # now it is known what its tasks take
            return
        self._drop(worker, chunk, now)
        if resumed is not None:
            lender = self.workers.get(resumed.worker_id or 0)
            if lender is not None and resumed.id in lender.lent:
                self._unlend(lender, resumed, now)
        self._has_less(worker, now)

    def calls_ended(self, worker: Worker, ended: list[tuple[Chunk, float]], now: float) -> None:
        """Single tasks that a worker holds have ended, one after the other, each in so many seconds.

        :meth:`ended` for each of them, but what follows is looked at once.
        """
        if worker.lent:  # a task that ended gives back what it has lent
            for chunk, seconds in ended:
                self.ended(chunk, 1, seconds, now)
            return
        sent = worker.sent
        load_s = worker.load_s
        for chunk, seconds in ended:
            chunk.estimate.add(1, seconds)
            chunk.done = 1
            chunk.worker_id = None
            load_s -= chunk.expected_s
            del sent[chunk.id]
        if sent:
            worker.load_s = load_s
        else:
            worker.load_s = 0.0
            worker.held_s += now - worker.holding_since
        worker.progress_at = now
        self.n_sent_tasks -= len(ended)
        self._has_less(worker, now)

    def _has_less(self, worker: Worker, now: float) -> None:
        """Something that a worker held has ended."""
        worker.overdue = False
        self._place(worker)
        if self.returned or self.streams:
            if self.laden and self.may_take_back:
                self._pass_by(now)
            self._dispatch(now)
        elif worker.id in self.idle and (self.laden or self.partable):
            self._steal(now)
        if worker.retiring:
            self._retire(worker, now)

    def parted(self, chunk: Chunk, n_kept: int, now: float) -> None:
        """A worker was asked to part a chunk, and has given back all but its first n tasks; those it has not begun."""
        if chunk.worker_id is None:
            return
        worker = self.workers[chunk.worker_id]
        rest = chunk.cut(n_kept)
        self.n_sent_tasks -= rest.count
        worker.n_given -= rest.count
        self.partable.pop(chunk.id, None)
        if chunk.done == n_kept:
            self._drop(worker, chunk, now)
            self._take_off(worker, chunk, now)
        self._enqueue_rest(rest)
        self._dispatch(now)

    def not_parted(self, chunk: Chunk, now: float) -> None:
        """A worker was to part a chunk, but has not begun it: it may be asked again."""
        if chunk.worker_id is not None and chunk.count - chunk.done > 1:
            self.partable[chunk.id] = chunk
            self._look_out(now)

    def withdrawn(self, chunk: Chunk, now: float) -> None:
        """A chunk that a worker was given did not start there, and shall not run (cancelled, or it cannot travel)."""
        if chunk.worker_id is None:
            return
        worker = self.workers[chunk.worker_id]
        self._drop(worker, chunk, now)
        self.n_sent_tasks -= chunk.count - chunk.done
        self._take_off(worker, chunk, now)
        if self.returned or self.streams:
            self._dispatch(now)
        else:
            self._look_out(now)

    def taken_back(self, chunks: list[Chunk], now: float) -> None:
        """Chunks that had not started came back from workers; they go elsewhere, before all else."""
        for chunk in chunks:
            if chunk.worker_id is None:
                continue
            worker = self.workers[chunk.worker_id]
            self._drop(worker, chunk, now)
            self.n_sent_tasks -= chunk.count - chunk.done
            self._take_off(worker, chunk, now)
            others_wait = len(self.streams) > 1 or now < self._crowded_until
            if others_wait and chunk.expected_s > TARGET_S and chunk.may_part():
                self._enqueue_rest(chunk)  # it takes turns
            else:
                self.returned.append(chunk)
        self._dispatch(now)

    def came_back(self, chunks: list[Chunk], now: float) -> None:
        """Chunks that belong to no worker (the rest of one whose worker died, a retry) wait to be sent."""
        self.returned.extend(chunks)
        if self.roomy or self.n_unasked:
            self._dispatch(now)

    def worker_lost(self, worker_id: int, now: float) -> list[Chunk]:
        """A worker is gone. Returns what it held; a successor is started unless the pool needs none."""
        worker = self.workers.pop(worker_id)
        for place in (self.idle, self.roomy, self.laden):
            place.pop(worker_id, None)
        if self.reserve.pop(worker_id, None) is None and not worker.stopping and not self._is_lent(worker):
            self.n_active -= 1
        self.n_lent -= len(worker.lent)
        worker.lent.clear()
        held = list(worker.sent.values())
        for chunk in held:
            chunk.worker_id = None
            self.partable.pop(chunk.id, None)
            self.n_sent_tasks -= chunk.count - chunk.done
        if not self.closing:
            self._reckon(now)
            self._look_out(now)
        return held

    def worker_orphaned(self, worker_id: int, now: float) -> None:
        """A worker shall end when it has done what it holds, and be replaced at once."""
        worker = self.workers.get(worker_id)
        if worker is None or worker.stopping:
            return
        self._stop(worker)
        if not self.closing:
            self._reckon(now)
            self._look_out(now)  # its successor is free, and may take over what lies unread in its link

    def slot_lent(self, chunk: Chunk, now: float) -> bool:
        """The task that runs of this chunk waits for nested ones. False: then nobody could run them; nothing is lent.

        The event that follows is that of their stream being filled: until then nothing else is sent.
        """
        worker = self.workers.get(chunk.worker_id or 0)
        if worker is None or chunk.id in worker.lent:
            return True
        lends_all = worker.retiring or len(worker.lent) + 1 >= self.n_slots
        if lends_all and not (self.grows or worker.stopping) and self._n_lent_out() + 1 >= self.max_workers:
            return False  # there must always be room for one that serves
        was_active = self._is_active(worker)
        worker.lent[chunk.id] = None
        self.n_lent += 1
        if self.grows:
            worker.n_grown += 1
            self.actions.append(("grow", worker.id))
            self._place(worker)
            if worker.id in self.laden and self.may_take_back:
                self.actions.append(("take_back", worker.id))
            return True
        if self._is_lent(worker):
            self.reserve.pop(worker.id, None)
            self.n_active -= was_active
            worker.resting = True
            self._place(worker)
            if len(worker.sent) > len(worker.lent) and self.may_take_back:
                self.actions.append(("take_back", worker.id))
        if not self.closing:
            self._count_wanted()
            self._promote(now, sends=False)
            self._fill_up(now, sends=False)
        self._look_out(now)  # who serves for it may have more slots than there are nested tasks
        return True

    def slot_returned(self, chunk: Chunk, now: float) -> None:
        """What the task of this chunk waited for has ended."""
        worker = self.workers.get(chunk.worker_id or 0)
        if worker is not None and chunk.id in worker.lent:
            self._unlend(worker, chunk, now)
            self._dispatch(now)

    def time_passed(self, now: float) -> None:
        """The moment ``look_again_at`` has come: a slot is free while work lies still in another worker's link."""
        if self.look_again_at is not None and now >= self.look_again_at:
            self.look_again_at = None
            if self.idle and (self.laden or self.partable) and not self.streams and not self.returned:
                self._steal(now)

    def pressure_changed(self, under_pressure: bool, now: float) -> None:
        """Memory has become short, or is so no more. What lies unread in the links comes back meanwhile."""
        if under_pressure == self.under_pressure:
            return
        self.under_pressure = under_pressure
        if under_pressure and self.may_take_back:
            self.actions.extend(("take_back", worker_id) for worker_id in self.laden)
        elif not under_pressure:
            self._dispatch(now)

    def closed(self) -> None:
        """No more tasks will come and all have ended: stop the workers."""
        self.closing = True
        self.n_unasked = 0
        for worker in list(self.workers.values()):
            if not worker.stopping:
                self._stop(worker)

    # -- rules ----------------------------------------------------------------------------------------------------

    def has_waiting(self) -> bool:
        """Whether any task waits to be sent."""
        return bool(self.streams or self.returned)

    def _n_serving(self) -> int:
        return sum(not (w.stopping or w.retiring or self._is_lent(w)) for w in self.workers.values())

    def _is_lent(self, worker: Worker) -> bool:
        """Whether all its slots are lent, or some of one whose others will get nothing more."""
        return (len(worker.lent) >= self.n_slots or (worker.retiring and bool(worker.lent))) and not self.grows

    def _n_lent_out(self) -> int:
        """How many workers that go on have lent all their slots."""
        return sum(self._is_lent(worker) and not worker.stopping for worker in self.workers.values())

    def _is_active(self, worker: Worker) -> bool:
        return not worker.stopping and worker.id not in self.reserve and not self._is_lent(worker)

    def _reckon(self, now: float) -> None:
        """See to it that as many workers serve as are wanted."""
        self._count_wanted()
        self._bench()
        self._promote(now)
        self._fill_up(now)

    def _fill_up(self, now: float, *, sends: bool = True) -> None:
        """Start as many workers as are missing."""
        n_wanted = self.n_wanted
        if self.n_lent:
            n_wanted = min(n_wanted, self.max_workers - self._n_lent_out())
        while self._n_serving() < n_wanted:
            self._start_worker(now, sends=sends)

    def _count_wanted(self) -> None:
        """Where workers have several slots, another one serves for lent slots of workers that serve on."""
        n_lent = 0
        if self.n_lent and self.n_slots > 1 and not self.grows:
            n_lent = sum(len(w.lent) for w in self.workers.values() if not (w.stopping or self._is_lent(w)))
        self.n_wanted = self.n_workers - self.n_unasked + -(-n_lent // self.n_slots)

    def _bench(self) -> None:
        """Too many workers are active: put those into reserve that hold the least."""
        while self.n_active > self.n_wanted:
            active = [w for w in self.workers.values() if self._is_active(w) and not w.retiring]
            if not active:
                return
            worker = min(active, key=lambda w: len(w.sent))
            self.reserve[worker.id] = worker
            self.n_active -= 1
            worker.resting = True
            self._place(worker)
            if len(worker.sent) > self.n_slots and self.may_take_back:
                self.actions.append(("take_back", worker.id))

    def _unlend(self, worker: Worker, chunk: Chunk, now: float) -> None:
        was_lent = self._is_lent(worker)
        del worker.lent[chunk.id]
        self.n_lent -= 1
        if self.grows:
            worker.n_grown -= 1
            self.actions.append(("shrink", worker.id))
        elif was_lent and not self._is_lent(worker):
            worker.resting = False
            self.n_active += not worker.stopping
        self._place(worker)
        self._count_wanted()
        self._bench()
        if not self.n_lent:
            self._send_home()
        elif (worker.retiring or worker.stopping) and not self.closing:
            self._fill_up(now, sends=False)  # it does not serve again itself, and one more may be there now

    def _send_home(self) -> None:
        """No slot is lent any more: keep some of the workers that served for lent ones, and stop the others."""
        spare = [w for w in self.reserve.values() if not w.sent]
        for worker in spare[2 * self.n_workers + 6 :]:
            self._stop(worker)

    def _start_worker(self, now: float, *, sends: bool = True) -> None:
        worker = Worker(self._next_worker, now)
        self._next_worker += 1
        self.workers[worker.id] = worker
        self.actions.append(("start", worker.id))
        self.reserve[worker.id] = worker
        worker.resting = True
        self._promote(now, sends=sends)

    def _promote(self, now: float, *, sends: bool = True) -> None:
        """Give those in reserve the places that are free."""
        while self.reserve and self.n_active < self.n_wanted:
            worker = self.reserve.pop(next(iter(self.reserve)))
            self.n_active += 1
            worker.resting = False
            self._place(worker)
            if sends:
                self._dispatch(now)

    def _retire(self, worker: Worker, now: float) -> None:
        """Stop a worker that was given its last task, if it has nothing any more."""
        if not worker.sent and not worker.stopping:
            self._stop(worker)
            self._promote(now)
            self._look_out(now)

    def _take_off(self, worker: Worker, chunk: Chunk, now: float) -> None:
        """A chunk left a worker unrun. One that retires does not get other work for it: its successor is there."""
        worker.n_given -= chunk.count - chunk.done
        self._place(worker)
        if worker.retiring:
            self._retire(worker, now)

    def _look_out(self, now: float) -> None:
        """See to it that a free slot is not forgotten beside a full link, or a long chunk."""
        if self.look_again_at is None and self.idle and (self.laden or self.partable) and self.may_take_back:
            self.look_again_at = now + STILL_S

    def _stop(self, worker: Worker) -> None:
        worker.stopping = True
        if self.reserve.pop(worker.id, None) is None and not self._is_lent(worker):
            self.n_active -= 1
        self._place(worker)
        self.actions.append(("stop", worker.id))

    def _drop(self, worker: Worker, chunk: Chunk, now: float) -> None:
        del worker.sent[chunk.id]
        if chunk.count > 1:
            self.partable.pop(chunk.id, None)
        if chunk.id in worker.lent:
            self._unlend(worker, chunk, now)
        chunk.worker_id = None
        if worker.sent:
            worker.load_s -= chunk.expected_s
        else:
            worker.load_s = 0.0
            worker.held_s += now - worker.holding_since

    def _place(self, worker: Worker) -> None:
        """Put a worker into the sets where it belongs (invariant 3)."""
        n_held = len(worker.sent) - worker.n_grown
        n_slots = self.n_slots
        worker_id = worker.id
        if worker.stopping or worker.retiring or worker.resting:
            self.idle.pop(worker_id, None)
            self.roomy.pop(worker_id, None)
        elif n_held < n_slots:
            self.idle[worker_id] = self.roomy[worker_id] = worker
        else:
            self.idle.pop(worker_id, None)
            # A link that was full is filled again when half of it is empty: else each end would bring a send.
            window = n_slots if worker_id in self.roomy else 0.5 * n_slots
            has_room = worker.load_s < self.window_s * window and n_held < MAX_SENT * window
            if not worker.overdue and (has_room or n_held < self.most_held):
                self.roomy[worker_id] = worker
            else:
                self.roomy.pop(worker_id, None)
        if n_held > n_slots:
            self.laden[worker_id] = worker
        else:
            self.laden.pop(worker_id, None)

    def _dispatch(self, now: float) -> None:
        """Send what waits to whoever has room: first to those with a free slot, the last to fall idle first."""
        idle, roomy, streams, returned = self.idle, self.roomy, self.streams, self.returned
        while (roomy or self.n_unasked) and (returned or streams):
            if self.under_pressure and self._is_busy():
                break
            if streams and not streams[0].available():  # its map failed or was cancelled
                self._unqueue_first()
                continue
            if self.n_unasked and not idle:
                self.n_unasked -= 1
                self.n_wanted += 1
                self._promote(now, sends=False)
                self._fill_up(now, sends=False)
                continue
            if idle:
                worker = idle[next(reversed(idle))]
            elif len(streams) == 1 and not returned and self._gives_singles(streams[0]):
                self._dispatch_singles(streams[0])
                continue
            else:
                worker = next(iter(roomy.values()))
                roomy[worker.id] = roomy.pop(worker.id)  # to the end of the row: those with room take turns
            if returned and not (streams and streams[0].priority >= NESTED):
                chunk = returned.popleft()
                if self.max_tasks is not None and chunk.count - chunk.done > self.max_tasks - worker.n_given:
                    # It does not fit in what is left of this worker's life.
                    returned.appendleft(chunk.cut(chunk.done + self.max_tasks - worker.n_given))
            else:
                stream = streams[0]
                if self._rests and self._has_rest(stream):  # its turns are for that
                    self._to_the_end(stream)
                    continue
                chunk = stream.take(self._size(stream, worker, now))
                if not chunk.count:  # what there was went just now: its map was stopped by another thread
                    self._unqueue_first()
                    continue
                if not stream.available():
                    self._unqueue_first()
                else:
                    self._to_the_end(stream)
            self._give(worker, chunk, now)
        self._look_out(now)

    def _gives_singles(self, stream: Stream) -> bool:
        return self.max_tasks is None and not self.under_pressure and stream.fixed_size() == 1

    def _dispatch_singles(self, stream: Stream) -> None:
        """:meth:`_dispatch`, written out for when no slot is free and all that waits are single tasks of one stream."""
        roomy, actions = self.roomy, self.actions
        n_slots = self.n_slots
        full_s = self.window_s * n_slots
        n_left = stream.available()
        while roomy and n_left:
            worker = next(iter(roomy.values()))
            chunk = stream.take(1)
            if not chunk.count:  # as there
                n_left = 0
                break
            n_left -= 1
            mean_s = chunk.estimate.mean_s
            chunk.expected_s = expected_s = UNKNOWN_S if mean_s is None else mean_s
            chunk.worker_id = worker_id = worker.id
            worker.sent[chunk.id] = chunk
            worker.load_s += expected_s
            worker.n_given += 1
            self.n_sent_tasks += 1
            actions.append(("send", worker_id, chunk))
            roomy[worker_id] = roomy.pop(worker_id)
            if worker.load_s >= full_s or not n_slots + 1 < len(worker.sent) - worker.n_grown < MAX_SENT:
                self._place(worker)
        if not n_left:
            self._unqueue_first()

    def _is_busy(self) -> bool:
        """Whether any task runs, or is about to, that waits for no nested ones."""
        return any(len(worker.sent) > len(worker.lent) for worker in self.workers.values())

    def _unqueue_first(self) -> None:
        stream = self.streams.popleft()
        stream.queued = False
        if type(stream) is Rest:
            self._rests.pop(id(stream.estimate), None)
        if stream.available():  # filled by another thread, which saw it still queued
            self._enqueue(stream)

    def _to_the_end(self, stream: Stream) -> None:
        """The first in the row has had its turn."""
        if self.streams[-1].priority == stream.priority:
            self.streams.rotate(-1)
        else:
            self.streams.popleft()
            self._enqueue(stream)

    def _has_rest(self, stream: Stream) -> bool:
        """Whether some of what was taken from a map has come back, and is in the row."""
        rest = self._rests.get(id(stream.estimate))
        return rest is not None and rest is not stream and rest.queued and rest.available() > 0

    def _enqueue_rest(self, chunk: Chunk) -> None:
        """A part of a map, or a long chunk of it, came back, and takes turns: all of one map together."""
        rest = self._rests.get(id(chunk.estimate))
        if rest is not None and rest.queued:
            rest.add(chunk)
            return
        rest = self._rests[id(chunk.estimate)] = Rest(chunk)
        self._enqueue(rest)

    def _enqueue(self, stream: Stream) -> None:
        """Behind all of its priority, before all of a lower one."""
        stream.queued = True
        streams = self.streams
        if not streams or streams[-1].priority >= stream.priority:
            streams.append(stream)
            return
        at = next(i for i, other in enumerate(streams) if other.priority < stream.priority)
        streams.insert(at, stream)

    def _size(self, stream: Stream, worker: Worker, now: float) -> int:
        size = stream.fixed_size()
        if size is not None:
            size = min(size, MAX_CHUNK)
        else:
            n_slots = self.n_workers * self.n_slots
            remaining = stream.remaining()
            is_long = self.may_take_back and now >= self._crowded_until and not stream.estimate.is_heavy
            is_long = is_long and self._is_alone(stream) and stream.is_awaited_whole()
            self._has_long = self._has_long or is_long
            target_s = LONG_S if is_long else TARGET_S
            size = chunk_size(stream.estimate.mean_s, stream.last_size, remaining, n_slots, target_s)
            stream.last_size = size
        if self.max_tasks is not None:
            size = min(size, self.max_tasks - worker.n_given)
        return size

    def _is_alone(self, stream: Stream) -> bool:
        """Whether the first in the row takes turns with nobody."""
        return len(self.streams) == 1 or self.streams[1].priority < stream.priority

    def placed_at_once(self, chunk: Chunk, now: float) -> int:
        """A single task came: give it to a worker, past the streams, if nothing waits and one has room.

        Returns that worker's id; sending it is the caller's. 0: it is to go through its stream.
        """
        if self.streams or self.returned or self.under_pressure or self.max_tasks is not None:
            return 0
        if self.idle:
            worker = self.idle[next(reversed(self.idle))]
        elif self.partable and self.may_take_back:  # it may overtake what runs of a map
            return 0
        elif self.roomy and not self.n_unasked:  # or else another worker is to be started for it
            worker = next(iter(self.roomy.values()))
            self.roomy[worker.id] = self.roomy.pop(worker.id)
        else:
            return 0
        self._hold(worker, chunk, now)
        return worker.id

    def adopt(self, chunk: Chunk, now: float) -> int:
        """A single task runs on the only worker, which was given it past this: from here on it is as any other.

        Returns the worker's id.
        """
        worker = next(iter(self.workers.values()))
        self._hold(worker, chunk, now)
        return worker.id

    def overtook(self, chunk: Chunk, priority: int, now: float) -> bool:
        """A single task came and all slots are taken: it goes to where a map's items run, before those not begun there.

        So one call does not wait for chunks of a map that fill a link, and for the moment that there is room. Only
        items of maps are overtaken: calls of one thread run in their order, and nested tasks are awaited. Each worker
        is overtaken by one at a time: a burst of calls takes its turn with the maps.
        """
        self._crowded_until = now + CROWDED_S
        if not self.may_take_back or self.under_pressure or self.max_tasks is not None or self.returned:
            return False
        if self.idle or (self.streams and self.streams[0].priority > priority):
            return False
        if not self.laden and self.n_unasked:  # another worker is to be started for it
            return False
        best: Worker | None = None
        best_s = 0.0
        for i, worker in enumerate((self.laden or self.roomy).values()):
            first = next(iter(worker.sent.values()))
            expected_s = (first.estimate.mean_s or UNKNOWN_S) * (first.count - first.done)
            left_s = abs(expected_s - (now - worker.progress_at))  # one that is overdue may be stuck in a long task
            free = worker.overtaken_by not in worker.sent and not worker.stopping and not worker.resting
            free = free and len(worker.sent) <= self.n_slots + MAX_OVERTAKEN and left_s <= max(expected_s, STILL_S)
            if free and (best is None or left_s < best_s):
                unread = itertools.islice(worker.sent.values(), self.n_slots, None)
                if all(other.yields_to(priority) for other in unread):
                    best, best_s = worker, left_s
            if i == 7:  # as in `_steal`
                break
        if best is None:
            return False
        best.overtaken_by = chunk.id
        first = next(iter(best.sent.values()))
        # By what the whole of it was thought to take: one that seems to be about to end may be slower than thought.
        if first.expected_s > PART_S and first.id in self.partable and first.yields_to(priority):
            del self.partable[first.id]  # it is asked once
            self.actions.append(("part", best.id, first))
        if best.id in self.laden:
            self.actions.append(("take_back", best.id))
            self.laden[best.id] = self.laden.pop(best.id)  # they take turns
        self._hold(best, chunk, now)
        self.actions.append(("send", best.id, chunk))
        return True

    def placed_alone(self, chunk: Chunk, now: float) -> Worker | None:
        """:meth:`placed_at_once`, written out for where nothing at all is open and a worker has one slot, and a window.

        None: it is to go another way.
        """
        idle = self.idle
        if not idle or self.actions or self.under_pressure or self.max_tasks is not None:
            return None
        worker = idle.pop(next(reversed(idle)))
        mean_s = chunk.estimate.mean_s
        chunk.expected_s = worker.load_s = UNKNOWN_S if mean_s is None else mean_s
        worker.progress_at = worker.holding_since = now
        chunk.worker_id = worker.id
        worker.sent[chunk.id] = chunk
        worker.n_given += 1
        self.n_sent_tasks += 1
        return worker

    def ended_alone(self, chunk: Chunk, seconds: float, now: float) -> None:
        """:meth:`ended`, written out for such a task, if nothing else has come meanwhile."""
        worker = self.workers.get(chunk.worker_id or 0)
        if (
            worker is None
            or self.streams
            or self.returned
            or self.laden
            or worker.stopping
            or worker.resting
            or worker.lent
            or len(worker.sent) > 1
        ):
            self.ended(chunk, 1, seconds, now)
            return
        chunk.done = 1
        chunk.estimate.add(1, seconds)
        chunk.worker_id = None
        worker.sent.clear()
        worker.load_s = 0.0
        worker.progress_at = now
        worker.held_s += now - worker.holding_since
        self.n_sent_tasks -= 1
        self.idle[worker.id] = self.roomy[worker.id] = worker

    def _give(self, worker: Worker, chunk: Chunk, now: float) -> None:
        self._hold(worker, chunk, now)
        self.actions.append(("send", worker.id, chunk))
        if worker.retiring and not self.closing:
            self._promote(now)
            self._fill_up(now)

    def _hold(self, worker: Worker, chunk: Chunk, now: float) -> None:
        mean_s = chunk.estimate.mean_s
        n_tasks = chunk.count - chunk.done
        chunk.expected_s = UNKNOWN_S if mean_s is None else mean_s * n_tasks
        if not worker.sent:
            worker.progress_at = worker.holding_since = now
        chunk.worker_id = worker.id
        worker.sent[chunk.id] = chunk
        worker.load_s += chunk.expected_s
        if n_tasks > 1 and self.may_take_back and chunk.may_part():
            self.partable[chunk.id] = chunk
        worker.n_given += n_tasks
        self.n_sent_tasks += n_tasks
        if self.max_tasks is not None and worker.n_given >= self.max_tasks:
            worker.retiring = True
            if worker.lent and not worker.resting:  # it counts as wholly lent from now on
                worker.resting = True
                self.n_active -= 1
        self._place(worker)

    def _steal(self, now: float) -> None:
        """A slot is free and nothing waits: take back what lies unread behind a long task."""
        if not self.may_take_back:
            return
        best: Worker | None = None
        for i, worker in enumerate(self.laden.values()):
            still = now - worker.progress_at >= STILL_S
            if (still or worker.load_s >= STEAL_S) and (best is None or worker.load_s > best.load_s):
                best = worker
            if i == 7:  # enough to choose from; the cost must not grow with the number of workers
                break
        if best is not None:
            self.actions.append(("take_back", best.id))
        elif self.partable:
            self._part(now)
        if self.laden or self.partable:
            self.look_again_at = now + STILL_S

    def _part(self, now: float) -> None:
        """A slot is free and nothing lies unread elsewhere: part what will take longest of what runs."""
        best: Chunk | None = None
        longest_s = 0.0
        for chunk in itertools.islice(self.partable.values(), 8):  # as in `_steal`
            worker = self.workers[chunk.worker_id or 0]
            n_left = chunk.count - chunk.done
            left_s = n_left * (chunk.estimate.mean_s or UNKNOWN_S)
            pays = left_s >= PART_S or now - worker.progress_at >= STILL_S
            n_run = self.n_slots + worker.n_grown
            runs = chunk.id in itertools.islice(worker.sent, n_run)  # what is unread is taken back
            if pays and runs and (best is None or left_s > longest_s):
                best, longest_s = chunk, left_s
        if best is not None:
            del self.partable[best.id]  # it is asked once
            self.actions.append(("part", best.worker_id or 0, best))

    def _make_room(self, now: float) -> None:
        """Something comes beside a map that was alone: what is long of it shall take turns from now on."""
        self._has_long = False
        for worker in itertools.islice(self.laden.values(), MOST_ROOM):
            held = iter(worker.sent.values())
            first = next(held)
            if first.expected_s > PART_S and first.id in self.partable:
                del self.partable[first.id]  # it is asked once
                self.actions.append(("part", worker.id, first))
            if any(chunk.expected_s > TARGET_S and chunk.count > 1 for chunk in held):
                self.actions.append(("take_back", worker.id))

    def _pass_by(self, now: float) -> None:
        """A slot is free, and others wait: have what lies unread behind a task that takes too long go before them."""
        worker_id = next(iter(self.laden))
        worker = self.laden[worker_id] = self.laden.pop(worker_id)  # they take turns: one look for each end
        first = next(iter(worker.sent.values()))
        expected_s = (first.estimate.mean_s or UNKNOWN_S) * (first.count - first.done)
        if not worker.overdue and now - worker.progress_at > 2 * expected_s + STILL_S:
            worker.overdue = True
            self._place(worker)
            self.actions.append(("take_back", worker_id))

    def check(self) -> None:
        """Assert the invariants of the module's head."""
        if (self.roomy or self.n_unasked) and not (self.under_pressure and self._is_busy()):
            assert not self.streams and not self.returned, "work waits while a worker has room, or may be started"
        for worker in self.workers.values():
            in_place = not worker.stopping and worker.id not in self.reserve and not self._is_lent(worker)
            assert worker.resting == (worker.id in self.reserve or self._is_lent(worker)) or worker.stopping
            usable = in_place and not worker.retiring
            n_held = len(worker.sent) - worker.n_grown
            assert (worker.id in self.idle) == (usable and n_held < self.n_slots)
            assert (worker.id in self.laden) == (n_held > self.n_slots)
            assert all(c.worker_id == worker.id for c in worker.sent.values())
            assert worker.lent.keys() <= worker.sent.keys()
            assert worker.n_grown == (len(worker.lent) if self.grows else 0)
            if self.max_tasks is not None:
                assert worker.n_given <= self.max_tasks
        assert self.n_lent == sum(len(w.lent) for w in self.workers.values())
        active = [w for w in self.workers.values() if self._is_active(w)]
        assert self.n_active == len(active)
        if not self.closing:
            assert self.n_active <= self.n_wanted or all(w.retiring for w in active)
            assert self.n_active >= min(self.n_wanted, self.max_workers - self._n_lent_out()) or not self.reserve
        assert all(c.worker_id is None for c in self.returned)
        assert all(self.workers[c.worker_id].sent[c.id] is c for c in self.partable.values())  # type: ignore[index]
        assert all(c.count - c.done > 1 for c in self.partable.values())
        total = sum(c.count - c.done for w in self.workers.values() for c in w.sent.values())
        assert total == self.n_sent_tasks
