"""joblib's Parallel on our backend."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

# In the extra `test` for every Python, so that it is here wherever CI runs these.
joblib = pytest.importorskip("joblib", reason="the tests of its backend need it")

import fullcourt.joblib  # noqa: E402
from fullcourt.adapters import joblib_backend  # noqa: E402

if sys.platform == "win32":
    pytest.skip("has no fork", allow_module_level=True)

Parallel, delayed = joblib.Parallel, joblib.delayed


@pytest.fixture(autouse=True)
def _registered() -> None:
    fullcourt.joblib.register()


@pytest.fixture
def backend() -> Any:
    """Its workers start quickly, since they need not import what is there already."""
    return joblib_backend.FullcourtBackend(start_method="fork")


def get_variable(name: str) -> str | None:
    return os.environ.get(name)


def square(x: int) -> int:
    return x * x


def fail_on(x: int, bad: int) -> int:
    if x == bad:
        raise KeyError(x)
    return x


def sleep_and_touch(path: str, seconds: float) -> None:
    Path(path).touch()
    time.sleep(seconds)
    Path(path + ".end").touch()


def nested(n: int) -> list[int]:
    return joblib.Parallel(n_jobs=2)(joblib.delayed(square)(x) for x in range(n))


def nested_explicitly(n: int) -> list[int]:
    fullcourt.joblib.register()
    return joblib.Parallel(n_jobs=2, backend="fullcourt")(joblib.delayed(square)(x) for x in range(n))


def n_threads() -> tuple[str | None, list[int]]:
    import numpy as np

    np.dot(np.ones((50, 50)), np.ones((50, 50)))
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="it is what tells the number of BLAS threads")
    return os.environ.get("OMP_NUM_THREADS"), [info["num_threads"] for info in threadpoolctl.threadpool_info()]


# -- the ways to ask for it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, -1, None])
def test_it_can_be_named_in_parallel(n_jobs: int | None) -> None:
    assert Parallel(n_jobs=n_jobs, backend="fullcourt")(delayed(square)(x) for x in range(20)) == [
        x * x for x in range(20)
    ]


def test_it_can_be_named_for_a_block_and_keeps_its_workers_for_it() -> None:
    with joblib.parallel_config(backend="fullcourt", n_jobs=2):
        first = Parallel()(delayed(os.getpid)() for _ in range(50))
        second = Parallel()(delayed(os.getpid)() for _ in range(50))
    assert os.getpid() not in first
    assert len(set(first) | set(second)) <= 2


def test_it_can_be_the_default() -> None:
    code = (
        "import joblib, fullcourt.joblib, os\n"
        "fullcourt.joblib.register(make_default=True)\n"
        "assert os.getpid() not in joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(4))\n"
        "print(type(joblib.parallel.get_active_backend()[0]).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "FullcourtBackend"


def test_all_jobs_but_one_are_asked_for_as_elsewhere() -> None:
    backend = joblib_backend.FullcourtBackend()
    assert backend.effective_n_jobs(-1) == joblib.cpu_count()
    assert backend.effective_n_jobs(-joblib.cpu_count() - 5) == 1
    assert backend.effective_n_jobs(None) == 1
    with pytest.raises(ValueError, match="no meaning"):
        Parallel(n_jobs=0, backend="fullcourt")([])


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(TypeError, match="no parameter initialiser; it has initargs"):
        joblib.parallel_config(backend="fullcourt", initialiser=print)


def test_an_initializer_runs_in_each_worker() -> None:
    with joblib.parallel_config(backend="fullcourt", n_jobs=2, initializer=os.putenv, initargs=("A", "b")):
        assert Parallel()(delayed(subprocess.getoutput)("echo $A") for _ in range(2)) == ["b", "b"]


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_results_come_as_they_were_asked_for(return_as: str, backend: Any) -> None:
    found = Parallel(n_jobs=2, backend=backend, return_as=return_as)(delayed(square)(x) for x in range(300))
    assert isinstance(found, list) == (return_as == "list")
    found = list(found)
    assert (sorted(found) if return_as == "generator_unordered" else found) == [x * x for x in range(300)]


def test_small_tasks_travel_in_batches(backend: Any) -> None:
    parallel = Parallel(n_jobs=2, backend=backend)
    assert len(parallel(delayed(square)(x) for x in range(5000))) == 5000
    assert parallel.n_dispatched_batches < 1000


def test_lambdas_and_closures_work(backend: Any) -> None:
    base = 10
    assert Parallel(n_jobs=2, backend=backend)(delayed(lambda x: x + base)(x) for x in range(3)) == [10, 11, 12]


def test_an_error_is_raised_and_stops_the_rest(tmp_path: Path, backend: Any) -> None:
    began = time.monotonic()
    with pytest.raises(KeyError) as caught:
        Parallel(n_jobs=2, backend=backend, batch_size=1)(
            delayed(fail_on)(x, 3) if x != 2 else delayed(time.sleep)(60) for x in range(100)
        )
    assert caught.value.args == (3,)
    assert time.monotonic() - began < 30


def test_a_managed_parallel_works_on_after_an_error(backend: Any) -> None:
    with Parallel(n_jobs=2, backend=backend) as parallel:
        for _ in range(5):  # joblib's own backends often give a result of the failed call, too
            with pytest.raises(KeyError):
                parallel(delayed(fail_on)(x, 3) for x in range(10))
            assert parallel(delayed(fail_on)(x, -1) for x in range(10)) == list(range(10))


def test_a_time_out_stops_the_work(tmp_path: Path, backend: Any) -> None:
    path = str(tmp_path / "task")
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(n_jobs=2, backend=backend, timeout=0.3)(delayed(sleep_and_touch)(path, 5) for _ in range(2))
    assert not Path(path + ".end").exists()


def test_a_worker_that_dies_is_told(backend: Any) -> None:
    with pytest.raises(fullcourt.WorkerDied):
        Parallel(n_jobs=2, backend=backend)(delayed(os._exit)(3) for _ in range(2))


def test_a_generator_that_is_dropped_stops_its_workers(backend: Any) -> None:
    found = Parallel(n_jobs=2, backend=backend, return_as="generator")(delayed(time.sleep)(0.01) for _ in range(1000))
    assert next(found) is None
    with pytest.warns(UserWarning, match="not used|cancelled"):
        del found


def test_the_input_is_taken_as_needed(backend: Any) -> None:
    n_taken = 0

    def source() -> Any:
        nonlocal n_taken
        for x in range(10_000):
            n_taken += 1
            yield delayed(square)(x)

    found = Parallel(n_jobs=2, backend=backend, return_as="generator", batch_size=1, pre_dispatch=4)(source())
    assert n_taken < 100
    assert len(list(found)) == 10_000


# -- nesting, threads --------------------------------------------------------------------------------------------------


def test_nested_calls_run_in_threads_of_the_worker(backend: Any) -> None:
    assert Parallel(n_jobs=2, backend=backend)(delayed(nested)(n) for n in (3, 4)) == [[0, 1, 4], [0, 1, 4, 9]]


@pytest.mark.slow
def test_it_can_be_nested_in_itself(backend: Any) -> None:
    found = Parallel(n_jobs=2, backend=backend)(delayed(nested_explicitly)(n) for n in (3, 4))
    assert found == [[0, 1, 4], [0, 1, 4, 9]]


def test_it_can_be_used_by_several_threads_at_once() -> None:
    found: list[Any] = []

    def work() -> None:
        found.append(
            Parallel(n_jobs=2, backend=joblib_backend.FullcourtBackend(start_method="fork"))(
                delayed(square)(x) for x in range(100)
            )
        )

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[x * x for x in range(100)]] * 3


@pytest.mark.parametrize(
    ("limit", "start_method"), [pytest.param(1, None, marks=pytest.mark.slow), (1, "fork"), (2, "fork")]
)
def test_blas_gets_as_many_threads_as_it_was_told(limit: int, start_method: str | None) -> None:
    numpy = pytest.importorskip("numpy", reason="it brings the BLAS, and has no wheel for 3.15 yet")
    pytest.importorskip("threadpoolctl", reason="it is what tells the number of BLAS threads")
    numpy.dot(numpy.ones((50, 50)), numpy.ones((50, 50)))
    with joblib.parallel_config(backend="fullcourt", n_jobs=2, inner_max_num_threads=limit, start_method=start_method):
        for variable, counts in Parallel()(delayed(n_threads)() for _ in range(4)):
            assert variable == str(limit)
            assert set(counts) <= {limit}


def test_without_a_limit_the_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    for name in joblib_backend.ParallelBackendBase.MAX_NUM_THREADS_VARS:
        monkeypatch.delenv(name, raising=False)
    found = Parallel(n_jobs=2, backend=backend)(delayed(get_variable)("OMP_NUM_THREADS") for _ in range(2))
    assert found == [str(max(joblib.cpu_count() // 2, 1))] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    found = Parallel(n_jobs=2, backend=backend)(delayed(get_variable)("OMP_NUM_THREADS") for _ in range(2))
    assert found == ["7", "7"]


def test_shared_memory_is_threads(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    with joblib.parallel_config(backend="fullcourt", n_jobs=2):
        Parallel(require="sharedmem")(delayed(seen.append)(x) for x in range(5))
    assert sorted(seen) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="shared memory"):
        Parallel(n_jobs=2, backend="fullcourt", require="sharedmem")


# -- the start method --------------------------------------------------------------------------------------------------


def test_the_start_method_is_safe_beside_openmp_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fork = multiprocessing.get_context("fork")
    assert joblib_backend.start_method_of(None, multiprocessing.get_context()) == "forkserver"
    assert joblib_backend.start_method_of("spawn", None) == "spawn"
    monkeypatch.setattr(joblib.parallel, "DEFAULT_MP_CONTEXT", fork)  # as JOBLIB_START_METHOD=fork does
    assert joblib_backend.start_method_of(None, fork) == "fork"


# -- what is missing ---------------------------------------------------------------------------------------------------


def test_without_joblib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joblib", None)
    with pytest.raises(ImportError, match=r"pip install 'joblib>=1\.4'"):
        fullcourt.joblib.register()


def test_an_old_joblib_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "__version__", "1.2.0")
    with pytest.raises(ImportError, match=r"joblib 1\.2\.0 is too old.*pip install 'joblib>=1\.4'"):
        fullcourt.joblib.register()


def test_importing_the_module_imports_no_joblib() -> None:
    code = "import sys, fullcourt.joblib; assert 'joblib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
