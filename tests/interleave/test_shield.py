"""A signal at every line, and at every two lines, of what the shield protects: none is lost, none tears a step.

It is raised for real, by a trace function, in the main thread; Python runs the handler between two
instructions.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import pytest

from fullcourt._engines import future as future_module
from fullcourt._engines import roles as roles_module
from fullcourt._engines.future import Future
from fullcourt._engines.roles import Roles
from fullcourt._os import interrupts as interrupts_module
from fullcourt._os.interrupts import Shield

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread"
)


KINDS = (signal.SIGINT, signal.SIGALRM)


class Interrupted(Exception):
    pass


class Interrupter:
    """Raises signals in the main thread, one at each of the given lines of the modules (counted from 1)."""

    def __init__(self, modules: list[Any], at: tuple[int, ...], signals: tuple[int, ...]) -> None:
        self._files = {str(module.__file__) for module in modules}
        self._at = dict(zip(at, signals, strict=False))
        self.n_lines = 0

    def trace(self, frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in self._files or frame.f_code.co_name == "_handle":
            return None
        return self.trace_lines

    def trace_lines(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self.n_lines += 1
            if self.n_lines in self._at:
                signal.raise_signal(self._at[self.n_lines])
        return self.trace_lines


class Protected:
    """Two steps under a shield with a wait between them, and the interrupts that came through."""

    def __init__(self) -> None:
        self.shield = Shield()
        self.inside = False
        self.n_torn = 0
        self.n_handled = 0

    def handle(self, number: int, frame: object) -> None:
        self.n_handled += 1
        self.n_torn += self.inside

    def run(self) -> None:
        with self.shield:
            self.step()
            self.shield.wait_begins()
            self.shield.wait_ends()
            with self.shield:  # it can be entered again
                self.step()

    def step(self) -> None:
        self.inside = True
        marker()
        self.inside = False


def marker() -> None:
    """Lines of this module where a step is half done."""
    half = 1
    half += 1


def interrupted_at(at: tuple[int, ...], signals: tuple[int, ...]) -> tuple[Protected, Interrupter]:
    protected = Protected()
    interrupter = Interrupter([interrupts_module, sys.modules[__name__]], at, signals)
    old = {number: signal.signal(number, protected.handle) for number in KINDS}
    try:
        sys.settrace(interrupter.trace)
        protected.run()
    finally:
        sys.settrace(None)
        restored = [signal.signal(number, old[number]) for number in KINDS]
    assert restored == [protected.handle] * len(KINDS), f"interrupted at {at}: another handler stayed"
    assert not protected.shield._old
    assert not protected.shield._pending
    return protected, interrupter


@pytest.mark.parametrize("number", KINDS)
def test_one_interrupt_at_any_line_comes_through_once_and_tears_no_step(number: int) -> None:
    _, interrupter = interrupted_at((), ())
    assert interrupter.n_lines > 30
    for line in range(1, interrupter.n_lines + 1):
        protected, _ = interrupted_at((line,), (number,))
        assert (protected.n_handled, protected.n_torn) == (1, 0), f"interrupted at line {line}"


def test_two_interrupts_at_any_lines_come_through() -> None:
    """The second of two comes through at once, wherever it is: so it may be that only it does, and that it tears."""
    _, interrupter = interrupted_at((), ())
    for first in range(1, interrupter.n_lines, 2):
        for second in range(first + 1, interrupter.n_lines + 1, 3):
            protected, _ = interrupted_at((first, second), (signal.SIGINT, signal.SIGINT))
            assert 1 <= protected.n_handled <= 2, f"interrupted at lines {first}, {second}"


def test_two_kinds_at_any_lines_come_through_once_each_and_tear_no_step() -> None:
    _, interrupter = interrupted_at((), ())
    for first in range(1, interrupter.n_lines, 2):
        for second in range(first + 1, interrupter.n_lines + 1, 3):
            protected, _ = interrupted_at((first, second), (signal.SIGALRM, signal.SIGINT))
            assert (protected.n_handled, protected.n_torn) == (2, 0), f"interrupted at lines {first}, {second}"


def test_a_handler_that_does_not_raise_is_called_each_time_while_one_waits() -> None:
    called: list[int] = []
    shield = Shield()
    old = signal.signal(signal.SIGALRM, lambda number, _: called.append(number))
    try:
        with shield:
            signal.raise_signal(signal.SIGALRM)
            shield.wait_begins()
            for _ in range(3):
                signal.raise_signal(signal.SIGALRM)
            assert called == [signal.SIGALRM] * 4
            shield.wait_ends()
    finally:
        signal.signal(signal.SIGALRM, old)


@pytest.mark.parametrize("number", KINDS)
def test_an_interrupt_at_any_line_of_a_wait_leaves_the_roles_usable(number: int) -> None:
    """An exception out of `wait` at whatever line: nobody leads afterwards, and the next waiter gets its result."""

    def wait_interrupted(at: tuple[int, ...]) -> Interrupter:
        arrived: list[Future[int]] = []
        n_open = [2]

        def step(timeout: float | None) -> None:
            roles.shield.wait_begins()
            roles.shield.wait_ends()
            for future in arrived:
                n_open[0] -= 1
                future._settle(1, None)
            arrived.clear()

        roles = Roles(step, lambda: None, lambda: False, lambda: True, "test")
        settler: Any = None
        first: Future[int] = Future(settler)
        second: Future[int] = Future(settler)
        arrived.append(first)
        interrupter = Interrupter([roles_module, interrupts_module, future_module], at, (number,))

        def handle(number: int, frame: object) -> None:
            raise Interrupted

        old = {kind: signal.signal(kind, handle) for kind in KINDS}
        try:
            sys.settrace(interrupter.trace)
            try:
                roles.wait(first, None)
            except Interrupted:
                pass
            finally:
                sys.settrace(None)
            assert [signal.getsignal(kind) for kind in KINDS] == [handle] * len(KINDS), f"interrupted at {at}"
            assert roles._leader is None, f"interrupted at {at}"
            assert not roles._followers
            arrived.append(second)
            assert roles.wait(second, None)
            assert roles.wait(first, None)
            assert n_open == [0]
        finally:
            for kind in KINDS:
                signal.signal(kind, old[kind])
        return interrupter

    n_lines = wait_interrupted(()).n_lines
    assert n_lines > 40
    for line in range(1, n_lines + 1):
        wait_interrupted((line,))
