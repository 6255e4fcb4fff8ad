"""A program of the sweep over the parent: forks one parent after another, each of which dies at a step.

It is the subreaper of all that they leave, so that whatever outlives them falls to it: nothing can hide. For each
parent it prints a line of JSON: the step, the exit status, how long until nobody was left, who was still there when the
time was over.

    python -m tests.faults.parents ENGINE FOLDER STEP...      0: no death, the steps are counted
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import fullcourt
from fullcourt._os.system import become_subreaper, descendants
from tests.faults import fault_tasks, steps

# A worker of the portable transport that was just being started has no template to end it: it sees that its parent is
# gone when its interpreter has started.
GONE_S = {"portable": 10.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "fork": {"start_method": "fork"},
    "forkserver": {"start_method": "forkserver"},
    "spawn": {"start_method": "spawn"},
    "fork-x-threads": {"start_method": "fork", "threads": 2},
    "portable": {},
}


def leave_a_child(daemon: bool) -> None:
    """Start a process that nobody ends, in a session of its own; a daemon's parent ends at once."""
    if os.fork():
        return
    os.setsid()
    if daemon and os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def be_a_parent(engine: str, log: str) -> None:
    """Use a pool in every way, with workers that die and tasks that leave processes."""
    may_leave = engine != "portable"  # whose docs say that it cannot end what a task started
    shares = "threads" in OPTIONS[engine]  # a worker that dies takes with it what runs on its other threads
    with fullcourt.Pool(2, **OPTIONS[engine]) as pool:
        if may_leave:
            pool.submit(leave_a_child, False).result()
        futures = [pool.submit(fault_tasks.square, i) for i in range(4)]
        assert pool.map(fault_tasks.square, range(12), 3) == [i * i for i in range(12)]
        if shares:
            concurrent.futures.wait(futures)
        died = pool.submit(os._exit, 3)
        if shares:
            died.exception()
        assert len(pool.submit(bytes, 100_000).result()) == 100_000
        assert pool.submit(len, bytes(100_000)).result() == 100_000
        if may_leave:
            pool.submit(leave_a_child, True).result()
        assert list(pool.imap(fault_tasks.square, range(5))) == [i * i for i in range(5)]
        assert type(died.exception()).__name__ == "WorkerDied"
        assert [future.result() for future in futures] == [0, 1, 4, 9]


def commands(pids: list[int]) -> list[str]:
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            found.append(f"{pid} {state} " + Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def reap_all(until: float) -> bool:
    """Reap whatever falls to us until nobody is left. False: somebody was, when the time was over."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if not pid:
            if time.monotonic() > until:
                return False
            time.sleep(0.002)


def try_one(engine: str, step: int, log: str) -> dict[str, Any]:
    parent = os.fork()
    if not parent:
        status = 1
        try:
            steps.arm(step, log)
            be_a_parent(engine, log)
            sys.setprofile(None)
            fault_tasks.append_line(log, f"passed {steps.n_passed}")
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(parent, 0)
    began = time.monotonic()
    clean = reap_all(began + GONE_S.get(engine, 1.0))
    seconds = time.monotonic() - began
    left = [] if clean else commands(descendants(os.getpid()))
    while not clean:
        for pid in descendants(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        clean = reap_all(time.monotonic() + 0.1)
    return {"step": step, "status": os.waitstatus_to_exitcode(status), "seconds": seconds, "left": left}


def main(engine: str, folder: str, *numbers: str) -> None:
    become_subreaper()
    for number in numbers:
        print(json.dumps(try_one(engine, int(number), f"{folder}/step-{number}")), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
