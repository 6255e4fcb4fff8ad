"""Taking items out: from the socket, and where that is empty, from the log."""

from __future__ import annotations

import contextlib
import os
import queue
from functools import partial
from pickle import loads
from time import monotonic
from typing import Any

from fullcourt._os.waits import checked
from fullcourt._transport.carried import Rights
from fullcourt.channels._line import CAME, DRAIN_WANTED, IN, LEFT, LIFE, LISTENED, READER, SHUT
from fullcourt.channels._listeners import Listener, enter_list
from fullcourt.channels._log import IN_LOG
from fullcourt.channels._messages import ANCILLARY_BYTES, PLAIN, RECEIVE_BYTES, arrived, read, receive
from fullcourt.channels._monitor import WANTED, eventfd_write, readable
from fullcourt.channels._putting import Putting, ShutDown

__all__ = ["Channel", "ShutDown"]


class Channel(Putting):
    """A queue's handle: what all kinds of queues are made of."""

    _counts_taken = False  # whether items that were taken are counted until they are done

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item.

        Args:
            block: whether to wait for one.
            timeout: for at most how many seconds; None: for ever.

        Raises:
            queue.Empty: there was none.
            EOFError: there is none, and nobody is left who might put one (a process that holds the queue might,
                unless it has closed it or only iterates).
            ShutDown: the queue was shut down, and is empty.
            ValueError: it is closed here.
        """
        if self._closed:
            self._check_open()
        words = self._words
        if not self._counts_taken:
            if words[IN_LOG]:
                in_order = self._monitor.locked(self._take_in_order, ring=True)
                if in_order is not None:
                    return read(*in_order)
            try:
                data, ancillary, _, _ = self._recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES)
            except BlockingIOError:
                pass
            except BaseException:  # a signal's, and it may have come after the message
                self._monitor.ring()
                raise
            else:
                if words[WANTED]:
                    eventfd_write(self._monitor.bell, 1)
                if data[0] == PLAIN:
                    return loads(data)
                return read(data, arrived(ancillary) if ancillary else None)
        with self._use:
            return read(*self._take(block, timeout, tried=not self._counts_taken))

    def _take(self, block: bool, timeout: float | None, *, tried: bool = False) -> tuple[bytes, Rights | None]:
        """Take a message. Raises Empty, ShutDown or EOFError. ``tried``: that was just tried in vain."""
        until = None if timeout is None else monotonic() + max(0.0, checked(timeout))
        at_end = False
        listener, made = self._listen()
        try:
            while True:
                shut = self._words[SHUT]
                if made or at_end or shut or not tried:
                    found = self._try_to_take()
                    if found is not None:
                        return found
                made = tried = False
                if shut != self._words[SHUT]:  # only now: what was put before that is taken before it is told
                    continue
                left, at_end = self._time_left(listener, shut, at_end, block, until)
                if at_end:
                    continue
                try:
                    at_end = listener.wait(self._words, left)
                except BaseException:  # a signal's. If a message woke only us, the others shall look
                    os.eventfd_write(self._fds[CAME], 1)
                    raise
        finally:
            self._listeners.append(listener)

    async def _take_async(self, timeout: float | None) -> tuple[bytes, Rights | None]:
        """As :meth:`_take`, in an event loop."""
        until = None if timeout is None else monotonic() + max(0.0, checked(timeout))
        at_end = False
        listener, _ = self._listen()
        try:
            while True:
                shut = self._words[SHUT]
                found = self._try_to_take()
                if found is not None:
                    return found
                if shut != self._words[SHUT]:
                    continue
                left, at_end = self._time_left(listener, shut, at_end, True, until)
                if at_end:
                    continue
                await readable(listener.fileno(), left)
                at_end = listener.wait(self._words, 0)
        finally:
            self._listeners.append(listener)

    def _listen(self) -> tuple[Listener, bool]:
        """A listener, and whether it is new: of an old one no news since its last use are lost."""
        try:
            return self._listeners.pop(), False
        except IndexError:
            pass
        self._words[LISTENED] = 1
        is_known = self._monitor.locked(partial(enter_list, self._words))
        listener = Listener(self._fds[IN], self._fds[LIFE], self._fds[CAME], is_known)
        os.eventfd_write(self._fds[CAME], 1)
        return listener, True

    def _time_left(
        self, listener: Listener, shut: int, at_end: bool, block: bool, until: float | None
    ) -> tuple[float | None, bool]:
        """For how long to wait for an item where there is none; raises what is to be said if not at all.

        And whether there will be none any more, as is seen only now: that is told also to who does not wait.
        """
        if shut:
            raise ShutDown
        if at_end:
            raise EOFError("the queue is empty, and all who might put something into it have closed it or ended")
        left = None if until is None else until - monotonic()
        if block and (left is None or left > 0):
            return left, False
        if not listener.wait(self._words, 0):
            raise queue.Empty
        return 0.0, True

    def _try_to_take(self) -> tuple[bytes, Rights | None] | None:
        """Take a message if there is one."""
        if self._counts_taken or self._words[IN_LOG]:
            return self._monitor.locked(self._take_and_note, ring=True)
        try:
            found = receive(self._in)
        except BlockingIOError:
            return None
        except BaseException:  # a signal's, and it may have come after the message
            self._monitor.ring()
            raise
        if self._words[WANTED]:
            eventfd_write(self._monitor.bell, 1)
        return found

    def _take_and_note(self) -> tuple[bytes, Rights | None] | None:
        found = self._take_in_order()
        if found is not None:
            self._note_taken()
        return found

    def _take_in_order(self) -> tuple[bytes, Rights | None] | None:
        """Take a message from the socket or else from the log. With the lock held."""
        self._words[READER] = os.getpid()
        try:
            return receive(self._in)
        except BlockingIOError:
            items = self._log.take()
            if self._words[DRAIN_WANTED] and not self._log.n_waiting:
                self._words[DRAIN_WANTED] = 0
                os.eventfd_write(self._fds[LEFT], 1)
            return (items[0], None) if items else None

    def _note_taken(self) -> None:
        """An item was taken. With the lock held."""

    def _get_more(self, found: list[Any], n: int) -> None:
        """Take what is there, until there are ``n``, or until one cannot be read: that is told by the next call."""
        words, recvmsg = self._words, self._recvmsg
        while len(found) < n:
            if words[IN_LOG] or self._counts_taken:
                messages = self._monitor.locked(partial(self._take_group, n - len(found)), ring=True)
                if not messages:
                    return
            else:
                try:
                    data, ancillary, _, _ = recvmsg(RECEIVE_BYTES, ANCILLARY_BYTES)
                except BlockingIOError:
                    return
                except BaseException:  # a signal's, and it may have come after the message
                    self._monitor.ring()
                    raise
                if words[WANTED]:
                    eventfd_write(self._monitor.bell, 1)
                messages = [(data, arrived(ancillary) if ancillary else None)]
            for data, rights in messages:
                try:
                    found.append(loads(data) if data[0] == PLAIN else read(data, rights))
                except Exception as error:  # noqa: BLE001  unpickling is user code
                    self._unread.append(error)
            if self._unread:
                return

    def _take_group(self, n: int) -> list[tuple[bytes, Rights | None]]:
        """Take up to so many messages. With the lock held."""
        first = self._take_in_order()
        messages = [] if first is None else [first]
        if messages and messages[0][1] is None and n > 1 and not self._bytes_inside():
            messages += [(data, None) for data in self._log.take(n - 1)]
        for _ in messages:
            self._note_taken()
        return messages

    # -- shutting down ---------------------------------------------------------------------------------------------

    def _shut_down(self, immediate: bool) -> None:
        self._monitor.locked(partial(self._shut_now, immediate), ring=True)

    def _shut_now(self, immediate: bool) -> None:
        # The ring comes first, as everywhere. IN_LOG has those who are woken take the lock before they look.
        self._words[IN_LOG] = 1
        os.eventfd_write(self._fds[CAME], 1)
        self._words[SHUT] = 1
        if immediate:
            self._log.clear()
            with contextlib.suppress(BlockingIOError):
                while True:
                    receive(self._in)
