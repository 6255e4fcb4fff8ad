"""Cases: hard surroundings."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import Any

from benchmarks.torture import work
from benchmarks.torture.casebook import Opener, Wrong, cases_of, must, name, still_works
from benchmarks.torture.pools import NotOffered

case = cases_of("Hard surroundings")


@case("standard input is closed")
def closed_stdin(opener: Opener) -> None:
    os.close(0)
    basic(opener)


@case("standard input, output and error are closed")
def closed_standard_files(opener: Opener) -> None:
    saved = os.dup(1), os.dup(2)
    high = [os.dup2(fd, 200 + i) for i, fd in enumerate(saved)]
    for fd in (0, 1, 2, *saved):
        os.close(fd)
    try:
        basic(opener)
    finally:
        os.dup2(high[0], 1)
        os.dup2(high[1], 2)


@case("`sys.stdin`, `sys.stdout`, `sys.stderr` are None (as under pythonw)")
def no_standard_streams(opener: Opener) -> None:
    saved = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]
    try:
        basic(opener)
    finally:
        sys.stdin, sys.stdout, sys.stderr = saved


@case("1,500 files are open (numbers beyond 1,024)")
def many_files(opener: Opener) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(1500)]
    basic(opener)
    for fd in files:
        os.close(fd)


@case("only four files more may be opened: an error, no hang")
def no_more_files(opener: Opener) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    files = []
    with suppress(OSError):
        while True:
            files.append(os.open("/dev/null", os.O_RDONLY))
    for fd in files[-4:]:
        os.close(fd)
    try:
        with opener() as pool:
            pool.run(work.tiny, 2)
    except NotOffered:
        raise
    except BaseException as error:
        for fd in files[:-4]:
            os.close(fd)
        must(isinstance(error, Exception), f"it raised {name(error)}")


@case("the working directory is deleted")
def no_directory(opener: Opener) -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    basic(opener)


@case("a task closes standard input and file 0")
def task_closes_stdin(opener: Opener) -> None:
    with opener() as pool:
        pool.batch([(work.close_standard_files,)] * 4)
        still_works(pool)


@case("a lazy map of an endless generator: first results within 2 s, bounded reading", deadline_s=8)
def endless(opener: Opener) -> None:
    read = 0

    def items() -> Any:
        nonlocal read
        for x in itertools.count():
            read += 1
            yield x

    pool = opener()
    results = pool.lazily(work.tiny, items())
    found = [next(results) for _ in range(100)]
    must(found == [x * x for x in range(100)], "wrong results")
    time.sleep(0.5)
    must(read < 50_000, f"{read:,} items were read for 100 results")
    print("EXPECT-EXIT", flush=True)
    os._exit(0)


@case("an input that raises half-way: its error, and the pool goes on")
def failing_input(opener: Opener) -> None:
    def items() -> Any:
        yield from range(10)
        raise LookupError("the input's own")

    with opener() as pool:
        try:
            pool.map(work.tiny, items())
        except LookupError:
            pass
        else:
            raise Wrong("no error")
        still_works(pool)


@case("eight threads submit at once")
def many_threads(opener: Opener) -> None:
    wrong: list[str] = []
    with opener() as pool:

        def use(i: int) -> None:
            outcomes = pool.batch([(work.tiny, x) for x in range(i, i + 200)])
            if [o[1] for o in outcomes] != [x * x for x in range(i, i + 200)]:
                wrong.append(str([o[1] for o in outcomes if not o[0]][:1]))

        threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    must(not wrong, f"wrong results: {wrong[:1]}")


def basic(opener: Opener) -> None:
    with opener() as pool:
        outcomes = pool.batch([(work.square, x) for x in range(10)])
        failed = [o[1] for o in outcomes if not o[0]]
        must(not failed, f"refused: {name(failed[0]) if failed else ''}")
        must([o[1] for o in outcomes] == [x * x for x in range(10)], "wrong results")
