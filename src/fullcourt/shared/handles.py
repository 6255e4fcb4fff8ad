"""``share`` and ``empty``."""

from __future__ import annotations

import mmap
import pickle
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar, cast, overload

from fullcourt._transport.carried import NotCarried
from fullcourt._transport.codec import PROTOCOL, Codec
from fullcourt.errors import NotSupported, PicklingError
from fullcourt.shared.block import Block, must_be_linux

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Shared", "empty", "share"]

T = TypeVar("T")

BYTES, ARRAY, OBJECT = "bytes", "array", "object"


class Shared(Generic[T]):
    """An object in memory that processes share: made by :func:`share`, opened by whoever gets it.

    Pass it to tasks, initializers, queues and processes; it travels as a file descriptor. The memory is freed by the
    kernel when the last process that has it, or has an object that was opened from it, has let go or died.

    Methods may be called from any thread.
    """

    __slots__ = ("_block", "_content", "_kind")

    def __init__(self, kind: str, block: Block, content: Any) -> None:
        self._kind = kind
        self._block = block
        self._content = content  # of an array: the array; else the table of the parts' lengths

    def open(self) -> T:
        """The object, without a copy of its buffers.

        An array is a NumPy array (and travels on as this handle does); what was bytes-like is a `memoryview`; another
        object is unpickled anew, with its buffers in the shared memory.

        Raises:
            ValueError: it was closed in this process.
        """
        if self._block.closed:
            raise ValueError("this shared memory was closed in this process")
        if self._kind == ARRAY:
            return cast("T", self._content.view())
        parts = self._block.parts(self._content)
        if self._kind == BYTES:
            return cast("T", parts[0])
        return cast("T", pickle.loads(parts[0], buffers=parts[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes that it takes, in all processes together."""
        return self._block.n_bytes

    @property
    def writable(self) -> bool:
        """Whether what is opened from it can be written to, for all to see."""
        return self._block.writable

    def close(self) -> None:
        """Let go of it in this process. What was opened from it stays valid. Idempotent; others are not concerned."""
        self._block.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Shared, (self._kind, self._block, self._content)

    def __repr__(self) -> str:
        how = "closed" if self._block.closed else "writable" if self.writable else "read-only"
        return f"<Shared {self._kind} of {self.nbytes:,} bytes, {how}>"


@overload
def share(obj: bytes | bytearray | memoryview | mmap.mmap, *, writable: bool = False) -> Shared[memoryview]: ...
@overload
def share(obj: T, *, writable: bool = False) -> Shared[T]: ...
def share(obj: Any, *, writable: bool = False) -> Shared[Any]:
    """Copy an object into memory that other processes open without a copy.

    Args:
        obj: a NumPy array, something bytes-like, or anything else that pickles: an Arrow table, a dictionary of arrays,
            a model. Its buffers (pickle protocol 5) are shared; the rest is unpickled by each that opens it. What
            pickles without buffers, as an ``array.array`` does, is each opener's own: share a `memoryview` of it.
        writable: whether what is opened can be written to. If not, the memory is sealed: nobody can.

    Returns:
        A handle, to be sent to any worker, queue or process of this package, and opened there.

    Raises:
        PicklingError: the object cannot be pickled, or holds queues, locks or other shared memory.
        NotSupported: this is not Linux.
        OSError: there is no memory or no descriptor for it.

    Example:
        >>> import fullcourt
        >>> with fullcourt.share(b"court") as shared, fullcourt.Pool(1) as pool:
        ...     pool.apply(lambda handle: handle.open()[1:3].tobytes(), (shared,))
        b'ou'
    """
    must_be_linux()
    if isinstance(obj, (bytes, bytearray, memoryview, mmap.mmap)):
        with memoryview(cast("bytes", obj)) as whole:
            plain = whole if whole.c_contiguous else memoryview(whole.tobytes())
            block, table = Block.of_parts([plain], writable=writable)
        return Shared(BYTES, block, table)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(obj, numpy.ndarray) and not obj.dtype.hasobject and plain_array(obj, numpy):
        from fullcourt.shared.arrays import shared_copy

        array = shared_copy(obj, writable=writable)
        return Shared(ARRAY, cast("Block", array._block), array)
    data, buffers = pickle_whole(obj)
    block, table = Block.of_parts([data, *(buffer.raw() for buffer in buffers)], writable=writable)
    return Shared(OBJECT, block, table)


def plain_array(array: Any, numpy: Any) -> bool:
    """Whether an array is no more than that: a subclass (masked, a matrix) has more to it, and is pickled."""
    return type(array) is numpy.ndarray or type(array).__module__ == "fullcourt.shared.arrays"


def pickle_whole(obj: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickle an object with all its buffers out of band, so that it is read-only or writable as a whole."""
    buffers: list[pickle.PickleBuffer] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            buffer.raw().release()
        except BufferError:  # not contiguous: in band
            return True
        buffers.append(buffer)
        return False

    try:
        data = pickle.dumps(obj, PROTOCOL, buffer_callback=keep)
        if b"__main__" not in data:
            return data, buffers
    except Exception:  # noqa: BLE001  whatever the user's __reduce__ raised: cloudpickle may know better
        pass
    buffers.clear()
    from fullcourt._transport.by_value import dumps

    try:
        return dumps(obj, PROTOCOL, keep), buffers
    except NotCarried:
        raise PicklingError(
            "shared memory holds bytes, and this object holds descriptors (queues, pipes, locks, shared arrays). Share "
            "its parts, and send them together with those."
        ) from None
    except Exception as error:
        Codec().encode(obj)  # it fails as well, and its message names the culprit
        raise PicklingError(f"this object cannot be pickled, so it cannot be shared: {error}") from error


def empty(
    shape: int | tuple[int, ...], dtype: npt.DTypeLike = float, *, order: Literal["C", "F"] = "C"
) -> npt.NDArray[Any]:
    """A new NumPy array in shared memory, writable, all zero.

    It, and views of it, travel to workers, queues and processes of this package without a copy: what one writes, the
    others see. Nothing orders their accesses; use locks, or let each write to a part of its own. The memory is freed by
    the kernel with its last user.

    Args:
        shape: as `numpy.empty` takes it.
        dtype: of plain values, without Python objects.
        order: ``"C"`` or ``"F"``, as for `numpy.empty`.

    Raises:
        NotSupported: NumPy is not installed, or this is not Linux.
        OSError: there is no memory or no descriptor for it.

    Example:
        >>> import fullcourt
        >>> totals = fullcourt.empty(3, int)
        >>> def add(totals, place):
        ...     totals[place] += place + 1
        >>> with fullcourt.Pool(2) as pool:
        ...     _ = pool.starmap(add, [(totals, place) for place in range(3)])
        >>> totals.tolist()
        [1, 2, 3]
    """
    must_be_linux()
    try:
        from fullcourt.shared.arrays import empty_array
    except ImportError as error:
        raise NotSupported("fullcourt.empty needs NumPy: pip install numpy") from error
    return empty_array(shape, dtype, order)
