"""Pools in other people's hands: progress bars, data frames, graphs, test runners, notebooks."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import fullcourt

LIMIT_S = 120


def run_python(code: str, folder: Path, *arguments: str) -> str:
    """Run a program; returns what it printed."""
    (folder / "program.py").write_text(textwrap.dedent(code))
    environment = os.environ | {"PYTHONPATH": str(Path(fullcourt.__file__).parents[1])}
    environment.pop("PYTEST_CURRENT_TEST", None)  # nx-parallel behaves differently where it sees that
    done = subprocess.run(
        [sys.executable, *(arguments or ["program.py"])],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- tqdm --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tqdm() -> Any:
    """With its lock made, and without its thread, which would stay to the end."""
    module = pytest.importorskip("tqdm", reason="in the extra `test`")
    module.tqdm.monitor_interval = 0
    module.tqdm.get_lock()
    return module


@pytest.mark.parametrize("options", [{"processes": 2}, {"threads": 2}], ids=str)
def test_tqdm_around_lazy_maps(options: dict[str, int], tqdm: Any) -> None:
    with fullcourt.Pool(**options) as pool:
        for results in (pool.imap(abs, range(-50, 0)), pool.imap_unordered(abs, range(-50, 0))):
            with tqdm.tqdm(results, total=50, file=io.StringIO()) as bar:
                assert sorted(bar) == list(range(1, 51))
                assert bar.n == 50


def test_tqdm_as_the_contrib_maps_use_an_executor(tqdm: Any) -> None:
    """They make it with ``max_workers``, ``initializer`` and ``initargs``, and wrap a bar around its map."""
    concurrent = pytest.importorskip("tqdm.contrib.concurrent", reason="in the extra `test`")
    futures = pytest.importorskip("fullcourt.futures", reason="the executors are another module's")
    for executor in (futures.ProcessPoolExecutor, futures.ThreadPoolExecutor):
        found = concurrent._executor_map(executor, abs, range(-50, 0), max_workers=2, file=io.StringIO())
        assert found == list(range(50, 0, -1))


# -- data frames and graphs --------------------------------------------------------------------------------------------


def mean_of_b(frame: Any) -> float:
    frame.loc[:, "c"] = 1.0  # in the task's own copy
    return float(frame["b"].mean())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"processes": 2}, {"threads": 2}], ids=str)
def test_pandas_frames_travel_both_ways(options: dict[str, int]) -> None:
    pd = pytest.importorskip("pandas", reason="in the extra `integrations`, on one Python")
    frame = pd.DataFrame({"a": [0, 1] * 50_000, "b": range(100_000), "t": ["x", "y"] * 50_000})
    groups = [group.copy() for _, group in frame.groupby("a")]
    with fullcourt.Pool(**options) as pool:
        assert pool.map(mean_of_b, groups) == [49_999.0, 50_000.0]
        described = pool.map(pd.DataFrame.describe, groups)
    assert all(found.equals(group.describe()) for found, group in zip(described, groups, strict=True)) or (
        options == {"threads": 2}  # there the frames are the very same, with the column that the tasks added
    )


@pytest.mark.slow
def test_networkx_parallel_backend_runs_here(tmp_path: Path) -> None:
    pytest.importorskip("nx_parallel", reason="in the extra `integrations`, on one Python")
    printed = run_python(
        """
        import joblib, networkx as nx, fullcourt.joblib

        fullcourt.joblib.register()
        batches = []
        submit = fullcourt.adapters.joblib_backend.FullcourtBackend.submit
        def counting(self, *arguments, **named):
            batches.append(arguments)
            return submit(self, *arguments, **named)
        fullcourt.adapters.joblib_backend.FullcourtBackend.submit = counting
        graph = nx.gnp_random_graph(60, 0.2, seed=1)
        expected = nx.betweenness_centrality(graph)
        nx.config.backends.parallel.active = False  # joblib's own configuration holds
        with joblib.parallel_config(backend="fullcourt", n_jobs=2):
            found = nx.betweenness_centrality(graph, backend="parallel")
        print(len(batches) > 1)
        print(all(abs(found[n] - expected[n]) < 1e-12 for n in graph))
        """,
        tmp_path,
    )
    assert printed.split() == ["True", "True"]


# -- test runners ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["-n", "2"], []], ids=["xdist", "alone"])
@pytest.mark.parametrize("capture", ["fd", "sys", "no"])
def test_pools_work_inside_of_tests(arguments: list[str], capture: str, tmp_path: Path) -> None:
    if arguments:
        pytest.importorskip("xdist", reason="in the extra `integrations`, on one Python")
    tests = """
        import os, pytest, fullcourt

        def square(x):
            print("squaring", x)
            return x * x

        @pytest.fixture(scope="module")
        def pool():
            with fullcourt.Pool(2) as pool:
                yield pool

        @pytest.mark.parametrize("n", range(6))
        def test_map(pool, n, capfd):
            assert pool.map(square, range(n)) == [x * x for x in range(n)]
            assert pool.map(lambda x: x + n, range(3)) == [n, n + 1, n + 2]

        @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
        def test_each_start_method(method):
            with fullcourt.Pool(1, start_method=method) as pool:
                assert pool.apply(square, (3,)) == 9
    """
    (tmp_path / "test_it.py").write_text(textwrap.dedent(tests))
    options = ["-q", f"--capture={capture}", "-p", "no:cacheprovider", "-W", "error", *arguments]
    assert "9 passed" in run_python("", tmp_path, "-m", "pytest", *options, "test_it.py")


# -- notebooks ---------------------------------------------------------------------------------------------------------


PRINTED = ["[0, 10, 20, 30]", "[1, 4, 7, 10]", "[-3, -2, -1, 0]", "True", "[1, 4, 7]", "[1, 4, 7]", "ended"]


def run_notebook(what: str, folder: Path) -> list[str]:
    for package in ("jupyter_client", "ipykernel"):
        pytest.importorskip(package, reason="in the extra `integrations`, on one Python")
    return run_python("", folder, str(Path(__file__).with_name("notebook_driver.py")), what).splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_notebooks_cells_define_what_tasks_run(method: str, tmp_path: Path) -> None:
    assert run_notebook(method, tmp_path) == PRINTED


@pytest.mark.slow
def test_a_cell_can_be_interrupted_and_the_pool_goes_on(tmp_path: Path) -> None:
    assert run_notebook("interrupt", tmp_path) == ["KeyboardInterrupt True", "[1, 2]"]
