"""`fullcourt.multiprocessing` beside its pools: processes, queues, pipes and locks behind the standard's names.

What CPython's own tests of them ask is asked by tests/channels/test_cpython.py.
"""

from __future__ import annotations

import concurrent.futures
import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
from typing import Any

import process_tasks as tasks
import pytest

import fullcourt
import fullcourt.multiprocessing as ours
from tests.methods import start_methods

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.environ.get("FULLCOURT_TRANSPORT") == "portable", reason="ours need Linux"
)

T = 30.0


@pytest.fixture(scope="module", autouse=True)
def heap() -> Any:
    """The standard library keeps the memory of shared values for the next ones."""
    return [multiprocessing.get_context(method).Value("i") for method in start_methods()]


MADE = [
    "Barrier", "BoundedSemaphore", "Condition", "Event", "JoinableQueue", "Lock", "Pipe", "Queue", "RLock", "Semaphore",
    "SimpleQueue",
]  # fmt: skip
ARGUMENTS: dict[str, tuple[Any, ...]] = {"Barrier": (2,)}


@pytest.mark.parametrize("name", MADE)
def test_module_and_contexts_make_ours(name: str, context: Any) -> None:
    for make in (getattr(ours, name), getattr(context, name)):
        made = make(*ARGUMENTS.get(name, ()))
        kind = type(made[0] if name == "Pipe" else made)
        assert kind.__module__.startswith("fullcourt.channels"), kind


@pytest.mark.parametrize("name", [*MADE, "Process"])
def test_signatures_are_those_of_the_running_python(name: str) -> None:
    mine, theirs = (inspect.signature(getattr(module, name)).parameters for module in (ours, multiprocessing))
    assert [(p.name, p.kind, p.default) for p in mine.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


def test_the_standard_library_gets_its_own(context: Any) -> None:
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        assert executor.submit(tasks.square, 3).result(T) == 9
    value = context.Value("i", 0)
    assert type(value.get_lock()).__module__ == "multiprocessing.synchronize"
    assert type(context.Condition(value.get_lock())).__module__ == "multiprocessing.synchronize"
    with context.Manager() as manager:
        numbers = manager.list([1])
        process = context.Process(target=tasks.append, args=(numbers, 2))
        process.start()
        process.join(T)
        assert list(numbers) == [1, 2]


def test_a_child_sees_itself_as_the_standard_librarys_would(context: Any) -> None:
    queue = context.Queue()
    process = context.Process(target=tasks.describe, args=(queue,), daemon=True)
    assert process in multiprocessing.active_children() or process.exitcode is None
    process.start()
    assert isinstance(process, multiprocessing.process.BaseProcess)
    assert isinstance(process, fullcourt.Process)
    name, is_itself, daemon, key, parent, alive = queue.get(timeout=T)
    process.join(T)
    assert (name, is_itself, daemon) == (process.name, True, True)
    assert key == bytes(multiprocessing.current_process().authkey)
    assert (parent, alive) == (os.getpid(), True)
    assert process.exitcode == 0
    assert process not in multiprocessing.active_children()
    assert f"parent={os.getpid()} stopped exitcode=0" in repr(process)


def test_active_children_are_those_that_run(context: Any) -> None:
    gate = context.Event()
    process = context.Process(target=gate.wait)
    assert process not in ours.active_children()
    process.start()
    assert process in ours.active_children()
    assert process.is_alive()
    gate.set()
    process.join(T)
    assert process not in ours.active_children()
    assert not process.is_alive()
    process.close()
    with pytest.raises(ValueError, match="closed"):
        process.join()


@pytest.mark.parametrize(("code", "exitcode"), [(None, 0), (3, 3), ("text", 1)])
def test_exit_codes(context: Any, code: Any, exitcode: int) -> None:
    process = context.Process(target=tasks.leave, args=(code,))
    process.start()
    process.join(T)
    assert process.exitcode == exitcode


def test_an_exception_is_printed_there_and_can_be_had_here(context: Any, capfd: pytest.CaptureFixture[str]) -> None:
    process = context.Process(target=tasks.fail)
    process.start()
    process.join(T)
    assert process.exitcode == 1
    printed = capfd.readouterr().err
    assert printed.startswith(f"Process {process.name}:\nTraceback (most recent call last):\n")
    assert printed.count("ValueError: out of bounds") == 1
    assert isinstance(process.exception(), ValueError)
    del process
    assert capfd.readouterr().err == ""


def test_results_come_and_what_cannot_be_sent_is_no_failure(context: Any) -> None:
    with context.Process(target=tasks.square, args=(4,)) as process:
        assert process.result(T) == 16
    with context.Process(target=tasks.unpicklable) as process:
        process.join(T)
        assert process.exitcode == 0
        with pytest.raises(fullcourt.PicklingError):
            process.result()


def test_subclasses_run(context: Any) -> None:
    if context.get_start_method() != multiprocessing.get_start_method():
        pytest.skip("of the module's own class")
    queue = ours.Queue()
    process = tasks.Counter(queue, 5)
    process.start()
    assert [queue.get(timeout=T) for _ in range(5)] == list(range(5))
    process.join(T)
    assert (process.name, process.exitcode, process.daemon) == ("counter", 0, True)


def test_processes_have_children(context: Any) -> None:
    queue = context.SimpleQueue()
    process = context.Process(target=tasks.has_children, args=(queue,), daemon=True)
    process.start()
    assert queue.get() == "grandchild"
    number = process.name.rpartition("-")[2]
    assert queue.get() == (f"Process-{number}:1", 0)
    process.join(T)


def test_assertions_are_the_standard_librarys(context: Any) -> None:
    process = context.Process(target=tasks.square, args=(1,))
    with pytest.raises(AssertionError, match="started process"):
        process.join()
    process.start()
    with pytest.raises(AssertionError, match="twice"):
        process.start()
    with pytest.raises(AssertionError, match="already started"):
        process.daemon = True
    process.join(T)
    with pytest.raises(AssertionError):
        context.Process("group")


def test_signals_are_told_by_the_exit_code(context: Any) -> None:
    gate = context.Event()
    for end, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
        process = context.Process(target=gate.wait)
        process.start()
        getattr(process, end)()
        process.join(T)
        assert process.exitcode == -number


def test_a_fork_lets_go_of_its_siblings_without_a_warning() -> None:
    code = (
        "from fullcourt.multiprocessing import get_context\n"
        "fork = get_context('fork')\n"
        "queue = fork.Queue()\n"
        "for _ in range(3):\n"
        "    fork.Process(target=queue.get).start()\n"
        "queue.put_many(range(3))\n"
    )
    command = [sys.executable, "-X", "dev", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_shared_values_and_standard_locks_are_arguments(context: Any) -> None:
    value, lock = context.Value("i", 0), context.Lock()
    processes = [context.Process(target=tasks.add, args=(value, lock, 50)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(T)
    assert value.value == 100
    theirs = multiprocessing.get_context(context.get_start_method())
    process = context.Process(target=tasks.add, args=(value, theirs.Lock(), 1))
    process.start()
    process.join(T)
    assert value.value == 101
    condition = context.Condition(value.get_lock())
    process = context.Process(target=tasks.wait_for_value, args=(value, condition))
    with condition:
        process.start()
        assert condition.wait(T)
    process.join(T)
    assert value.value == 1


def test_shared_memory_outlives_the_children_that_attach_to_it(context: Any) -> None:
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=8)
    try:
        process = context.Process(target=tasks.write_shared, args=(memory.name,))
        process.start()
        process.join(T)
        assert process.exitcode == 0
        assert memory.buf[0] == 7
        SharedMemory(memory.name).close()
    finally:
        memory.close()
        memory.unlink()


def test_queues_of_ours_go_to_processes_of_the_standard_library(context: Any) -> None:
    queue = context.Queue()
    process = multiprocessing.get_context(context.get_start_method()).Process(target=queue.put, args=("across",))
    process.start()
    assert queue.get(timeout=T) == "across"
    process.join()


def test_elsewhere_all_are_the_standard_librarys() -> None:
    program = (
        "import multiprocessing, fullcourt.multiprocessing as ours\n"
        "assert ours.Process is multiprocessing.Process\n"
        "for make in (ours, ours.get_context('spawn')):\n"
        "    assert type(make.Queue()).__module__ == 'multiprocessing.queues'\n"
        "    assert type(make.Lock()).__module__ == 'multiprocessing.synchronize'\n"
        "    assert type(make.Condition()).__module__ == 'multiprocessing.synchronize'\n"
        "assert ours.get_context('spawn').Process is multiprocessing.get_context('spawn').Process\n"
    )
    environment = {**os.environ, "FULLCOURT_TRANSPORT": "portable"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
