"""Sockets that are part of a larger object, which closes them.

The garbage collector finalizes the parts of a cycle in any order. A plain socket that comes before its owner would warn
of being unclosed, and close a descriptor that its owner then closes again, when it may be another's already.
"""

from __future__ import annotations

import socket

__all__ = ["Part", "View"]


class View(socket.socket):
    """A socket object for a descriptor that stays its owner's: it goes without closing it."""

    def __del__(self) -> None:
        self.detach()


class Part(socket.socket):
    """A socket that its owner closes when it goes, and that goes without a word if it comes first."""

    def __del__(self) -> None:
        self.close()
