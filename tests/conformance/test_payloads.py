"""What goes into a task and comes out of it: callables of every kind, big data, arrays, and what cannot travel."""

from __future__ import annotations

import functools
import operator
import threading
from types import ModuleType
from typing import Any

import conformance_tasks as tasks
import pytest
from conformance_harness import Engine

pytestmark = pytest.mark.timeout(60)

MIB = 1 << 20


@pytest.fixture
def np(engine: Engine) -> Any:
    if engine.name == "interpreters":
        pytest.skip("numpy does not load in sub-interpreters")
    return pytest.importorskip("numpy")


@pytest.fixture
def travelling(engine: Engine) -> Engine:
    if not engine.isolated:
        pytest.skip("in this process nothing is pickled")
    return engine


def describe(error: BaseException | None) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


# --- callables


def test_lambdas_and_closures(pool: Any) -> None:
    offset = 5
    assert pool.submit(lambda x: x + offset, 1).result(30) == 6
    assert pool.map(lambda x: x + offset, range(10)) == list(range(5, 15))
    assert pool.map(tasks.make_closure(3), range(4)) == [3, 4, 5, 6]


def test_a_closure_sees_the_value_of_the_moment_it_is_called_with(pool: Any) -> None:
    offset = 1

    def shifted(x: int) -> int:
        return x + offset

    assert pool.submit(shifted, 1).result(30) == 2
    offset = 10
    assert pool.submit(shifted, 1).result(30) == 11
    assert pool.map(shifted, [1, 2]) == [11, 12]


def test_functions_defined_in_a_test_and_recursive_ones(pool: Any) -> None:
    def factorial(n: int) -> int:
        return 1 if n == 0 else n * factorial(n - 1)

    assert pool.map(factorial, range(6)) == [1, 1, 2, 6, 24, 120]


def test_a_function_redefined_under_its_name_is_the_new_one(pool: Any) -> None:
    for version in range(5):
        namespace: dict[str, Any] = {}
        exec(f"def answer(x): return x + {version}", namespace)
        assert pool.submit(namespace["answer"], 1).result(30) == 1 + version
        assert pool.map(namespace["answer"], [1, 2]) == [1 + version, 2 + version]


def test_bound_class_and_static_methods(pool: Any) -> None:
    assert pool.map(tasks.Adder(5).plus, [1, 2]) == [6, 7]
    assert pool.map(tasks.Adder.of_ten, [1, 2]) == [11, 12]
    assert pool.map(tasks.Adder.doubled, [1, 2]) == [2, 4]
    assert pool.map("{:03d}".format, [1, 20]) == ["001", "020"]
    assert pool.map([10, 20, 30].index, [20, 10]) == [1, 0]


def test_partials_built_ins_and_types(pool: Any) -> None:
    assert pool.map(functools.partial(tasks.add, 1, c=10), [1, 2]) == [12, 13]
    assert pool.map(operator.itemgetter(1), ["ab", "cd"]) == ["b", "d"]
    assert pool.map(int, ["1", "22"]) == [1, 22]
    assert pool.starmap(max, [(1, 2), (4, 3)]) == [2, 4]
    assert pool.submit(dict, a=1).result(30) == {"a": 1}


def test_a_callable_object_answers_with_the_state_it_has_now(pool: Any) -> None:
    adder = tasks.Adder(1)
    for n in (1, 10, 100):
        adder.n = n
        assert pool.submit(adder, 1).result(30) == n + 1
        assert pool.submit(adder.plus, 1).result(30) == n + 1
        assert pool.map(adder, [1, 2]) == [n + 1, n + 2]
        assert pool.map(adder.plus, [1, 2]) == [n + 1, n + 2]
        assert list(pool.imap(adder, [1, 2])) == [n + 1, n + 2]
        assert pool.apply(adder, (1,)) == n + 1


def test_a_partial_answers_with_the_state_its_argument_has_now(pool: Any) -> None:
    numbers = [1]
    summed = functools.partial(tasks.total, numbers)
    assert pool.apply(summed) == 1
    numbers.append(2)
    assert pool.apply(summed) == 3
    assert pool.submit(summed).result(30) == 3


def test_a_global_of_a_function_by_value_is_the_one_of_now(pool: Any) -> None:
    namespace: dict[str, Any] = {"rate": 1}
    exec("def price(x): return x * rate", namespace)
    for rate in (1, 2, 3):
        namespace["rate"] = rate
        assert pool.submit(namespace["price"], 10).result(30) == 10 * rate


def test_short_lived_callables_are_never_taken_for_each_other(pool: Any) -> None:
    # Their memory, and so their id(), is used again and again.
    assert [pool.submit(tasks.Adder(i), 1).result(30) for i in range(300)] == [i + 1 for i in range(300)]
    assert [pool.apply(tasks.make_closure(i), (1,)) for i in range(300)] == [i + 1 for i in range(300)]
    futures = [pool.submit(lambda x, i=i: x + i, 1) for i in range(300)]
    assert [future.result(30) for future in futures] == [i + 1 for i in range(300)]


def test_a_task_that_changes_its_callable_does_not_change_the_next_one(travelling: Engine, pool: Any) -> None:
    grow = functools.partial(tasks.append_and_sum, [1])
    assert [pool.submit(grow, 5).result(30) for _ in range(10)] == [6] * 10


# --- data


@pytest.mark.parametrize(
    "value",
    [
        *[
            None,
            True,
            -1,
            10**50,
            1.5,
            float("inf"),
            1j,
            "",
            "ünïcode \U0001f3c0",
            b"",
            b"\0\xff",
            (),
            (1, (2,)),
            [],
            {},
        ],
        *[{"a": [1, {2}]}, frozenset({1}), range(3), slice(1, 2), ..., NotImplemented, ValueError("as a value"), int],
    ],
    ids=repr,
)
def test_values_come_back_equal(value: Any, pool: Any) -> None:
    back = pool.submit(tasks.identity, value).result(30)
    assert type(back) is type(value)
    assert back == value or repr(back) == repr(value)


def test_ten_megabytes_in_and_out(pool: Any) -> None:
    data = bytes(range(256)) * (10 * MIB // 256)
    assert pool.submit(tasks.reverse_bytes, data).result(60) == data[::-1]
    assert pool.map(len, [data, data]) == [len(data)] * 2
    assert pool.submit(tasks.fill, 10 * MIB, 7).result(60) == bytes([7]) * (10 * MIB)


@pytest.mark.parametrize("size", [0, 1, 4095, 65_535, 65_536, 65_537, 212_992, MIB - 1, MIB, MIB + 1])
def test_sizes_around_the_limits_of_buffers(size: int, pool: Any) -> None:
    data = b"\xa5" * size
    assert pool.submit(tasks.identity, data).result(30) == data
    assert pool.submit(tasks.identity, bytearray(data)).result(30) == bytearray(data)
    assert pool.map(tasks.identity, [data] * 5, chunksize=5) == [data] * 5


def test_results_that_are_kept_are_not_overwritten_by_later_ones(pool: Any) -> None:
    kept = [pool.submit(tasks.fill, 2 * MIB, i) for i in range(20)]
    for i, future in enumerate(kept):
        data = future.result(30)
        assert len(data) == 2 * MIB
        assert data.count(i) == len(data)
    assert [future.result().count(i) for i, future in enumerate(kept)] == [2 * MIB] * 20


def test_many_large_arguments_queue_without_a_deadlock(pool: Any) -> None:
    futures = [pool.submit(tasks.reverse_bytes, bytes([i]) * MIB) for i in range(60)]
    assert [future.result(60) == bytes([i]) * MIB for i, future in enumerate(futures)] == [True] * 60


# --- numpy


@pytest.mark.parametrize("n", [0, 1, 1_000, 1_250_000])
def test_arrays_come_back_equal_and_writable(n: int, pool: Any, np: Any) -> None:
    source = np.arange(n, dtype=float)
    back = pool.submit(tasks.identity, source).result(30)
    np.testing.assert_array_equal(back, source)
    assert back.dtype == source.dtype
    assert back.flags.writeable
    back += 1
    np.testing.assert_array_equal(back, np.arange(n, dtype=float) + 1)


@pytest.mark.parametrize("n", [10, 1_250_000])
def test_a_task_may_write_into_its_argument_and_the_source_stays(
    n: int, travelling: Engine, pool: Any, np: Any
) -> None:
    source = np.ones(n)
    assert pool.submit(tasks.is_writable, source).result(30)
    for result in [pool.submit(tasks.double_in_place, source) for _ in range(6)]:
        assert (result.result(30) == 2).all()
    for result in pool.map(tasks.double_in_place, [source] * 6, chunksize=1):  # those that travel together share it
        assert (result == 2).all()
    assert (source == 1).all()


@pytest.mark.parametrize("n", [10, 1_250_000])
def test_results_are_independent_of_source_and_of_each_other(n: int, travelling: Engine, pool: Any, np: Any) -> None:
    source = np.ones(n)
    one, other = pool.submit(tasks.identity, source).result(30), pool.submit(tasks.identity, source).result(30)
    one += 1
    source += 5
    assert (one == 2).all()
    assert (other == 1).all()
    assert (source == 6).all()
    for value in range(5):
        other = pool.submit(tasks.ones, n, value).result(30)
        assert (other == value).all()
    assert (one == 2).all()


def test_arrays_of_every_shape_and_order(pool: Any, np: Any) -> None:
    grid = np.arange(300_000).reshape(600, 500)
    for array in (
        grid,
        np.asfortranarray(grid),
        grid[::2, ::3],
        grid.T,
        grid[::-1],
        np.array(5),
        np.zeros((0, 3)),
        np.array(["a", "bc"]),
        np.array([None, {"x": 1}], dtype=object),
        np.arange(3, dtype=">i4"),
        np.zeros(4, dtype=[("x", "f8"), ("y", "i2")]),
        np.arange(200_000).astype("datetime64[s]"),
    ):
        back = pool.submit(tasks.identity, array).result(30)
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        np.testing.assert_array_equal(back, array)


def test_structures_that_hold_arrays(pool: Any, np: Any) -> None:
    for n in (10, 500_000):
        result = pool.submit(tasks.several_arrays, n).result(30)
        assert (result["a"] == np.arange(n)).all()
        assert (result["b"][0] == 0).all()
        assert (result["b"][1] == 1).all()
        assert all(array.flags.writeable for array in (result["a"], *result["b"]))


def test_one_array_that_is_twice_in_the_arguments_stays_one(travelling: Engine, pool: Any, np: Any) -> None:
    array = np.zeros(500_000)
    one, other = pool.submit(tasks.identity, (array, array)).result(30)
    assert one is other


# --- what cannot travel


def test_an_argument_that_cannot_be_pickled_is_named_and_nothing_else_is_touched(
    travelling: Engine, pool: Any, fullcourt: ModuleType
) -> None:
    others = [pool.submit(tasks.square, i) for i in range(20)]
    with pytest.raises(fullcourt.errors.PicklingError) as caught:
        pool.submit(tasks.identity, tasks.Holder(threading.Lock())).result(30)
    assert "padlock" in describe(caught.value)
    assert [other.result(30) for other in others] == [i * i for i in range(20)]
    assert pool.submit(tasks.square, 3).result(30) == 9


def test_an_item_of_a_map_that_cannot_be_pickled_is_named(travelling: Engine, pool: Any, fullcourt: ModuleType) -> None:
    items = [0, 1, tasks.Holder(threading.Lock()), 3]
    with pytest.raises(fullcourt.errors.PicklingError) as caught:
        pool.map(tasks.identity, items)
    assert "padlock" in describe(caught.value)
    results = pool.map(tasks.identity, items, chunksize=4, on_error="return")
    assert [results[0], results[1], results[3]] == [0, 1, 3]
    assert isinstance(results[2].exception, fullcourt.errors.PicklingError)
    assert results[2].index == 2


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit])
def test_an_item_whose_pickling_would_end_the_program_costs_that_item_alone(
    kind: type[BaseException], travelling: Engine, pool: Any, fullcourt: ModuleType
) -> None:
    items = [0, 1, tasks.EndsWhenPickled(kind), 3]
    for chunksize in (1, 4):
        results = pool.map(tasks.identity, items, chunksize=chunksize, on_error="return")
        assert [results[0], results[1], results[3]] == [0, 1, 3]
        assert isinstance(results[2].exception, fullcourt.errors.PicklingError)
        assert isinstance(results[2].exception.__cause__, kind)
    results = list(pool.imap_unordered(tasks.identity, items, on_error="return"))
    assert {result for result in results if isinstance(result, int)} == {0, 1, 3}
    assert pool.submit(tasks.square, 3).result(30) == 9


def test_a_function_that_cannot_be_pickled_is_an_error(travelling: Engine, pool: Any, fullcourt: ModuleType) -> None:
    padlock = threading.Lock()

    def locked(x: int) -> int:
        with padlock:
            return x

    with pytest.raises(fullcourt.errors.PicklingError) as caught:
        pool.submit(locked, 1).result(30)
    assert "padlock" in describe(caught.value)
    with pytest.raises(fullcourt.errors.PicklingError):
        pool.map(locked, range(10))
    assert pool.submit(tasks.square, 3).result(30) == 9


def test_a_result_that_cannot_be_pickled_is_named_and_nothing_else_is_touched(
    travelling: Engine, pool: Any, fullcourt: ModuleType
) -> None:
    others = [pool.submit(tasks.square, i) for i in range(20)]
    with pytest.raises(fullcourt.errors.PicklingError, match="lock"):
        pool.submit(tasks.return_a_lock).result(30)
    error = pool.submit(tasks.return_holder_of_lock).exception(30)
    assert "padlock" in describe(error)
    assert "return_holder_of_lock" in describe(error)
    assert [other.result(30) for other in others] == [i * i for i in range(20)]


@pytest.mark.parametrize("chunksize", [1, 10])
def test_one_bad_result_in_a_map_costs_that_item_alone(
    chunksize: int, travelling: Engine, pool: Any, fullcourt: ModuleType
) -> None:
    results = pool.map(tasks.lock_for_item_three, range(10), chunksize=chunksize, on_error="return")
    assert [i for i, result in enumerate(results) if isinstance(result, fullcourt.Failure)] == [3]
    assert [result for i, result in enumerate(results) if i != 3] == [i for i in range(10) if i != 3]
    assert isinstance(results[3].exception, fullcourt.errors.PicklingError)


def test_a_result_that_cannot_be_unpickled_is_an_error_of_that_task(travelling: Engine, pool: Any) -> None:
    others = [pool.submit(tasks.square, i) for i in range(20)]
    error = pool.submit(tasks.return_unloadable).exception(30)
    assert error is not None
    assert "refuses to be loaded" in describe(error)
    assert [other.result(30) for other in others] == [i * i for i in range(20)]


def test_results_that_cannot_be_unpickled_cost_those_items_alone(travelling: Engine, pool: Any) -> None:
    results = pool.map(tasks.unloadable_for_every_third, range(10), chunksize=10, on_error="return")
    assert [i for i, result in enumerate(results) if result != [i]] == [0, 3, 6, 9]
    assert all("refuses to be loaded" in describe(results[i].exception) for i in (0, 3, 6, 9))
    assert [results[i].index for i in (0, 3, 6, 9)] == [0, 3, 6, 9]
    assert len({id(results[i].exception) for i in (0, 3, 6, 9)}) == 4
    found = pool.imap(tasks.unloadable_for_every_third, range(1, 10), chunksize=9)
    assert [next(found), next(found)] == [[1], [2]]
    with pytest.raises(Exception, match="refuses to be loaded"):
        next(found)
    assert next(found) == [4]
    found.close()


def test_an_argument_that_cannot_be_unpickled_is_an_error_of_that_task(travelling: Engine, pool: Any) -> None:
    others = [pool.submit(tasks.square, i) for i in range(20)]
    error = pool.submit(tasks.identity, tasks.UnloadableResult()).exception(30)
    assert error is not None
    assert "refuses to be loaded" in describe(error)
    assert [other.result(30) for other in others] == [i * i for i in range(20)]
    results = pool.map(tasks.identity, [1, tasks.UnloadableResult(), 3], chunksize=3, on_error="return")
    assert [results[0], results[2]] == [1, 3]
    assert "refuses to be loaded" in describe(results[1].exception)


def test_where_nothing_travels_anything_may_be_passed(engine: Engine, pool: Any) -> None:
    if engine.isolated:
        pytest.skip("arguments travel here")
    lock = threading.Lock()
    assert pool.submit(tasks.identity, lock).result(30) is lock
    assert pool.map(tasks.identity, [lock])[0] is lock
