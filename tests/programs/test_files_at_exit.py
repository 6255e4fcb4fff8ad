"""What a program has written into its files is there after it, also where a pool was left open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.programs.running import Program

PROGRAM = """
import sys
import fullcourt

def f(x):
    return x

def initialize():
    pass

if __name__ == "__main__":
    out = open(sys.argv[1], "w")  # not closed
    kind, use = sys.argv[2:]
    initializer = initialize if use == "initialized" else None
    if kind == "auto":
        pool = fullcourt.Pool(mode="auto", initializer=initializer)
    elif kind == "threads":
        pool = fullcourt.Pool(threads=2, initializer=initializer)
    else:
        pool = fullcourt.Pool(2, start_method=kind, initializer=initializer)
    if use != "unused":
        assert pool.map(f, range(3)) == [0, 1, 2]
        assert pool.submit(f, 3).result() == 3
        assert list(pool.imap(lambda x: x, iter([4]))) == [4]
    if use == "closed":
        pool.close()
    out.write("important")
"""


@pytest.mark.parametrize("use", ["unused", "used", "closed", "initialized"])
@pytest.mark.parametrize("kind", ["fork", "forkserver", "spawn", "threads", "auto"])
def test_files_of_the_program_are_written_when_it_ends_with_a_pool_open(program: Program, kind: str, use: str) -> None:
    program.write("program.py", PROGRAM)
    program.start("program.py", "written.txt", kind, use)
    assert (program.wait(), program.stderr()) == (0, "")
    assert (program.folder / "written.txt").read_text(encoding="utf-8") == "important"
