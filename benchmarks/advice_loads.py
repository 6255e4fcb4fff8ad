"""The workloads that the advice is validated on: a function of one item, and what its items are.

The facts of five (regular expressions, compression, decompression, files written, a sleep of 1 ms) were looked at while
the model was mended; the others are held out. ``python -m benchmarks.advice_loads`` is the server that some of them
wait for.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import functools
import hashlib
import io
import itertools
import json
import os
import random
import re
import socket
import sqlite3
import string
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

__all__ = ["LOADS", "Load", "server"]

PORT = "FULLCOURT_ADVICE_PORT"
FOLDER = "FULLCOURT_ADVICE_FOLDER"
DELAY_S = 0.004


@dataclass(frozen=True)
class Load:
    """A workload.

    Attributes:
        name: in the tables.
        fn: of one item.
        items: an endless supply.
        needs: a module without which it is left out.
    """

    name: str
    fn: Callable[[Any], Any]
    items: Callable[[], Iterator[Any]] = itertools.count
    needs: str | None = None


random_ = random.Random(7)
WORDS = ["".join(random_.choices(string.ascii_lowercase, k=random_.randint(3, 9))) for _ in range(2000)]
TEXT = " ".join(random_.choices(WORDS, k=4000))
DOCUMENT = {"rows": [{"id": i, "name": WORDS[i], "values": [i * 0.5, i * 2, None]} for i in range(300)]}
JSON = json.dumps(DOCUMENT)
BLOCK = random_.randbytes(1 << 20)
SQUEEZABLE = (TEXT * 10).encode()[: 1 << 18]
PATTERN = re.compile(r"\b(?:[a-z]{2,4}ing|[aeiou]\w+[aeiou])\b")
CSV = "\n".join(",".join(map(str, (i, WORDS[i % 2000], i / 7, i % 5))) for i in range(800))
SMALL = b"x" * 2048


def python_loop(n: int) -> int:
    total = 0
    for i in range(30_000):
        total += (i ^ n) % 7
    return total


def primes(n: int) -> int:
    sieve = bytearray([1]) * 3000
    for i in range(2, 55):
        if sieve[i]:
            for j in range(i * i, 3000, i):
                sieve[j] = 0
    return sum(sieve)


def regex(n: int) -> int:
    return sum(1 for _ in PATTERN.finditer(TEXT))


def parse_json(n: int) -> int:
    return len(json.loads(JSON)["rows"])


def dump_json(n: int) -> int:
    return len(json.dumps(DOCUMENT))


def compress(n: int) -> int:
    return len(zlib.compress(SQUEEZABLE, 6))


def decompress(n: int) -> int:
    return len(zlib.decompress(squeezed()))


@functools.cache
def squeezed() -> bytes:
    return zlib.compress(SQUEEZABLE, 6)


def hash_large(n: int) -> str:
    return hashlib.sha256(BLOCK).hexdigest()


def hash_small(n: int) -> str:
    return hashlib.sha256(b"%d" % n).hexdigest()


def derive_key(n: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", b"court", b"%d" % n, 5000)


def encode(n: int) -> int:
    return len(base64.b85encode(SMALL * 8))


def decimals(n: int) -> Decimal:
    with localcontext() as context:
        context.prec = 300
        return (Decimal(n) + 2).sqrt().exp()


def read_csv(n: int) -> float:
    return sum(float(row[2]) for row in csv.reader(io.StringIO(CSV)))


def tiny(n: int) -> int:
    return n + 1


@functools.cache
def array(n: int) -> Any:
    import numpy as np

    return np.random.default_rng(1).random(n)


def arrays_small(n: int) -> float:
    a = array(500)
    b = a
    for _ in range(150):
        b = b * 0.5 + a
    return float(b.sum())


def arrays_large(n: int) -> float:
    a = array(1_000_000)
    return float((a * 1.5 + a).sum())


def matrices(n: int) -> float:
    a = array(250_000).reshape(500, 500)
    return float((a @ a)[0, 0])


def sorting(n: int) -> float:
    import numpy as np

    return float(np.sort(array(300_000))[n % 1000])


def read_file(n: int) -> int:
    path = os.path.join(os.environ[FOLDER], f"read-{n % 64}")
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return len(file.read())
    with open(path, "wb") as file:
        return file.write(BLOCK[: 1 << 17])


def write_file(n: int) -> int:
    path = os.path.join(os.environ[FOLDER], f"write-{os.getpid()}-{threading.get_ident()}-{n % 512}")
    with open(path, "wb") as file:
        file.write(SMALL * 4)
    os.unlink(path)
    return n


def sync_file(n: int) -> int:
    path = os.path.join(os.environ[FOLDER], f"sync-{os.getpid()}-{threading.get_ident()}-{n % 512}")
    with open(path, "wb") as file:
        file.write(SMALL)
        file.flush()
        os.fsync(file.fileno())
    os.unlink(path)
    return n


def fetch(n: int) -> bytes:
    with socket.create_connection(("127.0.0.1", int(os.environ[PORT])), timeout=60) as link:
        link.sendall(b"%d\n" % n)
        data = b""
        while block := link.recv(1 << 16):
            data += block
    return data[:8]


def fetch_and_parse(n: int) -> int:
    fetch(n)
    return sum(len(json.loads(JSON)["rows"]) for _ in range(3))


def fetch_and_hash(n: int) -> str:
    fetch(n)
    return hash_large(n)


def nap(n: int) -> int:
    time.sleep(0.001)
    return n


def large_argument(data: list[int]) -> int:
    return sum(data)


def large_arguments() -> Iterator[list[int]]:
    for i in itertools.count():
        yield list(range(i, i + 100_000))


def large_bytes(data: bytes) -> int:
    return zlib.crc32(data)


def blocks() -> Iterator[bytes]:
    return itertools.repeat(BLOCK * 4)


def large_result(n: int) -> list[str]:
    return [f"{n}-{i}" for i in range(20_000)]


def run_program(n: int) -> int:
    return subprocess.run(["/bin/true"], check=True).returncode


def connection() -> sqlite3.Connection:
    path = os.path.join(os.environ[FOLDER], "court.sqlite")
    found = sqlite3.connect(path, timeout=60)
    with contextlib.suppress(sqlite3.OperationalError):
        found.execute("create table games (id integer primary key, name text, points integer)")
        found.executemany("insert into games values (?, ?, ?)", ((i, WORDS[i % 2000], i % 97) for i in range(20_000)))
        found.commit()
    return found


def query(n: int) -> int:
    with contextlib.closing(connection()) as database:
        found = database.execute("select sum(points) from games where id % 7 = ?", (n % 7,)).fetchone()[0]
        return int(found or 0)  # who comes first may find it empty: another one fills it just now


def insert(n: int) -> int:
    with contextlib.closing(connection()) as database:
        database.execute("pragma synchronous = off")
        database.execute("update games set points = points + 1 where id = ?", (n % 20_000,))
        database.commit()
    return n


LOADS = (
    Load("a loop in Python", python_loop),
    Load("a sieve in Python", primes),
    Load("regular expressions", regex),
    Load("JSON, read", parse_json),
    Load("JSON, written", dump_json),
    Load("CSV, read", read_csv),
    Load("decimal numbers", decimals),
    Load("base 85", encode),
    Load("compression", compress),
    Load("decompression", decompress),
    Load("hashing, 1 MiB", hash_large),
    Load("hashing, some bytes", hash_small),
    Load("keys from passwords", derive_key),
    Load("next to nothing", tiny),
    Load("arrays, small", arrays_small, needs="numpy"),
    Load("arrays, large", arrays_large, needs="numpy"),
    Load("matrix products", matrices, needs="numpy"),
    Load("arrays, sorted", sorting, needs="numpy"),
    Load("files, read", read_file),
    Load("files, written", write_file),
    Load("files, synced", sync_file),
    Load("network waits", fetch),
    Load("parsing after a wait", fetch_and_parse),
    Load("hashing after a wait", fetch_and_hash),
    Load("sleep, 1 ms", nap),
    Load("large arguments, lists", large_argument, large_arguments),
    Load("large arguments, bytes", large_bytes, blocks),
    Load("large results", large_result),
    Load("programs started", run_program),
    Load("SQLite, queries", query),
    Load("SQLite, updates", insert),
)


async def serve() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.readline()
            await asyncio.sleep(DELAY_S)
            writer.write(SMALL)
            await writer.drain()
            writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    listening.close()


@contextlib.contextmanager
def server() -> Iterator[None]:
    """The server and the folder that the workloads use."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.advice_loads"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None
        assert process.stdout is not None
        os.environ[PORT] = process.stdout.readline().decode().strip()
        os.environ[FOLDER] = folder
        try:
            yield
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(10)


if __name__ == "__main__":
    asyncio.run(serve())
