"""Reading back a batch of results of which some will not load: the others are not lost with them.

A batch is one pickle, so that what its results share is pickled once. Where loading it raises, it is read once more by
the standard library's unpickler in Python, in which what raises leaves an :class:`Unreadable` in its place. Whatever is
made of such a one, or holds it, counts as unreadable, too. It takes some 50 times as long, and is done only then.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any, cast

from fullcourt._transport.journal import Unreadable, each_record, load_or_not, load_records

__all__ = ["load_each"]


def load_each(data: bytes | memoryview, buffers: list[memoryview] | None = None) -> list[Any]:
    """Load the pickle of a list. What will not load is an :class:`Unreadable`.

    Raises:
        Exception: what went wrong cannot be told apart from the rest.
    """
    reader = TolerantUnpickler(io.BytesIO(bytes(data)), buffers=buffers)
    return [item if (bad := reader.bad_in(item)) is None else bad for item in reader.load()]


build: Callable[[Any], None] = cast("Any", pickle._Unpickler.dispatch)[pickle.BUILD[0]]


class TolerantUnpickler(pickle._Unpickler):
    """As far as pickles of protocol 5 go."""

    dispatch = dict(pickle._Unpickler.dispatch)  # noqa: RUF012
    stack: list[Any]
    append: Callable[[object], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: io.BytesIO, *, buffers: list[memoryview] | None) -> None:
        super().__init__(file, buffers=buffers)
        self._tainted: dict[int, Unreadable] = {}  # by id: what holds one that will not load, and which
        self._kept: list[object] = []  # so that these ids stay theirs

    def bad_in(self, *parts: object) -> Unreadable | None:
        """The first of what will not load in any of these; None: they are whole."""
        for part in parts:
            if type(part) is Unreadable:
                return part
            if id(part) in self._tainted:
                return self._tainted[id(part)]
        return None

    def _taint(self, holder: object, bad: Unreadable | None) -> None:
        if bad is not None and type(holder) is not Unreadable:
            self._tainted[id(holder)] = bad
            self._kept.append(holder)

    def _made(self, make: Callable[[], object], *parts: object) -> object:
        """What is made of these parts."""
        bad = self.bad_in(*parts)
        if bad is not None:
            return bad
        try:
            return make()
        except BaseException as error:  # noqa: BLE001  whatever the user's code raises
            return Unreadable(error)

    def _filled(self, holder: object, fill: Callable[[], object], items: Iterable[object]) -> None:
        """A container gets items."""
        if type(holder) is Unreadable:
            return
        self._taint(holder, self.bad_in(*items))
        try:
            fill()
        except BaseException as error:  # noqa: BLE001
            self._taint(holder, Unreadable(error))

    # -- what makes objects ----------------------------------------------------------------------------------------

    def load_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.append(self._made(lambda: self.find_class(module, name)))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if function is load_records and self.bad_in(arguments) is None:
            self.stack[-1] = [load_or_not(pickled) for pickled in each_record(*arguments)]
        else:
            self.stack[-1] = self._made(lambda: function(*arguments), function, arguments)

    def load_newobj(self) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        self.append(self._made(lambda: cls.__new__(cls, *arguments), cls, arguments))

    def load_newobj_ex(self) -> None:
        keywords, arguments, cls = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.append(self._made(lambda: cls.__new__(cls, *arguments, **keywords), cls, arguments, keywords))

    def load_build(self) -> None:
        depth = len(self.stack) - 1
        state, made = self.stack[-1], self.stack[-2]
        self._filled(made, lambda: build(self), [state])
        del self.stack[depth:]

    # -- containers ------------------------------------------------------------------------------------------------

    def load_append(self) -> None:
        item = self.stack.pop()
        holder = self.stack[-1]
        self._filled(holder, lambda: holder.append(item), [item])

    def load_appends(self) -> None:
        items = self.pop_mark()
        holder = self.stack[-1]
        self._filled(holder, lambda: holder.extend(items), items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        holder = self.stack[-1]
        self._filled(holder, lambda: holder.__setitem__(key, value), [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        holder = self.stack[-1]

        def fill() -> None:
            for key, value in zip(items[::2], items[1::2], strict=True):
                holder[key] = value

        self._filled(holder, fill, items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        holder = self.stack[-1]
        self._filled(holder, lambda: holder.update(items), items)

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(self._made(lambda: frozenset(items), *items))

    def load_tuple(self) -> None:
        self._pack(self.pop_mark())

    def load_tuple1(self) -> None:
        self._pack([self.stack.pop()])

    def load_tuple2(self) -> None:
        second = self.stack.pop()
        self._pack([self.stack.pop(), second])

    def load_tuple3(self) -> None:
        third, second = self.stack.pop(), self.stack.pop()
        self._pack([self.stack.pop(), second, third])

    def _pack(self, items: list[Any]) -> None:
        made = tuple(items)
        self._taint(made, self.bad_in(*items))
        self.append(made)


for opcode in (
    "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS",
    "FROZENSET", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
):  # fmt: skip
    TolerantUnpickler.dispatch[getattr(pickle, opcode)[0]] = getattr(TolerantUnpickler, f"load_{opcode.lower()}")
