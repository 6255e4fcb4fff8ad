"""The receiver's ``__main__``: the globals of functions that were pickled by value; see :mod:`by_value`.

What cannot go by value (a function that uses a global lock, an open file, a client of some server) goes by name, as the
standard library sends everything: a fresh interpreter runs the program's file for it, once, as ``__mp_main__``. Only a
program with a guard (``if __name__ == "__main__":``) is run so; without one, running it again would do its work again.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Callable
from types import FunctionType

from fullcourt._os.locks import make_rlock
from fullcourt.errors import PicklingError

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "DIGESTS",
    "InMain",
    "MainGlobals",
    "adopt_main",
    "is_being_run",
    "main_globals",
    "main_source",
    "set_function_state",
]

Source = tuple[str, str]  # the file, and its name as a module: "" where it is none

MISSING = object()
DIGESTS = "__fullcourt_digests__"  # where a function's state holds them

# The values of this process's __main__ as they came from the pool (or from before a fork), by name. A process has one
# __main__, so it has one of these; only the receiving side fills it.
arrived: dict[str, object] = {}
# The digests of their pickles, where they came with one.
arrived_digests: dict[str, bytes] = {}


def adopt_main() -> None:
    """Called once when a worker starts: what ``__main__`` holds now is as the pool had it."""
    arrived.clear()
    arrived_digests.clear()
    arrived.update(vars(sys.modules["__main__"]))


class MainGlobals:
    """Pickles as "the receiver's ``__main__`` namespace"."""

    def __reduce__(self) -> tuple[Callable[[], dict[str, Any]], tuple[()]]:
        return main_globals, ()


def main_globals() -> dict[str, Any]:
    return vars(sys.modules["__main__"])


def set_function_state(function: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give a function that was read its attributes; merge the globals that came along into ``__main__``."""
    from cloudpickle.cloudpickle import _function_setstate

    values = state[1]["__globals__"]
    digests = state[1].pop(DIGESTS)
    state[1]["__globals__"] = {}
    namespace = main_globals()
    for name, value in values.items():
        current = namespace.get(name, MISSING)
        digest = digests.get(name)
        if current is not MISSING and digest is not None and digest == arrived_digests.get(name):
            continue  # as it came before; what a task has done to it since (appended to a list) stays
        if current is MISSING or current is arrived.get(name, MISSING):
            namespace[name] = arrived[name] = value
            if digest is not None:
                arrived_digests[name] = digest
    _function_setstate(function, state)


class InMain:
    """Pickles as what a pickle by name holds, in a ``__main__`` that the receiver makes by running the file.

    Args:
        source: of :func:`main_source`.
        why: what could not be pickled by value.
        data: the pickle.
    """

    def __init__(self, source: Source, why: str, data: bytes) -> None:
        self._args = source, why, data

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Source, str, bytes]]:
        return load_in_main, self._args


guarded: dict[str, bool] = {}  # files that were looked at: whether they have a guard


def main_source() -> Source | None:
    """What a fresh interpreter can run to have the definitions of this program; None: nothing, or better not."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    module = spec.name if spec is not None else ""
    path = getattr(main, "__file__", None)
    if path is None or module == "__main__" or module.endswith(".__main__"):  # as the standard library: nobody does
        return None
    path = os.path.abspath(path)
    if path not in guarded:
        guarded[path] = has_guard(path)
    if not guarded[path]:
        return None
    sys.modules.setdefault("__mp_main__", main)  # what comes back is of that name
    return path, module


def has_guard(path: str) -> bool:
    import ast

    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return False
    tests = [node.test for node in tree.body if isinstance(node, ast.If)]
    return any(isinstance(test, ast.Compare) and "'__main__'" in ast.unparse(test) for test in tests)


class Run:
    """The one run of the program's file in this process."""

    def __init__(self) -> None:
        self.lock = make_rlock()  # several slots may need it at once; held while the file runs
        self.by: int | None = None  # the thread that runs it
        self.has_ended = False
        self.error: BaseException | None = None


run = Run()


def is_being_run() -> bool:
    """Whether this thread runs the program's file for its definitions: it must not start workers meanwhile."""
    return run.by == threading.get_ident()


def load_in_main(source: Source, why: str, data: bytes) -> Any:
    with run.lock:
        if not run.has_ended:
            run.by = threading.get_ident()
            try:
                run_file(*source)
            except BaseException as error:  # noqa: BLE001  whatever the program raises
                run.error = error
            finally:
                run.by = None
                run.has_ended = True
    if run.error is not None:
        raise PicklingError(
            f"{why}. The program's file was therefore run in the worker, for its definitions, and raised {run.error!r}"
        ) from run.error
    return pickle.loads(data)


def run_file(path: str, module: str) -> None:
    """Run it in ``__main__``. What an initializer or a task has set there stays."""
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    namespace = main_globals()
    definitions = (FunctionType, type)
    before = {name: value for name, value in namespace.items() if not isinstance(value, definitions)}
    package = module.rpartition(".")[0]
    sys.modules["__mp_main__"] = sys.modules["__main__"]
    namespace.update(__name__="__mp_main__", __file__=path, __package__=package)
    exec(code, namespace)  # noqa: S102  as the standard library's workers do
    made = {name: value for name, value in namespace.items() if not isinstance(value, definitions)}
    namespace.update(before, __file__=path, __package__=package)
    arrived.update({name: value for name, value in made.items() if name not in before})
