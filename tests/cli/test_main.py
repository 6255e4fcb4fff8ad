"""The command line's own business: arguments, version, `doctor`, closed pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fullcourt._os.cpus import usable_cores
from fullcourt.cli import doctor, doctor_probes, exits
from fullcourt.cli.main import build_parser, main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fullcourt", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def test_the_version_is_printed() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("fullcourt ")


def test_without_a_command_the_help_comes_on_stderr_with_status_2() -> None:
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: fullcourt" in done.stderr


@pytest.mark.parametrize("command", ["map", "doctor", "demo"])
def test_the_help_of_each_command_documents_the_exit_statuses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(str(status) in shown for status in (exits.USAGE, exits.INTERRUPTED, exits.CLOSED_PIPE, exits.TERMINATED))


@pytest.mark.parametrize("seconds", ["0", "nan", "1000", "x"])
def test_seconds_that_make_no_sense_are_refused(seconds: str) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["demo", "--seconds", seconds])
    assert caught.value.code == 2


def test_the_command_imports_nothing_heavy_until_it_needs_it() -> None:
    code = (
        "import sys; from fullcourt.cli.main import build_parser; build_parser();"
        "print([m for m in ('asyncio', 'rich', 'cloudpickle', 'http.client', 'importlib.metadata')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_doctor_says_the_same_in_words_and_in_json() -> None:
    words, data = run("doctor"), run("doctor", "--json")
    assert (words.returncode, data.returncode) == (0, 0)
    findings = json.loads(data.stdout)
    assert set(findings) == set(doctor._TITLES)
    assert findings["cores"]["usable"] == usable_cores().count
    assert findings["cores"]["why"] in words.stdout
    for section, facts in findings.items():
        assert f"\n{doctor._TITLES[section]}\n" in "\n" + words.stdout
        assert all(doctor._label(name) in words.stdout for name in facts)


def test_the_doctor_copes_with_a_machine_that_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_probes, "_read", lambda _: "")
    monkeypatch.setattr(doctor_probes, "_works", lambda _: False)
    findings = doctor.examine()
    assert findings["memory"]["available_bytes"] is None
    assert "unknown" in doctor._text(findings)


def test_a_reader_that_goes_away_is_told_in_one_line() -> None:
    code = (
        "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1);"
        "from fullcourt.cli.main import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-u", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == exits.CLOSED_PIPE
    assert done.stderr == "fullcourt: the reader of the output went away before its end.\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["doctor"], ["advise", "builtins:len", "--lines"]])
def test_a_full_disk_is_told_in_one_line(command: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fullcourt", *command],
            input=b"x\n", stdout=full, stderr=subprocess.PIPE, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == exits.INPUT_OUTPUT
    assert done.stderr == b"fullcourt: cannot write stdout: No space left on device.\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize("command", ["doctor", "demo", "advise builtins:len --lines"])
def test_a_closed_output_is_told_in_one_line(command: str) -> None:
    closing = ["sh", "-c", f'"$0" -m fullcourt {command} >&-', sys.executable]
    done = subprocess.run(closing, input=b"x\n", capture_output=True, timeout=60, check=False)
    assert done.returncode == exits.INPUT_OUTPUT
    assert b"cannot write stdout: it is closed" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_stream_that_has_no_bars_in_its_encoding_is_written_without() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fullcourt", "advise", "builtins:len", "--lines"],
        input="x\n" * 9, capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout


def test_the_documentation_lists_every_option_and_status() -> None:
    path = Path(__file__).parents[2] / "docs" / "command.md"
    if not path.exists():
        pytest.skip("the documentation is not installed with the package")
    text = path.read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        build_parser().parse_args(["map"])
    for option in ("--input", "--output", "--json", "--processes", "--threads", "--start-method", "--chunksize"):
        assert option in text
    for option in ("--unordered", "--no-progress", "--html", "--seconds"):
        assert option in text
    for status in (0, 1, 2, 3, 4, 130, 141, 143):
        assert f"| {status} |" in text
