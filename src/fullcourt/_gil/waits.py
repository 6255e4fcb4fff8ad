"""What a blocked thread waits for, by the system call that it is in. For the sampler: imports little.

*Source*: the kernel's syscall tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import os

__all__ = [
    "BY_FILE",
    "FILE",
    "GIL_WAIT",
    "HELD",
    "LOCK",
    "NATIVE",
    "NETWORK",
    "N_STATES",
    "OTHER",
    "QUEUED",
    "SLEEP",
    "STATES",
    "kind_of_file",
    "kinds_of_calls",
]

# The states that a thread's time is split into; their numbers are their places in all lists of this package.
STATES = ("held", "native", "gil_wait", "queued", "lock", "sleep", "network", "file", "other")
HELD, NATIVE, GIL_WAIT, QUEUED, LOCK, SLEEP, NETWORK, FILE, OTHER = range(len(STATES))
N_STATES = len(STATES)
BY_FILE = -1  # a call on a descriptor: its first argument says what it waits for

CALLS = {
    "x86_64": {
        LOCK: (202, 449, 73, 220, 65),  # futex, futex_waitv, flock, semtimedop, semop
        SLEEP: (35, 230, 34),  # nanosleep, clock_nanosleep, pause
        # poll, select, accept, recvfrom, sendmsg, recvmsg, connect, sendto, epoll_wait, pselect6, ppoll, epoll_pwait,
        # accept4, recvmmsg, sendmmsg, epoll_pwait2
        NETWORK: (7, 23, 43, 45, 46, 47, 42, 44, 232, 270, 271, 281, 288, 299, 307, 441),
        # fsync, fdatasync, open, openat, stat, lstat, getdents64, rename, unlink, sync_file_range, fallocate, statx,
        # msync, sync, mkdir, rmdir, unlinkat, copy_file_range
        FILE: (74, 75, 2, 257, 4, 6, 217, 82, 87, 277, 285, 332, 26, 162, 83, 84, 263, 326),
        # read, write, pread64, pwrite64, readv, writev, preadv, pwritev, sendfile, splice, fcntl, ioctl
        BY_FILE: (0, 1, 17, 18, 19, 20, 295, 296, 40, 275, 72, 16),
    },
    "aarch64": {
        LOCK: (98, 449, 32, 192, 193),
        SLEEP: (101, 115),
        NETWORK: (20, 22, 72, 73, 202, 203, 206, 207, 211, 212, 242, 243, 269, 441),
        FILE: (82, 83, 56, 79, 61, 38, 35, 84, 47, 291, 227, 81, 34, 276, 285),
        BY_FILE: (63, 64, 67, 68, 65, 66, 69, 70, 71, 76, 25, 29),
    },
}


def kinds_of_calls(machine: str) -> dict[int, int]:
    """The state that each system call means, by its number; calls that are not in it are `OTHER`."""
    table = CALLS.get("aarch64" if machine in ("aarch64", "arm64") else machine, {})
    return {number: kind for kind, numbers in table.items() for number in numbers}


def kind_of_file(pid: int, descriptor: int) -> int:
    """What a wait for a descriptor of a process is.

    `NETWORK` for sockets, pipes and the like, `LOCK` for an eventfd (another thread ends it), `FILE` for files, else
    `OTHER`.
    """
    try:
        target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
    except OSError:
        return OTHER
    if target == "anon_inode:[eventfd]":
        return LOCK
    if target.startswith(("socket:", "pipe:", "anon_inode:", "/dev/pts/", "/dev/tty")):
        return NETWORK
    return FILE if target.startswith("/") else OTHER
