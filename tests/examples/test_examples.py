"""Every example runs as its reader runs it, alone and under each start method, and says what it should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fullcourt
from tests.methods import start_methods

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 60  # an example takes a second or two; a machine that is busy with other things takes its time

# What each must print, as regular expressions of whole lines. The guide's programs must print two headings as well.
EXPECTED: dict[str, list[str]] = {
    "01_child_by_fork.py": [
        r"the child answered 333328333350000 and left with exit code 0",
        r"a bare child left with exit code 29",
        r"both gave the same: 333328333350000",
    ],
    "02_one_process.py": [
        r"another process: True, its exit code: 0",
        r"both gave the same: hello court",
    ],
    "03_many_processes.py": [
        r"  task 5 done",
        r"6 tasks of 0\.1 s on 4 processes took \d+\.\d\d s",
        r"both gave the same: 6 tasks done",
    ],
    "04_return_values.py": [
        r"100 / 0: division by zero",
        r"as futures: 3 have a value, 1 has an exception",
        r"item 1 failed: ZeroDivisionError\('division by zero'\); the others went on",
        r"both gave the same: 5 lines",
    ],
    "05_queue.py": [r"  RECORD 0", r"  RECORD 7", r"both gave the same: 8 records"],
    "06_pipe.py": [
        r"  level: the same from the other end",
        r"  court: another word from the other end",
        r"both gave the same: 4 answers",
    ],
    "07_threads.py": [
        r"8 waits of 0\.1 s on 8 threads took \d+\.\d\d s",
        r"both gave the same: \[0, 1, 4, 9, 16, 25, 36, 49\]",
    ],
    "08_processes_of_threads.py": [
        r"16 waits of 0\.1 s on 2 processes of 4 threads took \d+\.\d\d s",
        r"both gave the same: 16 squares",
    ],
    "09_the_gil.py": [
        r"this Python has (a|no) GIL",
        r"  2,000,000 counted down on one thread +\d\.\d{3} s",
        r"  2,000,000 counted down on two threads +\d\.\d{3} s",
        r"  2,000,000 counted down on two processes +\d\.\d{3} s",
        r"both gave the same: \[0, 0, 0\]",
    ],
    "asyncio_use.py": [
        r"run_in_executor: \[1000003, 1299709, 15485863, 15485867\]",
        r"wrap_future:     \[1000003, 1299709, 15485863, 15485867\]",
        r"an exception:    division by zero",
        r"the loop went on meanwhile: True",
    ],
    "download_many.py": [
        r"20 threads: 39 files, 107,000 bytes in \d+\.\d\d s",
        r"  file 13: 404 Not Found",
        r"2 processes of 20 threads: 39 files, 107,000 bytes in \d+\.\d\d s",
    ],
    "endless_stream.py": [
        r"20,000 results used, 2,262 of them primes",
        r"never more than [\d,]+ items ahead of the reader",
    ],
    "notebook_cell.py": [r"\[0, 1, 4, 9, 16\]", r"\[101, 102\] True", r"all three gave the same"],
    "pipeline_under_fire.py": [
        r"100,000 records read, parsed and written in \d+\.\d s",
        r"\d+ workers killed, \d+ records parsed again, none lost, none twice",
    ],
    "thumbnails.py": [
        r"item 3 failed: rings_4\.pgm is not a PGM picture",
        r"9 thumbnails of 10 pictures; the third:",
    ],
    "word_count.py": [
        r"\d{3,} files, \d+\.\d MB, [\d,]{6,} words, [\d,]+ different ones",
        r" +[\d,]+ self",
        r"one after the other \d+\.\d\d s, on the pool \d+\.\d\d s \(its start included\)",
    ],
}

# Runs a file as `python FILE` does, but with the start method chosen first, as a program that includes it might.
UNDER_A_START_METHOD = """\
import multiprocessing, runpy, sys
multiprocessing.set_start_method(sys.argv[1])
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

START_METHODS = start_methods()


def run(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run this Python with `arguments` in `folder`, with the `fullcourt` that the test has imported."""
    source = str(Path(fullcourt.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": source, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def check(name: str, done: "subprocess.CompletedProcess[str]") -> None:
    """Assert that the example ended well, wrote nothing to stderr, and printed what it should."""
    assert done.stderr == ""
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    halves = ["-- with the standard library --", "-- with fullcourt --"] if name[0].isdigit() else []
    for pattern in halves + EXPECTED[name]:
        assert any(re.fullmatch(pattern, line) for line in lines), f"no line is {pattern!r} in:\n{done.stdout}"


def needs_fork(name: str) -> bool:
    """Whether the example is about `fork` and nothing else."""
    return name == "01_child_by_fork.py"


def test_every_example_is_tested_here_and_stands_in_the_index() -> None:
    files = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert files == sorted(EXPECTED)
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert files == sorted(set(re.findall(r"\(([\w.]+\.py)\)", index)))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_example_runs_by_itself(name: str, tmp_path: Path) -> None:
    if needs_fork(name) and "fork" not in START_METHODS:
        pytest.skip("there is no fork on this system")
    check(name, run(str(EXAMPLES / name), folder=tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("start_method", START_METHODS[1:])  # the first is the default, which the test above runs
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_example_runs_under_every_other_start_method(name: str, start_method: str, tmp_path: Path) -> None:
    if needs_fork(name) and "fork" not in START_METHODS:
        pytest.skip("there is no fork on this system")
    check(name, run("-c", UNDER_A_START_METHOD, start_method, str(EXAMPLES / name), folder=tmp_path))
