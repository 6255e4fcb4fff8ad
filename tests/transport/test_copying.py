"""Copies of large memory: every byte at its place, whoever copies it, and whatever goes wrong."""

from __future__ import annotations

import _thread
import mmap
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

from fullcourt._transport import copying
from fullcourt._transport.arena import Arena
from fullcourt._transport.copying import FOR_A_THREAD, SLICE, copy

MB = 1 << 20
MARGIN = 4096


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So many threads copy, also where there are fewer; afterwards none is left."""
    monkeypatch.setattr(copying, "n_cores", lambda: 4)
    n_before = len(sys._current_frames())
    yield
    limit = time.monotonic() + 30
    while len(sys._current_frames()) > n_before:  # the copy is there a moment before its threads have ended
        assert time.monotonic() < limit
        time.sleep(0.001)


def check_copy(n: int) -> None:
    """Copy so many bytes to an odd place, and look at those and at the ones around them."""
    source = np.random.default_rng(5).integers(1, 255, n, dtype=np.uint8)
    with mmap.mmap(-1, n + 2 * MARGIN) as target:
        copy(target, MARGIN - 1, memoryview(source))
        found = np.frombuffer(target, np.uint8)
        same = bool((found[MARGIN - 1 : MARGIN - 1 + n] == source).all())
        n_around = int(np.count_nonzero(found[: MARGIN - 1]) + np.count_nonzero(found[MARGIN - 1 + n :]))
        del found
    assert (same, n_around) == (True, 0)


@pytest.mark.parametrize("n", [0, 1, 2 * FOR_A_THREAD - 1, 2 * FOR_A_THREAD, 2 * FOR_A_THREAD + 3, SLICE + 5])
def test_every_byte_comes_to_its_place(n: int, four_cores: None) -> None:
    check_copy(n)


def test_without_numpy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)  # type: ignore[arg-type]
    monkeypatch.setattr(copying.Piece, "begin", lambda _: pytest.fail("a thread"))
    check_copy(SLICE + 5)


def test_on_one_core_no_thread_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "n_cores", lambda: 1)
    monkeypatch.setattr(copying.Piece, "begin", lambda _: pytest.fail("a thread"))
    check_copy(2 * FOR_A_THREAD)


def test_several_threads_copy(monkeypatch: pytest.MonkeyPatch, four_cores: None) -> None:
    """Each waits for the others in its copy: so they are there at the same time."""
    together = threading.Barrier(4, timeout=30)

    def copyto(to: Any, what: Any) -> None:
        together.wait()
        np.copyto(to, what)

    monkeypatch.setitem(sys.modules, "numpy", namespace(copyto))
    check_copy(4 * FOR_A_THREAD)


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch, four_cores: None) -> None:
    def start(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(copying, "start_joinable", start)
    monkeypatch.setattr(_thread, "start_new_thread", start)
    check_copy(4 * FOR_A_THREAD)


def test_what_a_thread_could_not_copy_is_copied(monkeypatch: pytest.MonkeyPatch, four_cores: None) -> None:
    failed = threading.Event()

    def copyto(to: Any, what: Any) -> None:
        if threading.get_ident() == threading.main_thread().ident:
            assert failed.wait(30)
        elif not failed.is_set():
            failed.set()
            raise MemoryError
        np.copyto(to, what)

    monkeypatch.setitem(sys.modules, "numpy", namespace(copyto))
    check_copy(4 * FOR_A_THREAD)


def test_an_interrupt_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, four_cores: None) -> None:
    """The exception comes out while another thread still copies into the block, which is closed under it."""
    goes_on = threading.Event()

    def copyto(to: Any, what: Any) -> None:
        if threading.get_ident() == threading.main_thread().ident:
            raise KeyboardInterrupt
        assert goes_on.wait(30)
        np.copyto(to, what)

    array = np.ones(2 * FOR_A_THREAD, dtype=np.uint8)
    arena = Arena(64 * MB)
    try:
        first = arena.write([memoryview(array)], [0], len(array))
        if first is None:
            pytest.skip("no leases or no /proc here: blocks are fresh each time")
        os.close(first)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "numpy", namespace(copyto))
            with pytest.raises(KeyboardInterrupt):
                arena.write([memoryview(array)], [0], len(array))
        second = arena.write([memoryview(array)], [0], len(array))  # into a new block
        assert second is not None
        os.close(second)
        assert arena.n_warm == 1
    finally:
        goes_on.set()
        arena.close()


@pytest.mark.parametrize("raised", [RuntimeError, IndexError], ids=["RuntimeError", "IndexError"])
def test_what_a_signals_handler_raises_is_never_swallowed(raised: type[Exception], four_cores: None) -> None:
    """And what returns has copied all, whenever the signal came."""

    class Raised(raised):  # type: ignore[misc, valid-type]
        pass

    def handle(*_: object) -> None:
        nonlocal n_handled
        n_handled += 1
        raise Raised

    n_handled = n_raised = n_copied = 0
    before = signal.signal(signal.SIGALRM, handle)
    source = np.empty(2 * FOR_A_THREAD, dtype=np.uint8)
    try:
        for i in range(150):
            source[:] = i
            target = mmap.mmap(-1, len(source))  # it goes with the last thread that copies into it
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + i * 3e-5)
                copy(target, 0, memoryview(source))
                signal.setitimer(signal.ITIMER_REAL, 0)
                n_copied += 1
                assert target[-1] == target[len(source) // 2] == target[0] == i
            except Raised:
                n_raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert n_handled == n_raised > 0
    assert n_raised + n_copied == 150


@pytest.mark.parametrize("stub", [mock.MagicMock(), types.SimpleNamespace(copyto=print), types.ModuleType("numpy")])
def test_what_is_not_numpy_is_not_used(stub: Any, monkeypatch: pytest.MonkeyPatch, four_cores: None) -> None:
    monkeypatch.setitem(sys.modules, "numpy", stub)
    check_copy(2 * FOR_A_THREAD)


def namespace(copyto: Any) -> Any:
    module: Any = types.ModuleType("numpy")
    module.copyto, module.frombuffer, module.uint8 = copyto, np.frombuffer, np.uint8
    return module
