"""What tasks print, log and warn of goes to the pool's program. The worker's side; the pool's is :mod:`output`.

It travels over the worker's link, each line when it ends, ahead of the task's result. A task that prints nothing costs
nothing but one look for each answer; a line costs one frame, about 6 us here and as much in the pool. When the program
is slower than the tasks that print, these wait: nothing piles up.

Output that does not come from Python's ``sys.stdout`` and ``sys.stderr`` (C code, programs that a task starts,
children that it forks) goes to the descriptors that the worker inherited, as ever.
"""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import sys
import threading
import warnings
from collections.abc import Callable
from functools import partial

from fullcourt._engines.forwarded_streams import ForwardedStream
from fullcourt._engines.output_settings import ERR, OUT, OutputSettings, get_filters
from fullcourt._engines.records import ForwardingHandler, all_loggers, pack, take_handlers
from fullcourt._os.locks import make_lock
from fullcourt._transport import frames
from fullcourt._transport.codec import PROTOCOL, Codec
from fullcourt._transport.frames import MAX_INLINE
from fullcourt._transport.journal import Journal

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any, TextIO

__all__ = ["Forwarder"]

# A character is at most four bytes of UTF-8.
PIECE = MAX_INLINE // 4


class Forwarder:
    """Takes the place of this process's (or interpreter's) streams, log handlers and the showing of warnings.

    What user code sets up afterwards, in the initializer or in tasks, comes before it as it would without it.
    """

    def __init__(self, end: Any, codec: Codec, name: str, settings: OutputSettings) -> None:
        self._end = end
        self.codec = codec
        self.name = name
        self.active = True
        self.settings = OutputSettings({}, frozenset(), -1, (), (False, False))
        self._filters: list[Any] | None = None  # as they were set here last
        # Somebody may hold one of these, and write to it. Others than files with a buffer are of no use here.
        self._originals: list[Any] = []
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            if type(stream) is io.TextIOWrapper and stream not in self._originals:
                self._originals.append(stream)
        self._version = settings.version
        self._hearing = make_lock()
        self.slots: dict[int, Journal] = {}  # of the threads that run tasks
        self._saved = (sys.stdout, sys.stderr, warnings.showwarning, logging.lastResort)
        out: Any = ForwardedStream(self, OUT, sys.stdout)
        err: Any = ForwardedStream(self, ERR, sys.stderr)
        self._out = sys.stdout = out
        self._err = sys.stderr = err
        self._handler = ForwardingHandler(self)
        self._inherited = take_handlers()
        warnings.showwarning = self._show_warning
        self.apply(settings)

    # -- sending ---------------------------------------------------------------------------------------------------

    def say(self, kind: int, number: int, flush: bool, payload: bytes) -> None:
        """Send something. Waits while the pool is behind. That the pool is gone is noticed elsewhere."""
        frame = self._end.make_frame(kind, 0, 0, number, flush, 0.0, b"", payload, [])
        self.unstopped(partial(self._send, frame))

    def _send(self, frame: Any) -> None:
        with contextlib.suppress(OSError):
            self._end.send(frame)

    def unstopped(self, act: Callable[[], object]) -> None:
        """Do something that must not be torn by the exception which stops a task: send a frame, hold a lock.

        For so long, this thread runs nothing that may be stopped.

        Raises:
            TaskStopped: afterwards, if the task was to be stopped meanwhile.
        """
        journal = self.slots.get(threading.get_ident())
        running = journal.slot.running if journal is not None else 0
        if not running or journal is None:
            act()
            return
        slot = journal.slot
        slot.leave()
        try:
            act()
        finally:
            slot.running = running
        journal.heed()

    def say_text(self, number: int, text: str, *, flush: bool = False) -> None:
        """Send text of a stream, in frames that need no block."""
        for at in range(0, len(text) or 1, PIECE):
            piece = text[at : at + PIECE].encode("utf-8", "surrogatepass")
            self.say(frames.OUTPUT, number, flush and at + PIECE >= len(text), piece)

    def finish(self) -> None:
        """Send what was printed and has not been sent: an answer follows, or the worker ends."""
        if self._out.pending:
            self._out.send_pending(self.slots)
        if self._err.pending:
            self._err.send_pending(self.slots)
        if self.warned:
            self.warned = False
            self.show_again()
        self.flush_originals()

    def flush_originals(self) -> None:
        """Have what was written past us not wait in a buffer."""
        for stream in self._originals:
            try:
                stream.flush()
            except (OSError, ValueError):  # closed, or nobody reads it
                continue

    def close(self) -> None:
        """Send what is left, and give everything back."""
        self.finish()
        self._give_back()

    def fall_silent(self) -> None:
        """This is a fork of the worker: it must not talk in its name."""
        if self.active:
            self._give_back()

    def _give_back(self) -> None:
        self.active = False
        out, err, show, last_resort = self._saved
        if sys.stdout is self._out:
            sys.stdout = out
        if sys.stderr is self._err:
            sys.stderr = err
        if warnings.showwarning == self._show_warning:
            warnings.showwarning = show
        if logging.lastResort is self._handler:
            logging.lastResort = last_resort
        for logger in all_loggers().values():
            logger.removeHandler(self._handler)
        for logger, handlers in self._inherited:
            for handler in handlers:
                logger.addHandler(handler)

    # -- what the program wants ------------------------------------------------------------------------------------

    def hear(self, payload: bytes | memoryview) -> None:
        """The program's settings have changed."""
        settings = pickle.loads(payload)
        with self._hearing:
            if settings.version > self._version:  # two threads of the program may have sent theirs at once
                self._version = settings.version
                self.apply(settings)

    def apply(self, settings: OutputSettings) -> None:
        """Set levels, handlers and filters as the program has them; what a task has changed since stays."""
        old, self.settings = self.settings, settings
        for name in old.levels.keys() - settings.levels.keys():
            logging.getLogger(name).setLevel(logging.NOTSET)
        for name, level in settings.levels.items():
            if old.levels.get(name) != level and logging.getLogger(name).level != level:
                logging.getLogger(name).setLevel(level)
        if old.disabled != settings.disabled:
            logging.disable(settings.disabled)
        for name in old.handled - settings.handled:
            logging.getLogger(name).removeHandler(self._handler)
        for name in settings.handled - old.handled:
            logging.getLogger(name).addHandler(self._handler)
        # Without a handler at the root there is the handler of last resort, which the program then has, too.
        handler: Any = self._handler
        logging.lastResort = self._saved[3] if "" in settings.handled else handler
        self._apply_filters(settings)

    def _apply_filters(self, settings: OutputSettings) -> None:
        current = get_filters()
        if self._filters is not None and current != self._filters:
            return
        loaded: list[Any] = []
        for item in settings.filters:
            with contextlib.suppress(Exception):  # a category whose module is not found here
                loaded.append(pickle.loads(item))
        if current != loaded:
            current[:] = loaded
        self._filters = loaded
        self.show_again()

    @staticmethod
    def show_again() -> None:
        """Have warnings that were shown "once" or by "default" count as not shown: who counts is the program."""
        mutated: Any = getattr(warnings, "_filters_mutated", None)
        if mutated is not None:
            mutated()
        else:
            with warnings.catch_warnings():
                pass

    # -- warnings --------------------------------------------------------------------------------------------------

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is not None or not self.active:
            self._saved[2](message, category, filename, lineno, file, line)
            return
        self.unstopped(partial(self._send_warning, message, category, filename, lineno))

    def _send_warning(self, message: Warning | str, category: type[Warning], filename: str, lineno: int) -> None:
        packed = pack(message, self.codec) if isinstance(message, category) else None
        known = next(c.__name__ for c in category.__mro__ if c.__module__ == "builtins")
        text = str(message)
        payload = (packed or b"", known, text, filename, lineno, find_module(filename, lineno))
        self.say(frames.WARNING, 0, False, pickle.dumps(payload, PROTOCOL))
        self.warned = True

    warned = False


def find_module(filename: str, lineno: int) -> str | None:
    """The name of the module that a warning is of: by the frame it came from, else by its file."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_lineno == lineno and frame.f_code.co_filename == filename:
            name: object = frame.f_globals.get("__name__")
            return name if isinstance(name, str) else None
        frame = frame.f_back
    for module_name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) == filename:
            return module_name
    return None
