"""The standard library's own tests of queues, pipes, locks and processes hold for ours."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="queues need Linux"),
    pytest.mark.skipif(
        importlib.util.find_spec("test") is None or importlib.util.find_spec("test._test_multiprocessing") is None,
        reason="this Python comes without its tests",
    ),
    pytest.mark.timeout(600),
]

CLASSES = [
    "_TestQueue", "_TestConnection", "_TestPicklingConnections", "_TestPoll", "_TestLock", "_TestSemaphore",
    "_TestCondition", "_TestEvent", "_TestBarrier",
]  # fmt: skip
OF_PROCESSES = ["_TestProcess", "_TestSubclassingProcess"]
# Those that ours fails, and why that is right; docs/differences.md has them, too.
EXCEPTIONS = {
    "test_queue_feeder_donot_stop_onexc": "an item that cannot be pickled is refused by put(); theirs prints a "
    "traceback in a feeder thread, and loses the item",
    "test_forkserver_without_auth_fails": "it has the standard library's fork server refuse a client; ours are not "
    "started by that one",
}
# Those that ours fails where the machine is slow.
SLOW = {
    "test_many_processes": "it wants 100 children of the fork server to end within 30 seconds; each of ours imports "
    "the program's modules for itself",
}


@pytest.mark.parametrize("module", ["fullcourt", "fullcourt.multiprocessing"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_standard_librarys_own_tests_pass(method: str, module: str) -> None:
    program = Path(__file__).with_name("cpython_suite.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program, method, module, *CLASSES, *(OF_PROCESSES if "." in module else ())],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    outcomes = dict(line.split() for line in done.stdout.splitlines() if line.count(" ") == 1)
    assert len(outcomes) >= 45, done.stderr
    failed = {name for name, outcome in outcomes.items() if outcome == "fail"}
    run = {name for name, outcome in outcomes.items() if outcome != "skip"}
    assert failed - SLOW.keys() == EXCEPTIONS.keys() & run, done.stderr
    assert sum(outcome == "ok" for outcome in outcomes.values()) >= 40
