"""How long one system call may wait."""

from __future__ import annotations

__all__ = ["bounded"]

LONGEST_S = 86_400.0  # epoll and poll take no more than 24 days; whoever waits for longer looks again


def bounded(timeout: float | None) -> float | None:
    """The seconds that one wait may take of these; the caller waits again if they were not all."""
    return timeout if timeout is None or timeout < LONGEST_S else LONGEST_S
