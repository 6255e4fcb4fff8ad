"""Runs the standard library's own tests of queues, pipes and locks against ours: a program, run by test_cpython.py.

Usage: cpython_suite.py START_METHOD CLASS... It prints one line for each test: its name and its outcome.
"""

from __future__ import annotations

import multiprocessing
import sys
import unittest

from test import _test_multiprocessing as suite

import fullcourt

METHOD, *CLASSES = sys.argv[1:]
multiprocessing.set_start_method(METHOD, force=True)

NAMES = (
    "Pipe", "Queue", "SimpleQueue", "JoinableQueue", "Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition",
    "Event", "Barrier",
)  # fmt: skip
THEIRS = ("Pool", "Value", "Array", "RawValue", "current_process", "parent_process", "active_children")


class Ours:
    """What the suite's classes take from the kind of thing that they test."""

    TYPE = "processes"
    Process = multiprocessing.Process
    connection = multiprocessing.connection

    def check_invariant(self, condition):
        """Looks into the semaphores that their Condition consists of; ours has none."""


for name in THEIRS:
    setattr(Ours, name, staticmethod(getattr(multiprocessing, name)))
for name in NAMES:
    setattr(Ours, name, staticmethod(getattr(fullcourt, name)))
for name in CLASSES:  # in the children of spawn and forkserver, too, which find them here by their names
    globals()[f"Ours{name}"] = type(
        f"Ours{name}", (Ours, getattr(suite, name), unittest.TestCase), {"__module__": __name__}
    )


class Result(unittest.TestResult):
    def stopTest(self, test):  # noqa: N802
        bad = [text for case, text in self.errors + self.failures if case is test]
        outcome = "skip" if any(case is test for case, _ in self.skipped) else "fail" if bad else "ok"
        print(f"{test.id().rpartition('.')[2]} {outcome}", flush=True)
        for text in bad:
            print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    tests = unittest.TestSuite()
    for name in CLASSES:
        tests.addTests(unittest.TestLoader().loadTestsFromTestCase(globals()[f"Ours{name}"]))
    tests.run(Result())
