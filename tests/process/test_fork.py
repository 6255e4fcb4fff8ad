"""`fullcourt.fork`."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings

import pytest

import fullcourt
from fullcourt.process import ForkWarning

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

T = 60.0


def test_the_parent_gets_the_child_as_an_object():
    child = fullcourt.fork()
    if child is None:
        os._exit(7)
    assert child.pid != os.getpid()
    assert child.wait(T) == 7
    assert child.exitcode == 7
    assert not child.is_alive()
    assert "exited with code 7" in repr(child)


def test_a_child_can_be_stopped_and_its_death_is_told():
    for stop, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
        child = fullcourt.fork()
        if child is None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            while True:
                signal.pause()
        with pytest.raises(TimeoutError):
            child.wait(0.01)
        assert child.is_alive()
        assert child.exitcode is None
        getattr(child, stop)()
        assert child.wait(T) == -number


def test_leaving_with_waits_and_by_an_exception_kills():
    read_end, write_end = os.pipe()
    with pytest.raises(KeyError):
        child = fullcourt.fork()
        if child is None:
            os.read(read_end, 1)
            os._exit(0)
        with child:
            raise KeyError
    assert child.exitcode == -signal.SIGKILL
    os.close(read_end)
    os.close(write_end)


def test_awaiting():
    async def main():
        child = fullcourt.fork()
        if child is None:
            os._exit(3)
        assert await child == 3

    asyncio.run(main())


def test_other_threads_are_named_in_a_warning():
    go = threading.Event()
    with fullcourt.Thread(target=go.wait, name="the other one"):
        try:
            with pytest.warns(ForkWarning, match=r"1 other thread\(s\) run: the other one\."):
                code = fork_and_wait()
            assert code == 0
        finally:
            go.set()


def fork_and_wait():
    child = fullcourt.fork()
    if child is None:
        os._exit(0)
    return child.wait(T)


def test_alone_it_warns_of_nothing_even_beside_an_idle_pool():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fullcourt.Pool(1, start_method="fork") as pool:
            assert pool.apply(abs, (-1,)) == 1
            while not pool._driver.roles.parked:
                threading.Event().wait(0.001)
            child = fullcourt.fork()
            if child is None:
                os._exit(0)
            assert child.wait(T) == 0


def test_buffered_text_is_written_once(capfd):
    print("once", end="")
    child = fullcourt.fork()
    if child is None:
        import sys

        sys.stdout.flush()
        os._exit(0)
    assert child.wait(T) == 0
    print(flush=True)
    assert capfd.readouterr().out == "once\n"


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs the fast transport")
@pytest.mark.filterwarnings("ignore::fullcourt.process.ForkWarning")
def test_the_child_has_none_of_our_descriptors_and_can_open_pools():
    others = {fd for fd in os.listdir("/proc/self/fd") if is_ours(fd)}  # of whatever else lives in this program
    process = fullcourt.Process(target=signal.pause)
    process.start()
    process.pid  # noqa: B018  its news are read
    with fullcourt.Pool(2, start_method="fork") as pool:
        pool.map(abs, range(10))
        pool.statistics()  # the news of all its workers are read
        before = len(os.listdir("/proc/self/fd"))
        child = fullcourt.fork()
        if child is None:
            code = 1
            try:
                sockets = [fd for fd in os.listdir("/proc/self/fd") if is_ours(fd) and fd not in others]
                try:
                    pool.submit(abs, 1)
                except fullcourt.PoolClosed:
                    with fullcourt.Pool(1, start_method="fork") as own:
                        code = 0 if own.apply(abs, (-3,)) == 3 and not sockets else 2
            finally:
                os._exit(code)
        assert child.wait(T) == 0
        assert pool.map(abs, [-1, -2]) == [1, 2]
        assert len(os.listdir("/proc/self/fd")) <= before + 1
    process.kill()
    process.join(T)


def is_ours(fd):
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return False
    return target.startswith(("socket:", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"))
