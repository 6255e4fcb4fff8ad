"""How the states are called and drawn, everywhere the same.

*Source* of the colours: Okabe and Ito, "Color Universal Design", 2008: told apart with every kind of colour blindness.
Each state has a sign of its own, too, for terminals without colours.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["STYLES", "Style"]


class Style(NamedTuple):
    """A state's looks.

    Attributes:
        label: its name for people.
        meaning: one sentence about it.
        sign: one character.
        colour: as ``#rrggbb``, on light and dark ground.
    """

    label: str
    meaning: str
    sign: str
    colour: str


# In the order of `waits.STATES`.
STYLES: Final = {
    "held": Style("GIL held", "held the GIL on a core", "█", "#0072b2"),
    "native": Style("native", "ran on a core without the GIL", "▓", "#009e73"),
    "gil_wait": Style("GIL wait", "waited for the GIL", "!", "#d55e00"),
    "queued": Style("no core", "could have run, but had no core", "?", "#e69f00"),
    "lock": Style("lock", "blocked by a lock", "L", "#cc79a7"),
    "sleep": Style("sleep", "asleep", "·", "#c9cdd2"),
    "network": Style("network", "waited for a socket or a pipe", "n", "#8fcdf0"),
    "file": Style("file", "waited for a file", "f", "#8a7a5c"),
    "other": Style("other", "blocked by something else", "-", "#9aa0a6"),
}
