"""The scheduler under every order of events that hypothesis can think of, beside a model of the workers.

The model has for each worker what a real one has: a link with chunks that it has not read, and slots with chunks that
run. It knows nothing of the scheduler's sets; it does what the actions say, and holds the outcome against the rules.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fullcourt._core.model import NESTED, Estimate, Rest
from fullcourt._core.scheduler import Scheduler
from tests.core.scheduler_work import Piece, Task, Work

SECONDS = st.sampled_from([0.0, 1e-7, 1e-5, 1e-3, 0.1])


@dataclass
class Player:
    """One worker of the model."""

    link: deque[Piece] = field(default_factory=deque)  # sent, and not read yet
    slots: list[Piece] = field(default_factory=list)  # they run
    n_given: int = 0  # tasks, also those that did not stay
    n_ended: int = 0
    n_left: int = 0  # tasks that were withdrawn or taken back
    told_to_stop: bool = False
    lent: list[Piece] = field(default_factory=list)  # of those that run: they wait for nested tasks
    n_grown: int = 0  # slots that it was given in place of lent ones
    orphaned: bool = False  # told to stop while it may hold work: it ends when that has ended

    @property
    def held(self) -> list[Piece]:
        return [*self.slots, *self.link]


class SchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.players: dict[int, Player] = {}
        self.streams: list[Work] = []
        self.open: set[Task] = set()  # tasks that have not ended
        self.fate: dict[Task, str] = {}  # of the others
        self.take_backs: list[int] = []  # orders that were given and not yet carried out
        self.asked_to_part: list[Piece] = []
        self.later: list[Piece] = []  # tasks that failed, and wait for their next attempt
        self.under_pressure = False
        self.n_started = 0
        self.n_lost = 0
        self.closed = False
        self.broke_a_rule = False

    @initialize(
        n_workers=st.integers(1, 4),
        n_slots=st.integers(1, 3),
        max_tasks=st.none() | st.integers(1, 5),
        may_take_back=st.booleans() | st.just(True),
        grows=st.booleans(),
        max_extra=st.sampled_from([0, 1, 3, 1000]),
    )
    def open(
        self, n_workers: int, n_slots: int, max_tasks: int | None, may_take_back: bool, grows: bool, max_extra: int
    ) -> None:
        self.grows = grows and max_tasks is None
        self.max_workers = 2 * n_workers + max_extra
        self.scheduler = Scheduler(
            n_workers,
            n_slots,
            max_tasks=max_tasks,
            may_take_back=may_take_back,
            grows=self.grows,
            max_workers=self.max_workers,
        )
        self.ever_lent = False
        self.n_workers, self.n_slots, self.max_tasks, self.may_take_back = n_workers, n_slots, max_tasks, may_take_back
        self.estimates = [Estimate(), Estimate()]
        self.scheduler.opened(self.now)

    # -- what callers do ------------------------------------------------------------------------------------------

    def work_may_come(self) -> bool:
        return not self.closed

    def add(self, stream: Work, n_tasks: int) -> None:
        if stream not in self.streams:
            self.streams.append(stream)
        self.open.update((stream.number, stream.total + i) for i in range(n_tasks))
        stream.total += n_tasks
        self.scheduler.stream_filled(stream, self.now)

    @precondition(work_may_come)
    @rule(n_calls=st.integers(1, 12))
    def calls_come(self, n_calls: int) -> None:
        stream = Work(0, 1, estimates=self.estimates, length_known=False)
        self.add(stream, n_calls)

    @precondition(work_may_come)
    @rule(priority=st.sampled_from([0, 0, 1, -1]))
    def a_call_comes_that_may_overtake(self, priority: int) -> None:
        stream = Work(1, 1, estimates=self.estimates, length_known=False)
        stream.priority = priority
        piece = stream.take(1)
        waiting = [other.priority for other in self.scheduler.streams]
        if self.scheduler.overtook(piece, priority, self.now):
            assert self.may_take_back
            assert all(other <= priority for other in waiting)
            assert not self.scheduler.idle
            player = self.players[piece.worker_id]
            assert len(player.held) >= self.n_slots
            self.streams.append(stream)
            self.open.add((stream.number, 0))

    def may_come_alone(self) -> bool:
        """As a driver asks: nothing at all is open, workers have one slot and hold one chunk more."""
        held = any(player.held for player in self.players.values())
        return not (self.closed or self.open or self.later or held) and self.n_slots == 1

    @precondition(may_come_alone)
    @rule()
    def a_call_comes_alone(self) -> None:
        stream = Work(1, 1, estimates=self.estimates, length_known=False)
        piece = stream.take(1)
        worker = self.scheduler.placed_alone(piece, self.now)
        if worker is None:
            return  # the driver hands it in as any other
        assert self.max_tasks is None
        assert not self.under_pressure
        self.streams.append(stream)
        self.open.add((stream.number, 0))
        player = self.players[worker.id]
        assert not player.told_to_stop
        player.n_given += 1
        player.link.append(piece)

    @precondition(work_may_come)
    @rule(
        n_items=st.integers(1, 60),
        chunksize=st.none() | st.integers(1, 9),
        length_known=st.booleans(),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
    )
    def a_map_comes(self, n_items: int, chunksize: int | None, length_known: bool, priority: int) -> None:
        stream = Work(0, chunksize, length_known=length_known)
        stream.priority = priority
        self.add(stream, n_items)

    @precondition(lambda self: not self.closed and self.streams)
    @rule(data=st.data(), n=st.integers(0, 5))
    def a_stream_gets_more(self, data: st.DataObject, n: int) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        self.add(stream, n)

    @precondition(lambda self: not self.closed and not self.open)
    @rule()
    def the_pool_closes(self) -> None:
        self.closed = True
        self.scheduler.closed()

    # -- what workers do ------------------------------------------------------------------------------------------

    def unread(self) -> list[int]:
        return [i for i, player in self.players.items() if player.link and self.has_free_slot(player)]

    def has_free_slot(self, player: Player) -> bool:
        return len(player.slots) < self.n_slots + player.n_grown

    def running(self) -> list[tuple[int, Piece]]:
        return [(i, piece) for i, player in self.players.items() for piece in player.slots]

    def read_by(self, worker_id: int) -> None:
        player = self.players[worker_id]
        player.slots.append(player.link.popleft())

    def end(self, worker_id: int, piece: Piece, n_tasks: int, seconds: float, *, alone: bool = False) -> None:
        self.settle(piece.open_tasks[:n_tasks], "ended")
        self.tell_of_end(worker_id, piece, n_tasks, seconds, alone=alone)

    def tell_of_end(self, worker_id: int, piece: Piece, n_tasks: int, seconds: float, *, alone: bool = False) -> None:
        player = self.players[worker_id]
        player.n_ended += n_tasks
        if piece.done + n_tasks == piece.count:
            player.slots.remove(piece)
            if piece in player.lent:
                player.lent.remove(piece)
        if alone:
            self.scheduler.ended_alone(piece, seconds, self.now)
        else:
            self.scheduler.ended(piece, n_tasks, seconds, self.now)

    @precondition(lambda self: self.unread())
    @rule(data=st.data())
    def a_worker_reads(self, data: st.DataObject) -> None:
        self.read_by(data.draw(st.sampled_from(self.unread())))

    @precondition(lambda self: self.running())
    @rule(data=st.data(), seconds=SECONDS)
    def a_chunk_ends(self, data: st.DataObject, seconds: float) -> None:
        worker_id, piece = data.draw(st.sampled_from(self.running()))
        self.end(worker_id, piece, len(piece.open_tasks), seconds)

    @precondition(lambda self: self.max_tasks is None and self.n_slots == 1 and self.calls_running())
    @rule(data=st.data(), seconds=SECONDS)
    def a_call_that_came_alone_ends(self, data: st.DataObject, seconds: float) -> None:
        """Much may have come meanwhile."""
        worker_id, piece = data.draw(st.sampled_from(self.calls_running()))
        self.end(worker_id, piece, 1, seconds, alone=True)

    @precondition(lambda self: self.calls_running())
    @rule(data=st.data(), seconds=SECONDS, n_read=st.integers(0, 8))
    def calls_of_a_worker_end_before_that_is_heard(self, data: st.DataObject, seconds: float, n_read: int) -> None:
        """All of its calls that run, and some of those behind them."""
        worker_id = data.draw(st.sampled_from([i for i, _ in self.calls_running()]))
        player = self.players[worker_id]
        ended = [piece for i, piece in self.calls_running() if i == worker_id]
        for _ in range(n_read):
            if not player.link or player.link[0].count > 1 or player.link[0].done:
                break
            ended.append(player.link.popleft())
        for piece in ended:
            self.settle(piece.open_tasks, "ended")
            player.n_ended += 1
            if piece in player.slots:
                player.slots.remove(piece)
            if piece in player.lent:
                player.lent.remove(piece)
        self.scheduler.calls_ended(self.scheduler.workers[worker_id], [(piece, seconds) for piece in ended], self.now)

    def calls_running(self) -> list[tuple[int, Piece]]:
        return [(i, piece) for i, piece in self.running() if piece.count == 1 and not piece.done]

    @precondition(lambda self: self.running())
    @rule(data=st.data(), seconds=SECONDS)
    def a_part_of_a_chunk_ends(self, data: st.DataObject, seconds: float) -> None:
        worker_id, piece = data.draw(st.sampled_from(self.running()))
        self.end(worker_id, piece, data.draw(st.integers(1, len(piece.open_tasks))), seconds)

    # -- nested tasks ---------------------------------------------------------------------------------------------

    def not_waiting(self) -> list[Piece]:
        return [piece for player in self.players.values() for piece in player.slots if piece not in player.lent]

    def is_spent(self, player: Player) -> bool:
        """It was given its last task."""
        return any(w is player and self.scheduler.workers[i].retiring for i, w in self.players.items())

    def lends_all(self, player: Player) -> bool:
        return len(player.lent) >= self.n_slots or (bool(player.lent) and self.is_spent(player))

    def waiting(self) -> list[Piece]:
        return [piece for player in self.players.values() for piece in player.lent]

    @precondition(lambda self: self.not_waiting())
    @rule(data=st.data(), n_calls=st.integers(1, 12), depth=st.integers(1, 3))
    def a_task_waits_for_nested_ones(self, data: st.DataObject, n_calls: int, depth: int) -> None:
        """It may also be told of the waiting before the nested tasks come, or of tasks that wait for none any more."""
        piece = data.draw(st.sampled_from(self.not_waiting()))
        lender = self.players[piece.worker_id]
        if not self.scheduler.slot_lent(piece, self.now):
            others = [player for player in self.players.values() if player is not lender and not player.told_to_stop]
            assert sum(map(self.lends_all, others)) + 1 >= self.max_workers
            return
        self.ever_lent = True
        lender.lent.append(piece)
        stream = Work(0, 1, estimates=self.estimates, length_known=False, priority=NESTED + depth)
        self.add(stream, n_calls)

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def a_task_waits_no_more(self, data: st.DataObject) -> None:
        piece = data.draw(st.sampled_from(self.waiting()))
        self.players[piece.worker_id].lent.remove(piece)
        self.scheduler.slot_returned(piece, self.now)

    # -- deaths ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.players)
    @rule(data=st.data())
    def a_worker_is_lost(self, data: st.DataObject) -> None:
        """Its unread chunks go elsewhere; of those that ran, some tasks have ended, one is lost, the rest goes too."""
        worker_id = data.draw(st.sampled_from(sorted(self.players)))
        player = self.players.pop(worker_id)
        self.n_lost += 1
        held = self.scheduler.worker_lost(worker_id, self.now)
        assert held == list(dict.fromkeys(held))
        assert set(held) == set(player.held)
        back = list(player.link)
        for piece in player.slots:
            n_ended = data.draw(st.integers(0, len(piece.open_tasks)))
            self.settle(piece.open_tasks[:n_ended], "ended")
            culprit = piece.done + n_ended
            if culprit < piece.count and data.draw(st.booleans()):
                self.later.append(Piece(piece.stream, piece.start + culprit, 1))
            else:
                self.settle(piece.tasks[culprit : culprit + 1], "lost")
            if culprit + 1 < piece.count:
                back.append(piece.cut(culprit + 1))
        self.scheduler.came_back(back, self.now)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_task_fails_and_is_to_be_tried_again(self, data: st.DataObject) -> None:
        worker_id, piece = data.draw(st.sampled_from(self.running()))
        self.later.append(Piece(piece.stream, piece.start + piece.done, 1))
        self.tell_of_end(worker_id, piece, 1, 1e-4)

    @precondition(lambda self: not self.grows and [p for p in self.players.values() if not p.told_to_stop])
    @rule(data=st.data())
    def a_worker_is_orphaned(self, data: st.DataObject) -> None:
        """It goes on, but nobody looks after it (its template died), or it is worn out: it is replaced at once."""
        worker_id = data.draw(st.sampled_from(sorted(i for i, p in self.players.items() if not p.told_to_stop)))
        self.players[worker_id].orphaned = True
        self.scheduler.worker_orphaned(worker_id, self.now)

    @precondition(lambda self: [p for p in self.players.values() if p.told_to_stop and not p.held])
    @rule(data=st.data())
    def a_worker_ends_as_it_was_told(self, data: st.DataObject) -> None:
        free = sorted(i for i, p in self.players.items() if p.told_to_stop and not p.held)
        worker_id = data.draw(st.sampled_from(free))
        del self.players[worker_id]
        self.n_lost += 1
        assert self.scheduler.worker_lost(worker_id, self.now) == []

    # -- what the driver does -------------------------------------------------------------------------------------

    @precondition(lambda self: self.later)
    @rule(data=st.data())
    def a_next_attempt_is_due(self, data: st.DataObject) -> None:
        piece = data.draw(st.sampled_from(self.later))
        self.later.remove(piece)
        self.scheduler.came_back([piece], self.now)

    @rule(under_pressure=st.booleans())
    def memory_is_short_or_is_not(self, under_pressure: bool) -> None:
        self.under_pressure = under_pressure
        self.scheduler.pressure_changed(under_pressure, self.now)

    def ordered_back(self) -> list[int]:
        self.take_backs = [i for i in self.take_backs if i in self.players]
        return self.take_backs

    def take_from(self, worker_id: int, pieces: list[Piece]) -> None:
        player = self.players[worker_id]
        for piece in pieces:
            player.link.remove(piece)
            player.n_left += piece.count

    @precondition(lambda self: self.ordered_back())
    @rule(data=st.data())
    def an_order_to_take_back_is_carried_out(self, data: st.DataObject) -> None:
        worker_id = data.draw(st.sampled_from(self.take_backs))
        self.take_backs.remove(worker_id)
        self.take_all_back(worker_id)

    def take_all_back(self, worker_id: int) -> None:
        pieces = list(self.players[worker_id].link)
        self.take_from(worker_id, pieces)
        self.scheduler.taken_back(pieces, self.now)

    def running_and_asked(self) -> list[tuple[int, Piece]]:
        return [(i, p) for i, player in self.players.items() for p in player.slots if self.is_asked(p, player)]

    def is_asked(self, piece: Piece, player: Player) -> bool:
        return piece in self.asked_to_part and piece not in player.lent

    @precondition(lambda self: self.asked_to_part)
    @rule(data=st.data())
    def a_chunk_cannot_be_parted_yet(self, data: st.DataObject) -> None:
        """It is asked again, and again once only."""
        piece = data.draw(st.sampled_from(self.asked_to_part))
        self.asked_to_part.remove(piece)
        self.scheduler.not_parted(piece, self.now)

    @precondition(lambda self: self.running_and_asked())
    @rule(data=st.data(), seconds=SECONDS)
    def a_chunk_is_parted(self, data: st.DataObject, seconds: float) -> None:
        """The worker ends the task that it runs, perhaps some others, and gives back the rest."""
        worker_id, piece = data.draw(st.sampled_from(self.running_and_asked()))
        n_ended = data.draw(st.integers(0, piece.count - piece.done - 1))
        player = self.players[worker_id]
        if n_ended:
            self.settle(piece.open_tasks[:n_ended], "result")
            player.n_ended += n_ended
            self.scheduler.ended(piece, n_ended, seconds, self.now)
            self.perform()
        player.slots.remove(piece)
        n_left = piece.count - piece.done
        player.n_left += n_left
        self.scheduler.parted(piece, piece.done, self.now)

    def holding_unread(self) -> list[int]:
        return [i for i, player in self.players.items() if player.link]

    @precondition(lambda self: self.holding_unread())
    @rule(data=st.data())
    def some_unread_chunks_come_back_unasked(self, data: st.DataObject) -> None:
        """A worker that has forgotten a function says so; a cancelled call's neighbours come back with it."""
        worker_id = data.draw(st.sampled_from(self.holding_unread()))
        pieces = data.draw(st.lists(st.sampled_from(list(self.players[worker_id].link)), min_size=1, unique=True))
        self.take_from(worker_id, pieces)
        self.scheduler.taken_back(pieces, self.now)

    @precondition(lambda self: self.holding_unread())
    @rule(data=st.data(), singly=st.booleans())
    def an_unread_chunk_is_withdrawn(self, data: st.DataObject, singly: bool) -> None:
        """It was cancelled; or it would not pickle, and its tasks are to be tried one at a time."""
        worker_id = data.draw(st.sampled_from(self.holding_unread()))
        piece = data.draw(st.sampled_from(list(self.players[worker_id].link)))
        self.take_from(worker_id, [piece])
        self.scheduler.withdrawn(piece, self.now)
        if singly and piece.count > 1:
            pieces = [piece]
            while pieces[-1].count > 1:
                pieces.append(pieces[-1].cut(1))
            self.scheduler.came_back(pieces, self.now)
        else:
            self.settle(piece.tasks, "withdrawn")

    @rule(seconds=st.sampled_from([0.0, 0.0001, 0.0021, 0.1]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.scheduler.look_again_at is not None:
            self.scheduler.time_passed(self.now)

    # -- the model ------------------------------------------------------------------------------------------------

    def settle(self, tasks: list[Task], how: str) -> None:
        for task in tasks:
            assert task not in self.fate, f"{task} was {self.fate[task]}, and now is to be {how}"
            self.fate[task] = how
            self.open.remove(task)

    def perform(self) -> None:
        actions, self.scheduler.actions = self.scheduler.actions, []
        if self.under_pressure and any(action[0] == "send" for action in actions):
            assert sum(action[0] == "send" for action in actions) == 1, "more than one was sent though memory is short"
            held = [piece for player in self.players.values() for piece in player.held if piece not in player.lent]
            assert not any(piece.open_tasks for piece in held)
        for action in actions:
            worker_id = action[1]
            if action[0] == "start":
                assert worker_id not in self.players
                self.n_started += 1
                self.players[worker_id] = Player()
                continue
            assert worker_id in self.players, f"{action} names a worker that is not there"
            player = self.players[worker_id]
            may_be_asked = action[0] in ("take_back", "part") and player.orphaned
            assert not player.told_to_stop or may_be_asked, f"{action}: it was told to stop"
            if action[0] == "send":
                piece = action[2]
                assert isinstance(piece, Piece)
                assert piece.done == 0
                player.n_given += piece.count
                player.link.append(piece)
            elif action[0] == "take_back":
                assert self.may_take_back
                self.take_backs.append(worker_id)
            elif action[0] == "part":
                piece = action[2]
                assert isinstance(piece, Piece)
                assert self.may_take_back
                assert piece.may_part()
                assert piece in player.held
                assert piece not in self.asked_to_part, "asked twice"
                self.asked_to_part.append(piece)
            elif action[0] in ("grow", "shrink"):
                assert self.grows
                player.n_grown += 1 if action[0] == "grow" else -1
            else:
                assert not player.held or player.orphaned, "told to stop while it holds work"
                player.told_to_stop = True
                if not self.closed and not player.n_left and not player.orphaned and not self.ever_lent:
                    assert player.n_ended == self.max_tasks, "told to stop before it had done its share"

    @invariant()
    def the_rules_are_kept(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        self.broke_a_rule = True
        self.perform()
        self.scheduler.check()
        self.every_open_task_is_in_one_place()
        self.nothing_waits_while_there_is_room()
        self.what_is_urgent_comes_first()
        self.a_free_slot_looks_for_work()
        self.workers_are_as_many_as_they_should_be()
        self.broke_a_rule = False

    def every_open_task_is_in_one_place(self) -> None:
        found = [task for player in self.players.values() for piece in player.held for task in piece.open_tasks]
        assert self.scheduler.n_sent_tasks == len(found)
        found += [task for piece in self.scheduler.returned if isinstance(piece, Piece) for task in piece.open_tasks]
        found += [task for piece in self.rests() for task in piece.open_tasks]
        found += [task for piece in self.later for task in piece.open_tasks]
        found += [(stream.number, i) for stream in self.streams for i in range(stream.taken, stream.total)]
        assert len(found) == len(self.open)
        assert set(found) == self.open

    def rests(self) -> list[Piece]:
        """What was given back of chunks, and waits."""
        chunks = [stream._chunk for stream in self.scheduler.streams if isinstance(stream, Rest)]
        return [chunk for chunk in chunks if isinstance(chunk, Piece)]

    def waits(self) -> bool:
        return bool(self.scheduler.returned or self.rests()) or any(stream.available() for stream in self.streams)

    def nothing_waits_while_there_is_room(self) -> None:
        assert self.scheduler.has_waiting() == self.waits()
        n_held = sum(len(player.held) - len(player.lent) for player in self.players.values())
        if not self.waits() or (self.under_pressure and n_held):
            return
        n_holders = sum(bool(player.held) for player in self.players.values())
        for player in self.players.values():
            if player.told_to_stop or player.n_given == self.max_tasks or player.n_left:
                continue
            if self.lends_all(player) and not self.grows:
                continue
            # A successor waits for the worker in whose place it comes; all others have a link full.
            in_reserve = not player.held and n_holders >= self.n_workers
            if self.ever_lent:
                in_reserve = any(w is player for i, w in self.players.items() if i in self.scheduler.reserve)
            n_held = len(player.held) - player.n_grown
            assert in_reserve or n_held >= 2 * self.n_slots, "work waits while a worker has room"

    def what_is_urgent_comes_first(self) -> None:
        priorities = [stream.priority for stream in self.scheduler.streams]
        assert priorities == sorted(priorities, reverse=True)

    def a_free_slot_looks_for_work(self) -> None:
        """A slot is free while a chunk lies in another worker's link: it is asked for, now or soon."""
        if self.under_pressure and self.scheduler.has_waiting():
            return  # it stays free on purpose
        if self.may_take_back and self.scheduler.idle and self.scheduler.laden:
            assert self.take_backs or self.scheduler.look_again_at is not None, "a slot stays free beside a full link"
        if self.may_take_back and self.scheduler.idle and self.scheduler.partable:
            assert self.scheduler.look_again_at is not None, "a slot stays free beside a chunk that may be parted"

    def workers_are_as_many_as_they_should_be(self) -> None:
        alive = [player for player in self.players.values() if not player.told_to_stop]
        assert self.n_started == self.n_lost + len(self.players)
        if self.closed:
            assert not alive
            return
        if self.ever_lent:
            self.lent_workers_are_replaced(alive)
        else:
            assert sum(bool(player.held) for player in alive) <= self.n_workers, "more run tasks than the pool has"
            # In each place, at most one that retires, and the one that comes after it.
            assert self.n_workers <= len(alive) <= self.n_workers * (1 if self.max_tasks is None else 2)
        for player in alive:
            if self.max_tasks is not None:
                assert player.n_given - player.n_left <= self.max_tasks

    def lent_workers_are_replaced(self, alive: list[Player]) -> None:
        """As many can be given work as the pool has, besides those that wait; and no more than are needed for that."""
        if self.grows:
            assert len(alive) == self.n_workers
            assert all(player.n_grown == len(player.lent) for player in alive)
            return
        n_waiting = sum(map(self.lends_all, alive))
        n_retiring = sum(self.is_spent(player) and not player.lent for player in alive)
        assert len(alive) - n_waiting - n_retiring >= min(self.n_workers, self.max_workers - n_waiting)
        assert self.scheduler.n_active <= self.n_workers + n_retiring + (self.n_slots > 1) * len(self.waiting())

    # -- the end --------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """From wherever we are: all work drains, with some chunks stuck for ever and then without; then all stop."""
        if not hasattr(self, "scheduler") or self.broke_a_rule:
            return
        self.the_rules_are_kept()
        others_can_help = self.n_workers > 1 or (self.n_slots > 1 and self.max_tasks is None)
        if self.may_take_back and self.waiting():
            self.drain(stuck=self.waiting())  # those that wait hold up nobody else
            for piece in self.waiting()[::2]:
                self.players[piece.worker_id].lent.remove(piece)
                self.scheduler.slot_returned(piece, self.now)
                self.the_rules_are_kept()
        elif self.may_take_back and others_can_help and self.running():
            self.drain(stuck=[self.running()[0][1]])
        self.drain(stuck=[])
        assert not self.scheduler.has_waiting()
        assert len(self.fate) == sum(stream.total for stream in self.streams)
        if not self.closed:
            self.the_pool_closes()
            self.the_rules_are_kept()
        assert all(player.told_to_stop and not player.held for player in self.players.values())
        n_started = self.n_started
        for worker_id in list(self.players):
            del self.players[worker_id]
            self.n_lost += 1
            assert self.scheduler.worker_lost(worker_id, self.now) == []
            self.the_rules_are_kept()
        assert self.n_started == n_started, "a worker was started after the end"

    def drain(self, stuck: list[Piece]) -> None:
        """Deliver fairly all that can happen, until nothing is open but what is stuck."""
        stuck_tasks = {task for piece in stuck for task in piece.open_tasks}
        self.memory_is_short_or_is_not(under_pressure=False)
        self.the_rules_are_kept()
        for _ in range(50 + 3 * len(self.open)):
            if self.open <= stuck_tasks:
                return
            while self.later:
                self.scheduler.came_back([self.later.pop()], self.now)
                self.the_rules_are_kept()
            for worker_id, player in list(self.players.items()):
                while player.link and self.has_free_slot(player):
                    self.read_by(worker_id)
                for piece in [piece for piece in player.slots if piece not in stuck]:
                    self.end(worker_id, piece, len(piece.open_tasks), 1e-4)
                    self.the_rules_are_kept()
                if player.told_to_stop and not player.held:
                    del self.players[worker_id]
                    self.n_lost += 1
                    assert self.scheduler.worker_lost(worker_id, self.now) == []
                    self.the_rules_are_kept()
            for worker_id in self.ordered_back():
                self.take_all_back(worker_id)
            self.take_backs.clear()
            self.now += 0.003
            if self.scheduler.look_again_at is not None:
                self.scheduler.time_passed(self.now)
            self.the_rules_are_kept()
        raise AssertionError(f"work lies still: {sorted(self.open - stuck_tasks)[:5]} ...")


def test_every_order_of_events_keeps_the_rules() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            database=None,
            print_blob=True,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )
