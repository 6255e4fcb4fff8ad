"""Runs cells in a real kernel, as a notebook would: ``notebook_driver.py METHOD`` or ``notebook_driver.py interrupt``.

A program of its own, since the client leaves an event loop and sockets behind.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from jupyter_client import manager

LIMIT_S = 100

CELLS = [
    "import os, time, fullcourt\nfactor = 10",
    "def scale(x):\n    return factor * x",
    "pool = fullcourt.Pool(2, start_method=METHOD)",
    "print(pool.map(scale, range(4)))",
    "factor = 3\ndef scale(x):\n    return factor * x + 1",
    "print(pool.map(scale, range(4)))",
    "print(pool.map(lambda x: x - factor, range(4)))",
    "import dataclasses\n@dataclasses.dataclass\nclass Point:\n    x: int\nprint(pool.apply(Point, (3,)) == Point(3))",
    "import asyncio\nprint(await asyncio.gather(*(pool.submit(scale, x) for x in range(3))))",
    "print([x async for x in pool.aimap(scale, range(3))])",
    "pool.close(); pool.join(); print('ended')",
]


def run_cell(client: Any, code: str) -> str:
    """Run a cell; returns the name of the error that it raised. What it prints is printed."""

    def listen(message: Any) -> None:
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            print(message["content"]["text"], end="")

    reply = client.execute_interactive(code, output_hook=listen, timeout=LIMIT_S)["content"]
    return str(reply.get("ename", ""))


def define_and_run(client: Any, method: str) -> None:
    for cell in CELLS:
        error = run_cell(client, cell.replace("METHOD", repr(method)))
        assert not error, (cell, error)


def interrupt(client: Any, kernel: Any, began: Path) -> None:
    run_cell(client, "import fullcourt, time, pathlib\npool = fullcourt.Pool(2)")

    def press() -> None:
        while not began.exists():
            time.sleep(0.01)
        kernel.interrupt_kernel()

    threading.Thread(target=press, daemon=True).start()
    code = f"def work(x):\n    pathlib.Path({str(began)!r}).touch()\n    time.sleep(300)\npool.map(work, range(2))"
    before = time.monotonic()
    print(run_cell(client, code), time.monotonic() - before < LIMIT_S)
    run_cell(client, "print(pool.map(abs, [-1, 2]))\npool.terminate(); pool.join()")


if __name__ == "__main__":
    kernel, client = manager.start_new_kernel(kernel_name="python3", startup_timeout=LIMIT_S)
    try:
        if sys.argv[1] == "interrupt":
            with tempfile.TemporaryDirectory() as folder:
                interrupt(client, kernel, Path(folder) / "began")
        else:
            define_and_run(client, sys.argv[1])
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
