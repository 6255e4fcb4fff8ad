"""What the stages of these tests do. Imported by name."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path


def plus_one(x):
    return x + 1


def double(x):
    return 2 * x


def fail_on_seven(x):
    if x == 7:
        raise ValueError("seven")
    return x


def where(x):
    return x, os.getpid(), threading.current_thread() is threading.main_thread()


def die_once(folder_and_item):
    """Kills its worker at the first try of each item that is a multiple of 10."""
    folder, item = folder_and_item
    marker = Path(folder) / str(item)
    if item % 10 == 0 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def die_always_on_three(x):
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def die_at_random(x):
    if random.random() < 0.0005:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def set_up(value):
    global prepared
    prepared = value


def use_prepared(x):
    return prepared + x


def explode(*_):
    raise RuntimeError("no worker shall start")


def next_of(items):
    return next(iter(items))
