"""What is said of tasks: the note on an exception, the message of a death; and the pool's statistics."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

from fullcourt._engines.jobs import STARMAP, Call
from fullcourt._engines.linked import Lost
from fullcourt._transport.functions import function_name
from fullcourt._transport.journal import read_fault
from fullcourt.errors import WorkerDied, exit_name

__all__ = ["annotate", "death", "describe", "describe_task", "take_statistics"]

MAX_TEXT = 80  # characters of one argument's repr
OWN_FRAMES = os.path.join("fullcourt", "_engines", "worker.py")


def describe(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """``resize('img_0042.png')``, cut to a readable length. Never fails, whatever an argument's repr does."""
    try:
        parts = [repr(arg) for arg in args[:6]] + [f"{key}={value!r}" for key, value in list(kwargs.items())[:6]]
        text = ", ".join(part if len(part) <= MAX_TEXT else part[: MAX_TEXT - 3] + "..." for part in parts)
    except Exception:  # noqa: BLE001
        text = "..."
    return f"{function_name(fn)}({text})"


def describe_task(chunk: Any, offset: int) -> str:
    """A task of a chunk as a call, for messages."""
    if type(chunk) is Call:
        return describe(chunk.fn, chunk.args, chunk.kwargs)
    item = chunk.items[offset]
    if chunk.job.kind != STARMAP:
        return describe(chunk.job.fn, (item,), {})
    try:
        return describe(chunk.job.fn, tuple(item), {})
    except TypeError:  # not even iterable, and that is what failed
        return describe(chunk.job.fn, (item,), {})


def annotate(error: BaseException, call: str, index: int | None, handle: Any, attempt: int) -> None:
    """Add the note that says which task of whom failed. ``handle``: the worker's, None where it never ran."""
    parts = [call]
    if index is not None:
        parts.append(f"item {index}")
    if handle is not None:
        parts.append(f"worker pid {handle.pid}" if handle.pid != os.getpid() else f"worker {handle.name}")
    parts.append(f"attempt {attempt}")
    try:
        error.add_note("fullcourt: in " + ", ".join(parts))
    except Exception:  # noqa: BLE001  an exception class may forbid new attributes; it is still the user's
        return


def death(event: Lost, call: str, *, by_oom_killer: bool = False) -> WorkerDied:
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
    error = WorkerDied(message, pid=pid or 0, exitcode=exitcode, peak_bytes=peak_bytes)
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
