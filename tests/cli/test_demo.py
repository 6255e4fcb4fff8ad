"""`fullcourt demo`: its sentences and its page from made-up numbers, its jobs on real files, and the whole once."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from fullcourt.cli import demo, demo_jobs, demo_run
from fullcourt.cli.demo_jobs import Record
from fullcourt.cli.demo_page import page
from fullcourt.cli.demo_run import Job, Run, Way
from fullcourt.cli.demo_why import explain

SERIAL = Way("serial", {}, 1, 1)
THREADS = Way("threads", {"threads": 16}, 16, 1)
FREE = Way("free threads", {"threads": 16}, 16, 0)
PROCESSES = Way("processes", {"processes": 2}, 2, 2)
BOTH = Way("both", {"processes": 2, "threads": 16}, 32, 2)
INTERPRETERS = Way("interpreters", {"interpreters": 2}, 2, 2)


def run(
    way: Way, seconds: float, cpu_s: float, in_tasks_s: float, queued_s: float | None = 0.0, others: float = 0.0
) -> Run:
    records = [
        Record("x", 100 + n * seconds / 4, 100 + (n + 1) * seconds / 4, cpu_s / 4, 0.0, (n % 2, 1)) for n in range(4)
    ]
    return Run(way, seconds, 0.1, cpu_s, in_tasks_s, queued_s, others, True, records, 100.0)


COMPUTE = run(SERIAL, 4.0, 3.98, 4.0)
WAIT = run(SERIAL, 4.0, 0.2, 4.0)


@pytest.mark.parametrize(
    ("serial", "found", "words"),
    [
        (COMPUTE, COMPUTE, "One core worked, the other one stood idle"),
        (WAIT, WAIT, "One reply was awaited at a time: 95 %"),
        (
            COMPUTE,
            run(THREADS, 4.0, 4.0, 60.0),
            "One thread at a time can hold the GIL: 1.0 of 2 cores worked, 14 of 16 slots waited",
        ),
        (
            COMPUTE,
            replace(run(THREADS, 4.0, 4.0, 60.0), gil_wait_s=40.0),
            "One thread at a time can hold the GIL: 1.0 of 2 cores worked, 10 of 16 slots waited for the GIL",
        ),
        (COMPUTE, run(THREADS, 2.0, 3.9, 30.0, 24.0), "native code releases the GIL while it works: 1.9 of 2 cores"),
        (COMPUTE, run(THREADS, 4.0, 3.0, 60.0, 50.0, 1.2), "no free core for a second thread"),
        (COMPUTE, run(PROCESSES, 2.0, 3.9, 4.0), "2 processes have a GIL each: 1.9 of 2 cores worked."),
        (COMPUTE, run(BOTH, 2.0, 3.9, 60.0, 1.0), "28 of 32 slots waited for their GIL and 0.5 for a core"),
        (COMPUTE, run(INTERPRETERS, 2.0, 3.9, 4.0), "2 interpreters have a GIL each"),
        (
            COMPUTE,
            run(FREE, 2.0, 3.9, 30.0, 26.0),
            "There is no GIL to wait for: 1.9 of 2 cores worked, 13 of 16 slots waited for a core",
        ),
        (COMPUTE, run(PROCESSES, 3.0, 5.9, 6.0), "a file cost 1.5 times the CPU time"),
        (COMPUTE, run(PROCESSES, 3.0, 3.9, 4.0, 0.0, 1.4), "other programs took 1.4 cores meanwhile"),
        (COMPUTE, run(THREADS, 4.0, 4.0, 60.0, None), "waited for the GIL or a core"),
        (
            WAIT,
            run(THREADS, 0.3, 0.2, 4.4),
            "15 of 16 slots had a request under way on average: who waits for a socket holds no GIL",
        ),
        (WAIT, run(PROCESSES, 2.0, 0.2, 3.9), "no more could be awaited at once, and only 0.1 cores worked"),
        (WAIT, run(THREADS, 0.3, 0.29, 4.4), "until the GIL became the limit"),
    ],
)
def test_the_sentence_says_what_the_numbers_say(serial: Run, found: Run, words: str) -> None:
    sentence = explain(Job("job", 4, [serial, found]), found, 2)
    assert words in sentence
    assert sentence.endswith(".")
    assert ". " not in sentence


def report(*jobs: Job) -> demo.Report:
    return demo.Report(list(jobs), 2, "All 2 of the machine's cores may be used.", "CPython 3.11", 30.0)


def example() -> demo.Report:
    failed = Run(INTERPRETERS, equal=False, error="NotSupported: no <interpreters> here")
    return report(
        Job("compute", 4, [COMPUTE, run(THREADS, 4.1, 4.0, 60.0), run(PROCESSES, 2.1, 3.9, 4.0), failed]),
        Job("wait", 4, [WAIT, run(FREE, 0.3, 0.2, 4.4), run(BOTH, 0.2, 0.2, 4.4)]),
    )


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_plain_table_has_every_run_and_fits(width: int) -> None:
    text = demo.table_text(example(), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert re.search(r"^processes +2 +0\.10 +2\.10 +1\.9x +1\.9  2 processes", text, re.MULTILINE)
    assert "1 of 5 parallel runs failed or gave other results" in text


def test_a_run_with_other_results_is_called_out() -> None:
    wrong = replace(run(PROCESSES, 2.0, 3.9, 4.0), equal=False)
    found = report(Job("compute", 4, [COMPUTE, wrong]))
    assert found.n_different == 1
    assert "ITS RESULTS DIFFER" in demo.table_text(found, 120)


def test_the_page_is_whole_and_loads_nothing() -> None:
    html = page(example())
    assert "<script" not in html
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?://""", html)
    assert "prefers-color-scheme: dark" in html
    assert "no &lt;interpreters&gt; here" in html
    drawings = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        assert ET.fromstring(drawing).get("role") == "img"
        assert ET.fromstring(drawing).get("aria-label")


def test_the_plain_table_and_the_page_say_the_same() -> None:
    found = example()
    html = re.sub(r"<[^>]*>", " ", page(found))
    for job in found.jobs:
        for row in demo.rows(job, found.n_cores):
            assert all(cell.replace("<", "&lt;").replace(">", "&gt;").replace("'", "&#x27;") in html for cell in row)


@pytest.mark.parametrize("job", ["compute", "native"])
def test_a_job_gives_the_same_result_each_time(job: str) -> None:
    path = str(Path(demo_jobs.__file__))
    one, other = demo_jobs.timed(job, path), demo_jobs.timed(job, path)
    assert one.result == other.result
    assert one.ended >= one.started
    assert one.cpu_s > 0


def test_a_file_that_is_no_python_is_a_result_too(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def (")
    assert demo_jobs.compute(str(tmp_path / "bad.py")) == "SyntaxError"


def test_the_server_serves_files_after_a_delay_and_ends(tmp_path: Path) -> None:
    (tmp_path / "a b.py").write_text("x = 1\n")
    with demo_run._server([str(tmp_path / "a b.py")], 0.02) as (base, pid):
        found = demo_jobs.timed("wait", f"{base}/0")
        assert found.result.startswith("200 ")
        assert found.ended - found.started >= 0.02
        assert demo_jobs.wait(f"{base}/7").startswith("404 ")
        assert pid > 0


def test_the_standard_library_has_its_files_in_a_fixed_order() -> None:
    files = demo_run.source_files()
    assert len(files) > 200
    assert files == demo_run.source_files()


def test_a_page_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.run_demo(seconds=1000.0, html=str(tmp_path / "no" / "page.html")) == 3
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_demonstration_runs_and_its_results_agree(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fullcourt", "demo", "--seconds", "0.3", "--html", str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "parallel runs gave exactly the serial results" in done.stdout
    assert done.stderr == ""
    assert (tmp_path / "page.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
