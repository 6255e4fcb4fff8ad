"""CPython's own tests of its pools and executors, run against our faces.

They are taken from the running interpreter's `test` package, which not every installation has (Debian's is in
libpython3.X-testsuite); FULLCOURT_STANDARD_TESTS names a folder that holds it, if it lies elsewhere. At least 98 % of
those that the standard library passes here must pass, and every other stands by name in docs/differences.md. A test
that comes to no end has failed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DIFFERENCES = HERE.parents[1] / "docs" / "differences.md"
SILENCE_S = 150.0  # no test of theirs takes so long by itself
LEAST_SHARE = 0.98
LANES = 2

FOLDER = os.environ.get("FULLCOURT_STANDARD_TESTS")


def package() -> Path | None:
    """The folder of the `test` package, if it has what we want of it."""
    found = [Path(FOLDER) / "test"] if FOLDER else []
    spec = importlib.util.find_spec("test")
    found += [Path(p) for p in (spec.submodule_search_locations or ())] if spec is not None else []
    for folder in found:
        if (folder / "_test_multiprocessing.py").exists() and list(folder.glob("test_concurrent_futures*")):
            return folder
    return None


def suites(folder: Path) -> list[str]:
    """The test modules, the longest first."""
    names = []
    for path in [*folder.glob("test_concurrent_futures*"), *folder.glob("test_multiprocessing_*")]:
        if path.name.startswith("test_multiprocessing_main"):
            continue
        parts = sorted(path.glob("test_*.py")) if path.is_dir() else [path]
        names += [".".join(("test", *p.relative_to(folder).with_suffix("").parts)) for p in parts]
    first = ("process_pool", "deadlock", "test_concurrent_futures", "shutdown", "_spawn")
    return sorted(names, key=lambda name: next((i for i, f in enumerate(first) if name.endswith(f)), len(first)))


def known_differences() -> dict[str, bool]:
    """From the table: patterns of test names, and whether such a test would wait for ever and is not run."""
    text = DIFFERENCES.read_text(encoding="utf-8").partition("## CPython's tests")[2]
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    return {name: "not run" in row[2] for row in rows for name in re.findall(r"`([^`]+)`", row[1])}


KNOWN = known_differences()


def pattern_of(test: str) -> str | None:
    name = ".".join(test.split(".")[-2:])
    return next((pattern for pattern in KNOWN if fnmatchcase(name, pattern)), None)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "default"}


class Run:
    """One child that runs some tests, and what came of each."""

    def __init__(self, whose: str, suite: str, folder: Path, environment: dict[str, str]) -> None:
        self.whose, self.suite, self.folder, self.environment = whose, suite, folder, environment
        self.results: dict[str, tuple[str, str]] = {}
        self.problem = ""

    def run(self, only: set[str] | None = None, attempts: int = 4) -> None:
        """Run them; after one that hangs, which is killed, the rest in a new child."""
        for attempt in range(attempts):
            base = f"{self.folder}/{self.whose}-{self.suite}-{attempt}"
            skip = set(self.results)
            options = []
            for name, tests in (("--skip", skip), ("--only", only)):
                if tests:
                    Path(base + name).write_text("\n".join(tests))
                    options += [name, base + name]
            hung = self._child(base, options)
            self._read(Path(base + ".jsonl"))
            if not hung:
                return
        self.problem = "too many hangs"

    def _child(self, base: str, options: list[str]) -> bool:
        """Run a child. Returns whether it had to be ended because it came to no end."""
        outcomes, log_path = Path(base + ".jsonl"), Path(base + ".log")
        outcomes.touch()
        never = [p for p, waits in KNOWN.items() if waits] if self.whose == "ours" else []
        command = [sys.executable, str(HERE / "run_standard_tests.py"), self.whose, self.suite, str(outcomes), *options]
        with log_path.open("wb") as log:
            child = subprocess.Popen(
                [*command, *(f"--never={pattern}" for pattern in never)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True,
            )  # fmt: skip
            size, since = 0, time.monotonic()
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(1.0)
                    if child.returncode and not outcomes.stat().st_size:
                        self.problem = log_path.read_text(errors="replace")[-2000:]
                    end_group(child.pid)
                    return child.returncode < 0
                if outcomes.stat().st_size != size:
                    size, since = outcomes.stat().st_size, time.monotonic()
                if time.monotonic() - since > SILENCE_S:
                    end_group(child.pid)
                    child.wait()
                    return True

    def _read(self, outcomes: Path) -> None:
        running = None
        for line in outcomes.read_text().splitlines():
            what, test, *text = json.loads(line)
            if what == "begin":
                running = test
                continue
            running = None
            if self.results.get(test, ("",))[0] != "fail":
                self.results[test] = (what, text[0])
        if running is not None:
            self.results[running] = ("fail", "it came to no end, or took the whole process with it")


def end_group(leader: int) -> None:
    """End a session that we started: what it left, too."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="the runs of the standard library's tests are watched on Linux")
def test_the_standard_librarys_own_tests_pass(environment: dict[str, str], tmp_path: Path) -> None:
    folder = package()
    if folder is None:
        pytest.skip(f"this Python {sys.version.split()[0]} has no `test` package with these tests")
    runs = [Run("ours", suite, tmp_path, environment) for suite in suites(folder)]
    with ThreadPoolExecutor(LANES) as lanes:
        list(lanes.map(Run.run, runs))
    problems = [f"{run.suite}: {run.problem}" for run in runs if run.problem]
    n_passed = n_failed = n_known = 0
    for run in runs:
        failed = {test: text for test, (outcome, text) in run.results.items() if outcome == "fail"}
        n_passed += sum(outcome == "pass" for outcome, _ in run.results.values())
        standard = Run("standard", run.suite, tmp_path, environment)
        if failed:
            standard.run(only=set(failed))
        for test, text in failed.items():
            if standard.results.get(test, ("fail",))[0] != "pass":
                continue  # the standard library fails it here, too, or skips it
            n_failed += 1
            if pattern_of(test) is None:
                problems.append(f"{test} fails, and is not in {DIFFERENCES.name}:\n{text[-3000:]}")
            else:
                n_known += 1
    share = n_passed / max(1, n_passed + n_failed)
    print(f"\nPython {sys.version.split()[0]}: {n_passed} of the standard library's {n_passed + n_failed} tests pass "
          f"({share:.2%}); {n_known} others are in {DIFFERENCES.name}")  # fmt: skip
    if share < LEAST_SHARE:
        problems.append(f"only {share:.2%} pass")
    assert n_passed > 300, "most tests were not even run"
    assert not problems, "\n\n".join(problems)
