"""NumPy arrays in a block. The only module here that needs NumPy."""

from __future__ import annotations

from operator import index
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fullcourt.shared.block import Block

__all__ = ["SharedArray", "empty_array", "shared_copy"]


class SharedArray(np.ndarray[Any, Any]):
    """An array in shared memory. It, and views of it, travel to other processes as a descriptor, without a copy.

    In all else it is an `numpy.ndarray`; what is computed from it is an ordinary one. To pickle it into a file, or to
    send it by other means than `fullcourt`'s, make an ordinary array of it: ``numpy.array(shared)``.
    """

    _block: Block | None = None

    def __array_finalize__(self, obj: npt.NDArray[Any] | None, /) -> None:
        self._block = getattr(obj, "_block", None)  # whether it really lies there is asked when it is pickled

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        """What a function of NumPy's computed from it is not in shared memory."""
        if array is self:
            return array
        return array[()] if return_scalar else array.view(np.ndarray)

    def _place(self) -> tuple[Block, int] | None:
        """Its block and its offset there; None if it lies elsewhere (an ordinary copy)."""
        block = self._block
        if block is None or block.closed or self.dtype.hasobject:
            return None
        offset = address(self) - address(np.frombuffer(block.view(), np.uint8))
        spans = [stride * (n - 1) for stride, n in zip(self.strides, self.shape, strict=True)] if self.size else []
        low = offset + sum(span for span in spans if span < 0)
        high = offset + sum(span for span in spans if span > 0) + (self.itemsize if self.size else 0)
        return (block, offset) if low >= 0 and high <= block.n_bytes else None

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        place = self._place()
        if place is None:
            return np.ndarray.__reduce_ex__(self.view(np.ndarray), protocol)
        return array_at, (*place, self.shape, self.strides, self.dtype, bool(self.flags.writeable))

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def __copy__(self) -> Any:
        return np.array(self)

    def __deepcopy__(self, memo: dict[int, Any] | None, /) -> Any:
        return np.array(self)


def address(array: npt.NDArray[Any]) -> int:
    return cast("int", array.__array_interface__["data"][0])


def array_at(
    block: Block, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any, writable: bool
) -> SharedArray:
    """The array that lies there."""
    array = SharedArray(shape, dtype, cast("Any", block.view()), offset, strides)
    array._block = block
    if not writable:
        array.flags.writeable = False
    return array


def shared_copy(array: npt.NDArray[Any], *, writable: bool) -> SharedArray:
    """A copy of an array in a new block, with its memory order. Raises OSError."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat = np.ascontiguousarray(array.T if fortran else array).reshape(-1)
    block, _ = Block.of_parts([memoryview(cast("Any", flat.view(np.uint8)))], writable=writable)
    model: npt.NDArray[Any] = np.empty_like(array, order="F" if fortran else "C", subok=False)
    return array_at(block, 0, array.shape, model.strides, array.dtype, writable)


def empty_array(shape: int | tuple[int, ...], dtype: Any, order: Any) -> SharedArray:
    """A new array in a block of its own, all zero. Raises OSError."""
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"{kind!r} holds Python objects, which live in one process: shared memory holds plain bytes")
    sizes = tuple(map(index, shape if isinstance(shape, (tuple, list)) else (shape,)))
    if any(n < 0 for n in sizes):
        raise ValueError(f"no dimension may be negative: {sizes}")
    n_items = 1
    for n in sizes:
        n_items *= n
    block = Block.of_size(max(1, n_items * kind.itemsize))
    model: npt.NDArray[Any] = np.ndarray(sizes, kind, cast("Any", block.view()), order=order)
    return array_at(block, 0, sizes, model.strides, kind, writable=True)
