"""Handles that are made or closed when there is no descriptor left, or while another thread forks."""

from __future__ import annotations

import os
import pickle
import re
import resource
import sys
from collections.abc import Callable
from typing import Any

import pytest
from endpoints import fork, reap

import fullcourt
from fullcourt._transport.carried import collecting
from fullcourt.channels._monitor import Monitor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="queues need Linux")

MAKERS: list[Callable[[], Any]] = [
    fullcourt.Queue,
    fullcourt.JoinableQueue,
    fullcourt.Lock,
    fullcourt.Semaphore,
    fullcourt.Condition,
    lambda: fullcourt.Barrier(2),
    fullcourt.Pipe,
]


@pytest.mark.parametrize("make", [*MAKERS, lambda: fullcourt.share(b"content")])
def test_pickles_name_packages_alone(make: Any) -> None:
    """Of which two threads may import the parts at once."""
    with collecting():
        data = pickle.dumps(make())
    assert set(re.findall(rb"fullcourt[\w.]*", data)) <= {b"fullcourt.channels", b"fullcourt.shared"}


def open_descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


@pytest.mark.parametrize("received", [False, True], ids=["made", "received"])
@pytest.mark.parametrize("make", MAKERS)
def test_what_cannot_be_made_for_want_of_descriptors_leaves_none_open(make: Any, received: bool) -> None:
    items = fullcourt.Queue()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = open_descriptors()
    free = [fd for fd in range(soft) if fd not in before]
    n_failed = 0
    for n_free in range(40):
        if received:
            items.put(make())
        made = None
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[n_free], hard))
        try:
            made = items.get(timeout=0) if received else make()
        except (OSError, fullcourt.PicklingError):
            n_failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        del made
        assert open_descriptors() == before
    assert 0 < n_failed < 40


@pytest.mark.parametrize("when", ["__init__", "close"])
@pytest.mark.parametrize("make", [fullcourt.Queue, fullcourt.Lock])
def test_a_fork_while_a_handle_is_made_or_closed_leaves_the_others_in_order(
    when: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [fullcourt.Lock() for _ in range(20)]
    act = getattr(Monitor, when)
    ended: list[int] = []

    def forks_after(monitor: Monitor, *args: Any) -> None:
        act(monitor, *args)
        if ended:
            return

        def child() -> None:  # its hooks have run
            assert not broken
            assert all(lock.acquire(block=False) for lock in others)

        ended.append(reap(fork(child)))

    broken: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", broken.append)
    handle = make() if when == "close" else None
    with monkeypatch.context() as patches:  # undone while the locks still live
        patches.setattr(Monitor, when, forks_after)
        handle = handle or make()
        handle._close_all()
    assert ended == [0]
