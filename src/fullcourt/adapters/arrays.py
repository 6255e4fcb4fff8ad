"""How NumPy arrays travel to joblib's workers: large ones once, however many tasks take them.

The bytes of a large array are written into a ``memfd`` block when the first task that takes it is pickled. Each task
gets the block's place under ``/proc`` instead of the bytes, and maps it privately: a copy that costs nothing until it
is written to. The kernel frees a block when this process has closed it and the last mapping is gone, whoever is killed.
An array that is a view of a file (``numpy.memmap``) stays one: writes to it reach the file.

A block must be open until every task that names it has been loaded: each batch holds the arrays whose blocks it names,
and lives as long as its call; a block is closed with its array, or when the call of ``Parallel`` ends.
"""

from __future__ import annotations

import copyreg
import mmap
import os
import sys
import threading
import weakref
from collections import ChainMap
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = ["SharedArrays"]

Reducer = Callable[[Any], Any]


class SharedArrays:
    """The blocks of one call of ``Parallel``. Pickling may be done by any thread."""

    def __init__(self) -> None:
        self.least_bytes: int | None = None  # smaller arrays travel with their batch; None: all do
        self._blocks: dict[tuple[int, int, int], tuple[weakref.ref[Array], int, weakref.finalize[Any, Any]]] = {}
        self._here = threading.local()  # `held`: the arrays that the batch under way names

    def reducers(self) -> MutableMapping[type, Reducer] | None:
        """The table for the pickler; None as long as nobody has imported NumPy."""
        numpy = sys.modules.get("numpy")
        if numpy is None or not hasattr(numpy, "memmap"):  # not there, or just being imported
            return None
        return ChainMap({numpy.ndarray: self._reduce, numpy.memmap: self._reduce}, copyreg.dispatch_table)

    def hold_for(self, held: list[Any]) -> None:
        """From now on, what this thread pickles holds its arrays here."""
        self._here.held = held

    def clear(self) -> None:
        """Close the blocks. Idempotent."""
        for _, _, close in list(self._blocks.values()):
            close()

    def _reduce(self, array: Array) -> Any:
        file = file_behind(array)
        if file is not None:
            return open_file, describe_view(array, file)
        large = self.least_bytes is not None and array.nbytes >= self.least_bytes
        if not large or array.dtype.hasobject or not can_share():
            return array.__reduce_ex__(5)
        if array.flags.c_contiguous:
            return open_block, (self._place(array, array), array.dtype, array.shape, "C")
        if array.flags.f_contiguous:
            return open_block, (self._place(array, array.T), array.dtype, array.shape, "F")
        return array.__reduce_ex__(5)

    def _place(self, array: Array, contiguous: Array) -> str:
        """Where the block with these bytes is; write it if there is none yet."""
        owner = array  # views are made anew for every pickling; what they are views of stays
        while isinstance(owner.base, type(owner)):
            owner = owner.base
        key = id(owner), address(array), array.nbytes
        self._here.held.append(owner)
        known = self._blocks.get(key)
        if known is None or known[0]() is not owner:
            fd = write_block(contiguous)
            close = weakref.finalize(owner, close_block, self._blocks, key, fd)
            close.atexit = False
            known = self._blocks[key] = weakref.ref(owner), fd, close
        return f"/proc/{os.getpid()}/fd/{known[1]}"


def close_block(blocks: dict[Any, Any], key: object, fd: int) -> None:
    known = blocks.get(key)
    if known is not None and known[1] == fd:
        del blocks[key]
    os.close(fd)


def can_share() -> bool:
    """Whether the workers may open this process's descriptors: Linux, and a process that others may look into."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return os.stat("/proc/self").st_uid == os.geteuid()
    except OSError:
        return False


def write_block(array: Array) -> int:
    """Write a C-contiguous array's bytes into a new block; returns its descriptor."""
    from numpy import uint8

    view = memoryview(cast("Any", array.reshape(-1).view(uint8)))
    fd = os.memfd_create("fullcourt-array", os.MFD_CLOEXEC)
    try:
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], done)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_block(place: str, dtype: Any, shape: tuple[int, ...], order: Any) -> Array:
    """In a worker: the array in a block, writable, for this task alone."""
    from numpy import ndarray

    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        block = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    return ndarray(shape, dtype, block, order=order)


def file_behind(array: Any) -> Any:  # Any: what types know of `base` is too little
    """The ``numpy.memmap`` that an array is, or is a view of; None if it is none."""
    import numpy as np

    memmap: Any = np.memmap
    ndarray: Any = np.ndarray
    while isinstance(array, ndarray):
        if isinstance(array, memmap) and isinstance(array.base, mmap.mmap) and array.filename is not None:
            return array
        array = array.base
    return None


def describe_view(array: Array, file: Any) -> tuple[Any, ...]:
    """An array as a part of a file: path, mode, the part's first byte and length, and the array within it."""
    low, high = bounds(array)
    first = low - address(file) + file.offset
    mode = "r+" if file.mode == "w+" else file.mode  # not emptied again
    layout: object = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else array.strides
    inner = address(array) - low
    place: tuple[Any, ...] = (os.fspath(file.filename), mode, first, high - low)
    return (*place, inner, array.dtype, array.shape, layout)


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def bounds(array: Array) -> tuple[int, int]:
    """The addresses of its first byte, and of the one after its last."""
    low = high = address(array)
    if array.size:
        spans = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
        low += sum(span for span in spans if span < 0)
        high += sum(span for span in spans if span > 0) + array.itemsize
    return low, high


def open_file(
    path: str, mode: Any, first: int, n_bytes: int, inner: int, dtype: Any, shape: tuple[int, ...], layout: Any
) -> Array:
    """In a worker: the same part of the same file."""
    from numpy import memmap, ndarray, uint8

    if not n_bytes:
        return ndarray(shape, dtype)
    part: Any = memmap(path, uint8, mode, first, (n_bytes,))
    if isinstance(layout, str):
        part = part.view(dtype).reshape(shape, order=layout)
        return cast("Array", part)
    return ndarray(shape, dtype, part, inner, layout)
