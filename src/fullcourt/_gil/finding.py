"""Where a Python process keeps its GILs. For the sampler: imports little.

How it is found, without stopping the process and without tables of addresses:

1. `_PyRuntime` is a symbol that every build exports, because extension modules need it: the dynamic symbol table of the
   ELF file says where it lies, `/proc/PID/maps` where that file is.
2. From Python 3.13 on it begins with `_Py_DebugOffsets`, made for debuggers: it leads to the interpreters, and from
   each to its GIL.
3. On 3.11 and 3.12 the GIL lies in `_PyRuntime` itself, and is found by its looks: {switch interval in microseconds,
   pointer to the state of the thread that held it last, 0 or 1, number of switches}, where that thread state names a
   thread of the process; on 3.12 the interpreter points to it. In our own process, changing the switch interval
   confirms it (see `confirm`).

A GIL (``struct _gil_runtime_state``, pycore_gil.h) is, from the interval on: interval, last_holder, locked (an int),
switch_number, and then the condition variables and mutexes that threads wait at. Its fields kept their order from 3.11
to 3.15.
"""

from __future__ import annotations

import os
import struct
import sys

from fullcourt._gil.elf import find_symbol
from fullcourt._gil.memory import Memory, mappings, python_mappings

__all__ = ["GIL_BYTES", "HOLDER_BYTES", "Gil", "Runtime", "confirm", "find_runtime", "runtime_at"]

COOKIE = b"xdebugpy"
MAX_INTERPRETERS = 64
MAX_THREADS = 4096
NEWEST = 15  # the last minor version whose debug offsets are known here

# From the interval: two condition variables and two mutexes of pthread, 48 + 40 bytes on x86-64 and 48 + 48 on aarch64.
HOLDER_BYTES = 32  # interval, holder, locked and padding, number of switches
GIL_BYTES = 32 + 2 * (48 + 48)

# Which 64-bit word of `_Py_DebugOffsets` (pycore_debug_offsets.h; in 3.13 in pycore_runtime.h) holds which offset.
# Names: interpreters' head in the runtime; next and first thread in an interpreter; the pointer to the GIL; the GIL's
# beginning and holder in an interpreter; next and native thread id in a thread state.
WORDS = {
    13: {"head": 5, "next": 8, "threads": 9, "gil": 14, "begin": 15, "holder": 18, "t_next": 21, "t_native": 25},
    14: {"head": 5, "next": 8, "threads": 9, "gil": 15, "begin": 16, "holder": 19, "t_next": 24, "t_native": 28},
    15: {"head": 5, "next": 8, "threads": 9, "gil": 15, "begin": 16, "holder": 19, "t_next": 24, "t_native": 31},
}
NATIVE_ID = {11: 160, 12: 144}  # of a thread state (cpython/pystate.h), where pointers have 8 bytes
T_NEXT, T_INTERPRETER = 8, 16
NEAR = 512  # words: on 3.11 the GIL stands near the beginning of the runtime


class Gil:
    """One GIL: the address of its switch interval, from which all is counted, and of its `enabled` (0: always on)."""

    __slots__ = ("address", "enabled_at", "interpreter")

    def __init__(self, address: int, enabled_at: int, interpreter: int) -> None:
        self.address = address
        self.enabled_at = enabled_at
        self.interpreter = interpreter

    def __repr__(self) -> str:
        return f"Gil(0x{self.address:x})"


class Runtime:
    """The Python in a process.

    Attributes:
        minor: 11 to 15, of Python 3.
        free_threaded: whether it was built to run without a GIL.
        address: of `_PyRuntime`.
        gils: its GILs, the main interpreter's first.
        native_at: where in a thread state the thread's number is.
    """

    __slots__ = ("_offsets", "address", "free_threaded", "gils", "memory", "minor", "native_at")

    def __init__(self, memory: Memory, address: int, minor: int, offsets: dict[str, int], free_threaded: bool) -> None:
        self.memory = memory
        self.address = address
        self.minor = minor
        self.free_threaded = free_threaded
        self._offsets = offsets
        self.native_at = offsets["t_native"]
        self.gils: list[Gil] = []

    def look_again(self) -> None:
        """Find interpreters that were made or ended since. Before 3.13 only the main one is known."""
        if "head" not in self._offsets:
            return
        offsets, memory = self._offsets, self.memory
        interpreter = memory.word(self.address + offsets["head"])
        found: list[Gil] = []
        seen: set[int] = set()
        for _ in range(MAX_INTERPRETERS):
            if not interpreter:
                break
            begin = memory.word(interpreter + offsets["gil"])
            if begin and begin not in seen:  # several interpreters may share the main one's
                seen.add(begin)
                address = begin + offsets["holder"] - offsets["begin"] - 8
                found.append(Gil(address, begin if self.free_threaded else 0, interpreter))
            interpreter = memory.word(interpreter + offsets["next"])
        # The list has the newest first.
        self.gils = found[::-1]

    def owner(self, state: int) -> int:
        """The number of the thread that a thread state belongs to; 0 if that cannot be read."""
        return self.memory.word(state + self.native_at)

    def python_threads(self) -> set[int]:
        """The numbers of the threads that have a thread state: those that run Python. Empty if that is not known."""
        offsets, memory = self._offsets, self.memory
        found: set[int] = set()
        for gil in self.gils:
            if "threads" in offsets:
                state = memory.word(gil.interpreter + offsets["threads"])
            else:
                state = memory.word(gil.address + 8)
                for _ in range(MAX_THREADS):  # the list changes meanwhile, and may seem to be a ring
                    previous = memory.word(state)
                    if not previous:
                        break
                    state = previous
                    if memory.word(state + T_NEXT) == 0:
                        break
            for _ in range(MAX_THREADS):
                if not state:
                    break
                found.add(self.owner(state))
                state = memory.word(state + offsets["t_next"])
        found.discard(0)
        return found


def find_runtime(memory: Memory, tids: set[int]) -> Runtime | None:
    """Find the Python in a process.

    Args:
        memory: the process's.
        tids: the numbers of its threads, as the process itself sees them.

    Returns:
        None where there is none, or none that is known here (before 3.11, after 3.15), or where it was not to be told
        from other data: trying again later may succeed.
    """
    pid = memory.pid
    try:
        executable = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None
    for mapping in python_mappings(mappings(pid), executable.removesuffix(" (deleted)")):
        # The process may see another file system than we do.
        for path in (f"/proc/{pid}/root{mapping.path}", mapping.path):
            symbol = find_symbol(path, b"_PyRuntime")
            if symbol is not None:
                address = mapping.base + symbol[0]
                return _by_offsets(memory, address) or _by_looks(memory, address, symbol[1], tids)
        for start, end in mapping.writable:
            found = _by_search(memory, start, end)
            if found is not None:
                return found
    return None


def runtime_at(memory: Memory, address: int, like: Runtime) -> Runtime | None:
    """The Python of a process that was forked from one that is known: at the same address, if it is still the same."""
    if like.minor >= 13:
        return _by_offsets(memory, address)
    known = like.gils[0]
    interval, holder, locked = struct.unpack("<QQi", memory.read(known.address, 20).ljust(20, b"\0"))
    if not (_plausible(interval, holder, locked) and memory.word(holder + T_INTERPRETER) == known.interpreter):
        return None
    runtime = Runtime(memory, address, like.minor, like._offsets, False)
    runtime.gils = [known]
    return runtime


def _by_offsets(memory: Memory, address: int) -> Runtime | None:
    """Python 3.13 and later."""
    table = memory.read(address, 8 * 40)
    if len(table) < 8 * 40 or table[:8] != COOKIE:
        return None
    words = struct.unpack("<40Q", table)
    minor = words[1] >> 16 & 0xFF
    if words[1] >> 24 != 3 or minor not in WORDS:
        return None
    offsets = {name: words[index] for name, index in WORDS[minor].items()}
    if max(offsets.values()) > 1 << 22:
        return None
    runtime = Runtime(memory, address, minor, offsets, bool(words[2]))
    runtime.look_again()
    return runtime if runtime.gils else None


def _by_search(memory: Memory, start: int, end: int) -> Runtime | None:
    """The same, where the file has no symbols: the table begins with a cookie."""
    data = memory.read(start, min(end - start, 1 << 26))
    at = data.find(COOKIE)
    while at >= 0:
        found = _by_offsets(memory, start + at)
        if found is not None:
            return found
        at = data.find(COOKIE, at + 8)
    return None


def _by_looks(memory: Memory, address: int, size: int, tids: set[int]) -> Runtime | None:
    """Python 3.11 and 3.12: search the runtime for the GIL's pattern."""
    data = memory.read(address, size)
    words = memoryview(data)[: len(data) // 8 * 8].cast("Q")
    for index in range(len(words) - 3):
        interval, holder = words[index], words[index + 1]
        locked = words[index + 2] & 0xFFFFFFFF
        if not _plausible(interval, holder, locked) or words[index + 3] >> 48:
            continue
        interpreter = memory.word(holder + T_INTERPRETER)
        if not address <= interpreter < address + size:  # the main interpreter is part of the runtime
            continue
        for minor, native_at in NATIVE_ID.items():
            if memory.word(holder + native_at) in tids and (
                index < NEAR if minor == 11 else points_to(memory, interpreter, address + 8 * index)
            ):
                runtime = Runtime(memory, address, minor, {"t_native": native_at, "t_next": T_NEXT}, False)
                runtime.gils = [Gil(address + 8 * index, 0, interpreter)]
                return runtime
    return None


def points_to(memory: Memory, interpreter: int, gil: int) -> bool:
    """Whether an interpreter of 3.12 has a pointer to that GIL: `interp->ceval.gil`, near its beginning.

    Its list of threads, {next unique id, head, count}, looks much like a GIL, but nothing points to it.
    """
    return gil.to_bytes(8, "little") in memory.read(interpreter, 4096)


def _plausible(interval: int, holder: int, locked: int) -> bool:
    """Whether these may be a switch interval (1 us to 1,000 s), a pointer, and a GIL that is free or held."""
    return 1 <= interval <= 10**9 and holder > 0xFFFF and not holder & 7 and not holder >> 47 and locked in (0, 1)


def confirm(runtime: Runtime) -> bool:
    """Whether the first GIL is really this interpreter's: change the switch interval, look, and set it back.

    In the observed process only, in its main interpreter. The change lasts some microseconds, while the GIL is held.
    """
    before = sys.getswitchinterval()
    mark_us = round(before * 1e6) + 3
    try:
        sys.setswitchinterval(mark_us * 1e-6)
        seen = runtime.memory.word(runtime.gils[0].address)
    finally:
        sys.setswitchinterval(before)
    return abs(seen - mark_us) <= 1  # CPython truncates to whole microseconds
