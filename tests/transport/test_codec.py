"""Objects, functions and exceptions on their way through bytes."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fullcourt._transport import mainspace
from fullcourt._transport.codec import OUT_OF_BAND_BYTES, Codec, decode, find_unpicklable, main_definitions
from fullcourt._transport.functions import FunctionTable, function_name
from fullcourt._transport.remote_errors import dump_exception, format_remote, load_exception
from fullcourt.errors import PicklingError, RemoteError, RemoteTraceback

LOCK = threading.Lock()
LOCK_TYPE = f"{type(LOCK).__module__}.{type(LOCK).__qualname__}"


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An empty module that stands in for the user's program."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(mainspace, "arrived", {})
    return main


def run_in(main: types.ModuleType, source: str) -> Any:
    """Run some of the user's program; returns what it calls `f`, if anything."""
    exec(textwrap.dedent(source), main.__dict__)
    return main.__dict__.get("f")


def there_and_back(obj: object, codec: Codec | None = None) -> Any:
    data, buffers = (codec or Codec()).encode(obj)
    return decode(data, [memoryview(bytearray(buffer.raw())) for buffer in buffers])


class Bytes:
    """What NumPy's arrays do, without NumPy: offers its memory out of band."""

    def __init__(self, content: bytes | bytearray | memoryview) -> None:
        self.content = content

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Bytes, (pickle.PickleBuffer(self.content),)

    def __len__(self) -> int:
        return memoryview(self.content).nbytes

    def method(self) -> int:
        return len(self)


class Attributes:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)

    def method(self) -> object:
        return self.__dict__


# -- objects ----------------------------------------------------------------------------------------------------------

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plain_values)
def test_what_goes_in_comes_out(value: object) -> None:
    assert there_and_back(value) == value
    assert there_and_back(value, Codec(shares_main=True)) == value


def test_large_buffers_stay_out_of_the_pickle_and_small_ones_stay_in() -> None:
    small, large = Bytes(b"s" * (OUT_OF_BAND_BYTES - 1)), Bytes(b"L" * OUT_OF_BAND_BYTES)
    data, buffers = Codec().encode([small, large, Bytes(small.content), Bytes(large.content)])
    assert [buffer.raw().nbytes for buffer in buffers] == [OUT_OF_BAND_BYTES] * 2
    assert b"sss" in data
    assert b"LLL" not in data
    found = decode(data, [buffer.raw() for buffer in buffers])
    assert [bytes(part.content)[:1] for part in found] == [b"s", b"L", b"s", b"L"]
    assert [len(part) for part in found] == [len(small), len(large)] * 2


def test_nothing_is_copied_on_the_way_out() -> None:
    memory = bytearray(OUT_OF_BAND_BYTES)
    _, buffers = Codec().encode(Bytes(memory))
    memory[0] = 77
    assert buffers[0].raw()[0] == 77


def test_large_buffers_stay_out_where_cloudpickle_is_needed() -> None:
    data, buffers = Codec().encode((lambda: 3, Bytes(bytes(OUT_OF_BAND_BYTES)), Bytes(b"abc")))
    assert len(buffers) == 1
    fn, large, small = decode(data, [buffer.raw() for buffer in buffers])
    assert (fn(), len(large), small.content) == (3, OUT_OF_BAND_BYTES, b"abc")


def test_numpy_arrays_of_all_shapes_and_orders_come_out_equal() -> None:
    numpy = pytest.importorskip("numpy")
    square = numpy.arange(10_000.0).reshape(100, 100)
    arrays = [square, square.T, square[::2, ::3], square[:0], numpy.array(3.5), numpy.arange(3)]
    arrays.append(numpy.asfortranarray(square))
    for array, back in zip(arrays, there_and_back(arrays), strict=True):
        assert back.dtype == array.dtype
        numpy.testing.assert_array_equal(back, array)


def test_an_array_that_came_out_of_band_can_be_written() -> None:
    numpy = pytest.importorskip("numpy")
    data, buffers = Codec().encode(numpy.zeros(10_000))
    assert len(buffers) == 1
    assert len(data) < 500
    array = decode(data, [memoryview(bytearray(buffers[0].raw()))])
    array[0] = 1
    assert array.sum() == 1


# -- by reference or by value -----------------------------------------------------------------------------------------


def test_what_can_be_imported_goes_by_name() -> None:
    data, _ = Codec().encode(os.path.join)
    assert len(data) < 60
    assert decode(data) is os.path.join


def test_what_cannot_be_imported_goes_by_value() -> None:
    offset = 10
    back = there_and_back(lambda x: x + offset)
    assert back(5) == 15


def test_functions_and_classes_of_main_go_by_value_to_a_receiver_that_shares_none(main: types.ModuleType) -> None:
    f = run_in(main, "def g(x): return x + 1\ndef f(x): return g(x) * 2")
    data, _ = Codec().encode(f)
    del main.f, main.g
    assert decode(data)(1) == 4


def test_so_they_do_in_a_process_that_never_saw_them(main: types.ModuleType, tmp_path: Path) -> None:
    run_in(main, "class C:\n    def __init__(self, x): self.x = x\ndef f(c): return C(c.x + 1)")
    data, _ = Codec().encode((main.f, main.C(41)))
    path = tmp_path / "pickle"
    path.write_bytes(data)
    program = f"import pickle; f, c = pickle.load(open({str(path)!r}, 'rb')); print(f(c).x)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_they_go_by_name_to_a_receiver_that_has_them(main: types.ModuleType) -> None:
    f = run_in(main, "def f(): pass\nclass C: pass")
    codec = Codec(shares_main=True)
    data, _ = codec.encode((f, main.C()))
    assert b"cloudpickle" not in data
    back, instance = decode(data)
    assert back is f
    assert type(instance) is main.C


@pytest.mark.parametrize(
    "change", ["def g(): pass", "def f(): return 2", "class C: pass", "del h", "h = f", "def h(): pass"]
)
def test_after_any_change_of_mains_definitions_they_go_by_value(main: types.ModuleType, change: str) -> None:
    f = run_in(main, "def f(): return 1\ndef h(): pass\nclass C: pass")
    codec = Codec(shares_main=True)
    run_in(main, change)
    main.f = f
    if change == "def f(): return 2":
        main.f = run_in(main, "def f(): return 2")
    assert b"cloudpickle" in codec.encode(main.f)[0]


def test_a_change_of_mains_other_names_is_no_change(main: types.ModuleType) -> None:
    f = run_in(main, "def f(): pass")
    codec = Codec(shares_main=True)
    run_in(main, "import os; x = 3; from os.path import join")
    assert decode(codec.encode(f)[0]) is f


def test_sharing_can_begin_later_and_begin_anew(main: types.ModuleType) -> None:
    f = run_in(main, "def f(): pass")
    codec = Codec()
    assert b"cloudpickle" in codec.encode(f)[0]
    codec.share_main()
    assert b"cloudpickle" not in codec.encode(f)[0]
    run_in(main, "def g(): pass")
    assert b"cloudpickle" in codec.encode(f)[0]
    codec.share_main()
    assert b"cloudpickle" not in codec.encode(f)[0]


def test_mains_definitions_are_the_functions_and_classes_that_it_defines(main: types.ModuleType) -> None:
    run_in(main, "from os.path import join\nimport os\nx = 3\ndef f(): pass\nclass C: pass\nf.g = lambda: 1")
    assert main_definitions() == {"f": main.f, "C": main.C}


def test_the_word_main_in_a_text_does_no_harm(main: types.ModuleType) -> None:
    text = 'if __name__ == "__main__": pass'
    assert there_and_back({"text": text, text: 1}) == {"text": text, text: 1}


def test_what_fails_to_reduce_under_pickle_may_still_pass_under_cloudpickle() -> None:
    back = there_and_back(Attributes(fn=lambda: 5, small=Bytes(b"x" * 10)))
    assert back.fn() == 5
    assert bytes(back.small.content) == b"x" * 10


@pytest.fixture
def worker_main(main: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[], types.ModuleType]:
    """Call it to become a worker, whose program is empty."""

    def become() -> types.ModuleType:
        empty = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", empty)
        mainspace.adopt_main()
        return empty

    return become


def test_functions_of_main_share_their_globals_where_they_arrive(
    main: types.ModuleType, worker_main: Callable[[], types.ModuleType]
) -> None:
    run_in(main, "n = 1\ndef put(x):\n    global n\n    n = x\ndef get(): return n")
    sent = [Codec().encode(fn)[0] for fn in (main.put, main.get)]
    there = worker_main()
    put, get = map(decode, sent)
    assert get() == 1
    put(5)
    assert (get(), there.n, main.n) == (5, 5, 1)


def test_a_new_value_of_a_global_replaces_the_one_that_came_before(
    main: types.ModuleType, worker_main: Callable[[], types.ModuleType]
) -> None:
    get = run_in(main, "n = 1\ndef f(): return n")
    before, _ = Codec().encode(get)
    main.n = 2
    after, _ = Codec().encode(get)
    worker_main()
    assert decode(before)() == 1
    assert decode(after)() == 2


def test_what_a_task_or_an_initializer_has_bound_stays(
    main: types.ModuleType, worker_main: Callable[[], types.ModuleType]
) -> None:
    get = run_in(main, "n = 1\ndef f(): return n")
    data, _ = Codec().encode(get)
    there = worker_main()
    decode(data)
    there.n = "the worker's"
    assert decode(data)() == "the worker's"


def test_functions_of_other_places_keep_globals_of_their_own(worker_main: Callable[[], types.ModuleType]) -> None:
    namespace = {"__name__": "nowhere", "n": 1}
    exec("def f(): return n", namespace)
    data, _ = Codec().encode(namespace["f"])
    there = worker_main()
    assert decode(data)() == 1
    assert not hasattr(there, "n")


# -- what will not pickle ---------------------------------------------------------------------------------------------


def closing_over(value: object) -> Callable[[], object]:
    def inner() -> object:
        return value

    return inner


def using_a_global() -> object:
    return LOCK


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = LOCK


@pytest.mark.parametrize(
    ("obj", "where"),
    [
        (LOCK, "it"),
        ([1, LOCK], "[1]"),
        ((1, [2, 3, LOCK]), "[1][2]"),
        ({"a": {"b": LOCK}}, "['a']['b']"),
        ({LOCK}, "[0]"),
        (Attributes(connection=LOCK), ".connection"),
        ([Attributes(x=1), Attributes(x={"y": LOCK})], "[1].x['y']"),
        (closing_over(LOCK), "closing_over.<locals>.inner's value"),
        (closing_over([LOCK]), "closing_over.<locals>.inner's value[0]"),
        (Attributes(lock=LOCK).method, ".__self__.lock"),
        (((Attributes(lock=LOCK),), {"key": 1}), "[0][0].lock"),
    ],
)
def test_the_message_names_what_stands_in_the_way(obj: object, where: str) -> None:
    with pytest.raises(PicklingError) as caught:
        Codec().encode(obj)
    assert str(caught.value).startswith(f"{where} (of type {LOCK_TYPE}) cannot be pickled")
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value, pickle.PicklingError)
    assert isinstance(caught.value, TypeError)


def test_a_global_that_a_function_uses_is_named(main: types.ModuleType) -> None:
    main.LOCK = LOCK
    f = run_in(main, "def f(): return LOCK")
    with pytest.raises(PicklingError, match=r"^f's global LOCK \(of type"):
        Codec().encode(f)


def test_what_hides_in_slots_is_named_by_its_holder() -> None:
    assert find_unpicklable([Slotted()]).startswith("[0] (of type ")


def test_an_object_that_holds_itself_is_searched_without_end_in_sight() -> None:
    loop: list[object] = [1]
    loop.append(loop)
    loop.append(LOCK)
    assert find_unpicklable(loop) == f"[2] (of type {LOCK_TYPE})"
    holder = Attributes()
    holder.__dict__.update(me=[holder], lock=LOCK)
    with pytest.raises(PicklingError):
        Codec().encode(holder)


def test_a_search_in_depth_ends() -> None:
    deep: object = LOCK
    for _ in range(50):
        deep = [deep]
    with pytest.raises(PicklingError, match=r"^(\[0\]){8} \(of type list\)"):
        Codec().encode(deep)


def test_a_function_with_a_name_not_yet_bound_gets_a_clear_message_too() -> None:
    def inner() -> object:
        return LOCK, closed, later

    closed = threading.Lock()
    if len(sys.argv) < 0:
        later = 1
    with pytest.raises(PicklingError, match=r"'s closed \(of type"):
        Codec().encode(inner)


def test_a_key_whose_repr_fails_gets_a_clear_message_too() -> None:
    class Key:
        def __repr__(self) -> str:
            raise RuntimeError("no text")

    with pytest.raises(PicklingError):
        Codec().encode({Key(): LOCK})


# -- functions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def table() -> FunctionTable:
    return FunctionTable(Codec())


def numbered_function(x: int) -> int:
    return x


def test_a_function_is_pickled_and_numbered_once(table: FunctionTable) -> None:
    entry = table.get(numbered_function)
    assert table.get(numbered_function) is entry
    assert decode(entry.data) is numbered_function
    assert entry.name == "numbered_function"


def test_each_function_has_a_number_of_its_own_from_one_on(table: FunctionTable) -> None:
    fns: list[Callable[..., Any]] = [numbered_function, abs, math.sqrt, int, lambda: 1, Attributes]
    assert [table.get(fn).id for fn in fns] == [1, 2, 3, 4, 5, 6]
    assert [table.get(fn).id for fn in fns] == [1, 2, 3, 4, 5, 6]


def test_what_may_have_changed_since_is_pickled_at_each_use(table: FunctionTable) -> None:
    thing = Attributes(x=1)

    class Counter:
        x = 1

        def __call__(self) -> int:
            return self.x

    for fn in (thing.method, functools.partial(max, 3), Counter(), Attributes(fn=lambda: 1).method):
        assert table.get(fn).id == 0
    first = decode(table.get(thing.method).data)
    thing.__dict__["x"] = 2
    second = decode(table.get(thing.method).data)
    assert (first(), second()) == ({"x": 1}, {"x": 2})


@pytest.mark.parametrize("name", ["get", "__getitem__"])
def test_a_method_of_a_builtin_container_is_a_bound_method_too(table: FunctionTable, name: str) -> None:
    prices = {"tea": 1}
    assert decode(table.get(getattr(prices, name)).data)("tea") == 1
    prices["tea"] = 2
    assert decode(table.get(getattr(prices, name)).data)("tea") == 2


CAPTURED = """
    import math
    from os.path import join
    from collections import OrderedDict
    limit = 10
    def g(x): return x + limit
    def f(x, y=2): return (g(x), math.pi, join("a", "b"), OrderedDict, len("abc"), y)
"""


def test_a_function_of_main_is_kept_while_all_that_it_takes_along_is_unchanged(
    main: types.ModuleType, table: FunctionTable
) -> None:
    f = run_in(main, CAPTURED)
    entry = table.get(f)
    assert entry.id == 1
    assert table.get(f) is entry
    main.unrelated = [1]
    assert table.get(f) is entry


@pytest.mark.parametrize(
    "change",
    [
        "limit = 11",  # what a function that it calls reads
        "def g(x): return -x",
        "f.__defaults__ = (3,)",
        "f.__code__ = (lambda x, y=2: 'other').__code__",
        "math = 3",
        "from os.path import dirname as join",
        "len = abs",  # a global that hides a builtin
        "del limit",
    ],
)
def test_it_is_pickled_anew_after_any_change_of_that(main: types.ModuleType, table: FunctionTable, change: str) -> None:
    f = run_in(main, CAPTURED)
    before = table.get(f)
    run_in(main, change)
    after = table.get(f)
    assert after.data != before.data
    assert after.id not in {0, before.id}
    assert table.get(f) is after


@pytest.mark.parametrize(
    "source",
    [
        "x = [1]\ndef f(): return x",
        "def f(x=[1]): return x",
        "x = {}\ndef g(): return x\ndef f(): return g()",
        "class C: n = 1\ndef f(): return C",
        "def f(): return 1\nf.note = 'an attribute'",
        "def f(*, x=1): return x",
        "x = [1]\ndef f(): return (lambda: x)",
        "x = [1]\ndef f(): return [x for _ in 'ab']",
        "def make():\n    x = [1]\n    def f(): return x\n    return f\nf = make()",
        "def make():\n    def f(): return later\n    if not f: later = 1\n    return f\nf = make()",
        "import functools\ng = functools.partial(max, 1)\ndef f(): return g()",
        "class Text(str): pass\nx = Text('a')\ndef f(): return x",
        "t = (1, [2])\ndef f(): return t",
    ],
)
def test_a_function_that_takes_along_what_can_change_in_place_is_not_kept(
    main: types.ModuleType, table: FunctionTable, source: str
) -> None:
    f = run_in(main, source)
    assert table.get(f).id == 0
    assert table.get(f).id == 0


def test_it_travels_as_it_is_at_each_use(main: types.ModuleType, table: FunctionTable) -> None:
    f = run_in(main, "x = [1]\ndef f(): return x")
    assert decode(table.get(f).data)() == [1]
    main.x.append(2)
    assert decode(table.get(f).data)() == [1, 2]


def test_functions_that_call_each_other_are_kept(main: types.ModuleType, table: FunctionTable) -> None:
    f = run_in(main, "def even(n): return n == 0 or f(n - 1)\ndef f(n): return n != 0 and even(n - 1)")
    assert table.get(f).id == 1
    assert decode(table.get(f).data)(7) is True


def test_a_class_of_main_is_pickled_at_each_use(main: types.ModuleType, table: FunctionTable) -> None:
    run_in(main, "class C:\n    x = 1")
    assert table.get(main.C).id == 0


def test_functions_of_main_are_kept_by_name_where_the_workers_share_it(main: types.ModuleType) -> None:
    f = run_in(main, "x = [1]\ndef f(): return x")
    table = FunctionTable(Codec(shares_main=True))
    assert table.get(f).id == 1
    assert b"cloudpickle" not in table.get(f).data


def test_the_table_is_bounded_and_forgets_the_oldest(table: FunctionTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FunctionTable, "MAX", 3)
    fns: list[Callable[..., Any]] = [abs, len, max, min]
    numbers = [table.get(fn).id for fn in fns]
    assert [table.get(fn).id for fn in fns[1:]] == numbers[1:]
    assert table.get(abs).id not in numbers
    for n in range(10):
        table.get(functools.partial(types.FunctionType(numbered_function.__code__, {}, f"f{n}")))
    assert len(table._known) <= 3
    assert len(table._unkept) <= 3


def test_functions_that_are_not_kept_share_what_was_learnt_of_their_times(table: FunctionTable) -> None:
    thing = Attributes()
    estimate = table.get(thing.method).estimate
    assert table.get(Attributes().method).estimate is estimate
    assert table.get(functools.partial(max, 1)).estimate is not estimate
    assert table.get(abs).estimate is not table.get(len).estimate


def test_a_method_of_something_large_travels_in_one_piece(table: FunctionTable) -> None:
    entry = table.get(Bytes(bytes(OUT_OF_BAND_BYTES)).method)
    assert len(entry.data) > OUT_OF_BAND_BYTES
    assert decode(entry.data)() == OUT_OF_BAND_BYTES


def test_a_function_that_will_not_pickle_says_why(table: FunctionTable) -> None:
    with pytest.raises(PicklingError, match=r"inner's value \(of type"):
        table.get(closing_over(LOCK))


def test_every_kind_of_function_has_a_name() -> None:
    partial = functools.partial(functools.partial(numbered_function, 1))
    fns = [numbered_function, Attributes.method, abs, partial, Attributes(), lambda: 1, int, "abc".join]
    names = [function_name(fn).rpartition("<locals>.")[2] for fn in fns]
    assert names == [
        "numbered_function",
        "Attributes.method",
        "abs",
        "numbered_function",
        "Attributes",
        "<lambda>",
        "int",
        "str.join",
    ]


# -- exceptions -------------------------------------------------------------------------------------------------------


class TwoArguments(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


class WithAttribute(Exception):
    pass


class Rewording(Exception):
    def __init__(self, n: int) -> None:
        super().__init__(f"{n} things failed")


class Hostile(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not with me")


class Treacherous(Exception):
    """Pickles well; something else comes out."""

    def __reduce__(self) -> Any:
        return dict, ()


class Changeling(Exception):
    """Another exception comes out."""

    def __reduce__(self) -> Any:
        return ValueError, self.args


class Poisoned(Exception):
    def __reduce__(self) -> Any:
        return explode, ()


class Wordless(Exception):
    def __init__(self, lock: object) -> None:
        raise_not_here = lock
        super().__init__(raise_not_here)

    def __new__(cls, *args: object) -> Self:
        if args and isinstance(args[0], str):
            raise ValueError("not again")
        return super().__new__(cls, *args)

    def __str__(self) -> str:
        raise RuntimeError("no words")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


def explode() -> None:
    raise SystemExit(3)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def carried(error: BaseException) -> BaseException:
    codec = Codec()
    return load_exception(dump_exception(raised(error), "the text", codec))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 2),
        KeyError("k"),
        FileNotFoundError(2, "no such file", "path"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(5),
        SystemExit(3),
        KeyboardInterrupt(),
        TwoArguments(5, "broken"),
        PicklingError("x"),
        RemoteError("x", "y.Z"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_arrives_as_itself(error: BaseException) -> None:
    back = carried(error)
    assert type(back) is type(error)
    assert back.args == error.args
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_an_exception_whose_init_rewords_its_argument_says_the_same_when_it_arrives() -> None:
    assert str(carried(Rewording(3))) == "3 things failed"


def test_a_file_error_keeps_its_parts() -> None:
    back = carried(FileNotFoundError(2, "no such file", "path"))
    assert isinstance(back, FileNotFoundError)
    assert (back.errno, back.filename) == (2, "path")


def test_its_cause_is_the_workers_traceback() -> None:
    back = carried(ValueError("x"))
    assert isinstance(back.__cause__, RemoteTraceback)
    assert back.__cause__.text == "the text"
    assert "the text" in "".join(traceback.format_exception(back))


def test_its_notes_arrive() -> None:
    for error in (ValueError("x"), TwoArguments(1, "r")):
        error.add_note("first")
        error.add_note("second")
        assert carried(error).__notes__ == ["first", "second"]


def test_its_attributes_arrive_and_what_cannot_travel_is_its_repr() -> None:
    error = WithAttribute("text", LOCK)
    error.__dict__.update(lock=LOCK, code=7, rows=[1, 2])
    back = carried(error)
    assert type(back) is WithAttribute
    assert back.args == ("text", repr(LOCK))
    assert vars(back) == {"lock": repr(LOCK), "code": 7, "rows": [1, 2]}


@pytest.mark.parametrize("kind", [Hostile, Treacherous, Changeling, Poisoned])
def test_a_hostile_reduce_is_passed_by(kind: type[Exception]) -> None:
    back = carried(kind("text", 3))
    assert type(back) is kind
    assert back.args == ("text", 3)


def test_what_cannot_be_made_again_has_a_stand_in() -> None:
    back = carried(Wordless(LOCK))
    assert isinstance(back, RemoteError)
    assert back.type_name.endswith("Wordless")
    assert str(back).endswith("Wordless: (its text cannot be had)")
    assert isinstance(back.__cause__, RemoteTraceback)


def test_a_frozen_exception_arrives_as_itself() -> None:
    back = carried(Frozen(5))
    assert isinstance(back, Frozen)
    assert back.code == 5
    assert isinstance(back.__cause__, RemoteTraceback)


def test_a_group_arrives_with_its_members() -> None:
    back = carried(ExceptionGroup("two", [ValueError(1), ExceptionGroup("in", [KeyError("k")])]))
    assert isinstance(back, ExceptionGroup)
    assert back.message == "two"
    assert [type(member) for member in back.exceptions] == [ValueError, ExceptionGroup]


def test_a_group_with_a_member_that_cannot_travel_arrives_somehow() -> None:
    back = carried(ExceptionGroup("two", [ValueError(1), WithAttribute(LOCK)]))
    assert isinstance(back, (ExceptionGroup, RemoteError))
    assert "two" in str(back)


def test_an_exception_class_of_main_arrives_by_value(main: types.ModuleType) -> None:
    source = "class Mine(Exception):\n    def __init__(self, a, b):\n        super().__init__(a)\n        self.b = b"
    run_in(main, source)
    data = dump_exception(main.Mine(1, 2), "the text", Codec())
    kind = main.Mine
    del main.Mine
    back: Any = load_exception(data)
    assert type(back) is kind
    assert (back.args, back.b) == ((1,), 2)


def test_an_exception_class_of_main_arrives_with_a_large_array(main: types.ModuleType) -> None:
    run_in(main, "class Mine(Exception): pass")
    error = main.Mine("text")
    error.content = Bytes(bytes(OUT_OF_BAND_BYTES))
    kind = main.Mine
    del main.Mine  # as in a worker, which has it by value
    back: Any = load_exception(dump_exception(error, "the text", Codec()))
    assert type(back) is kind
    assert len(back.content) == OUT_OF_BAND_BYTES


def test_a_large_array_in_an_exception_travels_inside_of_its_pickle() -> None:
    error = WithAttribute(Bytes(bytes(OUT_OF_BAND_BYTES)))
    back = carried(error)
    assert type(back) is WithAttribute
    assert len(back.args[0]) == OUT_OF_BAND_BYTES


def test_an_exception_whose_module_is_missing_here_has_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    there = types.ModuleType("only_there")
    exec("class Lost(Exception): pass", there.__dict__)
    monkeypatch.setitem(sys.modules, "only_there", there)
    data = dump_exception(there.Lost("x"), "the text", Codec())
    monkeypatch.delitem(sys.modules, "only_there")
    back = load_exception(data)
    assert isinstance(back, RemoteError)
    assert "only_there" in str(back)


def test_the_remote_text_has_the_users_frames_and_not_the_workers() -> None:
    namespace: dict[str, Any] = {}
    source = "def run(fn):\n    fn()\n"
    exec(compile(source, os.path.join("x", "fullcourt", "_engines", "worker.py"), "exec"), namespace)

    def task() -> None:
        raise ValueError("of the user")

    with pytest.raises(ValueError) as caught:
        namespace["run"](task)
    frames = caught.value.__traceback__
    assert frames is not None
    text = format_remote(caught.value.with_traceback(frames.tb_next))
    assert "worker.py" not in text
    assert "in task" in text
    assert text.endswith("ValueError: of the user\n")


def test_a_view_is_as_good_as_bytes() -> None:
    data = dump_exception(ValueError(1), "t", Codec())
    assert load_exception(memoryview(data)).args == (1,)
    assert decode(memoryview(pickle.dumps([1]))) == [1]


def test_a_traceback_is_told_also_where_no_source_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where all descriptors are used up."""

    def fail(*_: object) -> list[str]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("linecache.getlines", fail)
    monkeypatch.setattr("linecache.checkcache", fail)
    try:
        raise ValueError("a task's")
    except ValueError as error:
        text = format_remote(error)
    assert text.startswith("Traceback (most recent call last):\n")
    assert f'File "{__file__}", line' in text
    assert text.endswith("ValueError\n")
