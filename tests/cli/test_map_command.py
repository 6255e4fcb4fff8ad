"""`fullcourt map` as a person runs it: in a process of its own, with pipes, files and signals."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

FUNCTIONS = """
import os, signal, sys, time
def slow_after_two(x):
    if int(x) > 2:
        time.sleep(60)
    return int(x)
def die(x):
    if x == "3":
        os.kill(os.getpid(), signal.SIGKILL)
    return int(x)
def talk(x):
    print("said", x, flush=True)
    os.system("echo also said")
    return sys.stdin.read()
def hold(x):
    print("began", flush=True)
    for _ in range(1200):  # a signal may come just before one sleep begins, and is then heard when it ends
        time.sleep(0.05)
def interrupt(x):
    raise KeyboardInterrupt
def lazy(x):
    time.sleep(0.02 if x == "0" else 0)
    return int(x)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fullcourt", "map", *arguments]


def run(folder: Path, text: str | bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    data = text.encode() if isinstance(text, str) else text
    return subprocess.run(command(*arguments), input=data, capture_output=True, cwd=folder, timeout=60, check=False)


def objects(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


@contextlib.contextmanager
def start(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run it in a session of its own; nothing of it is left afterwards, whatever happened."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command(*arguments), stdin=pipe, stdout=pipe, stderr=pipe, cwd=folder, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        process.wait()


def read_line(stream: IO[bytes] | None, timeout_s: float = 20.0) -> bytes:
    """Read a line byte by byte, so that nothing behind it is taken; fail instead of waiting for ever."""
    assert stream is not None
    line = b""
    deadline = time.monotonic() + timeout_s
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no line within {timeout_s} s, only {line!r}"
        byte = os.read(stream.fileno(), 1)
        if not byte:
            break
        line += byte
    return line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--processes", "2"],
        ["--threads", "3"],
        ["--processes", "2", "--threads", "2"],
        ["--processes", "0"],
        ["--chunksize", "7"],
    ],
)
def test_results_come_in_the_order_of_the_input_in_every_mode(folder: Path, arguments: list[str]) -> None:
    done = run(folder, "".join(f"{n}\n" for n in range(100)), "functions:lazy", *arguments)
    assert done.returncode == 0, done.stderr
    assert [found["result"] for found in objects(done)] == list(range(100))
    assert [found["input"] for found in objects(done)] == [str(n) for n in range(100)]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_current_folder_is_importable_under_every_start_method(folder: Path, method: str) -> None:
    done = run(folder, "1\n", "functions:lazy", "--processes", "1", "--start-method", method)
    assert done.returncode == 0, done.stderr
    assert objects(done)[0]["result"] == 1


def test_unordered_gives_each_input_with_its_own_result(folder: Path) -> None:
    done = run(folder, "".join(f"{n}\n" for n in range(200)), "functions:lazy", "--unordered", "--processes", "2")
    found = objects(done)
    assert sorted(item["result"] for item in found) == list(range(200))
    assert all(item["input"] == str(item["result"]) for item in found)


def test_files_are_read_and_written(folder: Path) -> None:
    (folder / "in.jsonl").write_bytes(b"4\r\n\r\n9")
    done = run(folder, "", "math:sqrt", "--json", "--input", "in.jsonl", "--output", "out.jsonl", "--threads", "2")
    assert (done.returncode, done.stdout) == (0, b"")
    lines = (folder / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["result"] for line in lines] == [2.0, 3.0]


def test_no_input_gives_no_output(folder: Path) -> None:
    done = run(folder, "", "builtins:len")
    assert (done.returncode, done.stdout) == (0, b"")


def test_failed_items_stand_in_the_output_and_the_status_is_1(folder: Path) -> None:
    done = run(folder, '4\n-1\nnope\n"x"\n', "math:sqrt", "--json", "--processes", "2", "--no-progress")
    assert done.returncode == 1
    assert [next(key for key in ("result", "error") if key in item) for item in objects(done)] == ["result"] + [
        "error"
    ] * 3
    assert b"fullcourt map: 3 of 4 items failed; the first to: '-1': ValueError: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_function_that_raises_keyboardinterrupt_fails_its_items_only(folder: Path) -> None:
    done = run(folder, "1\n2\n", "functions:interrupt", "--processes", "0")
    assert done.returncode == 1
    assert [item["error"] for item in objects(done)] == ["KeyboardInterrupt"] * 2


def test_a_worker_that_dies_costs_its_item(folder: Path) -> None:
    done = run(folder, "".join(f"{n}\n" for n in range(10)), "functions:die", "--processes", "2", "--no-progress")
    assert done.returncode == 1, done.stderr
    found = objects(done)
    assert [item.get("result") for item in found] == [0, 1, 2, None, 4, 5, 6, 7, 8, 9]
    assert found[3]["input"] == "3"
    assert found[3]["error"].startswith("WorkerDied: ")


def test_what_the_function_prints_does_not_get_into_the_data(folder: Path) -> None:
    done = run(folder, "a\nb\n", "functions:talk", "--processes", "1", "--no-progress")
    assert [item["result"] for item in objects(done)] == ["", ""]
    assert done.stderr.count(b"also said") == 2
    assert done.stderr.count(b"said a") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["math:sqr"], 2, "did you mean 'sqrt'"),
        (["no_such_module_here:f"], 2, "cannot import"),
        (["math"], 2, "MODULE:FUNCTION"),
        (["math:sqrt", "--processes", "-1"], 2, "whole number"),
        (["math:sqrt", "--threads", "0"], 2, "whole number"),
        (["math:sqrt", "--frobnicate"], 2, "unrecognized"),
        (["math:sqrt", "--input", "no/such/file"], 3, "cannot read no/such/file"),
        (["math:sqrt", "--input", "."], 3, "cannot read ."),
        (["math:sqrt", "--output", "no/such/file"], 3, "cannot write no/such/file"),
        (["builtins:len", "--input", "functions.py", "--output", "functions.py"], 3, "it is the input"),
        (["builtins:len", "--processes", "0", "--timeout", "1", "--no-progress"], 2, "need workers"),
    ],
)
def test_wrong_usage_gets_one_clear_line_and_its_status(
    folder: Path, arguments: list[str], status: int, words: str
) -> None:
    done = run(folder, "1\n", *arguments, *(["--no-progress"] if status == 3 else []))
    last = done.stderr.decode().splitlines()[-1]
    assert (done.returncode, done.stdout) == (status, b"")
    assert words in last
    assert "Traceback" not in done.stderr.decode()
    assert (folder / "functions.py").read_text() == FUNCTIONS


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("n_lines", [3, 100_000])
def test_a_full_disk_is_told_in_one_line(folder: Path, n_lines: int) -> None:
    done = run(folder, "x\n" * n_lines, "builtins:len", "--output", "/dev/full", "--no-progress", "--processes", "1")
    assert done.returncode == 3
    assert b"cannot write /dev/full: No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_output_is_told_in_one_line(folder: Path) -> None:
    closing = ["sh", "-c", '"$@" >&-', "sh"]
    done = subprocess.run(
        [*closing, *command("builtins:len")], input=b"x\n", capture_output=True, cwd=folder, timeout=60, check=False
    )
    assert done.returncode == 3
    assert done.stderr.decode().splitlines() == ["fullcourt map: cannot write stdout: it is closed, after 0 items."]


def test_a_current_folder_that_is_gone_is_told_in_one_line(folder: Path) -> None:
    leaving = ["sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; "$@"', "sh"]
    done = subprocess.run(
        [*leaving, sys.executable, "-P", "-m", "fullcourt", "map", "builtins:len"],
        input=b"x\n", capture_output=True, cwd=folder, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"the current folder, where modules are looked for, is gone" in done.stderr.splitlines()[-1]


def test_a_closed_pipe_ends_the_job_with_one_line(folder: Path) -> None:
    with start(folder, "builtins:len", "--no-progress", "--processes", "2") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"x\n" * 100)
        process.stdin.flush()
        assert json.loads(read_line(process.stdout))["result"] == 1
        process.stdout.close()
        for close in (lambda: process.stdin.write(b"x\n" * 1_000_000), process.stdin.close):  # type: ignore[union-attr]
            with contextlib.suppress(BrokenPipeError):
                close()
        assert process.wait(30) == 141
        assert b"the reader of the output went away" in process.stderr.read()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("mode", [["--processes", "1"], ["--threads", "1"]])
def test_a_signal_ends_the_job_and_what_was_finished_is_written(
    folder: Path, number: signal.Signals, status: int, mode: list[str]
) -> None:
    with start(folder, "functions:slow_after_two", "--no-progress", *mode) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"1\n2\n3\n")
        process.stdin.close()
        assert [json.loads(read_line(process.stdout))["result"] for _ in range(2)] == [1, 2]
        os.killpg(process.pid, number)
        assert process.wait(15) == status
        said = process.stderr.read().decode()
        assert "after 2 items, which are written." in said
        assert "Traceback" not in said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("more", [[], ["--unordered"], ["--retries", "1"]])
def test_a_signal_ends_the_job_in_the_midst_of_an_item_of_this_process(
    folder: Path, number: signal.Signals, status: int, more: list[str]
) -> None:
    with start(folder, "functions:hold", "--no-progress", "--processes", "0", *more) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"1\n2\n3\n")
        process.stdin.close()
        assert read_line(process.stderr) == b"began\n"
        os.killpg(process.pid, number)
        assert process.wait(15) == status
        said = process.stderr.read().decode()
        assert "after 0 items, which are written." in said
        assert "Traceback" not in said


def test_a_finished_line_is_not_kept_back_while_the_input_pauses(folder: Path) -> None:
    with start(folder, "builtins:len", "--processes", "1", "--no-progress") as process:
        assert process.stdin is not None
        for line in (b"a\n", b"bc\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert json.loads(read_line(process.stdout))["result"] == len(line) - 1
        process.stdin.close()
        assert process.wait(20) == 0


def test_progress_is_told_on_stderr_unless_it_is_unwanted(folder: Path) -> None:
    assert b"map: 3 done in " in run(folder, "a\nb\nc\n", "builtins:len").stderr
    (folder / "in.txt").write_text("a\nb")
    assert b"map: 2 of 2 done in " in run(folder, "", "builtins:len", "--input", "in.txt").stderr
    assert run(folder, "a\n", "builtins:len", "--no-progress").stderr == b""


@pytest.mark.slow
def test_a_long_input_takes_constant_memory(folder: Path) -> None:
    def peak_kib(n_lines: int) -> int:
        code = (
            "import resource, sys; from fullcourt.cli.main import main; s = main(sys.argv[1:]);"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(s)"
        )
        arguments = ["map", "builtins:len", "--processes", "1", "--no-progress", "--output", os.devnull]
        text = b"".join(b"%d\n" % n for n in range(n_lines))
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            input=text,
            capture_output=True,
            cwd=folder,
            timeout=100,
            check=True,
        )
        return int(done.stderr)

    assert peak_kib(150_000) < peak_kib(15_000) + 8 * 1024
