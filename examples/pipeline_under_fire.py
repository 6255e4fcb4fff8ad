"""A three-stage pipeline over 100,000 records, whose workers are killed at random: none is lost, none comes twice.

Reading is done by threads, parsing by processes, writing by one thread; the three overlap, and the number of records on
their way is bounded. Meanwhile a thread kills parsing processes.

Run it: `python examples/pipeline_under_fire.py`

An item that ran when its worker was killed is run again (`retries`); what had not started goes elsewhere by itself.
"""

import os
import random
import signal
import sqlite3
import threading
import time

import fullcourt
from fullcourt import Stage

N_RECORDS = 100_000
N_KILLED = 25


def read(number):
    """Fetch a record's raw text; here it is made up."""
    return f"{number};court-{number % 7};{number * 3}"


def parse(line):
    """Take a record apart: the part that computes."""
    number, court, points = line.split(";")
    return int(number), court, int(points)


database = sqlite3.connect(":memory:", check_same_thread=False)
database.execute("create table games (number integer primary key, court text, points integer)")


def write(row):
    """Store a record. Its number is unique in the table: a record that came twice would be an error."""
    database.execute("insert into games values (?, ?, ?)", row)


def kill_some(results, over, killed):
    """Kill a parsing process now and then, until it is over or enough are dead."""
    dice = random.Random(2026)
    while len(killed) < N_KILLED and not over.wait(dice.uniform(0.01, 0.05)):
        pids = [worker.pid for worker in results.statistics()[1].pool.workers if worker.n_done]
        if pids:
            try:
                os.kill(dice.choice(pids), signal.SIGKILL)
            except ProcessLookupError:  # it had just ended
                continue
            killed.append(1)


began = time.perf_counter()
with fullcourt.Pool(threads=1) as pool:
    line = pool.pipeline(
        Stage(read, threads=4),
        Stage(parse, processes=2, retries=50),
        Stage(write, threads=1),
    )
    results = line.imap_unordered(range(N_RECORDS))
    over, killed = threading.Event(), []
    with fullcourt.Thread(target=kill_some, args=(results, over, killed)):
        n_written = sum(1 for _ in results)
        over.set()
    stages = results.statistics()

n_rows, checksum = database.execute("select count(*), sum(points) from games").fetchone()
assert n_written == n_rows == N_RECORDS
assert checksum == 3 * sum(range(N_RECORDS))
assert all(stage.n_done == N_RECORDS and stage.n_failed == 0 for stage in stages)
print(f"{n_rows:,} records read, parsed and written in {time.perf_counter() - began:.1f} s")
print(f"{len(killed)} workers killed, {stages[1].pool.n_retried} records parsed again, none lost, none twice")
