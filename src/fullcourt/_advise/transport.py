"""What it costs to send items to another process and results back: tried on a few, without sending them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from fullcourt._advise.facts import Transport
from fullcourt._engines.build import usable_start_method
from fullcourt._transport.codec import Codec, Encoded, decode
from fullcourt._transport.functions import FunctionTable
from fullcourt.errors import PicklingError

__all__ = ["measure_transport"]

ENOUGH_S = 0.05


def measure_transport(
    fn: Callable[..., Any], items: Sequence[Any], results: Sequence[Any], start_method: str | None = None
) -> Transport:
    """Pickle the function, some items and results, and read them back. Takes 0.1 s at most, but for large ones."""
    codec = Codec(shares_main=usable_start_method(start_method) == "fork")
    try:
        FunctionTable(codec).get(fn)
    except PicklingError as error:
        return Transport(obstacle=f"the function does not pickle: {error}")
    try:
        args = Cost.of(codec, [(item,) for item in items])
    except PicklingError as error:
        return Transport(obstacle=f"an item does not pickle: {error}")
    try:
        back = Cost.of(codec, results)
    except PicklingError as error:
        return Transport(obstacle=f"a result does not pickle: {error}")
    return Transport("", args.n_bytes, args.dump_s, args.load_s, back.n_bytes, back.dump_s, back.load_s)


class Cost:
    """Of one value, on average."""

    def __init__(self, n_bytes: float = 0.0, dump_s: float = 0.0, load_s: float = 0.0) -> None:
        self.n_bytes = n_bytes
        self.dump_s = dump_s
        self.load_s = load_s

    @classmethod
    def of(cls, codec: Codec, values: Sequence[Any]) -> Cost:
        """Measure it. Many values together, as they travel, which is cheaper than each alone."""
        if not values:
            return cls()
        began = perf_counter()
        encoded = codec.encode(list(values))
        dump_s = perf_counter() - began
        if dump_s < 0.002:  # the first time finds nothing warm
            began = perf_counter()
            encoded = codec.encode(list(values))
            dump_s = min(dump_s, perf_counter() - began)
        load_s = 0.0
        if dump_s < ENOUGH_S:
            began = perf_counter()
            read_back(encoded)
            load_s = perf_counter() - began
        else:
            load_s = dump_s
        n = len(values)
        return cls(size_of(encoded) / n, dump_s / n, load_s / n)


def read_back(encoded: Encoded) -> None:
    data, buffers = encoded
    decode(data, [memoryview(bytearray(buffer.raw())) for buffer in buffers])


def size_of(encoded: Encoded) -> int:
    data, buffers = encoded
    return len(data) + sum(buffer.raw().nbytes for buffer in buffers)
