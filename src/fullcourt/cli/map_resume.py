"""Going on with a `fullcourt map` that was ended: which of the input's lines stand in the output already.

The output is its own journal: each of its lines holds the input that it belongs to. While both files have the same
order, as they do unless the output was written unordered or failed items were taken out of it, they are compared line
by line, in constant memory. From the first difference on, what is left of the output is kept as a table of 16-byte
digests, about 120 bytes a line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from typing import TYPE_CHECKING, BinaryIO

from fullcourt.cli.map_line import decode_item, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Finished", "ResumeError", "take_out_failures"]


class ResumeError(Exception):
    """The output of the earlier run cannot be gone on with; the text is one line for the user."""


class Finished:
    """What the earlier run has written.

    Args:
        path: its output.
        as_json: whether the lines of the input are JSON.

    Attributes:
        n_lines: how many lines there are.
        n_bytes: where the last complete one ends: a killed run may have left a part of one behind it.

    Raises:
        OSError: it cannot be read. There being none is no error: nothing is finished then.
        ResumeError: a line of it is not what `fullcourt map` writes.
    """

    def __init__(self, path: str, *, as_json: bool) -> None:
        self._as_json = as_json
        self.n_lines = 0
        self.n_bytes = 0
        self._rest: Counter[bytes] | None = None
        self._file: BinaryIO | None = None
        with contextlib.suppress(FileNotFoundError):
            self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
        if self._file is None:
            return
        try:
            for line, _ in read_lines(self._file, path):
                self.n_lines += 1
                self.n_bytes += len(line)
            self._file.seek(0)
        except BaseException:
            self._file.close()
            raise
        self._keys = self._read_keys()
        self._next = next(self._keys, None)

    def _read_keys(self) -> Iterator[bytes]:
        assert self._file is not None
        for _ in range(self.n_lines):
            yield key(json.loads(self._file.readline())["input"])

    def take(self, line: bytes) -> bool:
        """Whether a line of the input is finished. Each line of the output counts once."""
        if self._rest is None:
            if self.n_lines == 0 or self._next is None:
                return False
            wanted = self.key_of(line)
            if wanted == self._next:
                self._next = next(self._keys, None)
                return True
            self._rest = Counter([self._next, *self._keys])
        else:
            wanted = self.key_of(line)
        left = self._rest.get(wanted, 0)
        if left > 1:
            self._rest[wanted] = left - 1
        elif left:
            del self._rest[wanted]
        return left > 0

    def key_of(self, line: bytes) -> bytes:
        """The key under which the output has a line of the input."""
        try:
            return key(decode_item(line, as_json=self._as_json))
        except (ValueError, RecursionError):
            return key(shown(line))

    def n_left(self) -> int:
        """How many lines of the output belong to no line of the input that was asked for so far."""
        if self._rest is not None:
            return self._rest.total()
        return 0 if not self.n_lines or self._next is None else 1 + sum(1 for _ in self._keys)

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            self._file.close()


def key(value: object) -> bytes:
    """What stands for an input: a digest of it as JSON."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def take_out_failures(path: str) -> None:
    """Write an output anew without the lines of failed items, at once: a kill leaves the old or the new file.

    Raises:
        OSError: it cannot be read or written.
        ResumeError: as for :class:`Finished`.
    """
    part = f"{path}.part"
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as old:
        try:
            with open(part, "wb") as new:
                new.writelines(line for line, failed in read_lines(old, path) if not failed)
                new.flush()
                os.fsync(new.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise


def read_lines(file: BinaryIO, path: str) -> Iterator[tuple[bytes, bool]]:
    """Yield each complete line of an output, and whether it tells of a failure."""
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            return
        try:
            found = json.loads(line)
            failed = "error" in found
            good = "input" in found and (failed or "result" in found)
        except (ValueError, TypeError, RecursionError):
            good = failed = False
        if not good:
            raise ResumeError(
                f"line {number} of {path} is not what `fullcourt map` writes, so it cannot be gone on with; "
                "nothing was changed. Name another file, or leave --resume out to write it anew"
            )
        yield line, failed
