"""How many cores this process may really use, and why.

`os.cpu_count()` counts the machine's cores. A container often may use far fewer: by its affinity mask (cpusets,
`taskset`), or by a CPU quota, which the mask does not show. A pool of 64 workers on a quota of 2 cores is slower than
one of 2, and runs out of memory sooner. So the default number of workers is read from here.

Cost: two small reads in /proc and one or two in /sys for each level of the cgroup tree, about 0.1 ms.
"""

from __future__ import annotations

import math
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fullcourt._os.budget import CORES_VARIABLE, own_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["UsableCores", "cgroup_folders", "share_of", "usable_cores"]


def share_of(cores: int, n_slots: int) -> int:
    """What a pool of so many slots that may use so many cores leaves to each of them."""
    return max(1, cores // n_slots)


@dataclass(frozen=True, slots=True)
class UsableCores:
    """The number of cores to use, and the facts it comes from.

    Attributes:
        count: Cores to use, at least 1.
        total: Cores of the machine.
        affinity: Cores that the scheduler may put this process on; equals `total` where the system has no such mask.
        quota: CPU seconds per second that the cgroups allow, the tightest of all levels; `None` without a quota.
        reason: One sentence that says which of these decided.
    """

    count: int
    total: int
    affinity: int
    quota: float | None
    reason: str


def usable_cores(*, root: str = "/", environ: Mapping[str, str] | None = None) -> UsableCores:
    """Return how many cores this process may use.

    In this order: what a pool left to the task that runs here, or `FULLCOURT_CORES`; `-X cpu_count` or
    `PYTHON_CPU_COUNT` if set (also on Pythons before 3.13, which do not know them); else the smaller one of the
    affinity mask and the CPU quota of the cgroups, rounded up: a quota of 1.5 keeps two workers busier than one. Never
    raises: what cannot be read does not limit.

    Args:
        root: Folder in which `proc` and `sys` lie; another one than `/` is for tests.
        environ: Environment to read; the process's own by default.

    Example:
        >>> cores = usable_cores()
        >>> 1 <= cores.count
        True
    """
    total = os.cpu_count() or 1
    affinity = _affinity(total)
    found = _quota(root)
    quota = found[0] if found else None
    share = own_share(environ)
    if share is not None:
        reason = f"A task's share of its pool's cores, or {CORES_VARIABLE}, is {share}."
        return UsableCores(share, total, affinity, quota, reason)
    wanted = _override(os.environ if environ is None else environ)
    if wanted is not None:
        name, count = wanted
        return UsableCores(count, total, affinity, quota, f"{name} says {count}, whatever the machine allows.")
    return _decide(total, affinity, found)


def _decide(total: int, affinity: int, found: tuple[float, str] | None) -> UsableCores:
    """Combine the facts; `found` is the quota and the file that it was read from."""
    if found is not None and math.ceil(found[0]) < affinity:
        quota, path = found
        count = max(1, math.ceil(quota))
        rounded = "" if quota == count else f", rounded up to {count}"
        return UsableCores(
            count,
            total,
            affinity,
            quota,
            f"A CPU quota of {quota:g} cores{rounded} ({path}); {affinity} of {total} cores may be used.",
        )
    quota_or_none = found[0] if found else None
    no_quota = "no CPU quota is set" if found is None else f"the CPU quota of {found[0]:g} cores allows them"
    if affinity < total:
        reason = f"The affinity mask allows {affinity} of the machine's {total} cores; {no_quota}."
    else:
        reason = (
            f"All {total} of the machine's cores may be used; {no_quota}."
            if total > 1
            else f"The machine has one core; {no_quota}."
        )
    return UsableCores(affinity, total, affinity, quota_or_none, reason)


def _override(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Return the number that the user demanded, with the name of the switch; a bad value counts as none."""
    switch = sys._xoptions.get("cpu_count")
    for name, value in (
        ("-X cpu_count", switch),
        ("PYTHON_CPU_COUNT", None if sys.flags.ignore_environment else environ.get("PYTHON_CPU_COUNT")),
    ):
        if isinstance(value, str) and value:
            # "default" takes an outer setting back: the option's over the environment's.
            return (name, int(value)) if value.isascii() and value.isdigit() and int(value) > 0 else None
    return None


def _affinity(total: int) -> int:
    if sys.platform != "win32" and hasattr(os, "sched_getaffinity"):
        try:
            return len(os.sched_getaffinity(0)) or total
        except OSError:
            return total
    return total


def _quota(root: str) -> tuple[float, str] | None:
    """Return the tightest CPU quota over all cgroups that hold this process, in cores, and the file that says so."""
    tightest: tuple[float, str] | None = None
    for path, version in cgroup_folders(root, "cpu"):
        found = _quota_v2(path) if version == 2 else _quota_v1(path)
        if found is not None and (tightest is None or found[0] < tightest[0]):
            tightest = found
    return tightest


def _quota_v2(folder: str) -> tuple[float, str] | None:
    path = f"{folder}/cpu.max"
    words = _read(path).split()
    if not words or words[0] == "max":
        return None
    # The period is always there in what the kernel prints; 100 ms is its default (cgroup-v2, cpu.max).
    return _cores(words[0], words[1] if len(words) > 1 else "100000", path)


def _quota_v1(folder: str) -> tuple[float, str] | None:
    path = f"{folder}/cpu.cfs_quota_us"
    quota = _read(path).strip()
    if not quota or quota.startswith("-"):
        return None
    return _cores(quota, _read(f"{folder}/cpu.cfs_period_us").strip() or "100000", path)


def _cores(quota_us: str, period_us: str, path: str) -> tuple[float, str] | None:
    try:
        quota, period = int(quota_us), int(period_us)
    except ValueError:
        return None
    return (quota / period, path) if quota > 0 and period > 0 else None


def cgroup_folders(root: str, controller: str) -> Iterator[tuple[str, int]]:
    """Yield the folder of each cgroup that holds this process, inmost first, with its version (1 or 2).

    Version 1 has a hierarchy for each `controller` (`cpu`, `memory`, `pids`), version 2 has one for all.

    `/proc/self/cgroup` names the group within its hierarchy; `/proc/self/mountinfo` says where which part of that
    hierarchy is mounted. In a container that shares the host's cgroup namespace the group is `/docker/ID` while the
    mount shows only what lies below `/docker/ID`; with a namespace of its own, both are `/`.
    """
    root = root.rstrip("/")
    groups = _groups(_read(f"{root}/proc/self/cgroup"), controller)
    if not groups:
        return
    for line in _read(f"{root}/proc/self/mountinfo").splitlines():
        before, dash, after = line.partition(" - ")
        kind = after.split(" ", 2)
        if not dash or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        if version not in groups or (version == 1 and controller not in kind[2].split(",")):
            continue
        fields = before.split(" ")
        if len(fields) >= 5:
            for folder in _upwards(_unescape(fields[3]), root + _unescape(fields[4]), groups[version]):
                yield folder, version


def _groups(text: str, controller: str) -> dict[int, str]:
    """Return this process' cgroup by version: `{1: path in the controller's tree, 2: path in the unified tree}`."""
    groups: dict[int, str] = {}
    for line in text.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            groups[2] = path
        elif controller in controllers.split(","):
            groups[1] = path
    return groups


def _upwards(mounted: str, mount_point: str, group: str) -> Iterator[str]:
    """Yield the folders from `group`'s own up to the mount point, of which `mounted` is the group that it shows."""
    mounted = mounted.rstrip("/")
    inside = group[len(mounted) :] if group == mounted or group.startswith(mounted + "/") else ""
    parts = [part for part in inside.split("/") if part]
    if ".." in parts:  # the process was moved outside its cgroup namespace: its own folder cannot be reached
        parts = []
    for depth in range(len(parts), -1, -1):
        yield "/".join([mount_point.rstrip("/"), *parts[:depth]])


def _unescape(field: str) -> str:
    r"""Undo the octal escapes of mountinfo (a space is `\040`, proc(5))."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field) if "\\" in field else field


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
