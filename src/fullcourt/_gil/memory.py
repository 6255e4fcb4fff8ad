"""Reading the memory of a running process, without stopping it. For the sampler: imports little."""

from __future__ import annotations

import os

__all__ = ["Mapping", "Memory", "Region", "mappings", "python_mappings"]


class Region:
    """A stretch of a process's addresses."""

    __slots__ = ("end", "offset", "path", "rights", "start")

    def __init__(self, start: int, end: int, rights: str, offset: int, path: str) -> None:
        self.start = start
        self.end = end
        self.rights = rights
        self.offset = offset
        self.path = path


class Mapping:
    """One file, as it is mapped into a process: where it begins, and its writable parts."""

    __slots__ = ("base", "path", "writable")

    def __init__(self, path: str, base: int) -> None:
        self.path = path
        self.base = base
        self.writable: list[tuple[int, int]] = []


class Memory:
    """A process's memory, to be read at any address.

    The descriptor stays with the memory it was opened for: after an `exec` all reads fail.

    Raises:
        OSError: the process is gone, or this user may not look into it.
    """

    __slots__ = ("_file", "pid")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._file = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, address: int, size: int) -> bytes:
        """Some bytes; fewer, or none, where nothing is mapped or the process has ended."""
        try:
            return os.pread(self._file, size, address)
        except (OSError, OverflowError):
            return b""

    def word(self, address: int) -> int:
        """An unsigned 64-bit number; 0 where nothing can be read."""
        return int.from_bytes(self.read(address, 8), "little")

    def is_gone(self) -> bool:
        """Whether the process has replaced it by an `exec`, or has ended.

        Nothing is mapped at address 0: Linux reports an error where there is a memory, and the end of the file where
        there is none any more.
        """
        try:
            return os.pread(self._file, 1, 0) == b""
        except OSError:
            return False

    def close(self) -> None:
        """Give the descriptor back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def mappings(pid: int) -> list[Region]:
    """All that is mapped in a process; empty where that may not be seen."""
    found: list[Region] = []
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(None, 5)
                start, _, end = fields[0].partition("-")
                path = fields[5].rstrip("\n") if len(fields) > 5 else ""
                found.append(Region(int(start, 16), int(end, 16), fields[1], int(fields[2], 16), path))
    except (OSError, ValueError):
        return []
    return found


def python_mappings(regions: list[Region], executable: str) -> list[Mapping]:
    """The files that can hold a Python runtime: a libpython first, then the executable itself."""
    by_path: dict[str, Mapping] = {}
    before: Mapping | None = None
    for region in regions:
        path = region.path.removesuffix(" (deleted)")
        if not path and before is not None and before.writable and before.writable[-1][1] == region.start:
            before.writable[-1] = (before.writable[-1][0], region.end)  # what the file leaves uninitialized (.bss)
            continue
        if not path.startswith("/"):
            before = None
            continue
        mapping = by_path.get(path)
        if mapping is None:
            mapping = by_path[path] = Mapping(path, region.start - region.offset)
        if region.rights.startswith("rw"):
            mapping.writable.append((region.start, region.end))
            before = mapping
        else:
            before = None
    wanted = [m for p, m in by_path.items() if p == executable or os.path.basename(p).startswith("libpython")]
    return sorted(wanted, key=lambda mapping: ("lib" not in os.path.basename(mapping.path), mapping.path))
