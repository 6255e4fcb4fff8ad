"""`preload`: modules that are there before the first task, and what happens where they cannot be imported."""

import sys

import pytest

import fullcourt

METHODS = ["fork", "forkserver", "spawn"]


def is_loaded(name: str) -> bool:
    return name in sys.modules


@pytest.mark.parametrize("method", METHODS)
def test_a_preloaded_module_is_there_before_the_first_task(method: str) -> None:
    name = "fullcourt._progress"  # nothing else in a worker imports it
    with fullcourt.Pool(1, start_method=method, preload=[name]) as pool:
        assert pool.apply(is_loaded, (name,))


@pytest.mark.parametrize("method", METHODS)
def test_a_module_that_cannot_be_preloaded_fails_the_pool_once_with_that_error(method: str) -> None:
    with fullcourt.Pool(2, start_method=method, preload=["fullcourt_has_no_such_module"]) as pool:
        future = pool.submit(abs, -1)
        with pytest.raises(ModuleNotFoundError, match="fullcourt_has_no_such_module") as caught:
            future.result(30)
    assert any("preload" in note for note in caught.value.__notes__)
