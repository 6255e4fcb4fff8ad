"""The template: a single-threaded process that starts the workers, watches over them, and ends them.

With ``fork`` it is a fork of the program, made when the pool is opened; with ``forkserver`` a fresh interpreter that
has done the preloads: both fork the workers, so replacing one takes a millisecond or two and never forks a program full
of threads. With ``spawn`` it starts each worker as a fresh interpreter.

It is the workers' parent: it reaps them and tells the pool how each ended and what memory it took. It ends when the
pool says so or when the pool's process ends, however that comes about, and takes with it all workers and all that
these started. It cannot be interrupted from the keyboard.

Messages on its socket (pickled tuples). From the pool: ``("start", worker_id)`` with three descriptors (tasks,
results, page), ``("kill", worker_id, signal)``, ``("import", names)``, ``("stop",)``. To the pool:
``("started", worker_id, pid)``, ``("exited", worker_id, exitcode, peak_bytes)``, ``("failed", error)``.
"""

from __future__ import annotations

import array
import contextlib
import gc
import mmap
import os
import pickle
import select
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, cast

from fullcourt._engines.face import Face
from fullcourt._os.budget import libraries_limited
from fullcourt._os.interrupts import interrupts_blocked, unblock_interrupts
from fullcourt._os.system import become_subreaper, descendants, die_with_parent, kill_tree, open_pidfd
from fullcourt._transport.carried import Rights, arriving, collecting, drop_inherited
from fullcourt._transport.inheritance import Inheritance, adopt, dumps_inheriting, fork_with_tracker, tracker_descriptor
from fullcourt.errors import NotSupported

if TYPE_CHECKING:
    from fullcourt._engines.output import OutputSettings

# A worker that has been told to end waits so long for threads that tasks left running (not daemons).
THREADS_S = 2.0
# So long it takes at most in all, with the exit functions.
EXIT_S = 10.0

__all__ = ["Setup", "Template", "main", "worker_main"]


@dataclass
class Setup:
    """What a worker needs to know; pickled for a fresh interpreter, inherited by a fork."""

    n_slots: int
    name: str
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    shares_main: bool = False
    pool_pid: int = 0
    sys_path: list[str] = field(default_factory=list)
    argv: list[str] = field(default_factory=list)
    cwd: str = ""
    preload: tuple[str, ...] = ()
    encoded_initializer: bytes | None = None
    face: Face | None = None
    adopt: Callable[[], None] | None = None  # called in a worker that inherits the pool's own objects by a fork
    rights: Any = None  # in a sub-interpreter: the descriptors that the initializer and its arguments hold
    share: int = 1  # cores that each slot may use
    environment: dict[str, str] = field(default_factory=dict)  # set in workers on top of the program's
    output: OutputSettings | None = None  # None: what tasks print and log stays with the worker
    n_inherited: int = 0  # descriptors that a fresh interpreter is given beside its own
    tracker: int | None = None  # which of them leads to the resource tracker
    authkey: bytes = b""  # multiprocessing's, for proxies of managers


class Template:
    """The template's loop. ``start_worker(worker_id, fds)`` returns the new worker's pid, in the template only."""

    def __init__(self, control: socket.socket, pool_pid: int, start_worker: Callable[[int, list[int]], int]) -> None:
        self._control = control
        self._start_worker = start_worker
        self._pool_pid = pool_pid
        self._pids: dict[int, int] = {}  # worker id: pid
        self._watched: dict[int, int] = {}  # pidfd: worker id
        self._poll = select.poll()
        self.done = False  # set by a subclass that ends of itself

    def run(self) -> None:
        """Serve until the pool's end; then end all workers."""
        become_subreaper()  # before there is anything that could be orphaned
        poll = self._poll
        poll.register(self._control, select.POLLIN)
        pool_fd = open_pidfd(self._pool_pid)
        if pool_fd >= 0:
            poll.register(pool_fd, select.POLLIN)
        try:
            while not self.done and os.getppid() == self._pool_pid:
                for fd, _ in poll.poll():
                    if fd == pool_fd:
                        return
                    if fd == self._control.fileno():
                        if not self._obey():
                            return
                    elif fd in self._watched:
                        self._reap(fd)
        finally:
            self._end_all()

    def _obey(self) -> bool:
        try:
            data, ancillary, _, _ = self._control.recvmsg(65536, 128)
        except OSError:
            return False
        if not data:
            return False
        message = pickle.loads(data)
        if message[0] == "start":
            fds = array.array("i")
            for _, _, content in ancillary:
                fds.frombytes(content)
            try:
                pid = self._start_worker(message[1], fds.tolist())
            except OSError as error:
                self._tell(("failed", message[1], error))
                return True
            finally:
                for fd in fds:
                    os.close(fd)
            self.adopt(message[1], pid)
        elif message[0] == "kill":
            pid = self._pids.get(message[1], 0)
            if pid and message[2] == signal.SIGKILL:
                kill_tree(pid)
            elif pid:
                os.kill(pid, message[2])
        elif message[0] == "import":
            for name in message[1]:
                __import__(name)
        else:
            return False
        return True

    def adopt(self, worker_id: int, pid: int) -> None:
        """Look after a child of this process from now on."""
        self._pids[worker_id] = pid
        watch = open_pidfd(pid)
        self._watched[watch] = worker_id
        self._poll.register(watch, select.POLLIN)
        self._tell(("started", worker_id, pid))

    def _reap(self, watch: int) -> None:
        worker_id = self._watched.pop(watch)
        self._poll.unregister(watch)
        os.close(watch)
        pid = self._pids.pop(worker_id)
        below = descendants(pid)
        _, status, usage = os.wait4(pid, 0)
        self.sweep(below)
        self._tell(("exited", worker_id, os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024))

    def sweep(self, below: list[int]) -> None:
        """A child has ended, and this was found below it: end it, too."""
        for child in below:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)

    def _tell(self, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):
            self._control.send(pickle.dumps(message))

    def _end_all(self) -> None:
        """Kill the workers, all that they started, and what of it fell to us as orphans.

        What is just being forked, or falls to us while we look, a look may miss; then a child of ours has just been
        killed, so its end is followed by another look.
        """
        for pid in self._pids.values():
            kill_tree(pid)
        with contextlib.suppress(OSError):  # ChildProcessError: nobody is left
            while True:
                for child in descendants(os.getpid()):
                    with contextlib.suppress(OSError):
                        os.kill(child, signal.SIGKILL)
                os.waitpid(-1, 0)
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def ignore(number: int, frame: object) -> None:
    """A signal handler that does nothing."""


def quiet_signals() -> None:
    """Ctrl-C reaches the whole foreground group; what it means for the workers is the pool's to say.

    A handler that does nothing, not SIG_IGN: programs that a task starts would inherit being deaf.
    """
    signal.signal(signal.SIGINT, ignore)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    unblock_interrupts()


def worker_main(worker_id: int, tasks_fd: int, results_fd: int, page_fd: int, setup: Setup, parent_pid: int) -> None:
    """Be a worker, to the end; the process is fresh or freshly forked. Never returns."""

    def connect() -> tuple[Any, mmap.mmap]:
        from fullcourt._transport.journal import page_bytes
        from fullcourt._transport.link import WorkerEnd

        if "_ctypes" in sys.modules:
            die_with_parent(parent_pid)
        page = mmap.mmap(page_fd, page_bytes(setup.n_slots))
        record_faults(page_fd, setup.n_slots)
        return WorkerEnd(socket.socket(fileno=tasks_fd), socket.socket(fileno=results_fd), setup.n_slots), page

    run_worker(worker_id, setup, connect)


def run_worker(worker_id: int, setup: Setup, connect: Callable[[], tuple[Any, mmap.mmap]]) -> NoReturn:
    """Be a worker, to the end, behind any kind of link: ``connect`` gives the worker's end and its page."""
    code = 1
    try:
        from fullcourt._engines import worker as this_worker
        from fullcourt._engines.forwarding import Forwarder
        from fullcourt._engines.worker import Worker, flush_streams
        from fullcourt._transport.codec import Codec
        from fullcourt._transport.mainspace import adopt_main

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
    import faulthandler

    from fullcourt._transport.journal import REGION_BYTES

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
    import atexit
    import threading

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
    import threading

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
    import threading

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
        timer.start()
    threading._shutdown()  # type: ignore[attr-defined]
    rest.acquire()
    run_later_exit_functions()
    flush()


def run_later_exit_functions() -> None:
    """What comes after the threads' end."""
    import atexit

    if "multiprocessing.util" in sys.modules:
        sys.modules["multiprocessing.util"]._exit_function()
    atexit._run_exitfuncs()


def fork_template(control: socket.socket, pool_socket: socket.socket, setup: Setup) -> int:
    """Fork a template off this process. Returns its pid; in the template it never returns.

    Raises:
        NotSupported: as :func:`fork_quietly`.
    """
    pool_pid = os.getpid()
    import_worker()  # here, where the next pool finds it
    with libraries_limited(setup.share), interrupts_blocked():
        pid = fork_quietly()
        if not pid:
            quiet_signals()
    if pid:
        return pid
    try:
        pool_socket.close()
        drop_inherited(kept=setup.initargs)
        os.environ.update(setup.environment)
        run_template(control, pool_pid, setup)
    finally:
        os._exit(0)


def fork_quietly() -> int:
    """Fork this process, with its streams flushed before. Returns what ``os.fork`` does.

    Raises:
        NotSupported: there are sub-interpreters in this process; the child would have to destroy them, and crashes.
    """
    interpreters = sys.modules.get("concurrent.interpreters")
    if interpreters is not None and len(interpreters.list_all()) > 1:
        raise NotSupported(
            "this process has sub-interpreters, and Python cannot fork such a process safely. Close the pool of "
            'interpreters first, or use start_method="forkserver" or "spawn".'
        )
    flush_all()
    import warnings

    with warnings.catch_warnings():
        # 3.12 warns of forking where threads run; the pool does so once, when it is opened, and the docs say what to
        # do about it (start_method="forkserver").
        warnings.simplefilter("ignore", DeprecationWarning)
        return fork_with_tracker()


def import_worker() -> None:
    """Import what each worker needs."""
    for name in ("worker", "forwarding"):
        __import__(f"fullcourt._engines.{name}")


def flush_all() -> None:
    """What waits in a buffer must not be inherited: each process would write it."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            cast("Any", stream).flush()


def preload(setup: Setup) -> None:
    """Import what the pool asked for, once. If that fails, the workers' initializer fails for it: so the pool hears."""
    names, setup.preload = setup.preload, ()
    for name in names:
        try:
            __import__(name)
        except BaseException as error:  # noqa: BLE001  whatever that module does
            error.add_note(f"fullcourt: preload={name!r} could not be imported")
            setup.initializer, setup.initargs, setup.encoded_initializer = fail, (error,), None
            return


def fail(error: BaseException) -> NoReturn:
    """Stands in for the initializer where that could not even be tried."""
    raise error


def run_template(control: socket.socket, pool_pid: int, setup: Setup) -> None:
    """Be a template that forks its workers."""
    preload(setup)
    import_worker()  # before the forks, so that workers share it
    flush_all()
    # The collector must not touch, and so copy, what workers share with us. Nor does it collect before: that would copy
    # what we share with the program, and take 20 ms.
    gc.freeze()
    template_pid = os.getpid()

    def fork_worker(worker_id: int, fds: list[int]) -> int:
        pid = fork_with_tracker()
        if pid:
            return pid
        with contextlib.suppress(BaseException):
            template._poll = None  # type: ignore[assignment]
            control.close()
            for watch in template._watched:
                os.close(watch)
            worker_main(worker_id, fds[0], fds[1], fds[2], setup, template_pid)
        os._exit(1)

    template = Template(control, pool_pid, fork_worker)
    template.run()


def main(control_fd: int, setup_fd: int, method: str) -> None:
    """The entry of a template that is a fresh interpreter."""
    control = socket.socket(fileno=control_fd)
    data = read_all(setup_fd)
    setup: Setup = pickle.loads(data)
    quiet_signals()
    inherited = range(setup_fd + 1, setup_fd + 1 + setup.n_inherited)
    adopt(inherited.start, setup.n_inherited, setup.tracker)
    enter_world(setup)
    if method == "forkserver":
        run_template(control, setup.pool_pid, setup)
        os._exit(0)

    def spawn_worker(worker_id: int, fds: list[int]) -> int:
        code = f"from fullcourt._engines.template import spawned; spawned({worker_id})"
        return spawn_interpreter(code, [*fds, setup_fd, *inherited], {})  # the environment is ours already

    Template(control, setup.pool_pid, spawn_worker).run()
    os._exit(0)


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


def pickle_setup(setup: Setup, codec: Any, inheritance: Inheritance | None) -> tuple[bytes, Rights]:
    """What a fresh interpreter needs to know, pickled; with what it must inherit.

    None: it can inherit nothing, and gets the descriptors that are returned in another way.
    """
    rights = Rights()
    fresh = Setup(
        n_slots=setup.n_slots,
        name=setup.name,
        pool_pid=setup.pool_pid,
        preload=setup.preload,
        face=setup.face,
        sys_path=list(sys.path),
        argv=list(sys.argv),
        cwd=os.getcwd(),
        share=setup.share,
        output=setup.output,
    )
    if "multiprocessing.managers" in sys.modules:
        from multiprocessing.process import current_process

        fresh.authkey = bytes(current_process().authkey)
    if setup.initializer is not None:
        what = (setup.initializer, setup.initargs)
        if inheritance is None:
            fresh.encoded_initializer, rights = encode_whole(what, codec)
        else:
            fresh.encoded_initializer = dumps_inheriting(what, inheritance, lambda obj: encode_whole(obj, codec)[0])
    if inheritance is not None:
        tracker = tracker_descriptor()
        if tracker is not None:
            fresh.tracker = inheritance.duplicate_for_child(tracker)
        fresh.n_inherited = len(inheritance.descriptors)
    return pickle.dumps(fresh), rights


def encode_whole(obj: object, codec: Any) -> tuple[bytes, Rights]:
    """Pickle with all buffers inside. Returns also the descriptors that go along."""
    data: bytes
    data, buffers = codec.encode(obj)
    rights: Rights = getattr(buffers, "rights", None) or Rights()
    if len(buffers):  # rare, and not worth a table
        from fullcourt._transport.by_value import dumps

        with collecting() as rights:
            data = dumps(obj, 5)
    return data, rights


def write_setup(setup: Setup, codec: Any, inheritance: Inheritance | None) -> tuple[int, Rights]:
    """Write that into a memory block. Returns its descriptor, to be read by `read_all`, and the others to go along."""
    data, rights = pickle_setup(setup, codec, inheritance)
    fd = os.memfd_create("fullcourt-setup", os.MFD_CLOEXEC)
    try:
        done = 0
        while done < len(data):
            done += os.write(fd, data[done:])
    except BaseException:
        os.close(fd)
        raise
    return fd, rights


def load_initializer(setup: Setup) -> Callable[[], None]:
    """The initializer as a function that first loads it: loading may fail as running may."""

    def initialize() -> None:
        fds: list[int] = setup.rights.fds if setup.rights is not None else []
        with arriving(fds):
            initializer, initargs = pickle.loads(setup.encoded_initializer or b"")
        if setup.rights is not None:
            setup.rights.close()
        initializer(*initargs)

    return initialize


def enter_world(setup: Setup) -> None:
    """Take over the program's view: path, arguments, folder.

    Its ``__main__`` is never imported again: an empty one stands there, and is filled by what functions bring along.
    """
    sys.modules["__main__"] = ModuleType("__main__")
    if setup.authkey:
        from multiprocessing.process import current_process

        current_process().authkey = setup.authkey
    sys.path[:] = setup.sys_path
    sys.argv[:] = setup.argv
    with contextlib.suppress(OSError):
        os.chdir(setup.cwd)


def read_all(fd: int) -> bytes:
    """The content of a memory block, from its start; its offset is shared, so it is not used."""
    size = os.fstat(fd).st_size
    data = b""
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data


def spawn_interpreter(code: str, fds: list[int], environment: dict[str, str]) -> int:
    """Start a fresh interpreter that runs this code and has these descriptors as 3, 4, ... Returns its pid.

    The variables are set for it on top of this process's own. It is deaf to Ctrl-C until it calls `quiet_signals`.
    """
    n = len(fds)
    # First out of the way of each other and of the targets, then to their places.
    aside = max([*fds, 2 + n]) + 1
    actions = [(os.POSIX_SPAWN_DUP2, fd, aside + i) for i, fd in enumerate(fds)]
    actions += [(os.POSIX_SPAWN_DUP2, aside + i, 3 + i) for i in range(n)]
    closing = [(os.POSIX_SPAWN_CLOSE, aside + i) for i in range(n)]
    command = interpreter_command(code)
    with interrupts_blocked():
        return os.posix_spawn(sys.executable, command, os.environ | environment, file_actions=[*actions, *closing])


def interpreter_command(code: str) -> list[str]:
    """The command of a fresh interpreter that runs this code, with this one's flags, and finds this package."""
    import subprocess

    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", in_fresh(code)]


def in_fresh(code: str) -> str:
    """That code, for a fresh interpreter or sub-interpreter: it finds this package, and loads little of it."""
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return f"import sys; sys._fullcourt_lean = 1; sys.path.insert(0, {home!r}); {code}"
