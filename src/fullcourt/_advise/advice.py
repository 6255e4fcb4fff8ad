"""`fullcourt.advise`: try a function on a few items, and say which mode of the pool suits it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fullcourt._advise.facts import Facts
from fullcourt._advise.model import Mode, Prediction, choose, demands_of, predict
from fullcourt._advise.words import caveats, option_words, reason

__all__ = ["Advice", "advise", "advise_from"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Advice(Generic[R]):
    """Which mode suits a function, and why. ``print`` it.

    Attributes:
        choice: the mode; its `processes` (0: none) and `threads` (1: one at a time) are the numbers of workers.
        reason: why, in a sentence or two.
        caveats: why it may be wrong; empty if nothing speaks for that.
        predictions: what each mode would do, items a second with a range; the choice is one of them.
        facts: what was measured; all the rest follows from it. Its `to_json` and `from_json` keep it.
        results: of the items that ran meanwhile: the first ones of the input, in order.
        rest: an iterator of those that did not run.
    """

    choice: Mode
    reason: str
    caveats: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    facts: Facts
    results: list[R] = field(default_factory=list[R], repr=False)
    rest: Iterator[Any] = field(default_factory=lambda: iter(()), repr=False, compare=False)

    @property
    def options(self) -> dict[str, int]:
        """The choice as arguments: ``Pool(**advice.options)``."""
        mode = self.choice
        options: dict[str, int] = {}
        if mode.processes or mode.threads == 1:
            options["processes"] = mode.processes
        if mode.threads > 1:
            options["threads"] = mode.threads
        return options

    def __str__(self) -> str:
        lines = [f"Use {self.choice}: Pool({option_words(self.choice)}).", self.reason, *self.caveats, ""]
        width = max(len(str(p.mode)) for p in self.predictions)
        lines.append(f"{'':{width}}   items a second        range")
        for prediction in self.predictions:
            mark = ">" if prediction.mode == self.choice else " "
            low, high = number(prediction.low), number(prediction.high)
            lines.append(f"{mark} {prediction.mode!s:{width}} {number(prediction.rate):>14}   {low} to {high}")
        return "\n".join(lines)


def number(value: float) -> str:
    """A rate that a person can read: three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def advise(fn: Callable[[Any], R], items: Iterable[Any]) -> Advice[R]:
    """Run a function on a few items, alone and two at a time, and say which mode suits it.

    That takes about a second; items that are longer are run once each, two of them. Their results are kept
    (`Advice.results`), and the items after them handed back (`Advice.rest`): so nothing need run twice. The function
    runs in threads of this process.

    Args:
        fn: called with one item at a time.
        items: read as far as is needed; a few dozen or more say more than one or two.

    Raises:
        ValueError: there are no items.
        TypeError: the function is none.
        Exception: what the function, or the input, raised.

    Example:
        >>> advice = advise(len, ["one", "three"] * 1000)
        >>> advice.choice.processes  # calls this short are not worth a way to another process
        0
        >>> advice.results[:2]
        [3, 5]
    """
    if not callable(fn):
        raise TypeError(f"the function to try must be callable, not {fn!r}")
    if not hasattr(items, "__iter__"):
        raise TypeError(f"items must be an iterable, not {items!r}")
    from fullcourt._advise.calibrate import calibrate

    calibration = calibrate(fn, items)
    advice: Advice[R] = advise_from(calibration.facts)
    return Advice(
        advice.choice,
        advice.reason,
        advice.caveats,
        advice.predictions,
        advice.facts,
        calibration.results,
        calibration.rest,
    )


def advise_from(facts: Facts, *, n_items: int | None = None) -> Advice[Any]:
    """The advice that follows from facts: nothing runs, nothing is measured.

    Args:
        facts: what was measured before, perhaps elsewhere.
        n_items: how many items are to be done; None: very many.
    """
    predictions = predict(facts, n_items=n_items)
    chosen = choose(predictions, facts, n_items=n_items)
    words = reason(facts, demands_of(facts), chosen, predictions)
    return Advice(chosen.mode, words, caveats(facts), tuple(predictions), facts)
