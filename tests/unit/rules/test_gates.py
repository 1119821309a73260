"""Gates: thresholds, the paired drop, and suites that are too small to tell."""

from __future__ import annotations

import pytest
from tests.unit.rules.simulated_log import digest, rid

from loradeck.rules.errors import Refused
from loradeck.rules.gates import items_needed, judge
from loradeck.schemas.attestation import EvaluationReport, ItemResult
from loradeck.schemas.route import GateConfig

SUITE = digest("suite")


def report(label: str, exact: str, *, valid: str | None = None, first: int = 0, suite: str = SUITE) -> EvaluationReport:
    """One character an item: '+' is exact (and valid, unless `valid` says otherwise)."""
    items = tuple(
        ItemResult(id=f"i{first + i}", answer="", exact=e == "+", valid=v == "+")
        for i, (e, v) in enumerate(zip(exact, valid or exact, strict=True))
    )
    return EvaluationReport(
        release=rid(label),
        suite=suite,
        n=len(items),
        exact=sum(i.exact for i in items),
        valid=sum(i.valid for i in items),
        items=items,
        seconds=1.0,
    )


def test_a_candidate_passes_at_its_thresholds() -> None:
    result = judge(
        report("v1", "+" * 18 + "--", valid="+" * 20), None, GateConfig(suite=SUITE, min_exact=0.9, min_valid=0.95)
    )
    assert result.passed
    assert result.against is None
    assert [(c.name, c.passed, c.value, c.threshold, c.n) for c in result.checks] == [
        ("exact", True, 0.9, 0.9, 20),
        ("valid", True, 1.0, 0.95, 20),
    ]
    exact = result.checks[0]
    assert exact.low < exact.value < exact.high


def test_a_candidate_below_a_threshold_fails_that_check_only() -> None:
    result = judge(report("v1", "+" * 17 + "---", valid="+" * 20), None, GateConfig(suite=SUITE, min_exact=0.9))
    assert not result.passed
    assert [(c.name, c.passed, c.note) for c in result.checks] == [("exact", False, ""), ("valid", True, "")]


def test_the_drop_is_paired_over_the_items_both_answered() -> None:
    live = report("v1", "++++++++--")
    better = judge(report("v2", "+++++++++-"), live, GateConfig(suite=SUITE))
    worse = judge(report("v2", "+++++++---"), live, GateConfig(suite=SUITE))
    swapped = judge(report("v2", "--++++++++"), live, GateConfig(suite=SUITE))
    drops = [next(c for c in r.checks if c.name == "drop") for r in (better, worse, swapped)]
    assert [(c.value, c.passed) for c in drops] == [(-0.1, True), (0.1, False), (0.0, True)]
    assert better.against == rid("v1")
    assert drops[2].low < 0 < drops[2].high


@pytest.mark.parametrize(("lost", "passed"), [(1, True), (2, True), (3, False)])
def test_a_drop_up_to_its_limit_passes(lost: int, passed: bool) -> None:
    live = report("v1", "+" * 20)
    result = judge(report("v2", "-" * lost + "+" * (20 - lost)), live, GateConfig(suite=SUITE, max_drop=0.1))
    assert result.passed is passed


def test_a_suite_too_small_for_a_threshold_fails_even_with_every_answer_right() -> None:
    result = judge(report("v1", "+" * 9), None, GateConfig(suite=SUITE, min_exact=0.9))
    assert not result.passed
    assert result.checks[0].note == "suite too small: 9 items, 10 are needed to tell 90%"
    assert judge(report("v1", "+" * 10), None, GateConfig(suite=SUITE, min_exact=0.9)).passed


def test_a_suite_too_small_for_a_drop_fails() -> None:
    result = judge(report("v2", "+" * 19), report("v1", "+" * 19), GateConfig(suite=SUITE, max_drop=0.05))
    assert result.checks[2].note == "suite too small: 19 shared items, 20 are needed to tell a drop of 5.0%"
    assert not result.passed
    assert judge(report("v2", "+" * 20), report("v1", "+" * 20), GateConfig(suite=SUITE, max_drop=0.05)).passed


def test_reports_that_share_no_item_are_not_compared_into_a_pass() -> None:
    result = judge(report("v2", "++++"), report("v1", "++++", first=100), GateConfig(suite=SUITE))
    assert not result.passed
    assert result.checks[2].n == 0


def test_an_empty_report_passes_nothing() -> None:
    assert not judge(report("v1", ""), None, GateConfig(suite=SUITE)).passed


@pytest.mark.parametrize(("threshold", "needed"), [(0.0, 1), (0.5, 2), (0.9, 10), (0.95, 20), (0.99, 100), (1.0, 1)])
def test_how_many_items_a_threshold_needs(threshold: float, needed: int) -> None:
    assert items_needed(threshold) == needed


@pytest.mark.parametrize(
    "broken",
    [
        report("v1", "++++").model_copy(update={"exact": 3}),
        report("v1", "++++").model_copy(update={"n": 5}),
        report("v1", "++++").model_copy(update={"items": report("v1", "++++").items[:1] * 4}),
        report("v1", "++++", suite=digest("another")),
    ],
    ids=["exact", "n", "one item four times", "another suite"],
)
def test_a_report_that_does_not_add_up_is_refused(broken: EvaluationReport) -> None:
    for reports in ((broken, None), (report("v2", "++++"), broken)):
        with pytest.raises(Refused) as refusal:
            judge(*reports, GateConfig(suite=SUITE))
        assert refusal.value.code == "bad_report"
