"""What was measured of a function: all that the model knows. Pure data, to JSON and back.

Facts in a file make the advice a pure function, which tests hold against recorded truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

__all__ = ["FORMAT", "Facts", "Stretch", "Transport"]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """What some items took that ran at the same time in threads. All times are seconds for one item.

    Attributes:
        n_items: how many ended; 0: none did, and the times are those of the part that ran.
        at_work: how many ran at a time, on average.
        wall_s: from an item's begin to its end.
        cpu_s: on a core, in the item's own thread.
        queued_s: could have run, but had no core.
        helper_s: CPU time that others spent for it meanwhile: threads of libraries, and programs that it started.
        gil_s: held the GIL, on a core or not; None: it could not be seen.
        gil_wait_s: waited for the GIL; None: it could not be seen.
        spread: the standard deviation of `wall_s`, as a share of it.
    """

    n_items: int
    at_work: float
    wall_s: float
    cpu_s: float
    queued_s: float = 0.0
    helper_s: float = 0.0
    gil_s: float | None = None
    gil_wait_s: float | None = None
    spread: float = 0.0

    @property
    def own_wall_s(self) -> float:
        """Wall time without that for which there was no core."""
        return max(self.wall_s - self.queued_s, self.cpu_s, 1e-9)

    @property
    def blocked_s(self) -> float:
        """Neither on a core nor waiting for one (nor, where that was seen, for the GIL)."""
        return max(0.0, self.own_wall_s - self.cpu_s - (self.gil_wait_s or 0.0))

    @property
    def rate(self) -> float:
        """Items a second, if there was a core whenever one was wanted."""
        return self.at_work / self.own_wall_s


@dataclass(frozen=True, slots=True)
class Transport:
    """What it costs to send an item to another process, and its result back. Seconds and bytes for one item.

    Attributes:
        obstacle: why the function, its items or results cannot be sent; empty: they can.
        args_bytes: size of a pickled item, large buffers included.
        args_dump_s: pickling it.
        args_load_s: reading it back.
        result_bytes: size of a pickled result.
        result_dump_s: pickling it.
        result_load_s: reading it back.
    """

    obstacle: str = ""
    args_bytes: float = 0.0
    args_dump_s: float = 0.0
    args_load_s: float = 0.0
    result_bytes: float = 0.0
    result_dump_s: float = 0.0
    result_load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured.

    Attributes:
        alone: items that ran one at a time.
        pair: items that ran two at a time, in two threads; None: there were too few.
        transport: sending them to other processes.
        cores: that this process may use.
        free_threaded: whether this Python runs without a GIL.
        foreign_cores: how many cores other programs took meanwhile, on average.
        method: how the time with the GIL was found: ``"sampled"`` or ``"clocks"`` (computed from how the pair slowed
            each other down).
        python: its version.
        start_method: how workers start.
    """

    alone: Stretch
    pair: Stretch | None
    transport: Transport
    cores: int
    free_threaded: bool = False
    foreign_cores: float = 0.0
    method: str = "clocks"
    python: str = ""
    start_method: str = ""

    @property
    def was_busy(self) -> bool:
        """Whether other programs took so much of the machine that the measurement misleads."""
        return self.foreign_cores > max(0.35, 0.2 * self.cores)

    def to_json(self) -> dict[str, Any]:
        """As what `json.dump` takes."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Facts:
        """Read back what :meth:`to_json` gave.

        Raises:
            ValueError: it is something else, or of a later version.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"these are no facts that this version understands: format {data.get('format')!r}")
        try:
            known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
            known["alone"] = Stretch(**known["alone"])
            known["pair"] = None if known["pair"] is None else Stretch(**known["pair"])
            known["transport"] = Transport(**known["transport"])
            return cls(**known)
        except (KeyError, TypeError) as error:
            raise ValueError(f"these facts are not complete: {error}") from error

    def with_cores(self, cores: int) -> Facts:
        """The same on a machine with so many cores."""
        return replace(self, cores=cores)
