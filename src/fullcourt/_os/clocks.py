"""What threads, this process and the machine have spent: CPU time, and time for which there was no core.

Linux tells all; elsewhere what cannot be told is 0, as each function says.
"""

from __future__ import annotations

import os
import sys
import threading
import time

__all__ = ["ThreadClock", "machine_busy_s", "own_cpu_s", "queued_s", "thread_cpu_clock"]


# clock_getcpuclockid(3), include/linux/posix-timers.h: a thread's CPU clock has the number ~tid << 3 | 6. Unlike
# pthread_getcpuclockid it asks nothing of the thread itself, which may have ended: then that one crashes.
CPUCLOCK_PERTHREAD_SCHED = 4 | 2


class ThreadClock:
    """Reads a thread's clocks, from any thread. Made in that thread, or with it once it was started.

    Of a thread that has ended it tells nothing: that is no error. Elsewhere than on Linux neither of any other.
    """

    def __init__(self, thread: threading.Thread | None = None) -> None:
        self.thread_id = threading.get_native_id() if thread is None else thread.native_id or 0
        known = sys.platform == "linux" and self.thread_id > 0
        self._clock = thread_cpu_clock(self.thread_id) if known else None

    def read(self) -> tuple[float, float]:
        """CPU seconds, and seconds for which it could have run but had no core. (0, 0) when it has ended."""
        if self._clock is None:
            return 0.0, 0.0
        try:
            cpu_s = time.clock_gettime(self._clock)
        except OSError:
            return 0.0, 0.0
        return cpu_s, queued_s(self.thread_id)


def thread_cpu_clock(thread_id: int) -> int:
    """The number of the clock that counts a thread's CPU time, of any process, on Linux."""
    return ~thread_id << 3 | CPUCLOCK_PERTHREAD_SCHED


def queued_s(thread_id: int | None = None) -> float:
    """Seconds for which a thread of this process (None: the caller) waited for a core; 0 where nobody counts them."""
    path = "/proc/thread-self/schedstat" if thread_id is None else f"/proc/self/task/{thread_id}/schedstat"
    try:
        with open(path, "rb", buffering=0) as file:
            return int(file.read(100).split()[1]) * 1e-9
    except (OSError, ValueError, IndexError):
        return 0.0


def own_cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def machine_busy_s() -> float | None:
    """CPU seconds that all programs together have used; None where the system does not say."""
    try:
        with open("/proc/stat", "rb", buffering=0) as file:
            words = file.read(400).split(b"\n", 1)[0].split()
        if words[0] != b"cpu":
            return None
        user, nice, system, _, _, irq, softirq, steal = map(int, words[1:9])
    except (OSError, ValueError, IndexError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
