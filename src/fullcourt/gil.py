"""The GIL, observed: `fullcourt.observe()` and what it returns."""

from __future__ import annotations

from fullcourt._gil.observing import Observation, observe
from fullcourt._gil.pool_view import PoolObservation
from fullcourt._gil.pool_words import PoolFacts
from fullcourt._gil.report import GilReport, ProcessReport, Report, ThreadReport, Times, Waits

__all__ = [
    "GilReport",
    "Observation",
    "PoolFacts",
    "PoolObservation",
    "ProcessReport",
    "Report",
    "ThreadReport",
    "Times",
    "Waits",
    "observe",
]
