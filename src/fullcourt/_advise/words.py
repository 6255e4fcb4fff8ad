"""The choice in plain words, with the numbers that led to it."""

from __future__ import annotations

from collections.abc import Sequence

from fullcourt._advise.facts import Facts
from fullcourt._advise.model import Demands, Mode, Prediction

__all__ = ["caveats", "reason", "seconds", "sizes"]


def reason(facts: Facts, demands: Demands, chosen: Prediction, predictions: Sequence[Prediction]) -> str:
    """Why this mode."""
    serial = next((p for p in predictions if p.mode.kind == "serial"), chosen)
    return f"{what_it_does(facts, demands)} {why(facts, demands, chosen, serial)}"


def what_it_does(facts: Facts, d: Demands) -> str:
    wall = facts.alone.own_wall_s
    held = min(1.0, d.gil_alone / wall)
    native = min(1.0, d.native / wall)
    waits = max(0.0, 1.0 - held - native)
    parts = [
        (held, "Python code" if not facts.free_threaded else "with the GIL"),
        (native, "native code without the GIL" if not facts.free_threaded else "on a core"),
        (waits, "waiting"),
    ]
    told = ", ".join(f"{share:.0%} {name}" for share, name in sorted(parts, reverse=True) if share >= 0.02)
    length = f"takes {seconds(wall)} alone" if facts.alone.n_items else f"takes longer than {seconds(wall)} alone"
    return f"An item {length}: {told}."


def why(facts: Facts, d: Demands, chosen: Prediction, serial: Prediction) -> str:
    wall = facts.alone.own_wall_s
    t = facts.transport
    mode = chosen.mode
    gain = f"{chosen.rate / serial.rate:.1f} times as fast as one at a time"
    moving = t.args_dump_s + t.args_load_s + t.result_dump_s + t.result_load_s
    if t.obstacle:
        stays = f"It cannot go to other processes: {t.obstacle}."
    elif facts.free_threaded:
        stays = "This Python has no GIL, so threads use all cores."
    elif moving > 0.3 * wall:
        what = f"{sizes(t.args_bytes)} in and {sizes(t.result_bytes)} out"
        stays = f"To send an item to a process ({what}) takes {seconds(moving)}, beside {seconds(wall)} to do it."
    else:
        stays = ""
    if d.shared > 0.2 * wall:
        stays += " Two at a time slowed each other down beyond the GIL: at a disk, a lock or the like."
    match mode.kind:
        case "serial":
            if wall < 20e-6:
                rest = "Items so small are done sooner than they are handed out."
            elif facts.cores == 1 and d.cpu > 0.8 * wall:
                rest = "There is one core, and it is busy."
            else:
                rest = "No other mode would be faster."
        case "threads":
            if d.gil > 0.5 * wall and not facts.free_threaded:
                rest = f"{mode} are {gain}."
            elif d.blocked > 0.2 * wall:
                rest = f"While one waits others go on: {mode} are {gain}."
            else:
                rest = f"Native code runs side by side: {mode} are {gain}."
        case "processes":
            rest = f"Threads would take turns at the GIL; {mode}, with a GIL each, are {gain}."
            if d.gil_alone < 0.3 * d.cpu:
                rest = f"{mode} are {gain}."
        case _:
            rest = f"Threads wait side by side, and processes have a GIL each: {mode} are {gain}."
    return f"{stays} {rest}".strip()


def caveats(facts: Facts) -> tuple[str, ...]:
    """Why it may be wrong."""
    told: list[str] = []
    if facts.was_busy:
        told.append(
            f"Other programs took {facts.foreign_cores:.1f} of {facts.cores} cores meanwhile: the numbers may mislead."
            " Ask again when the machine is quiet."
        )
    if facts.pair is None:
        told.append("There were too few items to try two at a time: how they slow each other down is not known.")
    elif not facts.alone.n_items:
        told.append("No item ended while it was measured: the numbers are those of the part that ran.")
    elif facts.alone.n_items < 3:
        told.append("An item or two is little to go by: items may differ.")
    if facts.alone.spread > 1.0 and facts.alone.n_items >= 3:
        told.append("Items differ much in length: the rates may, too.")
    return tuple(told)


def seconds(value: float) -> str:
    """A duration that a person can read."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1.0:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.0f} ns"


def sizes(n_bytes: float) -> str:
    """A number of bytes that a person can read."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def option_words(mode: Mode) -> str:
    """The mode as `Pool`'s arguments."""
    match mode.kind:
        case "serial":
            return "processes=0"
        case "threads":
            return f"threads={mode.threads}"
        case "processes":
            return f"processes={mode.processes}"
        case _:
            return f"processes={mode.processes}, threads={mode.threads}"
