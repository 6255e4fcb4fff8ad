"""Tasks that hand work to their own pool: the pool's side.

*Workers behind a link.* In the worker, the pool is a driver of its own whose engine is this pool (see :mod:`inside`).
What it sends comes here as a :class:`Request` and becomes a :class:`Relay`: a chunk whose bytes are passed on as they
are, to whichever worker has room, and so are the answers, back to where it came from: nothing of the user's is read
here. While any of them is open, the task that asked counts as waiting and its slot is lent. Whether it really waits,
and how (``result()``, ``as_completed``, an event loop, threads of its own), need not be known: at worst one task more
runs than there are slots.

*Threads and the caller.* There the work is the pool's like any other; only the slot is lent, in the same way.

Nested tasks go before all others, those of deeper levels first: then few tasks wait at a time.

All methods are called under the driver's lock, but for ``call`` and ``job``, which take it.
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, cast

from fullcourt._core.model import NESTED, Chunk, Estimate
from fullcourt._core.options import Durations, Options
from fullcourt._engines.jobs import Call, CallStream, Settlement
from fullcourt._transport import frames
from fullcourt._transport.carried import Rights
from fullcourt._transport.functions import Function
from fullcourt._transport.journal import LOADING, Unreadable
from fullcourt._transport.link import Body
from fullcourt._transport.remote_errors import dump_exception, load_exception
from fullcourt.errors import TaskCancelled

__all__ = ["MAX_LENT", "STOPPING", "Lending", "Relay", "Relays", "Request", "nested_priority", "one_result"]

MAX_FUNCTIONS = 512
STOPPING = 2  # the answer to a cancellation: it runs, and is being stopped
# So many slots may be lent at a time by tasks of threads.
MAX_LENT = 2000


def too_deep(n_waiting: int) -> RecursionError:
    return RecursionError(
        f"{n_waiting} tasks of this pool wait for tasks of their own, and no worker is left that could run them. "
        f"Nest less deeply, or have the tasks return what is to be done next instead of waiting for it."
    )


@dataclass(slots=True)
class Request:
    """A chunk of nested tasks, as the worker sends it; its large buffers travel beside it.

    Attributes:
        kind: CALL, MAP or STARMAP.
        chunk_id: the chunk's number in the worker; so are the function's and the outer chunk's theirs.
        start: as in a frame.
        count: as in a frame.
        function_id: 0: the function is not kept.
        name: the function's, for messages.
        function: its pickle; empty: it came before.
        payload: the arguments' or items' pickle.
        outer: the pool's number of the chunk whose task asks; 0: it cannot be told, but one that the worker holds.
        options: what its running needs; who asked retries by itself.
    """

    kind: int
    chunk_id: int
    start: int
    count: int
    function_id: int
    name: str
    function: bytes
    payload: bytes
    outer: int
    options: Options | None


class Relay(Chunk):
    """A chunk of nested tasks, on its way through the pool."""

    __slots__ = (
        "answer",
        "attempt",
        "cancelled",
        "function",
        "future",
        "kind",
        "options",
        "outer",
        "payload",
        "priority",
        "stream",
    )

    def __init__(self, chunk_id: int, request: Request, function: Function, payload: Any, origin: Origin) -> None:
        super().__init__(chunk_id, request.start, request.count, function.estimate)
        self.kind = request.kind
        self.function = function
        self.payload = payload
        self.outer = request.outer
        self.answer = Answer(origin, request.chunk_id)
        self.future: Answer | None = self.answer  # None once it shall not run
        self.stream: CallStream
        self.priority = 0
        self.cancelled = False
        self.attempt = 1
        self.options = request.options
        if self.options is not None and self.options.factor is not None and self.estimate.durations is None:
            self.estimate.durations = Durations()

    @property
    def origin(self) -> Origin | None:
        """The worker whose task asked; None: nobody waits for the answers any more."""
        return self.answer.origin

    @property
    def asked_id(self) -> int:
        """The chunk's number there."""
        return self.answer.asked_id


class Origin:
    """A worker whose tasks ask."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.functions: dict[int, Function] = {}
        self.relays: dict[int, Relay] = {}  # by the worker's numbers


class Answer:
    """Brings a relay's outcomes to who asked. Without the driver's lock. Does not keep the relay."""

    def __init__(self, origin: Origin, asked_id: int) -> None:
        self.origin: Origin | None = origin
        self.asked_id = asked_id

    def pass_on(
        self, engine: Any, kind: int, pid: int, start: int, count: int, seconds: float, payload: Any, buffers: list[Any]
    ) -> None:
        """Send an answer, with its body as it is."""
        origin = self.origin
        if origin is not None:
            # No descriptors are left: then the worker cannot be told, and ends with its link.
            with contextlib.suppress(OSError):
                engine.reply(origin.handle, kind, pid, self.asked_id, start, count, seconds, payload, buffers)

    def fail(self, engine: Any, pid: int, index: int, error: BaseException) -> None:
        """Send an error of one task."""
        if self.origin is not None:
            payload = dump_exception(error, "", engine.codec)
            self.pass_on(engine, frames.ERROR, pid, index, 1, 0.0, payload, [])


class Relays:
    """The nested tasks of a pool whose workers are behind links."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.open: dict[int, Relay] = {}
        self._origins: dict[int, Origin] = {}
        self._n_of_outer: dict[int, int] = {}  # how many each outer chunk waits for
        self._functions: dict[bytes, Function] = {}

    # -- what a worker asks ----------------------------------------------------------------------------------------

    def asked(self, event: Any, body: Any, problem: BaseException | None, now: float) -> list[Settlement]:
        """A frame came that concerns nested tasks."""
        handle, kind = event.handle, event.fields[0]
        if kind == frames.REPLIES_OPEN:
            self._driver.engine.open_replies(handle, event.fd)
            return []
        origin = self._origins.get(handle.id)
        if origin is None:
            origin = self._origins[handle.id] = Origin(handle)
        if kind == frames.NESTED_CANCEL:
            self._driver._deferred.append(partial(self._cancel, origin, event.fields[3]))
            return []
        if kind == frames.NESTED_STOP:
            self._stop(origin.relays.get(event.fields[3]), now)
            return []
        if kind == frames.NESTED_REVOKE:
            self._revoke(origin.relays.get(event.fields[3]), now)
            return []
        if body is None:
            chunk_id, start, count = event.fields[3:6]
            lost = Request(frames.CALL, chunk_id, start, count, 0, "", b"", b"", 0, None)
            error = problem or OSError("a nested task could not be received")
            return self._refuse(Relay(0, lost, NO_FUNCTION, None, origin), error)
        request, buffers = body
        return self._take_on(origin, request, buffers, now)

    def _take_on(self, origin: Origin, request: Request, buffers: list[Any], now: float) -> list[Settlement]:
        driver = self._driver
        function = self._function(origin, request, getattr(buffers, "function_rights", None))
        relay = Relay(driver.new_id(), request, function or NO_FUNCTION, (request.payload, buffers), origin)
        if function is None:
            return [self._to_origin(relay, frames.MISSING, 0, relay.start, relay.count)]
        refusal = driver._broken
        if refusal is None and driver.scheduler.closing:
            refusal = TaskCancelled("the pool was terminated")
        if refusal is None and not self._lend(relay, now):
            refusal = too_deep(driver.scheduler.n_lent)
        if refusal is not None:
            return self._refuse(relay, refusal)
        relay.stream = stream = driver.stream_of(("nested", origin.handle.id, relay.outer), relay.priority)
        self.open[relay.id] = relay
        origin.relays[request.chunk_id] = relay
        driver._n_open += 1
        stream.append(cast("Call", relay))  # which it resembles as far as a stream cares
        driver.scheduler.stream_filled(stream, now)
        return []

    def _function(self, origin: Origin, request: Request, rights: Rights | None) -> Function | None:
        """The function's entry in this pool; None: the worker must send it again."""
        if not request.function:
            known: Function | None = origin.functions.get(request.function_id)
            return known
        if not request.function_id:
            unkept: Function = self._driver.functions.unkept(request.function, request.name, rights)
            return unkept
        function = self._functions.get(request.function)
        if function is None:
            if len(self._functions) >= MAX_FUNCTIONS:
                self._functions.pop(next(iter(self._functions)))
            function = self._functions[request.function] = self._driver.functions.number(request.function, request.name)
        if len(origin.functions) >= MAX_FUNCTIONS:
            origin.functions.pop(next(iter(origin.functions)))
        origin.functions[request.function_id] = function
        return function

    def _lend(self, relay: Relay, now: float) -> bool:
        """Lend the slot of the task that asks, if it still runs. False: there is no way to run what it asks for."""
        scheduler = self._driver.scheduler
        outer = self._outer(relay)
        relay.priority = NESTED if outer is None else nested_priority(outer)
        if outer is None:
            relay.outer = 0
            return True
        relay.outer = outer.id
        n = self._n_of_outer.get(outer.id, 0)
        if not n and not scheduler.slot_lent(outer, now):
            return False
        self._n_of_outer[outer.id] = n + 1
        return True

    def _outer(self, relay: Relay) -> Any:
        worker = self._driver.scheduler.workers.get(relay.origin.handle.id) if relay.origin is not None else None
        if worker is None:
            return None
        if relay.outer == 0:
            return next(iter(worker.sent.values()), None)
        return worker.sent.get(relay.outer)

    def _refuse(self, relay: Relay, error: BaseException) -> list[Settlement]:
        return [self._error(relay, None, index, error) for index in range(relay.start, relay.start + relay.count)]

    def _cancel(self, origin: Origin, chunk_id: int) -> None:
        """A call shall not run, or be stopped. Without the lock."""
        relay = origin.relays.get(chunk_id)
        done = int(relay is not None and self._withdraw(relay))
        if not done:
            with self._driver._lock:
                done = STOPPING * self._stop(relay, monotonic())
            self._driver._perform()
            self._driver._look_at_clock()
        engine = self._driver.engine
        with contextlib.suppress(OSError):
            engine.reply(origin.handle, frames.CANCEL_ANSWER, 0, chunk_id, 0, done, 0.0, b"", [])

    def _stop(self, relay: Relay | None, now: float) -> bool:
        """Stop what runs of a relay. False: it has ended, or cannot be stopped here."""
        if relay is None or relay.id not in self.open:
            return False
        return bool(self._driver.supervisor.cancel(relay, now))

    def _revoke(self, relay: Relay | None, now: float) -> None:
        """A map is over: what is left of this chunk shall not run."""
        if relay is None or relay.cancelled:
            return
        driver = self._driver
        if relay.worker_id is None:
            driver._withdraw_waiting(relay)
            self._over(relay, now, counts=False)
            self._tell_revoked(relay)
            return
        relay.cancelled = True
        driver.engine.revoke(relay.worker_id, [relay.id])
        if len(driver.scheduler.workers[relay.worker_id].sent) > 1:
            driver.scheduler.actions.append(("take_back", relay.worker_id))

    def _tell_revoked(self, relay: Relay) -> None:
        n_left = relay.count - relay.done
        relay.answer.pass_on(self._driver.engine, frames.REVOKED, 0, relay.start + relay.done, n_left, 0.0, b"", [])

    def _withdraw(self, relay: Relay) -> bool:
        driver = self._driver
        with driver._lock:
            worker_id = relay.worker_id
            done = worker_id is None and relay.future is not None and relay.id in self.open
            if done:
                driver._withdraw_waiting(relay)
        if worker_id is not None:
            done = driver._cancel_sent(relay, worker_id)
        if done:
            with driver._lock:
                self._over(relay, monotonic(), counts=False)
                driver._after_event()
            driver._perform()
        return done

    # -- what becomes of them --------------------------------------------------------------------------------------

    def answered(self, relay: Relay, event: Any, body: Body | None, problem: BaseException | None) -> list[Settlement]:
        """A worker told of a relay that it holds. The frame goes on to who asked."""
        driver, now = self._driver, monotonic()
        kind, _, _, _, start, count, _, seconds = event.fields
        handle = event.handle
        if kind not in (frames.RESULT, frames.RESULTS, frames.ERROR):  # nothing more of it runs here
            driver.supervisor.chunk_ended(relay)
            driver.scheduler.withdrawn(relay, now)
            self._over(relay, now)
        else:
            if driver.supervisor.waits_for_answers():
                if kind == frames.ERROR and body is not None:
                    problem = load_exception(body.payload)
                problem = driver.supervisor.task_answered(relay, start, problem)
            if kind == frames.ERROR or problem is not None:
                driver.n_failed += count
            else:
                driver.n_done += count
                handle.n_done += count
            handle.busy_s += seconds
            is_last = relay.done + count >= relay.count and self._n_of_outer.get(relay.outer) == 1
            driver.scheduler.ended(relay, count, seconds, now, self._outer(relay) if is_last else None)
            relay.function.n_fatal_loads = 0
            if relay.options is not None:
                driver._note_end(relay, now)
            if relay.done >= relay.count:
                self._over(relay, now)
        if problem is not None or body is None:  # it was stopped, or could not be received
            error = problem or OSError("the answer of a nested task could not be received")
            return [self._error(relay, handle, index, error) for index in range(start, start + count)]
        buffers = body.to_pass_on()
        return [self._to_origin(relay, kind, handle.pid or 0, start, count, seconds, body.payload, buffers)]

    def cannot_send(self, relay: Relay, problem: BaseException) -> list[Settlement]:
        """There was no memory for it, or no descriptor."""
        self._over(relay, monotonic())
        if relay.count > 1:
            return [self._to_origin(relay, frames.UNLOADABLE, 0, relay.start, relay.count)]
        self._driver.n_failed += 1
        return [self._error(relay, None, relay.start, problem)]

    def failed(self, relay: Relay, index: int, error: BaseException, handle: Any) -> list[Settlement]:
        """One of a relay's tasks failed by the pool's own decision; no worker holds it any more."""
        self._driver.n_failed += 1
        relay.done += 1
        if relay.done >= relay.count or relay.cancelled:
            self._over(relay, monotonic())
        return [self._error(relay, handle, index, error)]

    def died(
        self, relay: Relay, left: Sequence[Any], phase: int, dead: Callable[[str], BaseException], handle: Any
    ) -> tuple[list[Relay], list[Settlement]]:
        """The worker that had started a relay died. Returns what of it runs again here, and what is told.

        ``left``: the results in its journal that were not told yet, by :func:`one_result`.
        """
        driver, now = self._driver, monotonic()
        first, end = relay.start + relay.done, relay.start + relay.count
        told: list[Settlement] = []
        if phase == LOADING and relay.count > 1:
            told.append(self._to_origin(relay, frames.UNLOADABLE, 0, relay.start, relay.count))
            self._over(relay, now)
            return [], told
        for result in left:
            if type(result) is Unreadable:
                driver.n_failed += 1
                told.append(self._error(relay, handle, first, result.error))
            else:
                driver.n_done += 1
                told.append(self._to_origin(relay, frames.RESULTS, handle.pid, first, 1, 0.0, result))
            first += 1
        if first < end:
            failure = driver.supervisor.worker_lost(relay, first, dead(f"{relay.function.name}()"))
            if failure is None and relay.kind == frames.CALL:
                return [relay], told
            if failure is not None:
                driver.n_failed += 1
                told.append(self._error(relay, handle, first, failure))
                first += 1
        self._over(relay, now)
        if first < end:
            told.append(self._to_origin(relay, frames.GIVEN_BACK, 0, first, end - first))
        return [], told

    def origin_lost(self, handle: Any, held: list[Any], now: float) -> list[Settlement]:
        """A worker is gone: nobody gets its answers. What a task that died has asked for does not start any more."""
        origin = self._origins.pop(handle.id, None)
        if origin is None:
            return []
        driver, scheduler = self._driver, self._driver.scheduler
        outers = {chunk.id for chunk in held}
        for relay in list(origin.relays.values()):
            relay.answer.origin = None
            if relay.outer not in outers:
                continue  # the task that asked for it had ended
            if relay in held:
                relay.cancelled = True
                self._over(relay, now)
            elif relay.worker_id is not None:
                relay.cancelled = True  # when it comes back
                if len(scheduler.workers[relay.worker_id].sent) > 1:
                    scheduler.actions.append(("take_back", relay.worker_id))
            elif relay.future is not None:
                driver._withdraw_waiting(relay)
                self._over(relay, now, counts=False)
        return []

    def is_wanted(self, relay: Relay, now: float) -> bool:
        """Whether a relay that came back, since it had not started, shall run elsewhere."""
        if relay.cancelled:
            self._driver.scheduler.withdrawn(relay, now)
            self._over(relay, now)
            self._tell_revoked(relay)
        return not relay.cancelled

    def fail_all(self, relays: list[Relay], error: BaseException | None) -> list[Settlement]:
        """The pool ends: so do these."""
        told: list[Settlement] = []
        for relay in relays:
            if relay.future is not None:
                first, end = relay.start + relay.done, relay.start + relay.count
                told += [self._error(relay, None, index, error or TaskCancelled("")) for index in range(first, end)]
        self.open.clear()
        self._n_of_outer.clear()
        for origin in self._origins.values():
            origin.relays.clear()
        return told

    def _over(self, relay: Relay, now: float, *, counts: bool = True) -> None:
        """Nothing more comes of a relay."""
        if self.open.pop(relay.id, None) is None:
            return
        driver = self._driver
        if counts:
            driver._n_open -= 1
        if relay.origin is not None:
            relay.origin.relays.pop(relay.asked_id, None)
        n = self._n_of_outer.get(relay.outer, 0)
        if n > 1:
            self._n_of_outer[relay.outer] = n - 1
        elif n:
            del self._n_of_outer[relay.outer]
            outer = self._outer(relay)
            if outer is not None:
                driver.scheduler.slot_returned(outer, now)

    def _to_origin(
        self,
        relay: Relay,
        kind: int,
        pid: int,
        start: int,
        count: int,
        seconds: float = 0.0,
        payload: Any = b"",
        buffers: list[Any] | None = None,
    ) -> Settlement:
        engine = self._driver.engine
        return (
            None,
            partial(relay.answer.pass_on, engine, kind, pid, start, count, seconds, payload, buffers or []),
            None,
        )

    def _error(self, relay: Relay, handle: Any, index: int, error: BaseException) -> Settlement:
        pid = handle.pid if handle is not None else 0
        return None, partial(relay.answer.fail, self._driver.engine, pid or 0, index, error), None


NO_FUNCTION = Function(0, b"", "", None, Estimate())


def one_result(result: Any) -> bytes | Unreadable:
    """A dead worker's result, as it is passed on. Without the lock: it runs the user's code."""
    if type(result) is Unreadable:
        return result
    try:
        return pickle.dumps([result], 5)
    except BaseException as error:  # noqa: BLE001
        return Unreadable(error)


class Lent:
    """Something that a task of threads has asked for, and may wait for."""

    __slots__ = ("is_open", "outer", "outer_id")

    def __init__(self, outer: Any) -> None:
        self.outer = outer
        self.outer_id: int = outer.id  # the chunk gets another one if its task is tried again
        self.is_open = True


class Lending:
    """The nested tasks of a pool of threads, or of the caller: what they ask for is the pool's like any other's."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._n_of_outer: dict[int, int] = {}

    def call(self, call: Call) -> None:
        """A call is being submitted."""
        outer = self._driver.engine.current_chunk()
        if outer is None:
            return
        lent = self._lend(outer)
        call.payload = lent  # which has no other use here: nothing is pickled
        assert call.future is not None
        call.future.add_done_callback(partial(self._call_ended, lent))

    def job(self, job: Any) -> None:
        """A map is being started."""
        outer = self._driver.engine.current_chunk()
        if outer is not None:
            job.outer = self._lend(outer)
            job.priority += nested_priority(outer)

    def resumed_by(self, chunk: Any, count: int, *, failed: bool) -> Any:
        """The chunk whose task waits for nothing any more when so many tasks of this one have ended.

        A call that ends is taken note of here: its future's callback comes only after the lock was released, and
        meanwhile the same task may ask for more.
        """
        job = getattr(chunk, "job", None)
        lent: Lent | None = chunk.payload if job is None else job.outer
        if lent is None or (failed and chunk.options is not None and chunk.options.retries):
            return None
        is_last = self._n_of_outer.get(lent.outer_id) == 1
        if job is None:
            self._forget(lent)
        elif not job.ends_with(count, failed=failed):
            return None
        return lent.outer if is_last and lent.outer.id == lent.outer_id else None

    def ended(self, lent: Lent) -> None:
        """Something that a task has asked for has ended."""
        if self._forget(lent) and lent.outer.id == lent.outer_id:
            self._driver.scheduler.slot_returned(lent.outer, monotonic())

    def _forget(self, lent: Lent) -> bool:
        """Returns whether it was the last that its task waits for."""
        if not lent.is_open:
            return False
        lent.is_open = False
        n = self._n_of_outer[lent.outer_id] - 1
        if n:
            self._n_of_outer[lent.outer_id] = n
        else:
            del self._n_of_outer[lent.outer_id]
        return not n

    def _lend(self, outer: Any) -> Lent:
        scheduler = self._driver.scheduler
        with self._driver._lock:
            if self._driver.thread_lane is not None:
                self._driver.thread_lane.fold(monotonic())  # the task that asks may be there
            n = self._n_of_outer.get(outer.id, 0)
            if not n:
                if scheduler.n_lent >= MAX_LENT:
                    raise too_deep(scheduler.n_lent)
                scheduler.slot_lent(outer, monotonic())
            self._n_of_outer[outer.id] = n + 1
        return Lent(outer)

    def _call_ended(self, lent: Lent, _: Any) -> None:
        if not lent.is_open:
            return
        with self._driver._lock:
            self.ended(lent)
        if not self._driver.engine.runs_inline:
            self._driver._perform()


def nested_priority(outer: Any) -> int:
    """That of a nested task: the deeper, the higher."""
    source = outer if type(outer) is Relay else getattr(outer, "stream", None) or getattr(outer, "job", None)
    return max(NESTED, getattr(source, "priority", 0) + 1)
