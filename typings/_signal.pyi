# The part of the C module under `signal` that fullcourt uses.
from typing import Any

SIGINT: int

def getsignal(signalnum: int) -> Any: ...
def signal(signalnum: int, handler: Any) -> Any: ...
