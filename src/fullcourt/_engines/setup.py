"""What a worker needs to know, and how a fresh interpreter learns it."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from types import ModuleType

from fullcourt._transport.carried import Rights, arriving, collecting
from fullcourt._transport.inheritance import Inheritance, dumps_inheriting, tracker_descriptor

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

    from fullcourt._engines.face import Face
    from fullcourt._engines.output_settings import OutputSettings

__all__ = ["Setup", "enter_world", "here", "load_initializer", "pickle_setup", "preload", "read_all", "write_setup"]


class Setup:
    """What a worker needs to know; pickled for a fresh interpreter, inherited by a fork.

    No dataclass: that module takes a tenth of the time in which a fresh worker starts.
    """

    n_slots: int
    name: str
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    shares_main = False
    pool_pid = 0
    sys_path: Sequence[str] = ()
    argv: Sequence[str] = ()
    cwd = ""
    preload: tuple[str, ...] = ()
    encoded_initializer: bytes | None = None
    face: Face | None = None
    adopt: Callable[[], None] | None = None  # called in a worker that inherits the pool's own objects by a fork
    rights: Any = None  # in a sub-interpreter: the descriptors that the initializer and its arguments hold
    share = 1  # cores that each slot may use
    spins = False  # whether there is a core for who waits awake for what is about to come
    output: OutputSettings | None = None  # None: what tasks print and log stays with the worker
    n_inherited = 0  # descriptors that a fresh interpreter is given beside its own
    tracker: int | None = None  # which of them leads to the resource tracker
    authkey = b""  # multiprocessing's, for proxies of managers

    def __init__(self, n_slots: int, name: str, **others: Any) -> None:
        self.n_slots = n_slots
        self.name = name
        self.environment: dict[str, str] = {}  # set in workers on top of the program's
        for key, value in others.items():
            getattr(type(self), key)  # there must be such a one
            setattr(self, key, value)


def pickle_setup(setup: Setup, codec: Any, inheritance: Inheritance | None) -> tuple[bytes, Rights]:
    """What a fresh interpreter needs to know, pickled; with what it must inherit.

    None: it can inherit nothing, and gets the descriptors that are returned in another way.
    """
    rights = Rights()
    fresh = Setup(
        n_slots=setup.n_slots,
        name=setup.name,
        pool_pid=setup.pool_pid,
        preload=setup.preload,
        face=setup.face,
        sys_path=list(sys.path),
        argv=list(sys.argv),
        cwd=here(),
        share=setup.share,
        spins=setup.spins,
        output=setup.output,
    )
    if "multiprocessing.managers" in sys.modules:
        from multiprocessing.process import current_process

        fresh.authkey = bytes(current_process().authkey)
    if setup.initializer is not None:
        what = (setup.initializer, setup.initargs)
        if inheritance is None:
            fresh.encoded_initializer, rights = encode_whole(what, codec)
        else:
            fresh.encoded_initializer = dumps_inheriting(what, inheritance, lambda obj: encode_whole(obj, codec)[0])
    if inheritance is not None:
        tracker = tracker_descriptor()
        if tracker is not None:
            fresh.tracker = inheritance.tracker = inheritance.duplicate_for_child(tracker)
        fresh.n_inherited = len(inheritance.descriptors)
    return pickle.dumps(fresh), rights


def here() -> str:
    """The working folder; empty where it was deleted: then workers stay where they are, which is no folder either."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def encode_whole(obj: object, codec: Any) -> tuple[bytes, Rights]:
    """Pickle with all buffers inside. Returns also the descriptors that go along."""
    data: bytes
    data, buffers = codec.encode(obj)
    rights: Rights = getattr(buffers, "rights", None) or Rights()
    if len(buffers):  # rare, and not worth a table
        from fullcourt._transport.by_value import dumps

        with collecting() as rights:
            data = dumps(obj, 5)
    return data, rights


def write_setup(setup: Setup, codec: Any, inheritance: Inheritance | None) -> tuple[int, Rights]:
    """Write that into a memory block. Returns its descriptor, to be read by `read_all`, and the others to go along."""
    data, rights = pickle_setup(setup, codec, inheritance)
    fd = os.memfd_create("fullcourt-setup", os.MFD_CLOEXEC)
    try:
        done = 0
        while done < len(data):
            done += os.write(fd, data[done:])
    except BaseException:
        os.close(fd)
        raise
    return fd, rights


def read_all(fd: int) -> bytes:
    """The content of a memory block, from its start; its offset is shared, so it is not used."""
    size = os.fstat(fd).st_size
    data = b""
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data


def load_initializer(setup: Setup) -> Callable[[], None]:
    """The initializer as a function that first loads it: loading may fail as running may."""

    def initialize() -> None:
        fds: list[int] = setup.rights.fds if setup.rights is not None else []
        with arriving(fds):
            initializer, initargs = pickle.loads(setup.encoded_initializer or b"")
        if setup.rights is not None:
            setup.rights.close()
        initializer(*initargs)

    return initialize


def enter_world(setup: Setup) -> None:
    """Take over the program's view: path, arguments, folder.

    Its ``__main__`` is never imported again: an empty one stands there, and is filled by what functions bring along.
    """
    sys.modules["__main__"] = ModuleType("__main__")
    if setup.authkey:
        from multiprocessing.process import current_process

        current_process().authkey = setup.authkey
    sys.path[:] = setup.sys_path
    sys.argv[:] = setup.argv
    with contextlib.suppress(OSError):
        os.chdir(setup.cwd)


def preload(setup: Setup) -> None:
    """Import what the pool asked for, once. If that fails, the workers' initializer fails for it: so the pool hears."""
    names, setup.preload = setup.preload, ()
    for name in names:
        try:
            __import__(name)
        except BaseException as error:  # noqa: BLE001  whatever that module does
            from fullcourt._transport.remote_errors import add_note

            add_note(error, f"fullcourt: preload={name!r} could not be imported")
            setup.initializer, setup.initargs, setup.encoded_initializer = fail, (error,), None
            return


def fail(error: BaseException) -> NoReturn:
    """Stands in for the initializer where that could not even be tried."""
    raise error
