"""The number of usable cores, from made-up /proc and /sys trees and from this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fullcourt._os import cpus
from fullcourt._os.cpus import usable_cores


@pytest.fixture
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores, all of them allowed."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)


def tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


V2_MOUNT = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
V1_MOUNT = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"


def found(root: str, **environ: str) -> cpus.UsableCores:
    return usable_cores(root=root, environ=environ)


@pytest.mark.usefixtures("sixteen")
def test_without_any_limit_all_cores_are_usable(tmp_path: Path) -> None:
    cores = found(str(tmp_path))
    assert (cores.count, cores.total, cores.affinity, cores.quota) == (16, 16, 16, None)
    assert "All 16" in cores.reason


@pytest.mark.usefixtures("sixteen")
def test_a_v2_quota_is_rounded_up(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2_MOUNT, "sys/fs/cgroup/cpu.max": "150000 100000\n"},
    )
    cores = found(root)
    assert (cores.count, cores.quota) == (2, 1.5)
    assert "quota of 1.5 cores, rounded up to 2" in cores.reason
    assert "cpu.max" in cores.reason


@pytest.mark.usefixtures("sixteen")
def test_a_quota_below_one_core_still_gives_one(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": V2_MOUNT, "sys/fs/cgroup/cpu.max": "10000 100000\n"},
    )
    assert found(root).count == 1


@pytest.mark.usefixtures("sixteen")
def test_the_tightest_of_nested_groups_counts(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/kube/pod/box\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/kube/cpu.max": "max 100000\n",
            "sys/fs/cgroup/kube/pod/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/kube/pod/box/cpu.max": "800000 100000\n",
        },
    )
    assert found(root).count == 3


@pytest.mark.usefixtures("sixteen")
def test_a_v1_quota_counts_and_minus_one_means_none(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/\n",
        "proc/self/mountinfo": V1_MOUNT.replace(" / ", " /docker/abc ", 1),
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    }
    root = tree(tmp_path, files)
    assert found(root).quota == 4.0
    tree(tmp_path, {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n"})
    assert found(root).quota is None


@pytest.mark.usefixtures("sixteen")
def test_a_host_cgroup_path_that_the_mount_does_not_show_reads_the_mount_itself(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../outside\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
        },
    )
    assert found(root).count == 2


@pytest.mark.usefixtures("sixteen")
def test_a_mount_point_with_a_space_is_found(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT.replace("/sys/fs/cgroup", r"/sys/c\040g"),
            "sys/c g/cpu.max": "200000 100000\n",
        },
    )
    assert found(root).count == 2


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize("text", ["", "nonsense", "0 100000", "5 0", "-1 100000", "\0"])
def test_a_strange_quota_does_not_limit_and_does_not_raise(tmp_path: Path, text: str) -> None:
    root = tree(
        tmp_path,
        {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "rubbish\n" + V2_MOUNT, "sys/fs/cgroup/cpu.max": text},
    )
    assert found(root).count == 16


@pytest.mark.usefixtures("sixteen")
def test_the_affinity_mask_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5}, raising=False)
    cores = found(str(tmp_path))
    assert cores.count == 2
    assert "2 of the machine's 16" in cores.reason


@pytest.mark.usefixtures("sixteen")
def test_python_cpu_count_wins_over_everything(tmp_path: Path) -> None:
    cores = found(str(tmp_path), PYTHON_CPU_COUNT="40")
    assert cores.count == 40
    assert "PYTHON_CPU_COUNT" in cores.reason


@pytest.mark.usefixtures("sixteen")
@pytest.mark.parametrize("value", ["default", "", "0", "many", "-3"])
def test_a_python_cpu_count_that_is_no_number_is_passed_over(tmp_path: Path, value: str) -> None:
    assert found(str(tmp_path), PYTHON_CPU_COUNT=value).count == 16


def test_the_x_option_is_honoured_on_every_python() -> None:
    code = "from fullcourt._os.cpus import usable_cores as u; print(u().count)"
    done = subprocess.run(
        [sys.executable, "-X", "cpu_count=7", "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "7"


def test_it_takes_less_than_a_millisecond() -> None:
    def once() -> float:
        started = time.perf_counter()
        usable_cores()
        return time.perf_counter() - started

    assert min(once() for _ in range(20)) < 0.001


def test_this_machine_has_a_plausible_answer() -> None:
    cores = usable_cores(environ={})
    assert 1 <= cores.count <= cores.affinity <= cores.total
    assert cores.reason.endswith(".")
