"""From facts to predictions: a closed queueing network, solved by mean value analysis. Pure.

Each worker's slot is a customer that goes round: it takes an item through the stations, and begins anew. Stations:

    the parent      pickles arguments, reads results      one server; processes only
    the GIL         Python code                           one server in each process
    the cores       native code, or all code              as many servers as cores
    what is shared  a disk, a lock: what two at a time waited for beyond the GIL      one server
    blocked         network, sleep                        a delay: no queue

*Source*: mean value analysis, Reiser and Lavenberg 1980. A customer that comes finds one at work whose service is half
over on average, since items are much alike: hence the half (for exponential times it would be the whole); and where
there are several servers, it waits only behind as many as there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fullcourt._advise.facts import Facts

__all__ = [
    "Demands",
    "Mode",
    "Prediction",
    "candidates",
    "choose",
    "demands_of",
    "hoped_of_processes",
    "predict",
    "waits_much",
]

# What the pool itself costs: rough assumptions, of the order that single calls and maps of nothing cost in benchmarks/;
# not yet fitted to the truth that benchmarks/advice.py records. How items travel together: docs/design/0006-chunks.md.
CHUNK_S = 0.002  # work that travels together
PER_CHUNK_S = 40e-6  # in the parent, for each such portion
PER_CHUNK_THREADS_S = 25e-6
PER_ITEM_S = 0.6e-6
PER_ITEM_THREADS_S = 0.3e-6
COPY_BYTES_PER_S = 2.5e9  # into a block, or through a socket
HYBRID = 1.04  # Python code in a process with several threads: they hand the GIL to each other
START_PROCESS_S = 0.012  # each; and
START_PROCESSES_S = 0.03  # the template, once
START_FRESH_S = 0.15  # each, where workers are fresh interpreters that share the cores meanwhile
MOST_HANDING_OVER = 8.0  # by how much handing the GIL to and fro makes an item that needs it longer, at the most
TOO_SHORT_S = 5e-6  # who runs for less neither waits nor lets go of the GIL meanwhile
BOTH = 1.0 / 1.05  # a mode of more parts must promise so much more


@dataclass(frozen=True, slots=True)
class Mode:
    """A way to run: so many worker processes (0: none), with so many threads each.

    Attributes:
        processes: worker processes; 0: in this process.
        threads: slots of each, or of this process; 1: one item at a time.
    """

    processes: int
    threads: int

    @property
    def n_slots(self) -> int:
        """How many items run at a time."""
        return max(1, self.processes) * self.threads

    @property
    def kind(self) -> str:
        """``"serial"``, ``"threads"``, ``"processes"`` or ``"both"``."""
        if not self.processes:
            return "serial" if self.threads == 1 else "threads"
        return "processes" if self.threads == 1 else "both"

    def __str__(self) -> str:
        match self.kind:
            case "serial":
                return "serial"
            case "threads":
                return f"{self.threads} threads"
            case "processes":
                return f"{self.processes} processes"
            case _:
                return f"{self.processes} processes x {self.threads} threads"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a mode would do.

    Attributes:
        mode: the mode.
        rate: items a second.
        low: and at the least, as a rule.
        high: and at the most.
        start_s: seconds until its workers are there.
    """

    mode: Mode
    rate: float
    low: float
    high: float
    start_s: float

    def seconds_for(self, n_items: int) -> float:
        """How long so many items would take."""
        return self.start_s + n_items / self.rate


@dataclass(frozen=True, slots=True)
class Demands:
    """What one item asks of each station, in seconds.

    Attributes:
        gil: the GIL, while other threads run.
        gil_alone: the GIL, with nobody else.
        native: a core, without the GIL.
        held_off: the GIL, without a core (C code that sleeps with it).
        shared: something else that one at a time can have.
        blocked: nothing: it waits.
        helper: cores for others that work for it.
        dilation: by how much more CPU an item takes while both run.
    """

    gil: float
    gil_alone: float
    native: float
    held_off: float
    shared: float
    blocked: float
    helper: float
    dilation: float

    @property
    def cpu(self) -> float:
        """A core."""
        return self.gil_alone - self.held_off + self.native


def mva(n: int, stations: list[tuple[float, int]], delay: float) -> float:
    """Items a second of n customers that go through the stations (demand, servers) and a delay."""
    queues = [0.0] * len(stations)
    rate = 0.0
    for k in range(1, n + 1):
        stays: list[float] = []
        for (demand, servers), queue in zip(stations, queues, strict=True):
            if servers == 1:
                stays.append(demand * (1.0 + queue - 0.5 * min(1.0, rate * demand)))
            else:
                stays.append(demand * (1.0 + max(0.0, queue - servers + 1.0) / servers))
        rate = k / max(delay + sum(stays), 1e-9)
        queues = [rate * stay for stay in stays]
    return min([rate, *(servers / demand for demand, servers in stations if demand > 0)])


def pair_rate(facts: Facts, gil: float, native: float, shared: float, blocked: float) -> float:
    """What two threads would do."""
    if facts.free_threaded:
        return mva(2, [(gil + native, facts.cores), (shared, 1)], blocked - shared)
    return mva(2, [(gil, 1), (native, facts.cores), (shared, 1)], blocked - shared)


def demands_of(facts: Facts) -> Demands:
    """Split an item's time among the stations, so that they explain what was seen of two at a time."""
    alone, pair = facts.alone, facts.pair
    wall = alone.own_wall_s
    cpu = min(alone.cpu_s, wall) if wall > TOO_SHORT_S else wall
    held = alone.gil_s if wall > TOO_SHORT_S else None
    dilation = 1.0
    if pair is not None and pair.cpu_s > cpu > 0.05 * wall and facts.cores > 1:
        dilation = min(2.0, pair.cpu_s / cpu)
    if held is None:
        return inferred(facts, wall, cpu, dilation)
    # On a core or not; what the samples say of the CPU time is applied to what the clocks say.
    gil = min(held, wall)
    held_off = max(0.0, gil - cpu) if gil > 1.15 * cpu else 0.0
    native = max(0.0, cpu - (gil - held_off))
    blocked = max(0.0, wall - cpu - held_off)
    effective, shared = gil, 0.0
    if pair is not None and not facts.free_threaded:
        seen = pair.rate
        if seen < 0.97 * pair_rate(facts, gil, native * dilation, 0.0, blocked):
            more_wait = (pair.gil_wait_s or 0.0) - (alone.gil_wait_s or 0.0)
            more_blocked = pair.blocked_s - alone.blocked_s
            if more_blocked > max(more_wait, 0.15 * blocked):
                shared = solve(lambda s: pair_rate(facts, gil, native * dilation, s, blocked), seen, 0.0, blocked)
            else:  # a convoy: it needs the GIL for little, and waits for it for long
                top = max(gil, wall - blocked)
                if pair.gil_wait_s is not None:  # no more than was seen to be waited; the rest is a busy machine's
                    top = min(top, gil + 2.0 * max(0.0, more_wait))
                effective = solve(lambda g: pair_rate(facts, g, native * dilation, 0.0, blocked), seen, gil, top)
    elif pair is not None and pair.rate < 0.97 * pair_rate(facts, gil, native * dilation, 0.0, blocked):
        seen = pair.rate
        shared = solve(lambda s: pair_rate(facts, gil, native * dilation, s, blocked), seen, 0.0, blocked)
    return Demands(effective, gil, native, held_off, shared, blocked, alone.helper_s, dilation)


def inferred(facts: Facts, wall: float, cpu: float, dilation: float) -> Demands:
    """Nobody could see the GIL: as much of the CPU time needs it as explains how much the two slowed each other."""
    pair = facts.pair if wall > TOO_SHORT_S else None
    blocked = max(0.0, wall - cpu)
    gil, shared = cpu, 0.0
    if facts.free_threaded:
        gil = 0.0
        if pair is not None:
            shared = solve(lambda s: pair_rate(facts, 0.0, cpu * dilation, s, blocked), pair.rate, 0.0, blocked)
    elif pair is not None:

        def with_gil(g: float) -> float:
            return pair_rate(facts, g, (cpu - g) * dilation, 0.0, blocked)

        gil = solve(with_gil, pair.rate, 0.0, cpu)
        if gil > 0.98 * cpu:
            # All of it needs the GIL. If it takes more CPU time in company, that goes into handing the GIL over at
            # every short call without it; where there is hardly anything else to wait for, the rest of the wait, too.
            # Neither comes about in processes.
            dilation = 1.0
            if pair.rate < 0.9 * with_gil(cpu):
                if blocked < 0.1 * wall:
                    most = MOST_HANDING_OVER * cpu
                    handing = solve(lambda g: pair_rate(facts, g, 0.0, 0.0, blocked), pair.rate, cpu, most)
                    return Demands(handing, cpu, 0.0, 0.0, 0.0, blocked, facts.alone.helper_s, dilation)
                shared = solve(lambda s: pair_rate(facts, cpu, 0.0, s, blocked), pair.rate, 0.0, blocked)
    return Demands(gil, gil, cpu - gil, 0.0, shared, blocked, facts.alone.helper_s, dilation)


def solve(rate_of: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a falling function comes to a value; the nearer end if it never does."""
    for _ in range(40):
        middle = 0.5 * (low + high)
        if rate_of(middle) > wanted:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def candidates(cores: int, *, can_part: bool = True) -> list[Mode]:
    """The modes that are compared; without worker processes where nothing can be sent there."""
    threads = sorted({2, cores, 2 * cores, 4 * cores, min(64, 16 * cores)} - {1})
    modes = [Mode(0, 1), *(Mode(0, n) for n in threads)]
    if can_part:
        modes += [Mode(n, 1) for n in sorted({max(2, cores), 2 * cores, 4 * cores} - {1})]
        if cores <= 32:
            modes += [Mode(max(2, cores), n) for n in (2, 4, 16)]
    return modes


def predict(facts: Facts, *, n_items: int | None = None, modes: list[Mode] | None = None) -> list[Prediction]:
    """What each mode would do with so many more items (None: very many), in the order of :func:`candidates`."""
    if modes is None:
        modes = candidates(facts.cores, can_part=not facts.transport.obstacle)
    demands = demands_of(facts)
    return [predicted(facts, demands, mode, n_items) for mode in modes]


def hoped_of_processes(facts: Facts, *, n_items: int | None = None) -> Prediction | None:
    """What worker processes would do if the items had nothing in common but the cores. None: they cannot be sent.

    Of two at a time in threads of one process it cannot always be told whether they slow each other by the GIL, or by
    something that processes would have in common, too.
    """
    if facts.transport.obstacle:
        return None
    alone = facts.alone
    cpu = min(alone.cpu_s, alone.own_wall_s)
    demands = Demands(cpu, cpu, 0.0, 0.0, 0.0, alone.own_wall_s - cpu, alone.helper_s, 1.0)
    facts = replace(facts, foreign_cores=0.0)  # others may be gone by then
    modes = [mode for mode in candidates(facts.cores) if mode.processes]
    return choose([predicted(facts, demands, mode, n_items) for mode in modes], facts, n_items=n_items)


def predicted(facts: Facts, demands: Demands, mode: Mode, n_items: int | None) -> Prediction:
    """What one mode would do."""
    rate = rate_of(facts, demands, mode, n_items)
    start_s = 0.0
    if mode.processes:
        each = START_PROCESS_S if facts.start_method in ("", "fork") else START_FRESH_S
        start_s = START_PROCESSES_S + each * mode.processes
    elif mode.threads > 1:
        start_s = 0.001
    width = 0.08 + min(0.3, 0.5 * facts.foreign_cores / facts.cores)
    if mode.n_slots > 1:
        width += 0.08
        if facts.pair is None or not facts.pair.n_items:
            width += 0.15
    if mode.processes or mode.threads > 2:
        width += 0.06
    n_seen = max(1, facts.alone.n_items)
    width += min(0.3, facts.alone.spread / n_seen**0.5)
    return Prediction(mode, rate, rate * max(0.1, 1.0 - 1.6 * width), rate * (1.0 + width), start_s)


def rate_of(facts: Facts, demands: Demands, mode: Mode, n_items: int | None) -> float:
    """Items a second, beside what other programs take of the cores."""
    n = mode.n_slots if n_items is None else max(1, min(mode.n_slots, n_items))
    rate, cpu = stretched(facts, demands, mode, n, n_items, 1.0)
    if facts.foreign_cores < 0.05:
        return rate
    at_work = min(n, facts.cores, rate * cpu)
    return stretched(facts, demands, mode, n, n_items, max(1.0, (at_work + facts.foreign_cores) / facts.cores))[0]


def stretched(
    facts: Facts, demands: Demands, mode: Mode, n: int, n_items: int | None, stretch: float
) -> tuple[float, float]:
    """Items a second, and CPU seconds for each, where all work on cores takes so many times as long."""
    d, cores = demands, facts.cores
    wall = facts.alone.own_wall_s
    if mode.kind == "serial":
        return 1.0 / (wall + d.cpu * (stretch - 1.0) + PER_ITEM_THREADS_S), d.cpu
    dilation = 1.0 + (d.dilation - 1.0) * min(1.0, min(n, cores) - 1)
    portion = min(max(1.0, CHUNK_S / wall), 8192.0)
    if n_items is not None:
        portion = max(1.0, min(portion, n_items / (2 * n)))
    delay = max(0.0, d.blocked - d.shared)
    native = d.native * dilation
    on_core = d.gil - d.held_off  # of the time with the GIL
    if not mode.processes:
        cost = PER_ITEM_THREADS_S + PER_CHUNK_THREADS_S / portion
        if facts.free_threaded:
            cpu = d.cpu * dilation + cost
            stations = [(cpu * stretch, cores), (d.shared, 1), (d.held_off, 1)]
        else:
            cpu = d.gil_alone - d.held_off + native + cost
            stations = [((on_core + cost) * stretch + d.held_off, 1), (native * stretch, cores), (d.shared, 1)]
        return min(mva(n, stations, delay), cores / (stretch * (cpu + d.helper))), cpu
    t = facts.transport
    copying = (t.args_bytes + t.result_bytes) / COPY_BYTES_PER_S
    parent = PER_ITEM_S + PER_CHUNK_S / portion + t.args_dump_s + t.result_load_s + copying
    child = PER_ITEM_S + 0.5 * PER_CHUNK_S / portion + t.args_load_s + t.result_dump_s + copying
    hybrid = HYBRID if mode.threads > 1 else 1.0
    cpu = (d.cpu * dilation + child) * hybrid
    gil = ((on_core + child) * stretch + d.held_off) * hybrid
    most = float("inf")
    if mode.threads == 1 or facts.free_threaded or mode.processes >= cores:
        stations = [(parent * stretch, 1), (cpu * stretch, cores), (d.shared, 1)]
        delay += d.held_off
        if mode.threads > 1 and not facts.free_threaded:
            most = mode.processes / gil
    else:
        stations = [(parent * stretch, 1), (gil, mode.processes), (native * stretch, cores), (d.shared, 1)]
        most = mode.processes / gil
    bound = cores / (stretch * (parent + cpu + d.helper))
    return min(mva(n, stations, delay), bound, most), parent + cpu


def waits_much(facts: Facts) -> bool:
    """Whether an item waits for what others do not need, and so many more of them at a time help much."""
    alone = facts.alone
    own = alone.blocked_s - alone.helper_s - demands_of(facts).shared
    return alone.own_wall_s > TOO_SHORT_S and own > 0.2 * alone.own_wall_s


def choose(predictions: list[Prediction], facts: Facts, *, n_items: int | None = None) -> Prediction:
    """The best: the soonest done. Of those nearly as good the simplest, or where much is waited for the widest.

    Not the widest where what is waited for is other programs that work for it, or something that all have in common:
    more at a time then help little, and may hinder each other.

    Args:
        predictions: of which to choose.
        facts: what they come from.
        n_items: how many items are to be done; None: very many.
    """

    def cost(prediction: Prediction) -> float:
        value = 1.0 / prediction.rate if n_items is None else prediction.seconds_for(n_items)
        return value / BOTH if prediction.mode.kind == "both" and not waits else value

    waits = waits_much(facts)
    best = min(map(cost, predictions))
    near = [prediction for prediction in predictions if cost(prediction) <= 1.06 * best]
    order = {"serial": 0, "threads": 1, "processes": 2, "both": 3}

    def simplicity(prediction: Prediction) -> tuple[bool, int, int]:
        mode = prediction.mode
        ranks = (-mode.n_slots, order[mode.kind]) if waits else (order[mode.kind], mode.n_slots)
        return mode.kind != "serial", *ranks

    return min(near, key=simplicity)
