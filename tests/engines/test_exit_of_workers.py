"""What a worker does at its end for what tasks left behind in it."""

import concurrent.futures
import multiprocessing
import multiprocessing.forkserver
import sys

import pytest

import fullcourt

kept = []


def leave_an_executor_open():
    kept.append(concurrent.futures.ProcessPoolExecutor(1))
    return kept[-1].submit(abs, -1).result()


@pytest.mark.skipif(sys.platform == "win32", reason="has only spawn")
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_an_executor_that_a_task_left_open_does_not_hold_up_the_end(start_method):
    pool = fullcourt.Pool(1, start_method=start_method)
    try:
        assert pool.apply(leave_an_executor_open) == 1
        pool.close()
        assert pool._driver.ended.wait(30)
        pool.join()
    finally:
        pool.terminate()
        pool.join()


def use_a_fork_server():
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(abs, -1).result()


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="has no fork server")
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_a_task_may_use_the_standard_librarys_fork_server_though_the_program_has_one(start_method):
    """A worker that is forked inherits the record of the program's, for which it cannot wait."""
    server = multiprocessing.forkserver._forkserver
    was_running = server._forkserver_pid is not None
    try:
        assert use_a_fork_server() == 1
        with fullcourt.Pool(1, start_method=start_method) as pool:
            assert pool.apply(use_a_fork_server) == 1
        if sys.platform != "linux":
            return
        with fullcourt.Process(target=use_a_fork_server, start_method=start_method) as process:
            assert process.result(30) == 1
    finally:
        if not was_running:
            server._stop()
