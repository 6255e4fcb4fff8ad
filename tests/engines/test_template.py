"""The template as the pool meets it on its socket."""

import json
import marshal
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import fullcourt
from fullcourt._engines.template import Template

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs templates")

N_WORKERS = 60  # far more than the sockets below hold messages


def start_worker(_worker_id, _fds):
    pid = os.fork()
    if not pid:
        while True:
            signal.pause()
    return pid


def test_a_template_whose_answers_are_not_read_still_takes_orders():
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        for end in (ours, its):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as little as the kernel allows
        program = os.getpid()
        pid = os.fork()
        if not pid:
            try:
                ours.close()
                Template(its, program, start_worker).run()
            finally:
                os._exit(0)
        its.close()
        ours.settimeout(30)
        try:
            for worker_id in range(N_WORKERS):
                ours.send(marshal.dumps(("start", worker_id)))
            told = [marshal.loads(ours.recv(65536)) for _ in range(N_WORKERS)]
        finally:
            ours.close()
            os.waitpid(pid, 0)
    assert [(what, worker_id) for what, worker_id, _ in told] == [("started", n) for n in range(N_WORKERS)]


def sockets_and_files_in_memory():
    """Of this process, once all workers take part."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
            number = os.stat(f"/proc/self/fd/{fd}").st_ino
        except OSError:
            continue  # the listing's own
        if target.startswith(("socket:", "/memfd:fullcourt-page")):
            found.add((target, number))
    return found


@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_a_worker_has_only_its_own_ends(start_method):
    """Of the first ones, which may be started before the template serves, too: who holds another's hides its end."""
    inherited = sockets_and_files_in_memory()  # of whatever else lives in this program
    with fullcourt.Pool(3, start_method=start_method) as pool:
        pids = {worker.pid: None for worker in pool.statistics().workers}
        ends = [pool.submit(meet) for _ in range(3)]
        own = {}
        for end in ends:
            pid, found = end.result(60)
            own[pid] = found - inherited
        assert own.keys() == pids.keys()
        for handle in pool._driver.engine.handles.values():
            pools = {os.fstat(sock.fileno()).st_ino for sock in handle.link.own_sockets}
            for found in own.values():
                assert not pools & {number for _, number in found}
        assert [len(found) for found in own.values()] == [3, 3, 3]  # tasks, results, page
        assert len(set.union(*own.values())) == 9


def meet():
    """Take long enough that each worker gets one of these calls."""
    found = sockets_and_files_in_memory()
    time.sleep(1.0)
    return os.getpid(), found


LOADED = "sorted(__import__('sys').modules)"
OF_A_WORKER = f"""
import fullcourt, json
with fullcourt.Pool(1, start_method="spawn") as pool:
    print(json.dumps(pool.apply(eval, ({LOADED!r},))))
"""
OF_WHAT_IT_NEEDS = f"import concurrent.futures, json, logging, pickle; print(json.dumps({LOADED}))"


def test_a_fresh_worker_imports_no_more_than_it_needs():
    """Its start is most of what a first result takes: each of these costs it one to ten milliseconds."""
    loaded, needed = (
        set(json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout))
        for program in (OF_A_WORKER, OF_WHAT_IT_NEEDS)
    )
    costly = {"_ctypes", "asyncio", "dataclasses", "inspect", "multiprocessing", "queue", "selectors", "signal"}
    costly |= {"socket", "subprocess", "typing", "fullcourt.pool", "fullcourt._engines.output"}
    assert "pickle" in loaded
    assert loaded & costly <= needed


IGNORES_CHILDREN = """
import os, signal, sys
import fullcourt

def die_once():
    try:
        os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os._exit(3)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with fullcourt.Pool(4, start_method="fork", initializer=die_once) as pool:
    template = pool._driver.engine._template_pid
    print(pool.map(abs, range(-20, 0)) == list(range(20, 0, -1)), pool._driver.engine._template_pid == template)
"""


def test_a_program_that_ignores_its_childrens_ends_learns_of_its_workers(tmp_path):
    """The kernel reaps the children of such a program; and those of its template, until that says otherwise."""
    command = [sys.executable, "-c", IGNORES_CHILDREN, str(tmp_path / "mark")]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout == "True True\n"
