"""The sampler: looks at a program's threads many times a second, from outside. For the sampler: imports little.

Each look at a process reads its GIL's holder, the thread that this is, and of each thread what system call it is in and
the kernel's counters of its time. Cost: about 8 microseconds a thread, and nothing in the program itself but for the
core that the sampler is on meanwhile.

Two things that look harmless make it wrong: a fixed period, which locks on to the switch interval of 5 ms, and taking
another sample when the GIL was seen to move, which prefers the moments in which it does not.
"""

from __future__ import annotations

import os
import struct
from time import monotonic_ns, process_time, process_time_ns

from fullcourt._gil.finding import GIL_BYTES, Gil, Runtime, find_runtime, runtime_at
from fullcourt._gil.memory import Memory
from fullcourt._gil.recorder import RUNNABLE, Recorder
from fullcourt._gil.waits import BY_FILE, GIL_WAIT, LOCK, OTHER, kind_of_file, kinds_of_calls

__all__ = ["DEFAULT_RATE_HZ", "Sampler"]

DEFAULT_RATE_HZ = 250.0
MAX_SHARE = 0.08  # of a core, for sampling: the period grows with the threads
LOOK_FOR_PROCESSES_NS = 25_000_000
LOOK_FOR_INTERPRETERS_NS = 50_000_000
FIND_AGAIN_NS = (2_000_000, 10_000_000, 50_000_000, 250_000_000, 1_000_000_000)
NOT_ALLOWED = "counters"
SAMPLED = "sampled"
HOLDER = struct.Struct("<QQi4xQ")  # interval, last_holder, locked, switch_number


class Thread:
    """A thread's descriptors in /proc."""

    __slots__ = ("calls", "counters", "gone", "key", "tid")

    def __init__(self, pid: int, tid: int, key: int) -> None:
        self.key = key
        self.tid = tid
        self.calls = -1
        folder = f"/proc/{pid}/task/{tid}"
        self.counters = os.open(f"{folder}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.calls = os.open(f"{folder}/syscall", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.calls = -1

    def read_counters(self) -> tuple[int, int]:
        """Nanoseconds on a core, and nanoseconds in the queue for one.

        Raises:
            OSError, ValueError: it is gone.
        """
        run, queued, _ = os.pread(self.counters, 64, 0).split()
        return int(run), int(queued)

    def close(self) -> None:
        os.close(self.counters)
        if self.calls >= 0:
            os.close(self.calls)


class Process:
    """A process that is watched."""

    def __init__(self, sampler: Sampler, pid: int, parent: int, like: Runtime | None) -> None:
        self.pid = pid
        self.parent = parent
        self.threads: dict[int, Thread] = {}
        self.inner: dict[int, int] = {}  # thread numbers as the process itself sees them, in a PID namespace of its own
        self.memory: Memory | None = None
        self.runtime: Runtime | None = None
        self.cpu_began_s = cpu_of(pid)
        self._sampler = sampler
        self._recorder = sampler.recorder
        self._n_known = -1
        self._files: dict[int, int] = {}
        self._tries = 0
        self._find_at = 0
        self._interpreters_at = 0
        self._executable = ""
        self._like = like
        self._enter()

    def _enter(self) -> None:
        """Look at which program this is: at first, and after an exec."""
        self._executable = read_link(self.pid)
        self._recorder.process(self.pid, self.parent, command_of(self.pid), "", SAMPLED)
        try:
            self.memory = Memory(self.pid)
        except OSError:
            self.memory = None
        self._tries = 0
        self._find_at = 0

    def _find(self, now: int) -> None:
        """Look for its GIL; if there is none, less and less often."""
        if self.memory is None:
            return
        like, self._like = self._like, None
        if like is not None:
            self.runtime = runtime_at(self.memory, like.address, like)
        if self.runtime is None:
            self.runtime = find_runtime(self.memory, set(self.inner or self.threads))
        record = self._recorder.processes[self.pid]
        if self.runtime is None:
            self._find_at = now + FIND_AGAIN_NS[min(self._tries, len(FIND_AGAIN_NS) - 1)]
            self._tries += 1
            may_read = bool(self._sampler.may_read(self))
            record["method"] = SAMPLED if may_read else NOT_ALLOWED
            return
        record["method"] = SAMPLED
        record["python"] = f"3.{self.runtime.minor}{'t' if self.runtime.free_threaded else ''}"

    def look(self, now: int) -> bool:
        """Take one sample of all its threads. False: the process has ended."""
        try:
            n_known = os.stat(f"/proc/{self.pid}/task").st_nlink
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
                self._name_threads(self.runtime)
        if self.runtime is None and now >= self._find_at:
            self._find(now)
        held, waiting_at = self._read_gils(now)
        for thread in list(self.threads.values()):
            try:
                state, argument = self._state(thread, waiting_at)
                if state != RUNNABLE and thread.tid in held and not self._still(thread, held, waiting_at):
                    state = RUNNABLE  # as it was when the holder was read; it has let go since
                elif argument >= 0:
                    state = self._kind_of(argument)
                run, queued = thread.read_counters()
            except (OSError, ValueError):
                self._drop(thread, now)
                continue
            self._recorder.sample(thread.key, now, state, thread.tid in held, run, queued)
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
                if number == 0:  # an exec replaced the memory
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
        fields = os.pread(thread.calls, 128, 0).split()
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
            tids = set(map(int, os.listdir(f"/proc/{self.pid}/task")))
        except OSError:
            return False
        for tid in self.threads.keys() - tids:
            self._drop(self.threads[tid], now)
        for tid in sorted(tids - self.threads.keys()):
            try:
                thread = Thread(self.pid, tid, self._sampler.next_key())
            except OSError:
                continue
            try:
                run, queued = thread.read_counters()
            except (OSError, ValueError):
                thread.close()
                continue
            self.threads[tid] = thread
            # It began after the last sample: count from there what it did before it was first seen.
            self._recorder.thread(thread.key, self.pid, tid, name_of(self.pid, tid), now, run, queued)
            if self._sampler.has_inner_pids(self.pid):
                self.inner[inner_tid(self.pid, tid)] = tid
        if self._executable != read_link(self.pid):
            self._forget(now)
        return bool(self.threads)

    def _name_threads(self, runtime: Runtime) -> None:
        python = runtime.python_threads()
        if python:
            for tid, thread in self.threads.items():
                lane = self._recorder.lanes.get(thread.key)
                if lane is not None and not lane.python:
                    lane.python = tid in python or tid in {self.inner.get(number) for number in python}

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
        self._recorder.thread_ended(thread.key, now)

    def close(self) -> None:
        """Stop watching."""
        for thread in list(self.threads.values()):
            thread.close()
        self.threads.clear()
        if self.memory is not None:
            self.memory.close()


class Sampler:
    """Watches a process and, if asked to, what it starts.

    Args:
        pid: the process.
        rate_hz: looks a second; fewer where there are so many threads that it would take more than 8 % of a core.
        children: whether processes that it starts are watched, too.
        ignore: processes that are not, with all below them.
    """

    def __init__(self, pid: int, *, rate_hz: float = DEFAULT_RATE_HZ, children: bool = True, ignore: set[int]) -> None:
        self.began = monotonic_ns()
        self.recorder = Recorder(self.began)
        self.rate_hz = rate_hz
        self.calls = kinds_of_calls(os.uname().machine)
        self._children = children
        self._ignore = ignore
        self._key = 0
        self._period_ns = int(1e9 / rate_hz)
        self._cost_ns = 0.0
        self._look_at = 0
        self._inner: dict[int, bool] = {}
        self._cpu_began_s = process_time()
        self._machine_began = machine_cpu_s()
        self._cpu_of_ended_s = 0.0
        self.processes: dict[int, Process] = {pid: Process(self, pid, 0, None)}
        self.pid = pid

    def next_key(self) -> int:
        """A number for a thread; never used twice, as the system's are."""
        self._key += 1
        return self._key

    def may_read(self, process: Process) -> bool:
        """Whether its memory can be read."""
        memory = process.memory
        if memory is None or not process.threads:
            return False
        return all(thread.calls >= 0 for thread in process.threads.values())

    def state_without_calls(self, pid: int, tid: int) -> int:
        """What a thread does where its system calls may not be seen: the state in /proc/PID/task/TID/stat."""
        with open(f"/proc/{pid}/task/{tid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split(None, 1)[0]
        return RUNNABLE if state == b"R" else OTHER

    def has_inner_pids(self, pid: int) -> bool:
        """Whether a process is in a PID namespace of its own, where it has another number."""
        known = self._inner.get(pid)
        if known is None:
            known = self._inner[pid] = inner_tid(pid, pid) != pid
        return known

    def look(self) -> bool:
        """Take one sample of everything. False: nothing is left to look at."""
        now, cpu_ns = monotonic_ns(), process_time_ns()
        if self._children and now >= self._look_at:
            self._look_for_processes()
            self._look_at = now + max(LOOK_FOR_PROCESSES_NS, 20 * (monotonic_ns() - now))
        for process in list(self.processes.values()):
            if not process.look(monotonic_ns()):
                self._cpu_of_ended_s += cpu_of(process.pid) - process.cpu_began_s
                process.close()
                self.recorder.process_ended(process.pid, now)
                del self.processes[process.pid]
        self.recorder.sampled(now)
        cost = process_time_ns() - cpu_ns  # not of the wall's time: a look may itself be kept from a core
        self._cost_ns = min(cost, 1.5 * self._cost_ns) * 0.1 + 0.9 * self._cost_ns if self._cost_ns else 0.5 * cost
        self._period_ns = int(max(1e9 / self.rate_hz, self._cost_ns / MAX_SHARE))
        return bool(self.processes)

    def pause_ms(self) -> float:
        """How long to wait until the next look, by chance around the period."""
        return self._period_ns * 1e-6 * (0.5 + int.from_bytes(os.urandom(2), "little") / 65536) - self._cost_ns * 1e-6

    def _look_for_processes(self) -> None:
        for parent in list(self.processes.values()):
            for pid in children_of(parent.pid, parent.threads):
                if pid not in self.processes and pid not in self._ignore:
                    self.processes[pid] = Process(self, pid, parent.pid, parent.runtime)

    def close(self) -> None:
        """Stop watching."""
        for process in self.processes.values():
            process.close()
        self.processes.clear()

    def recording(self) -> dict[str, object]:
        """Everything seen up to now."""
        now = monotonic_ns()
        recording = self.recorder.recording(now)
        wall_s = max(1e-9, (now - self.began) * 1e-9)
        own_s = process_time() - self._cpu_began_s
        watched_s = self._cpu_of_ended_s + sum(cpu_of(p.pid) - p.cpu_began_s for p in self.processes.values())
        foreign_s = machine_cpu_s() - self._machine_began - watched_s - own_s
        recording.update(
            pid=self.pid,
            rate_hz=self.recorder.n_samples / wall_s,
            own_cpu_s=own_s,
            foreign_cores=max(0.0, foreign_s / wall_s),
            watched_cpu_s=watched_s,
            n_cores=len(os.sched_getaffinity(0)),
        )
        return recording


def children_of(pid: int, tids: dict[int, Thread]) -> list[int]:
    """The processes that a process has started and that live."""
    found: list[int] = []
    for tid in tids:
        try:
            with open(f"/proc/{pid}/task/{tid}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
        except OSError:
            continue
    return found


def cpu_of(pid: int) -> float:
    """CPU seconds of a process with all its threads, also those that ended; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def machine_cpu_s() -> float:
    """CPU seconds that all programs together have used; 0 where /proc does not say."""
    try:
        with open("/proc/stat", "rb") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return 0.0


def command_of(pid: int) -> str:
    """A process's command line, cut to a readable length."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(2048).decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    text = " ".join([os.path.basename(words[0]), *words[1:]]).strip()
    return text if len(text) <= 80 else text[:77] + "..."


def name_of(pid: int, tid: int) -> str:
    """What the system calls a thread; from Python 3.14 on, what Python calls it."""
    try:
        with open(f"/proc/{pid}/task/{tid}/comm", "rb") as file:
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def inner_tid(pid: int, tid: int) -> int:
    """A thread's number in its own PID namespace (proc(5): NSpid)."""
    try:
        with open(f"/proc/{pid}/task/{tid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"NSpid:"):
                    return int(line.split()[-1])
    except (OSError, ValueError):
        pass
    return tid


def read_link(pid: int) -> str:
    """Which executable a process runs; empty where that may not be seen."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
