# The part of cloudpickle that fullcourt uses; the package has no types of its own.
import pickle
from collections.abc import Callable

def dumps(
    obj: object, protocol: int | None = None, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None
) -> bytes: ...
