"""`fullcourt.advise` and `fullcourt advise`, with real functions. What is measured depends on the machine: no times."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from pathlib import Path

import advise_tasks as tasks
import pytest

import fullcourt
from fullcourt.cli.main import main


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullcourt._advise.calibrate.PHASE_S", 0.05)


def test_results_are_kept_and_the_rest_is_handed_back() -> None:
    items = iter(range(100_000))
    advice = fullcourt.advise(tasks.compute, items)
    n = len(advice.results)
    assert n >= 1
    assert advice.results == [tasks.compute(i) for i in range(n)]
    assert next(advice.rest) == n


def test_each_item_runs_once() -> None:
    seen: list[int] = []
    advice = fullcourt.advise(seen.append, range(5000))
    assert sorted(seen) == list(range(len(advice.results)))


def test_the_choice_opens_a_pool() -> None:
    advice = fullcourt.advise(tasks.wait, range(1000))
    with fullcourt.Pool(**advice.options) as pool:
        assert pool.map(tasks.add_one, range(3)) == [1, 2, 3]


def test_an_endless_input_is_no_harm() -> None:
    assert fullcourt.advise(tasks.wait, itertools.count()).results[:2] == [0, 1]


def test_one_item_is_enough() -> None:
    advice = fullcourt.advise(tasks.compute, [3])
    assert advice.results == [tasks.compute(3)]
    assert advice.facts.pair is None
    assert advice.caveats


def test_no_item_is_refused() -> None:
    with pytest.raises(ValueError, match="no items"):
        fullcourt.advise(tasks.compute, [])


def test_what_the_function_raises_comes_out() -> None:
    with pytest.raises(ValueError, match="seven"):
        fullcourt.advise(tasks.fail_on_seven, [7])


def test_what_the_input_raises_comes_out() -> None:
    def broken():
        yield 1
        raise LookupError("the input")

    with pytest.raises(LookupError, match="the input"):
        fullcourt.advise(tasks.compute, broken())


def test_a_result_that_does_not_pickle_rules_processes_out() -> None:
    advice = fullcourt.advise(tasks.give_lock, range(100))
    assert "result" in advice.facts.transport.obstacle
    assert not advice.choice.processes


def test_an_item_longer_than_the_time_is_run_once_beside_a_second_one() -> None:
    both = threading.Barrier(2)

    def meet(n: int) -> int:
        if n < 2:
            both.wait(30)
        return n

    advice = fullcourt.advise(meet, range(10))  # the first waits for the second: one at a time would never end
    assert advice.results[:2] == [0, 1]
    assert advice.facts.alone.n_items == 1  # its length was seen in the end
    assert any("An item or two" in caveat for caveat in advice.caveats)


def test_it_says_it_in_words() -> None:
    advice = fullcourt.advise(tasks.wait, range(500))
    text = str(advice)
    assert f"Use {advice.choice}" in text
    assert "waiting" in advice.reason
    assert all(str(prediction.mode) in text for prediction in advice.predictions)


# --- the command


def test_the_command_tells_the_choice_and_writes_the_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "items.jsonl"
    lines.write_text("".join(f"{n}\n" for n in range(2000)))
    facts = tmp_path / "facts.json"
    assert main(["advise", "math:sqrt", "--input", str(lines), "--json", "--facts", str(facts)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["choice"]["kind"] in ("serial", "threads" if told["facts"]["free_threaded"] else "serial")
    assert main(["advise", "--from-facts", str(facts), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["choice"] == told["choice"]
    assert again["facts"] == told["facts"]


@pytest.mark.parametrize("rich", [True, False])
def test_the_command_draws_a_table(
    rich: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    lines = tmp_path / "names"
    lines.write_text("court\ngame\n" * 500)
    assert main(["advise", "builtins:len", "--lines", "--input", str(lines)]) == 0
    out = capsys.readouterr().out
    assert "Use " in out
    assert "2 processes" in out


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["advise"], 2, "MODULE:FUNCTION"),
        (["advise", "math:nothing"], 2, "nothing"),
        (["advise", "math:sqrt", "--input", "/nowhere/at/all"], 3, "cannot read"),
        (["advise", "--from-facts", "/nowhere/at/all"], 3, "cannot read"),
        (["advise", "math:sqrt", "--from-facts", "x"], 2, "not both"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    assert says in capsys.readouterr().err


def test_the_command_tells_of_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "items"
    lines.write_text("not json\n")
    assert main(["advise", "math:sqrt", "--input", str(lines)]) == 2
    assert "line 1 is not JSON" in capsys.readouterr().err
    lines.write_text('"text"\n')
    assert main(["advise", "math:sqrt", "--input", str(lines)]) == 1
    assert "TypeError" in capsys.readouterr().err


def test_the_command_tells_what_failed_and_keeps_its_output_clean(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(
        "import os\n"
        "def refused(n): raise ConnectionRefusedError(111, 'refused')\n"
        "def talk(n): return os.system('echo said')\n"
    )
    command = [sys.executable, "-m", "fullcourt", "advise"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], input="1\n2\n", capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False
        )

    done = run("jobs:refused")
    assert done.returncode == 1
    assert "jobs:refused failed: ConnectionRefusedError" in done.stderr
    done = run("jobs:talk", "--json")
    assert json.loads(done.stdout)["choice"]
    assert "said" in done.stderr
