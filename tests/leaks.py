"""A pytest plugin: every test ends clean, or fails with a list of what it left behind.

What counts: processes (children, their children, and orphans that still bear our mark), unreaped children, threads,
file descriptors, mapped memfd blocks, entries in /dev/shm, sub-interpreters. Things that were there before the test, a
module's pool for instance, are not the test's. A test that failed for a reason of its own is not also told of leaks.

How a process is recognised as ours: it descends from this one; or its environment holds this run's token (it was
executed by one of ours, however long ago its parents died); or it is an orphan of our process group and of our
executable (it was forked by one of ours). Other test runs and benchmarks may work beside this one: what is theirs does
not count, entries in /dev/shm included that they left. Off Linux only threads and interpreters are looked at.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import re
import signal
import sys
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

try:
    import _interpreters  # from 3.13 on
except ImportError:
    _interpreters = None

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GRACE_S = 2.0  # what is stopping may take so long to be gone
PROC = Path("/proc")
LINUX = sys.platform == "linux"
TOKEN_NAME = "FULLCOURT_TEST_RUN"
TOKEN = f"{TOKEN_NAME}={uuid.uuid4().hex}"
SEED = int(os.environ.get("FULLCOURT_TEST_SEED") or random.SystemRandom().randrange(2**32))
IGNORED_TARGETS = ("/dev/urandom", "/dev/random")  # kept open by whoever drew random bytes first
SHARED_LIBRARY = re.compile(r"\.so(\.[0-9]+)*$")  # kept open by ctypes, from the first import on, on some builds
NAMES_ITS_MAKER = re.compile(r"^(?:sem\.loky-|joblib_memmapping_folder_)(\d+)")  # our package names nothing so
NAMES_OF_ANY_PYTHON = ("sem.mp-", "psm_")  # nor so; but the standard library does
IGNORED_THREADS = ("pytest_timeout",)

FAILED = pytest.StashKey[bool]()

Process = tuple[int, int]  # pid and start time: a pid alone may be somebody else's by now


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    state: str
    parent: int
    group: int
    session: int
    start: int

    @property
    def key(self) -> Process:
        return self.pid, self.start


def _stat(pid: int) -> _Stat | None:
    # Bare calls: this runs for every process of the machine, several times a test (with pathlib about 300 us each, so
    # about 30).
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # it is gone
        return None
    try:
        text = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    fields = text.rpartition(b")")[2].split()  # the command's name, in parentheses, may itself hold any character
    return _Stat(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def _all_processes() -> dict[int, _Stat]:
    stats = (_stat(int(name)) for name in os.listdir(PROC) if name.isdigit())
    return {s.pid: s for s in stats if s is not None}


def _token(pid: int) -> str:
    """The token of the test run of which an executed process comes; "" where it has none."""
    with contextlib.suppress(OSError):
        for entry in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            if entry.startswith(TOKEN_NAME.encode()):
                return entry.decode(errors="replace")
    return ""


def _same_executable(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.readlink(PROC / str(pid) / "exe") == os.readlink(PROC / "self" / "exe")
    return False


def _is_python(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "python" in os.path.basename(os.readlink(PROC / str(pid) / "exe"))
    return False


def _standard_library_objects() -> tuple[object, object]:
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    return tracker, getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)


def _standard_library_helpers() -> set[int]:
    """The processes that multiprocessing itself starts once and keeps to the end."""
    tracker, server = _standard_library_objects()
    return {getattr(tracker, "_pid", None), getattr(server, "_forkserver_pid", None)} - {None}


def _standard_library_descriptors() -> set[int]:
    """Their ends of the pipes by which those helpers learn that this process is gone."""
    tracker, server = _standard_library_objects()
    return {getattr(tracker, "_fd", None), getattr(server, "_forkserver_alive_fd", None)} - {None}


def _our_processes() -> dict[Process, str]:
    """Every process that this one, or one of its descendants, started; what each is."""
    table = _all_processes()
    me = table[os.getpid()]
    ours: set[int] = set()
    for stat in table.values():
        line, pid = [], stat.pid
        while pid in table and pid not in ours and pid != me.pid and pid not in line:
            line.append(pid)
            pid = table[pid].parent
        if pid == me.pid or pid in ours:
            ours.update(line)
    for stat in table.values():
        if stat.pid in ours or stat.pid == me.pid or stat.start < me.start or stat.state == "Z":
            continue
        parent = table.get(stat.parent)
        orphaned = stat.parent == 1 or parent is None or parent.session != me.session
        token = _token(stat.pid)
        if token == TOKEN or (
            orphaned
            and not token
            and (stat.session, stat.group) == (me.session, me.group)
            and _same_executable(stat.pid)
        ):
            ours.add(stat.pid)
    ours -= _standard_library_helpers() | {me.pid}
    return {table[pid].key: _describe_process(table[pid]) for pid in ours}


def _describe_process(stat: _Stat) -> str:
    command = ""
    with contextlib.suppress(OSError):
        command = (PROC / str(stat.pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    if not command:
        with contextlib.suppress(OSError):
            command = f"[{(PROC / str(stat.pid) / 'comm').read_text().strip()}]"
    state = "ended, but nobody has waited for it" if stat.state == "Z" else f"state {stat.state}"
    return f"process {stat.pid} ({state}, parent {stat.parent}): {command}"


def _threads() -> dict[int, str]:
    named = {t.ident: f"thread {t.name!r}{' (daemon)' if t.daemon else ''}" for t in threading.enumerate()}
    # With those that were started below `threading`, which it does not know.
    idents = set(sys._current_frames()) | {i for i in named if i is not None}
    found = {i: named.get(i, f"thread {i} started through _thread") for i in idents}
    return {i: text for i, text in found.items() if not any(name in text for name in IGNORED_THREADS)}


def _descriptors() -> dict[tuple[int, str], str]:
    found = {}
    known = _standard_library_descriptors()
    for name in os.listdir(PROC / "self" / "fd"):
        with contextlib.suppress(OSError):  # the descriptor that listed the folder is closed by now
            target = os.readlink(PROC / "self" / "fd" / name)
            if target not in IGNORED_TARGETS and not SHARED_LIBRARY.search(target) and int(name) not in known:
                found[int(name), target] = f"file descriptor {name}: {target}"
    return found


def _mapped_blocks() -> Counter[str]:
    """How often each memfd block is mapped here; a map can outlive the descriptor."""
    maps = (PROC / "self" / "maps").read_text(errors="replace").splitlines()
    return Counter(" ".join(line.split(maxsplit=5)[4:]) for line in maps if "/memfd:" in line)


def _shared_memory() -> frozenset[str]:
    with contextlib.suppress(OSError):
        return frozenset(os.listdir("/dev/shm"))
    return frozenset()


def _is_a_strangers(name: str, ours: Mapping[Process, str]) -> bool:
    """Whether this entry of /dev/shm is not ours, or cannot be told to be.

    It is not where it names another process as its maker, or another one uses it. Whose a forgotten one of the standard
    library's is, nobody can tell while other Python programs run here that may have made it.
    """
    table = _all_processes()
    known = {pid for pid, _ in ours} | {os.getpid()}
    maker = NAMES_ITS_MAKER.search(name)
    if maker is not None and int(maker[1]) not in known:
        return True
    if name.startswith(NAMES_OF_ANY_PYTHON):
        ancestors, pid = set[int](), os.getpid()
        while pid in table:
            ancestors.add(pid)
            pid = table[pid].parent
        if any(_is_python(pid) for pid in table.keys() - known - ancestors):
            return True
    for pid in table:
        with contextlib.suppress(OSError):
            if pid not in known and f"/dev/shm/{name}" in (PROC / str(pid) / "maps").read_text(errors="replace"):
                return True
    return False


def _sub_interpreters() -> frozenset[int]:
    if _interpreters is None:
        return frozenset()
    return frozenset(int(i[0] if isinstance(i, tuple) else i) for i in _interpreters.list_all())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What this process has at one moment of all that can leak."""

    threads: dict[int, str]
    interpreters: frozenset[int]
    processes: dict[Process, str]
    descriptors: dict[tuple[int, str], str]
    mapped: Counter[str]
    shared_memory: frozenset[str]

    @classmethod
    def take(cls) -> Snapshot:
        if not LINUX:
            return cls(_threads(), _sub_interpreters(), {}, {}, Counter(), frozenset())
        return cls(
            _threads(), _sub_interpreters(), _our_processes(), _descriptors(), _mapped_blocks(), _shared_memory()
        )

    def new_processes(self, before: Snapshot) -> list[Process]:
        return sorted(self.processes.keys() - before.processes.keys())

    def beyond(self, before: Snapshot) -> list[str]:
        """What is here and was not there before, a line each."""
        lines = [self.processes[p] for p in self.new_processes(before)]
        lines += [text for ident, text in self.threads.items() if ident not in before.threads]
        lines += [f"sub-interpreter {i}" for i in sorted(self.interpreters - before.interpreters)]
        lines += [text for key, text in sorted(self.descriptors.items()) if key not in before.descriptors]
        lines += [f"{n} map(s) of block {block}" for block, n in (self.mapped - before.mapped).items()]
        shm = sorted(self.shared_memory - before.shared_memory)
        return [*lines, *(f"/dev/shm/{name}" for name in shm if not _is_a_strangers(name, self.processes))]


def wait_until_clean(before: Snapshot, grace_s: float = GRACE_S) -> tuple[list[str], Snapshot]:
    """Give what is stopping its grace; return what is left beyond `before`, and the last look taken."""
    deadline = time.monotonic() + grace_s
    pause = 0.001
    while True:
        now = Snapshot.take()
        left = now.beyond(before)
        if not left or time.monotonic() > deadline:
            return left, now
        gc.collect()  # what a reference cycle holds is garbage, if late; ResourceWarning, an error here, tells of it
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


def end_processes(processes: list[Process]) -> None:
    """Kill what a test left, so that it disturbs no later test, and reap our own children among it."""
    for pid, start in processes:
        stat = _stat(pid)
        if stat is not None and stat.start == start:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def pytest_configure(config: pytest.Config) -> None:
    os.environ[TOKEN_NAME] = TOKEN.partition("=")[2]


def pytest_report_header(config: pytest.Config) -> list[str]:
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return [
        f"random: FULLCOURT_TEST_SEED={SEED}",
        f"python: {sys.version.split()[0]}, GIL {'on' if gil else 'off'}, {os.cpu_count()} cores",
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when in {"setup", "call"} and report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seed `random` by the run's seed and the test's name; fail the test if it leaked."""
    random.seed(f"{SEED} {request.node.nodeid}")
    before = Snapshot.take()
    yield
    failed = request.node.stash.get(FAILED, False)
    left, now = wait_until_clean(before)
    end_processes(now.new_processes(before))
    if left and not failed:
        pytest.fail("the test left behind, 2 s after its end:\n  " + "\n  ".join(left), pytrace=False)
