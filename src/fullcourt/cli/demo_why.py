"""One sentence for each run of `fullcourt demo`: why it took as long as it did.

A pure function of what was measured. Each task's time is split exactly, by the kernel's own counters, into three: on a
core, ready but without a core, and blocked. How much of the blocked time was a wait for the GIL is measured
(`pool.observe`); where that could not be, a job that does not block when it is alone is taken to wait for the GIL when
it is blocked beside others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fullcourt.cli.demo_run import Job, Run

__all__ = ["explain"]

# Within what a busy machine blurs, two numbers are equal.
_CLEARLY_ABOVE: Final = 1.15
_NEARLY: Final = 0.85
_WORTH_TELLING: Final = 0.25


def explain(job: Job, run: Run, n_cores: int) -> str:
    """Return why `run` took as long as it did, in one sentence.

    Args:
        job: The job, whose first run is the serial one.
        run: One of its runs.
        n_cores: Cores that could be used.
    """
    if run.error:
        return f"It could not run: {run.error.rstrip('.')}."
    serial = job.runs[0]
    waits = serial.slots_blocked > 0.5 * serial.slots_busy
    if run is serial:
        main = _serial(run, n_cores, waits=waits)
    elif waits:
        main = _waiting(run)
    else:
        main = _computing(run, n_cores)
        dearer = run.cpu_s / serial.cpu_s if serial.cpu_s else 1.0
        if dearer > _CLEARLY_ABOVE:
            main += f"; a file cost {dearer:.1f} times the CPU time that it costs alone"
    if run.others is not None and run.others > _WORTH_TELLING:
        main += f"; other programs took {run.others:.1f} cores meanwhile"
    return main + "."


def _serial(run: Run, n_cores: int, *, waits: bool) -> str:
    if waits:
        return f"One reply was awaited at a time: {100 * run.slots_blocked:.0f} % of the time went by in waiting for it"
    if run.others is not None and run.others > n_cores - _NEARLY:
        return f"One thread works, on a core that it shares: {run.cores_busy:.1f} of {_cores(n_cores)} worked for it"
    idle = "" if n_cores == 1 else f", the other {'one' if n_cores == 2 else n_cores - 1} stood idle"
    return f"One core worked{idle}"


def _waiting(run: Run) -> str:
    awaited = f"{_whole(run.slots_busy)} of {run.way.n_slots} slots had a request under way on average"
    gils = run.way.n_gils
    if gils and run.cores_busy > _NEARLY * gils:
        limit = f"until {_gils(gils)} became the limit"
        return f"{awaited}, {limit}: the client's own Python code kept {run.cores_busy:.1f} cores busy"
    if "threads" in run.way.pool:
        free = "who waits for a socket holds no GIL" if gils else "who waits for a socket needs no core"
        return f"{awaited}: {free}; {run.cores_busy:.1f} cores worked"
    return f"{awaited}: no more could be awaited at once, and only {run.cores_busy:.1f} cores worked"


def _computing(run: Run, n_cores: int) -> str:
    gils = run.way.n_gils
    busy = f"{run.cores_busy:.1f} of {_cores(n_cores)} worked"
    blocked, queued = run.slots_blocked, run.slots_queued or 0.0
    if not gils:
        head = "There is no GIL to wait for"
    elif run.cores_busy > _CLEARLY_ABOVE * gils:
        head = f"The native code releases {_gils(gils)} while it works"
    elif gils > 1:
        head = f"{gils} {'interpreters' if 'interpreters' in run.way.pool else 'processes'} have a GIL each"
    elif (run.slots_waiting_for_gil or blocked) >= queued:
        head = "One thread at a time can hold the GIL"
    else:
        head = "There was no free core for a second thread"
    return f"{head}: {busy}{_waited(run, blocked, queued)}"


def _waited(run: Run, blocked: float, queued: float) -> str:
    """Say how many slots waited, and for what, where that is worth it."""
    for_what = "the GIL" if run.way.n_gils == 1 else "their GIL" if run.way.n_gils else "a lock"
    if run.queued_s is None:
        for_what += " or a core"
    parts: list[str] = []
    measured = run.slots_waiting_for_gil if run.way.n_gils else None
    if measured is not None:
        blocked = measured
    if blocked > _WORTH_TELLING:
        parts.append(f"{_whole(blocked)} of {run.way.n_slots} slots waited for {for_what}")
    if queued > _WORTH_TELLING:
        parts.append(f"{_whole(queued)}{'' if parts else f' of {run.way.n_slots} slots waited'} for a core")
    return f", {' and '.join(parts)}" if parts else ""


def _gils(n_gils: int) -> str:
    return "the GIL" if n_gils == 1 else f"the {n_gils} GILs"


def _cores(n_cores: int) -> str:
    return f"{n_cores} core{'' if n_cores == 1 else 's'}"


def _whole(number: float) -> str:
    return f"{number:.0f}" if number >= 1.95 else f"{number:.1f}"
