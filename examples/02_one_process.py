"""One process by `Process`: a function that runs in a process of its own.

Run it: `python examples/02_one_process.py`
"""

import multiprocessing
import multiprocessing.connection
import os

import fullcourt


def greet(name: str) -> tuple[str, int]:
    """A greeting, and the id of the process that wrote it."""
    return f"hello {name}", os.getpid()


def greet_into(answers: multiprocessing.connection.Connection, name: str) -> None:
    """`greet`, for a caller that cannot see what it returns."""
    with answers:
        answers.send(greet(name))


def with_the_standard_library() -> str:
    """A `Process` throws away what its function returns, so a pipe must carry it."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=greet_into, args=(sender, "court"))
    process.start()
    sender.close()  # ours: with it open a dead child would leave us waiting for ever
    text, pid = receiver.recv()
    process.join()
    receiver.close()
    print(f"another process: {pid != os.getpid()}, its exit code: {process.exitcode}")
    print(f"it said: {text}")
    return text


def with_fullcourt() -> str:
    """The same `Process`, and the function's result comes back by itself, or its exception."""
    with fullcourt.Process(target=greet, args=("court",)) as process:
        text, pid = process.result()
    print(f"another process: {pid != os.getpid()}, its exit code: {process.exitcode}")
    print(f"it said: {text}")
    return text


# For the standard library: where processes are spawned, its child imports this file again. fullcourt's does not.
if __name__ == "__main__":
    print("-- with the standard library --")
    expected = with_the_standard_library()
    print("-- with fullcourt --")
    result = with_fullcourt()
    assert result == expected
    print(f"both gave the same: {result}")
