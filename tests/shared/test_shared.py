"""`share` and `empty`: no copies, no names, nothing left."""

from __future__ import annotations

import array as stdlib_array
import copy
import fcntl
import gc
import mmap
import os
import pickle
import sys
from pathlib import Path

import pytest

import fullcourt
from fullcourt import PicklingError, Pool, Process, WorkerDied
from tests.methods import start_methods
from tests.shared import shared_tasks as tasks

if not sys.platform.startswith("linux") or os.environ.get("FULLCOURT_TRANSPORT") == "portable":
    pytest.skip("shared memory needs Linux's descriptors", allow_module_level=True)

np = pytest.importorskip("numpy")
T = 60.0
KINDS = [{"processes": 2, "start_method": method} for method in start_methods()] + [
    {"processes": 1, "threads": 2},
    {"threads": 2},
    {"processes": 0},
]
if sys.version_info >= (3, 14):
    KINDS.append({"interpreters": 1})


def name_of(kind):
    return "-".join(f"{key}={value}" for key, value in kind.items())


@pytest.fixture(params=KINDS, ids=name_of)
def pool(request):
    with Pool(**request.param) as pool:
        yield pool


def without_numpy(pool):
    return pool.interpreters is not None  # NumPy does not load in sub-interpreters


def n_maps():
    return sum("/memfd:fullcourt-shared " in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_bytes_are_opened_by_every_kind_of_worker(pool):
    with fullcourt.share(b"basketball" * 10_000) as shared:
        assert pool.starmap(tasks.first_bytes, [(shared, 6)] * 4) == [b"basket"] * 4


def test_an_array_is_opened_by_every_kind_of_worker(pool):
    if without_numpy(pool):
        pytest.skip("NumPy does not load in sub-interpreters")
    shared = fullcourt.share(np.arange(100_000.0))
    assert pool.map(tasks.total, [shared] * 3) == [4999950000.0] * 3
    assert "read-only" in pool.apply(tasks.try_to_write, (shared,))


def test_what_a_worker_writes_the_others_see(pool):
    if without_numpy(pool):
        pytest.skip("NumPy does not load in sub-interpreters")
    totals = fullcourt.empty((2, 5), "int64")
    pool.starmap(tasks.write_at, [(totals[1], i, i * i) for i in range(5)])
    assert totals.tolist() == [[0] * 5, [0, 1, 4, 9, 16]]
    writable = fullcourt.share(bytearray(8), writable=True)
    pool.starmap(tasks.write_at, [(writable, i, i) for i in range(8)])
    assert bytes(writable.open()) == bytes(range(8))


def test_views_travel_without_a_copy_both_ways():
    totals = fullcourt.empty((4, 4), float)
    totals[:] = np.arange(16).reshape(4, 4)
    with Pool(1) as pool:
        for view in (totals, totals[1:, 2], totals.T, totals[::-1, ::-2], totals[2, 2:2], totals[3, 3:].reshape(())):
            back = pool.apply(tasks.same, (view,))
            assert np.array_equal(back, view)
            assert np.shares_memory(back, view) or not view.size
            assert back.strides == view.strides or not view.size
        made = pool.apply(tasks.make_shared, (5,))
        assert made.tolist() == [0, 1, 2, 3, 4]
        pool.apply(tasks.write_at, (made, 0, 9))
        assert made[0] == 9


def test_what_is_computed_from_it_is_an_ordinary_array():
    totals = fullcourt.empty(3, int)
    assert type(totals + 1) is np.ndarray
    assert type(np.sqrt(totals)) is np.ndarray
    assert isinstance(totals.sum(), np.integer)
    for copied in (copy.copy(totals), copy.deepcopy(totals), np.array(totals)):
        assert type(copied) is np.ndarray
        assert not np.shares_memory(copied, totals)
    plain = totals.copy()
    assert pickle.loads(pickle.dumps(plain)).tolist() == [0, 0, 0]  # it bears the class, but lies elsewhere
    totals += 2
    assert totals.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3)),
        np.array(5),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24).reshape(2, 3, 4).transpose(1, 2, 0),
        np.arange(10)[::2],
        np.array(["2026-11-22"], dtype="datetime64[D]"),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        np.array(["a", "bcd"]),
    ],
    ids=lambda array: f"{array.shape}-{array.dtype.kind}",
)
def test_every_plain_array_keeps_its_content_and_type(array):
    with Pool(1) as pool:
        back = pool.apply(tasks.content, (fullcourt.share(array),))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert np.array_equal(back, array)
    assert not back.flags.writeable or not back.size


@pytest.mark.parametrize(
    "obj", [b"abc", bytearray(b"abc"), memoryview(b"xaxbxc")[1::2], stdlib_array.array("b", b"abc"), b""]
)
def test_everything_bytes_like(obj):
    shared = fullcourt.share(obj if not isinstance(obj, stdlib_array.array) else memoryview(obj))
    assert bytes(shared.open()) == bytes(obj)
    assert shared.open().readonly


def test_a_mapped_file_can_be_shared(tmp_path):
    (tmp_path / "f").write_bytes(b"content")
    with (tmp_path / "f").open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert bytes(fullcourt.share(mapped).open()) == b"content"


def test_an_object_shares_its_buffers():
    obj = {"name": "court", "small": np.arange(3), "large": np.arange(100_000), "objects": np.array([None, "x"])}
    shared = fullcourt.share(obj)
    one, two = shared.open(), shared.open()
    assert one["name"] == "court"
    assert one["objects"].tolist() == [None, "x"]
    for key in ("small", "large"):
        assert np.array_equal(one[key], obj[key])
        assert np.shares_memory(one[key], two[key])
        assert not one[key].flags.writeable
    writable = fullcourt.share(obj, writable=True)
    writable.open()["large"][0] = 77
    assert writable.open()["large"][0] == 77
    assert obj["large"][0] == 0


def test_objects_of_main_and_lambdas_can_be_shared(pool):
    assert pool.apply(lambda handle: handle.open()(3), (fullcourt.share(lambda x: x + 1),)) == 4


def test_an_arrow_table_is_not_copied():
    pa = pytest.importorskip("pyarrow")
    shared = fullcourt.share(pa.table({"a": range(50_000)}))
    one, two = shared.open(), shared.open()
    assert one.column("a")[49_999].as_py() == 49_999
    address = [table.column("a").chunk(0).buffers()[1].address for table in (one, two)]
    assert address[0] == address[1]


def test_a_sealed_block_cannot_be_written_or_cut_by_anybody():
    shared = fullcourt.share(b"x" * 10_000)
    writable = fullcourt.empty(3)
    fd = shared._block._fd
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"y", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 10_000)  # shared and writable
    with pytest.raises(PermissionError):
        os.ftruncate(writable._block._fd, 0)
    assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE


def test_a_process_maps_a_block_once_however_often_it_arrives():
    shared = fullcourt.share(np.arange(1000))
    again = pickle_here(shared)
    assert again is not shared
    assert n_maps() == 1
    with Pool(1) as pool:
        assert pool.apply(tasks.twice_mapped, ([shared, again, shared],)) == 1


def pickle_here(obj):
    """Send an object to this very process."""
    from fullcourt._transport.codec import Codec, decode

    data, buffers = Codec().encode(obj)
    return decode(data, buffers, buffers.rights.fds)


def test_it_is_freed_with_its_last_user():
    with Pool(1) as pool:
        shared = fullcourt.share(np.arange(1000))
        view = shared.open()
        pool.apply(tasks.total, (shared,))
        (pid,) = [worker.pid for worker in pool.statistics().workers]
        shared.close()
        assert view[999] == 999  # what was opened stays
        with pytest.raises(ValueError, match="closed"):
            shared.open()
        with pytest.raises(Exception, match="closed"):
            pool.apply(tasks.total, (shared,))
        assert n_maps() == 1
        del view, shared
        gc.collect()
        assert n_maps() == 0
        assert pool.apply(abs, (-1,)) == 1
        assert "/memfd:fullcourt-shared " not in Path(f"/proc/{pid}/maps").read_text()
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert "/memfd:fullcourt-shared (deleted)" not in links


def test_a_killed_worker_takes_nothing_with_it_and_leaves_nothing():
    before = set(os.listdir("/dev/shm"))
    shared = fullcourt.share(np.arange(100_000.0))
    with Pool(2) as pool:
        lost = [pool.submit(tasks.hold_and_die, shared) for _ in range(4)]
        for future in lost:
            assert isinstance(future.exception(T), WorkerDied)
        assert pool.apply(tasks.total, (shared,)) == 4999950000.0
    mine = {name for name in set(os.listdir("/dev/shm")) - before if "fullcourt" in name or name.startswith("psm_")}
    assert not mine


@pytest.mark.parametrize("method", start_methods())
def test_processes_get_handles_and_give_them(method):
    shared = fullcourt.share(np.arange(10.0))
    with Process(target=tasks.total, args=(shared,), start_method=method) as process:
        assert process.result(T) == 45.0
    with Process(target=tasks.make_shared, args=(4,), start_method=method) as process:
        made = process.result(T)  # its maker has ended
    assert made.tolist() == [0, 1, 2, 3]


def test_an_initializer_gets_a_handle():
    shared = fullcourt.share(b"for all")
    for method in start_methods():
        with Pool(1, initializer=tasks.first_bytes, initargs=(shared, 3), start_method=method) as pool:
            assert pool.apply(abs, (-2,)) == 2


def test_elsewhere_it_cannot_be_pickled_and_says_why():
    for obj in (fullcourt.share(b"abc"), fullcourt.empty(3)):
        with pytest.raises(PicklingError, match="descriptors"):
            pickle.dumps(obj)
    with pytest.raises(PicklingError, match="Share its parts"):
        fullcourt.share({"inside": fullcourt.share(b"abc")})
    with pytest.raises(PicklingError, match="generator"):
        fullcourt.share(x for x in range(3))


def test_bad_arguments_are_told():
    with pytest.raises(TypeError, match="Python objects"):
        fullcourt.empty(3, object)
    with pytest.raises(ValueError, match="negative"):
        fullcourt.empty(-1)
    with pytest.raises(TypeError):
        fullcourt.empty("abc")
    assert fullcourt.empty(()).shape == ()
    assert fullcourt.empty((3, 0)).size == 0
    assert fullcourt.empty((2, 3), "f4", order="F").flags.f_contiguous


def test_a_repr_tells_what_it_is():
    shared = fullcourt.share(b"abc")
    assert repr(shared) == "<Shared bytes of 64 bytes, read-only>"
    shared.close()
    shared.close()
    assert repr(shared) == "<Shared bytes of 64 bytes, closed>"
