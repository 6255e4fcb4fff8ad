"""Making the driver and the engine for what was asked."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fullcourt._core.scheduler import Scheduler
from fullcourt._engines.driver import Driver
from fullcourt._engines.face import Face
from fullcourt._engines.methods import default_start_method, portable_transport
from fullcourt._engines.output import Output
from fullcourt._engines.setup import Setup
from fullcourt._engines.supervisor import Limits
from fullcourt._os.budget import is_in_pool_thread, worker_environment
from fullcourt._os.cpus import share_of, usable_cores
from fullcourt._os.system import occupy_standard_descriptors
from fullcourt.errors import NotSupported

if TYPE_CHECKING:
    from fullcourt._engines.template import Seed

if sys.platform == "linux":  # what most pools need, now rather than when the first one is opened
    for _name in ("forwarding", "processes", "worker", "worker_process"):
        __import__(f"fullcourt._engines.{_name}")
    for _name in ("_ctypes", "faulthandler", "resource"):  # the first is fullcourt._os.system's
        with contextlib.suppress(ImportError):
            __import__(_name)

__all__ = ["build_driver", "sow", "usable_start_method"]


def most_workers(n_workers: int) -> int:
    """How many workers a pool may have at once, with those that serve in place of workers whose tasks wait.

    Each takes up to seven descriptors of this process. A tenth of them stays for others.
    """
    try:
        import resource

        n_descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):  # Windows
        n_descriptors = 2048
    return n_workers + max(8, min(512, int(0.9 * n_descriptors) // 7 - n_workers))


def usable_start_method(asked: str | None) -> str:
    """The method that was asked for, or the default.

    Inside of a task of a worker with several slots, or of a thread of a pool's, ``fork`` becomes ``forkserver``: other
    tasks run in that process at that moment, and a fork in their midst can deadlock.
    """
    from fullcourt._engines import worker

    method = asked or default_start_method()
    is_among_tasks = worker.n_slots_here > 1 or is_in_pool_thread()
    return "forkserver" if method == "fork" and is_among_tasks else method


def setup_of(
    *,
    name: str,
    n_workers: int,
    n_slots: int,
    face: Face,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    preload: tuple[str, ...],
    adopt: Callable[[], None] | None,
) -> Setup:
    """What worker processes need to know."""
    cores = usable_cores().count
    return Setup(
        n_slots=n_slots,
        name=name,
        initializer=initializer,
        initargs=initargs,
        preload=preload,
        face=face,
        adopt=adopt,
        share=share_of(cores, n_workers * n_slots),
        spins=cores > 1,
    )


def sow(
    *,
    name: str,
    start_method: str | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    preload: tuple[str, ...],
    key: str,
    adopt: Callable[[], None] | None,
    **_: Any,
) -> Seed | None:
    """Fork a template for worker processes that may be wanted, one for each core or more.

    None: they would not be forked, or cannot be.
    """
    if sys.platform != "linux" or portable_transport() or usable_start_method(start_method) != "fork":
        return None
    from fullcourt._engines.template import Seed

    cores = usable_cores().count
    setup = setup_of(
        name=name, n_workers=cores, n_slots=1, face=Face(key, name, cores, None), initializer=initializer,
        initargs=initargs, preload=preload, adopt=adopt,
    )  # fmt: skip
    setup.environment = worker_environment(setup.share, os.environ)
    try:
        return Seed(setup)
    except (OSError, NotSupported):
        return None


def build_driver(
    *,
    name: str,
    processes: int,
    threads: int | None,
    interpreters: int | None,
    start_method: str | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    max_tasks: int | None,
    preload: tuple[str, ...],
    key: str = "",
    adopt: Callable[[], None] | None = None,
    output: str = "forward",
    limits: Limits | None = None,
    on_demand: bool = False,
    thread_names: str = "{name}-{index}",
    kind: type[Driver] = Driver,
) -> Driver:
    """Make a driver with its engine; its workers are not started yet. The arguments were checked.

    ``on_demand``: workers are started when a task finds none free, as the standard library's executors do.
    """
    engine: Any
    n_slots_in_all = (interpreters or processes or 1) * (threads or 1)
    face = Face(key, name, n_slots_in_all, 1 if max_tasks is not None else None)
    if interpreters is not None:
        if sys.hexversion < 0x030E0000:
            raise NotSupported(
                f"interpreters= needs Python 3.14 or later, where sub-interpreters have a GIL each and an API "
                f"(concurrent.interpreters); this is {sys.version.split()[0]}. Use processes= or threads= here."
            )
        from fullcourt._engines.interpreters import InterpreterEngine

        cores = usable_cores().count
        engine = InterpreterEngine(name, initializer, initargs, share_of(cores, interpreters), face, spins=cores > 1)
        n_workers, n_slots = interpreters, 1
    elif processes == 0:
        from fullcourt._engines.local import InlineEngine, ThreadEngine

        n_workers = 1
        n_slots = threads or 1
        if threads:
            share = share_of(usable_cores().count, n_slots)
            engine = ThreadEngine(n_slots, name, initializer, initargs, share, on_demand=on_demand, names=thread_names)
        else:
            engine = InlineEngine(name, initializer, initargs)
        on_demand = False  # its threads are; its one worker is there
    else:
        n_workers, n_slots = processes, threads or 1
        occupy_standard_descriptors()
        method = usable_start_method(start_method)
        setup = setup_of(
            name=name, n_workers=n_workers, n_slots=n_slots, face=face, initializer=initializer, initargs=initargs,
            preload=preload, adopt=adopt,
        )  # fmt: skip
        if portable_transport():
            from fullcourt._engines.portable import PortableEngine

            engine = PortableEngine(n_slots, name, start_method, setup)
        else:
            from fullcourt._engines.processes import ProcessEngine

            engine = ProcessEngine(n_slots, name, method, setup)
    if output != "inherit" and engine.needs_driving:
        engine.output = Output(tagged=output == "tag")
    scheduler = Scheduler(
        n_workers,
        n_slots,
        max_tasks=max_tasks,
        may_take_back=engine.can_take_back,
        on_demand=on_demand,
        grows=not engine.needs_driving,
        prefetches=not engine.runs_inline,
        max_workers=most_workers(n_workers),
    )
    driver = kind(engine, scheduler, name, limits)
    engine.driver = driver
    return driver
