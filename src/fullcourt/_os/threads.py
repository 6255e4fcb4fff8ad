"""Starting threads that do not keep a program alive."""

from __future__ import annotations

import threading
from collections.abc import Callable

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

__all__ = ["make_thread"]


def make_thread(
    target: Callable[..., Any], name: str, args: tuple[Any, ...] = (), *, daemon: bool = True
) -> threading.Thread:
    """A thread, not yet started, at whose end the program need not wait, unless it is to be no daemon.

    In a sub-interpreter there are no such threads: there it is an ordinary one, and ends with what it works for.
    """
    try:
        return threading.Thread(target=target, args=args, name=name, daemon=daemon)
    except RuntimeError:
        return threading.Thread(target=target, args=args, name=name)
