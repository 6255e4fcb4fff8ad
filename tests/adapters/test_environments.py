"""Pools in other people's hands: progress bars, data frames, graphs, test runners, notebooks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import fullcourt

LIMIT_S = 120


def run_python(code: str, folder: Path, *arguments: str) -> str:
    """Run a program; returns what it printed."""
    (folder / "program.py").write_text(textwrap.dedent(code))
    environment = os.environ | {"PYTHONPATH": str(Path(fullcourt.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, *(arguments or ["program.py"])],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- tqdm --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"processes": 2}, {"threads": 2}], ids=str)
def test_tqdm_around_lazy_maps(options: dict[str, int]) -> None:
    tqdm = pytest.importorskip("tqdm", reason="in the extra `test`")
    with fullcourt.Pool(**options) as pool:
        for results in (pool.imap(abs, range(-50, 0)), pool.imap_unordered(abs, range(-50, 0))):
            with tqdm.tqdm(results, total=50, file=open(os.devnull, "w", encoding="utf-8")) as bar, bar.fp:
                assert sorted(bar) == list(range(1, 51))
                assert bar.n == 50


def test_tqdm_as_the_contrib_maps_use_an_executor() -> None:
    """They make it with ``max_workers``, ``initializer`` and ``initargs``, and wrap a bar around its map."""
    concurrent = pytest.importorskip("tqdm.contrib.concurrent", reason="in the extra `test`")
    futures = pytest.importorskip("fullcourt.futures", reason="the executors are another module's")
    for executor in (futures.ProcessPoolExecutor, futures.ThreadPoolExecutor):
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            found = concurrent._executor_map(executor, abs, range(-50, 0), max_workers=2, file=nowhere)
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
        graph = nx.gnp_random_graph(60, 0.2, seed=1)
        expected = nx.betweenness_centrality(graph)
        nx.config.backends.parallel.active = False  # joblib's own configuration holds
        with joblib.parallel_config(backend="fullcourt", n_jobs=2) as config:
            found = nx.betweenness_centrality(graph, backend="parallel")
            print(config["backend"]._idle is not None)
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


CELLS = [
    "import os, time, fullcourt\nfactor = 10",
    "def scale(x):\n    return factor * x",
    "pool = fullcourt.Pool(2, start_method=METHOD)",
    "print(pool.map(scale, range(4)))",
    "factor = 3\ndef scale(x):\n    return factor * x + 1",
    "print(pool.map(scale, range(4)))",
    "print(pool.map(lambda x: x - factor, range(4)))",
    "import dataclasses\n@dataclasses.dataclass\nclass Point:\n    x: int\nprint(pool.apply(Point, (3,)) == Point(3))",
    "import asyncio\nprint(await asyncio.gather(*(pool.submit(scale, x) for x in range(3))))",
    "print([x async for x in pool.aimap(scale, range(3))])",
    "pool.close(); pool.join(); print('ended')",
]
PRINTED = [
    "[0, 10, 20, 30]",
    "[1, 4, 7, 10]",
    "[-3, -2, -1, 0]",
    "True",
    "[1, 4, 7]",
    "[1, 4, 7]",
    "ended",
]


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A real kernel with its client."""
    client = pytest.importorskip("jupyter_client", reason="in the extra `integrations`, on one Python")
    pytest.importorskip("ipykernel", reason="in the extra `integrations`, on one Python")
    monkeypatch.setenv("PYTHONPATH", str(Path(fullcourt.__file__).parents[1]))
    manager, blocking = client.manager.start_new_kernel(kernel_name="python3", startup_timeout=LIMIT_S)
    yield manager, blocking
    blocking.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


def run_cell(client: Any, code: str) -> tuple[str, str]:
    """Run a cell; returns what it printed, and the name of the error that it raised."""
    printed: list[str] = []

    def listen(message: Any) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=listen, timeout=LIMIT_S)["content"]
    return "".join(printed), reply.get("ename", "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_notebooks_cells_define_what_tasks_run(kernel: Any, method: str) -> None:
    _, client = kernel
    found = []
    for cell in CELLS:
        printed, error = run_cell(client, cell.replace("METHOD", repr(method)))
        assert not error, (cell, printed, error)
        found += [printed.strip()] if printed else []
    assert found == PRINTED


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cell_can_be_interrupted_and_the_pool_goes_on(kernel: Any, tmp_path: Path) -> None:
    import threading

    manager, client = kernel
    began = tmp_path / "began"
    assert run_cell(client, "import fullcourt, time, pathlib\npool = fullcourt.Pool(2)")[1] == ""

    def interrupt() -> None:
        end = time.monotonic() + LIMIT_S
        while not began.exists() and time.monotonic() < end:
            time.sleep(0.01)
        manager.interrupt_kernel()

    thread = threading.Thread(target=interrupt)
    thread.start()
    code = f"def work(x):\n    pathlib.Path({str(began)!r}).touch()\n    time.sleep(300)\npool.map(work, range(2))"
    before = time.monotonic()
    assert run_cell(client, code)[1] == "KeyboardInterrupt"
    assert time.monotonic() - before < LIMIT_S / 2
    thread.join()
    assert run_cell(client, "print(pool.map(abs, [-1, 2]))\npool.terminate(); pool.join()") == ("[1, 2]\n", "")
