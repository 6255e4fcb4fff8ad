"""A pool that nobody holds ends, whatever became of its tasks."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import pytest

import fullcourt


def fail_or_hold(job: tuple[str, str]) -> None:
    folder, what = job
    Path(folder, what).touch()
    while not Path(folder, "hold").exists():
        time.sleep(0.001)
    if what == "fail":
        raise ValueError(what)
    while not Path(folder, "gate").exists():
        time.sleep(0.001)


@pytest.mark.parametrize("options", [{"processes": 2}, {"threads": 2}], ids=["processes", "threads"])
def test_a_pool_is_let_go_though_items_of_a_failed_map_still_run(options: dict[str, Any], tmp_path: Path) -> None:
    def use() -> Any:
        pool = fullcourt.Pool(**options)
        with pytest.raises(ValueError, match="fail"):
            pool.map(fail_or_hold, [(str(tmp_path), word) for word in ("fail", "hold")], 1)
        return pool._driver

    driver = use()
    until = time.monotonic() + 30
    while not driver._abandoned:  # the thread that told of the failure may still have it in hand
        assert time.monotonic() < until
        gc.collect()
    (tmp_path / "gate").touch()
    assert driver.ended.wait(60)
    driver.roles.join()
