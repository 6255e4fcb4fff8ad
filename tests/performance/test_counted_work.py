"""The gate on speed: what is counted, not what is timed. Whoever adds a system call or a pickle per task sees it here.

Seconds depend on the machine; these counts do not. Raise a bound only with a reason that the commit tells.
"""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

import fullcourt
from fullcourt._core.model import Chunk, Estimate
from fullcourt._core.scheduler import Scheduler

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux's links do")

N = 2000
ROOT = Path(__file__).parents[2]


def noop(x: Any) -> Any:
    return x


# -- system calls -----------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
import fullcourt
from operator import neg

with fullcourt.Pool(2, start_method="fork") as pool:
    for x in range(100):
        pool.apply(neg, (x,))
    {work}
"""
WORK = {
    "nothing": "pass",
    "calls": "[pool.apply(neg, (x,)) for x in range({n})]",
    "burst": "[f.result() for f in [pool.submit(neg, x) for x in range({n})]]",
    "map": "pool.map(neg, range({n}))",
}


def system_calls(work: str, n: int) -> tuple[int, dict[str, int]]:
    """How many system calls a program makes, its workers not counted; with them by name."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "calls")
        code = PROGRAM.format(work=WORK[work].format(n=n))
        done = subprocess.run(
            [strace, "-c", "-o", out, sys.executable, "-c", code],
            capture_output=True, text=True, timeout=100, check=False,
            # with one core nobody waits awake, which is as many system calls as there is time for
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "FULLCOURT_CORES": "1"},
        )  # fmt: skip
        if "ptrace" in done.stderr or "PTRACE" in done.stderr:
            pytest.skip("tracing is not permitted here")
        assert done.returncode == 0, done.stderr
        found = {}
        for line in Path(out).read_text().splitlines():
            fields = line.split()
            if len(fields) >= 5 and fields[0][0].isdigit() and fields[3].isdigit() and fields[-1] != "total":
                found[fields[-1]] = int(fields[3])
        return sum(found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "n", "per_task"),
    [
        # one call: send, wait, receive, and holding Ctrl-C back (two each)
        ("calls", N, 9.0),
        # of a burst, only the sending is each task's own
        ("burst", N, 9.0),
        ("map", 100 * N, 0.05),
    ],
)
def test_system_calls_per_task(work: str, n: int, per_task: float) -> None:
    idle, _ = system_calls("nothing", 0)
    busy, by_name = system_calls(work, n)
    found = (busy - idle) / n
    assert found <= per_task, f"{found:.3f} system calls per task: {by_name}"


# -- pickles and bytes ------------------------------------------------------------------------------------------------


class Counter:
    """Counts its pickles, in whatever process."""

    n = 0

    def __reduce__(self) -> Any:
        Counter.n += 1
        return Counter, ()


def test_an_argument_is_pickled_once() -> None:
    with fullcourt.Pool(1) as pool:  # with two, some may be taken back from the busy one, and are pickled again
        Counter.n = 0
        for _ in range(20):
            pool.apply(type_name, (Counter(),))
        assert Counter.n == 20
        pool.map(type_name, [Counter() for _ in range(50)])
        assert Counter.n == 70


def type_name(x: object) -> str:
    return type(x).__name__


def test_a_function_is_pickled_once_and_sent_once_to_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    with fullcourt.Pool(2) as pool:
        pool.apply(noop, (1,))
        codec = pool._driver.engine.codec
        encoded: list[object] = []
        calls: list[object] = []
        encode, encode_call = codec.encode, codec.encode_call
        monkeypatch.setattr(codec, "encode", lambda obj: (encoded.append(obj), encode(obj))[1])
        monkeypatch.setattr(codec, "encode_call", lambda *call: (calls.append(call), encode_call(*call))[1])
        for x in range(50):
            pool.apply(noop, (x,))
        assert not encoded
        assert calls == [((x,), {}) for x in range(50)]


def bytes_sent(pool: fullcourt.Pool) -> int:
    return sum(worker.bytes_in for worker in pool.statistics().workers)


def test_bytes_on_the_wire_per_task() -> None:
    with fullcourt.Pool(1) as pool:
        pool.map(noop, range(1000))
        for _ in range(3):
            pool.apply(noop, (1,))
        before = bytes_sent(pool)
        for _ in range(N):
            pool.apply(noop, (1,))
        per_call = (bytes_sent(pool) - before) / N
        assert per_call <= 36 + 20, f"{per_call} bytes per call: a header of 36 and a pickle of about 13"
        before = bytes_sent(pool)
        pool.map(noop, range(100_000))
        assert (bytes_sent(pool) - before) / 100_000 <= 6


class Buffer:
    """Large content, out of band."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return Buffer, (pickle.PickleBuffer(self.data),)


def length(x: Buffer) -> int:
    return len(memoryview(x.data))


def test_a_large_argument_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written into blocks, by whatever way, is its bytes once; nothing of it goes through the link."""
    from fullcourt._transport import arena

    written = [0]
    pwrite = os.pwrite

    def counting(fd: int, data: Any, offset: int) -> int:
        n = pwrite(fd, data, offset)
        written[0] += n
        return n

    monkeypatch.setattr(os, "pwrite", counting)
    size = 4_000_000
    buffer = Buffer(bytearray(size))
    with fullcourt.Pool(1) as pool:
        assert pool.apply(length, (buffer,)) == size
        assert size <= written[0] <= size + 4096
        before, wire = written[0], bytes_sent(pool)
        for _ in range(5):
            assert pool.apply(length, (buffer,)) == size
        probe = arena.open_kept()
        if probe is not None:  # warm blocks are written through a mapping
            probe.close()
            assert written[0] - before <= 2 * size
        assert bytes_sent(pool) - wire < 5 * 1000


# -- an idle pool -----------------------------------------------------------------------------------------------------


def tree(root: int) -> list[int]:
    found = [root]
    for pid in found:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found.extend(map(int, file.read().split()))
    return found


def switches() -> dict[str, int]:
    """Voluntary context switches (each a wake-up that came before) of the tree's threads, this one left out."""
    found = {}
    for pid in tree(os.getpid()):
        for task in os.listdir(f"/proc/{pid}/task"):
            if int(task) != os.getpid():
                text = Path(f"/proc/{pid}/task/{task}/status").read_text()
                name = text.partition("\n")[0].split()[1]
                found[f"{name} {task}"] = int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return found


@pytest.mark.parametrize("start_method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_an_idle_pool_wakes_nobody(start_method: str) -> None:
    others = switches()  # an earlier test's
    with fullcourt.Pool(2, start_method=start_method) as pool:
        pool.map(noop, range(1000))
        pool.apply(noop, (1,))
        pool.submit(noop, 1).result()
        # The template's and the background thread's last acts end within some milliseconds; wait until all is still.
        until = time.monotonic() + 20
        before = switches()
        while time.monotonic() < until:
            time.sleep(0.2)
            now = switches()
            if now == before:
                break
            before = now
        time.sleep(1.0)
        after = switches()
        woken = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
        assert not {name: n for name, n in woken.items() if name not in others}


# -- memory -----------------------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    total = 0
    for pid in tree(os.getpid()):
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_an_endless_input_runs_in_constant_memory() -> None:
    with fullcourt.Pool(2) as pool:
        results = pool.imap(noop, itertools.count())
        for _ in itertools.islice(results, 60_000):
            pass
        before = resident_bytes()
        for _ in itertools.islice(results, 240_000):
            pass
        grown = resident_bytes() - before
        results.close()
    assert grown < 6e6, f"{grown / 1e6:.1f} MB more after five times the items"


@pytest.mark.slow
def test_calls_leave_nothing_behind_in_memory() -> None:
    with fullcourt.Pool(2) as pool:
        for _ in range(5):
            [f.result() for f in [pool.submit(noop, x) for x in range(2000)]]
        before = resident_bytes()
        for _ in range(20):
            [f.result() for f in [pool.submit(noop, x) for x in range(2000)]]
        grown = resident_bytes() - before
    assert grown < 3e6, f"{grown / 1e6:.1f} MB more after 40,000 calls"


# -- the scheduler ----------------------------------------------------------------------------------------------------


class Calls:
    """A stream of single calls, as a count."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.ids = itertools.count(1)
        self.queued = False
        self.last_size = 1
        self.priority = 0
        self.estimate = Estimate()

    def available(self) -> int:
        return self.n

    def remaining(self) -> int | None:
        return None

    def fixed_size(self) -> int | None:
        return 1

    def is_awaited_whole(self) -> bool:
        return False

    def take(self, n_tasks: int) -> Chunk:
        self.n -= 1
        return Chunk(next(self.ids), 0, 1, self.estimate)


def lines_per_task(n_workers: int, n_queued: int, n_tasks: int = 300) -> float:
    """How many lines of Python the scheduler runs for a task, with workers that answer in turn."""
    scheduler = Scheduler(n_workers, 1)
    scheduler.opened(0.0)
    scheduler.actions.clear()
    scheduler.stream_filled(Calls(n_queued + n_tasks + 10 * n_workers), 0.0)
    held: list[Chunk] = []
    n_lines = 0

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal n_lines
        n_lines += event == "line"
        return trace

    def drain() -> None:
        held.extend(action[2] for action in scheduler.actions if action[0] == "send")
        scheduler.actions.clear()

    drain()
    old = sys.gettrace()
    for i in range(n_tasks):
        chunk = held.pop(0)
        sys.settrace(trace)
        try:
            scheduler.ended(chunk, 1, 0.001, i * 1e-5)
        finally:
            sys.settrace(old)
        drain()
    return n_lines / n_tasks


def test_the_schedulers_work_per_task_does_not_depend_on_the_number_of_workers() -> None:
    few, many = lines_per_task(2, 1000), lines_per_task(1000, 1000)
    assert many < 1.5 * few, f"{few:.0f} lines with 2 workers, {many:.0f} with 1,000"


def test_the_schedulers_work_per_task_does_not_depend_on_the_length_of_the_queue() -> None:
    few, many = lines_per_task(2, 1000), lines_per_task(2, 1_000_000)
    assert many < 1.5 * few, f"{few:.0f} lines with 1,000 queued, {many:.0f} with 1,000,000"


def lines_of_a_call() -> float:
    """Lines of our own Python that a call and its result cost the caller, in the best of ten rounds.

    Where other programs need the cores, waiting takes more of them.
    """
    n_lines = 0
    package = str(ROOT / "src" / "fullcourt")

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal n_lines
        if not frame.f_code.co_filename.startswith(package):
            return None
        n_lines += event == "line"
        return trace

    counts: list[int] = []
    with fullcourt.Pool(1) as pool:
        for x in range(50):
            pool.apply(noop, (x,))
        old = sys.gettrace()
        sys.settrace(trace)
        try:
            for _ in range(10):
                n_lines = 0
                for x in range(20):
                    pool.apply(noop, (x,))
                counts.append(n_lines)
        finally:
            sys.settrace(old)
    return min(counts) / 20


def test_the_python_of_a_call_stays_short() -> None:
    found = lines_of_a_call()
    assert found < 335, f"{found:.0f} lines of Python for one call and its result"


class Pickled:
    """Says how often it was pickled; in whatever process, and large if so asked."""

    def __init__(self, n_bytes: int) -> None:
        self.n = 0
        self.n_bytes = n_bytes

    def __reduce__(self) -> Any:
        self.n += 1
        return tuple, ((self.n, bytes(self.n_bytes)),)


@pytest.mark.parametrize(
    ("n_bytes", "chunksize", "counts"),
    [
        (10, 1, [1, 1, 1, 1]),
        (10, 4, [2, 2, 2, 1]),  # once for the journal, where they are found if the worker dies, and once to be sent
        (1000, 4, [2, 2, 2, 1]),
        (10_000, 4, [1, 1, 1, 1]),  # sent as the journal has them
        (200_000, 1, [1, 1, 1, 1]),
        (200_000, 4, [2, 1, 1, 1]),  # the first one shows that they are large
    ],
)
def test_results_of_a_map_are_pickled_no_more_often_than_a_death_makes_worth_it(
    n_bytes: int, chunksize: int, counts: list[int]
) -> None:
    with fullcourt.Pool(1) as pool:
        results: list[Any] = pool.map(Pickled, [n_bytes] * 4, chunksize=chunksize)
        assert [n for n, _ in results] == counts
        assert all(len(data) == n_bytes for _, data in results)
