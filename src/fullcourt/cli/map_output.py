"""Where `fullcourt map` writes: the file or stdout, flushed within a tenth of a second, and nobody else's."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import RawIOBase
    from types import TracebackType
    from typing import Self

__all__ = ["Output", "OutputError", "standard_streams_for_us"]

_FLUSH_WITHIN_S = 0.1


class OutputError(Exception):
    """The output cannot be written.

    Attributes:
        name: What it is called.
        cause: What the system said.
    """

    def __init__(self, name: str, cause: OSError) -> None:
        super().__init__(f"cannot write {name}: {cause}")
        self.name = name
        self.cause = cause


class Output:
    """A file that is written in large blocks, yet never keeps a line back for longer than a tenth of a second.

    To flush after each line would cost a system call for each; not to would keep a finished line from its reader for
    as long as the next item takes. So a thread flushes, a little after the first line that is not flushed. It waits on
    an event, not in a loop.

    `write`, `flush` and `close` are for one thread. The file's own lock protects its buffer from the flusher.
    """

    def __init__(self, file: BinaryIO, name: str, *, owned: bool) -> None:
        self._file = file
        self._name = name
        self._owned = owned
        self._dirty = False
        self._error: OSError | None = None
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._flusher: threading.Thread | None = None

    @classmethod
    def open(cls, path: str | None, stdout: BinaryIO, source: RawIOBase, *, keep: int | None = None) -> Output:
        """Open the file, or take stdout; refuse the file that is being read.

        `keep`: go on behind so many bytes of what the file has.

        Raises:
            OutputError: It cannot be opened for writing.
        """
        if path is None:
            return cls(stdout, "stdout", owned=False)
        try:
            if (
                os.path.exists(path)
                and os.path.samestat(os.stat(path), os.fstat(source.fileno()))
                and os.path.isfile(path)
            ):
                raise OSError(22, "it is the input")
            file = open(path, "wb" if keep is None else "ab")  # noqa: SIM115 - closed by `__exit__`
            if keep is not None:
                file.truncate(keep)
            return cls(file, path, owned=True)
        except OSError as error:
            raise OutputError(path, error) from None

    def is_terminal(self) -> bool:
        """Whether people see it as it comes."""
        return self._file.isatty()

    def write(self, line: bytes) -> None:
        """Write one line; it is flushed soon.

        Raises:
            OutputError: This line or one before it could not be written.
        """
        if self._error is not None:
            raise OutputError(self._name, self._error)
        try:
            self._file.write(line)
        except OSError as error:
            raise OutputError(self._name, error) from None
        if not self._dirty:
            # Steps that could race: the flusher clears _dirty (1), then flushes (2). A line written before 2 is
            # flushed with it; one written after 1 sees _dirty clear and wakes the flusher again. So each line is
            # followed by a flush.
            self._dirty = True
            if self._flusher is None:
                self._flusher = threading.Thread(target=self._flush_when_dirty, name="fullcourt-map-flush", daemon=True)
                self._flusher.start()
            self._wake.set()

    def flush(self) -> None:
        """Write out everything.

        Raises:
            OutputError: It could not be written.
        """
        if self._error is not None:
            raise OutputError(self._name, self._error)
        try:
            self._file.flush()
        except OSError as error:
            raise OutputError(self._name, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush what was finished, also after an error; one in here does not hide that one."""
        self._stopping.set()
        self._wake.set()
        if self._flusher is not None:
            self._flusher.join()
        try:
            self.flush()
        except OutputError:
            if error is None:
                raise
        finally:
            if self._owned:
                with contextlib.suppress(OSError):  # flushed above: what cannot be written was told
                    self._file.close()

    def _flush_when_dirty(self) -> None:
        while True:
            self._wake.wait()
            if self._stopping.wait(_FLUSH_WITHIN_S):
                return
            self._wake.clear()
            self._dirty = False
            try:
                self._file.flush()
            except (OSError, ValueError) as error:
                self._error = error if isinstance(error, OSError) else OSError(str(error))
                return


@contextlib.contextmanager
def standard_streams_for_us(*, take_output: bool) -> Iterator[tuple[RawIOBase, BinaryIO]]:
    """Yield stdin (without a buffer) and stdout as files of our own.

    The user's function gets `/dev/null` and stderr in their places.

    A function that prints would put its words between the lines of JSON, and one that reads would eat input. The
    numbers 0 and 1 themselves are moved, so this holds for workers and for C code too.

    Raises:
        OutputError: stdout is to be taken, and is closed.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    if take_output and sys.__stdout__ is None:  # the number 1 itself may be another file's by now
        raise OutputError("stdout", OSError(errno.EBADF, "it is closed"))
    stdin = open(_duplicate(0), "rb", buffering=0)  # noqa: SIM115 - closed below
    stdout = open(_duplicate(1), "wb")  # noqa: SIM115
    null = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(null, 0)
        if take_output:
            os.dup2(2, 1) if _is_open(2) else os.dup2(null, 1)
        yield stdin, stdout
    finally:
        if sys.stdout is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
        os.dup2(stdin.fileno(), 0)
        os.dup2(stdout.fileno(), 1)
        os.close(null)
        stdin.close()
        with contextlib.suppress(OSError):  # about bytes that could not be written: it was told
            stdout.close()


def _duplicate(number: int) -> int:
    try:
        return os.dup(number)
    except OSError:  # started with `<&-` or `>&-`
        return os.open(os.devnull, os.O_RDWR)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
