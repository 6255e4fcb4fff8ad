"""Calls that are made and waited for, alone: whatever happens meanwhile, it is as with any other call."""

from __future__ import annotations

import concurrent.futures as cf
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from fullcourt import Pool
from fullcourt._engines.lane import Lane
from fullcourt.errors import PoolClosed, TaskTimeout, WorkerDied

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it needs the fast links of Linux")


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each call, whether it went this way."""
    taken: list[bool] = []
    run = Lane.run

    def noting(lane: Lane, call: Any) -> bool:
        taken.append(False)
        taken[-1] = run(lane, call)
        return taken[-1]

    monkeypatch.setattr(Lane, "run", noting)
    return taken


@pytest.fixture
def pool(ways: list[bool]) -> Iterator[Pool]:
    with Pool(2, start_method="fork") as made:
        yield made
        assert made.apply(abs, (-7,)) == 7  # it goes on
    assert ways[0], "the first call did not go this way"


def square(x: int) -> int:
    return x * x


def fail(x: Any) -> Any:
    raise ValueError(x)


def give_what_fails_to_load(_: Any) -> Any:
    return FailsToLoad()


class FailsToLoad:
    def __reduce__(self) -> Any:
        return fail, ("it cannot be loaded",)


def give_a_lock(_: Any) -> Any:
    return threading.Lock()


def say(text: str) -> str:
    print(text)
    return text


def sleep_and_give(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def test_results_are_each_calls_own(pool: Pool, ways: list[bool]) -> None:
    assert [pool.apply(square, (i,)) for i in range(100)] == [i * i for i in range(100)]
    assert ways == [True] * 100
    assert pool.statistics().n_done == 100
    assert sum(worker.n_done for worker in pool.statistics().workers) == 100


def test_large_arguments_and_results(pool: Pool) -> None:
    data = bytearray(b"abc") * 1_000_000
    assert pool.apply(bytes.upper, (bytes(data),)) == bytes(data).upper()
    assert pool.apply(bytearray.upper, (data,)) == data.upper()


def test_errors_of_all_kinds(pool: Pool) -> None:
    with pytest.raises(ValueError, match="nine"):
        pool.apply(fail, ("nine",))
    with pytest.raises(ValueError, match="it cannot be loaded"):
        pool.apply(give_what_fails_to_load, (0,))
    with pytest.raises(Exception, match="pickle"):
        pool.apply(give_a_lock, (0,))
    with pytest.raises(SystemExit):
        pool.apply(sys.exit, (3,))


def test_what_is_printed_comes_before_the_result(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(20):
        assert pool.apply(say, (f"word {i}",)) == f"word {i}"
        assert capsys.readouterr().out == f"word {i}\n"


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_a_death_is_told_and_mended(how: str, pool: Pool) -> None:
    for _ in range(3):
        with pytest.raises(WorkerDied, match="SIGKILL" if how == "kill" else "exited with code 5"):
            if how == "kill":
                pool.apply(signal.raise_signal, (signal.SIGKILL,))
            else:
                pool.apply(os._exit, (5,))
        assert pool.apply(square, (3,)) == 9


def test_a_worker_that_died_while_idle_is_not_used(pool: Pool) -> None:
    for _ in range(5):
        pid = pool.apply(os.getpid)
        os.kill(pid, signal.SIGKILL)
        assert pool.apply(os.getpid) != pid


def test_others_use_the_pool_meanwhile(pool: Pool) -> None:
    assert pool.apply(square, (2,)) == 4
    with cf.ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(lambda i=i: [pool.apply(square, (j,)) for j in range(i, i + 50)]) for i in range(4)]
        submitted = [pool.submit(square, i) for i in range(50)]
        assert pool.map(square, range(50)) == [i * i for i in range(50)]
        for i, future in enumerate(futures):
            assert future.result(60) == [j * j for j in range(i, i + 50)]
        assert [future.result(60) for future in submitted] == [i * i for i in range(50)]


def test_one_that_takes_long_holds_up_nobody(pool: Pool) -> None:
    with cf.ThreadPoolExecutor(1) as threads:
        long = threads.submit(pool.apply, sleep_and_give, (1.0,))
        while not pool.statistics().n_in_flight:
            time.sleep(0.001)
        began = time.monotonic()
        assert [pool.submit(square, i).result(30) for i in range(50)] == [i * i for i in range(50)]
        assert not long.done() or time.monotonic() - began > 0.9
        assert long.result(30) in [worker.pid for worker in pool.statistics().workers]


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_the_pool_ends_meanwhile(how: str, ways: list[bool]) -> None:
    pool = Pool(1, start_method="fork")
    pool.apply(square, (1,))
    with cf.ThreadPoolExecutor(1) as threads:
        future = threads.submit(pool.apply, sleep_and_give, (0.3,))
        while not pool.statistics().n_in_flight:
            time.sleep(0.001)
        getattr(pool, how)()
        pool.join()
        if how == "close":
            assert future.result(30) > 0
        else:
            with pytest.raises(cf.CancelledError):
                future.result(30)
    with pytest.raises(PoolClosed):
        pool.apply(square, (2,))
    assert ways[0] is True


def test_what_becomes_due_before_it_leads_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fullcourt._engines.roles.GRACE_S", 0.3)  # the background thread comes late
    with Pool(2, start_method="fork") as pool, cf.ThreadPoolExecutor(1) as threads:
        pool.apply(square, (1,))
        sent, go = threading.Event(), threading.Event()
        engine = pool._driver.engine
        send = engine.send

        def send_and_wait(*args: Any) -> Any:
            problem = send(*args)
            if not sent.is_set():
                sent.set()
                go.wait(30)
            return problem

        monkeypatch.setattr(engine, "send", send_and_wait)
        alone = threads.submit(pool.apply, sleep_and_give, (3.0,))
        assert sent.wait(30)
        timed = pool.options(timeout=0.2, grace=0).submit(time.sleep, 30)
        go.set()
        with pytest.raises(TaskTimeout):
            timed.result(30)
        assert not alone.done(), "its time was over, and nobody saw it"
        assert alone.result(30) > 0


def test_an_interrupt_at_its_end_leaves_nothing_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(1, start_method="fork")
    pool.apply(square, (1,))
    arrived = Lane._arrived

    def arrived_beside_others(lane: Lane, *args: Any) -> None:
        pool.close()  # as another thread would
        arrived(lane, *args)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Lane, "_arrived", arrived_beside_others)
    with pytest.raises(KeyboardInterrupt):
        for _ in range(1000):  # while the background thread still leads, it goes the general way
            pool.apply(square, (2,))
    assert not pool._driver.scheduler.actions
    pool.join()
