"""The sampler's process: `python -S -E -c ... PID RATE CHILDREN IGNORED ...`. Imports little.

It speaks over its standard streams. A byte comes in, an answer goes out, an 8-byte length and a marshalled object:

    G   begin; answered when the first sample is taken
    S   how things stand: the recording so far
    R   the same, and begin anew
    I   and a process's number, 8 bytes: it is ignored from now on, with what was seen of it
    Q   end; so do end of file, and the death of the one who asked

It says nothing by itself, so that nobody has to listen.
"""

from __future__ import annotations

import gc
import marshal
import os
import select
import sys
from functools import partial

from fullcourt._gil.sampler import Sampler
from fullcourt._os.system import wake_promptly

ORPHANED_S = 0.5  # with nothing left to watch, it looks so often whether somebody can still ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["main"]


def main(arguments: list[str]) -> None:
    """Sample until standard input ends, or nobody reads the answers any more."""
    try:
        serve(arguments)
    except BrokenPipeError:
        os._exit(0)  # whoever asked was interrupted; Python would tell of standard output, too


def serve(arguments: list[str]) -> None:
    wake_promptly()
    if os.read(0, 1) != b"G":
        return
    pid, rate_hz, children, *others = arguments
    ignored = {os.getpid(), *map(int, others)}
    begin = partial(Sampler, int(pid), rate_hz=float(rate_hz), children=children == "1", ignore=ignored)
    gc.disable()  # a collection would be a late sample, and what cycles there are end with the process
    sampler = begin()
    alive = sampler.look()
    answer(True)
    parent = os.getppid()
    while os.getppid() == parent:
        # `select` waits for so many microseconds; `poll` and `epoll` for whole milliseconds, which are a period
        if select.select((0,), (), (), max(0.0, sampler.pause_s()) if alive else ORPHANED_S)[0]:
            command = os.read(0, 1)
            if command == b"I":
                number = int.from_bytes(os.read(0, 8), "little")
                ignored.add(number)
                sampler.forget(number)
                answer(True)
                continue
            if command not in (b"S", b"R"):
                return
            if alive:
                alive = sampler.look()
            answer(sampler.recording())
            if command == b"R":
                sampler.close()
                sampler = begin()
                alive = sampler.look()
        elif alive:
            alive = sampler.look()


def answer(value: Any) -> None:
    data = marshal.dumps(value)
    data = len(data).to_bytes(8, "little") + data
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main(sys.argv[1:])
