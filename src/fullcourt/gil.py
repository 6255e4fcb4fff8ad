"""The GIL, observed: `fullcourt.observe()` and what it returns."""

from __future__ import annotations

from fullcourt._gil.observing import Observation, observe
from fullcourt._gil.report import GilReport, ProcessReport, Report, ThreadReport, Times, Waits

__all__ = ["GilReport", "Observation", "ProcessReport", "Report", "ThreadReport", "Times", "Waits", "observe"]
