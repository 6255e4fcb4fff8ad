"""The journal: what a slot leaves in shared memory, and what can be read of it after each of its steps."""

from __future__ import annotations

import mmap
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fullcourt._core.chunking import MAX_CHUNK
from fullcourt._transport.journal import (
    HEAP_BYTES,
    INT_LIMIT,
    LOADING,
    LOADING_FUNCTION,
    NONE,
    REGION_BYTES,
    REVOKED_WORD,
    RUNNING,
    UNSET,
    WORTH_BYTES,
    Journal,
    Records,
    load_records,
    read_phase,
    read_results,
    revoke,
    started_chunk,
)

N_SLOTS = 3


@pytest.fixture
def page() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, N_SLOTS * REGION_BYTES) as page:
        yield page


@pytest.fixture
def journal(page: mmap.mmap) -> Iterator[Journal]:
    journal = Journal(page, 0)
    yield journal
    journal.close()


def put(journal: Journal, index: int, result: object) -> bool | None:
    """As a worker does it; see the loop in `Worker._run_items`."""
    if result is None:
        journal.words[index + 1] = NONE
    elif type(result) is int and -INT_LIMIT < result < INT_LIMIT:
        journal.words[index + 1] = result
    else:
        return journal.put(index, result)
    return True


def test_before_the_first_chunk_nothing_has_started(page: mmap.mmap, journal: Journal) -> None:
    assert started_chunk(page, 0) == 0


def test_the_chunk_that_runs_is_known(page: mmap.mmap, journal: Journal) -> None:
    journal.start(7, 5, RUNNING)
    assert started_chunk(page, 0) == 7
    journal.start(2**63 - 1, 0, RUNNING)
    assert started_chunk(page, 0) == 2**63 - 1


def test_what_is_done_with_it_is_known(page: mmap.mmap, journal: Journal) -> None:
    for chunk_id, phase in ((1, LOADING_FUNCTION), (1, LOADING), (1, RUNNING), (2, LOADING)):
        journal.start(chunk_id, 3, phase)
        assert (started_chunk(page, 0), read_phase(page, 0)) == (chunk_id, phase)
        assert read_results(page, 0, 0, 3) == []
        if phase == RUNNING:
            put(journal, 0, "of chunk 1")


def test_a_chunk_can_be_revoked_while_it_runs(page: mmap.mmap) -> None:
    journals = [Journal(page, index) for index in range(N_SLOTS)]
    for journal in journals:
        journal.start(5, MAX_CHUNK, RUNNING)
    revoke(page, 1, 5)
    assert [journal.words[REVOKED_WORD] for journal in journals] == [0, 5, 0]
    assert read_results(page, 1, 0, MAX_CHUNK) == []
    for journal in journals:
        journal.close()


def test_of_a_chunk_that_has_just_started_nothing_has_ended(page: mmap.mmap, journal: Journal) -> None:
    journal.start(7, MAX_CHUNK, RUNNING)
    assert read_results(page, 0, 0, MAX_CHUNK) == []


RESULTS = [
    None,
    0,
    1,
    -1,
    True,
    False,
    "text",
    "",
    b"bytes",
    3.5,
    [1, [2, None]],
    {"a": (1,)},
    INT_LIMIT - 1,
    INT_LIMIT,
    INT_LIMIT + 1,
    -INT_LIMIT + 1,
    -INT_LIMIT,
    -INT_LIMIT - 1,
    NONE,
    NONE + 1,
    UNSET,
    UNSET - 1,
    2**64,
    10**100,
    "x" * 50_000,
]


def test_every_kind_of_result_is_read_as_it_was(page: mmap.mmap, journal: Journal) -> None:
    journal.start(1, len(RESULTS), RUNNING)
    for index, result in enumerate(RESULTS):
        assert put(journal, index, result)
    found = read_results(page, 0, 0, len(RESULTS))
    assert found == RESULTS
    assert [type(value) for value in found] == [type(value) for value in RESULTS]


@settings(deadline=None)
@given(
    st.lists(
        st.none() | st.booleans() | st.integers() | st.integers(-INT_LIMIT - 2, INT_LIMIT + 2) | st.text(), max_size=50
    )
)
def test_any_results_are_read_as_they_were_whatever_lay_there_before(results: list[Any]) -> None:
    with mmap.mmap(-1, REGION_BYTES) as page:
        journal = Journal(page, 0)
        for chunk_id in (1, 2):
            journal.start(chunk_id, len(results), RUNNING)
            for index, result in enumerate(results):
                assert read_results(page, 0, 0, len(results)) == results[:index]
                assert put(journal, index, result)
            assert read_results(page, 0, 0, len(results)) == results
        journal.close()


def test_results_are_read_from_any_item_on(page: mmap.mmap, journal: Journal) -> None:
    journal.start(1, 6, RUNNING)
    for index, result in enumerate([10, "b", None, 13]):
        put(journal, index, result)
    assert [read_results(page, 0, first, 6) for first in range(5)] == [
        [10, "b", None, 13],
        ["b", None, 13],
        [None, 13],
        [13],
        [],
    ]
    assert read_results(page, 0, 0, 2) == [10, "b"]


def test_reading_stops_at_the_first_that_has_not_ended(page: mmap.mmap, journal: Journal) -> None:
    journal.start(1, 4, RUNNING)
    put(journal, 0, 1)
    put(journal, 2, 3)
    assert read_results(page, 0, 0, 4) == [1]


def test_a_chunk_of_the_largest_size_has_its_place(page: mmap.mmap, journal: Journal) -> None:
    other = Journal(page, 1)
    other.start(9, 1, RUNNING)
    put(other, 0, "untouched")
    journal.start(1, MAX_CHUNK, RUNNING)
    for index in range(MAX_CHUNK):
        journal.words[index + 1] = index
    assert put(journal, MAX_CHUNK - 1, "the last")
    assert read_results(page, 0, 0, MAX_CHUNK) == [*range(MAX_CHUNK - 1), "the last"]
    assert read_results(page, 1, 0, 1) == ["untouched"]
    other.close()


def test_slots_do_not_touch_each_others_regions(page: mmap.mmap) -> None:
    journals = [Journal(page, index) for index in range(N_SLOTS)]
    for index, journal in enumerate(journals):
        journal.start(index + 1, 3, RUNNING)
    for journal, text in zip(journals, "abc", strict=True):
        filling = text * (HEAP_BYTES - 100)
        assert put(journal, 0, filling)
    assert [started_chunk(page, index) for index in range(N_SLOTS)] == [1, 2, 3]
    assert [read_results(page, index, 0, 3)[0][:1] for index in range(N_SLOTS)] == ["a", "b", "c"]
    for journal in journals:
        journal.close()


# -- the heap ---------------------------------------------------------------------------------------------------------


def text_of_pickled_size(n_bytes: int) -> str:
    """A text whose pickle has exactly so many bytes."""
    overhead = len(pickle.dumps("x" * 100_000, 5)) - 100_000
    text = "x" * (n_bytes - overhead)
    assert len(pickle.dumps(text, 5)) == n_bytes
    return text


def test_a_result_that_just_fits_is_kept_and_one_byte_more_is_not(page: mmap.mmap, journal: Journal) -> None:
    journal.start(1, 2, RUNNING)
    too_large, fits = text_of_pickled_size(HEAP_BYTES - 3), text_of_pickled_size(HEAP_BYTES - 4)
    assert not put(journal, 0, too_large)
    assert read_results(page, 0, 0, 2) == []
    assert put(journal, 0, fits)
    assert read_results(page, 0, 0, 2) == [fits]


def test_a_full_heap_refuses_but_small_ints_and_nones_go_on(page: mmap.mmap, journal: Journal) -> None:
    journal.start(1, 4, RUNNING)
    assert put(journal, 0, text_of_pickled_size(HEAP_BYTES - 4))
    assert not put(journal, 1, "a")
    assert put(journal, 1, 5)
    assert put(journal, 2, None)
    assert read_results(page, 0, 1, 4) == [5, None]


def test_after_the_results_were_sent_the_heap_is_used_anew(page: mmap.mmap, journal: Journal) -> None:
    journal.start(1, 3, RUNNING)
    assert put(journal, 0, "x" * 100_000)
    assert not put(journal, 1, "y" * 100_000)
    journal.forget_heap()
    assert put(journal, 1, "y" * 100_000)
    assert read_results(page, 0, 1, 3) == ["y" * 100_000]


def test_a_new_chunk_has_the_whole_heap(page: mmap.mmap, journal: Journal) -> None:
    for chunk_id in (1, 2):
        journal.start(chunk_id, 1, RUNNING)
        assert put(journal, 0, "x" * 100_000)
    assert read_results(page, 0, 0, 1) == ["x" * 100_000]


def test_what_will_not_pickle_is_refused_and_leaves_no_trace(page: mmap.mmap, journal: Journal) -> None:
    journal.start(1, 2, RUNNING)
    assert not put(journal, 0, threading.Lock())
    assert read_results(page, 0, 0, 2) == []
    assert put(journal, 0, "a")
    assert read_results(page, 0, 0, 2) == ["a"]


# -- a crash at each point --------------------------------------------------------------------------------------------


class Watched:
    """Stands in for the views that a journal writes through, and looks at the page before each single store."""

    def __init__(self, view: Any, look: Any) -> None:
        self._view = view
        self._look = look

    def __setitem__(self, key: Any, value: Any) -> None:
        self._look()
        self._view[key] = value

    def __getitem__(self, key: Any) -> Any:
        return self._view[key]

    def release(self) -> None:
        self._view.release()


def test_a_crash_between_any_two_stores_leaves_only_what_had_ended(page: mmap.mmap) -> None:
    journal = Journal(page, 0)
    truth = {1: ["old", 1, None, "older", 5], 2: [7, "new", None, INT_LIMIT], 3: [8] * 2000}
    ended: list[object] = []
    chunk_id = 0
    n_looks = 0

    def look() -> None:
        """What the pool would conclude if the process were gone now."""
        nonlocal n_looks
        n_looks += 1
        started = started_chunk(page, 0)
        assert started in {0, chunk_id - 1, chunk_id}
        if started == chunk_id:
            assert read_results(page, 0, 0, len(truth[chunk_id])) == ended

    for name in ("words", "_heap", "_view"):
        setattr(journal, name, Watched(getattr(journal, name), look))
    for chunk_id, results in truth.items():
        ended.clear()
        journal.start(chunk_id, len(results), RUNNING)
        for index, result in enumerate(results):
            look()
            assert put(journal, index, result)
            ended.append(result)
        look()
    assert n_looks > 2000
    journal.close()


def test_a_closed_journal_lets_go_of_the_page() -> None:
    page = mmap.mmap(-1, REGION_BYTES)
    Journal(page, 0).close()
    page.close()  # raises BufferError while a view is left


# -- batches ----------------------------------------------------------------------------------------------------------

ANY_RESULT = st.one_of(st.integers(), st.none(), st.text(), st.binary(min_size=WORTH_BYTES, max_size=3 * WORTH_BYTES))


@settings(max_examples=300, deadline=None)
@given(results=st.lists(ANY_RESULT, min_size=1, max_size=8), n_sent=st.integers(0, 7), skips_last=st.booleans())
def test_what_the_heap_has_of_a_batch_is_all_of_it_but_perhaps_the_last(
    results: list[Any], n_sent: int, skips_last: bool
) -> None:
    n_sent = min(n_sent, len(results) - 1)
    with mmap.mmap(-1, N_SLOTS * REGION_BYTES) as page:
        journal = Journal(page, 1)
        try:
            journal.start(7, len(results), RUNNING)
            for index, result in enumerate(results):
                if index == n_sent:
                    journal.forget_heap()
                if index < len(results) - 1 or not skips_last:
                    put(journal, index, result)
            batch = results[n_sent:]
            data = journal.records(n_sent, len(batch))
            if data is not None:
                assert load_records(data) in (batch, batch[:-1])
                assert pickle.loads(pickle.dumps(Records(data))) == load_records(data)
            large = [type(result) is bytes for result in batch]
            if not skips_last and all(large):
                assert data is not None
        finally:
            journal.close()
