"""The page in a real browser: it renders, it zooms, and it shows the numbers that the recording has."""

import json
import re
import shutil
import subprocess

import pytest

from fullcourt._gil.cells import RUNNABLE
from fullcourt._gil.page import page
from fullcourt._gil.recorder import Recorder
from fullcourt._gil.reporting import report_of
from fullcourt._gil.table import report_text
from fullcourt._gil.trace import trace
from fullcourt._gil.waits import GIL_WAIT, NETWORK

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PID = 4121


@pytest.fixture
def recording():
    """Two threads that take turns, and one that waits for a socket."""
    recorder = Recorder(0)
    recorder.process(PID, 0, "job.py </script>", "3.13", "sampled")
    counters = {1: [0, 0], 2: [0, 0], 3: [0, 0]}
    for key, name in ((1, "first"), (2, "second"), (3, "socket")):
        recorder.thread(key, PID, PID + key, name, 0, 0, 0)
        recorder.lanes[key].python = True
    at = 0
    for turn in range(200):
        at += 5_000_000
        owner = 1 + turn % 2
        counters[owner][0] += 5_000_000
        recorder.gil(PID, 0, at, owner, turn)
        for key in (1, 2, 3):
            state = RUNNABLE if key == owner else NETWORK if key == 3 else GIL_WAIT
            recorder.sample(key, at, state, key == owner, *counters[key])
        recorder.sampled(at)
    return recorder.recording(at) | {
        "pid": PID, "rate_hz": 200.0, "own_cpu_s": 0.02, "foreign_cores": 0.0, "watched_cpu_s": 1.0, "n_cores": 2,
    }  # fmt: skip


def test_the_page_is_self_contained_and_safe(recording):
    text = page(recording, report_of(recording))
    assert not re.search(r'(?:src|href)="', text)
    assert "@import" not in text
    assert "</script>" not in re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1]
    assert "job.py &lt;/script&gt;" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [thread["total"][0] for thread in data["processes"][0]["threads"]] == [0.5, 0.5, 0.0]
    assert "prefers-color-scheme: dark" in text


def test_the_table_shows_the_same(recording):
    text = report_text(report_of(recording), 120)
    first = next(line for line in text.splitlines() if line.startswith("first"))
    assert re.search(r"1\.00 .* 50 %  .* 50 %", first)
    assert "network 100 %" in text


def test_the_trace_has_each_thread_the_gil_and_the_cores(recording):
    events = json.loads(trace(recording, report_of(recording)))["traceEvents"]
    names = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"first", "second", "socket", "GIL: who held it"} <= names
    slices = [event for event in events if event["ph"] == "X"]
    held = sum(event["dur"] for event in slices if event["name"] == "GIL held")
    assert held == pytest.approx(1_000_000, rel=0.02)
    owners = sum(event["dur"] for event in slices if event["name"].startswith(("first ", "second ")))
    assert owners == pytest.approx(1_000_000, rel=0.02)
    assert all(event["dur"] >= 0 and event["ts"] >= 0 for event in slices)


PROBE = """
<script>
addEventListener("load", () => {
  const f = window.fullcourt, out = {};
  out.lanes = [...document.querySelectorAll(".row.thread")].map((row) => row.dataset.tid);
  out.focusable = document.querySelectorAll("canvas[tabindex='0']").length;
  const canvas = document.querySelector(".row.thread canvas");
  const colour = (part) => {
    const at = Math.round(canvas.width * part);
    return [...canvas.getContext("2d").getImageData(at, canvas.height - 2, 1, 1).data].slice(0, 3);
  };
  out.drawn = [0.1, 0.3, 0.5, 0.7, 0.9].every((part) => colour(part).some((c) => c));
  out.shares = f.shares(f.data.processes[0].threads[0], 0, f.data.wall_us);
  const before = f.view.end - f.view.begin;
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "+", bubbles: true }));
  out.zoomed = before / (f.view.end - f.view.begin);
  f.show(0, 20000);
  out.begin = f.shares(f.data.processes[0].threads[0], 0, 5000)[0];
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "0", bubbles: true }));
  out.all = f.view.end - f.view.begin;
  const box = canvas.getBoundingClientRect();
  const middle = { clientX: box.left + box.width / 2, clientY: box.top + 3, bubbles: true };
  canvas.dispatchEvent(new MouseEvent("mousemove", middle));
  out.tip = document.getElementById("tip").textContent;
  out.totals = document.getElementById("totals").textContent;
  out.scheme = getComputedStyle(document.body).backgroundColor;
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(out);
  document.body.append(result);
});
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is installed")
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_draws_zooms_and_tells_the_numbers(recording, tmp_path, dark):
    path = tmp_path / "page.html"
    path.write_text(page(recording, report_of(recording)).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", "--virtual-time-budget=2000",
        f"--user-data-dir={tmp_path / 'profile'}", *(["--force-dark-mode"] if dark else []), "--dump-dom",
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    out = json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert out["lanes"] == [str(PID + 1), str(PID + 2), str(PID + 3)]
    assert out["focusable"] == 5  # the cores, the GIL, three threads
    assert out["drawn"]
    assert out["shares"][0] == pytest.approx(0.5, abs=0.01)
    assert out["shares"][2] == pytest.approx(0.5, abs=0.01)
    assert out["zoomed"] == pytest.approx(2.0)
    assert out["begin"] == pytest.approx(1.0)
    assert out["all"] == pytest.approx(1e6)
    assert "first" in out["tip"]
    assert "GIL held1.00 s" in out["totals"]
    assert out["scheme"] == ("rgb(21, 25, 28)" if dark else "rgb(252, 252, 250)")
