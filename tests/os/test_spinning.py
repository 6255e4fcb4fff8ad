"""When a waiter stays awake, with a clock of the test's own: what came, what did not, and a core that was gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fullcourt._os import spinning
from fullcourt._os.spinning import (
    LATE_S,
    LEAST_GONE,
    MOST_GONE,
    MOST_LATE,
    MOST_VAIN,
    SAVED_S,
    SLEPT_AT_FIRST,
    SPIN_S,
    Spinner,
)


class World:
    """A clock that goes on by what each look takes, and something that comes at a look of the test's choice."""

    def __init__(self) -> None:
        self.now = 100.0
        self.n_looks = 0

    def look(self, comes_at: int | None, *, gone_at: int | None = None) -> Callable[[], str]:
        self.n_looks = 0

        def look() -> str:
            self.n_looks += 1
            self.now += 3e-3 if self.n_looks == gone_at else 1e-6
            return "it" if self.n_looks == comes_at else ""

        return look


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(spinning, "perf_counter", lambda: world.now)
    return world


def test_it_sleeps_at_first() -> None:
    assert Spinner(may_spin=True).n_to_sleep == SLEPT_AT_FIRST > 0
    assert Spinner(may_spin=False).n_to_sleep > 10**15


def test_waits_that_are_to_be_slept_through_look_at_nothing(world: World) -> None:
    spinner = Spinner(may_spin=True)
    for _ in range(SLEPT_AT_FIRST):
        assert not spinner.wait(world.look(1))
        assert world.n_looks == 0
    assert spinner.wait(world.look(1)) == "it"


def test_what_comes_at_once_is_found_and_the_next_wait_is_awake_too(world: World) -> None:
    spinner = Spinner(may_spin=True)
    spinner.n_to_sleep = 0
    for comes_at in (1, 2, 30):
        assert spinner.spin(world.look(comes_at)) == "it"
        assert world.n_looks == comes_at
        assert spinner.n_to_sleep == 0


def test_vain_waits_become_rare(world: World) -> None:
    spinner = Spinner(may_spin=True)
    for n in range(1, 12):
        began = world.now
        assert not spinner.spin(world.look(None))
        assert SPIN_S < world.now - began < 1.1 * SPIN_S
        assert spinner.n_to_sleep == 2 ** min(n, MOST_VAIN)
    spinner.n_to_sleep = 0
    assert spinner.spin(world.look(3)) == "it"
    assert spinner.n_to_sleep == 0
    assert not spinner.spin(world.look(None))
    assert spinner.n_to_sleep == 2


@pytest.mark.parametrize("comes_at", [5, None], ids=["found", "in vain"])
def test_who_loses_the_core_keeps_off_it_and_longer_each_time(world: World, comes_at: int | None) -> None:
    spinner = Spinner(may_spin=True)
    for n in range(12):
        assert spinner.spin(world.look(comes_at, gone_at=5)) == ("it" if comes_at else "")
        assert spinner.n_to_sleep == 2 ** min(LEAST_GONE + n, MOST_GONE)


def test_what_waits_awake_have_saved_may_be_lost(world: World) -> None:
    """After so many good waits, a core that was gone for 3 ms has cost less than they saved."""
    spinner = Spinner(may_spin=True)
    spinner.n_to_sleep = 0
    n_that_pay = round(3e-3 / SAVED_S) + 1
    for _ in range(3):
        for _ in range(n_that_pay):
            assert spinner.spin(world.look(1)) == "it"
        spinner.spin(world.look(None, gone_at=1))
        assert spinner.n_to_sleep == 0
    for _ in range(n_that_pay - 3):
        spinner.spin(world.look(1))
    spinner.spin(world.look(None, gone_at=1))
    assert spinner.n_to_sleep == 2**LEAST_GONE


def test_what_has_paid_is_trusted_again(world: World) -> None:
    spinner = Spinner(may_spin=True)
    for _ in range(3):
        spinner.spin(world.look(None, gone_at=1))
    for _ in range(round(3e-3 / SAVED_S) + 1):
        spinner.spin(world.look(1))
    for _ in range(2):
        spinner.spin(world.look(None, gone_at=1))
    assert spinner.n_to_sleep == 2**LEAST_GONE


LATE = round(LATE_S * 1e6) + 10  # the look at which something comes late


def test_what_comes_late_is_forgiven_for_a_while(world: World) -> None:
    spinner = Spinner(may_spin=True)
    spinner.n_to_sleep = 0
    for _ in range(MOST_LATE):
        assert spinner.spin(world.look(LATE)) == "it"
        assert spinner.n_to_sleep == 0
    assert spinner.spin(world.look(LATE)) == "it"
    assert spinner.n_to_sleep == 2


def test_what_always_comes_late_is_slept_through_nearly_always(world: World) -> None:
    spinner = Spinner(may_spin=True)
    n_looked = 0
    for _ in range(5000):
        spinner.wait(world.look(LATE))
        n_looked += world.n_looks > 0
    assert n_looked < 0.05 * 5000


def test_late_ones_save_nothing(world: World) -> None:
    """They are no good against a core that was gone."""
    spinner = Spinner(may_spin=True)
    for _ in range(5):
        for _ in range(MOST_LATE):
            spinner.spin(world.look(LATE))
        spinner.spin(world.look(1))
    spinner.spin(world.look(None, gone_at=1))
    assert spinner.n_to_sleep == 2**LEAST_GONE


def test_what_comes_in_time_wipes_out_what_came_late(world: World) -> None:
    spinner = Spinner(may_spin=True)
    spinner.n_to_sleep = 0
    for _ in range(MOST_LATE):
        spinner.spin(world.look(LATE))
    spinner.spin(world.look(5))
    for _ in range(MOST_LATE):
        assert spinner.spin(world.look(LATE)) == "it"
        assert spinner.n_to_sleep == 0
