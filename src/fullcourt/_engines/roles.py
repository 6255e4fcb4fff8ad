"""Who drives: whoever waits.

One thread at a time *leads*: it waits on the engine and deals with what comes. Other threads that wait *follow*; when
the leader leaves, a follower is promoted. A *background* thread leads when nobody waits, after a grace of 2 ms (at once
where a future has callbacks), and gives way to a caller that comes to wait. It is started when it is first needed. So a
call that is made and waited for costs no thread, nor a switch, and an idle pool causes no wake-ups.

Two races that were thought about:

- A leader leaves while followers sleep. Whoever leaves, leader or follower, promotes one follower if nobody leads: so a
  promoted follower whose future has ended meanwhile passes the role on.
- Work comes while the background thread parks. The worker-bee (1) counts the work as open, (2) reads ``state``; the
  background (a) writes PARKED, (b) looks again whether work is open. At least one of them sees the other.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from fullcourt._engines.future import ENDED, Future, let_go
from fullcourt._os.interrupts import Shield
from fullcourt._os.locks import Bell, make_lock
from fullcourt._os.threads import make_thread
from fullcourt._os.waits import acquire

__all__ = ["Roles"]

GRACE_S = 0.002
PARKED, GRACE, LEADING = 0, 1, 2


class Roles:
    """Hands out the lead. All methods may be called from any thread.

    Args:
        step: waits for at most so many seconds (None: for ever) and deals with what has come; only the leader calls it.
        wake: makes a ``step`` that waits return.
        has_work: whether anything is to come that somebody should lead for.
        is_over: whether the pool has ended, and the background thread with it.
        name: of the background thread.
    """

    def __init__(
        self,
        step: Callable[[float | None], None],
        wake: Callable[[], None],
        has_work: Callable[[], bool],
        is_over: Callable[[], bool],
        name: str,
    ) -> None:
        self._step = step
        self._wake = wake
        self._has_work = has_work
        self._is_over = is_over
        self._name = name
        self.shield = Shield()
        self._pid = os.getpid()  # a fork has none of these threads, and shall have no other that takes what is ours
        self._lock = make_lock()  # protects the fields below; held for microseconds, never while waiting
        self._leader: int | None = None
        self._followers: dict[Any, None] = {}  # the locks that they sleep on, oldest first
        self._background: threading.Thread | None = None
        self.state = PARKED
        self._bell = Bell()  # rung to wake the background thread
        self._give_way = False
        self._urgent = False
        self._calls: deque[Callable[[], object]] = deque()  # to be done by the background thread
        self._over = False  # it does nothing any more
        # Whether what somebody waits for may go on elsewhere when this pool has ended: in an auto pool.
        self.lets_go = False
        self._n_steps = 0  # of threads that look without waiting

    @property
    def parked(self) -> bool:
        """Whether the background thread must be armed for work that nobody waits for."""
        return self.state == PARKED

    def wait(self, future: Future[Any], timeout: float | None) -> bool:
        """Wait for a future of this pool, leading if nobody does. Returns whether it has ended.

        Where `lets_go` is set, it may return before, when the pool has ended.
        """
        with self.shield:
            return self.wait_shielded(future, None if timeout is None else monotonic() + timeout)

    def wait_shielded(self, future: Future[Any], deadline: float | None) -> bool:
        """:meth:`wait`, inside of the shield."""
        me = threading.get_ident()
        if self._leader == me:  # a callback waits, from inside of a step
            self._lead_until(future, deadline)
            return future.done()
        while future._state not in ENDED and not (self.lets_go and self._is_over()):
            if self._try_lead(me):
                try:
                    self._lead_until(future, deadline)
                finally:
                    self._leave()
            else:
                self._follow(future, deadline)
            if deadline is not None and monotonic() >= deadline:
                break
        return future._state in ENDED

    def try_step(self, timeout: float) -> bool:
        """Lead for one step if nobody leads."""
        with self.shield:
            if not self._try_lead(threading.get_ident()):
                return False
            self._n_steps += 1
            try:
                self._step(timeout)
            finally:
                self._leave()
        return True

    @property
    def leads(self) -> bool:
        """Whether this thread leads."""
        return self._leader == threading.get_ident()

    def tell(self) -> None:
        """Something was settled that the leader may be waiting for: unless it is this thread, have it look."""
        leader = self._leader
        if leader is not None and leader != threading.get_ident():
            self._wake()

    def _try_lead(self, me: int) -> bool:
        with self._lock:
            if self._leader is not None:
                return False
            self._leader = me
            return True

    def _leave(self) -> None:
        with self._lock:
            self._leader = None
            if self._followers:
                self._promote_first()
                return
        if self.state == PARKED and self._has_work():
            self.arm()

    def _lead_until(self, future: Future[Any], deadline: float | None) -> None:
        while future._state not in ENDED and not (self.lets_go and self._is_over()):
            timeout = None if deadline is None else deadline - monotonic()
            if timeout is not None and timeout < 0:
                return
            self._step(timeout)

    def _follow(self, future: Future[Any], deadline: float | None) -> None:
        mine = threading.Lock()
        mine.acquire()
        with self._lock:
            if self._leader is None:
                return
            self._followers[mine] = None
            if self.state == LEADING:
                self._give_way = True
                self._wake()
        try:
            if future.block(mine):
                self.shield.wait_begins()
                acquire(mine, None if deadline is None else deadline - monotonic())
        finally:
            self.shield.wait_ends()
            with self._lock:
                self._followers.pop(mine, None)
            future.unblock(mine)
            self._promote()

    def _promote(self) -> None:
        """Somebody left: see to it that somebody leads, if there is a reason to."""
        with self._lock:
            if self._leader is not None:
                return
            if self._followers:
                self._promote_first()
                return
        if self.state == PARKED and self._has_work():
            self.arm()

    def _promote_first(self) -> None:
        """Wake the one who has followed for longest. Under the lock."""
        lock = next(iter(self._followers))
        del self._followers[lock]
        let_go(lock)

    # -- the background thread -------------------------------------------------------------------------------------

    def arm(self, *, urgent: bool = False) -> None:
        """Have the background thread lead if nobody else does, after the grace or at once. Nothing in a fork."""
        if self._pid != os.getpid():
            return
        with self.shield, self._lock:
            if urgent:
                self._urgent = True
            if self.state == PARKED or (urgent and self.state == GRACE):
                self.state = GRACE
                self._bell.ring()
            self._start()

    def _start(self) -> None:
        """Start the background thread, if it is not there. Under the lock.

        Where no thread can be started (there are too many; the interpreter ends), the next occasion tries again, and
        meanwhile only who waits drives.
        """
        if self._background is None:
            self._background = make_thread(self._run, f"{self._name}-driver")
            try:
                self._background.start()
            except RuntimeError:
                self._background = None
                self.state = PARKED

    def background(self) -> threading.Thread | None:
        """The background thread, which is started if it was not needed so far."""
        with self._lock:
            self._start()
        return self._background

    def join(self) -> None:
        """Wait for the background thread's end, if there is one; the pool has ended."""
        with self._lock:
            background = self._background
        if background is not None and background is not threading.current_thread():
            self._bell.ring()
            background.join()

    def call(self, act: Callable[[], object]) -> None:
        """Have the background thread do something, while it does not lead, in the order of these calls.

        So what blocks holds up no thread that waits. After that thread's end it is done at once.
        """
        with self._lock:
            over = self._over
            if not over:
                self._calls.append(act)
        if over:
            act()
            return
        self.arm(urgent=True)
        self.tell()

    def _do_calls(self) -> None:
        while self._calls:
            self._calls.popleft()()

    def ring(self) -> None:
        """Wake the background thread without taking a lock: for the garbage collector. Nothing in a fork."""
        self._bell.ring()
        if self._background is None and self._pid == os.getpid():
            with contextlib.suppress(RuntimeError):  # the interpreter ends, and with it the pool
                _thread.start_new_thread(self.background, ())

    def end(self) -> None:
        """The pool has ended: so shall the background thread, if there is one."""
        self._bell.ring()

    def _run(self) -> None:
        me = threading.get_ident()
        self._bell.wait()
        with self._lock:
            self.state = GRACE
        while True:
            self._do_calls()
            # A thread that submits and looks by itself now and then is left alone: two that drive in turn would hand
            # the GIL to each other at every send.
            while not self._urgent:
                seen = self._n_steps
                if self._bell.wait(GRACE_S) or self._n_steps == seen:
                    break
            with self._lock:
                self._urgent = False
                leads = self._leader is None and self._has_work()
                if leads:
                    self._leader = me
                self.state = LEADING if leads else PARKED
            if leads:
                self._lead_in_background()
                continue
            if self._is_over():
                with self._lock:
                    self._over = not self._calls
                if self._over:
                    return
                continue
            if self._leader is None and self._has_work():  # it came between the look and the parking
                with self._lock:
                    self.state = GRACE
                continue
            self._bell.wait()
            with self._lock:
                if self.state == PARKED:
                    self.state = GRACE

    def _lead_in_background(self) -> None:
        try:
            while not self._give_way and not self._calls and self._has_work():
                self._step(None)
        finally:
            with self._lock:
                self._leader = None
                self._give_way = False
                self.state = GRACE
                if self._followers:
                    self._promote_first()


def wait_aside(future: Future[Any], timeout: float | None) -> bool:
    """Wait without driving: for engines whose own threads settle futures."""
    mine = threading.Lock()
    mine.acquire()
    if future.block(mine):
        acquire(mine, timeout)
    future.unblock(mine)
    return future.done()
