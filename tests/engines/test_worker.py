"""What a worker has told, and what it leaves in its journal, if it dies at any point whatever."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from fullcourt._engines import worker as module
from fullcourt._engines.worker import Worker
from fullcourt._os.soft_stop import Slot
from fullcourt._transport import frames, journal
from fullcourt._transport.codec import Codec, decode
from fullcourt._transport.journal import REGION_BYTES, Journal, read_results, started_chunk
from fullcourt._transport.link import Frame, make_frame, read_body
from fullcourt._transport.remote_errors import load_exception

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="frames with descriptors are Linux's")

Outcome = tuple[str, Any]  # ("value", what the item gave) or ("error", what it raised)


class FakeEnd:
    """The worker's end of a link that keeps what the worker sends."""

    make_frame = staticmethod(make_frame)

    def __init__(self) -> None:
        self.answers: list[tuple[int, int, int, list[Outcome]]] = []  # kind, chunk, start, outcomes

    def send(self, frame: Frame) -> None:
        fields = frames.unpack(frame.data)
        body = read_body(frame.data, fields, frame.fd)
        kind, chunk_id, start = fields[0], fields[3], fields[4]
        outcomes: list[Outcome] = []
        if kind == frames.RESULTS:
            outcomes = [("value", value) for value in decode(body.payload, body.buffers)]
            assert len(outcomes) == fields[5]
        elif kind == frames.RESULT:
            outcomes = [("value", decode(body.payload, body.buffers))]
        elif kind == frames.ERROR:
            outcomes = [("error", repr(load_exception(body.payload)))]
        self.answers.append((kind, chunk_id, start, outcomes))


class Rig:
    """A worker of one slot, driven by hand."""

    def __init__(self, page: mmap.mmap) -> None:
        self.page = page
        self.end = FakeEnd()
        self.worker: Any = Worker(self.end, page, 1, Codec())  # type: ignore[arg-type]
        self.journal = Journal(page, 0)
        self.journal.slot = Slot()

    def run(
        self, kind: int, chunk_id: int, fn: Callable[..., Any] | None, payload: object, function_id: int = 1
    ) -> None:
        function = b"" if fn is None else Codec().encode(fn)[0]
        data, buffers = Codec().encode(payload)
        count = len(payload) if kind != frames.CALL and isinstance(payload, list) else 1
        frame = make_frame(kind, function_id, chunk_id, 0, count, 0.0, function, data, buffers)
        self.worker._run_frame(self.journal, frames.unpack(frame.data), frame.data, frame.fd)

    def outcomes_if_it_died_now(self, chunk_id: int, count: int) -> list[Outcome]:
        """What the pool would take for the outcomes of this chunk, in its order."""
        outcomes: list[Outcome] = []
        for _, of_chunk, start, told in self.end.answers:
            if of_chunk == chunk_id:
                assert start == len(outcomes), "told twice, or out of order"
                outcomes += told
        if started_chunk(self.page, 0) == chunk_id:
            outcomes += [("value", value) for value in read_results(self.page, 0, len(outcomes), count)]
        return outcomes


@pytest.fixture
def rig() -> Iterator[Rig]:
    with mmap.mmap(-1, REGION_BYTES) as page:
        rig = Rig(page)
        yield rig
        rig.journal.close()


def at_every_line(look: Callable[[], None], act: Callable[[], None]) -> int:
    """Act, and look before each line that the worker or the journal runs. Returns how often."""
    n_looks = 0
    looking = False

    def local(frame: FrameType, what: str, arg: object) -> Any:
        nonlocal n_looks, looking
        if what == "line" and not looking:
            looking = True
            n_looks += 1
            look()
            looking = False
        return local

    def on_call(frame: FrameType, what: str, arg: object) -> Any:
        if looking or frame.f_code.co_filename not in {module.__file__, journal.__file__}:
            return None
        return local

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        act()
    finally:
        sys.settrace(before)
    return n_looks


KINDS = [None, 7, "text", 2**62, [1, 2], True, -(2**63), b"x" * 70_000, b"y" * 70_000, 3.5, "fails", 8, "fails", "last"]


@pytest.mark.parametrize("previous", [[], [10, 20, 30] * 20, ["a", None, "b"] * 20])
def test_whenever_it_dies_no_item_has_an_outcome_that_it_did_not_come_to(rig: Rig, previous: list[object]) -> None:
    """Nor has any item the outcome of another, or of one of the chunk before."""
    truth: list[Outcome] = [
        ("error", repr(ValueError(index))) if value == "fails" else ("value", value)
        for index, value in enumerate(KINDS)
    ]
    n_begun = 0

    def task(index: int) -> object:
        nonlocal n_begun
        n_begun = index + 1
        if KINDS[index] == "fails":
            raise ValueError(index)
        return KINDS[index]

    if previous:
        rig.run(frames.MAP, 1, lambda value: value, previous)
    rig.worker._functions[2] = task

    def look() -> None:
        found = rig.outcomes_if_it_died_now(2, len(KINDS))
        assert len(found) <= n_begun
        assert found == truth[: len(found)]

    assert at_every_line(look, lambda: rig.run(frames.MAP, 2, None, list(range(len(KINDS))), 2)) > 100
    assert rig.outcomes_if_it_died_now(2, len(KINDS)) == truth


deaths: list[list[Outcome]] = []
the_rig: list[Rig] = []


class Deadly:
    """Looks, while it is read back, at what would be left if that killed the process."""

    def __reduce__(self) -> Any:
        return look_while_loading, ()


def look_while_loading() -> str:
    deaths.append(the_rig[0].outcomes_if_it_died_now(2, 4))
    return "loaded"


@pytest.mark.parametrize("kind", [frames.MAP, frames.STARMAP])
@pytest.mark.parametrize("known", [False, True])
def test_if_reading_its_items_kills_it_they_have_no_outcome(rig: Rig, kind: int, known: bool) -> None:
    """Above all not those of the chunk before, which its journal still holds."""
    deaths.clear()
    the_rig[:] = [rig]
    rig.run(frames.MAP, 1, abs, [1, 2, 3, 4])
    if known:
        rig.worker._functions[2] = str
    rig.run(kind, 2, None if known else str, [(Deadly(),)] * 4, 2)
    the_rig.clear()
    assert deaths
    assert all(found == [] for found in deaths)


def test_while_a_failure_is_described_its_item_has_not_ended(rig: Rig) -> None:
    """Describing it runs the user's code, which may kill the process."""
    found: list[list[Outcome]] = []

    class Telling(Exception):
        def __str__(self) -> str:
            found.append(rig.outcomes_if_it_died_now(1, 3))
            return "described"

    def task(index: int) -> int:
        if index == 1:
            raise Telling
        return index

    rig.worker._functions[1] = task
    rig.run(frames.MAP, 1, None, [0, 1, 2])
    assert found
    assert all(outcomes == [("value", 0)] for outcomes in found)


def test_a_chunk_whose_body_cannot_be_mapped_has_an_answer_for_each_item(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*args: object) -> Any:
        raise OSError(12, "no memory")

    monkeypatch.setattr(module, "read_body", no_memory)
    rig.run(frames.MAP, 1, abs, [1, 2, 3])
    assert (
        sum(len(outcomes) for _, _, _, outcomes in rig.end.answers) == 3 or rig.end.answers[0][0] == frames.UNLOADABLE
    )
