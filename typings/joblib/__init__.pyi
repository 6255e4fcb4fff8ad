# The part of joblib that fullcourt uses; the package has no types of its own.
from joblib import parallel as parallel

__version__: str

def register_parallel_backend(name: str, factory: type, make_default: bool = False) -> None: ...
