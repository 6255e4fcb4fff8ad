"""The work of `fullcourt demo`, as it runs in the workers: one source file in, one result that can be compared out."""

from __future__ import annotations

import ast
import hashlib
import http.client
import os
import threading
import time
import types
import warnings
import zlib
from typing import Final, NamedTuple
from urllib.parse import urlsplit

__all__ = ["JOBS", "Record", "compute", "native", "quiet", "ready", "timed", "wait"]

# Of one file, so that a task takes some milliseconds, and most of that outside the GIL.
_N_COMPRESSIONS: Final = 4
_TIMEOUT_S: Final = 30.0


class Record(NamedTuple):
    """One task, as it was measured where it ran.

    Attributes:
        result: What the job made of the file.
        started: Clock reading (`time.monotonic`, the same for all processes of a machine) when it began.
        ended: The same, when it ended.
        cpu_s: CPU seconds that its thread used.
        queued_s: Seconds for which its thread could have run, but no core was free; `None` where the system does not
            say.
            What is left of the time from begin to end it was blocked: by the GIL, a socket, a file.
        slot: Process and thread that it ran in.
    """

    result: str
    started: float
    ended: float
    cpu_s: float
    queued_s: float | None
    slot: tuple[int, int]


def timed(job: str, item: str) -> Record:
    """Do the job named `job` on `item`, and measure it."""
    work = JOBS[job]
    queued_before = _queued_s()
    started, cpu_started = time.monotonic(), time.thread_time()
    result = work(item)
    cpu_s, ended = time.thread_time() - cpu_started, time.monotonic()
    queued_after = _queued_s()
    queued_s = None if queued_before is None or queued_after is None else queued_after - queued_before
    return Record(result, started, ended, cpu_s, queued_s, (os.getpid(), threading.get_ident()))


def compute(path: str) -> str:
    """Parse and compile a file: Python's compiler holds the GIL all the while."""
    with open(path, "rb") as file:
        source = file.read()
    try:
        tree = ast.parse(source, path)
        n_nodes = sum(1 for _ in ast.walk(tree))
        code = compile(tree, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # some of the test suite's files are wrong on purpose
        return type(error).__name__
    return f"{n_nodes} nodes, {_code_bytes(code)} bytes"


def native(path: str) -> str:
    """Compress a file several times: zlib and hashlib release the GIL while they work."""
    with open(path, "rb") as file:
        data = file.read()
    digest = hashlib.sha256()
    for level in range(10 - _N_COMPRESSIONS, 10):
        digest.update(zlib.compress(data, level))
    return digest.hexdigest()


def wait(url: str) -> str:
    """Fetch a file from a server that takes its time: waiting for a socket releases the GIL."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        body = answer.read()
        return f"{answer.status} {hashlib.sha256(body).hexdigest()}"
    finally:
        connection.close()


def ready(_: int) -> bool:
    """Answer: the worker has started, and has this module."""
    return True


def quiet() -> None:
    """Silence the warnings of the compiler about old source files; the initializer of each worker."""
    warnings.simplefilter("ignore")


def _queued_s() -> float | None:
    """Return for how long this thread has waited for a core since it began (proc(5): schedstat)."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _code_bytes(code: types.CodeType) -> int:
    return len(code.co_code) + sum(_code_bytes(part) for part in code.co_consts if isinstance(part, types.CodeType))


JOBS: Final = {"compute": compute, "native": native, "wait": wait}
