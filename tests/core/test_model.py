"""The words: an estimate, a chunk."""

from __future__ import annotations

import pytest

from fullcourt._core.model import Chunk, Estimate


def test_an_estimate_is_unknown_until_something_was_measured() -> None:
    assert Estimate().mean_s is None


def test_the_first_measurement_counts_whole_and_each_later_one_for_half() -> None:
    estimate = Estimate()
    estimate.add(10, 1.0)
    assert estimate.mean_s == pytest.approx(0.1)
    estimate.add(1, 0.3)
    assert estimate.mean_s == pytest.approx(0.2)
    estimate.add(2, 0.4)
    assert estimate.mean_s == pytest.approx(0.2)


def test_an_estimate_of_nothing_is_not_unknown() -> None:
    estimate = Estimate()
    estimate.add(5, 0.0)
    assert estimate.mean_s == 0.0
    estimate.add(1, 0.2)
    assert estimate.mean_s == pytest.approx(0.1)


def test_a_new_chunk_belongs_to_no_worker_and_has_done_nothing() -> None:
    estimate = Estimate()
    chunk = Chunk(7, 100, 5, estimate)
    assert (chunk.id, chunk.start, chunk.count, chunk.done) == (7, 100, 5, 0)
    assert chunk.estimate is estimate
    assert chunk.worker_id is None
    with pytest.raises(NotImplementedError):
        chunk.cut(2)
