"""Waiting for items: each message wakes one who waits, and no death can swallow that.

The kernel can wake one of many waiters for each message (EPOLLEXCLUSIVE), which with several consumers is most of what
a message costs. But one that is woken and killed before it takes the message would leave it lying, and the others
asleep. So who waits enters its identity into a list in shared memory, and all who wait watch the others' deaths: the
death of any wakes all, and they look. Where the list is full, each message wakes all.
"""

from __future__ import annotations

import contextlib
import os
import select
from functools import partial

from fullcourt._os.identity import is_alive, me, open_death
from fullcourt._os.spinning import SPIN_S, Spinner
from fullcourt._os.waits import bounded
from fullcourt.channels._monitor import FIRST_WORD, LISTENERS, N_LISTENERS

__all__ = ["Listener", "enter_list"]

VERSION = FIRST_WORD + 3  # changes with the list


def enter_list(words: memoryview[int]) -> bool:
    """Enter this process into the list, with the monitor's lock held. False: it is full."""
    mine = me()
    free = dead = 0
    for at in range(LISTENERS, LISTENERS + N_LISTENERS):
        who = words[at]
        if who == mine:
            return True
        if not who:
            free = free or at
        elif not free and not dead and not is_alive(who):
            dead = at
    at = free or dead
    if not at:
        return False
    words[at] = mine
    words[VERSION] += 1
    return True


class Listener:
    """Waits for items, for the end of the producers, for the bell. Used by one thread at a time, and used again.

    Args:
        items: descriptor of the socket from which items come.
        life: reading end of the life line.
        came: the bell. Ring it after making this, so that all who wait learn of a new one.
        is_known: whether this process is in the list.
    """

    def __init__(self, items: int, life: int, came: int, is_known: bool) -> None:
        self._life = life
        self._version = -1
        self._peers: dict[int, int] = {}  # identity: pidfd, of the others in the list
        self._epoll = select.epoll()
        self._epoll.register(items, select.EPOLLIN | (select.EPOLLEXCLUSIVE if is_known else 0))
        self._epoll.register(life, 0)  # a hang-up is always told
        self._epoll.register(came, select.EPOLLIN | select.EPOLLET)
        self._spinner = Spinner(may_spin=True)
        self._look = partial(self._epoll.poll, 0)

    def fileno(self) -> int:
        """A descriptor that is readable when there is news."""
        return self._epoll.fileno()

    def wait(self, words: memoryview[int], timeout: float | None) -> bool:
        """Wait for news, at most so many seconds. Returns whether the last producer is gone."""
        if words[VERSION] != self._version:
            self._meet(words)
        at_end = False
        news = self._spinner.wait(self._look) if timeout is None or timeout > SPIN_S else None
        for fd, _ in news or self._epoll.poll(bounded(timeout)):
            if fd == self._life:
                at_end = True
            elif fd in self._peers.values():
                self._version = -1  # somebody has died: look at the list again
        return at_end

    def _meet(self, words: memoryview[int]) -> None:
        """Watch those that are in the list now."""
        self._version = words[VERSION]
        now = {words[at] for at in range(LISTENERS, LISTENERS + N_LISTENERS)} - {0, me()}
        for who in list(self._peers):
            if who not in now or not is_alive(who):
                os.close(self._peers.pop(who))
        for who in now - self._peers.keys():
            fd = open_death(who)
            if fd >= 0:
                self._peers[who] = fd
                self._epoll.register(fd, select.EPOLLIN)

    def close(self) -> None:
        """Give back its descriptors."""
        self._epoll.close()
        peers, self._peers = self._peers, {}
        for fd in peers.values():
            with contextlib.suppress(OSError):
                os.close(fd)
