"""The leak check finds each kind of leak, and nothing where there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from tests import leaks
from tests.leaks import Snapshot

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def beyond(before: Snapshot) -> str:
    return "\n".join(leaks.wait_until_clean(before, grace_s=0)[0])


def test_a_clean_test_shows_no_leak():
    assert beyond(Snapshot.take()) == ""


def test_a_living_child_is_a_leak_and_is_ended():
    before = Snapshot.take()
    child = subprocess.Popen(SLEEPER)
    assert f"process {child.pid} " in beyond(before)
    leaks.end_processes(Snapshot.take().new_processes(before))
    assert not Path(f"/proc/{child.pid}").exists()
    child.wait()


def test_a_child_that_nobody_waited_for_is_a_leak():
    before = Snapshot.take()
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    child.stdout.read()  # its end
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert "nobody has waited for it" in beyond(before)
    child.communicate()


@pytest.mark.parametrize("new_session", [False, True])
def test_an_orphaned_grandchild_is_a_leak(new_session):
    before = Snapshot.take()
    options = f"stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session={new_session}"
    code = (
        f"import subprocess\npid = subprocess.Popen({SLEEPER!r}, {options}).pid\n"
        "while not open(f'/proc/{pid}/environ', 'rb').read():\n    pass\n"  # it is not yet known as it is executed
        "print(pid)"
    )
    grandchild = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert f"process {grandchild} " in beyond(before)
    leaks.end_processes(Snapshot.take().new_processes(before))


def test_an_orphan_that_was_forked_and_never_executed_is_a_leak():
    before = Snapshot.take()
    end, start = os.pipe()
    child = os.fork()
    if not child:
        if not os.fork():
            os.close(start)
            os.read(end, 1)  # to the end of the test
        os._exit(0)
    os.close(end)
    os.waitpid(child, 0)
    assert "parent 1)" in beyond(before)
    leaks.end_processes(Snapshot.take().new_processes(before))
    os.close(start)


def test_a_thread_is_a_leak():
    before, done = Snapshot.take(), threading.Event()
    thread = threading.Thread(target=done.wait, name="left-over")
    thread.start()
    assert "thread 'left-over'" in beyond(before)
    done.set()
    thread.join()
    assert beyond(before) == ""


def test_a_socket_an_epoll_and_a_memfd_are_leaks():
    import select

    before = Snapshot.take()
    with socket.socket(), select.epoll(), open(os.memfd_create("left"), "wb"):
        found = beyond(before)
    assert all(kind in found for kind in ("socket:[", "eventpoll", "/memfd:left"))
    assert beyond(before) == ""


def test_a_map_of_a_closed_memfd_is_a_leak():
    import mmap

    before = Snapshot.take()
    with open(os.memfd_create("mapped"), "wb+") as file:
        file.truncate(4096)
        block = mmap.mmap(file.fileno(), 4096)
    assert "/memfd:mapped" in beyond(before)
    block.close()
    assert beyond(before) == ""


def test_an_entry_in_shared_memory_is_a_leak():
    before = Snapshot.take()
    block = shared_memory.SharedMemory(create=True, size=16)
    assert f"/dev/shm/{block.name}" in beyond(before)
    block.close()
    block.unlink()


def test_a_test_that_leaks_fails_with_the_list(tmp_path):
    test = tmp_path / "test_leaky.py"
    test.write_text("import os\ndef test_leaky(): os.pipe()\ndef test_clean(): pass\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.leaks", "-q", f"--rootdir={tmp_path}", str(test)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "the test left behind" in done.stdout
    assert ": pipe:[" in done.stdout
    assert "2 passed, 1 error" in done.stdout
