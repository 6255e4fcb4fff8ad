"""What whole programs print when their tasks print, log and warn: everything, once, in order."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.programs.running import Program


def run(program: Program, start_method: str, text: str, *flags: str) -> tuple[list[str], str]:
    """Run a program; return the lines that it printed, and its stderr."""
    text = textwrap.dedent(text).replace("METHOD", repr(start_method))
    program.start(*flags, str(program.write("program.py", text)))
    assert program.wait() == 0, program.stderr()
    program.assert_nobody_is_left()
    return program.stdout().splitlines(), program.stderr()


def test_prints_of_program_and_tasks_stand_in_order(program: Program, start_method: str) -> None:
    lines, errors = run(
        program,
        start_method,
        """
        import fullcourt, sys

        def task(i):
            print("task", i)
            return i

        print("no newline before the fork", end="")
        sys.__stdout__.write(";")
        with fullcourt.Pool(1, start_method=METHOD) as pool:
            for i in range(3):
                pool.apply(task, (i,))
                print("program", i)
        """,
    )
    first, *rest = lines
    assert first == "no newline before the fork;task 0"
    assert rest == ["program 0", "task 1", "program 1", "task 2", "program 2"]
    assert errors == ""


def test_what_a_preloaded_module_prints_is_printed_once_per_import(program: Program, start_method: str) -> None:
    program.write("loud.py", "print('imported')")
    lines, _ = run(
        program,
        start_method,
        """
        import fullcourt, os

        with fullcourt.Pool(2, start_method=METHOD, preload=["loud"]) as pool:
            n = len(set(pool.map(lambda _: os.getpid(), range(100), chunksize=1)))
        print("workers", n)
        """,
    )
    n_imports = lines.count("imported")
    assert n_imports == (2 if start_method == "spawn" else 1)


def test_with_inherit_the_descriptors_are_written_to(program: Program, start_method: str) -> None:
    lines, errors = run(
        program,
        start_method,
        """
        import contextlib, fullcourt, io, os, sys

        def task(i):
            print("task", type(sys.stdout).__name__)
            print("complaint", file=sys.stderr)

        with contextlib.redirect_stderr(io.StringIO()) as stderr:
            with fullcourt.Pool(1, start_method=METHOD, output="inherit") as pool:
                pool.apply(task, (0,))
        os.write(1, b"end\\n")
        """,
    )
    assert lines[-2:] == ["task TextIOWrapper", "end"]
    if start_method != "fork":  # else it is the copy of the StringIO that was written to
        assert errors == "complaint\n"


def test_logging_as_the_program_has_set_it_up(program: Program, start_method: str) -> None:
    lines, errors = run(
        program,
        start_method,
        """
        import fullcourt, logging

        logging.basicConfig(level=logging.INFO, format="%(processName)s %(levelname)s %(message)s")

        def set_up():
            logging.basicConfig(level=logging.DEBUG, format="the worker's own")

        def task(i):
            logging.debug("debug %d", i)
            logging.info("info %d", i)
            logging.getLogger("lib").addHandler(logging.NullHandler())
            logging.getLogger("lib").warning("warning %d", i)

        with fullcourt.Pool(1, set_up, start_method=METHOD, name="p") as pool:
            name = pool.statistics().workers[0].name
            pool.map(task, range(2))
        print(name)
        """,
    )
    (name,) = lines
    assert errors.splitlines() == [
        f"{name} {text}" for text in ("INFO info 0", "WARNING warning 0", "INFO info 1", "WARNING warning 1")
    ]


def test_logging_that_only_the_workers_set_up(program: Program, start_method: str) -> None:
    _, errors = run(
        program,
        start_method,
        """
        import fullcourt, logging

        def set_up():
            logging.basicConfig(level=logging.DEBUG, format="worker: %(message)s")

        with fullcourt.Pool(1, set_up, start_method=METHOD) as pool:
            pool.apply(logging.debug, ("hello",))
        """,
    )
    assert errors == "worker: hello\n"


def test_logging_that_nobody_has_set_up(program: Program, start_method: str) -> None:
    _, errors = run(
        program,
        start_method,
        """
        import fullcourt, logging

        with fullcourt.Pool(1, start_method=METHOD) as pool:
            pool.apply(logging.getLogger("a").info, ("not shown",))
            pool.apply(logging.getLogger("a").warning, ("shown",))
        """,
    )
    assert errors == "shown\n"


def test_a_warning_is_shown_once_and_by_the_filters_of_the_command_line(program: Program, start_method: str) -> None:
    text = """
        import fullcourt, warnings

        def task(i):
            warnings.warn("careful", DeprecationWarning)

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            pool.map(task, range(20), chunksize=1)
        """
    _, errors = run(program, start_method, text)
    shown = errors.splitlines()
    assert len(shown) == 2
    assert shown[0].endswith("program.py:5: DeprecationWarning: careful")
    assert shown[1].strip() == 'warnings.warn("careful", DeprecationWarning)'
    _, errors = run(program, start_method, text, "-W", "ignore")
    assert errors == ""


def test_what_exit_functions_and_the_initializer_print(program: Program, start_method: str) -> None:
    lines, _ = run(
        program,
        start_method,
        """
        import atexit, fullcourt

        def set_up():
            print("start")
            atexit.register(print, "end")

        with fullcourt.Pool(1, set_up, start_method=METHOD) as pool:
            pool.apply(print, ("task",))
        print("after")
        """,
    )
    assert lines == ["start", "task", "end", "after"]


def test_a_broken_pipe_ends_nothing(program: Program, start_method: str) -> None:
    lines, _ = run(
        program,
        start_method,
        """
        import fullcourt, os, sys

        def task(i):
            print("x" * 10_000)
            return i

        keep = os.dup(1)
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
        with fullcourt.Pool(2, start_method=METHOD) as pool:
            results = pool.map(task, range(50))
        os.dup2(keep, 1)
        os.write(keep, f"{sum(results)}\\n".encode())
        os._exit(0)
        """,
    )
    assert lines[-1] == "1225"


@pytest.mark.slow
def test_many_programs_print_all(program: Program, start_method: str) -> None:
    lines, _ = run(
        program,
        start_method,
        """
        import fullcourt

        def task(i):
            print(i)
            print(i, end=" ")
            return i

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            for _ in range(20):
                pool.map(task, range(500))
        """,
    )
    assert sorted(map(int, " ".join(lines).split())) == sorted(list(range(500)) * 40)


def test_a_thread_that_a_task_left_neither_holds_up_the_end_nor_the_exit_functions(
    program: Program, start_method: str
) -> None:
    lines, errors = run(
        program,
        start_method,
        """
        import atexit, fullcourt, threading, time

        def task():
            threading.Thread(target=time.sleep, args=(1000,)).start()
            atexit.register(print, "end of the worker")

        with fullcourt.Pool(1, start_method=METHOD) as pool:
            pool.apply(task)
        print("end of the program")
        """,
    )
    assert lines == ["end of the worker", "end of the program"]
    assert errors == ""
