"""Runs one cell in a session of its own, with a deadline, and looks at what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.torture.cases import CASES, Case

__all__ = ["Cell", "run_cell"]

ROOT = Path(__file__).parents[2]
TOKEN = "FULLCOURT_TORTURE"
LEFT_S = 1.0  # a program's processes must be gone so many seconds after its end


@dataclass
class Cell:
    """How one pool fared in one case: ok, wrong, lost, hang, slow, orphans, litter, died, or none (not offered)."""

    case: str
    pool: str
    outcome: str
    note: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def descendants(token: str) -> list[int]:
    """Processes that were started, directly or not, by the cell with this token, which is in their environment."""
    found = []
    mark = f"{TOKEN}={token}".encode()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0") and is_alive(int(entry)):
                    found.append(int(entry))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_all(token: str) -> int:
    """Kill what is left of a cell. Returns how many it was at first."""
    first = None
    for _ in range(50):
        left = descendants(token)
        first = len(left) if first is None else first
        if not left:
            break
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return first or 0


def gone_within(token: str, seconds: float) -> float | None:
    """Wait until nothing of a cell is left. Returns how long that took; None: something is left."""
    began = time.monotonic()
    while True:
        if not descendants(token):
            return time.monotonic() - began
        if time.monotonic() - began > seconds:
            return None
        time.sleep(0.02)


class Output:
    """Collects a process's lines until a condition."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.text = {"out": b"", "err": b""}
        self.selector = selectors.DefaultSelector()
        assert process.stdout and process.stderr
        self.selector.register(process.stdout, selectors.EVENT_READ, "out")
        self.selector.register(process.stderr, selectors.EVENT_READ, "err")

    def read_until(self, deadline: float, ready: bytes | None) -> str:
        """Read until the line is there ("ready"), the program has ended ("ended") or the deadline ("late")."""
        while True:
            if ready is not None and ready in self.text["out"].splitlines():
                return "ready"
            if self.process.poll() is not None:
                self.read_some(0.0)
                return "ended"
            if time.monotonic() > deadline:
                return "late"
            self.read_some(0.02)

    def read_some(self, timeout: float) -> None:
        if not self.selector.get_map():
            time.sleep(timeout)
            return
        for key, _ in self.selector.select(timeout):
            data = os.read(key.fd, 1 << 16)
            if data:
                self.text[key.data] = (self.text[key.data] + data)[-1_000_000:]
            else:
                self.selector.unregister(key.fileobj)


def run_cell(case: Case, pool: str, *, isolated: bool = False) -> Cell:
    """Run one case with one pool. ``isolated``: /dev/shm is ours alone, so what is found there is that cell's."""
    token = uuid.uuid4().hex
    path = os.pathsep.join(entry for entry in (str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH")) if entry)
    environment = {**os.environ, TOKEN: token, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.torture.cell", case.key, pool], cwd=ROOT, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        output = Output(process)
        outcome, note = judge(case, process, output, began, token)
        litter = os.listdir("/dev/shm") if isolated else []
        if outcome == "ok" and litter:
            outcome, note = "litter", f"{len(litter)} files in /dev/shm: {litter[0]}"
    finally:
        kill_all(token)
        process.kill()
        if isolated:
            sweep("/dev/shm")
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    return Cell(case.key, pool, outcome, note, round(time.monotonic() - began, 2))


def sweep(folder: str) -> None:
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)


def judge(case: Case, process: subprocess.Popen[bytes], output: Output, began: float, token: str) -> tuple[str, str]:
    deadline = began + case.deadline_s
    if case.signal is not None:
        state = output.read_until(deadline, b"READY")
        if state == "ready":
            return after_signal(case, process, output, token)
        if state == "ended":
            return verdict(process, output)
        return "hang", "it did not come so far as to be told"
    state = output.read_until(deadline, None)
    if state == "late":
        return "hang", f"not over after {case.deadline_s:.0f} s"
    outcome, note = verdict(process, output)
    if outcome == "ok" and gone_within(token, LEFT_S) is None:
        return "orphans", f"{kill_all(token)} processes left"
    return outcome, note


def verdict(process: subprocess.Popen[bytes], output: Output) -> tuple[str, str]:
    lines = output.text["out"].decode(errors="replace").splitlines()
    if "EXPECT-EXIT" in lines and process.returncode == 0:
        return "ok", ""
    if "EXPECT-TRACEBACK" in lines:
        n = output.text["err"].count(b"ZeroDivisionError")
        return ("ok", "") if process.returncode == 1 and n else ("wrong", f"exit status {process.returncode}")
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = json.loads(line)
            if process.returncode and found["outcome"] == "ok":
                return "died", f"exit status {process.returncode} at the end"
            return found["outcome"], found["note"]
    last = output.text["err"].decode(errors="replace").strip().splitlines()[-1:]
    return "died", f"exit status {process.returncode}: {''.join(last)[:100]}"


def after_signal(case: Case, process: subprocess.Popen[bytes], output: Output, token: str) -> tuple[str, str]:
    assert case.signal is not None
    began = time.monotonic()
    if case.to_group:
        os.killpg(process.pid, case.signal)
    else:
        process.send_signal(case.signal)
    state = output.read_until(began + case.deadline_s, None)
    ended = time.monotonic() - began
    if state == "late":
        return "hang", f"it goes on {case.deadline_s:.0f} s after the signal"
    gone = gone_within(token, max(0.0, case.end_s - ended) + 0.2)
    if gone is None:
        n = len(descendants(token))
        return "orphans", f"{n} processes left" + (f"; the program ended after {ended:.1f} s" if ended > 1 else "")
    if ended > case.end_s + 0.2:
        return "slow", f"it took {ended:.1f} s"
    tracebacks = output.text["err"].count(b"Traceback (most recent call last)")
    if case.signal == signal.SIGINT and tracebacks > 1:
        return "noisy", f"{tracebacks} tracebacks, {len(output.text['err'].splitlines())} lines"
    return "ok", ""


if __name__ == "__main__":
    print(run_cell(CASES[sys.argv[1]], sys.argv[2]))
