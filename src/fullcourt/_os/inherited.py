"""Who holds descriptors that a forked child of the program must not keep."""

from __future__ import annotations

import weakref
from typing import Protocol

__all__ = ["give_up_inherited", "note_holder"]


class Holder(Protocol):
    """Holds descriptors; can close them in a child without a word to anybody."""

    def give_up(self) -> None: ...


# One for the process: a fork is the process's, too.
holders: weakref.WeakSet[Holder] = weakref.WeakSet()


def note_holder(holder: Holder) -> None:
    """From now on, a child made by ``fullcourt.fork`` has this holder give up its descriptors."""
    holders.add(holder)


def give_up_inherited() -> None:
    """Called in the child: close what the parent's holders had open. Takes no lock: the child has one thread."""
    inherited = list(holders)
    holders.clear()
    for holder in inherited:
        holder.give_up()
