"""A queue that is broadcast: every worker is a user of it, and the pool that keeps it for workers to come is none."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import pytest
from channel_tasks import put_into_broadcast

import fullcourt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="queues need Linux")


@pytest.fixture(params=["fork", "spawn"])
def pool(request: pytest.FixtureRequest) -> Any:
    with fullcourt.Pool(processes=2, start_method=request.param) as opened:
        yield opened


def test_every_worker_has_a_broadcast_queue_and_those_to_come(pool: Any) -> None:
    items: Any = fullcourt.Queue()
    shared = pool.broadcast(items)
    pool.starmap(put_into_broadcast, [(shared, i) for i in range(20)], chunksize=1)
    found = [items.get(timeout=10) for _ in range(20)]
    assert sorted(item for item, _ in found) == list(range(20))
    for pid in {pid for _, pid in found}:
        os.kill(pid, signal.SIGKILL)
    pool.options(retries=5).starmap(put_into_broadcast, [(shared, i) for i in range(20)], chunksize=1)
    again = {items.get(timeout=10) for _ in range(20)}
    assert {item for item, _ in again} == set(range(20))


def test_a_broadcast_queue_ends_when_the_workers_have_closed_it(pool: Any) -> None:
    items: Any = fullcourt.Queue()
    shared = pool.broadcast(items)
    pool.submit(put_into_broadcast, shared, "last").result(60)
    shared.close()
    assert next(iter(items))[0] == "last"
    with pytest.raises(StopIteration):
        next(iter(items))
