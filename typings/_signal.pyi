"""The C module under `signal`, as far as it is used here; it takes and gives plain numbers."""

from collections.abc import Callable, Iterable
from typing import Any

SIGINT: int
SIGTERM: int
SIGKILL: int
SIGSTOP: int
SIGCHLD: int
SIG_DFL: int
SIG_BLOCK: int
SIG_UNBLOCK: int
SIG_SETMASK: int

def getsignal(signalnum: int, /) -> Any: ...
def signal(signalnum: int, handler: Callable[..., object] | int, /) -> Any: ...
def pthread_sigmask(how: int, mask: Iterable[int], /) -> Any: ...
def set_wakeup_fd(fd: int, /, *, warn_on_full_buffer: bool = True) -> int: ...
