"""What a worker does at its end for what tasks left behind in it."""

import concurrent.futures
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
