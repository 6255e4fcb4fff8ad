"""Processes and threads by themselves, with results; and ``fork``, made safe."""

from __future__ import annotations

from fullcourt.process.forks import Child, ForkWarning, fork
from fullcourt.process.processes import Process
from fullcourt.process.threads import Thread

__all__ = ["Child", "ForkWarning", "Process", "Thread", "fork"]
