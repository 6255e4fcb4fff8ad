"""Runs the standard library's own tests of what workers share against ours: a program, run by test_cpython.py.

Usage: cpython_suite.py START_METHOD MODULE CLASS... Queues, pipes and locks are those of MODULE, `fullcourt` or
`fullcourt.multiprocessing`; of the latter are the processes, too. It prints one line for each test: its name and its
outcome.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import sys
import unittest

NAMES = (
    "Pipe", "Queue", "SimpleQueue", "JoinableQueue", "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition",
    "Event", "Barrier",
)  # fmt: skip
THEIRS = (
    "Pool", "Value", "Array", "RawValue", "current_process", "parent_process", "active_children", "set_executable",
)  # fmt: skip
# A grandchild is to tell of its parent's death; ours ends with its parent. The test would wait for five minutes.
NOT_RUN = ("test_parent_process",)


class Ours:
    """What the suite's classes take from the kind of thing that they test."""

    TYPE = "processes"
    Process = multiprocessing.Process
    connection = multiprocessing.connection

    def check_invariant(self, condition):
        """Looks into the semaphores that their Condition consists of; ours has none."""


class Result(unittest.TestResult):
    def stopTest(self, test):  # noqa: N802
        bad = [text for case, text in self.errors + self.failures if case is test]
        outcome = "skip" if any(case is test for case, _ in self.skipped) else "fail" if bad else "ok"
        print(f"{test.id().rpartition('.')[2]} {outcome}", flush=True)
        for text in bad:
            print(text, file=sys.stderr, flush=True)


def prepare(method, module, classes):
    """Make the classes; in the children of spawn and forkserver, too, which find them here by their names."""
    from test import _test_multiprocessing as suite

    multiprocessing.set_start_method(method, force=True)
    for name in THEIRS:
        setattr(Ours, name, staticmethod(getattr(multiprocessing, name)))
    for name in NAMES:
        setattr(Ours, name, staticmethod(getattr(importlib.import_module(module), name)))
    if module != "fullcourt":
        Ours.Process = importlib.import_module(module).Process
    for name in classes:
        bases = (Ours, getattr(suite, name), unittest.TestCase)
        globals()[f"Ours{name}"] = type(f"Ours{name}", bases, {"__module__": __name__})


if __name__ in {"__main__", "__mp_main__"}:
    prepare(sys.argv[1], sys.argv[2], sys.argv[3:])

if __name__ == "__main__":
    tests = unittest.TestSuite()
    for name in sys.argv[3:]:
        found = unittest.TestLoader().loadTestsFromTestCase(globals()[f"Ours{name}"])
        tests.addTests(test for test in found if test._testMethodName not in NOT_RUN)
    tests.run(Result())
