# The part of cloudpickle that fullcourt uses; the package has no types of its own.
import io
import pickle
from collections.abc import Callable, MutableMapping
from types import ModuleType
from typing import Any

class Pickler(pickle.Pickler):
    globals_ref: dict[int, object]
    dispatch_table: MutableMapping[type, Callable[[Any], Any]]
    def __init__(
        self,
        file: io.BytesIO,
        protocol: int | None = None,
        buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
    ) -> None: ...
    def _dynamic_function_reduce(self, func: Any) -> tuple[Any, ...]: ...

def dumps(
    obj: object, protocol: int | None = None, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
) -> bytes: ...
def list_registry_pickle_by_value() -> set[str]: ...
def register_pickle_by_value(module: ModuleType) -> None: ...
def unregister_pickle_by_value(module: ModuleType) -> None: ...
