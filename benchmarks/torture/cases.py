"""The cases: each is a function of the pool's class, which runs in a program of its own.

A case ends in silence if the pool did what its users should get, and raises :class:`Wrong` (an outcome that is not
true), :class:`Lost` (other tasks than the guilty one suffered) or :class:`NotOffered`. Hangs, late ends and leftover
processes are the runner's to see. Cases with ``signal`` print READY when the runner shall send it.
"""

from benchmarks.torture import (  # noqa: I001  in the table's order
    cases_deaths,
    cases_raising,
    cases_travelling,
    cases_limits,
    cases_ends,
    cases_lives,
    cases_surroundings,
)
from benchmarks.torture.casebook import CASES, Case, Lost, Wrong

__all__ = [
    "CASES",
    "Case",
    "Lost",
    "Wrong",
    "cases_deaths",
    "cases_ends",
    "cases_limits",
    "cases_lives",
    "cases_raising",
    "cases_surroundings",
    "cases_travelling",
]
