"""joblib's own tests of its backends, from the installed package, with ours in loky's place."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fullcourt

joblib = pytest.importorskip("joblib", reason="the tests of its backend need it")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
LIMIT_S = 800
TEST_LIMIT_S = 120  # one that hangs fails

# Test (by its name, or with its parameters): why ours is right.
EXCEPTIONS = {
    "test_nested_parallel_warnings": "they expect a warning, and one job, where processes are started below threads or "
    "from multiprocessing's workers; ours can be, and are",
    "test_parallel_pickling": "expects loky's words about an argument that will not pickle; ours name the argument",
    "test_backend_context_manager": "expects the name LokyBackend",
    "test_backend_hinting_and_constraints": "expects the type LokyBackend",
    "test_nested_parallelism_limit": "expects the name LokyBackend",
    "test_auto_memmap_on_arrays_from_generator": "expects the type np.memmap; ours shares arrays without files",
    "test_memmapping_leaks": "looks for joblib's files of shared arrays; there are none",
    "test_multiple_generator_call_separated_gc": "expects that the end of one generator breaks another one, as loky's "
    "shared workers have it; ours are not shared",
    "test_initializer_reused": "expects workers that outlive their Parallel call; ours end with it, or with the "
    "parallel_config block",
}


def test_joblibs_own_tests_pass(tmp_path: Path) -> None:
    source = Path(fullcourt.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(source), str(HERE)])}
    environment["JOBLIB_START_METHOD"] = "fork"  # hundreds of pools, each of which would import NumPy
    command = [sys.executable, "-m", "pytest", "-p", "joblib_suite_plugin", "--pyargs", "joblib.test.test_parallel"]
    options = ["-q", "-rfE", "-p", "no:cacheprovider", "-W", "ignore", f"--timeout={TEST_LIMIT_S}", "-c", os.devnull]
    options.append(f"--confcutdir={Path(joblib.__file__).parent}")  # not ours, which looks for what loky leaves behind
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    failed = re.findall(r"^(?:FAILED|ERROR) \S*::(\w+)(\[.*?\])?(?: - .*)?$", done.stdout, re.MULTILINE)
    unexpected = [name + parameters for name, parameters in failed if name not in EXCEPTIONS]
    assert not unexpected, done.stdout[-20_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout + done.stderr
    n_passed = int(passed[1])
    assert n_passed > 200
    # Those that pass after all need no excuse.
    assert {name for name, _ in failed} == set(EXCEPTIONS), "an exception that is none any more"
