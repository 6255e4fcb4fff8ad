"""Cases: a worker dies."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.torture import work
from benchmarks.torture.casebook import Opener, cases_of, check_healthy, must, name, one_bad_among_good, still_works

case = cases_of("A worker dies")


def must_tell_of_death(error: BaseException) -> None:
    must(isinstance(error, Exception), f"it raised {name(error)}")


@case("SIGKILL in a task")
def killed(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.die_by_sigkill))


@case("segmentation fault in a task")
def segfault(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.die_by_segfault))


@case("abort() in a task")
def aborted(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.die_by_abort))


@case("os._exit() in a task")
def exited(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.die_by_exit))


@case("SIGKILL of all workers while they are idle")
def killed_when_idle(opener: Opener) -> None:
    with opener() as pool:
        pids = {o[1] for o in pool.batch([(work.pid,)] * 6)}
        for process in pids:
            os.kill(process, signal.SIGKILL)
        check_healthy(pool.batch([(work.square, x) for x in range(20)]), [x * x for x in range(20)])


@case("SIGKILL in item 500 of a map of 1,000 tiny ones")
def killed_in_map(opener: Opener) -> None:
    with opener() as pool:
        outcomes = pool.map_of_tiny(work.die_at_500, 1000)
        must(not outcomes[500][0], "the item that died gave a result")
        del outcomes[500]
        check_healthy(outcomes, [x * x for x in range(1000) if x != 500])
        still_works(pool)


@case("ten deaths, one after the other")
def killed_ten_times(opener: Opener) -> None:
    with opener() as pool:
        outcomes = pool.batch([(work.die_by_sigkill,), (work.square, 3)] * 10)
        must(not any(o[0] for o in outcomes[::2]), "a dead task gave a result")
        check_healthy(outcomes[1::2], [9] * 10)
        still_works(pool)


@case("an argument that kills who reads it")
def killed_by_argument(opener: Opener) -> None:
    must_tell_of_death(one_bad_among_good(opener, work.length, work.KillsWhenLoaded()))


@case("a task closes all files of its worker")
def closed_files(opener: Opener) -> None:
    with opener() as pool:
        pool.run(work.tiny, 1)
        calls: list[Any] = [(work.square, x) for x in range(20)]
        calls.insert(7, (work.close_all_files,))
        outcomes = pool.batch(calls)
        outcomes.pop(7)
        check_healthy(outcomes, [x * x for x in range(20)])
        still_works(pool)


@case("a task forks, and the child goes on as the worker")
def forked_worker(opener: Opener) -> None:
    with opener() as pool:
        calls: list[Any] = [(work.square, x) for x in range(20)]
        calls.insert(7, (work.fork_and_return,))
        outcomes = pool.batch(calls)
        outcomes.pop(7)
        check_healthy(outcomes, [x * x for x in range(20)])
        still_works(pool)


@case("after deaths no zombie is left")
def zombies(opener: Opener) -> None:
    with opener() as pool:
        for _ in range(3):
            with suppress(Exception):
                pool.run(work.die_by_exit)
        with suppress(Exception):
            still_works(pool)
        time.sleep(0.2)
        found = [line for line in children_of(os.getpid()) if line[1] == "Z"]
        must(not found, f"{len(found)} zombies")


def children_of(parent: int) -> list[tuple[int, str]]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append((int(entry), fields[0]))
    return found
