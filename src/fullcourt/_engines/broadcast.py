"""A value that every worker of a pool has: its handle in the program. In a worker it is `Arrived`, in :mod:`state`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from fullcourt._engines.state import BroadcastHandle

__all__ = ["Broadcast", "new_key"]

T = TypeVar("T")


def new_key() -> int:
    """A number for a value, of which there is no second: a handle may stray to the workers of a pool of a worker."""
    return int.from_bytes(os.urandom(8), "little")


class Broadcast(BroadcastHandle, Generic[T]):
    """A value that every worker of a pool has, sent to each once. Made by :meth:`Pool.broadcast`.

    Give it to tasks as an argument, or let them capture it; :attr:`value` is the value there. It is a copy in each
    worker process (large buffers are shared until written to); with threads it is the object itself.
    """

    def __init__(self, key: int, value: T, forget: Callable[[int], object]) -> None:
        super().__init__(key)
        self._value: T | None = value
        self._forget: Callable[[int], object] | None = forget

    @property
    def value(self) -> T:
        """The value.

        Raises:
            LookupError: this is no worker of the pool that broadcast it, or it was closed.
        """
        if self._forget is None:
            raise LookupError("this broadcast value was closed")
        return cast("T", self._value)

    def close(self) -> None:
        """Have the pool and its workers forget it. Idempotent; otherwise they keep it as long as they live."""
        forget, self._forget = self._forget, None
        if forget is not None:
            self._value = None
            forget(self._key)
