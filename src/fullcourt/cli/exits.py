"""The exit statuses of the command, and their table for `--help`."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CLOSED_PIPE",
    "DIFFERENT",
    "FAILED_ITEMS",
    "INPUT_OUTPUT",
    "INTERRUPTED",
    "OK",
    "POOL",
    "TABLE",
    "TERMINATED",
    "USAGE",
]

OK: Final = 0
FAILED_ITEMS: Final = 1
DIFFERENT: Final = 1
USAGE: Final = 2
INPUT_OUTPUT: Final = 3
POOL: Final = 4
# 128 and the number of the signal, as a shell reports it.
INTERRUPTED: Final = 130
CLOSED_PIPE: Final = 141
TERMINATED: Final = 143

TABLE: Final = """\
exit status:
  0    all went well
  1    some items failed: the function raised, the line is not JSON, the result is not JSON, a worker died;
       the job went on, the errors are in the output, and stderr says how many (demo: a result differed)
  2    wrong usage: unknown option, no such module or function
  3    the input cannot be read or the output cannot be written
  4    the pool could not start or broke
  130  Ctrl-C (SIGINT)       143  SIGTERM
  141  the reader of the output went away (as `| head` does)
  In each case what was finished is written. One line on stderr says what happened.
"""
