"""The size of a chunk: what it aims at, and what bounds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullcourt._core.chunking import GROWTH, MAX_CHUNK, MAX_LAZY_CHUNK, SMALLEST_S, TARGET_S, chunk_size

MEANS = st.floats(0.0, 100.0)
PREVIOUS = st.integers(0, MAX_CHUNK)
REMAINING = st.integers(0, 10**9)
SLOTS = st.integers(1, 1024)


@given(st.none() | MEANS, PREVIOUS, st.none() | REMAINING, SLOTS)
def test_a_chunk_has_at_least_one_task_and_no_more_than_a_journal_has_places(
    mean_s: float | None, previous: int, remaining: int | None, n_slots: int
) -> None:
    assert 1 <= chunk_size(mean_s, previous, remaining, n_slots) <= MAX_CHUNK


@given(PREVIOUS, st.none() | REMAINING, SLOTS)
def test_until_a_task_was_timed_chunks_are_of_one(previous: int, remaining: int | None, n_slots: int) -> None:
    assert chunk_size(None, previous, remaining, n_slots) == 1


@given(MEANS, st.integers(1, MAX_CHUNK), st.none() | REMAINING, SLOTS)
def test_chunks_grow_at_most_sixteenfold_a_step(
    mean_s: float, previous: int, remaining: int | None, n_slots: int
) -> None:
    assert GROWTH == 16
    assert chunk_size(mean_s, previous, remaining, n_slots) <= 16 * previous


@given(st.floats(1e-7, 100.0), PREVIOUS, st.none() | REMAINING, SLOTS)
def test_a_chunk_is_no_more_work_than_the_target_unless_it_is_one_task(
    mean_s: float, previous: int, remaining: int | None, n_slots: int
) -> None:
    size = chunk_size(mean_s, previous, remaining, n_slots)
    assert size == 1 or size * mean_s <= TARGET_S * 1.000001


@pytest.mark.parametrize(("mean_s", "size"), [(1.0, 1), (0.002, 1), (0.0011, 1), (0.001, 2), (0.0001, 20), (1e-5, 200)])
def test_with_much_to_come_a_chunk_is_about_two_milliseconds_of_work(mean_s: float, size: int) -> None:
    assert chunk_size(mean_s, MAX_CHUNK, None, 4) == size
    assert chunk_size(mean_s, MAX_CHUNK, 10**9, 4) == size


def test_the_first_chunk_after_one_that_was_timed_is_bounded_by_growth() -> None:
    assert [chunk_size(1e-6, previous, 10**9, 2) for previous in (1, 16, 256)] == [16, 256, 2000]


def test_tasks_too_quick_for_the_clock_give_the_largest_chunk() -> None:
    assert chunk_size(0.0, MAX_CHUNK, 10**9, 2) == MAX_CHUNK


@given(MEANS, PREVIOUS, SLOTS)
def test_of_an_input_without_a_known_end_chunks_stay_small(mean_s: float, previous: int, n_slots: int) -> None:
    assert chunk_size(mean_s, previous, None, n_slots) <= MAX_LAZY_CHUNK == 1024


@given(st.floats(1e-7, 0.01), REMAINING, SLOTS)
def test_towards_the_end_a_chunk_is_at_most_half_of_an_even_share(mean_s: float, remaining: int, n_slots: int) -> None:
    size = chunk_size(mean_s, MAX_CHUNK, remaining, n_slots)
    half_a_share = remaining / n_slots / 2
    assert size <= max(half_a_share, SMALLEST_S / mean_s, 1)


def test_near_the_end_chunks_shrink_but_not_below_fifty_microseconds_of_work() -> None:
    sizes = [chunk_size(1e-5, 200, remaining, 4) for remaining in (10_000, 1600, 800, 400, 80, 40, 39, 8, 1)]
    assert sizes == [200, 200, 100, 50, 10, 5, 5, 5, 5]


def test_near_the_end_long_tasks_go_one_by_one() -> None:
    assert [chunk_size(0.0005, 4, remaining, 4) for remaining in (40, 32, 16, 8, 1)] == [4, 4, 2, 1, 1]


def test_the_whole_of_an_input_goes_out_in_chunks_that_never_exceed_what_an_even_share_allows() -> None:
    """Followed through a map of 10,000 tasks of 20 us on 4 slots."""
    remaining, previous, sizes = 10_000, 0, []
    while remaining:
        size = min(chunk_size(2e-5 if sizes else None, previous, remaining, 4), remaining)
        sizes.append(size)
        previous = size
        remaining -= size
    assert sizes[:3] == [1, 16, 100]
    assert sizes[1:] != sorted(sizes[1:])
    assert sizes[-1] <= 3
    assert max(sizes) == 100
    assert 100 < len(sizes) < 200
