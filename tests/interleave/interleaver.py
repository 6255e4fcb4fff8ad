"""Runs threads one at a time, and decides at every line which goes on: so any interleaving can be had, and had again.

The threads under test are *actors*. Each is a real thread with a trace function; at each line of the modules under
test, and wherever it would block, it asks the :class:`Interleaver` who is next. Locks, semaphores, conditions and the
clock of those modules are replaced by ones that belong to it (:func:`Interleaver.installed`), so it knows who can go
on, time-outs come when it says so, and a deadlock is seen at once: no actor can go on.

A schedule is given by a chooser, and is the same each time. :func:`explore` tries all with one preemption, and some
drawn by chance with several.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

MAX_POINTS = 100_000  # of one run: beyond that it turns in a circle
DEPTH = float(os.environ.get("FULLCOURT_TEST_DEPTH", "1"))  # how many times as many schedules as usual are tried

Chooser = Callable[[int, int], int]  # (number of the point, how many can go on) -> which; 0: the one that runs


class Stuck(BaseException):
    """The run is over, and this actor with it."""


class Actor:
    def __init__(self, name: str, body: Callable[[], object]) -> None:
        self.name = name
        self.body = body
        self.baton = threading.Semaphore(0)
        self.can_go_on: Callable[[], bool] | None = None  # where it is blocked
        self.deadline: float | None = None
        self.over = False
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return self.name


class Interleaver:
    def __init__(self, choose: Chooser, modules: list[ModuleType]) -> None:
        self._choose = choose
        self._modules = modules
        self._files = {str(module.__file__) for module in modules}
        self._actors: list[Actor] = []
        self._current: Actor | None = None
        self._idents: dict[int, Actor] = {}
        self._finished = threading.Event()
        self._deciding = False
        self.now = 1_000.0
        self.n_points = 0
        self.trail: deque[str] = deque(maxlen=60)
        self.problem = ""

    # -- actors ---------------------------------------------------------------------------------------------------

    def add(self, name: str, body: Callable[[], object]) -> Actor:
        """A new actor; it may be added by one that runs."""
        actor = Actor(name, body)
        self._actors.append(actor)
        if self._current is not None:
            self._start(actor)
        return actor

    def make_thread(
        self, target: Callable[..., Any], name: str, args: tuple[Any, ...] = (), *, daemon: bool = True
    ) -> Any:
        """Stands in for the package's function of that name."""
        del daemon
        made: list[Actor] = []
        return SimpleNamespace(
            start=lambda: made.append(self.add(name, lambda: target(*args))),
            join=lambda: self.block(lambda: made[0].over),
        )

    def _start(self, actor: Actor) -> None:
        actor.thread = threading.Thread(target=self._run, args=(actor,), daemon=True)
        actor.thread.start()

    def _run(self, actor: Actor) -> None:
        actor.baton.acquire()
        self._idents[threading.get_ident()] = actor
        try:
            if not self.problem:
                sys.settrace(self._trace)
                actor.body()
        except Stuck:
            pass
        except BaseException as error:
            actor.error = error
        finally:
            sys.settrace(None)
            actor.over = True
            self._hand_on(actor)

    def run(self) -> None:
        """Run all actors to their ends. Raises what one of them raised, or AssertionError for a deadlock."""
        for actor in self._actors:
            self._start(actor)
        self._current = self._actors[0]
        self._current.baton.release()
        assert self._finished.wait(60), f"the interleaver itself hangs: {list(self.trail)}"
        for actor in self._actors:
            assert actor.thread is not None
            actor.thread.join(60)
        for actor in self._actors:
            if actor.error is not None:
                raise actor.error
        assert not self.problem, f"{self.problem}\n  " + "\n  ".join(self.trail)

    # -- who goes on ----------------------------------------------------------------------------------------------

    def _trace(self, frame: Any, event: str, argument: Any) -> Any:
        return self._trace_lines if frame.f_code.co_filename in self._files else None

    def _trace_lines(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line" and not self._deciding:
            self.point(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        return self._trace_lines

    def _me(self) -> Actor | None:
        return self._idents.get(threading.get_ident())

    def point(self, where: str = "") -> None:
        """The running actor may be stopped here for others to go on."""
        me = self._me()
        if me is None:
            return
        if self.problem:
            raise Stuck
        self.n_points += 1
        if self.n_points > MAX_POINTS:
            self._give_up("the actors turn in a circle")
            raise Stuck
        self.trail.append(f"{me.name}: {where}")
        others = self._able(me)
        chosen = self._choose(self.n_points, 1 + len(others)) if others else 0
        if chosen:
            self._give_baton(others[chosen - 1])
            me.baton.acquire()
            if self.problem:
                raise Stuck

    def _able(self, me: Actor | None) -> list[Actor]:
        """Who can go on beside this one; last, those whose time-out would have to come for it."""
        others = [a for a in self._actors if a is not me and not a.over]
        able = [a for a in others if self._free(a)]
        timed = [a for a in others if a not in able and a.deadline is not None]
        return able + sorted(timed, key=lambda a: a.deadline or 0.0)

    def _free(self, actor: Actor) -> bool:
        self._deciding = True  # what is asked here may be code under test
        try:
            return actor.can_go_on is None or actor.can_go_on()
        finally:
            self._deciding = False

    def _give_baton(self, actor: Actor) -> None:
        if actor.deadline is not None and not self._free(actor):
            self.now = max(self.now, actor.deadline)
        self._current = actor
        actor.baton.release()

    def block(self, can_go_on: Callable[[], bool], timeout: float | None = None) -> bool:
        """Have the running actor wait for something. False: its time was over first."""
        me = self._me()
        if me is None:  # after the run
            return can_go_on()
        if self.problem:
            raise Stuck
        if can_go_on():
            return True
        me.can_go_on = can_go_on
        me.deadline = None if timeout is None else self.now + timeout
        self._hand_on(me)
        me.baton.acquire()
        me.can_go_on, me.deadline = None, None
        if self.problem:
            raise Stuck
        return can_go_on()

    def _hand_on(self, me: Actor) -> None:
        """The running actor cannot go on, or is over."""
        others = self._able(None if not me.over and me.deadline is not None else me)
        if others:
            n_free = sum(map(self._free, others))
            self.n_points += 1
            chosen = self._choose(-self.n_points, max(1, n_free)) if not self.problem else 0
            self._give_baton(others[chosen])
        elif all(actor.over for actor in self._actors):
            self._finished.set()
        else:
            blocked = [actor for actor in self._actors if not actor.over]
            self._give_up(f"deadlock: {blocked} wait for ever")
            if me.over:
                self._give_baton(blocked[0])
            else:
                me.baton.release()

    def _give_up(self, problem: str) -> None:
        self.problem = self.problem or problem
        for actor in self._actors:
            actor.can_go_on = None

    # -- what stands in for the standard library's -----------------------------------------------------------------

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Replace what the modules under test block on."""
        names = SimpleNamespace(
            Lock=lambda: Lock(self),
            RLock=lambda: Lock(self, again=True),
            Semaphore=lambda n=1: Semaphore(self, n),
            Condition=lambda: Condition(self),
            Thread=threading.Thread,
            Timer=lambda *_: SimpleNamespace(start=lambda: None, cancel=lambda: None),  # its time never comes
            get_ident=threading.get_ident,
            current_thread=threading.current_thread,
            main_thread=threading.main_thread,
        )
        stand_ins = {
            "kill_tree": refuse,  # there are no processes here: whatever would be killed is somebody else's
            "threading": names,
            "make_thread": self.make_thread,
            "make_lock": lambda: Lock(self),
            "make_rlock": lambda: Lock(self, again=True),
            "Condition": lambda: Condition(self),
            "Bell": lambda: Bell(self),
            "monotonic": lambda: self.now,
            "guard": Lock(self, again=True),
            "SimpleQueue": lambda: Queue(self),
            "Empty": Empty,
            "Sleeper": lambda: Sleeper(self),
        }
        old = [
            (module, name, getattr(module, name))
            for module in self._modules
            for name in stand_ins
            if hasattr(module, name)
        ]
        for module, name, _ in old:
            setattr(module, name, stand_ins[name])
        try:
            yield
        finally:
            for module, name, value in old:
                setattr(module, name, value)


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError(f"a test without processes was about to kill some: {args}")


class Lock:
    """A lock; with `again`, its holder may take it again."""

    def __init__(self, world: Interleaver, *, again: bool = False) -> None:
        self._world = world
        self._again = again
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._world.point("acquire")
        me = threading.get_ident()
        if self._again and self._owner == me:
            self._depth += 1
            return True
        while self._owner is not None:
            if not blocking:
                return False
            if not self._world.block(lambda: self._owner is None, None if timeout < 0 else timeout):
                return False
        self._owner, self._depth = me, 1
        return True

    def release(self) -> None:
        if self._owner is None:
            raise RuntimeError("release unlocked lock")
        self._depth -= 1
        if not self._depth:
            self._owner = None
            if not self._world.problem:
                self._world.point("release")

    def locked(self) -> bool:
        return self._owner is not None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Semaphore:
    def __init__(self, world: Interleaver, n: int) -> None:
        self._world = world
        self._n = n

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        self._world.point("acquire")
        while not self._n:
            if not blocking or not self._world.block(lambda: self._n > 0, timeout):
                return False
        self._n -= 1
        return True

    def release(self, n: int = 1) -> None:
        self._n += n
        self._world.point("release")


class Condition(Lock):
    def __init__(self, world: Interleaver) -> None:
        super().__init__(world, again=True)
        self._n_notified = 0

    def wait(self, timeout: float | None = None) -> bool:
        seen, depth, owner = self._n_notified, self._depth, self._owner
        self._owner, self._depth = None, 0
        notified = self._world.block(lambda: self._n_notified != seen, timeout)
        self._world.block(lambda: self._owner is None)
        self._owner, self._depth = owner, depth
        return notified

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        while not predicate():
            if not self.wait(timeout):
                return predicate()
        return True

    def notify_all(self) -> None:
        self._n_notified += 1

    notify = notify_all  # whoever is woken too much looks again


class Bell:
    def __init__(self, world: Interleaver) -> None:
        self._world = world
        self._rings = False

    def ring(self) -> None:
        self._rings = True
        self._world.point("ring")

    def wait(self, timeout: float | None = None) -> bool:
        self._world.point("wait for a ring")
        if not self._world.block(lambda: self._rings, timeout):
            return False
        self._rings = False
        return True


class Sleeper:
    """What a thread sleeps by: a lock that is held."""

    def __init__(self, world: Interleaver) -> None:
        self._lock = Lock(world)
        self._lock._owner, self._lock._depth = threading.get_ident(), 1
        self.release = self._lock.release

    def sleep(self, timeout: float | None = None) -> bool:
        return self._lock.acquire(timeout=-1 if timeout is None else timeout)

    def forget(self) -> None:
        self._lock.acquire(blocking=False)

    def close(self) -> None:
        assert self._lock.locked(), "a sleep's end was told, and nobody has heard"


class Empty(Exception):
    pass


class Queue:
    """A SimpleQueue."""

    def __init__(self, world: Interleaver) -> None:
        self._world = world
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._world.point("put")

    def empty(self) -> bool:
        self._world.point("empty")
        return not self._items

    def get(self) -> Any:
        self._world.point("get")
        while not self._items:
            self._world.block(lambda: bool(self._items))
        return self._items.popleft()

    def get_nowait(self) -> Any:
        self._world.point("get_nowait")
        if not self._items:
            raise Empty
        return self._items.popleft()


# -- schedules ---------------------------------------------------------------------------------------------------------

Scenario = Callable[[Interleaver], Callable[[], None]]  # adds the actors; returns what checks the outcome


def never(point: int, n: int) -> int:
    return 0


def preempting(at: int, which: int) -> Chooser:
    """One preemption: at that point, the given other one goes on."""
    return lambda point, n: which if point == at and which < n else 0


def by_chance(seed: object, probability: float) -> Chooser:
    draw = random.Random(seed)

    def choose(point: int, n: int) -> int:
        return draw.randrange(n) if point < 0 or draw.random() < probability else 0

    return choose


def run(scenario: Scenario, choose: Chooser, modules: list[ModuleType], what: str) -> int:
    """One run; returns how many points it had."""
    world = Interleaver(choose, modules)
    try:
        with world.installed():
            check = scenario(world)
            world.run()
            check()
    except BaseException as error:
        error.add_note(f"schedule: {what}")
        error.add_note("\n".join(world.trail))
        raise
    return world.n_points


def explore(scenario: Scenario, modules: list[ModuleType], *, n_random: int, n_preempted: int) -> None:
    """Try schedules: with one preemption (so many of them, all where they are fewer), and by chance with several.

    The seed is that of the test run, so a failure can be had again; FULLCOURT_TEST_DEPTH=20 tries twenty times as many.
    """
    n_random, n_preempted = int(n_random * DEPTH), int(n_preempted * DEPTH)
    n_points = run(scenario, never, modules, "no preemption")
    single = [(at, which) for at in range(1, n_points + 1) for which in (1, 2)]
    if len(single) > n_preempted:
        single = random.sample(single, n_preempted)
    for at, which in single:
        run(scenario, preempting(at, which), modules, f"one preemption, preempting({at}, {which})")
    base = random.random()
    for i in range(n_random):
        probability = (0.02, 0.1, 0.4)[i % 3]
        run(scenario, by_chance(f"{base} {i}", probability), modules, f"by_chance('{base} {i}', {probability})")
    print(f"{n_points} points; {1 + len(single) + n_random} schedules")
