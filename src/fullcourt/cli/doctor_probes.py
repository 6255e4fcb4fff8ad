"""What `fullcourt doctor` looks up: a function for each section, none of which raises."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import sys
import sysconfig
from typing import TYPE_CHECKING

from fullcourt._os.cpus import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Facts: TypeAlias = dict[str, str | int | float | bool | list[str] | None]

__all__ = ["Facts", "cores", "gil", "interpreters", "limits", "memory", "packages", "python", "start_methods", "system"]
_UNLIMITED = "unlimited"


def packages() -> Facts:
    """Return the versions of the packages that are used where they are installed."""
    from importlib import metadata

    found: Facts = {}
    for name in ("cloudpickle", "rich", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def python() -> Facts:
    """Return which Python this is, and on what."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "container": _container(),
    }


def cores() -> Facts:
    """Return how many cores can be used, and why."""
    found = usable_cores()
    load: float | None = None
    with contextlib.suppress(OSError, AttributeError):
        load = round(os.getloadavg()[0], 2)
    return {
        "usable": found.count,
        "why": found.reason,
        "of_the_machine": found.total,
        "by_affinity": found.affinity,
        "by_quota": found.quota if found.quota is not None else "no quota",
        "load_last_minute": load,
    }


def gil() -> Facts:
    """Return whether threads can run Python code at the same time."""
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    # Since 3.13. A free-threaded build takes the GIL back when a C extension asks for it.
    enabled = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
    if not free_threaded:
        meaning = "one thread runs Python code at a time; use processes for it, threads for waiting and for native code"
    elif enabled:
        meaning = "built without, but taken back: PYTHON_GIL=1, -X gil=1, or a C extension that needs it"
    else:
        meaning = "threads run Python code in parallel"
    return {
        "free_threaded_build": free_threaded,
        "gil_enabled": enabled,
        "means": meaning,
        "switch_interval_s": sys.getswitchinterval(),
    }


def interpreters() -> Facts:
    """Return whether sub-interpreters with a GIL each can be had."""
    if sys.hexversion < 0x030E0000:  # not version_info, or a checker set to 3.11 takes the rest for unreachable
        return {"available": False, "why": f"they need Python 3.14; this is {platform.python_version()}"}
    try:
        import importlib

        interpreter = importlib.import_module("concurrent.interpreters").create()  # unknown to a checker set to 3.11
        interpreter.close()
    except Exception as error:  # noqa: BLE001 - whatever keeps one from starting is the finding
        return {"available": False, "why": f"{type(error).__name__}: {error}"}
    return {"available": True, "why": "one was started and stopped"}


def start_methods() -> Facts:
    """Return how worker processes can be started."""
    try:
        import multiprocessing

        return {
            "available": multiprocessing.get_all_start_methods(),
            "default": multiprocessing.get_context().get_start_method(),
        }
    except ImportError as error:
        return {"available": [], "default": None, "why": str(error)}


def limits() -> Facts:
    """Return the limits that many workers meet first."""
    return {
        "open_files": _resource("RLIMIT_NOFILE", 0),
        "open_files_at_most": _resource("RLIMIT_NOFILE", 1),
        "processes_and_threads": _resource("RLIMIT_NPROC", 0),
        "threads_of_the_machine": _number("/proc/sys/kernel/threads-max"),
        "cgroup_processes": _cgroup_number("pids", "pids.max", "pids.max"),
        "core_dump_bytes": _resource("RLIMIT_CORE", 0),
        "locked_memory_bytes": _resource("RLIMIT_MEMLOCK", 0),
        "pid_max": _number("/proc/sys/kernel/pid_max"),
        "unix_datagram_queue": _number("/proc/sys/net/unix/max_dgram_qlen"),
        "socket_buffer_bytes": _number("/proc/sys/net/core/wmem_max"),
    }


def memory() -> Facts:
    """Return the memory of the machine, and what the container allows of it."""
    text = _read("/proc/meminfo")

    def line(name: str) -> int | None:
        match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        return int(match[1]) * 1024 if match else None

    shm_total = shm_free = None
    with contextlib.suppress(OSError, AttributeError):
        stat = os.statvfs("/dev/shm")  # noqa: S108 - asked for its size alone
        shm_total, shm_free = stat.f_frsize * stat.f_blocks, stat.f_frsize * stat.f_bavail
    return {
        "total_bytes": line("MemTotal") or _sysconf_memory(),
        "available_bytes": line("MemAvailable"),
        "swap_free_bytes": line("SwapFree"),
        "cgroup_limit_bytes": _cgroup_number("memory", "memory.max", "memory.limit_in_bytes"),
        "address_space_bytes": _resource("RLIMIT_AS", 0),
        "dev_shm_bytes": shm_total,
        "dev_shm_free_bytes": shm_free,
    }


def system() -> Facts:
    """Return which of the system's means are there; each one is tried."""
    return {
        "memfd": _works(_try_memfd),
        "pidfd": _works(_try_pidfd),
        "seqpacket_sockets": _works(_try_seqpacket),
        "descriptors_over_sockets": _works(_try_pass_descriptor),
        "proc_readable": os.path.exists("/proc/self/stat"),
    }


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, AttributeError, ValueError):
        return False
    return True


def _try_memfd() -> None:
    os.close(os.memfd_create("fullcourt-doctor"))


def _try_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _try_seqpacket() -> None:
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
        end.close()


def _try_pass_descriptor() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        socket.send_fds(one, [b"x"], [0 if _is_open(0) else one.fileno()])
        _, descriptors, _, _ = socket.recv_fds(other, 1, 1)
        for descriptor in descriptors:
            os.close(descriptor)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _resource(name: str, position: int) -> int | str | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    number: int | None = getattr(resource, name, None)
    if number is None:
        return None
    value = resource.getrlimit(number)[position]
    return _UNLIMITED if value == resource.RLIM_INFINITY else value


def _cgroup_number(controller: str, name_v2: str, name_v1: str) -> int | str | None:
    """Return the tightest value over all cgroups that hold this process; `None` without cgroups."""
    from fullcourt._os.cpus import cgroup_folders

    values: list[int] = []
    seen = False
    for folder, version in cgroup_folders("/", controller):
        seen = True
        text = _read(f"{folder}/{name_v2 if version == 2 else name_v1}").strip()
        # Version 1 says "no limit" with a number near 2 ** 63.
        if text.isdigit() and int(text) < 1 << 60:
            values.append(int(text))
    return min(values) if values else _UNLIMITED if seen else None


def _sysconf_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _container() -> str:
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    return "none seen"


def _number(path: str) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
