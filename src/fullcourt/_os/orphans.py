"""Orphans: what a process inherits as a subreaper, and has to reap when it ends, or it stays as a zombie.

Light: a fresh template imports this.
"""

from __future__ import annotations

import _signal  # the C module under `signal`
import os

from fullcourt._os.system import children

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Orphans"]


class Orphans:
    """Those of this process, which is single-threaded and waits for descriptors.

    Attributes:
        fd: readable when a child has ended; then `reap` is to be called.
    """

    def __init__(self) -> None:
        self.fd, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before = _signal.signal(_signal.SIGCHLD, note)
        _signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def reap(self, others: Collection[int]) -> None:
        """Reap those that have ended; not these children, whose ends are learned of in another way."""
        try:  # noqa: SIM105
            os.read(self.fd, 65536)
        except BlockingIOError:
            pass
        for pid in children(os.getpid()):
            if pid not in others:
                try:  # noqa: SIM105
                    os.waitpid(pid, os.WNOHANG)
                except OSError:
                    pass

    def give_up(self) -> None:
        """In a forked child: they are the parent's."""
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL if self._before is None else self._before)
        os.close(self.fd)
        os.close(self._waker)


def note(_number: int, _frame: object) -> None:
    """The signal's number is in the descriptor already."""
