"""What runs in the child: the process's ``run``, and the answer."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import sys
import threading
from typing import Any, NoReturn

from fullcourt._engines.setup import Setup, enter_world
from fullcourt._engines.worker import flush_streams
from fullcourt._engines.worker_process import be_a_child, run_later_exit_functions
from fullcourt._transport import frames
from fullcourt._transport.codec import Codec, decode
from fullcourt._transport.inheritance import adopt
from fullcourt._transport.link import WorkerEnd, make_frame, read_body
from fullcourt._transport.mainspace import adopt_main
from fullcourt._transport.remote_errors import add_note, dump_exception, format_remote
from fullcourt.errors import PicklingError

__all__ = ["run_fresh", "run_process"]


def run_fresh(tasks_fd: int, results_fd: int, tracker_fd: int | None) -> NoReturn:
    """Be a child in a fresh interpreter: what to run comes as a frame, with the program's world at its head."""
    if tracker_fd is not None:
        adopt(tracker_fd, 1, 0)
    end = WorkerEnd(socket.socket(fileno=tasks_fd), socket.socket(fileno=results_fd), spins=False)
    received = end.receive()
    if received is None:
        os._exit(1)
    fields, data, attached = received
    body = read_body(data, fields, attached)
    setup: Setup = pickle.loads(body.function)
    enter_world(setup)
    be_a_child(setup.name)
    adopt_main()
    codec = Codec()
    try:
        process: Any = decode(body.payload, body.buffers, body.descriptors)
    except BaseException as error:  # noqa: BLE001  it is the caller's to hear
        add_note(error, "fullcourt: the process's function or arguments could not be loaded in the child")
        answer_error(end, codec, error)
        os._exit(1)
    body.close_descriptors()  # what counts, while it runs, is what it was given
    del received, body, data
    run_process(process, end, codec)


def run_process(process: Any, end: WorkerEnd, codec: Codec) -> NoReturn:
    """Run it, answer, and end this process as the standard library's would end."""
    code = 1
    try:
        try:
            code = run_and_answer(process, end, codec)
        finally:
            end.close()
            threading._shutdown()  # type: ignore[attr-defined]  # its threads are waited for, however long
            run_later_exit_functions()
            flush_streams()
    except BaseException:  # noqa: BLE001  nobody is left to hear of it but the reader of stderr
        with contextlib.suppress(BaseException):
            import traceback

            traceback.print_exc()
            flush_streams()
        code = code or 1
    finally:
        os._exit(code)


def run_and_answer(process: Any, end: WorkerEnd, codec: Codec) -> int:
    """Returns the exit code."""
    try:
        process._entered()
        result = process.run()
    except SystemExit as error:
        flush_streams()
        answer_error(end, codec, error)
        return exit_code(error)
    except BaseException as error:  # noqa: BLE001
        process._raised(format_remote(error))
        flush_streams()
        answer_error(end, codec, error)
        return 1
    flush_streams()
    try:
        payload, buffers = codec.encode(result)
        frame = make_frame(frames.RESULT, 0, 0, 0, 1, 0.0, b"", payload, buffers)
    except (PicklingError, OSError) as error:
        problem = PicklingError(f"the process ran, but of its result, {error}")
        problem.__cause__ = error.__cause__ or error
        answer_error(end, codec, problem)
        return int(process._must_answer)
    send(end, frame)
    return 0


def exit_code(error: SystemExit) -> int:
    """As the interpreter itself would take it."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def answer_error(end: WorkerEnd, codec: Codec, error: BaseException) -> None:
    payload = dump_exception(error, format_remote(error), codec)
    send(end, make_frame(frames.ERROR, 0, 0, 0, 1, 0.0, b"", payload, []))


def send(end: WorkerEnd, frame: Any) -> None:
    with contextlib.suppress(OSError):  # the program is gone, and we are about to be
        end.send(frame)
