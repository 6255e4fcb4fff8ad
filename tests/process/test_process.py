"""`Process` under each start method: what it has of the standard library's, and what that lacks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fullcourt import Event, PicklingError, Pipe, Process, ProcessDied, Queue, WorkerDied
from fullcourt.errors import RemoteTraceback
from tests.process import process_tasks as tasks

T = 60.0


def wait_for_file(path):
    """The words that a process writes into a file, once they are there."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            text = Path(path).read_text()
            if text.endswith("\n"):
                return [int(word) for word in text.split()]
        threading.Event().wait(0.005)


def is_gone(pid):
    """Whether no such process runs any more; waits a moment for it."""
    for _ in range(400):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        threading.Event().wait(0.005)
    return False


def test_it_brings_the_return_value(start_method):
    process = Process(target=tasks.double, args=(4,), kwargs={"plus": 1}, start_method=start_method)
    process.start()
    assert process.result(T) == 9
    assert process.exception(T) is None
    assert process.exitcode == 0
    assert not process.is_alive()


def test_an_exception_arrives_as_itself_with_its_traceback(start_method):
    with (
        Process(target=tasks.fail, args=("why",), start_method=start_method) as process,
        pytest.raises(ValueError, match="why") as caught,
    ):
        process.result(T)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in fail" in str(caught.value.__cause__)
    assert "run_and_answer" not in str(caught.value.__cause__)
    assert process.exitcode == 1
    assert process.exception() is caught.value


def test_an_exception_that_cannot_be_made_again_keeps_its_type(start_method):
    with Process(target=tasks.fail_awkwardly, start_method=start_method) as process:
        error = process.exception(T)
    assert type(error) is tasks.Awkward
    assert (error.one, error.two) == (1, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_a_death_names_its_signal(start_method, number):
    with (
        Process(target=tasks.die, args=(number,), name="victim", start_method=start_method) as process,
        pytest.raises(ProcessDied, match=f"'victim'.*was killed by {number.name}") as caught,
    ):
        process.result(T)
    assert isinstance(caught.value, WorkerDied)
    assert caught.value.exitcode == process.exitcode == -number
    assert caught.value.pid == process.pid
    assert caught.value.peak_bytes > 0


@pytest.mark.parametrize("code", [0, 7])
def test_an_end_without_an_answer_is_an_error(start_method, code):
    with (
        Process(target=tasks.leave_hard, args=(code,), start_method=start_method) as process,
        pytest.raises(ProcessDied, match=f"exited with code {code} before it gave a result"),
    ):
        process.result(T)
    assert process.exitcode == code


@pytest.mark.parametrize(("code", "exitcode"), [(None, 0), (0, 0), (3, 3)])
def test_sys_exit_gives_the_exit_code_and_reaches_the_caller(start_method, code, exitcode):
    with Process(target=tasks.leave, args=(code,), start_method=start_method) as process:
        process.join(T)
    assert process.exitcode == exitcode
    with pytest.raises(SystemExit):
        process.result()


def test_lambdas_and_closures_and_local_classes_work(start_method):
    captured = [1, 2, 3]

    class Mine(Process):
        def run(self):
            return sum(captured)

    with Process(target=lambda x: [*captured, x], args=(4,), start_method=start_method) as process:
        assert process.result(T) == [1, 2, 3, 4]
    with Mine(start_method=start_method) as mine:
        assert mine.result(T) == 6


def test_a_subclass_with_a_run_of_its_own(start_method):
    with tasks.Counter(4, start_method=start_method, name="counter") as process:
        assert process.result(T) == [0, 1, 2, 3]
    assert process.name == "counter"


def test_large_results_need_no_reader(start_method):
    process = Process(target=tasks.big, args=(50_000_000,), start_method=start_method)
    process.start()
    multiprocessing.connection.wait([process.sentinel], T)
    assert not process.is_alive()
    assert len(process.result()) == 50_000_000


def test_a_result_that_cannot_be_pickled_is_an_error_that_names_it(start_method):
    with (
        Process(target=tasks.unpicklable, start_method=start_method) as process,
        pytest.raises(PicklingError, match=r"of its result.*lock"),
    ):
        process.result(T)


def test_one_that_only_takes_sees_the_end_of_its_queue(start_method):
    numbers = Queue()
    with Process(target=list, args=(numbers,), start_method=start_method) as process:
        numbers.put(1)
        numbers.close()
        assert process.result(T) == [1]


def test_one_that_is_killed_before_it_has_read_its_arguments_counts_no_longer(start_method):
    numbers = Queue()
    process = Process(target=lambda numbers: numbers.get(), args=(numbers,), start_method=start_method)
    process.start()
    process.kill()
    assert list(numbers) == []  # though nobody has asked how it ended
    process.join(T)
    assert process.exitcode == -signal.SIGKILL


def test_an_end_of_a_pipe_that_it_has_closed_is_closed_while_it_runs_on(start_method):
    here, there = Pipe()
    goes_on = Event()
    with Process(target=tasks.send_and_close, args=(there, goes_on), start_method=start_method) as process:
        there.close()
        assert here.recv() == "last words"
        assert here.poll(T)
        with pytest.raises(EOFError):
            here.recv()
        goes_on.set()
        assert process.result(T)
    here.close()


def test_what_cannot_be_sent_starts_nothing():
    process = Process(target=tasks.double, args=(threading.Lock(),), start_method="spawn")
    with pytest.raises(PicklingError, match="lock"):
        process.start()
    assert process.pid is None
    assert not process.is_alive()


def test_a_fork_needs_no_pickling():
    lock, holder = threading.Lock(), []

    def look(lock, holder):
        return lock.acquire(timeout=1), holder

    process = Process(target=look, args=(lock, holder), start_method="fork")
    holder.append("before start")
    process.start()
    assert process.result(T) == (True, ["before start"])


def test_the_childs_world(start_method):
    with Process(target=tasks.who, start_method=start_method) as process:
        pid, parent, in_main_thread = process.result(T)
    assert pid == process.pid == process.ident
    assert parent not in (os.getpid(), 1)
    assert in_main_thread
    with Process(target=tasks.ask_signals, start_method=start_method) as process:
        assert process.result(T) == (True, signal.SIG_DFL)


def test_it_can_be_stopped(start_method, tmp_path):
    for stop, number in ((Process.terminate, signal.SIGTERM), (Process.kill, signal.SIGKILL)):
        process = Process(target=tasks.sleep_for_ever, args=(str(tmp_path / number.name),), start_method=start_method)
        process.start()
        wait_for_file(tmp_path / number.name)
        assert process.is_alive()
        assert process.exitcode is None
        process.join(0.0)
        with pytest.raises(TimeoutError, match="goes on"):
            process.result(0.01)
        stop(process)
        process.join(T)
        assert process.exitcode == -number
        stop(process)  # nothing happens


def test_it_can_be_interrupted(start_method, tmp_path):
    process = Process(target=tasks.sleep_for_ever, args=(str(tmp_path / "up"),), start_method=start_method)
    process.start()
    wait_for_file(tmp_path / "up")
    process.interrupt()
    assert isinstance(process.exception(T), KeyboardInterrupt)
    assert process.exitcode == 1
    process.interrupt()  # nothing happens


def test_kill_takes_what_it_started(start_method, tmp_path):
    process = Process(target=tasks.start_sleeper, args=(str(tmp_path / "pids"), "sleep"), start_method=start_method)
    process.start()
    pid, sleeper = wait_for_file(tmp_path / "pids")
    assert pid == process.pid
    process.kill()
    process.join(T)
    assert is_gone(sleeper)


@pytest.mark.parametrize("then", ["die", "end"])
def test_what_it_started_ends_with_it(start_method, tmp_path, then):
    with Process(target=tasks.start_sleeper, args=(str(tmp_path / "pids"), then), start_method=start_method) as process:
        process.join(T)
    assert process.exitcode == (-signal.SIGKILL if then == "die" else 0)
    assert is_gone(wait_for_file(tmp_path / "pids")[1])


def test_leaving_with_by_an_exception_kills(start_method, tmp_path):
    with (
        pytest.raises(KeyError),
        Process(target=tasks.ignore_sigterm, args=(str(tmp_path / "f"),), start_method=start_method) as process,
    ):
        wait_for_file(tmp_path / "f")
        raise KeyError
    assert process.exitcode == -signal.SIGKILL


def test_the_death_of_its_keeper_is_its_own(start_method, tmp_path):
    process = Process(target=tasks.sleep_for_ever, args=(str(tmp_path / "f"),), start_method=start_method)
    process.start()
    wait_for_file(tmp_path / "f")
    pid = process.pid
    keeper = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(keeper, signal.SIGKILL)
    with pytest.raises(ProcessDied):
        process.result(T)
    assert is_gone(pid)
    with Process(target=tasks.double, args=(1,), start_method=start_method) as after:
        assert after.result(T) == 2


def test_processes_within_processes(start_method):
    with Process(target=tasks.nested, args=(start_method,), start_method=start_method) as process:
        assert process.result(T) == 42


def test_many_at_once(start_method):
    processes = [Process(target=tasks.double, args=(i,), start_method=start_method) for i in range(6)]
    for process in processes:
        process.start()
    assert [process.result(T) for process in processes] == [0, 2, 4, 6, 8, 10]
    assert len({process.pid for process in processes}) == 6


def test_many_threads_may_wait_for_one(start_method, tmp_path):
    process = Process(target=tasks.sleep_for_ever, args=(str(tmp_path / "f"),), start_method=start_method)
    process.start()
    wait_for_file(tmp_path / "f")
    seen = []

    def wait():
        process.join(T)
        seen.append(process.exitcode)

    threads = [threading.Thread(target=wait) for _ in range(4)]
    for thread in threads:
        thread.start()
    process.terminate()
    for thread in threads:
        thread.join(T)
    assert seen == [-signal.SIGTERM] * 4


def test_awaiting(start_method):
    async def main():
        one = Process(target=tasks.double, args=(1,), start_method=start_method)
        two = Process(target=tasks.fail, args=("no",), start_method=start_method)
        one.start()
        two.start()
        results = await asyncio.gather(one, two, one, return_exceptions=True)
        assert results[0] == results[2] == 2
        assert isinstance(results[1], ValueError)

    asyncio.run(main())


def test_cancelling_the_awaiting_task_stops_it(tmp_path):
    async def main():
        process = Process(target=tasks.sleep_for_ever, args=(str(tmp_path / "f"),))
        process.start()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process._result_soon(), 0.2)
        process.join(T)
        assert process.exitcode == -signal.SIGTERM

    asyncio.run(main())


def test_prints_come_out_before_the_result(start_method, capfd):
    print("before", end="")  # in our buffer: not to be written by the child as well
    with Process(target=tasks.write_and_return, args=("hello",), start_method=start_method) as process:
        process.result(T)
    out, err = capfd.readouterr()
    assert (out, err) == ("beforehello\n", "hello\n")


def test_an_exception_that_nobody_asked_for_is_printed(start_method, capfd):
    process = Process(target=tasks.fail, args=("unasked",), name="quiet one", start_method=start_method)
    process.start()
    process.join(T)
    assert capfd.readouterr().err == ""
    del process
    gc.collect()
    text = capfd.readouterr().err
    assert "Process 'quiet one'" in text
    assert "ValueError: unasked" in text


def test_its_life_as_the_standard_librarys(start_method):
    process = Process(target=tasks.double, args=(1,), start_method=start_method)
    assert (process.pid, process.exitcode, process.is_alive()) == (None, None, False)
    assert "initial" in repr(process)
    for call in (process.join, process.terminate, process.result, lambda: process.sentinel):
        with pytest.raises(ValueError, match="started"):
            call()
    process.daemon = True
    process.start()
    with pytest.raises(ValueError, match="twice"):
        process.start()
    with pytest.raises(ValueError, match="before start"):
        process.daemon = False
    process.join(T)
    assert "stopped exitcode=0" in repr(process)
    assert multiprocessing.connection.wait([process.sentinel], 0) == [process.sentinel]
    process.close()
    process.close()
    assert "closed" in repr(process)
    with pytest.raises(ValueError, match="closed"):
        process.join()


def test_close_refuses_a_running_one(tmp_path):
    process = Process(target=tasks.sleep_for_ever)
    process.start()
    with pytest.raises(ValueError, match="still running"):
        process.close()
    process.kill()
    process.join(T)
    process.close()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"target": 3}, "target must be callable"),
        ({"group": 3}, "group must be None"),
        ({"args": 3}, "args must be a tuple"),
        ({"args": "abc"}, r"write args=\('abc',\)"),
        ({"name": 3}, "name must be a string"),
        ({"start_method": "clone"}, "start_method='clone' is unknown"),
    ],
)
def test_bad_arguments_are_told_at_once(options, problem):
    with pytest.raises((TypeError, ValueError), match=problem):
        Process(**options)


def test_a_sibling_that_asks_leaves_the_news_to_the_parent(start_method):
    told, its = os.pipe()
    process = Process(target=os._exit, args=(3,), start_method=start_method)
    process.start()
    multiprocessing.connection.wait([process._running._news])  # it has a pid, and nobody has taken it in

    def ask():
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                os.write(its, f"{process.pid} {process.exitcode}".encode())
            os._exit(0)
        os.waitpid(pid, 0)
        return os.read(told, 100).decode()

    first = ask()
    assert first == f"{process.pid} None"
    multiprocessing.connection.wait([process.sentinel], T)
    assert ask().split()[0] == first.split()[0]
    assert process.exitcode == 3
    os.close(told)
    os.close(its)


def test_its_authkey_is_the_parents_or_what_it_is_given(start_method):
    mine = multiprocessing.current_process().authkey
    process = Process(target=tasks.own_authkey, start_method=start_method)
    assert process.authkey == mine
    other = Process(target=tasks.own_authkey, start_method=start_method)
    other.authkey = b"another"
    assert other.authkey == b"another"
    with process, other:
        assert process.result(T) == bytes(mine)
        assert other.result(T) == b"another"
    assert multiprocessing.current_process().authkey == mine


def test_no_warning_in_development_mode(start_method):
    code = (
        "import fullcourt\n"
        f"with fullcourt.Process(target=abs, args=(-1,), start_method={start_method!r}) as process:\n"
        "    print(process.result())\n"
    )
    command = [sys.executable, "-X", "dev", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("1\n", "")
