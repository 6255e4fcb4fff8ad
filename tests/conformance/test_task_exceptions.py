"""An exception in a task reaches the caller as itself, and says where it comes from."""

from __future__ import annotations

import traceback
from types import ModuleType
from typing import Any

import conformance_tasks as tasks
import pytest
from conformance_harness import Engine

pytestmark = pytest.mark.timeout(60)


def full_text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


def test_the_worker_traceback_comes_along(pool: Any) -> None:
    error = pool.submit(tasks.fail_on, "pear").exception(30)
    assert type(error) is ValueError
    assert error.args == ("this item is bad: pear",)
    text = full_text(error)
    assert "conformance_tasks.py" in text
    assert "in fail_on" in text


def test_where_tasks_travel_the_traceback_is_the_cause(pool: Any, engine: Engine) -> None:
    if not engine.isolated:
        pytest.skip("in this process the exception has its own traceback")
    error = pool.submit(tasks.fail_on, "pear").exception(30)
    assert error.__cause__ is not None
    assert "in fail_on" in str(error.__cause__)


def test_a_note_names_function_item_index_and_worker(pool: Any, engine: Engine) -> None:
    items = [f"fruit-{i}" for i in range(60)]
    with pytest.raises(ValueError, match="fruit-47") as caught:
        pool.starmap(tasks.fail_on, [(item, "fruit-47") for item in items])
    note = notes(caught.value)
    assert "fail_on" in note
    assert "fruit-47" in note
    assert "47" in note.replace("fruit-47", "")
    if engine.forks:
        pids = [str(worker.pid) for worker in pool.statistics().workers]
        assert any(pid in note for pid in pids)


@pytest.mark.parametrize("chunksize", [1, 10, 1000])
def test_the_index_is_the_items_own_whatever_the_chunks(chunksize: int, pool: Any) -> None:
    items = [*range(1, 33), -5, *range(33, 60)]
    with pytest.raises(ValueError, match="negative: -5") as caught:
        pool.map(tasks.fail_on_negative, items, chunksize=chunksize)
    assert "32" in notes(caught.value)
    with pytest.raises(ValueError, match="negative: -5") as caught:
        list(pool.imap(tasks.fail_on_negative, items, chunksize))
    assert "32" in notes(caught.value)


def test_a_submitted_task_is_named_too(pool: Any) -> None:
    error = pool.submit(tasks.fail_on, item="quince", bad="quince").exception(30)
    assert "fail_on" in notes(error)
    assert "quince" in notes(error)


def test_a_huge_item_does_not_make_a_huge_note(pool: Any) -> None:
    error = pool.submit(tasks.fail_on, "x" * 1_000_000, "x" * 1_000_000).exception(30)
    assert len(notes(error)) < 10_000


def test_an_item_whose_repr_fails_does_no_harm(pool: Any) -> None:
    error = pool.submit(tasks.fail_on, tasks.Unprintable(), tasks.Unprintable()).exception(30)
    assert type(error) is ValueError


def test_a_chain_of_exceptions_keeps_its_text(pool: Any) -> None:
    error = pool.submit(tasks.chained).exception(30)
    assert type(error) is RuntimeError
    text = full_text(error)
    assert "inner cause" in text
    assert "outer effect" in text


def test_system_exit_is_the_outcome_of_its_task_alone(pool: Any) -> None:
    future = pool.submit(tasks.exit_with, 7)
    others = [pool.submit(tasks.square, i) for i in range(20)]
    error = future.exception(30)
    assert type(error) is SystemExit
    assert error.code == 7
    assert [other.result(30) for other in others] == [i * i for i in range(20)]


def test_keyboard_interrupt_is_the_outcome_of_its_task_alone(pool: Any) -> None:
    error = pool.submit(tasks.interrupt).exception(30)
    assert type(error) is KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        pool.apply(tasks.interrupt)
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]


def test_generator_exit_is_the_outcome_of_its_task_alone(pool: Any) -> None:
    error = pool.submit(tasks.generator_exit).exception(30)
    assert type(error) is GeneratorExit
    with pytest.raises(GeneratorExit):
        pool.map(tasks.raise_it, [GeneratorExit()])
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]


def test_stop_iteration_from_a_task_ends_no_iterator(pool: Any) -> None:
    error = pool.submit(tasks.raise_it, StopIteration(5)).exception(30)
    assert type(error) is StopIteration
    with pytest.raises((StopIteration, RuntimeError)):
        pool.map(tasks.raise_it, [StopIteration(5)])
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]


def test_an_exception_with_a_two_argument_init_keeps_its_type(pool: Any) -> None:
    error = pool.submit(tasks.raise_two_arguments).exception(30)
    assert type(error) is tasks.TwoArgumentsError
    assert str(error) == "the bridge broke because of rust"
    assert (error.place, error.reason) == ("the bridge", "of rust")
    with pytest.raises(tasks.TwoArgumentsError):
        pool.apply(tasks.raise_two_arguments)


def test_an_exception_with_keyword_only_init_keeps_its_type(pool: Any) -> None:
    error = pool.submit(tasks.raise_keyword_only).exception(30)
    assert type(error) is tasks.KeywordOnlyError
    assert (str(error), error.code) == ("code 42", 42)


def test_an_exception_that_cannot_be_pickled_keeps_its_name_and_text(pool: Any) -> None:
    error = pool.submit(tasks.raise_holding_a_lock).exception(30)
    assert error is not None
    text = full_text(error)
    assert "HoldsALockError" in text
    assert "the lock stays here" in text
    assert "in raise_holding_a_lock" in text
    assert pool.submit(tasks.square, 2).result(30) == 4


def test_an_exception_that_cannot_be_unpickled_keeps_its_name_and_text(pool: Any) -> None:
    error = pool.submit(tasks.raise_unloadable).exception(30)
    assert error is not None
    text = full_text(error)
    assert "UnloadableError" in text
    assert "cannot be read back" in text
    assert pool.submit(tasks.square, 2).result(30) == 4


@pytest.mark.parametrize("where", tasks.HOSTILE)
def test_an_exception_that_raises_when_it_is_asked_is_an_outcome_too(where: str, pool: Any) -> None:
    from fullcourt.errors import RemoteError

    results = pool.map(tasks.raise_hostile, [where] * 4, on_error="return")
    for error in (pool.submit(tasks.raise_hostile, where).exception(30), *(result.exception for result in results)):
        name = error.type_name if type(error) is RemoteError else type(error).__name__
        assert name.rpartition(".")[2] == "HostileError"
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]


def test_an_exception_class_defined_in_a_function_comes_through(pool: Any) -> None:
    class LocalError(Exception):
        pass

    def fail() -> None:
        raise LocalError("made here")

    error = pool.submit(fail).exception(30)
    assert type(error).__name__ == "LocalError"
    assert str(error) == "made here"


def test_exception_groups_and_notes_survive(pool: Any) -> None:
    group = ExceptionGroup("several", [ValueError("one"), KeyError("two")])
    group.add_note("the user's own note")
    error = pool.submit(tasks.raise_it, group).exception(30)
    assert type(error) is ExceptionGroup
    assert [type(inner) for inner in error.exceptions] == [ValueError, KeyError]
    assert "the user's own note" in notes(error)


def test_one_exception_object_raised_many_times_does_not_collect_notes(pool: Any) -> None:
    shared = ValueError("shared")
    errors = [pool.submit(tasks.raise_it, shared).exception(30) for _ in range(5)]
    assert all(len(notes(error).splitlines()) <= 2 * len(notes(errors[0]).splitlines()) for error in errors)


def test_many_failures_in_one_map_leave_the_pool_whole(pool: Any, fullcourt: ModuleType) -> None:
    results = pool.map(tasks.fail_on_negative, [-1] * 1_000, on_error="return")
    assert all(isinstance(result, fullcourt.Failure) for result in results)
    assert [result.index for result in results] == list(range(1_000))
    with pytest.raises(ValueError, match="negative"):
        pool.map(tasks.fail_on_negative, [-1] * 1_000)
    assert pool.map(tasks.square, range(10)) == [i * i for i in range(10)]
