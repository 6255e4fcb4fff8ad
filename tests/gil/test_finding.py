import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from fullcourt._gil.elf import find_symbol
from fullcourt._gil.finding import HOLDER_BYTES, confirm, find_runtime, runtime_at
from fullcourt._gil.memory import Memory
from fullcourt._gil.recorder import Recorder
from fullcourt._gil.watched import Process

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
HAS_GIL = getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture
def memory():
    memory = Memory(os.getpid())
    yield memory
    memory.close()


def threads():
    return set(map(int, os.listdir("/proc/self/task")))


def test_the_gil_of_this_python_is_found_and_confirmed(memory):
    runtime = find_runtime(memory, threads())
    assert runtime is not None
    assert runtime.minor == sys.version_info[1]
    assert len(runtime.gils) == 1
    assert confirm(runtime)


@pytest.mark.skipif(not HAS_GIL, reason="this Python runs without a GIL")
def test_the_thread_that_looks_holds_it(memory):
    runtime = find_runtime(memory, threads())
    holder = int.from_bytes(memory.read(runtime.gils[0].address + 8, 8), "little")
    locked = int.from_bytes(memory.read(runtime.gils[0].address + 16, 4), "little")
    # Reading /proc releases the GIL, but with no other thread about nobody else can have taken it.
    assert locked in (0, 1)
    assert runtime.owner(holder) == threading.get_native_id()
    assert HOLDER_BYTES == 32


def test_threads_that_run_python_are_told_from_others(memory):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        python = find_runtime(memory, threads()).python_threads()
        assert {os.getpid(), thread.native_id} <= python
    finally:
        stop.set()
        thread.join()


def test_the_gil_of_another_process_is_found():
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        memory = Memory(child.pid)
        runtime = find_runtime(memory, {child.pid})
        child.stdin.close()
        memory.close()
    assert runtime is not None
    assert runtime.minor == sys.version_info[1]
    assert len(runtime.gils) == 1


def test_a_forked_child_has_it_where_its_parent_has_it(memory):
    runtime = find_runtime(memory, threads())
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reader, 1)
        os._exit(0)
    try:
        theirs = Memory(pid)
        forked = runtime_at(theirs, runtime.address, runtime)
        assert [gil.address for gil in forked.gils] == [gil.address for gil in runtime.gils]
        theirs.close()
    finally:
        os.write(writer, b"x")
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def test_a_program_that_is_not_python_has_none():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        memory = Memory(child.pid)
        assert find_runtime(memory, {child.pid}) is None
        child.stdin.close()
        memory.close()


def test_a_file_that_is_no_elf_has_no_symbols(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"\x7fELF\x02\x01 and then nothing that makes sense" * 9)
    assert find_symbol(str(path), b"_PyRuntime") is None
    assert find_symbol(str(tmp_path / "missing"), b"_PyRuntime") is None


def test_a_thread_of_python_stays_one_when_python_has_forgotten_it():
    """At its end it leaves Python's list before it leaves the system's."""
    recorder = Recorder(0)
    recorder.process(100, 0, "program", "3.13", "sampled")
    recorder.thread(1, 100, 1001, "python", 0, 0, 0)
    process = Process.__new__(Process)
    process.pid, process.inner, process.threads, process._recorder = 100, {}, {1001: SimpleNamespace(key=1)}, recorder
    for listed, seen in (({1000}, False), ({1000, 1001}, True), ({1000}, True)):
        process._name_threads(SimpleNamespace(python_threads=lambda listed=listed: listed), 0)
        assert recorder.lanes[1].python is seen
