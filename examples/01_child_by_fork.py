"""A child by `os.fork`: the oldest way to have a second process.

Run it: `python examples/01_child_by_fork.py` (not on Windows, which has no fork).
"""

import os
import sys

import fullcourt


def work(n: int) -> int:
    """The sum of the squares below `n`."""
    return sum(i * i for i in range(n))


def with_the_standard_library() -> int:
    """Everything by hand: a pipe for the answer, the child's exit, the wait for it."""
    sys.stdout.flush()  # what stands in the buffer now would be written by the child a second time
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # the child: fork returned nought here
        status = 1
        try:
            os.close(reader)
            os.write(writer, str(work(100_000)).encode())
            status = 0
        finally:
            os._exit(status)  # not sys.exit: the parent's clean-up is not the child's to do
    os.close(writer)  # else the read below would never see the end
    with os.fdopen(reader) as answers:
        answer = int(answers.read())
    _, wait_status = os.waitpid(pid, 0)
    exit_code = os.waitstatus_to_exitcode(wait_status)
    print(f"the parent is not its child: {os.getpid() != pid}")
    print(f"the child answered {answer} and left with exit code {exit_code}")
    return answer


def with_fullcourt() -> int:
    """`fork` itself, with an object to wait on; and a forked `Process`, which brings its answer."""
    child = fullcourt.fork()  # the streams were flushed; other threads, were there any, would be named in a warning
    if child is None:
        os._exit(work(10) % 256)
    print(f"the parent is not its child: {os.getpid() != child.pid}")
    print(f"a bare child left with exit code {child.wait()}")
    with fullcourt.Process(target=work, args=(100_000,), start_method="fork") as process:
        answer = process.result()
    print(f"the child answered {answer} and left with exit code {process.exitcode}")
    return answer


# Neither half needs this guard: a fork goes on where it stands and does not read the file again.
if __name__ == "__main__":
    if not hasattr(os, "fork"):
        sys.exit("os.fork is not on this system; see 02_one_process.py for what is.")
    print("-- with the standard library --")
    expected = with_the_standard_library()
    print("-- with fullcourt --")
    result = with_fullcourt()
    assert result == expected
    print(f"both gave the same: {result}")
