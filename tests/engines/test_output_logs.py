"""Log records of tasks reach the program's handlers, and warnings its filters."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fullcourt
from fullcourt import Pool
from fullcourt._engines.forwarding import Forwarder
from fullcourt._engines.output_settings import OutputSettings
from fullcourt._transport import frames, link
from tests.engines import output_tasks as tasks
from tests.engines.output_harness import FEW, KINDS, Records

pytestmark = pytest.mark.timeout(60)

NewPool = Callable[..., Any]
TASKS_FILE = tasks.__file__


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def new_pool(kind: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[NewPool]:
    pools: list[Any] = []
    if kind == "portable":
        monkeypatch.setenv("FULLCOURT_TRANSPORT", "portable")

    def make(**options: Any) -> Any:
        pools.append(fullcourt.Pool(**(KINDS[kind] | options)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()
        pool.join()


@pytest.fixture
def app() -> Iterator[logging.Logger]:
    """A logger as it is when nobody has touched it."""
    logger = logging.getLogger("app")
    before = logger.level, logger.handlers[:], logger.propagate, logger.disabled
    yield logger
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]
    logger.propagate, logger.disabled = before[2:]
    logging.disable(logging.NOTSET)


@pytest.fixture
def records(app: logging.Logger) -> Records:
    handler = Records()
    handler.setFormatter(logging.Formatter("%(levelname)s:%(name)s:%(processName)s:%(message)s"))
    app.addHandler(handler)
    app.setLevel(logging.INFO)
    return handler


few = pytest.mark.parametrize("kind", FEW, indirect=True)
forked = pytest.mark.parametrize("kind", ["fork"] if "fork" in KINDS else [], indirect=True)

# -- log records -------------------------------------------------------------------------------------------------------


def test_a_record_reaches_the_handlers_here_before_the_result(new_pool: NewPool, records: Records) -> None:
    pool = new_pool(name="mine")
    for i in range(10):
        pid = pool.apply(tasks.log, ("app.part", logging.INFO, "no. %d of %s", i, {"a": 1}), {"extra": {"user": "me"}})
        assert len(records.records) == i + 1
        record: Any = records.records[-1]
        assert records.texts[-1] == f"INFO:app.part:{record.processName}:no. {i} of {{'a': 1}}"
        assert record.processName in {worker.name for worker in pool.statistics().workers}
        assert record.process == pid
        assert (record.args, record.msg, record.user) == ((i, {"a": 1}), "no. %d of %s", "me")
        assert (record.pathname, record.funcName) == (TASKS_FILE, "log")
    pool.starmap(tasks.log, [("app", logging.ERROR, f"item {i}") for i in range(30)])
    assert sorted(text.rpartition(":")[2] for text in records.texts[10:]) == sorted(f"item {i}" for i in range(30))


def test_levels_are_the_program_s_also_when_they_change(
    new_pool: NewPool, records: Records, app: logging.Logger
) -> None:
    pool = new_pool()
    ask = lambda name, level: pool.apply(tasks.is_enabled, (name, level))  # noqa: E731
    assert not ask("app.part", logging.DEBUG)
    assert ask("app.part", logging.INFO)
    app.setLevel(logging.DEBUG)
    assert ask("app.part", logging.DEBUG)
    app.setLevel(logging.ERROR)
    assert not ask("app.part", logging.WARNING)
    logging.getLogger("app.part").setLevel(logging.DEBUG)
    assert ask("app.part", logging.DEBUG)
    logging.getLogger("app.part").setLevel(logging.NOTSET)
    assert not ask("app.part", logging.DEBUG)
    logging.disable(logging.CRITICAL)
    assert not ask("app.part", logging.ERROR)
    logging.disable(logging.NOTSET)
    assert ask("app.part", logging.ERROR)
    assert not records.records


def test_a_task_does_not_begin_before_what_was_sent_ahead_of_it_is_heard(
    records: Records, app: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another slot's thread may have received it."""
    own = Forwarder.apply

    def apply_slowly(forwarder: Forwarder, settings: OutputSettings) -> None:
        time.sleep(0.1)
        own(forwarder, settings)

    monkeypatch.setattr(Forwarder, "apply", apply_slowly)  # in the worker, which is a fork
    with Pool(1, threads=2, start_method="fork") as pool:
        for level in (logging.DEBUG, logging.ERROR, logging.DEBUG, logging.ERROR):
            app.setLevel(level)
            assert pool.apply(tasks.is_enabled, ("app.part", logging.INFO)) == (level == logging.DEBUG)
            app.setLevel(logging.WARNING)
            assert pool.map(tasks.is_enabled_at_info, ["app.part"] * 3) == [False] * 3


def test_slots_do_not_wait_for_ever_for_settings_that_were_taken_back(
    app: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are put in again, behind tasks that were sent after them: when all slots wait for them, nobody reads on."""
    took = threading.Event()
    receive = link.receive_with_fd

    def receive_slowly(sock: Any, flags: int = 0) -> Any:
        received = receive(sock, flags)
        if received[0] and received[0][0] == frames.SETTINGS:
            took.set()
            time.sleep(1.0)
        return received

    with Pool(1, threads=2, start_method="fork") as pool:
        running = [pool.submit(time.sleep, 0.5) for _ in range(2)]
        while pool.statistics().n_in_flight < 2:
            time.sleep(0.001)
        time.sleep(0.2)  # both are read
        app.setLevel(logging.DEBUG)
        behind = [pool.submit(abs, -i) for i in range(2)]
        monkeypatch.setattr(link, "receive_with_fd", receive_slowly)
        pool._driver._take_back(1)
        assert took.is_set()
        assert [future.result(30) for future in behind] == [0, 1]
        assert [future.result(30) for future in running] == [None, None]


@few
def test_what_would_be_dropped_is_not_even_sent(new_pool: NewPool, records: Records) -> None:
    pool = new_pool(processes=1)
    pool.apply(tasks.log, ("app", logging.DEBUG, "x"))
    before = pool.statistics().workers[0].bytes_out
    pool.apply(tasks.log, ("app", logging.DEBUG, "x" * 10_000))
    assert pool.statistics().workers[0].bytes_out - before < 1000
    assert not records.records


@few
def test_a_handler_that_comes_later_is_heeded(new_pool: NewPool, app: logging.Logger) -> None:
    pool = new_pool()
    pool.apply(tasks.log, ("app", logging.ERROR, "nobody listens"))
    handler = Records()
    app.addHandler(handler)
    pool.apply(tasks.log, ("app", logging.ERROR, "somebody does"))
    assert [record.getMessage() for record in handler.records] == ["somebody does"]


@few
def test_an_exception_comes_with_its_worker_s_traceback(new_pool: NewPool, records: Records) -> None:
    new_pool().apply(tasks.log_an_exception)
    (text,) = records.texts
    assert "failed\nTraceback (most recent call last):" in text
    assert 'raise KeyError("missing")' in text
    assert text.endswith("KeyError: 'missing'")
    kind, error, _ = records.records[0].exc_info or (None, None, None)
    assert kind is KeyError
    assert isinstance(error, KeyError)
    assert error.args == ("missing",)


def test_what_cannot_travel_travels_as_text(new_pool: NewPool, records: Records) -> None:
    pool = new_pool()
    pool.apply(tasks.log_the_unpicklable)
    record: Any = records.records[0]
    assert record.getMessage().startswith("lock <unlocked _thread.lock object at ")
    assert record.lock.startswith("<unlocked _thread.lock object at ")
    assert record.path == Path("a")
    pool.apply(tasks.log_what_loads_only_there)
    thing = records.records[1].thing  # type: ignore[attr-defined]
    assert thing == "<only here>" or isinstance(thing, tasks.OnlyHere)  # an interpreter is of this process


@few
def test_a_wrong_format_is_told_of_as_ever(
    new_pool: NewPool, records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new_pool().apply(tasks.log_wrongly) == "went on"
    shown = capsys.readouterr().err
    assert "--- Logging error ---" in shown
    assert 'logging.getLogger("app").error("%d", "no number")' in shown
    assert not records.records


@few
def test_a_handler_that_raises_costs_no_result(
    new_pool: NewPool, app: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bad(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit(3)

    app.addHandler(Bad())
    pool = new_pool()
    assert pool.apply(tasks.log, ("app", logging.ERROR, "x"))
    assert "SystemExit" in capsys.readouterr().err


@few
def test_a_handler_may_wait_for_the_pool(new_pool: NewPool, app: logging.Logger) -> None:
    pool = new_pool(processes=1)
    answers: list[int] = []

    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            answers.append(pool.apply(len, (record.getMessage(),)))

    app.addHandler(Asks())
    futures = [pool.submit(tasks.log, "app", logging.ERROR, "four") for _ in range(5)]
    assert len({future.result() for future in futures}) == 1
    assert answers == [4] * 5


@forked
def test_handlers_that_a_fork_inherits_are_silent_in_the_worker(
    new_pool: NewPool, app: logging.Logger, tmp_path: Path
) -> None:
    file = logging.FileHandler(tmp_path / "log")
    app.addHandler(file)
    try:
        pool = new_pool()
        pool.starmap(tasks.log, [("app", logging.ERROR, f"line {i}") for i in range(20)], chunksize=1)
    finally:
        file.close()
    assert sorted((tmp_path / "log").read_text().split("\n")) == sorted([*(f"line {i}" for i in range(20)), ""])


@few
def test_a_record_is_handled_once_though_several_loggers_have_handlers(
    new_pool: NewPool, records: Records, app: logging.Logger
) -> None:
    inner = Records()
    part = logging.getLogger("app.part")
    part.addHandler(inner)
    try:
        new_pool().apply(tasks.log, ("app.part", logging.ERROR, "once"))
    finally:
        part.removeHandler(inner)
    assert len(inner.records) == len(records.records) == 1
    assert not hasattr(records.records[0], "_fullcourt_sent")


@forked
def test_a_nested_pool_s_records_come_here_too(new_pool: NewPool, records: Records) -> None:
    new_pool(processes=1).apply(tasks.nested, ("from below",))
    assert [record.getMessage() for record in records.records] == ["logged from below"]


@few
def test_with_inherit_records_stay_in_the_worker(new_pool: NewPool, records: Records) -> None:
    new_pool(output="inherit").apply(tasks.log, ("app", logging.ERROR, "x"))
    assert not records.records


# -- warnings ----------------------------------------------------------------------------------------------------------


def test_a_warning_reaches_the_filters_here(new_pool: NewPool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool = new_pool()
        pool.apply(tasks.warn, ("careful",))
        pool.apply(tasks.warn, ("careful, it is deprecated", DeprecationWarning))
    assert [(w.category, w.filename) for w in caught] == [(UserWarning, TASKS_FILE), (DeprecationWarning, TASKS_FILE)]
    line = Path(TASKS_FILE).read_text(encoding="utf-8").splitlines()[caught[0].lineno - 1]
    assert "warnings.warn(text, category" in line
    assert "fullcourt: in worker " in caught[0].message.__notes__[0]  # type: ignore[union-attr]


def test_once_is_once_for_all_workers(new_pool: NewPool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        pool = new_pool()
        pool.map(tasks.warn_often, [100] * 20, chunksize=1)
        assert [str(w.message) for w in caught] == ["often"]
    with warnings.catch_warnings(record=True) as caught:  # a new account, as in one process
        warnings.simplefilter("default")
        pool.map(tasks.warn_often, [100] * 20, chunksize=1)
        assert [str(w.message) for w in caught] == ["often"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool.map(tasks.warn_often, [3] * 4, chunksize=1)
        assert len(caught) == 12


def test_filters_that_change_are_heeded_by_the_next_task(new_pool: NewPool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool = new_pool()
        assert pool.apply(tasks.warn, ("silent",)) == "silent"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="an error"):
            pool.apply(tasks.warn, ("an error",))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r".*output_tasks")
        assert pool.apply(tasks.warn, ("silent again",)) == "silent again"


@few
def test_a_warning_of_a_class_that_cannot_travel(new_pool: NewPool) -> None:
    with pytest.warns(RuntimeWarning, match="local"):
        new_pool().apply(tasks.warn_of_a_local_class)


@few
def test_the_program_s_showwarning_shows(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        pool = new_pool()
        monkeypatch.setattr(warnings, "showwarning", lambda message, *rest: shown.append(str(message)))
        pool.apply(tasks.warn, ("hello",))
    assert shown == ["hello"]


@few
def test_a_warning_that_was_shown_here_is_not_shown_again(new_pool: NewPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(tasks), "__warningregistry__", raising=False)
    assert tasks.__name__ in sys.modules
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        pool = new_pool()
        tasks.warn_often(2)
        pool.apply(tasks.warn_often, (2,))
    assert len(caught) == 1
