"""The program forks while a pool is open: the child leaves its parent's pool alone, and says so."""

import faulthandler
import importlib
import os
import signal
import threading
import time

import pytest

import fullcourt


def run_in_a_fork(body):
    """Run it in a forked child; returns what it returned, as text."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        try:
            os.write(write_end, str(body()).encode())
        except BaseException as error:
            os.write(write_end, repr(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


@pytest.fixture(params=["fork", "threads"])
def pool(request):
    options = {"threads": 2} if request.param == "threads" else {"processes": 2, "start_method": request.param}
    with fullcourt.Pool(**options) as pool:
        yield pool


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_told_that_the_pool_is_not_its_own(pool):
    assert "belongs to process" in run_in_a_fork(lambda: pool.map(abs, [-1]))
    assert pool.map(abs, [-1]) == [1]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("use", ["submit", "apply", "statistics"])
def test_a_child_that_was_forked_while_the_pools_lock_was_held_is_told_too(use, pool):
    uses = {"submit": lambda: pool.submit(abs, -1), "apply": lambda: pool.apply(abs, (-1,))}
    uses["statistics"] = pool.statistics
    assert pool.apply(abs, (-1,)) == 1

    def use_it():
        faulthandler.dump_traceback_later(20, exit=True)  # it would wait for ever
        return uses[use]()

    with pool._driver._lock:
        told = run_in_a_fork(use_it)
    assert "belongs to process" in told


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_that_was_forked_while_a_function_was_taken_up_is_told_too():
    with fullcourt.Pool(1) as pool:
        word = pool.apply(str, ("word",))

        def use_it():
            faulthandler.dump_traceback_later(20, exit=True)  # it would wait for ever
            return pool.submit(lambda: word)

        with pool._driver.functions._lock:
            told = run_in_a_fork(use_it)
    assert "belongs to process" in told


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("guarded", ["future", "state"])
def test_a_child_that_was_forked_while_a_guard_was_held_can_have_a_pool_of_its_own(guarded):
    module = importlib.import_module(f"fullcourt._engines.{guarded}")
    held, over = threading.Event(), threading.Event()

    def hold():
        with module.guard:
            held.set()
            over.wait()

    def use_it():
        faulthandler.dump_traceback_later(20, exit=True)  # it would wait for ever
        with fullcourt.Pool(threads=1) as own:
            future = own.submit(abs, -1)
            future.add_done_callback(repr)
            return future.result(), fullcourt.worker_state().once("n", lambda: 7)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        told = run_in_a_fork(use_it)
    finally:
        over.set()
        holder.join()
    assert told == "(1, 7)"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_that_ends_the_pool_ends_nothing(pool):
    def end():
        pool.close()
        pool.terminate()
        pool.join()
        return "ended"

    assert run_in_a_fork(end) == "ended"
    assert pool.map(abs, [-1, -2]) == [1, 2]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_that_drops_the_pool_takes_nothing_of_it(pool):
    pool.map(abs, range(10))  # which needs no thread of the pool's own

    def drop():
        pool._driver.abandon()  # as the collector does
        pool._driver.hurry()  # as a callback would
        time.sleep(0.5)
        return [thread.name for thread in threading.enumerate() if thread.name.endswith("-driver")]

    forked = threading.Event()
    answers = []

    def use():
        forked.wait()
        answers.extend(pool.submit(abs, -i).result(10) for i in range(20))

    thread = threading.Thread(target=use)
    thread.start()
    forked.set()
    assert run_in_a_fork(drop) == "[]"
    thread.join()
    assert answers == list(range(20))
    assert pool.map(abs, [-1, -2]) == [1, 2]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_that_waits_for_the_parents_task_is_told_at_once(pool):
    future = pool.submit(time.sleep, 0.5)
    assert "belongs to process" in run_in_a_fork(lambda: future.result(10))
    assert future.result(30) is None


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_a_pool_ends_while_a_fork_of_the_program_lives_on(start_method):
    """The fork holds duplicates of the pool's sockets, so nobody at their other ends sees an end-of-file."""
    read_end, write_end = os.pipe()
    pool = fullcourt.Pool(2, start_method=start_method)
    assert pool.map(abs, [-1, 2]) == [1, 2]
    pid = os.fork()
    if pid == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    try:
        pool.close()
        assert pool._driver.ended.wait(30)
        pool.join()
    finally:
        os.close(write_end)
        os.waitpid(pid, 0)


def fork_and_return():
    return "parent" if os.fork() else "child"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_child_that_a_task_forks_and_that_goes_on_disturbs_no_other_task(n_threads):
    """It is a copy of that task's thread: it ends the task, there, and waits for the next one."""
    with fullcourt.Pool(threads=n_threads) as pool:
        assert pool.submit(time.sleep, 0.1).result() is None
        parent = os.getpid()
        before = set(children())
        assert pool.apply(fork_and_return) == "parent"
        assert os.getpid() == parent
        (child,) = set(children()) - before
        try:
            time.sleep(0.2)
            for i in range(50):
                assert pool.submit(abs, -i).result(30) == i
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def children():
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        found = file.read().split()
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
            found += file.read().split()
    return map(int, found)
