"""The model: pure, held against what was recorded, and against what must be so whatever was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from advise_tasks import facts_like
from hypothesis import given, settings
from hypothesis import strategies as st

from fullcourt._advise.advice import advise_from
from fullcourt._advise.facts import Facts, Stretch, Transport
from fullcourt._advise.model import Mode, candidates, choose, demands_of, predict

RECORDED = Path(__file__).parents[2] / "benchmarks" / "advice.json"

seconds = st.floats(1e-7, 10.0)
share = st.floats(0.0, 1.0)


@st.composite
def stretches(draw: st.DrawFn, at_work: float) -> Stretch:
    wall = draw(seconds)
    cpu = wall * draw(share)
    gil = draw(st.none() | share.map(lambda x: x * wall))
    return Stretch(
        n_items=draw(st.integers(0, 10**6)),
        at_work=at_work,
        wall_s=wall,
        cpu_s=cpu,
        queued_s=(wall - cpu) * draw(share),
        helper_s=wall * draw(share),
        gil_s=gil,
        gil_wait_s=None if gil is None else (wall - cpu) * draw(share),
        spread=draw(st.floats(0, 5)),
    )


@st.composite
def any_facts(draw: st.DrawFn) -> Facts:
    return Facts(
        alone=draw(stretches(1.0)),
        pair=draw(st.none() | stretches(2.0)),
        transport=Transport(
            draw(st.sampled_from(["", "it is a lock"])),
            *(draw(st.floats(0, 1e9)) if i % 3 == 0 else draw(share) for i in range(6)),
        ),
        cores=draw(st.integers(1, 64)),
        free_threaded=draw(st.booleans()),
        foreign_cores=draw(st.floats(0, 64)),
        start_method=draw(st.sampled_from(["fork", "spawn", "forkserver"])),
    )


@settings(deadline=None, max_examples=60)
@given(any_facts(), st.none() | st.integers(1, 10**7))
def test_whatever_was_measured_there_is_a_choice_with_a_range(facts: Facts, n_items: int | None) -> None:
    predictions = predict(facts, n_items=n_items)
    for prediction in predictions:
        assert 0 < prediction.low <= prediction.rate <= prediction.high
        assert math.isfinite(prediction.high)
    chosen = choose(predictions, facts, n_items=n_items)
    assert chosen in predictions
    assert str(advise_from(facts, n_items=n_items))
    if facts.transport.obstacle:
        assert not chosen.mode.processes


@given(any_facts())
@settings(deadline=None, max_examples=60)
def test_facts_survive_json(facts: Facts) -> None:
    assert Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize("data", [{}, {"format": 1}, {"format": 2, "alone": {}}])
def test_what_are_no_facts_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="facts"):
        Facts.from_json(data)


@given(any_facts(), st.integers(1, 1000))
@settings(deadline=None, max_examples=60)
def test_the_choice_is_never_predicted_to_be_much_slower_than_serial(facts: Facts, n_items: int) -> None:
    predictions = predict(facts, n_items=n_items)
    serial = next(p for p in predictions if p.mode == Mode(0, 1))
    chosen = choose(predictions, facts, n_items=n_items)
    assert chosen.seconds_for(n_items) <= 1.07 * serial.seconds_for(n_items)


def choice_for(facts: Facts, n_items: int | None = None) -> Mode:
    return advise_from(facts, n_items=n_items).choice


def test_python_code_goes_to_processes_one_for_each_core() -> None:
    assert choice_for(facts_like("python")) == Mode(2, 1)
    assert choice_for(facts_like("python", cores=8)) == Mode(8, 1)


def test_native_code_stays_in_threads() -> None:
    assert choice_for(facts_like("native")) == Mode(0, 2)


def test_where_much_is_waited_for_many_go_at_a_time() -> None:
    assert choice_for(facts_like("wait", wall=0.02)).n_slots >= 16


def test_on_free_threaded_python_threads_come_first() -> None:
    assert choice_for(facts_like("python", free_threaded=True)) == Mode(0, 2)


def test_what_does_not_pickle_stays_here() -> None:
    assert choice_for(facts_like("python", obstacle="a lock")).processes == 0


def test_a_small_job_starts_no_process() -> None:
    assert choice_for(facts_like("python"), n_items=40) == Mode(0, 1)
    assert choice_for(facts_like("python"), n_items=4000) == Mode(2, 1)


def test_large_arguments_are_not_sent() -> None:
    facts = facts_like("python", wall=0.01)
    heavy = replace(facts, transport=Transport("", 2e8, 0.05, 0.05, 8, 1e-6, 1e-6))
    assert choice_for(heavy).processes == 0


def test_where_nobody_saw_the_gil_the_pair_tells_of_it() -> None:
    for kind, most in (("python", 0.01), ("native", 0.9)):
        facts = facts_like(kind)
        unseen = replace(facts, alone=replace(facts.alone, gil_s=None))
        native = demands_of(unseen).native / facts.alone.wall_s
        assert native <= most if kind == "python" else native >= most


def test_a_disk_that_serves_one_at_a_time_is_not_taken_for_the_gil() -> None:
    alone = Stretch(50, 1.0, 0.01, 0.001, gil_s=0.001, gil_wait_s=0.0)
    pair = Stretch(50, 2.0, 0.02, 0.001, gil_s=0.001, gil_wait_s=0.0)
    demands = demands_of(Facts(alone, pair, Transport(), 2))
    assert demands.shared > 0.005
    assert demands.gil == pytest.approx(0.001)


def test_a_mode_with_more_workers_than_items_is_no_faster_for_it() -> None:
    facts = facts_like("wait", wall=0.1)
    few = {p.mode: p.rate for p in predict(facts, n_items=2)}
    assert few[Mode(0, 32)] == pytest.approx(few[Mode(0, 2)], rel=0.01)


def test_candidates_hold_each_kind_once_for_each_size() -> None:
    for cores in (1, 2, 4, 16, 96):
        modes = candidates(cores)
        assert len(modes) == len(set(modes))
        assert {mode.kind for mode in modes} >= {"serial", "threads", "processes"}
        assert all(not mode.processes for mode in candidates(cores, can_part=False))


def test_the_advice_holds_against_recorded_truth() -> None:
    """What `python -m benchmarks.advice` measured: the facts of each workload, and what each mode really did.

    The best of many noisy rates is a lucky one: what was chosen counts as it did in a duel with that, if there was one.
    """
    shares = []
    for load in json.loads(RECORDED.read_text())["workloads"]:
        truth = {Mode(t["processes"], t["threads"]): t["rate"] for t in load["truth"]}
        facts = Facts.from_json(load["facts"])
        chosen = choose(predict(facts, modes=list(truth)), facts).mode
        duel = load["duel"]
        has_dueled = duel is not None and Mode(*duel["of"]) == chosen
        shares.append(min(1.0, duel["ratio"]) if has_dueled else truth[chosen] / max(truth.values()))
    assert len(shares) >= 20
    assert sum(share >= 0.9 for share in shares) >= 0.85 * len(shares)
    assert sum(share >= 0.8 for share in shares) >= 0.95 * len(shares)


def test_what_takes_a_microsecond_has_not_waited() -> None:
    """Its wall time is above its CPU time by what the machine did meanwhile."""
    facts = facts_like("wait", wall=1e-6)
    assert demands_of(facts).blocked == 0
    assert choose(predict(facts), facts).mode == Mode(0, 1)
