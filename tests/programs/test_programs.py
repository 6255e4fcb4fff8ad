"""Small real programs under every start method: what works in one process works in a pool, wherever it is written.

METHOD in a program stands for the start method. Each program is run without a `__main__` guard unless it says so, must
end with status 0 within a minute, write nothing to stderr and leave no process.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.programs.running import Program

SLOW = pytest.mark.slow  # each is quick; there are two hundred of them


def run(
    program: Program, start_method: str, text: str, how: str = "file", environment: dict[str, str] | None = None
) -> list[str]:
    """Run `text` as a script, a `-c` command or on stdin; return the lines that it printed."""
    text = textwrap.dedent(text).replace("METHOD", repr(start_method))
    match how:
        case "file":
            program.start(str(program.write("program.py", text)), environment=environment)
        case "command":
            program.start("-c", text, environment=environment)
        case "stdin":
            program.start("-", stdin=text, environment=environment)
        case _:
            raise ValueError(how)
    return finish(program)


def finish(program: Program) -> list[str]:
    """Wait for the end and check it; return the lines that were printed."""
    status = program.wait()
    assert program.stderr() == ""
    assert status == 0
    program.assert_nobody_is_left()
    return program.stdout().splitlines()


# A name that is a sentence; the program; what it prints.
ANYWHERE: dict[str, tuple[str, list[str]]] = {
    "a_function_of_main": (
        """
        import fullcourt

        def double(x):
            return 2 * x

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(double, range(5)))
        """,
        ["[0, 2, 4, 6, 8]"],
    ),
    "functions_with_caches": (
        """
        import functools
        import fullcourt

        STEP = 1

        @functools.cache
        def fibonacci(n):
            return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

        @functools.lru_cache(maxsize=3)
        def following(n):
            return n + STEP

        class Squares:
            def __init__(self, n):
                self.n = n

            @functools.cached_property
            def square(self):
                return self.n**2

            @functools.lru_cache
            def times(self, n):
                return self.square * n

        def n_remembered(n):
            return len({following(n) for _ in range(5)}), following.cache_info().hits >= 4

        with fullcourt.Pool(1, start_method=METHOD) as pool:
            print(pool.map(fibonacci, range(10)), pool.apply(lambda f: f(30), (fibonacci,)))
            print([pool.apply(following, (n,)) for n in (1, 1, 2)], pool.apply(n_remembered, (9,)))
            print(pool.apply(Squares(3).times, (2,)), pool.apply(lambda made: made.square, (Squares(4),)))
            STEP = 2
            following.cache_clear()
            print(pool.map(following, [5]))

            @functools.cache
            def fibonacci(n):
                return -n

            print(pool.map(fibonacci, range(3)))
        """,
        [
            "[0, 1, 1, 2, 3, 5, 8, 13, 21, 34] 832040",
            "[2, 2, 3] (1, True)",
            "18 16",
            "[7]",
            "[0, -1, -2]",
        ],
    ),
    "a_function_that_dispatches_on_types": (
        """
        import functools
        import fullcourt

        @functools.singledispatch
        def told(x):
            return "something"

        @told.register
        def _(x: int):
            return "a number"

        @told.register
        def _(x: list):
            return [told(y) for y in x]

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(told, [1, "a", [2, "b"]]))
        """,
        ["['a number', 'something', ['a number', 'something']]"],
    ),
    "a_lambda": (
        """
        import fullcourt

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(lambda x: x + 1, range(5)), pool.submit(lambda: "submitted").result())
        """,
        ["[1, 2, 3, 4, 5] submitted"],
    ),
    "a_closure": (
        """
        import fullcourt

        def adder(n):
            def add(x):
                return x + n
            return add

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(adder(10), range(3)), pool.map(adder(20), range(3)))
        """,
        ["[10, 11, 12] [20, 21, 22]"],
    ),
    "a_bound_method": (
        """
        import fullcourt

        class Scale:
            def __init__(self, factor):
                self.factor = factor

            def apply(self, x):
                return self.factor * x

            @classmethod
            def name(cls, x):
                return f"{cls.__name__} {x}"

            @staticmethod
            def negate(x):
                return -x

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(Scale(3).apply, range(3)), pool.map(Scale.name, [1]), pool.map(Scale.negate, [1]))
        """,
        ["[0, 3, 6] ['Scale 1'] [-1]"],
    ),
    "functions_that_call_each_other_and_themselves": (
        """
        import fullcourt

        def is_even(n):
            return n == 0 or is_odd(n - 1)

        def is_odd(n):
            return n != 0 and is_even(n - 1)

        def factorial(n):
            return 1 if n == 0 else n * factorial(n - 1)

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(is_even, range(4)), pool.map(factorial, range(6)))
        """,
        ["[True, False, True, False] [1, 1, 2, 6, 24, 120]"],
    ),
    "a_decorated_function_and_a_partial": (
        """
        import functools
        import fullcourt

        def loud(fn):
            @functools.wraps(fn)
            def wrapped(*args):
                return fn(*args).upper()
            return wrapped

        @loud
        def greet(greeting, name):
            return f"{greeting} {name}"

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(functools.partial(greet, "hello"), ["a", "b"]), pool.starmap(greet, [("bye", "c")]))
        """,
        ["['HELLO A', 'HELLO B'] ['BYE C']"],
    ),
    "a_class_of_main_whose_instances_come_back": (
        """
        import fullcourt

        class Point:
            def __init__(self, x):
                self.x = x

        def move(point):
            assert isinstance(point, Point)
            return Point(point.x + 1)

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            points = pool.map(move, [Point(1), Point(2)])
            again = pool.map(move, points)
        print([type(point) is Point for point in points + again], [point.x for point in again])
        """,
        ["[True, True, True, True] [3, 4]"],
    ),
    "a_class_that_only_the_worker_makes_instances_of": (
        """
        import fullcourt

        class Found:
            pass

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(all(type(found) is Found for found in pool.map(lambda _: Found(), range(4))))
        """,
        ["True"],
    ),
    "enums_dataclasses_and_named_tuples_of_main": (
        """
        import enum
        from dataclasses import dataclass
        from typing import NamedTuple
        import fullcourt

        class Colour(enum.Enum):
            RED = 1
            BLUE = 2

        @dataclass(frozen=True, slots=True)
        class Ball:
            colour: Colour
            size: int

        class Pair(NamedTuple):
            left: Ball
            right: Ball

        def swap(pair):
            assert pair.left.colour is Colour.RED
            return Pair(pair.right, pair.left)

        pair = Pair(Ball(Colour.RED, 1), Ball(Colour.BLUE, 2))
        with fullcourt.Pool(2, start_method=METHOD) as pool:
            swapped = pool.apply(swap, (pair,))
        print(isinstance(swapped, Pair), swapped.left.colour is Colour.BLUE, swapped == Pair(pair.right, pair.left))
        """,
        ["True True True"],
    ),
    "a_global_of_main": (
        """
        import fullcourt

        factor = 7
        table = {1: "one", 2: "two"}

        def look_up(x):
            return table[x] * factor

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(look_up, [1, 2]))
        """,
        ["['oneoneoneoneoneoneone', 'twotwotwotwotwotwotwo']"],
    ),
    "a_global_that_the_initializer_sets": (
        """
        import fullcourt

        connection = None

        def connect(address):
            global connection
            connection = f"connection to {address}"

        def query(x):
            return f"{x} over {connection}"

        with fullcourt.Pool(2, connect, ("here",), start_method=METHOD) as pool:
            print(pool.map(query, range(2)))
        """,
        ["['0 over connection to here', '1 over connection to here']"],
    ),
    "a_global_that_is_first_made_by_the_initializer": (
        """
        import fullcourt

        def connect(address):
            global connection
            connection = f"connection to {address}"

        def query(x):
            return f"{x} over {connection}"

        with fullcourt.Pool(2, connect, ("here",), start_method=METHOD) as pool:
            print(pool.map(query, range(2)))
        """,
        ["['0 over connection to here', '1 over connection to here']"],
    ),
    "a_global_that_a_task_leaves_for_the_next": (
        """
        import fullcourt

        seen = []

        def remember(x):
            seen.append(x)
            return len(seen)

        def recall():
            return seen

        with fullcourt.Pool(1, start_method=METHOD) as pool:
            print([pool.submit(remember, x).result() for x in "abc"], pool.submit(recall).result(), seen)
        """,
        ["[1, 2, 3] ['a', 'b', 'c'] []"],
    ),
    "what_was_defined_after_the_pool": (
        """
        import fullcourt

        pool = fullcourt.Pool(2, start_method=METHOD)
        print(pool.map(abs, [-1]))

        class Late:
            def __init__(self, x):
                self.x = x

        def late(item):
            return Late(item.x + 1)

        answers = pool.map(late, [Late(1), Late(2)])
        print([answer.x for answer in answers], all(type(answer) is Late for answer in answers))
        pool.close()
        pool.join()
        """,
        ["[1]", "[2, 3] True"],
    ),
    "a_function_that_is_defined_anew": (
        """
        import fullcourt

        with fullcourt.Pool(1, start_method=METHOD) as pool:
            def answer(x):
                return f"first {x}"
            print(pool.map(answer, range(2)))

            def answer(x):
                return f"second {x}"
            print(pool.map(answer, range(2)))
        """,
        ["['first 0', 'first 1']", "['second 0', 'second 1']"],
    ),
    "an_exception_class_of_main": (
        """
        import fullcourt

        class TooSmall(ValueError):
            def __init__(self, value, limit):
                super().__init__(f"{value} is below {limit}")
                self.value = value
                self.limit = limit

        def check(x):
            if x < 2:
                raise TooSmall(x, 2)
            return x

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            try:
                pool.submit(check, 1).result()
            except TooSmall as error:
                print(error, error.value, error.limit)
            outcomes = pool.map(check, [3, 0], on_error="return")
            print(outcomes[0], outcomes[1].index, type(outcomes[1].exception) is TooSmall)
        """,
        ["1 is below 2 1 2", "3 1 True"],
    ),
    "a_pool_at_module_level_and_never_closed": (
        """
        import fullcourt

        pool = fullcourt.Pool(2, start_method=METHOD)

        def double(x):
            return 2 * x

        print(pool.map(double, range(3)))
        """,
        ["[0, 2, 4]"],
    ),
    "fullcourt_map": (
        """
        import fullcourt

        print(fullcourt.map(lambda x: x * x, range(4), processes=2, start_method=METHOD))
        """,
        ["[0, 1, 4, 9]"],
    ),
    "processes_of_threads": (
        """
        import os
        import threading
        import fullcourt

        barrier = None

        def meet_init():
            global barrier
            barrier = threading.Barrier(2)

        def meet(x):
            barrier.wait(30)
            return os.getpid() != parent

        parent = os.getpid()
        with fullcourt.Pool(1, meet_init, threads=2, start_method=METHOD) as pool:
            print(pool.map(meet, range(8), chunksize=1))
        """,
        ["[True, True, True, True, True, True, True, True]"],
    ),
    "an_endless_generator": (
        """
        import itertools
        import fullcourt

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            for square in pool.imap(lambda x: x * x, itertools.count()):
                if square > 50:
                    print(square)
                    break
        """,
        ["64"],
    ),
    "a_callback": (
        """
        import fullcourt

        done = []
        failed = []
        pool = fullcourt.Pool(2, start_method=METHOD)
        for x in (1, 0):
            pool.apply_async(lambda x: 1 / x, (x,), callback=done.append, error_callback=failed.append)
        pool.close()
        pool.join()
        print(done, [type(error).__name__ for error in failed])
        """,
        ["[1.0] ['ZeroDivisionError']"],
    ),
    "results_of_one_pool_as_the_input_of_another": (
        """
        import fullcourt

        with fullcourt.Pool(1, start_method=METHOD) as first, fullcourt.Pool(1, start_method=METHOD) as second:
            print(list(second.imap(lambda x: x + 1, first.imap(lambda x: x * 10, range(4)))))
        """,
        ["[1, 11, 21, 31]"],
    ),
    "results_of_a_pool_as_its_own_input": (
        """
        import fullcourt

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(list(pool.imap(lambda x: x + 1, pool.imap(lambda x: x * 10, range(4)))))
        """,
        ["[1, 11, 21, 31]"],
    ),
}


@pytest.mark.parametrize("how", ["file", pytest.param("command", marks=SLOW), pytest.param("stdin", marks=SLOW)])
@pytest.mark.parametrize("name", ANYWHERE)
def test_a_program_may_use(name: str, how: str, start_method: str, program: Program) -> None:
    text, expected = ANYWHERE[name]
    assert run(program, start_method, text, how) == expected


def test_a_script_without_a_guard_runs_once(start_method: str, program: Program) -> None:
    text = """
        import os
        import fullcourt

        print("here", flush=True)
        pool = fullcourt.Pool(3, start_method=METHOD)
        pids = set(pool.map(lambda _: os.getpid(), range(12), chunksize=1))
        print(os.getpid() in pids)
    """
    assert run(program, start_method, text) == ["here", "False"]


def test_a_script_with_a_guard_runs_as_well(start_method: str, program: Program) -> None:
    text = """
        import fullcourt

        def double(x):
            return 2 * x

        def main():
            with fullcourt.Pool(2, start_method=METHOD) as pool:
                print(pool.map(double, range(3)))

        if __name__ == "__main__":
            main()
    """
    assert run(program, start_method, text) == ["[0, 2, 4]"]


def test_a_module_next_to_the_script_is_found(start_method: str, program: Program) -> None:
    program.write("tools.py", "class Made:\n    pass\n\n\ndef make(x):\n    return Made(), x + 1\n")
    program.write("late_tools.py", "VALUE = 5\n")
    text = """
        import fullcourt
        import tools

        def use_late(x):
            import late_tools
            return late_tools.VALUE + x

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            made, n = pool.submit(tools.make, 1).result()
            print(type(made) is tools.Made, n, pool.map(use_late, [1]))
    """
    assert run(program, start_method, text) == ["True 2 [6]"]


def test_a_relative_entry_of_sys_path_is_found(start_method: str, program: Program) -> None:
    program.write("lib/tools.py", "def double(x):\n    return 2 * x\n")
    program.write("lib/late_tools.py", "VALUE = 5\n")
    text = """
        import sys
        sys.path.insert(0, "lib")
        import fullcourt
        import tools

        def use_late(x):
            import late_tools
            return late_tools.VALUE + x

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(tools.double, range(3)), pool.map(use_late, [1]))
    """
    assert run(program, start_method, text) == ["[0, 2, 4] [6]"]


def test_a_path_that_was_added_after_the_pool_was_made_is_found(start_method: str, program: Program) -> None:
    program.write("lib/tools.py", "def double(x):\n    return 2 * x\n")
    text = """
        import sys
        import fullcourt

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print(pool.map(abs, [-1]))
            sys.path.insert(0, "lib")
            import tools
            print(pool.map(tools.double, range(3)))
    """
    assert run(program, start_method, text) == ["[1]", "[0, 2, 4]"]


def test_a_pool_of_an_imported_module_works(start_method: str, program: Program) -> None:
    jobs = """
        import fullcourt

        pool = fullcourt.Pool(2, start_method=METHOD)

        def double(x):
            return 2 * x

        def double_all(items):
            return pool.map(double, items)
    """
    program.write("jobs.py", jobs.replace("METHOD", repr(start_method)))
    assert run(program, start_method, "import jobs\nprint(jobs.double_all(range(3)))\n") == ["[0, 2, 4]"]


@pytest.mark.parametrize("how", ["a module of a package", "a folder"])
def test_a_program_may_be(how: str, start_method: str, program: Program) -> None:
    main = """
        import fullcourt

        class Made:
            pass

        def make(x):
            return Made()

        with fullcourt.Pool(2, start_method=METHOD) as pool:
            print([type(made) is Made for made in pool.map(make, range(2))])
    """.replace("METHOD", repr(start_method))
    program.write("app/__init__.py", "")
    program.write("app/__main__.py", main)
    program.start(*(["-m", "app"] if how == "a module of a package" else [str(program.folder / "app")]))
    assert finish(program) == ["[True, True]"]


def test_the_working_folder_is_the_same(start_method: str, program: Program) -> None:
    text = """
        import os
        import fullcourt

        os.chdir("/")
        with fullcourt.Pool(1, start_method=METHOD) as pool:
            print(pool.submit(os.getcwd).result())
    """
    assert run(program, start_method, text) == ["/"]


def test_the_working_folder_may_have_been_deleted(start_method: str, program: Program) -> None:
    text = """
        import os, tempfile
        import fullcourt

        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
        with fullcourt.Pool(1, start_method=METHOD) as pool:
            print(pool.submit(abs, -3).result())
        with fullcourt.Process(target=abs, args=(-4,), start_method=METHOD) as process:
            print(process.result())
    """
    assert run(program, start_method, text) == ["3", "4"]


def test_the_environment_is_the_same(start_method: str, program: Program) -> None:
    text = """
        import os
        import fullcourt

        os.environ["SET_BY_THE_PROGRAM"] = "yes"
        with fullcourt.Pool(1, start_method=METHOD) as pool:
            print(pool.submit(os.environ.get, "SET_BY_THE_PROGRAM").result())
    """
    assert run(program, start_method, text) == ["yes"]


def test_start_methods_of_the_standard_library_choose_ours(start_method: str, program: Program) -> None:
    text = """
        import multiprocessing
        multiprocessing.set_start_method(METHOD)
        import fullcourt

        print(fullcourt.map(lambda x: x + 1, range(3), processes=2))
    """
    assert run(program, start_method, text) == ["[1, 2, 3]"]


CELLS = [
    """
    import fullcourt
    offset = 100
    class Reading:
        def __init__(self, value):
            self.value = value
    def calibrate(reading):
        return Reading(reading.value + offset)
    pool = fullcourt.Pool(2, start_method=METHOD)
    answers = pool.map(calibrate, [Reading(1), Reading(2)])
    print([answer.value for answer in answers], all(type(answer) is Reading for answer in answers))
    """,
    """
    offset = 200
    print([answer.value for answer in pool.map(calibrate, answers)])
    """,
    """
    def calibrate(reading):
        return -reading.value
    print(pool.map(calibrate, answers), pool.map(lambda x: x + offset, [1]))
    """,
    """
    pool.close()
    pool.join()
    """,
]


def cells(start_method: str) -> list[str]:
    return [textwrap.dedent(cell).replace("METHOD", repr(start_method)) for cell in CELLS]


def test_cells_of_a_notebook_work(start_method: str, program: Program) -> None:
    pytest.importorskip("IPython", reason="IPython is not installed")
    text = f"""
        from traitlets.config import Config
        from IPython.core.interactiveshell import InteractiveShell

        config = Config()
        config.HistoryManager.enabled = False
        shell = InteractiveShell.instance(config=config)
        for cell in {cells(start_method)!r}:
            shell.run_cell(cell).raise_error()
    """
    lines = run(program, start_method, text, environment={"IPYTHONDIR": str(program.folder / "ipython")})
    # The second cell's new `offset` is seen: a function of `__main__` finds its globals as they are when it is sent.
    assert lines == ["[101, 102] True", "[301, 302]", "[-101, -102] [201]"]


def test_cells_run_in_main_without_a_file_work(start_method: str, program: Program) -> None:
    text = f"""
        import __main__
        for number, cell in enumerate({cells(start_method)!r}):
            exec(compile(cell, f"<cell {{number}}>", "exec"), __main__.__dict__)
    """
    lines = run(program, start_method, text, "stdin")
    assert lines == ["[101, 102] True", "[301, 302]", "[-101, -102] [201]"]


GUARDED = """
import enum
import os
import threading
import fullcourt

LOCK = threading.RLock()
STEP = 1
state = None

class Colour(enum.Enum):
    RED = 1

class Point:
    def __init__(self, x):
        self.x = x

    def moved(self):
        with LOCK:
            return Point(self.x + STEP)

class Wrong(Exception):
    def __init__(self, code, *, point):
        super().__init__(code)
        self.point = point

def begin(value):
    global state
    with LOCK:
        state = value

def moved(item):
    with LOCK:
        assert isinstance(item, Point), item
        return item.moved()

def is_red(colour):
    with LOCK:
        return colour is Colour.RED

def fail(item):
    with LOCK:
        raise Wrong(3, point=item)

def tell(_):
    with LOCK:
        return state, STEP

def step(_):
    return STEP

def main():
    global STEP
    with fullcourt.Pool(2, start_method=METHOD, initializer=begin, initargs=("begun",), **OPTIONS) as pool:
        assert pool.map(step, [0]) == [1]
        points = pool.map(moved, [Point(1), Point(2)])
        assert all(type(point) is Point for point in points)
        print([point.x for point in points], pool.apply(is_red, (Colour.RED,)))
        try:
            pool.apply(fail, (Point(5),))
        except Wrong as error:
            print(type(error) is Wrong, error.point.x)
        print(pool.map(tell, range(2)))
        print([point.x for point in pool.map(Point.moved, [Point(7)])], pool.apply(Point(8).moved).x)
        STEP = 10
        print(pool.map(step, [0]), pool.map(lambda n: n + STEP, [1]))

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("options", ["{}", "{'threads': 2}"], ids=["one slot", "two slots"])
@pytest.mark.parametrize("how", ["file", "module"])
def test_functions_may_use_globals_that_cannot_be_pickled(
    start_method: str, program: Program, how: str, options: str
) -> None:
    text = GUARDED.replace("METHOD", repr(start_method)).replace("OPTIONS", options)
    path = program.write("program.py", text)
    if how == "file":
        program.start(str(path))
    else:
        program.start("-m", "program")
    assert finish(program) == [
        "[2, 3] True",
        "True 5",
        "[('begun', 1), ('begun', 1)]",
        "[8] 9",
        "[10] [11]",
    ]


def test_a_program_without_a_guard_is_not_run_again_for_them(start_method: str, program: Program) -> None:
    if start_method == "fork":
        pytest.skip("forks have them")
    text = """
    import threading
    import fullcourt

    print("runs", flush=True)
    LOCK = threading.Lock()

    def locked(item):
        with LOCK:
            return item

    with fullcourt.Pool(2, start_method=METHOD) as pool:
        try:
            pool.map(locked, [1])
        except fullcourt.errors.PicklingError as error:
            print("locked's global LOCK" in str(error))
    """
    assert run(program, start_method, text) == ["runs", "True"]


def test_a_pool_that_is_made_beside_the_guard_is_named_as_the_reason(start_method: str, program: Program) -> None:
    if start_method == "fork":
        pytest.skip("forks have them")
    text = """
    import threading
    import fullcourt

    LOCK = threading.Lock()

    def locked(item):
        with LOCK:
            return item

    pool = fullcourt.Pool(2, start_method=METHOD)

    if __name__ == "__main__":
        with pool:
            try:
                pool.map(locked, [1])
            except fullcourt.errors.PicklingError as error:
                print("locked's global LOCK" in str(error), "must not make a pool" in str(error))
    """
    assert run(program, start_method, text) == ["True True"]
