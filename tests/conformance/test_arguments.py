"""Bad arguments are refused at once, with a message that says what was given and what would do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import conformance_tasks as tasks
import pytest
from conformance_harness import descendant_pids

pytestmark = pytest.mark.timeout(60)

BAD_POOLS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "processes=-1": ({"processes": -1}, ValueError, "processes.*-1"),
    "processes='two'": ({"processes": "two"}, TypeError, "processes.*two"),
    "processes=1.5": ({"processes": 1.5}, TypeError, r"processes.*1\.5"),
    "threads=0": ({"threads": 0}, ValueError, "threads.*0"),
    "threads=-3": ({"threads": -3}, ValueError, "threads.*-3"),
    "threads='2'": ({"threads": "2"}, TypeError, "threads.*2"),
    "processes and threads=0": ({"processes": 2, "threads": 0}, ValueError, "threads.*0"),
    "interpreters=0": ({"interpreters": 0}, ValueError, "interpreters.*0"),
    "interpreters=-1": ({"interpreters": -1}, ValueError, "interpreters.*-1"),
    "interpreters and processes": ({"interpreters": 2, "processes": 2}, ValueError, "interpreters.*processes"),
    "start_method unknown": ({"processes": 1, "start_method": "teleport"}, ValueError, "teleport.*spawn"),
    "start_method of a wrong type": ({"processes": 1, "start_method": 3}, (TypeError, ValueError), "start_method.*3"),
    "max_tasks_per_child=0": ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child.*0"),
    "max_tasks_per_child=-1": ({"max_tasks_per_child": -1}, ValueError, "max_tasks_per_child.*-1"),
    "max_tasks_per_child='1'": ({"max_tasks_per_child": "1"}, TypeError, "max_tasks_per_child.*1"),
    "initializer not callable": ({"initializer": 3}, TypeError, "initializer.*3"),
    "initargs no sequence": ({"initializer": print, "initargs": 5}, TypeError, "initargs.*5"),
    "name no string": ({"name": 3}, TypeError, "name.*3"),
    "preload of a wrong type": ({"processes": 1, "preload": 3}, TypeError, "preload.*3"),
}


@pytest.mark.parametrize(("options", "error", "message"), BAD_POOLS.values(), ids=BAD_POOLS)
def test_a_pool_refuses_bad_arguments_before_anything_starts(
    options: dict[str, Any], error: type[Exception], message: str, fullcourt: ModuleType
) -> None:
    before = descendant_pids()
    with pytest.raises(error, match=f"(?s){message}"):
        fullcourt.Pool(**options)
    assert descendant_pids() == before


def test_an_unknown_option_is_a_type_error(fullcourt: ModuleType) -> None:
    with pytest.raises(TypeError, match="workers"):
        fullcourt.Pool(workers=3)
    with pytest.raises(TypeError, match="workers"):
        fullcourt.map(abs, [1], workers=3)


BAD_CALLS: dict[str, tuple[Callable[[Any], Any], type[Exception], str]] = {
    "submit nothing callable": (lambda p: p.submit(3), TypeError, "3"),
    "submit without a function": (lambda p: p.submit(), TypeError, "fn|argument"),
    "apply nothing callable": (lambda p: p.apply("abs"), TypeError, "abs"),
    "apply_async nothing callable": (lambda p: p.apply_async(None), TypeError, "None"),
    "map nothing callable": (lambda p: p.map(3, [1]), TypeError, "3"),
    "map_async nothing callable": (lambda p: p.map_async(3, [1]), TypeError, "3"),
    "starmap nothing callable": (lambda p: p.starmap(3, [(1,)]), TypeError, "3"),
    "imap nothing callable": (lambda p: p.imap(3, [1]), TypeError, "3"),
    "imap_unordered nothing callable": (lambda p: p.imap_unordered(3, [1]), TypeError, "3"),
    "map over no iterable": (lambda p: p.map(abs, 5), TypeError, "iterable|int"),
    "map_async over no iterable": (lambda p: p.map_async(abs, 5), TypeError, "iterable|int"),
    "starmap over no iterable": (lambda p: p.starmap(abs, 5), TypeError, "iterable|int"),
    "starmap of items that are no tuples": (lambda p: p.starmap(abs, [5]), TypeError, "iterable|int"),
    "imap over no iterable": (lambda p: p.imap(abs, 5), TypeError, "iterable|int"),
    "imap_unordered over no iterable": (lambda p: p.imap_unordered(abs, 5), TypeError, "iterable|int"),
    "map chunksize=0": (lambda p: p.map(abs, [1], 0), ValueError, "chunksize.*0"),
    "map chunksize=-1": (lambda p: p.map(abs, [1], chunksize=-1), ValueError, "chunksize.*-1"),
    "map chunksize='1'": (lambda p: p.map(abs, [1], chunksize="1"), TypeError, "chunksize.*1"),
    "map_async chunksize=0": (lambda p: p.map_async(abs, [1], 0), ValueError, "chunksize.*0"),
    "starmap chunksize=0": (lambda p: p.starmap(abs, [(1,)], 0), ValueError, "chunksize.*0"),
    "imap chunksize=0": (lambda p: p.imap(abs, [1], 0), ValueError, "chunksize.*0"),
    "imap_unordered chunksize=0": (lambda p: p.imap_unordered(abs, [1], 0), ValueError, "chunksize.*0"),
    "map on_error": (lambda p: p.map(abs, [1], on_error="ignore"), ValueError, r"on_error(?=.*ignore)(?=.*return)"),
    "imap on_error": (lambda p: p.imap(abs, [1], on_error="ignore"), ValueError, r"on_error(?=.*ignore)(?=.*return)"),
    "callback not callable": (lambda p: p.apply_async(abs, (1,), callback=3), TypeError, "callback.*3"),
    "error_callback not callable": (lambda p: p.map_async(abs, [1], error_callback=3), TypeError, "callback.*3"),
    "map with an unknown option": (lambda p: p.map(abs, [1], chunks=3), TypeError, "chunks"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_a_call_refuses_bad_arguments_at_once(
    call: Callable[[Any], Any], error: type[Exception], message: str, pool: Any
) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        call(pool)
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_task_that_is_called_wrongly_fails_as_a_call_does(pool: Any) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        pool.submit(tasks.square, 1, 2).result(30)
    with pytest.raises(TypeError, match="unexpected keyword"):
        pool.submit(tasks.square, 1, nonsense=2).result(30)


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python has sub-interpreters")
def test_interpreters_on_an_older_python_say_what_they_need(fullcourt: ModuleType) -> None:
    with pytest.raises(Exception, match=r"3\.14") as caught:
        fullcourt.Pool(interpreters=2)
    assert isinstance(caught.value, (RuntimeError, NotImplementedError, ValueError, ImportError))
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in str(caught.value)
