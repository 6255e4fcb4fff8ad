"""What runs before what: calls beside maps, calls of one thread, priorities."""

from __future__ import annotations

import concurrent.futures as cf
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from fullcourt import Pool
from fullcourt._core.scheduler import Scheduler
from fullcourt.errors import PicklingError


def note(job: tuple[str, str]) -> None:
    folder, word = job
    with open(f"{folder}/journal", "a") as journal:
        journal.write(f"{word}\n")
    if word == "slow":
        time.sleep(0.3)
    while word == "held" and not os.path.exists(f"{folder}/gate"):
        time.sleep(0.001)


def test_a_call_goes_before_what_a_map_has_sent_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_back: list[Any] = []
    own = Scheduler.taken_back
    monkeypatch.setattr(Scheduler, "taken_back", lambda *args: taken_back.append(own(*args)))
    folder, journal = str(tmp_path), tmp_path / "journal"
    journal.touch()
    words = ["slow", "slow", "held", *["item"] * 5]
    with Pool(1, start_method="fork") as pool, cf.ThreadPoolExecutor(1) as threads:
        running = pool.map_async(note, [(folder, word) for word in words], 1)
        while journal.read_text().count("held") < 1:
            time.sleep(0.001)
        call = threads.submit(pool.apply, note, ((folder, "call"),))  # one is held, one lies unread
        while not taken_back:
            time.sleep(0.001)
        (tmp_path / "gate").touch()
        call.result(60)
        running.get(60)
    assert journal.read_text().split() == ["slow", "slow", "held", "call", *["item"] * 5]


ENGINES = [{"processes": 1}, {"threads": 1}]


@pytest.mark.parametrize("engine", ENGINES, ids=["processes", "threads"])
def test_calls_of_one_thread_run_in_their_order_beside_a_map(engine: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    with Pool(**engine) as pool:
        pool.map(pause, range(20))
        running = pool.map_async(pause, range(300), 1)
        futures = []
        for i in range(60):
            futures.append(pool.submit(note, (str(tmp_path), str(i))))
            time.sleep(0.0007)
        cf.wait(futures, timeout=60)
        assert (tmp_path / "journal").read_text().split() == [str(i) for i in range(60)]
        running.get(60)


@pytest.mark.parametrize("engine", ENGINES, ids=["processes", "threads"])
def test_a_map_of_higher_priority_goes_before_another(engine: dict[str, int], tmp_path: Path) -> None:
    folder = str(tmp_path)
    (tmp_path / "journal").touch()
    with Pool(**engine) as pool:
        held = pool.submit(note, (folder, "held"))
        while not (tmp_path / "journal").read_text():
            time.sleep(0.001)
        maps = [
            pool.options(priority=priority).map_async(note, [(folder, word)] * 10, 1)
            for priority, word in ((0, "low"), (5, "high"))
        ]
        (tmp_path / "gate").touch()
        held.result(60)
        for one in maps:
            one.get(60)
    words = (tmp_path / "journal").read_text().split()
    assert sorted(words) == sorted(["held", *["low"] * 10, *["high"] * 10])
    n_ahead = words.index("high")  # at most what lay in the link when the other map came
    assert n_ahead <= 4
    assert words[n_ahead : n_ahead + 10] == ["high"] * 10


def pause(_: int) -> None:
    time.sleep(0.001)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_no_call_lies_behind_a_long_one_while_others_have_their_turn(start_method: str, tmp_path: Path) -> None:
    """One worker holds; more calls come all the time, so that none of the others is ever without work."""
    with Pool(2, start_method=start_method) as pool:
        pool.map(pause, range(8))
        held = pool.submit(note, (str(tmp_path), "held"))
        first = [pool.submit(pause, i) for i in range(20)]
        later = [pool.submit(pause, i) for i in range(20)]
        n_later = 0
        while not all(call.done() for call in first) and n_later < 3000:
            later.append(pool.submit(pause, n_later))
            later[n_later].result(60)
            n_later += 1
        n_done = sum(call.done() for call in first)
        (tmp_path / "gate").touch()
        held.result(60)
        cf.wait(later, timeout=60)
    assert n_done == 20


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ValueError("this does not pickle")


@pytest.mark.parametrize("n_items", [1, 2, 3])
def test_a_callback_may_wait_for_calls_that_are_sent_after_what_failed(n_items: int) -> None:
    waited: list[Any] = []
    ended = threading.Event()

    def wait_for_the_calls(error: BaseException) -> None:
        waited.append(type(error))
        waited.extend(call.result(30) for call in calls)
        ended.set()

    with Pool(processes=2, threads=2) as pool:
        pool.map(nap, [0.1] * 8)
        running = [pool.submit(nap, 0.1) for _ in range(4)]
        running[0].add_done_callback(lambda _: time.sleep(0.5))  # so that all others end for one step, which sends all
        running += [pool.submit(nap, 0.1) for _ in range(4)]
        pool.map_async(nap, [Unpicklable()] * n_items, error_callback=wait_for_the_calls)
        calls = [pool.submit(nap, 0.1) for _ in range(3)]
        assert ended.wait(30)
    assert waited == [PicklingError, 0.1, 0.1, 0.1]


log: list[int] = []


def note_down(number: int) -> None:
    log.append(number)


def what_was_noted() -> list[int]:
    noted = list(log)
    log.clear()
    return noted


@pytest.mark.parametrize("others_wait", [False, True])
def test_calls_of_a_thread_start_in_their_order_whoever_sends_them(*, others_wait: bool) -> None:
    with Pool(1) as pool, cf.ThreadPoolExecutor(1) as threads:
        for _ in range(40):
            pool.submit(note_down, 0).result()
        pool.submit(what_was_noted).result()
        for round_ in range(60):
            calls: list[Any] = []
            for i in range(60 + round_):
                calls.append(pool.submit(note_down, i))
                if i == 20 and others_wait:
                    threads.submit(calls[20].result)
                if i % 7 == round_ % 7:
                    time.sleep(0.0002)
            for call in calls:
                call.result()
            assert pool.submit(what_was_noted).result() == list(range(60 + round_))


def test_bursts_of_threads_that_come_and_go_disturb_nobody() -> None:
    over = threading.Event()

    def give_birth() -> None:
        while not over.is_set():
            threads = [threading.Thread(target=lambda: [pool.submit(abs, i) for i in range(3)]) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    with Pool(2) as pool:
        for _ in range(40):
            pool.submit(abs, 1).result()
        mother = threading.Thread(target=give_birth)
        mother.start()
        try:
            end = time.monotonic() + 1
            while time.monotonic() < end:
                pool.statistics()
        finally:
            over.set()
            mother.join()


class SlowInbox(deque[Any]):
    """Where a thread is interrupted between its look and its entering of a call."""

    slow = False

    def append(self, call: Any) -> None:
        if self.slow:
            time.sleep(0.01)
        super().append(call)


def test_a_call_that_is_entered_just_after_the_last_look_is_run_at_once() -> None:
    with Pool(2) as pool, cf.ThreadPoolExecutor(1) as threads:
        inbox = pool._driver._inbox = SlowInbox()
        for _ in range(40):
            pool.submit(abs, 1).result()
        long = pool.submit(time.sleep, 5.0)
        threads.submit(long.result)
        time.sleep(0.05)
        calls = [pool.submit(abs, i) for i in range(8)]
        inbox.slow = True
        calls.append(pool.submit(abs, 8))
        while not all(call.done() for call in calls):
            assert not long.done()
            time.sleep(0.001)
        long.cancel()
