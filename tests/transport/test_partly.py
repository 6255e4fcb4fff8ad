"""Batches of results of which some will not load."""

from __future__ import annotations

import enum
import pickle
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fullcourt._transport.journal import Records, Unreadable, record
from fullcourt._transport.partly import load_each


def fail(text: str) -> Any:
    raise ValueError(text)


class FailsInItsFunction:
    def __reduce__(self) -> Any:
        return fail, ("function",)


class FailsInItsState:
    def __init__(self) -> None:
        self.x = 1

    def __setstate__(self, state: Any) -> None:
        raise ValueError("state")


class FailsAtItsBirth:
    def __new__(cls, *args: Any) -> Self:
        if args:
            raise ValueError("birth")
        return super().__new__(cls)

    def __getnewargs__(self) -> Any:
        return (1,)


class Lister(list[Any]):
    def extend(self, items: Any) -> None:
        raise ValueError("extend")

    append = extend


class Hashless:
    """Can be put into a set here, but not where it is loaded."""

    loaded = False

    def __setstate__(self, state: Any) -> None:
        self.loaded = True

    def __getstate__(self) -> Any:
        return {"x": 1}

    def __hash__(self) -> int:
        if self.loaded:
            raise ValueError("hash")
        return 1


class Point(NamedTuple):
    x: Any
    y: Any


class Colour(enum.Enum):
    RED = 1


@dataclass
class Holder:
    what: Any
    more: dict[str, Any] = field(default_factory=dict)


BAD = [FailsInItsFunction, FailsInItsState, FailsAtItsBirth]
GOOD: list[Any] = [
    1, -5, 2**80, 3.5, None, True, "text", b"bytes", bytearray(b"array"), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [],
    [1], {}, {"a": [1, {2}]}, set(), {1, 2}, frozenset([3]), OrderedDict(a=1), Point(1, 2), Colour.RED, len, Holder, 1j,
    Holder([1], {"k": 2}), range(3), slice(1, 2),
]  # fmt: skip
WRAPS: list[Any] = [
    lambda x: x, lambda x: [x], lambda x: (x,), lambda x: (1, x), lambda x: (1, 2, x), lambda x: (1, 2, 3, x),
    lambda x: {1: x}, lambda x: {1: x, 2: 3}, lambda x: {x}, lambda x: frozenset([x]), Holder,
    lambda x: [1, [2, {"a": (x,)}]], lambda x: Holder(1, {"x": x}), lambda x: Point(x, 1), lambda x: OrderedDict(a=x),
]  # fmt: skip


def test_one_of_several_that_were_pickled_one_by_one() -> None:
    data = b"".join(record(pickle.dumps(value)) for value in ("a", FailsInItsFunction(), [1, 2]))
    first, bad, last = load_each(pickle.dumps(Records(data)))
    assert (first, last) == ("a", [1, 2])
    assert isinstance(bad, Unreadable)
    assert str(bad.error) == "function"


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("wrap", WRAPS)
def test_only_what_holds_the_bad_one_is_lost(bad: Any, wrap: Any) -> None:
    results = [*GOOD, wrap(bad()), *GOOD]
    data = pickle.dumps(results, 5)
    with pytest.raises(ValueError, match="function|state|birth"):
        pickle.loads(data)
    read = load_each(data)
    assert type(read[len(GOOD)]) is Unreadable
    assert isinstance(read[len(GOOD)].error, ValueError)
    assert read[: len(GOOD)] == GOOD
    assert read[len(GOOD) + 1 :] == GOOD


def test_a_bad_one_that_several_share_is_lost_to_all_of_them_and_to_no_other() -> None:
    bad = FailsInItsState()
    shared = [bad]
    good = ["shared"]
    read = load_each(pickle.dumps([good, bad, shared, good, {"x": shared}, 7, Holder(bad), good], 5))
    assert [type(item) is Unreadable for item in read] == [False, True, True, False, True, False, True, False]
    assert read[0] is read[3] is read[7]


@pytest.mark.parametrize(
    "holder", [Lister([1, 2]), Lister([1]), {Hashless()}, frozenset([Hashless()]), {Hashless(): 1}]
)
def test_containers_that_refuse_their_items(holder: Any) -> None:
    read = load_each(pickle.dumps([1, holder, 2], 5))
    assert read[0] == 1
    assert type(read[1]) is Unreadable
    assert read[2] == 2


def test_what_is_missing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps([1, Holder(2), Holder, 3], 5)
    monkeypatch.delattr(f"{__name__}.Holder")
    read = load_each(data)
    assert [type(item) is Unreadable for item in read] == [False, True, True, False]
    assert isinstance(read[1].error, AttributeError)


def test_arrays_out_of_band() -> None:
    buffers: list[pickle.PickleBuffer] = []
    arrays = [np.arange(5.0), FailsInItsFunction(), np.ones((2, 3))]
    data = pickle.dumps(arrays, 5, buffer_callback=buffers.append)
    read = load_each(data, [buffer.raw() for buffer in buffers])
    assert np.array_equal(read[0], arrays[0])
    assert type(read[1]) is Unreadable
    assert np.array_equal(read[2], arrays[2])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.builds(Holder, inner)
    ),
    max_leaves=20,
)


@given(st.lists(VALUES), st.integers(0, 5))
def test_any_values_are_read_as_ever(values: list[Any], at: int) -> None:
    at = min(at, len(values))
    read = load_each(pickle.dumps([*values[:at], FailsInItsState(), *values[at:]], 5))
    assert type(read.pop(at)) is Unreadable
    assert read == values
