"""What faulthandler writes when a worker gets a fatal signal is in the note of the error."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

import fullcourt
from fullcourt import WorkerDied
from tests.engines import output_tasks as tasks

pytestmark = [pytest.mark.faults, pytest.mark.timeout(60)]

NewPool = Callable[..., Any]


def fault_note(error: BaseException) -> str:
    notes = [note for note in getattr(error, "__notes__", []) if "faulthandler" in note]
    assert len(notes) <= 1
    return notes[0] if notes else ""


def test_a_segfault_s_stack_is_in_the_note(new_pool: NewPool) -> None:
    pool = new_pool()
    with pytest.raises(WorkerDied, match="SIGSEGV") as caught:
        pool.apply(tasks.crash, ("before",))
    note = fault_note(caught.value)
    assert f"in worker pid {caught.value.pid}" in note
    assert "Segmentation fault" in note
    assert "in crash\n" in note + "\n"
    assert "_engines" not in note
    assert pool.apply(tasks.say, ("it goes on",)) == "it goes on"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pages")
def test_over_the_portable_transport_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable")
    with fullcourt.Pool(1, threads=2) as pool, pytest.raises(WorkerDied) as caught:
        pool.apply(tasks.crash, ("before",))
    assert "in crash" in fault_note(caught.value)


def test_it_is_noted_though_output_is_not_forwarded(new_pool: NewPool) -> None:
    with pytest.raises(WorkerDied) as caught:
        new_pool(output="inherit").apply(tasks.crash, ("before",))
    assert "Segmentation fault" in fault_note(caught.value)


def test_in_a_map_too(new_pool: NewPool) -> None:
    outcomes = new_pool().map(tasks.crash_at, range(40), on_error="return")
    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [i for i in range(40) if i != 21]
    assert "in crash_at" in fault_note(outcomes[21].exception)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_that_is_no_fault_has_no_such_note(new_pool: NewPool, number: int) -> None:
    with pytest.raises(WorkerDied) as caught:
        new_pool().apply(tasks.die, ("x", number))
    assert not fault_note(caught.value)


def test_the_crash_of_a_child_is_not_taken_for_the_worker_s(new_pool: NewPool) -> None:
    with pytest.raises(WorkerDied, match="SIGABRT") as caught:
        new_pool().apply(tasks.crash_in_a_child_then_die)
    note = fault_note(caught.value)
    assert "Aborted" in note
    assert "Segmentation" not in note
