"""Memory that processes share without copies: ``share`` what exists, make ``empty`` arrays that live there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fullcourt.shared.block import arrive
from fullcourt.shared.handles import Shared, empty, share

if TYPE_CHECKING:
    from fullcourt.shared.arrays import SharedArray

__all__ = ["Shared", "SharedArray", "empty", "share"]

# Pickles name them here, as in fullcourt.channels.
Shared.__module__ = arrive.__module__ = __name__


def __getattr__(name: str) -> Any:
    if name == "SharedArray":  # needs NumPy, which is optional
        from fullcourt.shared.arrays import SharedArray

        return SharedArray
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
