"""What the tests of forwarded output stand on: pools of every kind that has workers of its own, streams, handlers."""

from __future__ import annotations

import io
import logging
import multiprocessing
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS: dict[str, dict[str, Any]] = {
    method: {"processes": 2, "start_method": method} for method in multiprocessing.get_all_start_methods()
}
if "fork" in KINDS:
    KINDS["fork-x-threads"] = {"processes": 2, "threads": 2, "start_method": "fork"}
KINDS["portable"] = {"processes": 2}
if sys.version_info >= (3, 14):
    KINDS["interpreters"] = {"interpreters": 2}

# Where one kind is enough: one whose workers share the program's memory, if there is one, and one whose do not.
FEW = ["fork", "spawn"] if "fork" in KINDS else ["spawn"]


class Stream(io.StringIO):
    """A stream that tells when a text has been written to it, and can be made to wait or to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()
        self.may_write = threading.Event()
        self.may_write.set()
        self.on_write: Callable[[str], object] | None = None
        self.n_flushes = 0

    def write(self, text: str) -> int:
        self.may_write.wait()
        if self.on_write is not None:
            self.on_write(text)
        with self.changed:
            self.changed.notify_all()
            return super().write(text)

    def flush(self) -> None:
        self.n_flushes += 1

    def wait_for(self, text: str) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: text in self.getvalue(), 30), self.getvalue()


class Records(logging.Handler):
    """Keeps the records that it handles, formatted too."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.texts.append(self.format(record))
