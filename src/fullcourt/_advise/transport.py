"""What it costs to send items to another process and results back: tried on a few, without sending them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, cast

from fullcourt._advise.facts import Transport
from fullcourt._engines.build import usable_start_method
from fullcourt._transport.codec import Codec, Encoded, decode
from fullcourt._transport.functions import FunctionTable, innermost
from fullcourt.errors import PicklingError

__all__ = ["measure_transport"]

ENOUGH_S = 0.05
LARGE_S = 0.004  # of what takes longer to pickle, or is larger, one says enough
LARGE_BYTES = 1 << 20


def measure_transport(
    fn: Callable[..., Any], items: Sequence[Any], results: Sequence[Any], start_method: str | None = None
) -> Transport:
    """Pickle the function, some items and results, and read them back. Takes 0.1 s at most, but for large ones.

    Of large ones only the first is tried: the GIL is wanted by those that run.
    """
    for thing in (fn, *items[:1]):
        module = getattr(innermost(thing) if callable(thing) else cast("object", type(thing)), "__module__", "")
        if getattr(getattr(sys.modules.get(module), "__spec__", None), "_initializing", False):
            # To pickle it would wait for the end of that import, which may wait for us; and a worker would do it again.
            return Transport(obstacle=f"the module {module} is just being imported")
    codec = Codec(shares_main=usable_start_method(start_method) == "fork")
    what = "the function"
    try:
        FunctionTable(codec).get(fn)
        what = "an item"
        args = Cost.of(codec, [(item,) for item in items])
        what = "a result"
        back = Cost.of(codec, results)
    except PicklingError as error:
        return Transport(obstacle=f"{what} does not pickle: {error}")
    except Exception as error:  # noqa: BLE001  reading back runs code of the user's
        return Transport(obstacle=f"{what} can be pickled, but not read back: {type(error).__name__}: {error}")
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
        encoded = codec.encode([values[0]])
        dump_s = perf_counter() - began
        if dump_s > LARGE_S or size_of(encoded) > LARGE_BYTES:
            values = values[:1]
        else:
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
    decode(data, [buffer.raw().toreadonly() for buffer in buffers])


def size_of(encoded: Encoded) -> int:
    data, buffers = encoded
    return len(data) + sum(buffer.raw().nbytes for buffer in buffers)
