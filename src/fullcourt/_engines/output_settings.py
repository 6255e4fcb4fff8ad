"""What the program wants to have of what its workers print, log and warn of, as they learn of it."""

from __future__ import annotations

import logging
import warnings

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["ERR", "OUT", "OutputSettings", "get_filters", "is_real"]

OUT, ERR = 1, 2  # the streams, as a frame names them

# Of 3.14 on, filters may belong to the context; there is no public way to ask for those that hold.
filters_of_context: Callable[[], list[Any]] | None = getattr(warnings, "_get_filters", None)


def get_filters() -> list[Any]:
    """The filters that hold here and now."""
    filters: Any = warnings.filters if filters_of_context is None else filters_of_context()
    return filters  # type: ignore[no-any-return]


class OutputSettings:
    """What the program wants to have of its workers.

    Attributes:
        levels: the loggers that have a level of their own; the root is ``""``.
        handled: the loggers that have handlers which do something.
        disabled: what ``logging.disable`` was called with, 0 if it was not.
        filters: those of `warnings`, each pickled.
        terminals: whether stdout and stderr are terminals.
        version: higher with each change.
    """

    def __init__(
        self,
        levels: dict[str, int],
        handled: frozenset[str],
        disabled: int,
        filters: tuple[bytes, ...],
        terminals: tuple[bool, bool],
        version: int = 0,
    ) -> None:
        self.levels = levels
        self.handled = handled
        self.disabled = disabled
        self.filters = filters
        self.terminals = terminals
        self.version = version

    def want_as(self, other: OutputSettings) -> bool:
        """Whether these ask for the same as others do."""
        return vars(self) | {"version": 0} == vars(other) | {"version": 0}


def is_real(handler: logging.Handler) -> bool:
    """Whether a handler does something."""
    return not isinstance(handler, logging.NullHandler)
