"""How arrays travel to joblib's workers: shared, private to each task, or still views of their files."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

joblib = pytest.importorskip("joblib", reason="the tests of its backend need it")
np: Any = pytest.importorskip("numpy", reason="it has no wheel for 3.15 yet")

import fullcourt.joblib  # noqa: E402
from fullcourt.adapters.arrays import SharedArrays, bounds, file_behind  # noqa: E402
from fullcourt.adapters.joblib_backend import FullcourtBackend  # noqa: E402

if sys.platform == "win32":
    pytest.skip("has no fork", allow_module_level=True)

Parallel, delayed = joblib.Parallel, joblib.delayed
LARGE = 200_000  # of float64: above the limit from which arrays are shared


@pytest.fixture(scope="module", autouse=True)
def _workers() -> Iterator[None]:
    """One pool for all of these tests; forked, so that its workers need not import NumPy."""
    fullcourt.joblib.register()
    with joblib.parallel_config(backend="fullcourt", n_jobs=2, start_method="fork"):
        run(delayed(abs)(x) for x in range(2))
        yield


def run(calls: Any, **options: Any) -> list[Any]:
    found: list[Any] = Parallel(**options)(calls)
    return found


def n_blocks() -> int:
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return sum("fullcourt-array" in link for link in links)


def overwrite_and_sum(array: Any) -> float:
    before = float(array.sum())
    array[:] = -1
    return before


def set_item(array: Any, index: int, value: float) -> None:
    array[index] = value


def identity(x: Any) -> Any:
    return x


def place(array: Any) -> str:
    """The block that an array of a task lies in."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            return " ".join(line.split()[4:])
    raise AssertionError


def test_every_task_sees_the_array_as_it_was_and_may_write_to_it() -> None:
    array = np.ones(LARGE)
    assert run((delayed(overwrite_and_sum)(array) for _ in range(6)), batch_size=1) == [LARGE] * 6
    assert array.sum() == LARGE


def test_one_block_serves_all_tasks() -> None:
    array = np.ones(LARGE)
    places = set(run((delayed(place)(array) for _ in range(8)), batch_size=1))
    assert len(places) == 1
    assert "fullcourt-array" in places.pop()
    assert len(set(run((delayed(place)(array[0:]) for _ in range(8)), batch_size=1))) == 1  # new views of one array


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.arange(LARGE, dtype="f4").reshape(2, -1),
        lambda: np.asfortranarray(np.arange(LARGE, dtype=float).reshape(100, -1)),
        lambda: np.arange(LARGE * 2, dtype=float)[::2],
        lambda: np.arange(LARGE)[::-1],
        lambda: np.array([object] * LARGE),
        lambda: np.zeros(LARGE, dtype=[("a", "i4"), ("b", "f8")]),
        lambda: np.arange(LARGE).astype("datetime64[s]"),
        lambda: np.array(["text"] * LARGE),
        lambda: np.zeros((0, 5)),
        lambda: np.array(3.5),
    ],
    ids=["c", "fortran", "strided", "backwards", "objects", "records", "dates", "texts", "empty", "scalar"],
)
@pytest.mark.parametrize("max_nbytes", [1, "1M", None])
def test_arrays_of_all_kinds_arrive(make: Any, max_nbytes: Any) -> None:
    array = make()
    found, again = run((delayed(identity)(x) for x in (array, [array])), max_nbytes=max_nbytes)
    for result in (found, again[0]):
        assert result.dtype == array.dtype
        assert result.shape == array.shape
        assert (result == array).all()


def test_blocks_are_gone_after_the_call_and_what_changed_is_seen_by_the_next() -> None:
    array = np.ones(LARGE)
    assert run(delayed(np.sum)(array) for _ in range(3)) == [LARGE] * 3
    assert n_blocks() == 0
    array[:] = 2
    assert run(delayed(np.sum)(array) for _ in range(3)) == [2 * LARGE] * 3


def test_blocks_are_gone_after_an_error() -> None:
    array = np.ones(LARGE)
    with pytest.raises(ZeroDivisionError):
        Parallel(n_jobs=2, backend=FullcourtBackend(start_method="fork"))(
            [delayed(np.sum)(array), delayed(divmod)(1, 0)]
        )
    assert n_blocks() == 0


def test_arrays_made_on_the_way_do_not_pile_up() -> None:
    highest = 0

    def calls() -> Any:
        nonlocal highest
        for x in range(100):
            gc.collect(0)
            highest = max(highest, n_blocks())
            yield delayed(np.mean)(np.full(LARGE, float(x)))

    assert run(calls(), batch_size=1) == list(range(100))
    assert highest < 30


def test_a_file_stays_a_file(tmp_path: Path) -> None:
    """joblib's documentation has tasks write their results into one."""
    file = np.memmap(tmp_path / "file", dtype="f8", mode="w+", shape=(10, 4))
    run(delayed(set_item)(file, (i, slice(None)), i) for i in range(10))
    assert (file == np.arange(10.0)[:, None]).all()
    run(delayed(set_item)([file[5:]][0], (i, slice(None)), -i) for i in range(5))  # views of it
    assert (file[5:] == -np.arange(5.0)[:, None]).all()
    run(delayed(set_item)(np.asarray(file).T[:, ::-2], (slice(None), i), 77) for i in range(5))
    assert (file[9::-2] == 77).all()
    readonly = np.memmap(tmp_path / "file", dtype="f8", mode="r", shape=(10, 4))
    with pytest.raises(ValueError, match="read-only"):
        run((delayed(set_item)(readonly, (i, 0), 0) for i in range(2)), backend=FullcourtBackend(start_method="fork"))
    assert isinstance(run([delayed(type)(readonly), delayed(type)(readonly)])[0], type)
    del file, readonly


@pytest.mark.parametrize("view", [np.s_[:], np.s_[3:7], np.s_[::-1], np.s_[1:, ::2], np.s_[:0], np.s_[2]])
def test_views_of_a_file_arrive_as_they_are(view: Any, tmp_path: Path) -> None:
    np.arange(40.0).tofile(tmp_path / "file")
    whole = np.memmap(tmp_path / "file", dtype="f8", mode="r", shape=(10, 4))
    part = whole[view]
    assert file_behind(part) is whole
    low, high = bounds(part)
    assert 0 <= high - low <= whole.nbytes
    for function in (identity, np.array):
        assert (run([delayed(function)(part)] * 2)[0] == np.arange(40.0).reshape(10, 4)[view]).all()


def test_without_numpy_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "numpy")
    assert SharedArrays().reducers() is None
