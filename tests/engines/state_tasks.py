"""What the workers of the tests of state and broadcast do. Imported by name."""

from __future__ import annotations

import os
import threading

import fullcourt


class Thing:
    """Notes in a file when it is made and ended."""

    def __init__(self, file):
        self.file = file
        note(file, "made")

    def end(self):
        note(self.file, "ended")


def note(file, word):
    with open(file, "a") as out:
        out.write(f"{word} {os.getpid()} {threading.get_ident()}\n")


def use(file, per_slot=False):
    state = fullcourt.worker_state(per_slot=per_slot)
    state.once("thing", lambda: Thing(file), Thing.end)
    return os.getpid(), threading.get_ident()


def count():
    state = fullcourt.worker_state()
    state.n = getattr(state, "n", 0) + 1
    return state.n


def bad_finalizer(file):
    def fail(_):
        raise ValueError("cannot end")

    state = fullcourt.worker_state()
    state.once("thing", lambda: Thing(file), Thing.end)
    state.once("bad", int, fail)


def use_and_die(file):
    use(file)
    os._exit(1)


class Loud:
    """Notes in a file whenever it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __setstate__(self, state):
        self.__dict__.update(state)
        note(self.file, "loaded")


class Unloadable:
    def __reduce__(self):
        return fail_to_load, ()


def fail_to_load():
    raise OSError("not here")


def pid_with(handle, item):
    assert handle.value is not None
    return os.getpid()


def add_value(handle, item):
    return handle.value + item


def id_of_value(handle):
    return id(handle.value)


def ask_inner_pool(outer, method):
    """A pool of the task's own, with values of its own; what its worker finds in the outer pool's handle."""
    with fullcourt.Pool(1, start_method=method) as inner:
        handles = [inner.broadcast(f"inner {i}") for i in range(5)]
        found = [inner.apply(value_of, (handle,)) for handle in handles]
        return found, inner.submit(value_of, outer).exception(30)


def run_pipeline(pool, items):
    """A task that uses its own pool's pipeline."""
    return pool.pipeline(plus_one, str).map(items)


def plus_one(x):
    return x + 1


def broadcast_inside(pool):
    pool.broadcast(1)


def value_of(shared):
    return shared.value


def ask_for_value(pool, shared):
    """A nested task finds a broadcast value, too."""
    return pool.submit(value_of, shared).result(30)
