"""What a worker does: read a frame, run its tasks, answer. The same code in processes and in sub-interpreters.

Cost per call in the worker, beside the function: one receive, one unpickling, one store in the journal, two readings
of the clock, one pickling, one send: about 6 us. Per item of a map: a store in the journal and a list append, 0.15 us.

With several slots, each is a thread that does all this for itself; the kernel hands each frame to one of them.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pickle import dumps, loads
from time import perf_counter, perf_counter_ns

from fullcourt._core.chunking import FLUSH_S, LOOK_N, LOOK_S, WHOLE_FLUSH_S
from fullcourt._engines import face
from fullcourt._engines.face import Face, Place
from fullcourt._engines.state import Missing, WorkerState, become_worker, enter_slot, kept, leave_slot
from fullcourt._os.budget import limit_this_thread
from fullcourt._os.locks import Condition
from fullcourt._os.soft_stop import Slot, on_drop, on_stop_signal
from fullcourt._os.threads import make_thread
from fullcourt._transport import frames
from fullcourt._transport.codec import CONNECTION, Codec, decode
from fullcourt._transport.frames import HEADER_BYTES, MAX_INLINE, pack
from fullcourt._transport.journal import (
    INT_LIMIT,
    ITEM_WORD,
    LOADING,
    LOADING_FUNCTION,
    NONE,
    PHASE_WORD,
    REVOKED_WORD,
    RUNNING,
    SINCE_WORD,
    STOP_WORD,
    TOKEN_BITS,
    UNSET,
    Journal,
    Records,
    is_meant,
    record,
    started_chunk,
    stop_class,
    token,
)
from fullcourt._transport.link import Attached, Body, Fields, read_body
from fullcourt._transport.remote_errors import (
    ARGUMENTS_UNREADABLE,
    FUNCTION_UNREADABLE,
    add_note,
    dump_exception,
    format_remote,
)
from fullcourt.errors import PicklingError, TaskStopped

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any, Protocol

    from fullcourt._engines.forwarding import Forwarder

    class End(Protocol):
        """The worker's end of a link, of either kind."""

        @property
        def make_frame(self) -> Callable[..., Any]: ...
        def receive(self) -> tuple[Fields, bytes, Attached] | None: ...
        def send(self, frame: Any) -> None: ...


__all__ = ["Worker"]

ARRIVAL_S = 0.1  # a task waits so long for what was sent ahead of it and has not been heard
SAID = frozenset((frames.SETTINGS, frames.BROADCAST))
MAX_FUNCTIONS = 512


n_slots_here = 0  # how many slots this process has as a worker; 0 where it is none
name_here = ""  # its name as a worker: the pool's, and its number in it


class Worker:
    """One worker: its end of the link, its functions, its slots."""

    def __init__(self, end: End, page: Any, n_slots: int, codec: Codec, forwarder: Forwarder | None = None) -> None:
        self._end: Any = end
        self._make_frame = end.make_frame
        self._takes_bytes = getattr(end, "takes_bytes", False)  # the fast link does
        self._page = page
        self._n_slots = n_slots
        self._codec = codec
        self._forwarder = forwarder  # of what tasks print and log; None: it stays here
        self._flush = flush_streams if forwarder is None else forwarder.finish
        self._functions: dict[int, Callable[..., Any]] = {}
        self._n_heard = 0  # of what is no task; under the condition, but may be read without
        self._heard = Condition()
        # By the ident of the slot's thread; the forwarder's map, where there is one.
        self._journals: dict[int, Journal] = {} if forwarder is None else forwarder.slots

    def enter(self, of: Face | None, pool_pid: int) -> None:
        """Let this worker's tasks use its pool."""
        if of is not None:
            face.enter(Place(of, self._end, self._codec, self.current_chunk, self.current_journal, pool_pid))

    def current_chunk(self) -> int:
        """The id of the chunk whose task calls; 0: it cannot be told, for a thread of the task's own calls."""
        if self._n_slots == 1:
            return started_chunk(self._page, 0)
        journal = self.current_journal()
        return 0 if journal is None else int(journal.words[0])

    def current_journal(self) -> Journal | None:
        """That of the slot whose thread calls; None for any other thread."""
        return self._journals.get(threading.get_ident())

    def run(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> bool:
        """Serve until the pool says stop or is gone. Returns False if the initializer failed."""
        state = become_worker()
        before = enter_slot(state, self._n_slots)  # the initializer runs in the first slot's thread
        try:
            return self._run(initializer, initargs, state)
        finally:
            leave_slot(before)
            state.close()

    def _run(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...], state: WorkerState) -> bool:
        if initializer is not None:
            try:
                initializer(*initargs)
            except BaseException as error:  # noqa: BLE001  it is the pool's to report
                self._answer_error(frames.INIT_FAILED, 0, 0, error, 0.0)
                return False
        global n_slots_here  # noqa: PLW0603  a process is a worker at most once
        n_slots_here = self._n_slots
        face.ready()
        on_stop_signal(self._stop_tasks)
        if self._n_slots > 1:
            on_drop(TaskStopped, self._was_dropped)
        try:
            self._send(frames.READY, os.getpid(), 0, 0, 0.0, b"", [])
        except OSError:
            return True  # the pool is gone
        others = [make_thread(self._serve_beside, f"slot-{index}", (index, state)) for index in range(1, self._n_slots)]
        for thread in others:
            thread.start()
        self._serve(0)
        for thread in others:
            thread.join()
        face.leave()
        return True

    def _serve_beside(self, slot_index: int, state: WorkerState) -> None:
        before = enter_slot(state, self._n_slots)
        try:
            self._serve(slot_index)
        finally:
            leave_slot(before)

    def _serve(self, slot_index: int) -> None:
        journal = Journal(self._page, slot_index)
        journal.slot = Slot()
        self._journals[threading.get_ident()] = journal
        receive = self._end.receive
        if slot_index:
            limit_this_thread()  # the first has it from the program's main thread, or from the environment
        try:
            while True:
                received = receive()
                if received is None:
                    return
                fields, data, attached = received
                if fields[0] == frames.STOP:
                    return
                if fields[0] in SAID:
                    self._hear(fields, data, attached)
                elif fields[7] > self._n_heard and not self._catches_up(fields[7]):
                    self._send(frames.MISSING, fields[3], fields[4], fields[5], 0.0, b"", [])
                else:
                    self._run_frame(journal, fields, data, attached)
                received = data = attached = None  # hold nothing while waiting
        except OSError:
            return  # the pool is gone
        finally:
            del self._journals[threading.get_ident()]
            journal.close()

    def _hear(self, fields: Fields, data: bytes, attached: Attached) -> None:
        """Something has come that is no task, but for all tasks that were sent after it."""
        if fields[0] == frames.BROADCAST:
            expect_value(fields)
            self._count_heard()
            keep_value(fields, data, attached)  # may take long: who needs it waits for it
            self._send(frames.KEPT, 0, 0, 0, 0.0, b"", [])
            return
        try:
            if self._forwarder is not None:
                self._forwarder.hear(read_body(data, fields, attached).payload)
        finally:
            self._count_heard()

    def _count_heard(self) -> None:
        with self._heard:
            self._n_heard += 1
            self._heard.notify_all()

    def _catches_up(self, n_said: float) -> bool:
        """Whether so much of what was sent ahead of a task has been heard, or is within a moment.

        Another slot's thread may have received it and be about to say so. Or the pool has taken it out of the link
        together with tasks, to put it in again, while this task was read: then the task has to go back.
        """
        with self._heard:
            return self._heard.wait_for(lambda: self._n_heard >= n_said, ARRIVAL_S if self._n_slots > 1 else 0.0)

    def become_fork(self) -> None:
        """This process is a fork of the worker, made by a task: it must not take tasks or answer in its name."""
        self._end = ForksEnd()

    def _stop_tasks(self) -> None:
        """The pool has signalled that tasks are to be stopped: raise an exception in each of them."""
        mine: type[BaseException] | None = None
        for journal in list(self._journals.values()):
            slot = journal.slot
            stop = journal.words[STOP_WORD]
            if not is_meant(stop, slot.running):
                continue
            error = stop_class(stop)
            if slot.is_main:
                slot.running = 0
                mine = error
            else:
                slot.raise_in_thread(partial(is_meant, stop), error)
        if mine is not None:
            raise mine("the pool stopped this task")

    def _was_dropped(self) -> bool:
        """Python has dropped the exception that was to stop this thread's task: in a ``__del__``, say."""
        journal = self.current_journal()
        return journal is not None and journal.slot.was_dropped()

    def _run_frame(self, journal: Journal, fields: Fields, data: bytes, attached: Attached) -> None:
        kind, flags, function_id, chunk_id, start, count, n_function, _ = fields
        fn = self._functions.get(function_id)
        if kind == frames.CALL and fn is not None and not flags and not n_function:  # as most
            self._run_call(journal, fn, chunk_id, memoryview(data)[HEADER_BYTES:], None)
            return
        try:
            body = read_body(data, fields, attached)
        except OSError as error:  # no descriptors or no memory left for the mapping
            if count > 1:
                self._send(frames.UNLOADABLE, chunk_id, start, count, 0.0, b"", [])
            else:
                self._answer_error(frames.ERROR, chunk_id, start, error, 0.0)
            return
        n_items = 0 if kind == frames.CALL else count
        if fn is None:
            if not len(body.function):
                self._send(frames.MISSING, chunk_id, start, count, 0.0, b"", [])
                return
            journal.start(chunk_id, n_items, LOADING_FUNCTION)
            try:
                fn = decode(body.function, None, body.function_descriptors)
            except BaseException as error:  # noqa: BLE001
                add_note(error, FUNCTION_UNREADABLE)
                if isinstance(error, (ImportError, AttributeError)):
                    journal.start(0, 0, RUNNING)  # nothing runs: it is sent again in another way
                    self._answer_error(frames.UNLOADABLE_FUNCTION, chunk_id, start, error, 0.0)
                    return
                for index in range(start, start + count):
                    self._answer_error(frames.ERROR, chunk_id, index, error, 0.0)
                return
            if function_id:
                if len(self._functions) >= MAX_FUNCTIONS:
                    self._functions.pop(next(iter(self._functions)), None)
                self._functions[function_id] = fn
        if kind == frames.CALL:
            self._run_call(journal, fn, chunk_id, body.payload, body)
        else:
            self._run_items(journal, fn, kind, chunk_id, start, count, body)

    # -- a single call ---------------------------------------------------------------------------------------------

    def _run_call(
        self, journal: Journal, fn: Callable[..., Any], chunk_id: int, payload: bytes | memoryview, body: Body | None
    ) -> None:
        """``body``: the frame's, if it is more than a payload."""
        words, slot = journal.words, journal.slot
        began = perf_counter_ns()
        words[PHASE_WORD] = RUNNING
        words[ITEM_WORD] = 1
        words[SINCE_WORD] = began
        words[0] = chunk_id
        try:
            if body is None:
                args, kwargs = loads(payload)
            else:
                args, kwargs = decode(payload, body.buffers, body.descriptors)
                body.close_descriptors()
        except BaseException as error:  # noqa: BLE001
            words[ITEM_WORD] = 0
            add_note(error, ARGUMENTS_UNREADABLE)
            self._answer_error(frames.ERROR, chunk_id, 0, error, (perf_counter_ns() - began) * 1e-9)
            return
        body = None
        try:
            try:
                slot.running = chunk_id << TOKEN_BITS
                if words[STOP_WORD]:
                    journal.heed()
                began = perf_counter_ns()
                result = fn(*args, **kwargs)
            finally:
                slot.leave()
        except BaseException as error:  # noqa: BLE001  SystemExit too is that task's outcome
            words[ITEM_WORD] = 0
            args = kwargs = None
            self._answer_error(frames.ERROR, chunk_id, 0, error, (perf_counter_ns() - began) * 1e-9)
            return
        seconds = (perf_counter_ns() - began) * 1e-9
        args = kwargs = None
        try:  # a limit of its time goes on: its pickling is user code
            answer, buffers = self._codec.encode(result)
        except BaseException as error:  # noqa: BLE001  and may even exit
            self._answer_error(frames.ERROR, chunk_id, 0, name_result(error), seconds)
            words[ITEM_WORD] = 0
            return
        result = None
        if self._takes_bytes and not buffers and len(answer) <= MAX_INLINE:  # `_send`, written out
            self._flush()
            self._end.send(pack(frames.RESULT, 0, 0, chunk_id, 0, 1, 0, seconds) + answer)
            words[ITEM_WORD] = 0
            return
        try:
            self._send(frames.RESULT, chunk_id, 0, 1, seconds, answer, buffers)
        except NoRoom as error:
            self._answer_error(frames.ERROR, chunk_id, 0, error.what, seconds)
        words[ITEM_WORD] = 0

    # -- items of a map --------------------------------------------------------------------------------------------

    def _run_items(
        self, journal: Journal, fn: Callable[..., Any], kind: int, chunk_id: int, start: int, count: int, body: Body
    ) -> None:
        journal.start(chunk_id, count, LOADING)
        try:
            items = decode(body.payload, body.buffers, body.descriptors)
            body.close_descriptors()
        except BaseException as error:  # noqa: BLE001
            journal.start(0, 0, RUNNING)
            if count > 1:  # one bad item must not take the others with it: have them sent one by one
                self._send(frames.UNLOADABLE, chunk_id, start, count, 0.0, b"", [])
            else:
                self._answer_error(frames.ERROR, chunk_id, start, error, 0.0)
            return
        body = None  # type: ignore[assignment]
        journal.words[PHASE_WORD] = RUNNING
        if kind in (frames.STARMAP, frames.TIMED_STARMAP, frames.WHOLE_STARMAP):
            fn = starred(fn)
        if kind in (frames.TIMED_MAP, frames.TIMED_STARMAP):
            self._run_timed_items(journal, fn, chunk_id, start, items)
            return
        words, put, slot = journal.words, journal.put, journal.slot
        least, most = -INT_LIMIT, INT_LIMIT  # what stands inside of the loop is most of what an item costs
        whole = token(chunk_id)
        results: list[Any] = []
        append = results.append
        index = 0  # the item that runs; results[0] is that of item `sent`
        sent = 0
        step = 1  # after so many items it is looked whether to go on
        clock_at = 1  # and when so many have ended, at the clock: often enough, but not for every tiny task
        puts = True  # whether results that are neither None nor ints go into the journal; large ones are sent at once
        looked = 0
        flush_s = FLUSH_S if kind < frames.WHOLE_MAP else WHOLE_FLUSH_S
        looked_s = flushed = perf_counter()
        revoked = False
        while index < count and not revoked:
            try:
                try:
                    slot.running = whole
                    journal.heed()
                    while index < count:
                        for item in items[index : index + step]:
                            result = fn(item)
                            append(result)
                            index += 1
                            if type(result) is int and least < result < most:
                                words[index] = result
                            elif result is None:
                                words[index] = NONE
                            elif index < count:  # the last is sent at once
                                kept = put(index - 1, result) if puts else None
                                if not kept:
                                    puts = puts and kept is not None
                                    clock_at = index
                                    break
                        if words[REVOKED_WORD] == chunk_id:
                            revoked = True
                            break
                        if index < clock_at:
                            continue
                        now = perf_counter()
                        n_items = int(LOOK_S * (index - looked) / (now - looked_s + 1e-9)) + 1
                        step = min(n_items, LOOK_N)
                        clock_at = index + n_items
                        looked, looked_s = index, now
                        if now - flushed > flush_s or words[index] == UNSET:
                            slot.leave()
                            self._answer_items(journal, chunk_id, start, sent, results, now - flushed)
                            results.clear()
                            sent = index
                            flushed = perf_counter()
                            slot.running = whole
                            journal.heed()
                finally:
                    slot.leave()
            except BaseException as error:  # noqa: BLE001
                now = perf_counter()
                if index >= count:  # it was stopped after its last item
                    break
                del results[index - sent :]  # it was stopped between two of the lines above
                if results:
                    self._answer_items(journal, chunk_id, start, sent, results, 0.0)
                    results.clear()
                self._answer_error(frames.ERROR, chunk_id, start + index, error, now - flushed)
                index += 1
                words[index] = NONE  # after the answer: a death in between must not look like a result
                revoked = words[REVOKED_WORD] == chunk_id
                sent = index
                flushed = perf_counter()
        if results:
            self._answer_items(journal, chunk_id, start, sent, results, perf_counter() - flushed)
        if index < count:
            self._send(frames.REVOKED, chunk_id, start + index, count - index, 0.0, b"", [])

    def _run_timed_items(
        self, journal: Journal, fn: Callable[..., Any], chunk_id: int, start: int, items: list[Any]
    ) -> None:
        """Items whose time is limited: the pool can see in the journal which one runs, and since when."""
        words, slot = journal.words, journal.slot
        results: list[Any] = []
        sent = index = 0
        flushed = perf_counter()
        for index, item in enumerate(items):
            if words[REVOKED_WORD] == chunk_id:
                break
            began = perf_counter()
            words[SINCE_WORD] = perf_counter_ns()
            words[ITEM_WORD] = index + 1
            problem: BaseException | None = None
            result: Any = None
            must_flush = False
            try:
                try:
                    slot.running = token(chunk_id, index)
                    journal.heed()
                    result = fn(item)
                finally:
                    slot.leave()
            except BaseException as error:  # noqa: BLE001
                words[ITEM_WORD] = 0
                problem = error
            now = perf_counter()
            if problem is None:
                results.append(result)
                if result is None:
                    words[index + 1] = NONE
                elif type(result) is int and -INT_LIMIT < result < INT_LIMIT:
                    words[index + 1] = result
                else:
                    must_flush = index + 1 == len(items) or not journal.put(index, result)
            if results and (must_flush or problem is not None or now - flushed > FLUSH_S):
                seconds = (now if problem is None else began) - flushed
                self._answer_items(journal, chunk_id, start, sent, results, seconds)
                results.clear()
                sent = index + 1
                flushed = perf_counter()
            if problem is not None:
                self._answer_error(frames.ERROR, chunk_id, start + index, problem, now - began)
                words[index + 1] = NONE  # after the answer: a death in between must not look like a result
                sent = index + 1
                flushed = perf_counter()
            words[ITEM_WORD] = 0  # only now: a limit of its time holds for the pickling of its result, too
        else:
            index = len(items)
        if results:
            self._answer_items(journal, chunk_id, start, sent, results, perf_counter() - flushed)
        if index < len(items):
            self._send(frames.REVOKED, chunk_id, start + index, len(items) - index, 0.0, b"", [])

    def _answer_items(
        self, journal: Journal, chunk_id: int, start: int, sent: int, results: list[Any], seconds: float
    ) -> None:
        """Send the results of the chunk's items from ``sent`` on."""
        n, first = len(results), start + sent
        try:
            payload, buffers = self._as_kept(journal, sent, results) or self._codec.encode(results)
        except BaseException as error:  # noqa: BLE001  as in _run_call
            if n == 1:
                self._answer_error(frames.ERROR, chunk_id, first, name_result(error), seconds)
                return
            self._answer_one_by_one(journal, chunk_id, first, results, seconds)
            return
        try:
            self._send(frames.RESULTS, chunk_id, first, n, seconds, payload, buffers)
        except NoRoom as error:
            if n == 1:
                self._answer_error(frames.ERROR, chunk_id, first, error.what, seconds)
            else:
                self._answer_one_by_one(journal, chunk_id, first, results, seconds)
        journal.forget_heap()

    def _answer_one_by_one(
        self, journal: Journal, chunk_id: int, first: int, results: list[Any], seconds: float
    ) -> None:
        journal.forget_heap()
        for index, result in enumerate(results, first):
            self._answer_items(journal, chunk_id, index, 0, [result], seconds / len(results))

    def _as_kept(self, journal: Journal, sent: int, results: list[Any]) -> tuple[bytes, list[Any]] | None:
        """The results as the journal has them, pickled already; None: pickle them for the pool."""
        data = journal.records(sent, len(results))
        if data is None or self._codec.reducers is not None:
            return None
        if journal.n_kept < len(results):
            data += record(dumps(results[-1], 5))
        if b"__main__" in data or CONNECTION in data:  # what only the codec can pickle for another process
            return None
        return dumps(Records(data), 5), []

    # -- answers ---------------------------------------------------------------------------------------------------

    def _answer_error(self, kind: int, chunk_id: int, index: int, error: BaseException, seconds: float) -> None:
        payload = dump_exception(error, format_remote(error), self._codec)
        try:
            self._send(kind, chunk_id, index, 1, seconds, payload, [])
        except NoRoom as problem:  # an exception that holds much
            payload = dump_exception(problem.what, str(problem.what), self._codec)
            self._send(kind, chunk_id, index, 1, seconds, payload, [])

    def _send(
        self, kind: int, chunk_id: int, start: int, count: int, seconds: float, payload: bytes, buffers: list[Any]
    ) -> None:
        self._flush()  # what was printed is seen before the answer
        try:
            frame = self._make_frame(kind, 0, chunk_id, start, count, seconds, b"", payload, buffers)
        except (OSError, MemoryError) as error:
            raise NoRoom(error) from error
        self._end.send(frame)


class NoRoom(Exception):
    """What is to be sent needs a block of memory, and this process gets none: descriptors or memory are used up.

    Not an OSError, which means that the pool is gone.

    Attributes:
        what: the error, for the pool.
    """

    def __init__(self, error: OSError | MemoryError) -> None:
        super().__init__(error)
        error.add_note("fullcourt: the task ran, but this worker could not send its outcome, which is large")
        self.what = error


class ForksEnd:
    """The link's end in a process that a task forked and that came back from it: it ends, and does not answer."""

    def send(self, frame: Any) -> None:
        """End this process; its parent, the worker, is who answers."""
        flush_streams()
        os._exit(0)


def expect_value(fields: Fields) -> None:
    """A value has come for tasks to come, or is to be forgotten: from here on they know."""
    key = fields[4] << 32 | fields[2]
    if fields[5]:
        kept.expect(key)
    else:
        kept.drop(key)


def keep_value(fields: Fields, data: bytes, attached: Attached) -> None:
    """Keep a value. If it cannot be read, those that use it are told."""
    if not fields[5]:
        return
    key = fields[4] << 32 | fields[2]
    value: Any
    try:
        body = read_body(data, fields, attached)
        value = decode(body.payload, body.buffers, body.descriptors)
    except BaseException as error:  # noqa: BLE001  whatever the user's code raises
        add_note(error, "fullcourt: a broadcast value could not be read in the worker")
        value = Missing(error)
    kept.put(key, value)


def starred(fn: Callable[..., Any]) -> Callable[[Any], Any]:
    """The function of one item whose elements are the arguments."""
    return lambda item: fn(*item)


def name_result(error: BaseException) -> BaseException:
    """Say that it was the result."""
    if not isinstance(error, PicklingError):
        add_note(error, "fullcourt: the task ran, but the pickling of its result raised this")
        return error
    named = PicklingError(f"the task ran, but of its result, {error}")
    named.__cause__ = error.__cause__
    return named


def flush_streams() -> None:
    """What tasks print must not wait in a buffer until the worker ends, or be lost if it is killed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S112  there is none, it is closed, it is the user's
            continue
