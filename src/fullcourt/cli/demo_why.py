"""One sentence for each run of `fullcourt demo`: why it took as long as it did.

A pure function of what was measured. It claims no more than the numbers carry: that threads waited for the GIL is said
only where a job kept the CPU busy when it ran alone, and many slots together got no further than their GILs allow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fullcourt.cli.demo_run import Job, Run

__all__ = ["explain"]

# Shares of measured numbers that are within what a busy machine blurs.
_NEARLY: Final = 0.85
_CLEARLY_ABOVE: Final = 1.15
# With fewer free cores for each GIL, a job that is held up by its GIL looks like one that is held up by the machine.
_TELLING: Final = 1.3
_OTHERS_WORTH_TELLING: Final = 0.25


def explain(job: Job, run: Run, n_cores: int) -> str:
    """Return why `run` took as long as it did, in one sentence.

    Args:
        job: The job, whose first run is the serial one.
        run: One of its runs.
        n_cores: Cores that could be used.
    """
    if run.error:
        return f"It could not run: {run.error}."
    serial = job.runs[0]
    waits = serial.cores_busy < 0.5
    if run is serial:
        main = _serial(run, n_cores, waits=waits)
    elif waits:
        main = _waiting(run)
    else:
        main = _computing(run, n_cores)
        dearer = run.cpu_s / serial.cpu_s if serial.cpu_s else 1.0
        if dearer > _CLEARLY_ABOVE:
            main += f", and a file cost {dearer:.1f} times the CPU time that it costs alone"
    if run.others is not None and run.others > _OTHERS_WORTH_TELLING:
        main += f"; other programs took {run.others:.1f} cores meanwhile"
    return main + "."


def _serial(run: Run, n_cores: int, *, waits: bool) -> str:
    if waits:
        share = 100 * (1 - run.cores_busy)
        return f"One reply was awaited at a time: {share:.0f} % of the time no core worked"
    idle = "" if n_cores == 1 else f", the other {'one' if n_cores == 2 else n_cores - 1} stood idle"
    return f"One core worked{idle}"


def _waiting(run: Run) -> str:
    awaited = f"{_whole(run.slots_busy)} of {run.way.n_slots} slots had a request under way on average"
    if run.way.n_gils and run.cores_busy > _NEARLY * run.way.n_gils:
        limit = f"until {_gils(run.way.n_gils)} became the limit"
        return f"{awaited}, {limit}: the client's own Python code kept {run.cores_busy:.1f} cores busy"
    if run.way.n_slots > run.way.n_gils and run.way.n_gils:
        return f"{awaited}: who waits for a socket holds no GIL; {run.cores_busy:.1f} cores worked"
    return f"{awaited}: no more could be awaited at once, and only {run.cores_busy:.1f} cores worked"


def _computing(run: Run, n_cores: int) -> str:
    busy = f"{run.cores_busy:.1f} of {n_cores} core{'' if n_cores == 1 else 's'} worked"
    gils = run.way.n_gils
    if not gils:
        return f"There is no GIL to wait for: {busy}"
    if run.cores_busy > _CLEARLY_ABOVE * gils:
        return f"The native code releases {_gils(gils)} while it works: {busy}"
    free = n_cores - (run.others or 0.0)
    if gils < n_cores and free < _TELLING * gils:
        return f"Other programs left only {free:.1f} cores, too little to tell whether the GIL held it back: {busy}"
    if gils < n_cores and run.cores_busy > 0.7 * gils:
        waiting = run.slots_busy - run.cores_busy
        return f"One thread at a time held the GIL and some {_whole(waiting)} waited for it: {busy}"
    mine = f"{gils} {'interpreters' if 'interpreters' in run.way.pool else 'processes'} have a GIL each: {busy}"
    if run.way.n_slots > gils:
        mine += f", and the {run.way.n_slots - gils} other slots could only queue for a GIL or a core"
    idle = min(n_cores, run.way.n_slots) - run.cores_busy
    if idle > 0.3 * n_cores and not (run.others and run.others > _OTHERS_WORTH_TELLING):
        mine += f"; {idle:.1f} cores stood idle while work was handed over"
    return mine


def _gils(n_gils: int) -> str:
    return "the GIL" if n_gils == 1 else f"the {n_gils} GILs"


def _whole(number: float) -> str:
    return f"{number:.0f}" if number >= 1.95 else f"{number:.1f}"
