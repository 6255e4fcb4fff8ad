"""Runs tests of the running interpreter's own `test` package, against the standard library or against our faces.

    python run_standard_tests.py {standard,ours} SUITE OUTCOMES [options]

SUITE is a module of the `test` package. Each line of the file OUTCOMES is a JSON list: ["begin", id] when a test
begins, [outcome, id, text] when it ends; outcome is "pass", "skip" or "fail". A test that began and did not end is
where a hang was. --only and --skip name files of test ids, one a line. Tests whose Class.method matches
--never=PATTERN count as failed without being run: they would wait for ever.

"Ours" means: before the test module is imported, `concurrent.futures` and `multiprocessing` stand for our modules in
`sys.modules`, and programs that the tests run have their import lines changed. Nothing of the tests is copied.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import unittest
from fnmatch import fnmatchcase
from pathlib import Path

POOL_TESTS = re.compile(
    r"With\w+TestPool(WorkerErrors|WorkerLifetime)?"
    r"|TestInitializers|TestPoolNotLeakOnFailure|TestSyncManagerTypes|TestStdinBadfiledescriptor|TestNoForkBomb"
)
# What of the class above has to do with pools.
POOL_METHODS = {"TestSyncManagerTypes": "test_pool", "TestStdinBadfiledescriptor": "test_pool_in_process"}
CHANGED_IMPORTS = {
    "from concurrent.futures import": "from fullcourt.futures import",
    "from concurrent import futures": "from fullcourt import futures",
    "from multiprocessing import": "from fullcourt.multiprocessing import",
    "import multiprocessing\n": "import fullcourt.multiprocessing as multiprocessing\n",
}
FUTURES = ("", "._base", ".process", ".thread", ".interpreter")
MULTIPROCESSING = ("", ".pool", ".managers", ".dummy")
PARTS = [  # loaded before ours take the name: then their package can no longer be found by it
    "connection", "context", "dummy", "forkserver", "heap", "managers", "pool", "popen_fork", "popen_forkserver",
    "popen_spawn_posix", "process", "queues", "reduction", "resource_sharer", "resource_tracker", "shared_memory",
    "sharedctypes", "spawn", "synchronize", "util",
]  # fmt: skip


def put_ours_in_place() -> None:
    """From here on `concurrent.futures` and `multiprocessing` are ours."""
    for part in PARTS:
        importlib.import_module(f"multiprocessing.{part}")
    importlib.import_module("asyncio")
    importlib.import_module("logging.handlers")
    import concurrent

    import fullcourt
    import fullcourt.futures
    import fullcourt.multiprocessing

    ours = {f"concurrent.futures{part}": importlib.import_module(f"fullcourt.futures{part}") for part in FUTURES}
    for part in MULTIPROCESSING:
        ours[f"multiprocessing{part}"] = importlib.import_module(f"fullcourt.multiprocessing{part}")
    sys.modules.update(ours)  # after all are loaded: they themselves import the standard library's
    concurrent.futures = fullcourt.futures
    # The tests make futures by hand, too: with the class that ours return.
    fullcourt.futures.Future = sys.modules["concurrent.futures._base"].Future = fullcourt.Future
    change_imports_of_programs()


def change_imports_of_programs() -> None:
    """Programs that tests run get our import lines, and find our package."""
    from test.support import script_helper

    import fullcourt

    home = str(Path(fullcourt.__file__).parents[1])
    begin = f"import sys; sys.path.insert(0, {home!r})\n"

    def changed(source: str) -> str:
        for old, new in CHANGED_IMPORTS.items():
            source = source.replace(old, new)
        return begin + source

    run_script, make_script = script_helper.run_python_until_end, script_helper.make_script

    def run_python_until_end(*args: str, **options: object) -> object:
        if "-c" in args:
            at = args.index("-c") + 1
            args = (*args[:at], changed(args[at]), *args[at + 1 :])
        return run_script(*args, **options)

    def make_changed_script(folder: str, name: str, source: str, *rest: object, **options: object) -> object:
        return make_script(folder, name, changed(source), *rest, **options)

    script_helper.run_python_until_end = run_python_until_end
    script_helper.make_script = make_changed_script


class Outcomes(unittest.TestResult):
    """Writes what comes of each test at once: a hang shows how far it went."""

    # ruff: noqa: N802, N815  unittest's names

    def __init__(self, path: str) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._said = ""

    def _say(self, *line: str) -> None:
        os.write(self._fd, json.dumps(line).encode() + b"\n")

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._said = ""
        self._say("begin", test.id())

    def _end(self, outcome: str, test: unittest.TestCase, text: str = "") -> None:
        name = getattr(test, "test_case", test).id()  # of a subtest: the test's
        self._said = outcome
        self._say(outcome, name, text)

    def addSuccess(self, test: unittest.TestCase) -> None:
        if self._said != "fail":  # a subtest may have failed
            self._end("pass", test)

    def addExpectedFailure(self, test, err) -> None:
        self._end("pass", test)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._end("pass", test)  # it is expected to fail with the standard library

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._end("skip", test, reason)

    def addFailure(self, test, err) -> None:
        self._end("fail", test, self._exc_info_to_string(err, test))

    addError = addFailure

    def addSubTest(self, test, subtest, err) -> None:
        if err is not None:
            self._end("fail", subtest, self._exc_info_to_string(err, test))


def tests_of(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    found: list[unittest.TestCase] = []
    for test in suite:
        found.extend(tests_of(test) if isinstance(test, unittest.TestSuite) else [test])
    return found


def chosen(test: unittest.TestCase, name: str) -> bool:
    """Whether a test has to do with what we replace."""
    kind = type(test).__name__
    if "multiprocessing" not in name:
        return True
    if not POOL_TESTS.fullmatch(kind):
        return False
    return test._testMethodName == POOL_METHODS.get(kind, test._testMethodName)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("whose", choices=["standard", "ours"])
    parser.add_argument("suite")
    parser.add_argument("outcomes")
    parser.add_argument("--only")
    parser.add_argument("--skip")
    parser.add_argument("--never", action="append", default=[])
    options = parser.parse_args()
    folder = os.environ.get(
        "FULLCOURT_STANDARD_TESTS"
    )  # holds a package `test` of this very Python, if it is elsewhere
    if folder:
        sys.path.insert(0, folder)
    if options.whose == "ours":
        put_ours_in_place()
    suite = unittest.defaultTestLoader.loadTestsFromName(options.suite)
    tests = [test for test in tests_of(suite) if chosen(test, options.suite)]
    if options.only:
        only = set(Path(options.only).read_text().split("\n"))
        tests = [test for test in tests if test.id() in only]
    if options.skip:
        skip = set(Path(options.skip).read_text().split("\n"))
        tests = [test for test in tests if test.id() not in skip]
    outcomes = Outcomes(options.outcomes)
    for test in list(tests):
        name = ".".join(test.id().split(".")[-2:])
        if any(fnmatchcase(name, pattern) for pattern in options.never):
            tests.remove(test)
            outcomes._end("fail", test, "not run: it would wait for ever")
    unittest.TestSuite(tests).run(outcomes)


if __name__ == "__main__":
    main()
