"""The sampler: looks at a program's threads many times a second, from outside. For the sampler: imports little.

Each look at a process reads its GIL's holder, the thread that this is, and of each thread what system call it is in and
the kernel's counters of its time. Cost: about 8 microseconds a thread, and nothing in the program itself but for the
core that the sampler is on meanwhile.

Two things that look harmless make it wrong: a fixed period, which locks on to the switch interval of 5 ms, and taking
another sample when the GIL was seen to move, which prefers the moments in which it does not.
"""

from __future__ import annotations

import os
from time import monotonic_ns, process_time, thread_time_ns

from fullcourt._gil.cells import RUNNABLE
from fullcourt._gil.procfs import children_of, inner_tid, is_zombie, machine_cpu_s
from fullcourt._gil.recorder import Recorder
from fullcourt._gil.waits import OTHER, kinds_of_calls
from fullcourt._gil.watched import Process

__all__ = ["DEFAULT_RATE_HZ", "Sampler"]

DEFAULT_RATE_HZ = 250.0
MAX_SHARE = 0.08  # of a core, for sampling: the period grows with the threads
LOOK_FOR_PROCESSES_NS = 25_000_000
MANY_ROWS = 100


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
        self.rows: list[tuple[int, int, int, bool, int, int]] = []
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
        now, cpu_ns = monotonic_ns(), thread_time_ns()
        if self._children and now >= self._look_at:
            self._look_for_processes()
            self._look_at = now + max(LOOK_FOR_PROCESSES_NS, 20 * (monotonic_ns() - now))
        for process in list(self.processes.values()):
            if not process.look(monotonic_ns()):
                self._cpu_of_ended_s += process.cpu_s()
                process.close()
                self.recorder.process_ended(process.pid, now, process.cpu_s())
                del self.processes[process.pid]
        self.recorder.sampled(now)
        if len(self.rows) >= MANY_ROWS:
            self.flush()
        cost = thread_time_ns() - cpu_ns  # not of the wall's time: a look may itself be kept from a core
        self._cost_ns = min(cost, 1.5 * self._cost_ns) * 0.1 + 0.9 * self._cost_ns if self._cost_ns else 0.5 * cost
        self._period_ns = int(max(1e9 / self.rate_hz, self._cost_ns / MAX_SHARE))
        return bool(self.processes)

    def flush(self) -> None:
        """Hand the samples to the recorder, many at a time: after a sleep the caches are cold, and it costs 4 times."""
        rows, self.rows = self.rows, []
        for row in rows:
            self.recorder.sample(*row)

    def pause_s(self) -> float:
        """How long to wait until the next look, by chance around the period."""
        return self._period_ns * 1e-9 * (0.5 + int.from_bytes(os.urandom(2), "little") / 65536) - self._cost_ns * 1e-9

    def _look_for_processes(self) -> None:
        parents = list(self.processes.values())
        for parent in parents:  # grows while it is walked
            for pid in children_of(parent.pid, parent.threads or (parent.pid,)):
                if pid in self.processes or pid in self._ignore:
                    continue
                if pid not in self.recorder.processes or not is_zombie(pid):  # else it has ended and is not reaped yet
                    self.processes[pid] = child = Process(self, pid, parent.pid, parent.runtime)
                    parents.append(child)

    def forget(self, pid: int) -> None:
        """Watch a process no longer, and drop what was seen of it."""
        process = self.processes.pop(pid, None)
        if process is not None:
            self.flush()
            process.close()
            self.recorder.forget(pid)

    def close(self) -> None:
        """Stop watching."""
        for process in self.processes.values():
            process.close()
        self.processes.clear()

    def recording(self) -> dict[str, object]:
        """Everything seen up to now."""
        self.flush()
        now = monotonic_ns()
        recording = self.recorder.recording(now, {pid: process.cpu_s() for pid, process in self.processes.items()})
        wall_s = max(1e-9, (now - self.began) * 1e-9)
        own_s = process_time() - self._cpu_began_s
        watched_s = self._cpu_of_ended_s + sum(process.cpu_s() for process in self.processes.values())
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
