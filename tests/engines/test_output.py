"""What tasks print reaches the program's current streams: whole lines, in order, before the task's result is seen."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conformance_harness import Gate

import fullcourt
from fullcourt import TaskTimeout, WorkerDied
from tests.engines import output_tasks as tasks
from tests.engines.output_harness import FEW, KINDS, Stream

pytestmark = pytest.mark.timeout(60)

NewPool = Callable[..., Any]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_pool(kind: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[NewPool]:
    pools: list[Any] = []
    if kind == "portable":
        monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable")

    def make(**options: Any) -> Any:
        if "out" in request.fixturenames:  # only now: between set-up and call, pytest sets its own
            monkeypatch.setattr(sys, "stdout", request.getfixturevalue("out"))
        pools.append(fullcourt.Pool(**(KINDS[kind] | options)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()
        pool.join()


@pytest.fixture
def out() -> Stream:
    """What `sys.stdout` is from the making of the first pool on."""
    return Stream()


few = pytest.mark.parametrize("kind", FEW, indirect=True)
forked = pytest.mark.parametrize("kind", ["fork"] if "fork" in KINDS else [], indirect=True)


def test_all_is_printed_when_the_results_are_there(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool()
    for i in range(20):
        assert pool.apply(tasks.say, (str(i),)) == str(i)
        assert out.getvalue().split() == [str(k) for k in range(i + 1)]
    assert pool.map(tasks.count_to, range(10)) == list(range(10))
    lines = [line.split() for line in out.getvalue().splitlines()[20:]]
    of_task: dict[str, list[int]] = defaultdict(list)
    for who, i in lines:
        of_task[who].append(int(i))
    assert of_task == {str(who): list(range(20)) for who in range(10)}


def test_the_stream_is_the_one_of_the_moment(new_pool: NewPool, capsys: pytest.CaptureFixture[str]) -> None:
    pool = new_pool()
    pool.apply(tasks.say, ("captured",))
    pool.apply(tasks.complain, ("complained",))
    assert capsys.readouterr() == ("captured\n", "complained\n")
    with contextlib.redirect_stdout(io.StringIO()) as there:
        pool.apply(tasks.say, ("redirected",))
    assert there.getvalue() == "redirected\n"
    pool.apply(tasks.say, ("captured again",))
    assert capsys.readouterr().out == "captured again\n"


def test_a_line_that_does_not_end_is_there_with_the_result(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool()
    pool.apply(tasks.say, ("a", ""))
    assert out.getvalue() == "a"
    pool.map(partial(tasks.say, end=""), "bcd", chunksize=3)
    assert sorted(out.getvalue()) == list("abcd")
    pool.apply(tasks.leave_a_line_open_in_a_thread)
    assert out.getvalue().endswith("open")


@few
def test_a_flush_is_seen_while_the_task_runs(new_pool: NewPool, out: Stream, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    try:
        future = new_pool().submit(tasks.say_then_wait, "working", gate.turnstile)
        gate.wait_arrivals(1)
        out.wait_for("working")
        assert out.n_flushes
        assert not future.done()
        gate.permit()
        future.result()
    finally:
        gate.release()
        gate.close()


@few
def test_a_line_is_seen_while_the_task_runs_on(new_pool: NewPool, out: Stream, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    try:
        future = new_pool().submit(tasks.say_then_wait, "a line\nand more", gate.turnstile, flush=False)
        out.wait_for("a line\n")
        assert out.getvalue() == "a line\n"
        assert not future.done()
        gate.permit()
        future.result()
        assert out.getvalue() == "a line\nand more"
    finally:
        gate.release()
        gate.close()


def test_bytes_and_any_character_arrive(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="utf-8"))
    pool = new_pool()
    data = bytes(range(256)).replace(b"\r", b"") + "äöü 漢字 \U0001f600\n".encode()
    pool.apply(tasks.say_bytes, (data,))
    pool.apply(tasks.say, ("漢字",))
    sys.stdout.flush()
    assert raw.getvalue() == data + "漢字\n".encode()
    narrow = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(narrow, encoding="ascii"))
    pool.apply(tasks.say, ("ä\ud800",))
    sys.stdout.flush()
    assert narrow.getvalue() == b"\\xe4\\ud800\n"


@pytest.mark.parametrize("kind", [*FEW, "portable"], indirect=True)
def test_a_slow_stream_holds_up_the_task_and_not_the_memory(new_pool: NewPool, out: Stream, tmp_path: Path) -> None:
    progress = tmp_path / "progress"
    n, width = 4000, 20_000  # 80 MB
    out.may_write.clear()
    future = new_pool(processes=1).submit(tasks.say_lines, n, width, str(progress))
    seen, since = 0, time.monotonic()
    while not seen or time.monotonic() < since + 0.5:
        assert not future.done()
        now = progress.stat().st_size if progress.exists() else 0
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.01)
    assert seen < n / 4
    assert not future.done()
    out.may_write.set()
    assert future.result() == n
    assert len(out.getvalue()) == n * (width + 1)


def test_a_text_larger_than_a_frame(new_pool: NewPool, out: Stream) -> None:
    text = "".join(chr(0x1F600 + i % 64) for i in range(100_000)) + "ä" * 70_000
    new_pool().apply(tasks.say, (text,))
    assert out.getvalue() == text + "\n"


@few
def test_lines_may_bear_the_worker_s_name(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool(output="tag", name="mine", processes=1)
    pool.apply(tasks.say, ("one\ntwo",))
    pool.apply(tasks.say, ("three", ""))
    pool.apply(tasks.say, (" four",))
    name = pool.statistics().workers[0].name
    assert name.startswith("mine-")
    assert out.getvalue() == "".join(f"[{name}] {text}\n" for text in ("one", "two", "three four"))


@pytest.mark.parametrize("output", ["all", None, True, "tagged"])
def test_another_output_is_refused(output: Any) -> None:
    with pytest.raises(ValueError, match="output must be"):
        fullcourt.Pool(1, output=output)


@pytest.mark.parametrize("kind", ["fork-x-threads"] if "fork" in KINDS else [], indirect=True)
def test_lines_of_several_slots_do_not_mix(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool(processes=1, threads=4)
    pool.map(tasks.say_in_many_parts, range(8), chunksize=1)
    assert sorted(out.getvalue().splitlines()) == sorted("-".join(str(who) * 4) for who in range(8) for _ in range(30))


@few
def test_lines_of_a_task_s_threads_do_not_mix(new_pool: NewPool, out: Stream) -> None:
    new_pool().apply(tasks.say_in_threads, (3,))
    assert sorted(out.getvalue().splitlines()) == sorted(" ".join(who * 4) for who in "abc" for _ in range(50))


@few
def test_what_the_initializer_prints(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool(processes=1, initializer=tasks.say, initargs=("ready",))
    pool.apply(tasks.say, ("task",))
    assert out.getvalue() == "ready\ntask\n"


def test_the_stream_behaves_like_one(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool()
    assert pool.apply(tasks.describe_stdout) == {
        "isatty": False,
        "encoding": "utf-8",
        "writable": True,
        "name": "<stdout>",
        "closed": False,
        "written": 4,
    }
    assert out.getvalue() == "abc\n"
    with pytest.raises(TypeError, match="must be str, not bytes"):
        pool.apply(tasks.write_nonsense)


@few
def test_a_terminal_here_is_one_there(new_pool: NewPool, out: Stream) -> None:
    out.isatty = lambda: True  # type: ignore[method-assign]
    assert new_pool().apply(tasks.describe_stdout)["isatty"] is True


@few
def test_a_stream_that_fails_costs_no_result(new_pool: NewPool, out: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = new_pool()
    other = io.StringIO()
    monkeypatch.setattr(sys, "__stdout__", other)
    out.close()
    assert pool.apply(tasks.say, ("closed",)) == "closed"
    assert other.getvalue() == "closed\n"
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "__stdout__", None)
    assert pool.apply(tasks.say, ("none",)) == "none"


@few
def test_an_interrupt_of_a_blocked_stream_loses_no_result(new_pool: NewPool, out: Stream) -> None:
    def interrupt(text: str) -> None:
        if "second" in text:
            out.on_write = None
            raise KeyboardInterrupt

    out.on_write = interrupt
    pool = new_pool(processes=1)
    futures = [pool.submit(tasks.say, text) for text in ("first", "second", "third")]
    with pytest.raises(KeyboardInterrupt):
        futures[2].result()
    assert [future.result() for future in futures] == ["first", "second", "third"]
    assert out.getvalue() in {"first\nthird\n", "first\n\nthird\n"}


@few
def test_a_stream_may_use_the_pool_itself(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool(processes=1)
    answers: list[int] = []

    def ask(text: str) -> None:
        if text.startswith("line"):
            answers.append(pool.submit(len, text).result())

    out.on_write = ask
    futures = [pool.submit(tasks.say, f"line {i}") for i in range(5)]
    assert [future.result() for future in futures] == [f"line {i}" for i in range(5)]
    assert answers == [7] * 5
    assert sorted(out.getvalue().splitlines()) == [f"line {i}" for i in range(5)]


@few
def test_a_task_that_prints_nothing_sends_nothing_more(new_pool: NewPool) -> None:
    def sent(output: str) -> int:
        with new_pool(processes=1, output=output) as pool:
            for _ in range(10):
                pool.apply(abs, (-1,))
            return int(pool.statistics().workers[0].bytes_out)

    assert sent("forward") == sent("inherit")


@few
def test_a_finalizer_may_print_in_the_midst_of_a_send(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool(processes=1)
    pool.apply(tasks.make_garbage, (3000,))
    lines = out.getvalue().splitlines()
    assert [line for line in lines if line.startswith("line")] == [f"line {i}" for i in range(3000)]
    assert "collected" in lines


@pytest.mark.parametrize("kind", [*FEW, "portable", "fork-x-threads"], indirect=True)
def test_a_task_that_is_stopped_while_it_prints_tears_no_line(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool(processes=1)
    hurried = pool.options(timeout=0.02, grace=20)
    text = "abc" * 2000
    pid = pool.apply(os.getpid)
    for i in range(25):
        with pytest.raises(TaskTimeout):
            hurried.apply(tasks.say_for_ever, (text,))
        assert pool.apply(tasks.say, (f"still there {i}",)) == f"still there {i}"
    assert pool.apply(os.getpid) == pid  # each was stopped, and not its worker killed
    assert {line for line in out.getvalue().splitlines() if "still" not in line} <= {text}


@few
def test_a_stop_is_not_lost_in_the_making_of_a_log_record(new_pool: NewPool) -> None:
    pool = new_pool(processes=1)
    pid = pool.apply(os.getpid)
    with pytest.raises(TaskTimeout):
        pool.options(timeout=0.1, grace=40).apply(tasks.log_until_stopped_in_the_making_of_a_record)
    assert pool.apply(os.getpid) == pid  # the exception came, and its worker was not killed


@few
def test_what_was_printed_before_a_kill_is_seen(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool()
    with pytest.raises(WorkerDied) as caught:
        pool.apply(tasks.die, ("last words", signal.SIGKILL))
    assert out.getvalue() == "last words\n"
    assert "faulthandler" not in str(caught.value.__notes__)


@forked
def test_a_nested_pool_s_prints_come_here_too(new_pool: NewPool, out: Stream) -> None:
    new_pool(processes=1).apply(tasks.nested, ("from below",))
    assert out.getvalue() == "from below\n"


@forked
def test_a_forked_child_does_not_print_through_its_worker(
    new_pool: NewPool, out: Stream, capfd: pytest.CaptureFixture[str]
) -> None:
    pool = new_pool(processes=1)
    assert pool.apply(tasks.print_in_a_forked_child, ("child",)) == 0
    pool.apply(tasks.say, ("task",))
    assert out.getvalue() == "task\n"


def test_output_while_nobody_waits_holds_nothing_up(new_pool: NewPool, out: Stream) -> None:
    pool = new_pool()
    future = pool.submit(tasks.say_lines, 2000, 1000)
    ended = threading.Event()
    future.add_done_callback(lambda _: ended.set())
    assert ended.wait(30)
    assert len(out.getvalue()) == 2000 * 1001
