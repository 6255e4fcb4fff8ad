"""Recorded samples in, an exact report out: no clock, no process, no chance."""

import marshal
import random

import pytest

from fullcourt._gil import cells
from fullcourt._gil import recorder as recording_of
from fullcourt._gil.cells import CELL, RUNNABLE, WOKEN, states_of
from fullcourt._gil.recorder import Recorder
from fullcourt._gil.reporting import report_of
from fullcourt._gil.waits import FILE, GIL_WAIT, LOCK, NETWORK, OTHER, SLEEP, STATES
from fullcourt._gil.words import advice

MS = 1_000_000
PID = 100


class Stream:
    """Writes samples, as a sampler would: each thread's counters grow by what it is told."""

    def __init__(self, *names, switches=0):
        self.recorder = Recorder(0)
        self.recorder.process(PID, 0, "program", "3.13", "sampled")
        self.now = 0
        self.counters = {}
        self.switches = switches
        for key, name in enumerate(names, 1):
            self.begin(key, name)

    def begin(self, key, name):
        self.recorder.thread(key, PID, 1000 + key, name, self.now, 0, 0)
        self.counters[key] = [0, 0]

    def sample(self, ms, owner=0, **threads):
        """One look after so many ms. By thread t1, t2, ...: (state, ms on a core, ms in the queue)."""
        self.now += round(ms * MS)
        self.recorder.gil(PID, 0, self.now, owner, self.switches)
        for name, (state, run, queued) in threads.items():
            key = int(name[1:])
            self.counters[key][0] += round(run * MS)
            self.counters[key][1] += round(queued * MS)
            self.recorder.sample(key, self.now, state, key == owner, *self.counters[key])
        self.recorder.sampled(self.now)

    def recording(self):
        recording = self.recorder.recording(self.now)
        recording.update(pid=PID, rate_hz=250.0, own_cpu_s=0.01, foreign_cores=0.0, watched_cpu_s=1.0, n_cores=2)
        return recording

    def report(self):
        return report_of(self.recording())


def shares(thread):
    return {name: round(share, 3) for name, share in thread.times.shares().items() if share > 0.0005}


def test_two_threads_that_take_turns_hold_half_and_wait_half():
    stream = Stream("a", "b", switches=7)
    for turn in range(400):
        stream.switches += 1
        mine = (RUNNABLE, 5, 0)
        theirs = (GIL_WAIT, 0, 0)
        first = turn % 2 == 0
        stream.sample(5, owner=1 if first else 2, t1=mine if first else theirs, t2=theirs if first else mine)
    report = stream.report()
    for thread in report.processes[0].threads:
        assert shares(thread) == {"held": 0.5, "gil_wait": 0.5}
        assert thread.gil_held_s == pytest.approx(1.0)
        assert thread.uncertainty < 0.06
    gil = report.processes[0].gils[0]
    assert gil.held_share == 1.0
    assert gil.handovers_per_s == pytest.approx(400 / 2.0, rel=0.01)
    assert report.flags == ()


def test_native_code_is_what_ran_and_did_not_hold():
    stream = Stream("hasher")
    for _ in range(100):
        stream.sample(4, owner=0, t1=(RUNNABLE, 4, 0))
    assert shares(stream.report().processes[0].threads[0]) == {"native": 1.0}


@pytest.mark.parametrize(
    ("state", "name"), [(LOCK, "lock"), (SLEEP, "sleep"), (NETWORK, "network"), (FILE, "file"), (OTHER, "other")]
)
def test_blocked_time_is_told_by_kind(state, name):
    stream = Stream("t")
    for _ in range(50):
        stream.sample(4, t1=(state, 0, 0))
    assert shares(stream.report().processes[0].threads[0]) == {name: 1.0}


def test_the_queue_for_a_core_is_taken_from_the_counters():
    stream = Stream("t")
    for _ in range(100):
        stream.sample(4, owner=1, t1=(RUNNABLE, 1, 3))
    thread = stream.report().processes[0].threads[0]
    assert shares(thread) == {"held": 0.25, "queued": 0.75}
    assert thread.gil_held_s == pytest.approx(0.4, rel=0.02)  # whoever has no core keeps the GIL
    assert thread.held_off_core_s == pytest.approx(0.3, rel=0.02)


def test_short_bursts_between_samples_are_counted():
    """It is asleep whenever it is looked at, and yet ran for a tenth of the time."""
    stream = Stream("t")
    for _ in range(100):
        stream.sample(10, t1=(SLEEP, 1, 0))
    assert shares(stream.report().processes[0].threads[0]) == {"held": 0.1, "sleep": 0.9}


def test_time_that_the_host_took_is_not_blocked_time():
    """A virtual machine's thread that is always runnable, but has only 60 % of the time counted."""
    stream = Stream("t")
    for _ in range(100):
        stream.sample(5, owner=1, t1=(RUNNABLE, 3, 0))
    assert shares(stream.report().processes[0].threads[0]) == {"held": 0.6, "queued": 0.4}


def test_being_woken_for_the_gil_is_not_native_code():
    """Each time that it is given the GIL, a sample sees it runnable, in the queue, just before it has it."""
    stream = Stream("a", "b")
    for _ in range(100):
        stream.sample(4, owner=2, t1=(GIL_WAIT, 0, 0), t2=(RUNNABLE, 4, 0))
        stream.sample(4, owner=2, t1=(WOKEN, 0, 0), t2=(RUNNABLE, 4, 0))
        stream.switches += 1
        stream.sample(4, owner=1, t1=(RUNNABLE, 3, 3), t2=(GIL_WAIT, 0, 0))
        stream.sample(4, owner=1, t1=(RUNNABLE, 4, 0), t2=(GIL_WAIT, 0, 0))
        stream.switches += 1
    found = shares(stream.report().thread(1001))
    assert found == pytest.approx({"held": 7 / 16, "queued": 3 / 16, "gil_wait": 6 / 16}, abs=0.03)


def test_threads_that_wake_up_with_the_sampler_are_not_in_the_queue():
    """One look in ten meets it as it wakes up; by the counters it was neither on a core nor in the queue for one."""
    stream = Stream("a")
    for _ in range(50):
        for _ in range(9):
            stream.sample(4, owner=2, t1=(GIL_WAIT, 0, 0))
        stream.sample(4, owner=2, t1=(WOKEN, 0, 0))
    assert shares(stream.report().thread(1001)) == {"gil_wait": 1.0}


def test_whoever_is_woken_to_ask_for_the_gil_waits_on():
    stream = Stream("a", "b")
    for _ in range(20):
        for state in (GIL_WAIT, WOKEN, GIL_WAIT, GIL_WAIT):
            stream.sample(4, owner=2, t1=(state, 0, 0), t2=(RUNNABLE, 4, 0))
        stream.sample(4, owner=1, t1=(RUNNABLE, 4, 0), t2=(GIL_WAIT, 0, 0))
    waits = stream.report().thread(1001).waits
    assert waits.n == pytest.approx(20, abs=1)
    assert 12 < waits.p50_ms <= 16


def test_a_blocked_holder_is_told():
    stream = Stream("sleeps with the GIL", "waits")
    for _ in range(100):
        stream.sample(4, owner=1, t1=(SLEEP, 0, 0), t2=(GIL_WAIT, 0, 0))
    report = stream.report()
    assert report.thread(1001).held_off_core_s == pytest.approx(0.4)
    assert any("blocked" in sentence and "native code that waits" in sentence for sentence in advice(report))


def test_the_parts_add_up_whatever_is_seen():
    dice = random.Random(20)
    for _ in range(12):
        stream = Stream("a", "b", "c")
        for _ in range(dice.randrange(1, 200)):
            ms = dice.uniform(0.5, 30)
            looks = {}
            for key in (1, 2, 3):
                run = dice.uniform(0, 1.3 * ms) if dice.random() < 0.7 else 0.0
                state = dice.choice([RUNNABLE, WOKEN, GIL_WAIT, LOCK, SLEEP, NETWORK, FILE, OTHER])
                looks[f"t{key}"] = (state, run, dice.uniform(0, 0.5 * ms))
            stream.sample(ms, owner=dice.choice([0, 1, 2, 3]), **looks)
        recording = stream.recording()
        wall_s = recording["wall_ns"] * 1e-9
        report = report_of(recording)
        for thread in report.processes[0].threads:
            assert thread.times.wall_s == pytest.approx(wall_s, rel=1e-6)
            assert min(thread.times.shares().values()) >= 0
            assert 0 <= thread.gil_held_s <= wall_s * (1 + 1e-9)
        for thread in recording["threads"]:
            assert sum(cell[0] for cell in thread["cells"].values()) == pytest.approx(1e6 * wall_s, rel=1e-3)
            for cell in thread["cells"].values():
                assert sum(states_of(cell, thread["total"])) == pytest.approx(cell[0], abs=0.2)


def test_waits_for_the_gil_have_their_lengths():
    stream = Stream("io", "cpu")
    for _ in range(50):
        for _ in range(5):
            stream.sample(4, owner=2, t1=(GIL_WAIT, 0, 0), t2=(RUNNABLE, 4, 0))
        stream.sample(4, owner=2, t1=(NETWORK, 0.1, 0), t2=(RUNNABLE, 4, 0))
    waits = stream.report().thread(1001).waits
    assert waits.n == pytest.approx(50, abs=1.5)
    assert 16 <= waits.p50_ms <= 24
    assert waits.max_ms <= 24


def test_a_convoy_is_named_with_what_it_costs_and_what_cures_it():
    stream = Stream("io", "cpu")
    for _ in range(100):
        stream.sample(4, owner=2, t1=(GIL_WAIT, 0, 0), t2=(RUNNABLE, 4, 0))
        stream.sample(4, owner=2, t1=(NETWORK, 0.1, 0), t2=(RUNNABLE, 4, 0))
    (first, *_) = advice(stream.report())
    assert first.startswith("Convoy: io needs the GIL 1% of the time but waits for it 49%")
    assert "setswitchinterval" in first


def test_a_convoy_among_threads_of_one_name_is_told_by_its_number():
    stream = Stream("python", "python")
    for _ in range(100):
        stream.sample(4, owner=2, t1=(GIL_WAIT, 0, 0), t2=(RUNNABLE, 4, 0))
        stream.sample(4, owner=2, t1=(NETWORK, 0.1, 0), t2=(RUNNABLE, 4, 0))
    (first, *_) = advice(stream.report())
    assert first.startswith("Convoy: python 1001 needs the GIL")


def test_processes_of_which_nothing_is_known_are_told_in_one_line():
    stream = Stream("a")
    for pid in range(200, 207):
        stream.recorder.process(pid, PID, "closed", "", "counters")
    for _ in range(200):
        stream.sample(4, owner=1, t1=(RUNNABLE, 4, 0))
    (flag,) = stream.report().flags
    assert flag.startswith("the system does not let us look into processes 200, 201, 202 and 4 others:")


def test_a_counter_of_switches_too_fast_to_follow_is_flagged():
    stream = Stream("a")
    for _ in range(200):
        stream.switches += 1000
        stream.sample(4, owner=1, t1=(RUNNABLE, 4, 0))
    (flag,) = stream.report().flags
    assert "changed hands" in flag


def test_a_busy_machine_is_flagged():
    stream = Stream("a")
    for _ in range(200):
        stream.sample(4, owner=1, t1=(RUNNABLE, 2, 2))
    recording = stream.recording() | {"foreign_cores": 1.2}
    (flag,) = report_of(recording).flags
    assert "other programs took 1.2 of 2 cores" in flag


def test_few_samples_are_flagged_and_uncertain():
    stream = Stream("a")
    for _ in range(10):
        stream.sample(4, owner=1, t1=(RUNNABLE, 4, 0))
    report = stream.report()
    assert "only 10 samples" in report.flags[0]
    assert report.uncertainty > 0.05


def test_a_long_recording_stays_small(monkeypatch):
    monkeypatch.setattr(recording_of, "MAX_CELLS", 500)
    monkeypatch.setattr(recording_of, "MAX_OWNERS", 200)
    stream = Stream("a", "b")
    for turn in range(20_000):  # 80 seconds
        owner = 1 + turn % 2
        stream.sample(4, owner=owner, t1=(RUNNABLE, 4, 0), t2=(SLEEP, 0, 0))
    recording = stream.recording()
    assert sum(len(thread["cells"]) for thread in recording["threads"]) <= 500
    assert len(recording["processes"][PID]["gils"][0]["owners"]) <= 200
    assert len(marshal.dumps(recording)) < 150_000
    assert recording["cell_ns"] > recording_of.FIRST_CELL_NS
    thread = report_of(recording).thread(1001)
    assert thread.times.wall_s == pytest.approx(80.0)


def test_threads_by_the_thousand_are_folded_into_one(monkeypatch):
    monkeypatch.setattr(recording_of, "MAX_LANES", 10)
    stream = Stream()
    for key in range(1, 2001):
        stream.begin(key, f"t{key}")
        stream.sample(1, owner=key, **{f"t{key}": (RUNNABLE, 1, 0)})
        stream.recorder.thread_ended(key, stream.now)
    recording = stream.recording()
    assert len(recording["threads"]) <= 12
    report = report_of(recording)
    assert report.processes[0].n_threads == 2000
    assert report.times.held_s == pytest.approx(2.0, rel=0.01)


def test_the_report_speaks_of_nothing_where_nothing_was_seen():
    report = Stream().report()
    assert report.times.wall_s == 0
    assert advice(report)


def test_cells_have_the_order_that_is_written_down():
    assert len(CELL) == cells.N_CELL
    assert CELL[cells.W_BLOCKED] == "w_gil_wait"
    assert CELL[cells.N] == "n"
    assert STATES[GIL_WAIT] == "gil_wait"
    assert STATES[OTHER] == "other"
