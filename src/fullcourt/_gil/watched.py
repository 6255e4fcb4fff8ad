"""A process that is watched, and its threads. For the sampler: imports little."""

from __future__ import annotations

import contextlib
import os
import struct

from fullcourt._gil.cells import RUNNABLE, WOKEN
from fullcourt._gil.finding import GIL_BYTES, Gil, Runtime, find_runtime, runtime_at
from fullcourt._gil.memory import Memory
from fullcourt._gil.procfs import command_of, cpu_of, inner_tid, is_zombie, name_of, read_link, stack_of
from fullcourt._gil.waits import BY_FILE, GIL_WAIT, LOCK, OTHER, kind_of_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fullcourt._gil.sampler import Sampler

__all__ = ["Process"]

LOOK_FOR_INTERPRETERS_NS = 50_000_000
FIND_AGAIN_NS = (2_000_000, 10_000_000, 50_000_000, 250_000_000, 1_000_000_000)
BLOCKED_READ = 16  # every so many samples that see a thread blocked, its counts are compared
YOUNG_NS = 2_000_000_000
NOT_ALLOWED = "counters"
SAMPLED = "sampled"
HOLDER = struct.Struct("<QQi4xQ")  # interval, last_holder, locked, switch_number


class Thread:
    """A thread's descriptors in /proc."""

    __slots__ = (
        "calls", "counters", "key", "n_begun", "n_blocked", "n_missed", "n_ousted", "run", "status", "tid", "was_off",
    )  # fmt: skip

    def __init__(self, pid: int, tid: int, key: int) -> None:
        self.key = key
        self.tid = tid
        self.calls = self.status = -1
        self.n_begun: int = -1  # see `was_woken`
        self.n_ousted: int = -1
        self.n_missed: int = 0
        self.n_blocked: int = 0  # samples that saw it blocked, after it had run
        self.run: int = 0
        self.was_off: bool = False
        folder = f"/proc/{pid}/task/{tid}"
        self.counters = os.open(f"{folder}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.calls = os.open(f"{folder}/syscall", os.O_RDONLY | os.O_CLOEXEC)
            os.pread(self.calls, 1, 0)  # to open it may be allowed where to read it is not
        except OSError:
            self.forget_calls()
        with contextlib.suppress(OSError):
            self.status = os.open(f"{folder}/status", os.O_RDONLY | os.O_CLOEXEC)

    def forget_calls(self) -> None:
        """Its system calls may not be seen."""
        if self.calls >= 0:
            os.close(self.calls)
            self.calls = -1

    def read_counters(self) -> tuple[int, int, int]:
        """Nanoseconds on a core, nanoseconds in the queue for one, and how often it got one.

        Raises:
            OSError, ValueError: it is gone.
        """
        run, queued, n_begun = os.pread(self.counters, 64, 0).split()
        return int(run), int(queued), int(n_begun)

    def was_woken(self, state: int, run: int, n_begun: int) -> bool:
        """Whether it is runnable because it was woken, and has not had a core since. To be asked at every sample.

        It has left its core as often as it got one; and when it left it last, it did so by itself, since it was ousted
        from one no more often than when it was last seen to run. Linux misses a few of the cores that a thread gets
        (since 6.12, where it is woken just after it fell asleep); how many shows while it is blocked.

        Raises:
            OSError, ValueError: it is gone.
        """
        if state != RUNNABLE:
            if n_begun != self.n_begun and self.status >= 0:
                if self.n_blocked % BLOCKED_READ == 0:
                    n_left, self.n_ousted = self.read_switches()
                    self.n_missed = n_left + self.n_ousted - n_begun
                self.n_blocked += 1
            self.was_off, self.n_begun, self.run = True, n_begun, run
            return False
        if n_begun == self.n_begun or not self.n_blocked:
            if self.was_off and run > self.run:  # it has had one, which was missed
                self.was_off = False
                self.n_missed += 1
        else:
            n_left, n_ousted = self.read_switches()
            self.was_off = n_left + n_ousted - n_begun == self.n_missed and n_ousted == self.n_ousted
            self.n_begun, self.n_ousted = n_begun, n_ousted
        self.run = run
        return self.was_off

    def read_switches(self) -> tuple[int, int]:
        """How often it has left a core by itself, and how often it was ousted from one."""
        data = os.pread(self.status, 4096, 0)
        fields = data[data.find(b"\nvoluntary_ctxt_switches:") :].split(None, 4)
        return int(fields[1]), int(fields[3])

    def close(self) -> None:
        for descriptor in (self.counters, self.calls, self.status):
            if descriptor >= 0:
                os.close(descriptor)


class Process:
    """A process that is watched."""

    def __init__(self, sampler: Sampler, pid: int, parent: int, like: Runtime | None) -> None:
        self.pid = pid
        self.parent = parent
        self.threads: dict[int, Thread] = {}
        self.inner: dict[int, int] = {}  # thread numbers as the process itself sees them, in a PID namespace of its own
        self.memory: Memory | None = None
        self.runtime: Runtime | None = None
        self._cpu_began_s = self._cpu_s = cpu_of(pid)
        try:
            self._tasks = os.open(f"/proc/{pid}/task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self._tasks = -1
        self._sampler = sampler
        self._recorder = sampler.recorder
        self._n_known = -1
        self._files: dict[int, int] = {}
        self._tries = 0
        self._find_at = 0
        self._interpreters_at = 0
        self._executable = ""
        self._stack = 0
        self._is_denied = False  # its memory may not be read
        self._is_named = False
        self._like = like
        self._enter()

    def _enter(self) -> None:
        """Look at which program this is: at first, and after an exec."""
        # First these two: if an exec comes between them and the rest, it will be seen. By the stack also where the
        # memory is that of a parent that waits (vfork) and goes on.
        self._stack = stack_of(self.pid)
        self._open_memory()
        self._executable = read_link(self.pid)
        known = self._recorder.processes.get(self.pid, {})
        name = command_of(self.pid)  # in the midst of an exec, and at its end, it has none
        self._is_named = bool(name)
        self._recorder.process(self.pid, self.parent, name or str(known.get("name", "")), "", SAMPLED)
        self._tries = 0
        self._find_at = 0

    def _open_memory(self) -> None:
        self.memory = None
        self._is_denied = False
        try:
            self.memory = Memory(self.pid)
        except PermissionError:
            self._is_denied = True
        except OSError:  # in the midst of an exec, or at its end, it has none
            pass

    def _find(self, now: int) -> None:
        """Look for its GIL; if there is none, less and less often."""
        if self.memory is not None and self.memory.is_gone():
            self._forget(now)
        record = self._recorder.processes[self.pid]
        if self.memory is None and not self._is_denied:
            self._open_memory()
        if self.memory is None:
            if self._is_denied:
                record["method"] = NOT_ALLOWED
            self._find_at = now + FIND_AGAIN_NS[-1 if self._is_denied else 1]
            return
        like, self._like = self._like, None
        if like is not None:
            self.runtime = runtime_at(self.memory, like.address, like)
        if self.runtime is None:
            self.runtime = find_runtime(self.memory, set(self.inner or self.threads))
        if self.runtime is None:
            self._find_at = now + FIND_AGAIN_NS[min(self._tries, len(FIND_AGAIN_NS) - 1)]
            self._tries += 1
            may_read = bool(self._sampler.may_read(self))
            record["method"] = SAMPLED if may_read else NOT_ALLOWED
            return
        record["method"] = SAMPLED
        record["python"] = f"3.{self.runtime.minor}{'t' if self.runtime.free_threaded else ''}"

    def cpu_s(self) -> float:
        """CPU seconds since it was first seen, of all its threads; what was last known, if it is gone."""
        self._cpu_s = max(self._cpu_s, cpu_of(self.pid))
        return self._cpu_s - self._cpu_began_s

    def look(self, now: int) -> bool:
        """Take one sample of all its threads. False: the process has ended."""
        try:
            n_known = os.fstat(self._tasks).st_nlink
        except OSError:
            return False
        if n_known != self._n_known or now >= self._interpreters_at:
            self._interpreters_at = now + LOOK_FOR_INTERPRETERS_NS
            if not self._look_for_threads(now):
                return False
            self._n_known = n_known
            self._files.clear()
            if self.runtime is not None:
                self.runtime.look_again()
                self._name_threads(self.runtime, now)
        if self.runtime is None and now >= self._find_at:
            with contextlib.suppress(OSError):
                self._find(now)
        held, waiting_at = self._read_gils(now)
        rows = self._sampler.rows
        for thread in list(self.threads.values()):
            try:
                state, argument = self._state(thread, waiting_at)
                if state != RUNNABLE and thread.tid in held and not self._still(thread, held, waiting_at):
                    state = RUNNABLE  # as it was when the holder was read; it has let go since
                elif argument >= 0:
                    state = self._kind_of(argument)
                run, queued, n_begun = thread.read_counters()
                if waiting_at and thread.was_woken(state, run, n_begun) and thread.tid not in held:
                    state = WOKEN
            except (OSError, ValueError):
                self._drop(thread, now)
                continue
            rows.append((thread.key, now, state, thread.tid in held, run, queued))
        return bool(self.threads)

    def _read_gils(self, now: int) -> tuple[dict[int, Gil], list[int]]:
        """Which threads hold a GIL, and where those that wait for one do so."""
        runtime = self.runtime
        held: dict[int, Gil] = {}
        waiting_at: list[int] = []
        if runtime is None:
            return held, waiting_at
        for number, gil in enumerate(runtime.gils):
            data = runtime.memory.read(gil.address, HOLDER.size)
            if len(data) < HOLDER.size:
                if number == 0:  # an exec replaced the memory; or the process is at its end
                    self._interpreters_at = 0
                    if read_link(self.pid):
                        self._forget(now)
                    break
                continue
            if gil.enabled_at and not int.from_bytes(runtime.memory.read(gil.enabled_at, 4), "little"):
                continue
            _, holder, locked, switches = HOLDER.unpack(data)
            waiting_at.append(gil.address + HOLDER.size)
            owner = 0
            if locked == 1 and holder:
                tid = runtime.owner(holder)
                tid = self.inner.get(tid, tid)
                thread = self.threads.get(tid)
                if thread is not None:
                    held[tid] = gil
                    owner = thread.key
            self._recorder.gil(self.pid, number, now, owner, switches)
        return held, waiting_at

    def _still(self, thread: Thread, held: dict[int, Gil], waiting_at: list[int]) -> bool:
        """Whether a thread that was seen to hold the GIL and to be blocked is so at a second look."""
        runtime, gil = self.runtime, held[thread.tid]
        assert runtime is not None
        data = runtime.memory.read(gil.address, HOLDER.size)
        if len(data) < HOLDER.size:
            return False
        _, holder, locked, _ = HOLDER.unpack(data)
        owner = runtime.owner(holder)
        if locked != 1 or self.inner.get(owner, owner) != thread.tid:
            return False
        state, _ = self._state(thread, waiting_at)
        return state not in (RUNNABLE, GIL_WAIT)

    def _state(self, thread: Thread, waiting_at: list[int]) -> tuple[int, int]:
        """What a thread does now; and for a call on a descriptor, that descriptor, else -1."""
        if thread.calls < 0:
            return self._sampler.state_without_calls(self.pid, thread.tid), -1
        try:
            fields = os.pread(thread.calls, 128, 0).split()
        except PermissionError:  # it has become another user's
            thread.forget_calls()
            return self._sampler.state_without_calls(self.pid, thread.tid), -1
        if fields[0] == b"running":
            return RUNNABLE, -1
        kind = self._sampler.calls.get(int(fields[0]), OTHER)
        if kind == LOCK:
            address = int(fields[1], 16)
            for begin in waiting_at:
                if begin <= address < begin + GIL_BYTES:
                    return GIL_WAIT, -1
        elif kind == BY_FILE:
            return OTHER, int(fields[1], 16) & 0xFFFF
        return kind, -1

    def _kind_of(self, descriptor: int) -> int:
        kind = self._files.get(descriptor)
        if kind is None:
            kind = self._files[descriptor] = kind_of_file(self.pid, descriptor)
        return kind

    def _look_for_threads(self, now: int) -> bool:
        try:
            tids = set(map(int, os.listdir(self._tasks)))
        except OSError:
            return False
        self.cpu_s()
        for tid in self.threads.keys() - tids:
            self._drop(self.threads[tid], now)
        for tid in sorted(tids - self.threads.keys()):
            try:
                thread = Thread(self.pid, tid, self._sampler.next_key())
            except OSError:
                continue
            try:
                run, queued, _ = thread.read_counters()
            except (OSError, ValueError):
                thread.close()
                continue
            self.threads[tid] = thread
            # It began after the last sample: count from there what it did before it was first seen.
            self._recorder.thread(thread.key, self.pid, tid, name_of(self.pid, tid), now, run, queued)
            if self._sampler.has_inner_pids(self.pid):
                self.inner[inner_tid(self.pid, tid)] = tid
        if not self._is_named and (name := command_of(self.pid)):
            self._recorder.processes[self.pid]["name"] = name
            self._is_named = True
        executable = read_link(self.pid)
        if not executable:  # at its end, first the memory goes, then it is a zombie
            return bool(self.threads) and not is_zombie(self.pid)
        is_gone = self.memory is not None and self.memory.is_gone()
        if is_gone or executable != self._executable or stack_of(self.pid) != self._stack:
            self._forget(now)
        return bool(self.threads)

    def _name_threads(self, runtime: Runtime, now: int) -> None:
        python = runtime.python_threads()
        if python:
            for tid, thread in self.threads.items():
                lane = self._recorder.lanes.get(thread.key)
                if lane is not None and (not lane.python or now - lane.began < YOUNG_NS):
                    lane.name = name_of(self.pid, tid) or lane.name  # a thread names itself after it began
                    # Once Python's, always so: at its end it leaves Python's list a little before the system's.
                    lane.python = bool(lane.python) or tid in python or tid in map(self.inner.get, python)

    def _forget(self, now: int) -> None:
        """Another program runs here now."""
        self.runtime = None
        if self.memory is not None:
            self.memory.close()
        self._enter()
        self._find_at = now

    def _drop(self, thread: Thread, now: int) -> None:
        thread.close()
        del self.threads[thread.tid]
        self._n_known = -1
        self._sampler.flush()
        self._recorder.thread_ended(thread.key, now)

    def close(self) -> None:
        """Stop watching."""
        for thread in list(self.threads.values()):
            thread.close()
        self.threads.clear()
        if self._tasks >= 0:
            os.close(self._tasks)
            self._tasks = -1
        if self.memory is not None:
            self.memory.close()
