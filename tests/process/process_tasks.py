"""What the processes of these tests do. Imported by name in fresh interpreters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

from fullcourt import Process


def double(x, *, plus=0):
    return 2 * x + plus


def fail(text):
    raise ValueError(text)


class Awkward(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.one, self.two = one, two


def fail_awkwardly():
    raise Awkward(1, 2)


def die(number):
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)  # who runs the tests may have been started by nohup
    os.kill(os.getpid(), number)


def leave(code):
    sys.exit(code)


def leave_hard(code):
    os._exit(code)


def big(n):
    return bytearray(n)


def unpicklable():
    return threading.Lock()


def sleep_for_ever(file=None):
    if file is not None:
        with open(file, "w") as out:
            out.write(f"{os.getpid()}\n")
    while True:
        time.sleep(1000)


def start_sleeper(file, then):
    """Start a program that sleeps, tell its pid, and go on as told."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    with open(file + ".new", "w") as out:
        out.write(f"{os.getpid()} {child.pid}\n")
    os.rename(file + ".new", file)
    if then == "sleep":
        time.sleep(1000)
    elif then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    child.returncode = 0  # no warning that it still runs


def ask_signals():
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGTERM)


def ignore_sigterm(file):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep_for_ever(file)


def nested(method):
    with Process(target=double, args=(21,), start_method=method) as process:
        return process.result(60)


def write_and_return(text):
    print(text)
    print(text, file=sys.stderr)
    return text


def who():
    return os.getpid(), os.getppid(), threading.current_thread() is threading.main_thread()


def send_and_close(end, event):
    end.send("last words")
    end.close()
    return event.wait(60)


class Counter(Process):
    """A subclass with state of its own and a ``run``."""

    def __init__(self, n, **options):
        super().__init__(**options)
        self.n = n

    def run(self):
        return list(range(self.n))


def own_authkey():
    import multiprocessing

    return bytes(multiprocessing.current_process().authkey)
