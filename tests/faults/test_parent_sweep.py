"""The parent dies at its n-th step, for every n, and the template at its: nothing outlives the one, no task the other.

A step is a call of the system made by the package, before and after it (:mod:`steps`). Parents are run by a program
that is the subreaper of all that they leave (:mod:`parents`): a process that outlives its parent cannot hide from it.
"""

from __future__ import annotations

import concurrent.futures as cf
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import fault_tasks
from tests.faults.parents import OPTIONS

if TYPE_CHECKING:
    from types import ModuleType

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.faults,
    pytest.mark.slow,  # with the rest of the file: random samples of a long sweep
    pytest.mark.skipif(sys.platform != "linux", reason="subreapers and signals are Linux's"),
]

ROOT = Path(__file__).parents[2]
# Of a parent's steps so many are tried, drawn by chance, where not all are; it has about a thousand.
PARENT_SAMPLES = {"fork": 25, "forkserver": 6, "spawn": 2, "fork-x-threads": 10, "portable": 2}
TEMPLATE_SAMPLES = {"fork": 20, "forkserver": 4, "spawn": 2, "fork-x-threads": 8}  # of about 200


# --- the parent


def parents(engine: str, folder: Path, steps: list[int]) -> list[dict[str, Any]]:
    """Have parents die at these steps. Fails where anything is left of one."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    before = set(os.listdir("/dev/shm"))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in [str(ROOT), *sys.path] if path),
        "TMPDIR": str(temporary),
        "FULLCOURT_TRANSPORT": "portable" if engine == "portable" else "native",
    }
    command = [sys.executable, "-m", "tests.faults.parents", engine, str(folder), *map(str, steps)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    reports: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["step"] for report in reports] == steps
    for report in reports:
        log = folder / f"step-{report['step']}"
        report["where"] = log.read_text().strip() if log.exists() else ""
        assert not report["left"], report
        assert report["status"] == (0 if "passed" in report["where"] else -9), (report, done.stderr)
    assert os.listdir(temporary) == []
    new = [name for name in set(os.listdir("/dev/shm")) - before if "fullcourt" in name]
    assert new == []
    return reports


def count_steps(engine: str, folder: Path) -> int:
    (report,) = parents(engine, folder, [0])
    n_steps = int(report["where"].removeprefix("passed "))
    assert n_steps > 300
    return n_steps


def judge(reports: list[dict[str, Any]]) -> None:
    n_killed = sum(report["status"] == -9 for report in reports)
    assert n_killed > 0.7 * len(reports)  # the number of steps is never quite the same
    slowest = max(reports, key=lambda report: float(report["seconds"]))
    print(f"{n_killed} parents died; the longest survival was {1e3 * slowest['seconds']:.0f} ms, {slowest['where']}")


@pytest.mark.parametrize("engine", OPTIONS)
def test_nothing_outlives_a_parent_that_dies_at_any_step(engine: str, tmp_path: Path) -> None:
    n_steps = count_steps(engine, tmp_path)
    judge(parents(engine, tmp_path, random.sample(range(1, n_steps), PARENT_SAMPLES[engine])))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", OPTIONS)
def test_nothing_outlives_a_parent_that_dies_at_each_of_all_steps(engine: str, tmp_path: Path) -> None:
    n_steps = count_steps(engine, tmp_path)
    every = 1 if engine.startswith("fork") else 7  # an interpreter's start each takes its time
    reports: list[dict[str, Any]] = []
    for first in range(1, n_steps, 100 * every):
        reports += parents(engine, tmp_path, list(range(first, min(first + 100 * every, n_steps), every)))
    judge(reports)


# --- the template

N = 8
FIND_STEPS = """\
import sys
if "template import main" in sys.orig_argv[-1]:
    sys.path[:0] = {path!r}
    import tests.faults.template_steps
"""


class TemplateSweep:
    """Pools whose first template dies at its n-th step."""

    def __init__(self, engine: str, folder: Path, fullcourt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self._options = dict(OPTIONS[engine])
        self._folder = folder
        self._fullcourt = fullcourt
        self._monkeypatch = monkeypatch
        if engine == "spawn":  # whose template preloads nothing
            (folder / "sitecustomize.py").write_text(FIND_STEPS.format(path=[str(ROOT), *filter(None, sys.path)]))
            monkeypatch.setenv("PYTHONPATH", str(folder))
        else:
            self._options["preload"] = ["tests.faults.template_steps"]
        self._n = 0

    def step(self, deadly: int) -> bool:
        """Run one pool with a template that dies at that step; whether it did."""
        self._n += 1
        death, log = self._folder / f"death-{self._n}", self._folder / f"log-{self._n}"
        log.touch()
        self._monkeypatch.setenv("FULLCOURT_TEST_TEMPLATE_STEP", f"{deadly}:{death}")
        with self._fullcourt.Pool(2, **self._options) as pool:
            outcomes = self._work(pool, str(log), 0)
            outcomes |= self._work(pool, str(log), N)
        where = death.read_text().strip() if death.exists() else ""
        self._judge(outcomes, Counter(map(int, log.read_text().split())), where)
        return bool(where)

    def _work(self, pool: Any, log: str, first: int) -> dict[int, Any]:
        """Tasks among which a worker dies."""
        numbers = range(first, first + N)
        futures = [pool.submit(fault_tasks.note_and_give, log, ("int", "text"), i) for i in numbers]
        deadly = pool.submit(os._exit, 3)
        assert not cf.wait([*futures, deadly], 60).not_done
        assert isinstance(deadly.exception(0), self._fullcourt.errors.WorkerDied)
        return {i: future.exception(0) or future.result(0) for i, future in zip(numbers, futures, strict=True)}

    def _judge(self, outcomes: dict[int, Any], n_runs: Counter[int], where: str) -> None:
        text = f"template died {where!r}, ran {dict(n_runs)}, outcomes {outcomes}"
        lost = [i for i, outcome in outcomes.items() if isinstance(outcome, self._fullcourt.errors.WorkerDied)]
        for i, outcome in outcomes.items():
            assert n_runs[i] <= 1, f"task {i} ran twice: {text}"
            if i not in lost:
                assert (outcome, n_runs[i]) == (i * i if i % 2 == 0 else f"result {i}", 1), text
        n_slots = 2 * self._options.get("threads", 1)
        # Its workers may go with it; and beside each crash its neighbours in the same process.
        n_neighbours = 2 * (self._options.get("threads", 1) - 1)
        assert len(lost) <= (n_slots if where else 0) + n_neighbours, text


@pytest.mark.parametrize("engine", TEMPLATE_SAMPLES)
def test_a_template_that_dies_at_any_step_costs_at_most_what_ran(
    engine: str, tmp_path: Path, fullcourt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = TemplateSweep(engine, tmp_path, fullcourt, monkeypatch)
    n_died = sum(sweep.step(deadly) for deadly in random.sample(range(1, 120), TEMPLATE_SAMPLES[engine]))
    assert n_died > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", TEMPLATE_SAMPLES)
def test_a_template_that_dies_at_each_of_all_steps_costs_at_most_what_ran(
    engine: str, tmp_path: Path, fullcourt: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = TemplateSweep(engine, tmp_path, fullcourt, monkeypatch)
    deadly, n_missed = 1, 0
    while n_missed < 8:  # how many steps there are depends on who is faster
        n_missed = 0 if sweep.step(deadly) else n_missed + 1
        deadly += 1
    print(f"the template died at each of {deadly - 9} steps")
    assert deadly > 40
