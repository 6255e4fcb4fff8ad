"""Download many files: a job that waits, on threads, and on processes of threads.

Run it: `python examples/download_many.py`. The server is in this file, on loopback, and slow to answer.
"""

import hashlib
import http.client
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fullcourt

DELAY_S = 0.05
N_FILES = 40


class SlowHandler(BaseHTTPRequestHandler):
    """Answers `/n` with some bytes made from n, after `DELAY_S`; it does not have number 13."""

    def do_GET(self) -> None:
        time.sleep(DELAY_S)
        if self.path == "/13":
            self.send_error(404)
            return
        body = self.path.encode() * 1000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing: the example's own lines are enough."""


class Server(ThreadingHTTPServer):
    """With room for every client that knocks at the same time (the default is 5)."""

    request_queue_size = 2 * N_FILES


def fetch(url: str) -> tuple[str, int, str]:
    """Download `url`; return it, its size in bytes, and its SHA-256. Raises LookupError where it is not there.

    Not with `urllib.request.urlopen`: its first call on each thread would read all of the machine's certificates.
    """
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise LookupError(f"{answer.status} {answer.reason}")
    return url, len(body), hashlib.sha256(body).hexdigest()


def report(how: str, outcomes: list[tuple[str, int, str] | fullcourt.Failure], seconds: float) -> None:
    """Print one line for the good ones together, and one for each bad one."""
    sizes = [outcome[1] for outcome in outcomes if not isinstance(outcome, fullcourt.Failure)]
    print(f"{how}: {len(sizes)} files, {sum(sizes):,} bytes in {seconds:.2f} s")
    for outcome in outcomes:
        if isinstance(outcome, fullcourt.Failure):
            print(f"  file {outcome.index}: {outcome.exception}")


# The processes first: forked after the server's threads had started, they would have come from a program with threads.
with fullcourt.Pool(processes=2, threads=20) as both, Server(("127.0.0.1", 0), SlowHandler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}/{i}" for i in range(N_FILES)]

    start = time.perf_counter()
    on_threads = fullcourt.map(fetch, urls, threads=20, on_error="return")
    report("20 threads", on_threads, time.perf_counter() - start)

    start = time.perf_counter()
    on_both = both.map(fetch, urls, on_error="return")
    report("2 processes of 20 threads", on_both, time.perf_counter() - start)

    server.shutdown()

good = [outcome for outcome in on_threads if isinstance(outcome, tuple)]
assert good == [outcome for outcome in on_both if isinstance(outcome, tuple)]
print(f"one after the other they would have waited {N_FILES * DELAY_S:.1f} s at the least")
