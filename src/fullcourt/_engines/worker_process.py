"""A worker process from its start to its end, around what :mod:`worker` does meanwhile.

All is imported at the top, before the template forks: in a fork even a repeated import costs some twenty page faults.
"""

from __future__ import annotations

import _socket  # see fullcourt._transport.link
import atexit
import contextlib
import mmap
import os
import pickle
import sys
import threading
from collections.abc import Callable
from functools import partial

from fullcourt._engines import worker as this_worker
from fullcourt._engines.forwarding import Forwarder
from fullcourt._engines.setup import Setup, enter_world, load_initializer, preload, read_all
from fullcourt._engines.template import quiet_signals
from fullcourt._engines.worker import Worker, flush_streams
from fullcourt._os.system import die_with_parent
from fullcourt._transport.codec import Codec
from fullcourt._transport.inheritance import adopt
from fullcourt._transport.journal import REGION_BYTES, page_bytes
from fullcourt._transport.link import WorkerEnd
from fullcourt._transport.mainspace import adopt_main

TYPE_CHECKING = False  # workers import this, and no `typing`
if TYPE_CHECKING:
    from typing import Any, NoReturn

# A worker that has been told to end waits so long for threads that tasks left running (not daemons).
THREADS_S = 2.0
# So long it takes at most in all, with the exit functions.
EXIT_S = 10.0

__all__ = ["be_a_child", "record_faults", "run_later_exit_functions", "run_worker", "spawned", "worker_main"]


def spawned(worker_id: int) -> None:
    """The entry of a worker that is a fresh interpreter.

    Descriptors 3 to 6 are tasks, results, page, setup; after these come those that the initializer holds.
    """
    parent_pid = os.getppid()
    setup: Setup = pickle.loads(read_all(6))
    os.close(6)
    quiet_signals()
    adopt(7, setup.n_inherited, setup.tracker)
    for fd in (3, 4, 5):
        os.set_inheritable(fd, False)
    enter_world(setup)
    worker_main(worker_id, 3, 4, 5, setup, parent_pid)


def worker_main(worker_id: int, tasks_fd: int, results_fd: int, page_fd: int, setup: Setup, parent_pid: int) -> None:
    """Be a worker, to the end; the process is fresh or freshly forked. Never returns."""

    def connect() -> tuple[Any, mmap.mmap]:
        if "_ctypes" in sys.modules:
            die_with_parent(parent_pid)
        page = mmap.mmap(page_fd, page_bytes(setup.n_slots))
        record_faults(page_fd, setup.n_slots)
        tasks, results = _socket.socket(fileno=tasks_fd), _socket.socket(fileno=results_fd)
        return WorkerEnd(tasks, results, spins=setup.spins and setup.n_slots == 1), page

    run_worker(worker_id, setup, connect)


def run_worker(worker_id: int, setup: Setup, connect: Callable[[], tuple[Any, mmap.mmap]]) -> NoReturn:
    """Be a worker, to the end, behind any kind of link: ``connect`` gives the worker's end and its page."""
    code = 1
    try:
        end, page = connect()
        this_worker.name_here = f"{setup.name}-{worker_id}"
        be_a_child(this_worker.name_here)
        adopt_main()
        codec = Codec(shares_main=setup.shares_main, carries=getattr(end, "carries_descriptors", True))
        name = f"{setup.name}-{worker_id}"
        forwarder = Forwarder(end, codec, name, setup.output) if setup.output is not None else None
        if forwarder is not None and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=forwarder.fall_silent)
        worker = Worker(end, page, setup.n_slots, codec, forwarder)
        worker.enter(setup.face, setup.pool_pid)
        if setup.adopt is not None:
            setup.adopt()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=worker.become_fork)
        preload(setup)  # here where no template has; what the modules print is forwarded
        initializer, initargs = setup.initializer, setup.initargs
        if setup.encoded_initializer is not None:
            initializer, initargs = load_initializer(setup), ()
        if worker.run(initializer, initargs):
            code = 0
        run_exit_functions(code, flush_streams if forwarder is None else forwarder.finish)
    except BaseException:  # noqa: BLE001  nowhere to report to: the pool sees the exit code
        with contextlib.suppress(BaseException):
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
    finally:
        os._exit(code)


def record_faults(page_fd: int, n_slots: int) -> None:
    """Have the traceback of a fatal signal written to the end of the page, where the pool finds it.

    Children that a task forks do as they would without this.
    """
    import faulthandler  # not at the top: it does not load in sub-interpreters, where this module is imported, too

    was_enabled = faulthandler.is_enabled()
    os.lseek(page_fd, n_slots * REGION_BYTES, os.SEEK_SET)
    faulthandler.enable(page_fd)
    if hasattr(os, "register_at_fork"):

        def in_child() -> None:
            if was_enabled and sys.__stderr__ is not None:
                faulthandler.enable(sys.__stderr__)
            else:
                faulthandler.disable()

        os.register_at_fork(after_in_child=in_child)


def be_a_child(name: str) -> None:
    """Give back what a fork inherited and a worker must not have, as ``multiprocessing`` does for its children."""
    atexit._clear()
    with contextlib.suppress(AttributeError):
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if "multiprocessing.process" in sys.modules:
        from multiprocessing import process, util

        process._children = set()  # type: ignore[attr-defined]
        util._finalizer_registry.clear()  # type: ignore[attr-defined]
        util._run_after_forkers()  # type: ignore[attr-defined]
        current = process.current_process()
        if type(current).__name__ == "_MainProcess":
            current.name = name
    forget_forkserver()


def forget_forkserver() -> None:
    """The standard library's fork server, if there is one, is our parent's child: we would fail to wait for it.

    Whoever needs one here starts one of his own. Its descriptor is left as it is: its number may be another file's.
    """
    module = sys.modules.get("multiprocessing.forkserver")
    server: Any = getattr(module, "_forkserver", None)
    for name in ("_forkserver_pid", "_forkserver_address", "_forkserver_alive_fd"):
        if hasattr(server, name):
            setattr(server, name, None)
    if hasattr(server, "_lock"):  # a thread that is not here may have held it
        server._lock = threading.RLock()


def run_exit_functions(code: int, flush: Callable[[], object]) -> None:
    """What tasks and initializers registered for the end of the process, in the interpreter's own order.

    Executors that a task left open end at ``threading._shutdown``; only then can one wait for their processes. Threads
    that a task left running are waited for a little, and the whole takes no longer than :data:`EXIT_S`.
    """
    rest = threading.Lock()  # taken by whoever does what comes after the threads' end

    def go_on_without_threads() -> None:
        if rest.acquire(blocking=False):
            with contextlib.suppress(BaseException):
                run_later_exit_functions()
                flush()
            os._exit(code)

    for seconds, act in ((EXIT_S, partial(os._exit, code)), (THREADS_S, go_on_without_threads)):
        timer = threading.Timer(seconds, act)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # the process gets no further thread: the kernel ends what takes too long
            end_by_alarm(EXIT_S)
            break
    threading._shutdown()  # type: ignore[attr-defined]
    rest.acquire()
    run_later_exit_functions()
    flush()


def end_by_alarm(seconds: float) -> None:
    """Have this process be killed in so many seconds, where there are alarms."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def run_later_exit_functions() -> None:
    """What comes after the threads' end."""
    if "multiprocessing.util" in sys.modules:
        sys.modules["multiprocessing.util"]._exit_function()
    atexit._run_exitfuncs()
