"""The scheduler's rules, one by one. `test_scheduler_machine.py` drives it through every order of events."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from fullcourt._core import scheduler as module
from fullcourt._core.chunking import LONG_S, MAX_CHUNK, TARGET_S
from fullcourt._core.model import NESTED, Estimate
from fullcourt._core.scheduler import CROWDED_S, MAX_OVERTAKEN, MAX_SENT, STEAL_S, STILL_S, Scheduler
from tests.core.scheduler_work import Piece, Work, timed


def opened(n_workers: int, n_slots: int = 1, **options: Any) -> Scheduler:
    scheduler = Scheduler(n_workers, n_slots, **options)
    scheduler.opened(0.0)
    return scheduler


def actions(scheduler: Scheduler) -> list[tuple[Any, ...]]:
    """What it wants done since the last look; chunks as (start, count)."""
    taken, scheduler.actions = scheduler.actions, []
    scheduler.check()
    return [(a[0], a[1], (a[2].start, a[2].count)) if a[0] == "send" else tuple(a) for a in taken]


def sent_to(scheduler: Scheduler) -> list[int]:
    return [action[1] for action in actions(scheduler) if action[0] == "send"]


def held(scheduler: Scheduler, worker_id: int) -> list[Piece]:
    return [piece for piece in scheduler.workers[worker_id].sent.values() if isinstance(piece, Piece)]


def fill(scheduler: Scheduler, stream: Work, now: float = 0.0) -> Work:
    scheduler.stream_filled(stream, now)
    return stream


def end_all(scheduler: Scheduler, worker_id: int, seconds: float = 0.1, now: float = 1.0) -> None:
    for piece in held(scheduler, worker_id):
        scheduler.ended(piece, piece.count - piece.done, seconds, now)


# -- opening ----------------------------------------------------------------------------------------------------------


def test_opening_starts_all_workers_and_asks_for_nothing_else() -> None:
    scheduler = opened(3)
    assert actions(scheduler) == [("start", 1), ("start", 2), ("start", 3)]
    assert not scheduler.has_waiting()
    assert scheduler.look_again_at is None


def test_work_that_came_before_the_opening_is_sent_at_the_opening() -> None:
    scheduler = Scheduler(1, 1)
    fill(scheduler, Work(1, 1))
    assert scheduler.has_waiting()
    scheduler.opened(0.0)
    assert actions(scheduler) == [("start", 1), ("send", 1, (0, 1))]


# -- who is given work ------------------------------------------------------------------------------------------------


def test_free_slots_are_filled_before_anything_queues_behind_a_running_task() -> None:
    scheduler = opened(3, 2)
    fill(scheduler, Work(6, 1))
    assert sorted(sent_to(scheduler)) == [1, 1, 2, 2, 3, 3]


def test_the_worker_that_fell_idle_last_is_given_work_first() -> None:
    scheduler = opened(3)
    fill(scheduler, Work(3, 1))
    for worker_id in (2, 3, 1):
        end_all(scheduler, worker_id)
    actions(scheduler)
    fill(scheduler, Work(2, 1))
    assert sent_to(scheduler) == [1, 3]


def test_workers_with_room_behind_a_running_task_take_turns() -> None:
    scheduler = opened(3)
    fill(scheduler, Work(6, 1))
    assert sorted(sent_to(scheduler)[3:]) == [1, 2, 3]


def test_a_link_holds_one_task_in_advance_for_each_slot_however_long_they_take() -> None:
    scheduler = opened(1, 3)
    fill(scheduler, Work(50, 1, estimates=[timed(1.0)]))
    assert len(sent_to(scheduler)) == 6
    assert scheduler.has_waiting()


def test_a_link_holds_two_milliseconds_of_short_tasks_in_advance() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(50, 1, estimates=[timed(0.0001)]))
    assert len(sent_to(scheduler)) == pytest.approx(20, abs=1)


def test_tasks_that_were_never_timed_count_for_a_millisecond() -> None:
    scheduler = opened(1, 4)
    fill(scheduler, Work(50, 1))
    assert len(sent_to(scheduler)) == 8
    assert scheduler.workers[1].load_s == pytest.approx(0.008)


def test_a_link_never_holds_more_than_64_chunks_a_slot() -> None:
    scheduler = opened(1, 2)
    fill(scheduler, Work(500, 1, estimates=[timed(0.0)]))
    assert MAX_SENT == 64
    assert len(sent_to(scheduler)) == 128


def test_a_link_that_was_full_is_filled_again_when_half_of_it_is_empty() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(500, 1, estimates=[timed(0.0)]))
    assert len(sent_to(scheduler)) == MAX_SENT
    n_sent = []
    for _ in range(MAX_SENT):
        actions(scheduler)
        scheduler.ended(held(scheduler, 1)[0], 1, 0.0, 1.0)
        n_sent.append(len(actions(scheduler)))
    assert [n for n in n_sent if n] == [33]
    assert n_sent.index(33) == 32


def test_room_that_an_end_makes_is_filled_at_once() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(4, 1, estimates=[timed(1.0)]))
    assert len(sent_to(scheduler)) == 2
    scheduler.ended(held(scheduler, 1)[0], 1, 1.0, 1.0)
    assert actions(scheduler) == [("send", 1, (2, 1))]


def test_a_part_of_a_chunk_that_ended_makes_no_room() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(30, 10))
    piece = held(scheduler, 1)[0]
    actions(scheduler)
    scheduler.ended(piece, 4, 0.4, 1.0)
    assert actions(scheduler) == []
    assert piece.done == 4
    assert scheduler.n_sent_tasks == 16
    scheduler.ended(piece, 6, 0.6, 1.0)
    assert actions(scheduler) == [("send", 1, (20, 10))]
    assert piece.worker_id is None


def test_the_end_of_a_chunk_that_no_worker_holds_is_passed_over() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(1, 1))
    piece = held(scheduler, 1)[0]
    actions(scheduler)
    for _ in range(2):
        scheduler.ended(piece, 1, 0.1, 1.0)
    scheduler.withdrawn(piece, 1.0)
    scheduler.taken_back([piece], 1.0)
    assert actions(scheduler) == []
    assert piece.done == 1
    assert scheduler.n_sent_tasks == 0


# -- where work comes from --------------------------------------------------------------------------------------------


def test_streams_take_turns() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(2, 1, estimates=[timed(1.0)]))
    actions(scheduler)
    first, second = (fill(scheduler, Work(3, 1, estimates=[timed(1.0)])) for _ in range(2))
    for _ in range(4):
        scheduler.ended(held(scheduler, 1)[0], 1, 1.0, 1.0)
    assert (first.taken, second.taken) == (2, 2)


def test_a_stream_that_has_nothing_is_not_queued() -> None:
    scheduler = opened(1)
    stream = fill(scheduler, Work(0, 1))
    assert not stream.queued
    assert not scheduler.has_waiting()


def test_a_stream_that_is_told_of_twice_is_queued_once() -> None:
    scheduler = opened(1)
    stream = fill(scheduler, Work(5, 1, estimates=[timed(1.0)]))
    fill(scheduler, stream)
    assert list(scheduler.streams) == [stream]


def test_a_stream_that_another_thread_fills_while_its_last_task_is_taken_stays_queued() -> None:
    class Filling(Work):
        looks = 0

        def available(self) -> int:
            n = super().available()
            if n == 0 and self.looks == 0:
                self.looks = 1
                self.total += 1  # the other thread has seen it queued, and told nobody
            return n

    scheduler = opened(1)
    stream = Filling(1, 1)
    scheduler.stream_filled(stream, 0.0)
    assert sent_to(scheduler) == [1, 1]
    assert stream.taken == 2
    assert not stream.queued


def test_a_stream_that_was_emptied_while_it_waited_is_passed_over() -> None:
    """A map that failed or was cancelled has nothing to give any more."""
    scheduler = opened(1)
    fill(scheduler, Work(2, 1, estimates=[timed(1.0)]))
    cancelled, other = fill(scheduler, Work(5, 1)), fill(scheduler, Work(1, 1))
    cancelled.total = 0
    end_all(scheduler, 1)
    assert other.taken == 1
    assert not scheduler.has_waiting()


def test_what_came_back_goes_before_all_else() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(2, 1, estimates=[timed(1.0)]))
    fill(scheduler, Work(1, 1))
    late = Piece(Work(1), 0, 1)
    scheduler.came_back([late], 1.0)
    scheduler.ended(held(scheduler, 1)[0], 1, 1.0, 1.0)
    assert late.worker_id == 1


def test_what_comes_back_while_there_is_room_is_sent_at_once() -> None:
    scheduler = opened(1)
    late = Piece(Work(1), 0, 1)
    scheduler.came_back([late], 1.0)
    assert late.worker_id == 1
    assert not scheduler.has_waiting()


# -- the size of chunks -----------------------------------------------------------------------------------------------


def test_the_callers_chunk_size_is_kept() -> None:
    scheduler = opened(2)
    fill(scheduler, Work(25, 10))
    assert [action[2] for action in actions(scheduler) if action[0] == "send"] == [(0, 10), (10, 10), (20, 5)]


def test_the_callers_chunk_size_is_kept_whatever_tasks_take() -> None:
    scheduler = opened(1)
    stream = Work(100, 7)
    stream.estimate.add(1, 1e-6)
    fill(scheduler, stream)
    assert {action[2][1] for action in actions(scheduler)[1:-1]} == {7}
    assert stream.last_size == 0


def test_a_chunk_is_never_larger_than_a_workers_journal_whatever_the_caller_asked_for() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(3 * MAX_CHUNK, 2 * MAX_CHUNK))
    assert [action[2] for action in actions(scheduler)[1:]] == [(0, MAX_CHUNK), (MAX_CHUNK, MAX_CHUNK)]


def test_a_free_size_starts_with_one_and_grows_as_tasks_are_timed() -> None:
    scheduler = opened(1)
    stream = fill(scheduler, Work(100_000))
    assert [action[2][1] for action in actions(scheduler)[1:]] == [1, 1]
    for _ in range(3):
        scheduler.ended(held(scheduler, 1)[0], held(scheduler, 1)[0].count, 1e-6 * held(scheduler, 1)[0].count, 1.0)
    sizes = [action[2][1] for action in actions(scheduler)]
    assert sizes[:2] == [16, 256]
    assert stream.last_size == sizes[-1]


def test_all_slots_of_the_pool_share_the_end_of_the_input() -> None:
    scheduler = opened(3, 2)
    stream = Work(1200)
    stream.estimate.add(1, 1e-5)
    fill(scheduler, stream)
    assert actions(scheduler)[3][2] == (0, 100)  # 1200 tasks, 6 slots: half of an even share


# -- tasks that do not run --------------------------------------------------------------------------------------------


def test_a_withdrawn_chunk_leaves_its_place_to_the_next() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(3, 1, estimates=[timed(1.0)]))
    actions(scheduler)
    scheduler.withdrawn(held(scheduler, 1)[1], 1.0)
    assert actions(scheduler) == [("send", 1, (2, 1))]
    assert scheduler.workers[1].n_given == 2


def test_a_worker_whose_only_chunk_was_withdrawn_is_idle() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(1, 1))
    actions(scheduler)
    scheduler.withdrawn(held(scheduler, 1)[0], 1.0)
    assert list(scheduler.idle) == [1]
    assert scheduler.workers[1].n_given == scheduler.n_sent_tasks == 0
    assert scheduler.workers[1].load_s == 0.0


def test_chunks_that_were_taken_back_go_to_whoever_is_free() -> None:
    scheduler = opened(2)
    fill(scheduler, Work(4, 1, estimates=[timed(1.0)]))
    end_all(scheduler, 2)
    actions(scheduler)
    unread = held(scheduler, 1)[1]
    scheduler.taken_back([unread], 1.0)
    assert actions(scheduler) == [("send", 2, (unread.start, 1))]
    assert scheduler.workers[1].n_given == 1


# -- stealing ---------------------------------------------------------------------------------------------------------


def one_busy_one_free(mean_s: float = 1.0, **options: Any) -> Scheduler:
    """Worker 1 holds two chunks, worker 2 has just become free; nothing waits."""
    scheduler = opened(2, **options)
    fill(scheduler, Work(4, 1, estimates=[timed(mean_s)]))
    first, *others = held(scheduler, 2)
    for piece in others:
        scheduler.ended(piece, 1, mean_s, 0.001)
    actions(scheduler)
    scheduler.ended(first, 1, mean_s, 0.001)
    return scheduler


def test_a_worker_that_falls_idle_takes_back_what_lies_behind_another_workers_task() -> None:
    scheduler = one_busy_one_free()
    assert actions(scheduler) == [("take_back", 1)]
    assert scheduler.look_again_at == pytest.approx(0.001 + STILL_S)


def test_nothing_is_taken_back_where_that_cannot_be_done() -> None:
    scheduler = one_busy_one_free(may_take_back=False)
    assert actions(scheduler) == []
    assert scheduler.look_again_at is None


def test_nothing_is_taken_back_while_other_work_waits() -> None:
    scheduler = opened(2)
    fill(scheduler, Work(9, 1, estimates=[timed(1.0)]))
    actions(scheduler)
    scheduler.ended(held(scheduler, 2)[0], 1, 1.0, 1.0)
    assert actions(scheduler) == [("send", 2, (4, 1))]


def one_stuck(**options: Any) -> Scheduler:
    """Two workers run items of 10 ms while more wait; the first is in its first item still, the second ends its own."""
    scheduler, _ = laden(2, **options)
    for now in (0.01, 0.02, 0.03):
        scheduler.ended(held(scheduler, 2)[0], 1, 0.01, now)
    return scheduler


def test_what_lies_behind_a_task_that_turns_out_long_goes_before_all_that_waits() -> None:
    scheduler = one_stuck()
    assert [action for action in actions(scheduler) if action[0] == "take_back"] == [("take_back", 1)]
    _, unread = held(scheduler, 1)
    scheduler.taken_back([unread], 0.03)
    assert actions(scheduler) == []
    scheduler.ended(held(scheduler, 2)[0], 1, 0.01, 0.04)
    assert actions(scheduler) == [("send", 2, (unread.start, 1))]


def test_nothing_is_taken_back_while_a_task_may_well_end_soon() -> None:
    scheduler, _ = laden(2)
    scheduler.ended(held(scheduler, 2)[0], 1, 0.01, 0.02)
    assert [action for action in actions(scheduler) if action[0] == "take_back"] == []
    scheduler = one_stuck(may_take_back=False)
    assert [action for action in actions(scheduler) if action[0] == "take_back"] == []


def test_a_worker_whose_task_is_overdue_is_sent_nothing_ahead_until_it_tells_of_an_end() -> None:
    scheduler = one_stuck()
    long, unread = held(scheduler, 1)
    scheduler.taken_back([unread], 0.03)
    actions(scheduler)
    for now in (0.04, 0.05, 0.06):
        scheduler.ended(held(scheduler, 2)[0], 1, 0.01, now)
    assert set(sent_to(scheduler)) == {2}
    scheduler.ended(long, 1, 0.07, 0.07)
    assert sent_to(scheduler) == [1, 1]


def test_a_worker_that_is_overdue_is_sent_to_again_when_it_tells_of_a_part() -> None:
    scheduler = opened(2)
    stream = Work(100, 4)
    stream.estimate.mean_s = 0.01
    fill(scheduler, stream)
    scheduler.ended(held(scheduler, 2)[0], 4, 0.04, 1.0)
    long, unread = held(scheduler, 1)
    scheduler.taken_back([unread], 1.0)
    actions(scheduler)
    scheduler.ended(long, 1, 1.0, 1.01)
    assert sent_to(scheduler) == [1]


def test_it_is_taken_from_the_one_that_is_laden_most() -> None:
    scheduler = opened(3)
    fill(scheduler, Work(6, 1, estimates=[timed(1.0), timed(3.0), timed(2.0)]))
    loads = {worker.load_s: worker.id for worker in scheduler.workers.values()}
    free = loads.pop(min(loads))
    actions(scheduler)
    end_all(scheduler, free, now=0.001)
    assert ("take_back", loads[max(loads)]) in actions(scheduler)


def test_little_work_is_left_where_it_is_as_long_as_its_worker_goes_on() -> None:
    scheduler = one_busy_one_free(STEAL_S / 10)
    assert actions(scheduler) == []
    assert scheduler.look_again_at is not None


def test_little_work_is_taken_back_once_its_worker_has_told_nothing_for_a_while() -> None:
    scheduler = one_busy_one_free(STEAL_S / 10)
    actions(scheduler)
    look_at = scheduler.look_again_at
    assert look_at is not None
    scheduler.time_passed(look_at - 0.0001)
    assert actions(scheduler) == []
    assert scheduler.look_again_at == look_at
    scheduler.time_passed(look_at)
    assert actions(scheduler) == [("take_back", 1)]
    assert scheduler.look_again_at == pytest.approx(look_at + STILL_S)


def test_a_worker_that_told_of_an_end_a_moment_ago_is_not_still() -> None:
    scheduler = one_busy_one_free(STEAL_S / 10)
    actions(scheduler)
    fill(scheduler, Work(30, 1, estimates=[timed(STEAL_S / 100)]), 0.001)
    actions(scheduler)
    end_all(scheduler, 2, 1e-6, 0.001)
    assert scheduler.look_again_at is not None
    scheduler.ended(held(scheduler, 1)[0], 1, 1e-6, scheduler.look_again_at - 0.0001)
    scheduler.time_passed(scheduler.look_again_at)
    assert actions(scheduler) == []


def one_chunk_left(mean_s: float = 5e-5, fixed: int | None = None) -> tuple[Scheduler, Piece]:
    """One worker runs a chunk, of 10 tasks unless it was the caller's choice; the other is free, and nothing waits."""
    scheduler = opened(2)
    work = Work(40, fixed)
    work.estimate = timed(mean_s)
    work.last_size = 40
    fill(scheduler, work)
    left = max((piece for i in (1, 2) for piece in held(scheduler, i)), key=lambda piece: piece.count)
    others = True
    while others:
        unread = [piece for piece in held(scheduler, left.worker_id or 0) if piece is not left]
        scheduler.taken_back(unread, 0.001)
        others = [piece for i in (1, 2) for piece in held(scheduler, i) if piece is not left]
        for piece in others:
            scheduler.ended(piece, piece.count, mean_s * piece.count, 0.001)
    scheduler.actions.clear()
    assert scheduler.idle
    return scheduler, left


def test_a_chunk_is_parted_once_its_tasks_are_seen_to_be_long() -> None:
    scheduler, left = one_chunk_left()
    scheduler.ended(left, 2, 0.02, 0.02)
    assert actions(scheduler) == [("part", left.worker_id, left)]
    scheduler.ended(left, 1, 0.01, 0.03)
    assert actions(scheduler) == []  # it is asked once
    scheduler.parted(left, 3, 0.03)
    assert left.worker_id is None
    sent = [action for action in actions(scheduler) if action[0] == "send"]
    assert {action[1] for action in sent} == {1, 2}
    assert max(action[2][1] for action in sent) == 1  # tasks of 6 ms travel one by one
    assert sum(stream.available() for stream in scheduler.streams) + len(sent) == 7


def test_a_chunk_is_parted_when_its_worker_has_told_nothing_for_a_while() -> None:
    scheduler, left = one_chunk_left()
    look_at = scheduler.look_again_at
    assert look_at is not None
    scheduler.time_passed(look_at)
    assert actions(scheduler) == [("part", left.worker_id, left)]


def test_a_chunk_that_its_worker_had_not_begun_is_asked_for_again() -> None:
    scheduler, left = one_chunk_left()
    scheduler.ended(left, 2, 0.02, 0.02)
    assert actions(scheduler) == [("part", left.worker_id, left)]
    scheduler.not_parted(left, 0.02)
    look_at = scheduler.look_again_at
    assert look_at is not None
    scheduler.time_passed(look_at)
    assert actions(scheduler) == [("part", left.worker_id, left)]


def test_a_chunk_that_soon_ends_is_not_parted() -> None:
    scheduler, left = one_chunk_left()
    scheduler.ended(left, 4, 4 * 5e-5, 0.0012)
    assert actions(scheduler) == []
    scheduler.ended(left, 5, 0.5, 0.1)  # one is left
    assert actions(scheduler) == []


def test_nobody_looks_again_and_again_at_a_chunk_of_which_one_task_is_left() -> None:
    scheduler, left = one_chunk_left()
    scheduler.ended(left, 9, 0.5, 0.5)
    now = 0.5
    while scheduler.look_again_at is not None and now < 0.6:
        now = scheduler.look_again_at
        scheduler.time_passed(now)
    assert now < 0.51
    assert actions(scheduler) == []


def test_what_was_given_back_is_divided_by_what_is_known_when_it_is_sent() -> None:
    scheduler, left = one_chunk_left()
    scheduler.ended(left, 2, 0.02, 0.02)
    left.stream.estimate.mean_s = 5e-5  # those two were long, but the next are like the first
    scheduler.parted(left, 2, 0.03)
    sent = [action[2][1] for action in actions(scheduler) if action[0] == "send"]
    assert max(sent) > 1


def test_what_was_given_back_runs_no_more_when_it_is_not_wanted() -> None:
    scheduler, left = one_chunk_left()
    scheduler.ended(left, 2, 0.02, 0.02)
    scheduler.parted(left, 2, 0.03)
    assert scheduler.has_waiting()
    actions(scheduler)
    left.stream.is_over = True
    end_all(scheduler, 1)
    end_all(scheduler, 2)
    assert sent_to(scheduler) == []
    assert not scheduler.has_waiting()


def test_what_was_given_back_takes_turns_with_other_work() -> None:
    scheduler, left = one_chunk_left()
    scheduler.ended(left, 2, 0.02, 0.02)
    scheduler.parted(left, 2, 0.03)
    urgent = fill(scheduler, Work(1, priority=1), 0.03)
    other = fill(scheduler, Work(1), 0.03)
    actions(scheduler)
    end_all(scheduler, 1)
    end_all(scheduler, 2)
    held_now = [piece.stream for i in (1, 2) for piece in held(scheduler, i)]
    assert held_now[0] is urgent
    assert other in held_now
    actions(scheduler)


def test_a_chunk_of_nested_tasks_is_parted_in_a_pool_of_threads() -> None:
    scheduler = opened(1, 2, grows=True)
    outer = fill(scheduler, Work(2, 1))
    for piece in held(scheduler, 1):
        scheduler.slot_lent(piece, 0.0)
    nested = Work(40, priority=NESTED)
    nested.estimate = timed(5e-5)
    nested.last_size = 40
    fill(scheduler, nested)
    while True:
        mine = [piece for piece in held(scheduler, 1) if piece.stream is nested]
        if len(mine) == 1 and not nested.available():
            break
        last = max(mine, key=lambda piece: piece.count)
        for piece in mine:
            if piece is not last:
                scheduler.ended(piece, piece.count, piece.count * 5e-5, 0.001)
        if len(mine) == 1:
            scheduler.ended(last, last.count, last.count * 5e-5, 0.001)
    scheduler.actions.clear()
    assert outer.available() == 0
    scheduler.ended(mine[0], 1, 0.5, 0.5)
    assert ("part", 1, mine[0]) in actions(scheduler)


def test_a_chunk_of_the_callers_size_is_not_parted() -> None:
    scheduler, left = one_chunk_left(fixed=10)
    scheduler.ended(left, 2, 1.0, 1.0)
    scheduler.time_passed(10.0)
    assert actions(scheduler) == []


def test_a_parted_chunk_of_which_more_is_to_be_told_stays_with_its_worker() -> None:
    scheduler, left = one_chunk_left()
    worker_id = left.worker_id
    scheduler.ended(left, 2, 0.02, 0.02)
    scheduler.parted(left, 5, 0.03)
    assert (left.worker_id, left.count, left.done) == (worker_id, 5, 2)
    actions(scheduler)
    scheduler.ended(left, 3, 0.03, 0.06)
    assert left.worker_id is None
    actions(scheduler)


def test_nobody_looks_again_when_there_is_nothing_to_take() -> None:
    scheduler = one_busy_one_free()
    actions(scheduler)
    end_all(scheduler, 1, now=0.002)
    scheduler.time_passed(1.0)
    assert actions(scheduler) == []
    assert scheduler.look_again_at is None


def test_a_slot_that_becomes_free_by_a_withdrawal_looks_for_work() -> None:
    scheduler = opened(2)
    fill(scheduler, Work(4, 1, estimates=[timed(1.0)]))
    for piece in held(scheduler, 2):
        scheduler.withdrawn(piece, 0.001)
    asked = [action for action in actions(scheduler) if action[0] == "take_back"]
    assert asked or scheduler.look_again_at is not None


def test_the_successor_of_a_dead_worker_looks_for_work() -> None:
    """A crash while all else lies behind a long task must not leave the new worker idle until that task ends."""
    scheduler = opened(2)
    fill(scheduler, Work(4, 1, estimates=[timed(1.0)]))
    actions(scheduler)
    scheduler.worker_lost(2, 0.001)  # what it ran is lost
    assert scheduler.idle
    assert scheduler.look_again_at is not None
    scheduler.time_passed(0.001 + STILL_S)
    assert ("take_back", 1) in actions(scheduler)


# -- deaths -----------------------------------------------------------------------------------------------------------


def test_a_dead_worker_has_a_successor_and_its_work_is_given_back_to_the_driver() -> None:
    scheduler = opened(2)
    fill(scheduler, Work(8, 2, estimates=[timed(1.0)]))
    actions(scheduler)
    pieces = held(scheduler, 1)
    scheduler.ended(pieces[0], 1, 1.0, 1.0)
    assert scheduler.worker_lost(1, 1.0) == pieces
    assert actions(scheduler) == [("start", 3)]
    assert [piece.worker_id for piece in pieces] == [None, None]
    assert scheduler.n_sent_tasks == 4
    scheduler.came_back([pieces[1]], 1.0)
    assert actions(scheduler) == [("send", 3, (pieces[1].start, 2))]


def test_the_successor_is_given_what_waits_at_once() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(4, 1, estimates=[timed(1.0)]))
    actions(scheduler)
    scheduler.worker_lost(1, 1.0)
    assert actions(scheduler) == [("start", 2), ("send", 2, (2, 1)), ("send", 2, (3, 1))]


def test_no_action_names_a_dead_worker_again() -> None:
    scheduler = opened(2)
    scheduler.worker_lost(1, 1.0)
    fill(scheduler, Work(40, 1))
    assert 1 not in sent_to(scheduler)


def test_a_worker_that_dies_after_it_was_told_to_stop_has_no_further_successor() -> None:
    scheduler = opened(1, max_tasks=1)
    fill(scheduler, Work(1, 1))
    end_all(scheduler, 1)
    assert actions(scheduler) == [("start", 1), ("send", 1, (0, 1)), ("start", 2), ("stop", 1)]
    assert scheduler.worker_lost(1, 2.0) == []
    assert actions(scheduler) == []


def test_a_worker_that_dies_with_its_last_task_has_one_successor() -> None:
    scheduler = opened(1, max_tasks=1)
    fill(scheduler, Work(1, 1))
    scheduler.worker_lost(1, 1.0)
    assert [action[0] for action in actions(scheduler)] == ["start", "send", "start"]


# -- workers of limited life ------------------------------------------------------------------------------------------


def test_a_worker_is_given_exactly_so_many_tasks() -> None:
    scheduler = opened(1, max_tasks=5)
    fill(scheduler, Work(9, 3))
    assert [action for action in actions(scheduler) if action[0] == "send"] == [
        ("send", 1, (0, 3)),
        ("send", 1, (3, 2)),
    ]


def test_its_successor_is_started_when_it_is_given_its_last_task_and_it_stops_when_that_has_ended() -> None:
    scheduler = opened(1, max_tasks=2)
    fill(scheduler, Work(2, 2))
    assert actions(scheduler) == [("start", 1), ("send", 1, (0, 2)), ("start", 2)]
    piece = held(scheduler, 1)[0]
    scheduler.ended(piece, 1, 1.0, 1.0)
    assert actions(scheduler) == []
    scheduler.ended(piece, 1, 1.0, 1.0)
    assert actions(scheduler) == [("stop", 1)]


def test_a_pool_of_one_runs_one_task_at_a_time_and_starts_one_successor_at_a_time() -> None:
    """However much waits: a successor has no work before the worker in whose place it comes has ended its own."""
    scheduler = opened(1, max_tasks=1)
    stream = fill(scheduler, Work(20, 1))
    assert stream.taken == 1
    assert actions(scheduler) == [("start", 1), ("send", 1, (0, 1)), ("start", 2)]
    end_all(scheduler, 1)
    assert sorted(actions(scheduler)) == [("send", 2, (1, 1)), ("start", 3), ("stop", 1)]


def test_work_taken_back_from_a_worker_that_retires_does_not_make_the_pool_grow() -> None:
    scheduler = opened(1, max_tasks=2)
    fill(scheduler, Work(50, 1, estimates=[timed(1.0)]))
    for _ in range(20):
        for worker in list(scheduler.workers.values()):
            if len(worker.sent) > 1:
                scheduler.taken_back([list(worker.sent.values())[-1]], 1.0)
    assert len(scheduler.workers) <= 2


def test_a_chunk_that_does_not_fit_in_what_is_left_of_a_workers_life_is_cut() -> None:
    scheduler = opened(1, max_tasks=3)
    scheduler.came_back([Piece(Work(5), 0, 5)], 0.0)
    end_all(scheduler, 1)
    sends = [action for action in actions(scheduler) if action[0] == "send"]
    assert sends == [("send", 1, (0, 3)), ("send", 2, (3, 2))]


def test_a_worker_whose_last_task_was_withdrawn_does_not_stay_in_the_way() -> None:
    scheduler = opened(1, max_tasks=1)
    fill(scheduler, Work(1, 1))
    scheduler.withdrawn(held(scheduler, 1)[0], 1.0)
    late = fill(scheduler, Work(1, 1))
    assert late.taken == 1
    assert len(scheduler.workers) - sum(worker.stopping for worker in scheduler.workers.values()) <= 2


# -- the end ----------------------------------------------------------------------------------------------------------


def test_closing_stops_every_worker_once() -> None:
    scheduler = opened(3)
    actions(scheduler)
    scheduler.closed()
    assert sorted(actions(scheduler)) == [("stop", 1), ("stop", 2), ("stop", 3)]
    scheduler.closed()
    assert actions(scheduler) == []


def test_a_worker_that_ends_after_the_closing_has_no_successor() -> None:
    scheduler = opened(1)
    scheduler.closed()
    actions(scheduler)
    assert scheduler.worker_lost(1, 1.0) == []
    assert actions(scheduler) == []
    assert not scheduler.workers


def test_a_worker_that_was_told_to_stop_is_given_nothing() -> None:
    scheduler = opened(1)
    scheduler.closed()
    actions(scheduler)
    fill(scheduler, Work(1, 1))
    assert actions(scheduler) == []


# -- what is told of it -----------------------------------------------------------------------------------------------


def test_it_knows_for_how_long_a_worker_has_held_work() -> None:
    scheduler = opened(1)
    fill(scheduler, Work(2, 1), 10.0)
    first, second = held(scheduler, 1)
    scheduler.ended(first, 1, 0.5, 11.0)
    scheduler.ended(second, 1, 0.5, 12.5)
    fill(scheduler, Work(1, 1), 20.0)
    worker = scheduler.workers[1]
    assert worker.held_s == pytest.approx(2.5)
    assert worker.holding_since == 20.0


def test_the_load_is_what_the_chunks_are_expected_to_take() -> None:
    scheduler = opened(1)
    stream = Work(4, 2)
    stream.estimate.add(1, 0.5)
    fill(scheduler, stream)
    assert scheduler.workers[1].load_s == pytest.approx(2.0)
    scheduler.ended(held(scheduler, 1)[0], 2, 1.0, 1.0)
    assert scheduler.workers[1].load_s == pytest.approx(1.0)


# -- cost -------------------------------------------------------------------------------------------------------------


def steps(event: Callable[[], object]) -> int:
    """How many lines of the scheduler's an event runs, comprehensions' rounds included."""
    n = 0

    def local(frame: FrameType, what: str, arg: object) -> Any:
        nonlocal n
        n += what == "line"
        return local

    def on_call(frame: FrameType, what: str, arg: object) -> Any:
        return local if frame.f_code.co_filename == module.__file__ else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        event()
    finally:
        sys.settrace(before)
    assert n > 0
    return n


def busy(n_workers: int, n_waiting: int) -> Scheduler:
    """All workers hold two long tasks; some more wait."""
    scheduler = opened(n_workers)
    fill(scheduler, Work(2 * n_workers + n_waiting, 1, estimates=[timed(1.0)]))
    return scheduler


def end_one(scheduler: Scheduler) -> Callable[[], object]:
    piece = held(scheduler, len(scheduler.workers) // 2)[0]
    return lambda: scheduler.ended(piece, 1, 1.0, 1.0)


def steal(scheduler: Scheduler) -> Callable[[], object]:
    first, second = held(scheduler, 1)
    scheduler.ended(first, 1, 1.0, 1.0)
    return lambda: scheduler.ended(second, 1, 1.0, 1.0)


def take_back(scheduler: Scheduler) -> Callable[[], object]:
    end_all(scheduler, 2)
    piece = held(scheduler, 1)[1]
    return lambda: scheduler.taken_back([piece], 1.0)


def withdraw(scheduler: Scheduler) -> Callable[[], object]:
    piece = held(scheduler, 1)[1]
    return lambda: scheduler.withdrawn(piece, 1.0)


def fill_more(scheduler: Scheduler) -> Callable[[], object]:
    end_all(scheduler, 3)
    stream = Work(1, 1)
    return lambda: scheduler.stream_filled(stream, 1.0)


def come_back(scheduler: Scheduler) -> Callable[[], object]:
    end_all(scheduler, 3)
    piece = Piece(Work(1), 0, 1)
    return lambda: scheduler.came_back([piece], 1.0)


def pass_time(scheduler: Scheduler) -> Callable[[], object]:
    end_all(scheduler, 1)
    assert scheduler.look_again_at is not None
    return lambda: scheduler.time_passed(2.0)


@pytest.mark.parametrize(
    ("prepare", "n_waiting"),
    [
        (end_one, 0),
        (end_one, 1000),
        (steal, 0),
        (take_back, 0),
        (withdraw, 0),
        (withdraw, 1000),
        (fill_more, 0),
        (come_back, 0),
        (pass_time, 0),
    ],
)
def test_what_an_event_costs_does_not_depend_on_the_number_of_workers(
    prepare: Callable[[Scheduler], Callable[[], object]], n_waiting: int
) -> None:
    few, many = (steps(prepare(busy(n_workers, n_waiting))) for n_workers in (16, 1000))
    assert few == many


def test_what_an_event_costs_does_not_depend_on_how_much_waits() -> None:
    little, much = (steps(end_one(busy(8, n_waiting))) for n_waiting in (10, 100_000))
    assert little == much


def test_finding_the_next_worker_steps_over_no_others() -> None:
    """Of the sets only the first or the last entry is looked at: that is one step of an iterator."""
    looked_at = 0

    class Watched(dict[int, Any]):
        def counted(self, iterator: Any) -> Any:
            nonlocal looked_at
            for entry in iterator:
                looked_at += 1
                yield entry

        def __iter__(self) -> Any:
            return self.counted(super().__iter__())

        def __reversed__(self) -> Any:
            return self.counted(super().__reversed__())

        def values(self) -> Any:
            return self.counted(super().values())

        def items(self) -> Any:
            return self.counted(super().items())

    scheduler = opened(1000)
    fill(scheduler, Work(900, 1, estimates=[timed(1.0)]))
    for name in ("workers", "idle", "roomy", "laden"):
        setattr(scheduler, name, Watched(getattr(scheduler, name)))
    fill(scheduler, Work(200, 1, estimates=[timed(1.0)]))
    assert looked_at == 200
    piece = held(scheduler, 7)[0]
    looked_at = 0
    scheduler.ended(piece, 1, 1.0, 1.0)
    assert looked_at <= 8  # a thief looks at eight


# -- lent slots -------------------------------------------------------------------------------------------------------


def test_a_slot_is_lent_only_while_fewer_workers_than_there_may_be_have_lent_all() -> None:
    scheduler = opened(2, max_workers=3)
    for n_lent in range(3):
        nested = Work(1, 1, estimates=[timed(1.0)], priority=n_lent)
        fill(scheduler, nested)
        (runs,) = (worker for worker in scheduler.workers.values() for c in worker.sent.values() if c.stream is nested)
        (piece,) = held(scheduler, runs.id)
        assert scheduler.slot_lent(piece, 0.0) == (n_lent < 2)
        scheduler.check()
    assert len(scheduler.workers) == 3
    assert sum(bool(worker.lent) for worker in scheduler.workers.values()) == 2


def test_who_has_lent_some_of_its_slots_may_lend_the_others_if_another_serves() -> None:
    for max_workers, lends_all in ((1, False), (2, True)):
        scheduler = opened(1, 2, max_workers=max_workers)
        fill(scheduler, Work(2, 1, estimates=[timed(1.0)]))
        first, second = held(scheduler, 1)
        assert scheduler.slot_lent(first, 0.0)
        assert scheduler.slot_lent(second, 0.0) == lends_all
        scheduler.check()


def test_a_worker_that_retires_counts_as_wholly_lent_with_its_first_lent_slot() -> None:
    for max_workers, lends in ((1, False), (2, True)):
        scheduler = opened(1, 2, max_tasks=2, max_workers=max_workers)
        fill(scheduler, Work(2, 1, estimates=[timed(1.0)]))
        assert scheduler.workers[1].retiring
        assert scheduler.slot_lent(held(scheduler, 1)[0], 0.0) == lends
        assert scheduler.workers[1].resting == lends
        fill(scheduler, Work(1, 1, estimates=[timed(1.0)]))
        assert bool(scheduler.has_waiting()) == (not lends)
        scheduler.check()


def test_a_worker_that_has_lent_a_slot_counts_as_wholly_lent_once_it_was_given_its_last_task() -> None:
    scheduler = opened(1, 2, max_tasks=2, max_workers=2)
    fill(scheduler, Work(1, 1, estimates=[timed(1.0)]))
    assert scheduler.slot_lent(held(scheduler, 1)[0], 0.0)
    assert not scheduler.workers[1].resting
    actions(scheduler)
    fill(scheduler, Work(3, 1, estimates=[timed(1.0)]))
    assert sorted(sent_to(scheduler)) == [1, 2, 2]
    assert scheduler.workers[1].retiring
    assert scheduler.workers[1].resting
    assert sum(not worker.resting for worker in scheduler.workers.values()) == scheduler.n_active


def test_who_serves_for_a_lent_slot_looks_for_work_in_the_others_links() -> None:
    scheduler = opened(2)
    fill(scheduler, Work(4, 1, estimates=[timed(1.0)]))
    actions(scheduler)
    assert scheduler.look_again_at is None
    assert scheduler.slot_lent(held(scheduler, 1)[0], 0.5)
    assert set(scheduler.idle) == {3}
    assert 2 in scheduler.laden
    assert scheduler.look_again_at == pytest.approx(0.5 + STILL_S)


def test_a_slot_that_is_free_since_its_chunk_was_withdrawn_looks_for_work_in_the_others_links() -> None:
    scheduler = opened(2)
    fill(scheduler, Work(4, 1, estimates=[timed(1.0)]))
    running, unread = held(scheduler, 2)
    scheduler.withdrawn(unread, 0.5)
    assert scheduler.look_again_at is None
    scheduler.withdrawn(running, 0.5)
    assert set(scheduler.idle) == {2}
    assert scheduler.look_again_at == pytest.approx(0.5 + STILL_S)


# -- single calls before maps -----------------------------------------------------------------------------------------


def laden(n_workers: int = 1, **options: Any) -> tuple[Scheduler, Work]:
    """Workers that run one item of a map for 10 ms, with another unread, while more wait."""
    scheduler = opened(n_workers, **options)
    stream = Work(100, 1)
    stream.estimate.mean_s = 0.01
    fill(scheduler, stream)
    actions(scheduler)
    return scheduler, stream


def call(priority: int = 0) -> Piece:
    return Work(1, 1, estimates=[Estimate()], priority=priority).take(1)


EACH_S = 0.0005
N_LONG, N_SHORT = int(LONG_S / EACH_S), int(TARGET_S / EACH_S)


def with_chunks(n_tasks: int, **options: Any) -> tuple[Scheduler, Work]:
    """One worker with chunks of a map."""
    scheduler = opened(1)
    stream = Work(n_tasks, **options)
    stream.estimate.mean_s = EACH_S
    fill(scheduler, stream)
    actions(scheduler)
    return scheduler, stream


def end_as_expected(scheduler: Scheduler, now: float) -> None:
    for piece in held(scheduler, 1):
        n_left = piece.count - piece.done
        scheduler.ended(piece, n_left, n_left * EACH_S, now)


def sizes(scheduler: Scheduler) -> list[int]:
    return [piece.count for piece in held(scheduler, 1) if piece.stream.total > 1]


def test_a_call_goes_before_what_a_map_has_unread() -> None:
    scheduler, _ = laden()
    unread = held(scheduler, 1)[1:]
    lone = call()
    assert scheduler.overtook(lone, 0, 0.001)
    assert actions(scheduler) == [("take_back", 1), ("send", 1, (0, 1))]
    scheduler.taken_back(list(unread), 0.001)
    assert held(scheduler, 1)[:2][1] is lone
    end_all(scheduler, 1)
    assert actions(scheduler)[0] == ("send", 1, (1, 1))  # and then what was taken back


def test_a_long_chunk_is_parted_for_a_call_a_short_one_is_not() -> None:
    scheduler, _ = with_chunks(10_000)
    running = held(scheduler, 1)[0]
    assert sizes(scheduler) == [N_LONG, N_LONG]  # nothing else waits
    lone = call()
    assert scheduler.overtook(lone, 0, 0.001)
    assert [action[:2] for action in actions(scheduler)] == [("part", 1), ("take_back", 1), ("send", 1)]
    scheduler.taken_back(held(scheduler, 1)[1:2], 0.001)
    scheduler.parted(running, 2, 0.002)
    for _ in range(4):  # from now on chunks are short, since there may be more calls
        end_as_expected(scheduler, 0.01)
    assert max(sizes(scheduler)) == N_SHORT
    actions(scheduler)
    assert scheduler.overtook(call(), 0, 0.011)
    assert [action[:2] for action in actions(scheduler)] == [("take_back", 1), ("send", 1)]


def test_a_chunk_that_seems_about_to_end_is_parted_for_a_call_too() -> None:
    scheduler, _ = with_chunks(10_000)
    assert scheduler.overtook(call(), 0, 0.99 * LONG_S)
    assert actions(scheduler)[0][:2] == ("part", 1)


def test_large_chunks_stay_short() -> None:
    scheduler, stream = with_chunks(10_000)
    stream.estimate.is_heavy = True
    for _ in range(2):
        end_as_expected(scheduler, 0.0)
    assert sizes(scheduler) == [N_SHORT, N_SHORT]


def test_what_is_less_urgent_leaves_a_map_its_long_chunks() -> None:
    scheduler, _ = with_chunks(10_000, priority=1)
    fill(scheduler, Work(10_000))
    assert not actions(scheduler)
    for _ in range(2):
        end_as_expected(scheduler, 0.0)
    assert sizes(scheduler) == [N_LONG, N_LONG]


def test_many_calls_find_room_at_all_workers() -> None:
    scheduler = opened(20)
    stream = Work(100_000)
    stream.estimate.mean_s = EACH_S
    fill(scheduler, stream)
    actions(scheduler)
    for _ in range(20):
        assert scheduler.overtook(call(), 0, 0.0)
    assert {action[1] for action in actions(scheduler) if action[0] == "part"} == set(range(1, 21))


def test_chunks_grow_long_again_when_no_call_has_come_for_a_while() -> None:
    scheduler, _ = with_chunks(10_000)
    assert scheduler.overtook(call(), 0, 0.0)
    for _ in range(4):
        end_as_expected(scheduler, 0.99 * CROWDED_S)
    assert sizes(scheduler) == [N_SHORT, N_SHORT]
    for _ in range(2):
        end_as_expected(scheduler, CROWDED_S)
    assert sizes(scheduler) == [N_LONG, N_LONG]


def test_chunks_are_short_where_maps_take_turns_and_where_it_is_not_known_what_is_to_come() -> None:
    scheduler, _ = with_chunks(10_000)
    other = Work(10_000)
    other.estimate.mean_s = EACH_S
    fill(scheduler, other)
    for _ in range(4):
        end_as_expected(scheduler, 0.0)
    assert sizes(scheduler) == [N_SHORT, N_SHORT]
    scheduler, _ = with_chunks(10_000, length_known=False)
    assert sizes(scheduler) == [N_SHORT, N_SHORT]


def test_what_is_long_of_a_map_takes_turns_with_one_that_comes_later() -> None:
    scheduler, first = with_chunks(10_000)
    running, unread = held(scheduler, 1)
    second = Work(10_000)
    second.estimate.mean_s = EACH_S
    fill(scheduler, second, 0.001)
    assert [action[:2] for action in actions(scheduler)] == [("part", 1), ("take_back", 1)]
    scheduler.taken_back([unread], 0.001)
    assert not scheduler.returned
    scheduler.parted(running, 3, 0.002)
    scheduler.ended(running, 3, 3 * EACH_S, 0.002)
    turns = []
    for _ in range(12):
        turns += [piece.stream for piece in held(scheduler, 1)]
        assert max(sizes(scheduler)) <= N_SHORT
        end_as_expected(scheduler, 0.01)
    assert abs(turns.count(first) - turns.count(second)) <= 2  # what came back of the first has no turns of its own


def test_at_a_maps_end_a_call_goes_to_where_it_ends_soon() -> None:
    scheduler = opened(2)
    stream = Work(8)
    stream.estimate.mean_s = 1e-5
    fill(scheduler, stream)
    assert not scheduler.streams
    assert not scheduler.idle
    long, short = (held(scheduler, worker_id)[0] for worker_id in (2, 1))
    scheduler.ended(short, short.count - 1, 1e-5, 0.0)
    lone = call()
    actions(scheduler)
    assert not scheduler.placed_at_once(lone, 0.0)
    assert scheduler.overtook(lone, 0, 0.0)
    assert held(scheduler, 1)[-1] is lone
    assert [action[:2] for action in actions(scheduler)] == [("send", 1)]
    assert long.count > 1


def test_a_worker_is_overtaken_by_one_call_at_a_time() -> None:
    scheduler, _ = laden()
    first = call()
    assert scheduler.overtook(first, 0, 0.001)
    assert not scheduler.overtook(call(), 0, 0.001)
    scheduler.ended(first, 1, 0.0, 0.01)
    assert scheduler.overtook(call(), 0, 0.011)


def test_the_worker_that_will_be_free_first_is_overtaken_but_none_that_seems_stuck() -> None:
    scheduler, _ = laden(2)
    scheduler.workers[1].progress_at = 0.005
    assert scheduler.overtook(call(), 0, 0.009)
    assert actions(scheduler)[0] == ("take_back", 2)
    scheduler, _ = laden(2)
    assert not scheduler.overtook(call(), 0, 1.0)


def test_calls_that_lie_in_a_link_are_not_overtaken() -> None:
    scheduler = opened(1)
    estimate = Estimate()
    estimate.mean_s = 0.01
    fill(scheduler, Work(9, 1, estimates=[estimate]))
    assert len(held(scheduler, 1)) == 2
    assert not scheduler.overtook(call(), 0, 0.001)


def test_more_urgent_items_that_lie_in_a_link_are_not_overtaken() -> None:
    scheduler = opened(1)
    urgent, later = Work(2, 1, priority=5), Work(9, 1)
    urgent.estimate.mean_s = later.estimate.mean_s = 0.01
    fill(scheduler, urgent)
    fill(scheduler, later)
    assert [piece.stream for piece in held(scheduler, 1)] == [urgent, urgent]
    assert scheduler.streams[0] is later
    assert not scheduler.overtook(call(), 0, 0.001)
    assert scheduler.overtook(call(5), 5, 0.001)


def test_no_call_goes_before_many_that_would_all_be_sent_twice() -> None:
    scheduler = opened(1)
    stream = Work(100, 1)
    stream.estimate.mean_s = 0.0001
    fill(scheduler, stream)
    assert len(held(scheduler, 1)) > 1 + MAX_OVERTAKEN
    assert not scheduler.overtook(call(), 0, 0.00005)


def test_no_call_goes_before_what_is_more_urgent_or_where_nothing_can_come_back() -> None:
    scheduler, _ = laden()
    assert not scheduler.overtook(call(), -1, 0.001)
    assert scheduler.overtook(call(1), 1, 0.001)
    scheduler, _ = laden(may_take_back=False)
    assert not scheduler.overtook(call(), 0, 0.001)
    scheduler = opened(1)
    assert not scheduler.overtook(call(), 0, 0.001)  # nothing waits: it is placed at once
