"""Log records of a worker: they go to the program's handlers."""

from __future__ import annotations

import logging
import pickle
from functools import partial

from fullcourt._engines.output_settings import is_real
from fullcourt._transport import frames
from fullcourt._transport.codec import PROTOCOL, Codec
from fullcourt._transport.remote_errors import dump_exception

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

    from fullcourt._engines.forwarding import Forwarder

__all__ = ["ForwardingHandler", "all_loggers", "pack", "take_handlers"]

# The attribute that marks a record which was sent: it may pass several loggers with handlers on its way up.
SENT = "_fullcourt_sent"
ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes))


class ForwardingHandler(logging.Handler):
    """Sends log records to the program."""

    def __init__(self, forwarder: Forwarder) -> None:
        super().__init__()
        self._forwarder = forwarder

    def handle(self, record: logging.LogRecord) -> bool:
        """As of any handler, but without its lock: a task that is stopped in here would leave it taken."""
        if self.filters and not self.filter(record):
            return False
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, once."""
        forwarder = self._forwarder
        if not forwarder.active or hasattr(record, SENT):
            return
        setattr(record, SENT, True)
        forwarder.unstopped(partial(self._send, record))

    def _send(self, record: logging.LogRecord) -> None:
        try:
            payload = pack_record(record, self._forwarder.name, self._forwarder.codec)
        except Exception:  # noqa: BLE001  as every handler: the user's format string, their repr
            self.handleError(record)
        else:
            self._forwarder.say(frames.LOG, 0, False, payload)


def pack_record(record: logging.LogRecord, worker_name: str, codec: Codec) -> bytes:
    """Pickle a log record so that it surely loads. What will not travel, travels as its text."""
    plain: dict[str, Any] = dict(record.__dict__)
    del plain[SENT]
    if plain["processName"] == "MainProcess":  # without multiprocessing, or in an interpreter
        plain["processName"] = worker_name
    exc_info: Any = plain.pop("exc_info", None)
    error = None
    if exc_info and exc_info[1] is not None:
        if not plain.get("exc_text"):
            plain["exc_text"] = logging.Formatter().formatException(exc_info)
        error = dump_exception(exc_info[1], plain["exc_text"], codec)
    text = record.getMessage()  # a wrong format is told of here, where it shows who logged it
    if not is_plain(plain["msg"]) or not is_plain(plain["args"]):
        plain["msg"], plain["args"] = text, None
    others = {
        name: (pack(value, codec) or b"", safe_repr(value)) for name, value in plain.items() if not is_plain(value)
    }
    for name in others:
        del plain[name]
    return pickle.dumps((plain, others, error), PROTOCOL)


def pack(value: object, codec: Codec) -> bytes | None:
    """Pickle anything, in one piece, as it surely loads here; None: it will not."""
    try:
        data, buffers = codec.encode(value)
        if buffers:
            from fullcourt._transport.by_value import dumps

            data = dumps(value, PROTOCOL)
        pickle.loads(data)
    except Exception:  # noqa: BLE001
        return None
    return data


def is_plain(value: object, depth: int = 0) -> bool:
    """Whether a value is made of Python's own plain types, and not too deep."""
    if type(value) in ATOMS:
        return True
    if depth == 4:
        return False
    inner: Any = value
    if type(value) in (tuple, list, set, frozenset):
        return all(is_plain(item, depth + 1) for item in inner)
    if type(value) is dict:
        return all(is_plain(k, depth + 1) and is_plain(v, depth + 1) for k, v in inner.items())
    return False


def safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  it is the user's
        return f"<{type(value).__name__}>"


def all_loggers() -> dict[str, logging.Logger]:
    known = list(logging.root.manager.loggerDict.items())
    return {"": logging.root} | {name: logger for name, logger in known if isinstance(logger, logging.Logger)}


def take_handlers() -> list[tuple[logging.Logger, list[logging.Handler]]]:
    """Take the handlers that do something from all loggers: they are the program's. Returns them."""
    taken: list[tuple[logging.Logger, list[logging.Handler]]] = []
    for logger in all_loggers().values():
        handlers = [handler for handler in logger.handlers if is_real(handler)]
        for handler in handlers:
            logger.removeHandler(handler)
        if handlers:
            taken.append((logger, handlers))
    return taken
