"""The template as the pool meets it on its socket."""

import marshal
import os
import signal
import socket
import sys

import pytest

from fullcourt._engines.template import Template

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs templates")

N_WORKERS = 60  # far more than the sockets below hold messages


def start_worker(_worker_id, _fds):
    pid = os.fork()
    if not pid:
        while True:
            signal.pause()
    return pid


def test_a_template_whose_answers_are_not_read_still_takes_orders():
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        for end in (ours, its):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as little as the kernel allows
        program = os.getpid()
        pid = os.fork()
        if not pid:
            try:
                ours.close()
                Template(its, program, start_worker).run()
            finally:
                os._exit(0)
        its.close()
        ours.settimeout(30)
        try:
            for worker_id in range(N_WORKERS):
                ours.send(marshal.dumps(("start", worker_id)))
            told = [marshal.loads(ours.recv(65536)) for _ in range(N_WORKERS)]
        finally:
            ours.close()
            os.waitpid(pid, 0)
    assert [(what, worker_id) for what, worker_id, _ in told] == [("started", n) for n in range(N_WORKERS)]
