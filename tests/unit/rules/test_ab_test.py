"""A/B of two arms: when it is over, what is recorded, and what a gate makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.quality.arm_comparison import (
    COMPARE,
    NodeOutcomes,
    Outcomes,
    ab_check,
    awaited,
    compared,
    difference,
    for_a_start,
    highest,
    units_of,
)
from loradeck.schemas.attestation import GateResult
from loradeck.schemas.candidate import Comparison, ComparisonResult, Figure
from loradeck.schemas.counts import BINS
from loradeck.schemas.gate import CompareGate

GATE = CompareGate(figure=Figure.BAD, margin=0.02, keys=50)
ASKED = Comparison(figure=Figure.BAD, step=1, from_ms=0, until_ms=1_000)
NODES = frozenset({"n1", "n2"})


def arm(bad: int = 1, n: int = 100, keys: int = 60, nodes: tuple[str, ...] = ("n1", "n2")) -> Outcomes:
    """Each node says the same of each bin."""
    return {node: NodeOutcomes(keys, dict.fromkeys(range(BINS), (n, 0, n, bad))) for node in nodes}


def result(candidate: Outcomes, live: Outcomes, **changes: Any) -> ComparisonResult:
    found = difference(units_of(candidate, Figure.BAD), units_of(live, Figure.BAD))
    made = ComparisonResult(
        release="a" * 64,
        against="b" * 64,
        generation=3,
        permille=500,
        comparison=ASKED,
        at_ms=9,
        arms=compared(Figure.BAD, candidate, live, found, NODES),
        highest=highest(Figure.BAD, candidate, live, NODES),
    )
    return made.model_copy(update=changes)


def test_it_is_over_at_its_time_or_once_each_arm_has_its_keys_and_not_before() -> None:
    assert awaited(ASKED, {}, {}, 999, NODES) == "1970-01-01 00:00 UTC"
    assert awaited(ASKED, {}, {}, 1_000, NODES) == ""
    by_keys = Comparison(figure=Figure.BAD, step=1, from_ms=0, keys=50)
    assert awaited(by_keys, arm(keys=49), arm(), 10**15, NODES) == "49 of 50 keys in each arm"
    assert awaited(by_keys, arm(keys=50), arm(), 0, NODES) == ""


def test_a_gate_asks_for_an_upper_end_under_its_margin() -> None:
    good, bad = ab_check(GATE, result(arm(), arm())), ab_check(GATE, result(arm(bad=5), arm()))
    assert (good.name, good.passed, good.n, good.at_most) == (COMPARE, True, 60, True)
    assert good.low < 0 < good.high <= good.value < 0.02
    assert (bad.passed, bad.note) == (False, "A/B number 1 of this release")
    assert bad.value > 0.04


@pytest.mark.parametrize(
    ("found", "note"),
    [
        (None, "no A/B of bad against the live release is on record"),
        (result(arm(), arm(), comparison=ASKED.model_copy(update={"figure": Figure.ERRORS})), "no A/B of bad"),
        (result(arm(keys=49), arm()), "49 keys in the smaller arm, 50 are asked for"),
    ],
)
def test_one_that_is_missing_of_another_figure_or_of_too_few_keys_passes_no_gate(
    found: ComparisonResult | None, note: str
) -> None:
    checked = ab_check(GATE, found)
    assert not checked.passed
    assert checked.note.startswith(note)


def test_one_nodes_word_opens_no_gate_where_others_serve_the_pointer() -> None:
    invented = {"n1": arm(n=10_000, bad=0)["n1"], "n2": arm(bad=20)["n2"]}
    found = result(invented, arm())
    assert found.arms.high < 0.02 < found.highest
    assert not ab_check(GATE, found).passed
    alone = arm(nodes=("n1",))
    assert highest(Figure.BAD, alone, alone, frozenset({"n1"})) < 0.02
    assert highest(Figure.BAD, alone, alone, NODES) == 1.0


def test_keys_that_one_node_invents_end_no_ab_and_open_no_gate() -> None:
    many = {"n1": arm(keys=1000)["n1"], "n2": arm(keys=30)["n2"]}
    by_keys = Comparison(figure=Figure.BAD, step=1, from_ms=0, keys=50)
    assert awaited(by_keys, many, many, 0, NODES) == "30 of 50 keys in each arm"
    assert ab_check(GATE, result(many, many)).note == "30 keys in the smaller arm, 50 are asked for"
    alone = {"n1": many["n1"]}
    assert awaited(by_keys, alone, alone, 0, frozenset({"n1"})) == ""


def test_each_further_ab_of_a_release_has_to_be_surer_so_that_who_repeats_them_gets_nothing_through() -> None:
    ends = [highest(Figure.BAD, arm(), arm(), NODES, number) for number in (1, 2, 3, 30)]
    assert ends == sorted(set(ends))
    assert ends[-1] < highest(Figure.BAD, arm(), arm(), NODES, 10**6) < 1
    assert ends[0] == highest(Figure.BAD, arm(), arm(), NODES), "the first is that of 95 %"
    third = ab_check(GATE, result(arm(), arm(), number=3))
    assert third.passed
    assert third.note == "A/B number 3 of this release"


def test_an_arm_that_nobody_asked_is_recorded_as_saying_nothing() -> None:
    found = result({}, arm())
    assert (found.arms.candidate.n, found.arms.low, found.arms.high, found.highest) == (0, -1.0, 1.0, 1.0)
    assert not ab_check(GATE, found).passed


def test_a_start_is_not_bound_by_the_ab_that_needs_it() -> None:
    failed = ab_check(GATE, None)
    judged = GateResult(release="a" * 64, against=None, suite="c" * 64, passed=False, checks=(failed,))
    assert for_a_start(judged).passed
    other = failed.model_copy(update={"name": "exact"})
    assert not for_a_start(judged.model_copy(update={"checks": (failed, other)})).passed
