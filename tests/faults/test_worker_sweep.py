"""A worker dies at its n-th door, for every n: whatever it was doing, each task ends exactly once.

The doors stand before and after each frame it receives, each store in its journal and each frame it sends
(:mod:`worker_doors`). What ran is counted by a file to which tasks append. The pool has one worker, so the order of
doors is the same each time; its successor does the rest, and the next step of the sweep.
"""

from __future__ import annotations

import concurrent.futures as cf
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import fault_tasks, worker_doors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.faults,
    pytest.mark.slow,  # with the rest of the file: random samples of a long sweep
    pytest.mark.skipif(sys.platform != "linux", reason="kills by signals"),
]

N = 7  # tasks of a scenario
MAX_DOORS = 2_000  # a sweep that does not come to its end is an error
NEVER = 1_000_000

ENGINES: dict[str, dict[str, Any]] = {
    "fork": {"start_method": "fork"},
    "forkserver": {"start_method": "forkserver"},
    "spawn": {"start_method": "spawn"},
    "fork-x-threads": {"start_method": "fork", "threads": 2},
    "portable": {},
}
# Of each scenario so many doors, drawn by chance, are tried where not all are. A sweep of all doors takes two seconds
# with fork, which starts a new worker in a millisecond, and twenty with fresh interpreters: most are left to the slow
# tests.
SAMPLES = {"fork": 12, "forkserver": 3, "spawn": 1, "fork-x-threads": 5, "portable": 1}
IN_FULL = {("fork", "calls"), ("fork", "a map with errors"), ("fork", "imap")}


@dataclass(frozen=True)
class Scenario:
    """Starts N tasks, which append to `log`; returns their outcomes by number, and what they should be."""

    run: Callable[[Any, str], dict[int, Any]]
    kinds: tuple[str, ...]

    def expected(self, i: int) -> Any:
        return fault_tasks.result_of(self.kinds[i % len(self.kinds)], i)


def calls(pool: Any, log: str, kinds: tuple[str, ...]) -> dict[int, Any]:
    futures = [pool.submit(fault_tasks.note_and_give, log, kinds, i) for i in range(N)]
    return {i: future.exception(60) or future.result(0) for i, future in enumerate(futures)}


def mapped(pool: Any, log: str, kinds: tuple[str, ...], chunksize: int | None) -> dict[int, Any]:
    run = partial(fault_tasks.note_and_give, log, kinds)
    return unpack(pool.map(run, range(N), chunksize, on_error="return"))


def streamed(pool: Any, log: str, kinds: tuple[str, ...], chunksize: int) -> dict[int, Any]:
    run = partial(fault_tasks.note_and_give, log, kinds)
    return unpack(list(pool.imap(run, range(N), chunksize, on_error="return")))


def unordered(pool: Any, log: str, kinds: tuple[str, ...], chunksize: int) -> dict[int, Any]:
    run = partial(fault_tasks.note_and_tell, log, kinds)
    found: dict[int, Any] = {}
    for outcome in pool.imap_unordered(run, iter(range(N)), chunksize, on_error="return"):
        i, value = (outcome.index, outcome.exception) if hasattr(outcome, "exception") else outcome
        assert i not in found
        found[i] = value
    return found


def by_value(pool: Any, log: str, kinds: tuple[str, ...], chunksize: int) -> dict[int, Any]:
    """A function that no worker has: it loads it first. And one item that will not load in company."""
    items: list[Any] = [*range(N - 1), fault_tasks.LoadsToAnError(N - 1)]
    run = lambda i: fault_tasks.note_and_give(log, kinds, i)  # noqa: E731
    return unpack(pool.map(run, items, chunksize, on_error="return"))


def unpack(results: list[Any]) -> dict[int, Any]:
    return {i: getattr(result, "exception", result) for i, result in enumerate(results)}


INTS, NONES, TEXTS, BLOCKS, ERRORS = ("int",), ("none",), ("text",), ("block",), ("int", "error", "text")
MIXED = ("int", "none", "text", "block", "error")

SCENARIOS = {
    "calls": Scenario(partial(calls, kinds=MIXED), MIXED),
    "calls of ints": Scenario(partial(calls, kinds=INTS), INTS),
    "a map of ints": Scenario(partial(mapped, kinds=INTS, chunksize=3), INTS),
    "a map of nones": Scenario(partial(mapped, kinds=NONES, chunksize=4), NONES),
    "a map of texts": Scenario(partial(mapped, kinds=TEXTS, chunksize=4), TEXTS),
    "a map of blocks": Scenario(partial(mapped, kinds=BLOCKS, chunksize=3), BLOCKS),
    "a map with errors": Scenario(partial(mapped, kinds=ERRORS, chunksize=4), ERRORS),
    "a map in chunks that are found": Scenario(partial(mapped, kinds=MIXED, chunksize=None), MIXED),
    "imap": Scenario(partial(streamed, kinds=MIXED, chunksize=3), MIXED),
    "imap_unordered": Scenario(partial(unordered, kinds=("int", "text"), chunksize=2), ("int", "text")),
    "a map that loads with errors": Scenario(partial(by_value, kinds=TEXTS, chunksize=4), TEXTS),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    if name == "portable":
        monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable")
    return name


@pytest.fixture
def new_pool(engine: str, fullcourt: ModuleType) -> Iterator[Callable[..., Any]]:
    pools: list[Any] = []

    def make(**options: Any) -> Any:
        pools.append(fullcourt.Pool(**({"processes": 1} | ENGINES[engine] | options)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
        pool.join()
        assert pool.statistics().n_in_flight == 0


class Sweep:
    """One pool, and the files of one scenario's runs."""

    def __init__(self, pool: Any, n_slots: int, folder: Path, worker_died: type[BaseException]) -> None:
        self._pool = pool
        self._n_slots = n_slots
        self._folder = folder
        self._worker_died = worker_died
        self._n = 0
        self.n_lost: Counter[int] = Counter()  # how often so many tasks were lost

    def step(self, scenario: Scenario, deadly: int) -> list[str] | None:
        """One run with the worker dying at that door. Returns the doors passed, or None if it did die."""
        self._n += 1
        log, deaths = self._folder / f"log-{self._n}", self._folder / f"deaths-{self._n}"
        log.touch()
        deaths.touch()
        while True:
            try:
                self._pool.submit(worker_doors.arm, deadly, str(deaths)).result(60)
                break
            except self._worker_died:  # its other slot has answered in between: the doors up to this answer counted
                deaths.write_text("")
        outcomes = scenario.run(self._pool, str(log))
        try:
            passed = self._pool.submit(worker_doors.disarm).result(60)
        except self._worker_died:
            passed = []
        died_at = deaths.read_text().splitlines()
        assert len(died_at) <= 1
        self._judge(scenario, outcomes, Counter(int(line) for line in log.read_text().split()), died_at)
        return None if died_at else passed

    def _judge(self, scenario: Scenario, outcomes: dict[int, Any], n_runs: Counter[int], died_at: list[str]) -> None:
        where = f"died {died_at}, ran {dict(n_runs)}, outcomes {outcomes}"
        assert sorted(outcomes) == list(range(N)), where
        lost = [i for i, outcome in outcomes.items() if isinstance(outcome, self._worker_died)]
        for i, outcome in outcomes.items():
            assert n_runs[i] <= 1, f"task {i} ran twice: {where}"
            if i in lost:
                assert "SIGKILL" in str(outcome), where
                continue
            expected = scenario.expected(i)
            if isinstance(outcome, fault_tasks.LoadingError):
                assert n_runs[i] == 0
            elif isinstance(expected, Exception):
                assert (type(outcome), outcome.args) == (type(expected), expected.args), where
                assert n_runs[i] == 1, where
            else:
                assert outcome == expected, where
                assert n_runs[i] == 1, where
        if not died_at:
            assert lost == [], where
        elif self._n_slots == 1:
            assert len(lost) <= 1, where
            if died_at[0] in {"before a receive", "after a receive"}:
                assert lost == [], where  # what was not begun costs nothing
        else:
            assert len(lost) <= self._n_slots, where
        self.n_lost[len(lost)] += 1


def sweep(pool: Any, engine: str, what: str, folder: Path, worker_died: type[BaseException], n_sampled: int) -> Sweep:
    n_slots = ENGINES[engine].get("threads", 1)
    scenario = SCENARIOS[what]
    made = Sweep(pool, n_slots, folder, worker_died)
    made.step(scenario, NEVER)  # the function is known from here on, as it mostly is
    doors = made.step(scenario, NEVER)
    assert doors, "the worker passed no door"
    if n_sampled:
        for deadly in random.sample(range(1, len(doors) + 1), n_sampled):
            made.step(scenario, deadly)
        return made
    deadly = 1
    n_survived = 0  # in a row: threads share the chunks out anew each time, so one run may have fewer doors
    while n_survived < (1 if n_slots == 1 else 5):
        if made.step(scenario, deadly) is None:
            deadly += 1
            n_survived = 0
        else:
            n_survived += 1
        assert deadly < MAX_DOORS
    # With several slots their order is never quite the same.
    assert deadly > 0.7 * len(doors), f"died at {deadly - 1} doors of {len(doors)}: {doors}"
    print(f"{what}: died at each of {deadly - 1} doors; tasks lost: {dict(made.n_lost)}")
    if n_slots == 1:
        assert made.n_lost[0], "each death cost a task"
        assert made.n_lost[1], "no death cost a task"
    return made


@pytest.mark.parametrize("what", SCENARIOS)
def test_a_worker_that_dies_at_any_door_costs_at_most_what_ran(
    what: str, engine: str, new_pool: Callable[..., Any], tmp_path: Path, fullcourt: ModuleType
) -> None:
    pool = new_pool(initializer=worker_doors.install)
    n_sampled = 0 if (engine, what) in IN_FULL else SAMPLES[engine]
    sweep(pool, engine, what, tmp_path, fullcourt.errors.WorkerDied, n_sampled)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", SCENARIOS)
def test_a_worker_that_dies_at_each_of_all_doors_costs_at_most_what_ran(
    what: str, engine: str, new_pool: Callable[..., Any], tmp_path: Path, fullcourt: ModuleType
) -> None:
    pool = new_pool(initializer=worker_doors.install)
    sweep(pool, engine, what, tmp_path, fullcourt.errors.WorkerDied, 0)


@pytest.mark.parametrize("first", [1, 2, 3, 5, 8])
def test_a_worker_that_dies_at_the_first_doors_of_its_life(
    first: int, engine: str, new_pool: Callable[..., Any], tmp_path: Path, fullcourt: ModuleType
) -> None:
    """Before and after it says that it is ready, and around the first frame that it is sent."""
    log, deaths = tmp_path / "log", tmp_path / "deaths"
    log.touch()
    pool = new_pool(initializer=worker_doors.install, initargs=(first, str(deaths)))
    futures = [pool.submit(fault_tasks.note_and_give, str(log), INTS, i) for i in range(N)]
    assert not cf.wait(futures, 60).not_done
    n_runs = Counter(int(line) for line in log.read_text().split())
    lost = [i for i, future in enumerate(futures) if isinstance(future.exception(0), fullcourt.errors.WorkerDied)]
    assert deaths.read_text().count("\n") == 1
    assert len(lost) <= ENGINES[engine].get("threads", 1)
    for i, future in enumerate(futures):
        if i in lost:
            assert n_runs[i] <= 1
        else:
            assert (future.result(0), n_runs[i]) == (i * i, 1)
