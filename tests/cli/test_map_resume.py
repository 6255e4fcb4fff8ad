"""`fullcourt map` that goes on where an earlier run ended, tries again, and gives up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fullcourt.cli.map_resume import Finished, ResumeError
from tests.cli import test_map_command
from tests.cli.test_map_command import read_line, start

FUNCTIONS = """
import os, pathlib, signal, time
def note(x):
    with open("ran", "a") as file:
        file.write(f"{x}\\n")
def square(x):
    note(x)
    return int(x) ** 2
def until_mended(x):
    note(x)
    if x == "2" and not os.path.exists("mended"):
        raise ValueError(x)
    return int(x)
def second_time(x):
    note(x)
    if pathlib.Path("ran").read_text().splitlines().count(x) < 2:
        raise ValueError(x)
    return int(x)
def second_life(x):
    note(x)
    if pathlib.Path("ran").read_text().splitlines().count(x) < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(x)
def slow(x):
    note(x)
    time.sleep(60 if x == "1" else 0)
    return int(x)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "jobs.py").write_text(FUNCTIONS)
    return tmp_path


def run(folder: Path, text: str, *arguments: str) -> Any:
    return test_map_command.run(folder, text, *arguments, "--no-progress")


def ran(folder: Path) -> list[str]:
    path = folder / "ran"
    return path.read_text().splitlines() if path.exists() else []


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out").read_text().splitlines()]


def lines(numbers: Any) -> str:
    return "".join(f"{i}\n" for i in numbers)


@pytest.mark.parametrize("order", [(), ("--unordered",)])
@pytest.mark.parametrize("cut", [0, 1, 17, 4_000])
def test_what_was_written_is_not_run_again(folder: Path, cut: int, order: tuple[str, ...]) -> None:
    text = lines([*range(50), *range(10)])  # some stand in it twice
    done = run(folder, text, "jobs:square", "--output", "out", "--processes", "2", *order)
    assert done.returncode == 0, done.stderr
    whole = written(folder)
    data = (folder / "out").read_bytes()
    (folder / "out").write_bytes(data[: max(0, len(data) - cut)])
    kept = (folder / "out").read_bytes().count(b"\n")
    (folder / "ran").unlink()
    done = run(folder, text, "jobs:square", "--output", "out", "--processes", "2", "--resume", *order)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(ran(folder)) == len(whole) - kept
    found = [(line["input"], line["result"]) for line in written(folder)]
    expected = [(line["input"], line["result"]) for line in whole]
    assert sorted(found) == sorted(expected)
    if not order:
        assert found == expected


def test_after_a_kill_nothing_is_lost_and_nothing_runs_twice(folder: Path) -> None:
    with start(folder, "jobs:slow", "--output", "out", "--threads", "1") as process:
        assert process.stdin is not None
        process.stdin.write(b"0\n")
        process.stdin.flush()
        while not (folder / "out").exists() or not (folder / "out").read_bytes():
            with contextlib.suppress(AssertionError):
                read_line(process.stderr, 0.05)
        process.stdin.write(b"1\n2\n")
        process.stdin.flush()
        while ran(folder) != ["0", "1"]:
            with contextlib.suppress(AssertionError):
                read_line(process.stderr, 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [line["input"] for line in written(folder)] == ["0"]
    (folder / "ran").unlink()
    done = run(folder, "0\n1\n2\n", "jobs:square", "--output", "out", "--resume")
    assert done.returncode == 0, done.stderr
    assert sorted(ran(folder)) == ["1", "2"]
    assert [line["input"] for line in written(folder)] == ["0", "1", "2"]


def test_what_failed_stays_so_or_is_run_again(folder: Path) -> None:
    assert run(folder, lines(range(5)), "jobs:until_mended", "--output", "out").returncode == 1
    (folder / "ran").unlink()
    (folder / "mended").touch()
    assert run(folder, lines(range(5)), "jobs:until_mended", "--output", "out", "--resume").returncode == 0
    assert ran(folder) == []
    done = run(folder, lines(range(6)), "jobs:until_mended", "--output", "out", "--resume-failed")
    assert done.returncode == 0, done.stderr
    assert sorted(ran(folder)) == ["2", "5"]
    assert [line["result"] for line in written(folder)] == [0, 1, 3, 4, 2, 5]


def test_json_inputs_are_compared_by_value(folder: Path) -> None:
    text = '{"a": 1, "b": [2]}\nnonsense\n"text"\n'
    assert run(folder, text, "builtins:repr", "--json", "--output", "out").returncode == 1
    other = '  {"b":[2],"a":1}\nnonsense\n"text"\n"new"\n'
    done = run(folder, other, "builtins:repr", "--json", "--output", "out", "--resume")
    assert done.returncode == 0, done.stderr
    assert [line["input"] for line in written(folder)] == [{"a": 1, "b": [2]}, "nonsense", "text", "new"]


def test_lines_of_another_input_are_told_of(folder: Path) -> None:
    run(folder, lines(range(4)), "jobs:square", "--output", "out")
    done = run(folder, lines(range(2, 6)), "jobs:square", "--output", "out", "--resume")
    assert done.returncode == 0
    assert done.stderr == b"fullcourt map: 2 lines that out had belong to no line of this input.\n"
    assert [line["input"] for line in written(folder)] == list("012345")


def test_a_file_of_something_else_is_left_alone(folder: Path) -> None:
    (folder / "out").write_text('{"input": 1, "result": 1}\nmy diary\n')
    for how in ("--resume", "--resume-failed"):
        done = run(folder, "1\n", "jobs:square", "--output", "out", how)
        assert done.returncode == 2
        assert b"line 2 of out is not what `fullcourt map` writes" in done.stderr
        assert (folder / "out").read_text().endswith("my diary\n")
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["jobs.py", "out"]


def test_resuming_needs_a_file_and_may_have_none_yet(folder: Path) -> None:
    done = run(folder, "1\n", "jobs:square", "--resume")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--resume needs --output FILE" in done.stderr
    done = run(folder, "1\n", "jobs:square", "--resume", "--output", os.devnull)
    assert done.returncode == 2
    assert b"--resume needs a file, which can be read again" in done.stderr
    for how in ("--resume", "--resume-failed"):
        assert run(folder, "1\n2\n", "jobs:square", "--output", f"new{how}", how).returncode == 0
        assert (folder / f"new{how}").read_text().count("result") == 2


@pytest.mark.parametrize("function", ["second_time", "second_life"])
def test_an_item_is_tried_again(folder: Path, function: str) -> None:
    done = run(folder, lines(range(3)), f"jobs:{function}", "--processes", "1", "--retries", "1", "--backoff", "0.01")
    assert done.returncode == 0, done.stderr
    assert sorted(ran(folder)) == sorted(lines([0, 0, 1, 1, 2, 2]).split())
    assert [json.loads(line)["result"] for line in done.stdout.splitlines()] == [0, 1, 2]


def test_an_item_that_goes_on_failing_has_its_own_error(folder: Path) -> None:
    done = run(folder, "1\n2\n", "jobs:until_mended", "--retries", "2")
    assert done.returncode == 1
    assert ran(folder).count("2") == 3
    assert json.loads(done.stdout.splitlines()[1])["error"] == "ValueError: 2"


def test_an_item_that_takes_too_long_is_stopped(folder: Path) -> None:
    done = run(folder, lines(range(3)), "jobs:slow", "--processes", "2", "--timeout", "0.5")
    assert done.returncode == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert "TaskTimeout" in answers[1]["error"]
    assert [answers[0]["result"], answers[2]["result"]] == [0, 2]


def test_it_stops_when_so_many_have_failed(folder: Path) -> None:
    done = run(folder, "x\n" * 100_000, "builtins:int", "--processes", "1", "--halt", "3")
    assert done.returncode == 1
    assert done.stdout.count(b"\n") == 3
    assert b"stopped, since 3 of 3 items failed; the first to: 'x': ValueError" in done.stderr


@pytest.mark.parametrize(
    "words", [("--timeout", "0"), ("--timeout", "fast"), ("--retries", "-1"), ("--backoff", "-1"), ("--halt", "0")]
)
def test_bad_numbers_are_refused(folder: Path, words: tuple[str, str]) -> None:
    done = run(folder, "1\n", "jobs:square", *words)
    assert done.returncode == 2
    assert words[0].encode() in done.stderr


def test_a_long_ordered_output_is_compared_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("".join(f'{{"input": "{i}", "result": 0}}\n' for i in range(1000)))
    finished = Finished(str(path), as_json=False)
    with contextlib.closing(finished):
        assert all(finished.take(b"%d" % i) for i in range(1000))
        assert finished._rest is None, "a table was made"
        assert not finished.take(b"1000")
        assert finished.n_left() == 0
    path.write_text('{"input": 1}\n')
    with pytest.raises(ResumeError, match="line 1 of"):
        Finished(str(path), as_json=False)
