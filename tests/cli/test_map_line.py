"""The worker's side of `fullcourt map`: lines in, lines out."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest

from fullcourt.cli.map_line import FunctionError, LineTask, error_line, find_function

MODULE = """
import sys
class Tools:
    @staticmethod
    def twice(x):
        return x * 2
def leave(x):
    sys.exit(3)
def half_a_pair(x):
    return "\\ud800"
def change(x):
    x.append(1)
    return len(x)
class Mute(Exception):
    def __str__(self):
        raise RuntimeError
def mute(x):
    raise Mute
def two_lines(x):
    raise ValueError("one\\ntwo")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "line_functions.py").write_text(MODULE)
    (tmp_path / "leaves_at_import.py").write_text("raise SystemExit('no')")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return str(tmp_path)


def run(spec: str, line: bytes, folder: str = "/", *, as_json: bool = False) -> dict[str, object]:
    answer = LineTask(spec, as_json=as_json, folder=folder)(line)
    out = answer if isinstance(answer, bytes) else answer[0]
    assert out.endswith(b"\n")
    assert out.count(b"\n") == 1
    found: dict[str, object] = json.loads(out)
    assert set(found) == {"input", "result" if isinstance(answer, bytes) else "error", "seconds", "worker"}
    return found


def test_a_line_is_a_str_and_its_result_comes_with_time_and_worker() -> None:
    found = run("builtins:len", "añ\u2028".encode())
    assert (found["input"], found["result"]) == ("añ\u2028", 3)
    assert isinstance(found["seconds"], float)
    assert set(found["worker"]) == {"pid", "thread"}  # type: ignore[call-overload]


def test_a_json_line_comes_back_as_it_was_written() -> None:
    found = run("builtins:len", b' {"a": 1.50, "b": [null]} ', as_json=True)
    assert (found["input"], found["result"]) == ({"a": 1.5, "b": [None]}, 2)
    raw = LineTask("builtins:abs", as_json=True, folder="/")(b"1.500000000000000000001")
    assert isinstance(raw, bytes)
    assert raw.startswith(b'{"input": 1.500000000000000000001,')


@pytest.mark.parametrize("line", [b"", b"nope", b"[1", b"NaN", b"1 2", b"[" * 100_000])
def test_what_is_not_json_is_an_error_of_that_line(line: bytes) -> None:
    assert str(run("builtins:len", line, as_json=True)["error"]).startswith("not JSON: ")


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_not_utf_8_is_an_error_of_that_line(as_json: bool) -> None:
    found = run("builtins:len", b"a\xff", as_json=as_json)
    assert found["input"] == "a\\xff"
    assert str(found["error"]).startswith("not UTF-8: ")


@pytest.mark.parametrize("spec", ["builtins:set", "builtins:float", "builtins:object"])
def test_a_result_that_is_not_json_is_an_error_of_that_line(spec: str) -> None:
    line = b"" if spec == "builtins:object" else b"nan"
    found = run(spec, line)
    assert str(found["error"]).startswith(("result is not JSON: ", "TypeError: "))


def test_the_exception_of_a_function_is_one_line(folder: str) -> None:
    assert run("line_functions:two_lines", b"x", folder)["error"] == "ValueError: one two"
    assert run("line_functions:mute", b"x", folder)["error"] == "Mute"


def test_a_function_that_exits_fails_its_item_only(folder: str) -> None:
    assert run("line_functions:leave", b"x", folder)["error"] == "SystemExit: 3"


def test_half_a_surrogate_pair_is_escaped(folder: str) -> None:
    assert run("line_functions:half_a_pair", b"x", folder)["result"] == "\ud800"


def test_a_function_that_changes_its_argument_does_not_change_the_input_shown(folder: str) -> None:
    found = run("line_functions:change", b"[0]", folder, as_json=True)
    assert (found["input"], found["result"]) == ([0], 2)


def test_dotted_functions_are_found(folder: str) -> None:
    assert run("line_functions:Tools.twice", b"ab", folder)["result"] == "abab"


def test_a_task_travels_as_its_three_values() -> None:
    task = LineTask("math:sqrt", as_json=True, folder="/")
    task(b"4")
    copy = pickle.loads(pickle.dumps(task))
    assert json.loads(copy(b"4"))["result"] == 2.0


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("math", "MODULE:FUNCTION"),
        ("math:", "MODULE:FUNCTION"),
        (":sqrt", "MODULE:FUNCTION"),
        ("a:b:c", "MODULE:FUNCTION"),
        ("no_such_module_here:f", "ModuleNotFoundError"),
        ("leaves_at_import:f", "SystemExit: no"),
        ("math:sqr", "did you mean 'sqrt'"),
        ("math:pi", "cannot be called"),
        ("json:decoder.JSONDecoder.nothing", "'json.decoder.JSONDecoder' has no 'nothing'"),
    ],
)
def test_what_cannot_be_found_is_told_in_one_line(folder: str, spec: str, words: str) -> None:
    with pytest.raises(FunctionError) as caught:
        find_function(spec, folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "as_json", "shown"), [(b"[1]", True, [1]), (b"[1", True, "[1"), (b"[1]", False, "[1]")]
)
def test_the_caller_can_make_a_line_for_a_worker_that_died(line: bytes, as_json: bool, shown: object) -> None:
    found = json.loads(error_line(line, as_json, "WorkerDied: x", '{"pid": 1, "thread": null}'))
    assert found == {"input": shown, "error": "WorkerDied: x", "seconds": None, "worker": {"pid": 1, "thread": None}}
