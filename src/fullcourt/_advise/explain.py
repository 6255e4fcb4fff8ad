"""What an auto pool chose, and how it turned out: frozen records for `Pool.explain`."""

from __future__ import annotations

from dataclasses import dataclass

from fullcourt._advise.facts import Facts
from fullcourt._advise.model import Mode, Prediction

__all__ = ["Choice", "Explanation"]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for one map, or for the calls of one function.

    Attributes:
        function: its name.
        mode: where it runs; at the end, where it ran last.
        reason: why, in a sentence or two.
        n_items: how many items have ended; of calls, how many were made.
        predicted: items a second in that mode, with a range; None: nothing was predicted.
        measured: items a second that were seen there; None: it did not last long enough.
        changed_from: the mode that it was in before it changed over; None: it did not.
        facts: what the prediction comes from; None: nothing was measured.
        predictions: what the other modes would do.
    """

    function: str
    mode: Mode
    reason: str
    n_items: int = 0
    predicted: Prediction | None = None
    measured: float | None = None
    changed_from: Mode | None = None
    facts: Facts | None = None
    predictions: tuple[Prediction, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.function}: {self.mode}, {self.n_items:,} items. {self.reason}"]
        if self.predicted is not None:
            p = self.predicted
            seen = "not measured" if self.measured is None else f"{self.measured:,.3g} a second measured"
            lines.append(f"  {p.rate:,.3g} items a second predicted ({p.low:,.3g} to {p.high:,.3g}), {seen}.")
        if self.changed_from is not None:
            lines.append(f"  Before, it ran in {self.changed_from}.")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a pool chose and why; ``print`` it.

    Attributes:
        choices: the newest last; of the last hundred maps and functions.
    """

    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        if not self.choices:
            return "Nothing was chosen: this pool has run nothing yet, or was told its mode."
        return "\n".join(map(str, self.choices))
