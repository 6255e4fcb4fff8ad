"""What threads, this process and the machine have spent: CPU time, and time for which there was no core.

Linux tells all; elsewhere what cannot be told is 0, as each function says.
"""

from __future__ import annotations

import os
import threading
import time

__all__ = ["ThreadClock", "machine_busy_s", "own_cpu_s", "queued_s"]


class ThreadClock:
    """Reads another thread's clocks. Made in that thread, or with it, while it runs."""

    def __init__(self, thread: threading.Thread | None = None) -> None:
        ident = threading.get_ident() if thread is None else thread.ident
        self.thread_id = threading.get_native_id() if thread is None else thread.native_id or 0
        try:
            self._clock = time.pthread_getcpuclockid(ident or 0)
        except (AttributeError, OSError):  # macOS, Windows
            self._clock = -1

    def read(self) -> tuple[float, float]:
        """CPU seconds, and seconds for which it could have run but had no core. (0, 0) when it has ended."""
        try:
            cpu_s = time.clock_gettime(self._clock) if self._clock != -1 else 0.0
        except OSError:
            return 0.0, 0.0
        return cpu_s, queued_s(self.thread_id)


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
