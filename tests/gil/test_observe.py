"""Real threads and processes, with wide tolerances: what machine they run on is not known."""

import concurrent.futures
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import fullcourt
from fullcourt._gil import measuring
from fullcourt._gil.finding import find_runtime
from fullcourt._gil.measuring import ThreadMeter, measure_threads
from fullcourt._gil.memory import Memory
from fullcourt._gil.procfs import stack_of
from fullcourt._gil.reporting import report_of
from fullcourt._gil.sampler import Sampler
from fullcourt._gil.watching import SamplerError, Watcher

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
needs_gil = pytest.mark.skipif(not HAS_GIL, reason="this Python runs without a GIL")


class Threads:
    """Threads that run until the test is over."""

    def __init__(self, *functions):
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=function, args=(self.stop,)) for function in functions]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self.threads

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()


def loop(stop):
    while not stop.is_set():
        for _ in range(1000):
            pass


def hashing(stop):
    data = bytes(2_000_000)
    while not stop.is_set():
        hashlib.sha256(data).digest()


def sleeping(stop):
    while not stop.is_set():
        time.sleep(0.05)


def measured():
    """A report of a hundred looks, however long they take on a busy machine."""
    report = measure_threads(0.7)
    for seconds in (2.0, 6.0):
        if report.n_samples >= 100:
            break
        report = measure_threads(seconds)
    return report


def of(report, thread):
    found = report.thread(thread.native_id)
    assert found is not None
    assert found.times.wall_s > 0
    return found


@needs_gil
def test_a_loop_alone_holds_the_gil_and_a_sleeper_sleeps():
    with Threads(loop) as (looper,), Threads(sleeping) as (sleeper,):
        report = measured()
    held = of(report, looper)
    assert held.gil_held_s > 0.6 * held.times.wall_s
    asleep = of(report, sleeper).times
    on_core_or_not = asleep.wall_s - asleep.queued_s  # on a busy machine it also waits for a core
    assert asleep.sleep_s > 0.3 * on_core_or_not  # the rest it waits for the GIL
    assert asleep.blocked_s + asleep.gil_wait_s > 0.8 * on_core_or_not


def test_native_code_runs_without_the_gil():
    with Threads(hashing) as (hasher,):
        report = measured()
    times = of(report, hasher).times
    assert times.native_s > 5 * times.held_s
    assert times.native_s + times.queued_s > 0.6 * times.wall_s


@needs_gil
def test_two_loops_share_it():
    with Threads(loop, loop) as (a, b):
        report = measured()
    first, second = of(report, a), of(report, b)
    for thread in (first, second):
        assert thread.times.gil_wait_s > 0
        # On a busy machine, who is given the GIL waits for a core, too.
        assert thread.times.gil_wait_s + thread.times.queued_s > 0.15 * thread.times.wall_s
    assert 0.75 < (first.gil_held_s + second.gil_held_s) / first.times.wall_s < 1.2
    assert report.processes[0].gils[0].handovers_per_s > 1


def test_laps_are_separate():
    with ThreadMeter() as meter:
        with Threads(loop) as (looper,):
            threading.Event().wait(0.2)
            assert meter.lap().thread(looper.native_id) is not None
            tid = looper.native_id
        report = meter.lap()
        threading.Event().wait(0.1)
        later = meter.lap()
    assert report.wall_s < 5
    found = later.thread(tid)  # a thread that was joined is still on its last steps
    assert found is None or found.times.wall_s < 0.05


def test_observe_reports_while_it_runs_and_afterwards(tmp_path):
    with fullcourt.observe() as observation:
        sum(i * i for i in range(200_000))
        assert observation.report.wall_s > 0
    report = observation.report
    assert report.method == "sampled"
    assert report.processes[0].pid == os.getpid()
    assert report.thread(threading.get_native_id()).name == threading.current_thread().name
    text = io.StringIO()
    observation.print(text)
    assert "MainThread" in text.getvalue()
    observation.html(tmp_path / "page.html")
    assert "</html>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    observation.trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert {"M", "X", "C"} <= {event["ph"] for event in events}


def test_an_observation_is_entered_once_and_says_so():
    observation = fullcourt.observe()
    with pytest.raises(RuntimeError, match="enter the observation"):
        _ = observation.report
    with observation:
        pass
    with pytest.raises(RuntimeError, match="entered once"), observation:
        pass
    with pytest.raises(ValueError, match="rate"):
        fullcourt.observe(rate=0)


def test_children_are_followed():
    code = "import time; t = time.monotonic()\nwhile time.monotonic() < t + 0.6: pass"
    with fullcourt.observe() as observation, subprocess.Popen([sys.executable, "-c", code]) as child:
        child.wait()
    (found,) = [process for process in observation.report.processes if process.pid == child.pid]
    assert found.parent == os.getpid()
    assert found.python.startswith(f"3.{sys.version_info[1]}")
    assert found.times.cpu_s > 0
    with fullcourt.observe(children=False) as observation, subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait()
    assert len(observation.report.processes) == 1


def test_a_sampler_that_is_killed_is_told_and_harms_nothing():
    with fullcourt.observe() as observation:
        os.kill(observation._source.pid, signal.SIGKILL)
        with pytest.raises(SamplerError, match="has ended"):
            _ = observation.report
    with pytest.raises(RuntimeError, match="what it saw is lost"):
        _ = observation.report


class Blind(Watcher):
    """Stands for a system where the program's memory and system calls may not be read."""

    def recording(self, *, restart=False):
        recording = super().recording(restart=restart)
        recording["processes"][os.getpid()]["method"] = "counters"
        return recording


def refuse(*_args, **_kwargs):
    raise SamplerError("not allowed here")


@pytest.mark.parametrize("watcher", [refuse, Blind])
def test_where_no_sampler_can_see_an_estimate_takes_its_place(monkeypatch, watcher):
    monkeypatch.setattr(measuring, "Watcher", watcher)
    with Threads(loop) as (looper,), fullcourt.observe() as observation:
        threading.Event().wait(0.5)
    report = observation.report
    assert report.method == "estimated"
    assert of(report, looper).times.cpu_s > 0
    text = io.StringIO()
    observation.print(text)
    assert "An estimate" in text.getvalue()


# -- adversity --------------------------------------------------------------------------------------------------------


def test_threads_that_come_and_go_by_the_thousand_do_not_disturb():
    with fullcourt.observe() as observation:
        for _ in range(60):
            threads = [threading.Thread(target=lambda: None) for _ in range(50)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    report = observation.report
    assert report.method == "sampled"
    main = report.thread(threading.get_native_id())
    assert main.times.wall_s == pytest.approx(report.wall_s, rel=0.2)
    assert len(json.dumps(observation.recording)) < 5_000_000


def test_a_killed_worker_is_one_process_that_ended():
    with fullcourt.Pool(2) as pool, fullcourt.observe() as observation:
        pool.map(abs, range(100))
        with pytest.raises(fullcourt.WorkerDied):
            pool.apply(lambda: os.kill(os.getpid(), signal.SIGKILL))
        pool.map(abs, range(100))
    report = observation.report
    assert report.method == "sampled"
    assert len(report.processes) >= 3


def test_a_fork_in_the_program_is_followed():
    with fullcourt.observe() as observation:
        pid = os.fork()
        if pid == 0:
            end = time.monotonic() + 0.4
            while time.monotonic() < end:
                pass
            os._exit(0)
        os.waitpid(pid, 0)
    (child,) = [process for process in observation.report.processes if process.pid == pid]
    assert child.method == "sampled"
    if HAS_GIL:
        assert child.times.held_s > 2 * child.times.native_s  # one that is not followed has native time only


def test_a_forked_child_that_lives_on_keeps_no_sampler():
    reader, writer = os.pipe()
    with fullcourt.observe() as observation:
        sampler_pid = observation._source.pid
        pid = os.fork()
        if pid == 0:
            os.read(reader, 1)
            os._exit(0)
        began = time.monotonic()
    try:
        assert time.monotonic() - began < 4  # not killed after 5 s, but ended
        assert not os.path.exists(f"/proc/{sampler_pid}")
    finally:
        os.write(writer, b"x")
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_an_exec_makes_another_program_of_the_same_process():
    code = f"import os, time; time.sleep(0.3); os.execv({sys.executable!r}, [{sys.executable!r}, '-Bc', {BUSY!r}])"
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        sampler = Sampler(child.pid, ignore={os.getpid()})
        while sampler.look():
            time.sleep(0.002)
        recording = sampler.recording()
        sampler.close()
    process = recording["processes"][child.pid]
    assert process["python"].startswith("3.")
    assert " -Bc " in process["name"]
    assert process["ended_ns"] > 0


def test_an_exec_of_the_same_executable_is_seen_before_its_python_was_found():
    with subprocess.Popen(["/bin/sh", "-c", "sleep 0.4; exec /bin/sh -c 'sleep 0.4; true another'"]) as child:
        sampler = Sampler(child.pid, ignore={os.getpid()})
        while sampler.look():
            time.sleep(0.002)
        recording = sampler.recording()
        sampler.close()
    assert recording["processes"][child.pid]["name"].endswith("sleep 0.4; true another")


BUSY = "import time; t = time.monotonic()\nwhile time.monotonic() < t + 2: pass"


def test_a_sampler_ends_with_whom_it_watches_for():
    code = (
        "import os, time\nfrom fullcourt._gil.watching import Watcher\n"
        "watcher = Watcher(os.getpid(), rate_hz=100.0, children=False)\n"
        "print(watcher.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as program:
        sampler_pid = int(program.stdout.readline())
        program.kill()
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{sampler_pid}") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{sampler_pid}")


def test_a_process_that_does_not_exist_is_an_empty_report():
    watcher = Watcher(2**22 + 1, rate_hz=100.0, children=False)  # above the system's largest number
    try:
        report = report_of(watcher.recording())
    finally:
        watcher.close()
    assert report.times.wall_s == 0
    assert report.processes[0].threads == ()


def test_a_program_that_has_ended_is_not_looked_at_for_ever():
    for _ in range(15):  # at its end, its memory goes before it is a zombie: it must not be missed in between
        with subprocess.Popen([sys.executable, "-S", "-c", "pass"]) as child:
            sampler = Sampler(child.pid, ignore={os.getpid()})
            deadline = time.monotonic() + 20
            while sampler.look():
                assert time.monotonic() < deadline
            sampler.close()


def test_threads_that_have_ended_keep_their_names(tmp_path):
    names = ["court [/x]", "<b>&", "caf\udce9"]  # what rich, HTML and UTF-8 would trip over
    threads = [threading.Thread(target=time.sleep, args=(0.2,), name=name) for name in names]
    with fullcourt.observe() as observation:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen = [thread.name for thread in observation.report.processes[0].threads]
    assert set(names) <= set(seen)
    shown = io.StringIO()
    observation.print(shown)
    assert "court [/x]" in shown.getvalue()
    observation.html(tmp_path / "page.html")
    observation.trace(tmp_path / "trace.json")
    assert "<b>&<" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]


def test_a_forked_child_that_leaves_the_observation_leaves_it_to_its_parent():
    with fullcourt.observe() as observation:
        pid = os.fork()
        if pid == 0:
            try:
                observation.__exit__(None, None, None)
                with pytest.raises(RuntimeError, match="fork"):
                    _ = observation.report
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        time.sleep(0.05)
    assert observation.report.wall_s > 0.05


def test_a_child_that_is_not_reaped_is_one_process_of_one_thread():
    with fullcourt.observe() as observation:
        child = subprocess.Popen(["sleep", "0.1"])
        time.sleep(0.6)
    child.wait()
    (seen,) = [process for process in observation.report.processes if process.pid == child.pid]
    assert seen.n_threads == 1
    assert seen.ended_s < 0.5


def test_observations_do_not_show_each_others_samplers():
    with fullcourt.observe() as outer, fullcourt.observe() as inner:
        samplers = {outer._source.pid, inner._source.pid}
        time.sleep(0.1)
    for observation in (outer, inner):
        seen = {process.pid for process in observation.report.processes}  # the standard library's helpers may be there
        assert os.getpid() in seen
        assert not seen & samplers


def test_it_may_be_asked_while_another_thread_leaves_it():
    for _ in range(20):
        observation = fullcourt.observe()
        with observation, concurrent.futures.ThreadPoolExecutor(1) as threads:
            asked = threads.submit(lambda observation: [observation.report.wall_s for _ in range(3)], observation)
            time.sleep(0.005)
            observation.__exit__(None, None, None)
            assert all(asked.result())


@pytest.mark.skipif(not HAS_GIL, reason="has no GIL")
def test_a_program_begun_by_vfork_is_told_from_its_parent():
    """Until its exec it has its parent's memory, which stays that of a parent that lives on."""
    code = "import time\nwhile True: time.sleep(0.001)"
    with subprocess.Popen([sys.executable, "-S", "-c", code]) as child:
        try:
            sampler = Sampler(child.pid, ignore=set())
            (process,) = sampler.processes.values()
            process.memory.close()
            process.memory = Memory(os.getpid())  # as if it had been opened before the exec
            process._stack = stack_of(os.getpid())
            process.runtime = find_runtime(process.memory, {os.getpid()})
            assert process.runtime is not None
            until = time.monotonic() + 20
            while process.runtime is None or process.memory.pid != child.pid:
                assert time.monotonic() < until
                assert sampler.look()
                time.sleep(0.005)
            sampler.close()
        finally:
            child.kill()
