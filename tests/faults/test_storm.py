"""A storm: whatever can befall tasks, workers and the template, all at once, and every outcome accounted for.

Workers and templates are killed from outside at any moment. Tasks crash, exit, raise what will not load, return what
will not pickle, hang and are stopped by their time limit, deaf to it or not, take too much memory, are cancelled while
they wait and while they run, and are tried again. In the end each task has ended exactly once, in a way that its kind
allows, and ran as often as it may.
"""

from __future__ import annotations

import concurrent.futures as cf
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.faults import fault_tasks
from tests.faults.parents import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.faults,
    pytest.mark.slow,  # with the rest of the file: random samples of a long sweep
    pytest.mark.skipif(sys.platform != "linux", reason="kills by signals, and looks at /proc"),
]

# kind: how many of a thousand tasks are of it; the rest are plain work
PER_MILLE = {
    "none": 100,
    "text": 100,
    "block": 20,
    "error": 60,
    "sys.exit": 10,
    "no pickle": 10,
    "two arguments": 10,
    "SIGKILL": 2,
    "exit 3": 2,
    "SIGSEGV": 2,
    "SIGTERM": 2,
    "sleep": 4,
    "deaf": 1,
    "cancel waiting": 20,
    "cancel running": 3,
    "flaky": 10,
    "slow to time out": 20,
    "priority": 20,
}
RETRIES = 2
KILL_EVERY, KILL_TEMPLATE_EVERY = 150, 1_000  # tasks
HOG_EVERY = 2_500  # one hog in so many, and at least one of some other kinds
WAVE = 100
N_TASKS = {"fork": 3_500, "forkserver": 500, "spawn": 150, "fork-x-threads": 700, "portable": 150}
N_WORKERS = 2


@dataclass
class Task:
    kind: str
    future: Any
    cancelled: bool | None = None  # what `cancel` answered


class Storm:
    def __init__(self, pool: Any, engine: str, log: Path, fullcourt: ModuleType) -> None:
        self._pool = pool
        self._errors: Any = fullcourt.errors
        self._n_slots = OPTIONS[engine].get("threads", 1)
        self._engine = engine
        self._log = log
        log.touch()
        self._tasks: list[Task] = []
        self._n_killed = self._n_templates_killed = 0
        self._kinds = list(PER_MILLE)
        self._weights = list(PER_MILLE.values())
        self._kinds.append("int")
        self._weights.append(1_000 - sum(self._weights))

    # -- the weather ----------------------------------------------------------------------------------------------

    def blow(self, n_tasks: int) -> None:
        while len(self._tasks) < n_tasks:
            new = [self._submit() for _ in range(min(WAVE, n_tasks - len(self._tasks)))]
            for task in new:
                if task.kind == "cancel waiting" and random.random() < 0.8:
                    task.cancelled = task.future.cancel()
            # Those that are to be cancelled while they run hold up the others until then.
            n_free = next((n for n, task in enumerate(new) if task.kind == "cancel running"), len(new))
            n_seen = random.randrange(1 + n_free // 2)
            for n, _ in enumerate(() if not n_seen else cf.as_completed([task.future for task in new], timeout=60)):
                if n + 1 >= n_seen:
                    break
            self._strike(len(new))
            for task in new:
                if task.kind == "cancel running":
                    task.cancelled = task.future.cancel()
            # A wave may still be under way when the next one comes; two may not, or nothing would ever start late.
            cf.wait([task.future for task in self._tasks[-2 * WAVE : -WAVE]], 60)
        not_done = cf.wait([task.future for task in self._tasks], 60).not_done
        assert not not_done, f"{len(not_done)} of {n_tasks} tasks hang"

    def _submit(self) -> Task:
        i = len(self._tasks)
        kind = random.choices(self._kinds, self._weights)[0]
        kind = {30: "sleep", 60: "cancel running", 90: "hog", 120: "deaf"}.get(i % HOG_EVERY, kind)
        options = {
            "sleep": {"timeout": random.choice([0.01, 0.05]), "grace": 0.5},
            "deaf": {"timeout": 0.02, "grace": 0.02},
            "hog": {"max_memory": fault_tasks.HOG_BYTES, "grace": 0.1},
            "flaky": {"retries": RETRIES, "retry_on": ConnectionError, "backoff": 0.001},
            "slow to time out": {"timeout": 60.0},
            "priority": {"priority": 5},
        }.get(kind)
        pool = self._pool if options is None else self._pool.options(**options)
        task = Task(kind, pool.submit(fault_tasks.storm_task, str(self._log), kind, i))
        self._tasks.append(task)
        return task

    def _strike(self, n_new: int) -> None:
        if random.random() < n_new / KILL_EVERY:
            pids = [worker.pid for worker in self._pool.statistics().workers if worker.pid]
            if pids:
                self._n_killed += 1
                self._kill(random.choice(pids))
        if self._engine != "portable" and random.random() < n_new / KILL_TEMPLATE_EVERY:
            self._n_templates_killed += 1
            self._kill(self._pool._driver.engine._template_pid)

    @staticmethod
    def _kill(pid: int) -> None:
        if pid <= 0:  # it is just being replaced; 0 would mean our own process group
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    # -- the accounts ---------------------------------------------------------------------------------------------

    def account(self) -> None:
        n_runs = Counter(map(int, self._log.read_text().split()))
        outcomes: Counter[str] = Counter()
        n_lost = n_crashed = 0
        for i, task in enumerate(self._tasks):
            outcome = self._outcome(task)
            text = f"task {i}, {task.kind!r}, cancel {task.cancelled}, ran {n_runs[i]} times, outcome {outcome!r}"
            outcomes[type(outcome).__name__ if isinstance(outcome, BaseException) else "result"] += 1
            limit = 1 + RETRIES if task.kind == "flaky" else 1
            assert n_runs[i] <= limit, text
            if isinstance(outcome, self._errors.WorkerDied):
                n_crashed += task.kind in fault_tasks.CRASHES
                n_lost += task.kind not in fault_tasks.CRASHES
            else:
                assert self._is_right(task, i, outcome), text
                # On a busy machine a limit of 10 ms may be over before the task has noted that it runs.
                may_lack = task.future.cancelled() or isinstance(outcome, self._errors.TaskTimeout)
                assert n_runs[i] == (limit if not may_lack else min(n_runs[i], 1)), text
            if task.cancelled is not None:
                assert task.future.cancelled() == task.cancelled, text
        n_deaths = self._n_killed + self._n_templates_killed * N_WORKERS
        n_deaths += sum(task.kind in fault_tasks.CRASHES for task in self._tasks) if self._n_slots > 1 else 0
        # What is stopped by a signal or for its memory takes its neighbours along.
        n_deaths += sum(task.kind in {"hog", "deaf"} for task in self._tasks) if self._n_slots > 1 else 0
        print(
            f"{len(self._tasks)} tasks, {self._n_killed} workers and {self._n_templates_killed} templates killed, "
            f"{n_crashed} crashed, {n_lost} lost: {dict(outcomes)}"
        )
        assert n_lost <= n_deaths * self._n_slots
        assert outcomes["TaskTimeout"] > 0
        assert outcomes["TaskCancelled"] > 0
        assert self._pool.statistics().n_in_flight == 0

    def _outcome(self, task: Task) -> Any:
        try:
            return task.future.result(0)
        except BaseException as error:
            return error

    def _is_right(self, task: Task, i: int, outcome: Any) -> bool:
        errors = self._errors
        if isinstance(outcome, errors.TaskCancelled):
            return task.cancelled is True
        kinds: dict[str, Callable[[], bool]] = {
            "error": lambda: type(outcome) is ValueError and outcome.args == (i,),
            "sys.exit": lambda: type(outcome) is SystemExit and outcome.code == i,
            "no pickle": lambda: isinstance(outcome, errors.PicklingError),
            "two arguments": lambda: "TwoArguments" in repr(outcome) + str(getattr(outcome, "type_name", "")),
            "sleep": lambda: type(outcome) is errors.TaskTimeout,
            "deaf": lambda: type(outcome) is errors.TaskTimeout,
            "hog": lambda: type(outcome) is errors.TaskMemoryExceeded,
            "flaky": lambda: type(outcome) is ConnectionError,
            "none": lambda: outcome is None,
            "text": lambda: outcome == f"result {i}",
            "block": lambda: outcome == bytes([i % 256]) * 80_000,
        }
        if task.kind in fault_tasks.CRASHES or task.kind == "cancel running":
            return False  # these have given no other outcome than a death or a cancellation
        return kinds.get(task.kind, lambda: outcome == i * i)()


def storm(engine: str, n_tasks: int, folder: Path, fullcourt: ModuleType) -> None:
    began = time.perf_counter()
    with fullcourt.Pool(N_WORKERS, **OPTIONS[engine]) as pool:
        made = Storm(pool, engine, folder / "log", fullcourt)
        made.blow(n_tasks)
        made.account()
        assert pool.map(fault_tasks.square, range(50)) == [i * i for i in range(50)]
    print(f"in {time.perf_counter() - began:.1f} s")


@pytest.fixture(params=OPTIONS)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "portable":
        monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable")
    return str(request.param)


def test_a_small_storm_leaves_no_outcome_unaccounted_for(engine: str, tmp_path: Path, fullcourt: ModuleType) -> None:
    storm(engine, N_TASKS[engine], tmp_path, fullcourt)


@pytest.mark.slow
@pytest.mark.timeout(3_000)
def test_a_storm_over_many_tasks_leaves_no_outcome_unaccounted_for(
    engine: str, tmp_path: Path, fullcourt: ModuleType
) -> None:
    storm(engine, 100_000 if engine == "fork" else 20 * N_TASKS[engine], tmp_path, fullcourt)
