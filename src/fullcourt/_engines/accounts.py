"""What is said of tasks: the note on an exception, the message of a death; and the pool's statistics."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

from fullcourt import errors
from fullcourt._engines.jobs import STARMAP, Call
from fullcourt._engines.linked import Lost
from fullcourt._transport.functions import function_name
from fullcourt._transport.journal import read_fault
from fullcourt._transport.remote_errors import add_note
from fullcourt.errors import exit_name

__all__ = ["annotate", "call_of", "death", "describe", "describe_task", "take_statistics"]

MAX_TEXT = 80  # characters of one argument's repr
MAX_ARGUMENTS = 6
MAX_ELEMENTS = 30  # of a list and the like: more than fit into the text
MAX_DEPTH = 4
MAX_BITS = 2000
# Of types of these modules the repr runs nobody else's code.
HARMLESS = frozenset(("datetime", "decimal", "fractions", "ipaddress", "pathlib", "pathlib._local", "uuid", "zoneinfo"))
ATOMS = frozenset((int, float, complex, bool, type(None), type(...), range))
BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"), tuple: ("(", ")"), dict: ("{", "}"), set: ("{", "}"), frozenset: ("frozenset({", "})"),
}  # fmt: skip
OWN_FRAMES = os.path.join("fullcourt", "_engines", "worker.py")


def describe(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, plainly: bool = False) -> str:
    """``resize('img_0042.png')``, cut to a readable length. Never fails, whatever an argument's repr does.

    ``plainly``: no code of the user's runs, as it must not under a lock; of his objects only the type is named.
    """
    shown = list(itertools.islice(kwargs.items(), MAX_ARGUMENTS))
    try:
        parts = [brief(arg, plainly) for arg in args[:MAX_ARGUMENTS]]
        parts += [f"{key}={brief(value, plainly)}" for key, value in shown]
        text = ", ".join(part if len(part) <= MAX_TEXT else part[: MAX_TEXT - 3] + "..." for part in parts)
    except Exception:  # noqa: BLE001
        text = "..."
    return f"{function_name(fn)}({text})"


def brief(value: Any, plainly: bool, depth: int = 0) -> str:
    """As `repr`, but of what is large only the beginning: it shall cost little, since it is cut anyway."""
    kind = cast("Any", type(value))
    if kind in (str, bytes, bytearray):
        return repr(value[: MAX_TEXT + 1])
    if kind is int and value.bit_length() > MAX_BITS:
        return f"<int of {value.bit_length()} bits>"
    if kind in ATOMS or (kind in BRACKETS and not value):
        return repr(value)
    if kind in BRACKETS:
        return brief_elements(value, plainly, depth + 1) if depth < MAX_DEPTH else f"<{kind.__qualname__}>"
    if not plainly or kind.__module__ in HARMLESS:
        return repr(value)
    made = kind.__dict__.get("__dataclass_params__")
    if made is not None and made.repr and depth < MAX_DEPTH:  # its repr would be made of just these
        shown = [field.name for field in fields(value) if field.repr][:MAX_ELEMENTS]
        parts = [f"{name}={brief(object.__getattribute__(value, name), plainly, depth + 1)}" for name in shown]
        return f"{kind.__qualname__}({', '.join(parts)})"
    return f"<{kind.__qualname__}>"


def brief_elements(value: Any, plainly: bool, depth: int) -> str:
    """A list and the like, likewise."""
    kind = cast("Any", type(value))
    first, last = BRACKETS[kind]
    some: list[Any] = list(itertools.islice(value.items() if kind is dict else value, MAX_ELEMENTS))
    if kind is dict:
        parts = [f"{brief(key, plainly, depth)}: {brief(element, plainly, depth)}" for key, element in some]
    else:
        parts = [brief(element, plainly, depth) for element in some]
    if len(value) > MAX_ELEMENTS:
        parts.append("...")
    if kind is tuple and len(value) == 1:
        last = ",)"
    return first + ", ".join(parts) + last


def describe_task(chunk: Any, offset: int, *, plainly: bool = False) -> str:
    """A task of a chunk as a call, for messages. ``plainly``: as in :func:`describe`."""
    if type(chunk) is Call:
        return describe(chunk.fn, chunk.args, chunk.kwargs, plainly=plainly)
    if not hasattr(chunk, "items"):  # nested: its arguments are not read here
        return f"{chunk.function.name}()"
    item = chunk.items[offset]
    args = (item,)
    if chunk.job.kind == STARMAP and (not plainly or type(item) in (tuple, list)):
        with contextlib.suppress(TypeError):  # not even iterable, and that is what failed
            args = tuple(item)
    return describe(chunk.job.fn, args, {}, plainly=plainly)


def call_of(chunk: Any, index: int) -> str | None:
    """The task of a chunk that has this index in its job, as a call; None if it is not there. Without any lock."""
    try:
        return describe_task(chunk, index - chunk.start)
    except (AttributeError, LookupError):  # another thread has changed it
        return None


def annotate(error: BaseException, call: str, index: int | None, handle: Any, attempt: int) -> None:
    """Add the note that says which task of whom failed. ``handle``: the worker's, None where it never ran."""
    parts = [call]
    if index is not None:
        parts.append(f"item {index}")
    if handle is not None:
        parts.append(f"worker pid {handle.pid}" if handle.pid != os.getpid() else f"worker {handle.name}")
    parts.append(f"attempt {attempt}")
    add_note(error, "fullcourt: in " + ", ".join(parts))


def death(event: Lost, call: str, *, by_oom_killer: bool = False) -> errors.WorkerDied:
    """The error of the task that ran when its worker died. ``by_oom_killer``: the kernel's had struck since."""
    pid, exitcode, peak_bytes = event.handle.pid, event.exitcode, event.peak_bytes
    message = f"Worker pid {pid} {exit_name(exitcode)} while it ran {call}."
    if peak_bytes:
        message += f" Its peak memory was {peak_bytes / 2**20:.0f} MiB."
    if exitcode == -9 and by_oom_killer:
        message += " The kernel's out-of-memory killer did it: it has just struck. Limit what tasks take (max_memory=),"
        message += " or what all workers take together (memory_limit=)."
    elif exitcode == -9:
        message += " The kernel's out-of-memory killer does this, or somebody who sent SIGKILL."
    message += " Only this task is lost: it had started, and is not run again unasked."
    error = errors.WorkerDied(message, pid=pid or 0, exitcode=exitcode, peak_bytes=peak_bytes)
    if exitcode is not None and exitcode < 0:
        fault = cut_own_frames(read_fault(event.handle.page))
        if fault:
            error.add_note(f"fullcourt: what faulthandler wrote in worker pid {pid}:\n{fault}")
    return error


def cut_own_frames(fault: str) -> str:
    """The threads' stacks without what is below the task: the worker's loop, and the program that was forked."""
    kept: list[str] = []
    below = False
    for line in fault.rstrip().splitlines():
        below = line.startswith("  File ") and (below or OWN_FRAMES in line)
        if not below:
            kept.append(line)
    return "\n".join(kept)


def take_statistics(driver: Any, now: float) -> dict[str, Any]:
    """The fields of :class:`fullcourt.pool.PoolStatistics`, with a dictionary for each worker. Under the lock."""
    scheduler = driver.scheduler
    workers: list[dict[str, Any]] = []
    for handle in list(driver.engine.handles.values()):
        alive_s = (now - handle.started_at) * scheduler.n_slots
        worker = scheduler.workers.get(handle.id)
        held_s = handle.busy_s
        # A worker with several slots may hold less than it has slots: when it waits cannot be told from outside.
        if worker is not None and scheduler.n_slots == 1:
            held_s = max(held_s, worker.held_s + (now - worker.holding_since if worker.sent else 0.0))
        link = getattr(handle, "link", None)
        workers.append(
            {
                "pid": handle.pid,
                "name": handle.name,
                "n_done": handle.n_done,
                "busy_s": handle.busy_s,
                "waiting_s": held_s - handle.busy_s,
                "idle_s": max(0.0, alive_s - held_s),
                "bytes_in": link.bytes_out if link is not None else 0,
                "bytes_out": link.bytes_in if link is not None else 0,
            }
        )
    return {
        "n_done": driver.n_done,
        "n_failed": driver.n_failed,
        "n_in_flight": driver.n_unfinished(),
        "n_retried": driver.supervisor.n_retried,
        "n_abandoned": driver.supervisor.n_abandoned,
        "workers": workers,
        "in_tasks_s": driver.busy_of_lost_s + cast("float", sum(worker["busy_s"] for worker in workers)),
        "pickling_s": driver.pickling_s if driver.functions is not None else 0.0,
        "waiting_for_input_s": cast("float", sum(worker["idle_s"] for worker in workers)),
    }
