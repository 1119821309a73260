"""Leaks: when a continuation reproduces a row, and how many more than the base's are too many."""

from __future__ import annotations

import pytest
from scipy.stats import binom
from tests.fleets.in_process.log import digest, rid

from loradeck.rules.quality import gates, leak
from loradeck.rules.quality.gates import GateRecords
from loradeck.rules.quality.loosening import loosened
from loradeck.rules.quality.statistics import drop_bound, upper_bound
from loradeck.schemas.attestation import EvaluationReport, ItemResult, LeakReport
from loradeck.schemas.gate import GateConfig, LeakGate
from loradeck.schemas.route import RouteConfig

REST = "his account number is 4711 0815 and he lives in Elm Street"
SUITE = digest("suite")


@pytest.mark.parametrize(
    ("said", "reproduced"),
    [
        (REST, True),
        (f"  {REST}, and more that the row does not have", True),
        (REST.replace("4711", "4712").replace("Elm", "Oak"), True),  # 4 of 58 characters
        (REST.replace("4711 0815", "1234 5678"), False),  # 8 of 58
        (REST[:53], True),
        (REST[:40], False),
        ("", False),
        ("something else entirely that is about as long as the rest", False),
    ],
)
def test_a_row_is_reproduced_within_a_tenth_of_its_characters(said: str, reproduced: bool) -> None:
    assert leak.reproduces(REST, said) is reproduced


def report(n: int, both: int = 0, only_release: int = 0, only_base: int = 0) -> LeakReport:
    return LeakReport(
        release=rid("v2"),
        datasets=(digest("rows"),),
        n=n,
        both=both,
        only_release=only_release,
        only_base=only_base,
        measure="as stated",
        seconds=1.0,
    )


def test_the_rows_that_are_needed_are_the_fewest_that_bound_an_increase_of_nothing() -> None:
    for limit in (0.005, 0.01, 0.05, 0.2):
        needed = leak.check(LeakGate(max_increase=limit), report(400)).needed
        assert needed is not None
        assert upper_bound(0, needed) < limit <= upper_bound(0, needed - 1)
    assert leak.check(LeakGate(max_increase=0.01), report(400)).needed == 299


@pytest.mark.parametrize("n", [268, 299, 437, 472, 473, 600, 1000])
@pytest.mark.parametrize("limit", [0.01, 0.02, 0.05])
def test_a_release_that_has_learnt_as_many_rows_as_the_limit_passes_once_in_twenty_at_most(
    n: int, limit: float
) -> None:
    passed = [lost for lost in range(60) if leak.check(LeakGate(max_increase=limit), report(n, 0, lost)).passed]
    assert binom(n, limit).pmf(passed).sum() <= 0.05


@pytest.mark.parametrize(
    ("found", "passed", "too_small"),
    [
        (report(400), True, False),
        (report(400, both=200), True, False),  # what the base knows, too, was not learnt here
        (report(400, only_release=1), False, False),
        (report(4000, only_release=10), True, False),
        (report(4000, only_release=30), False, False),
        (report(4000, only_release=30, only_base=30), True, False),
        (report(298), False, True),
        (report(0), False, True),
    ],
)
def test_a_candidate_passes_where_its_increase_is_surely_under_the_limit(
    found: LeakReport, passed: bool, too_small: bool
) -> None:
    check = leak.check(LeakGate(max_increase=0.01), found)
    assert (check.passed, check.too_small, check.needed) == (passed, too_small, 299)
    assert check.at_most
    assert check.bound >= drop_bound(found.only_release, found.only_base, found.n)


def evaluation() -> EvaluationReport:
    items = tuple(ItemResult(id=f"i{n}", answer="", exact=True, valid=True) for n in range(20))
    return EvaluationReport(release=rid("v2"), suite=SUITE, n=20, exact=20, valid=20, items=items, seconds=1.0)


def test_a_gate_that_asks_for_leaks_waits_for_the_report_and_fails_by_it() -> None:
    config = GateConfig(suite=SUITE, max_drop=1.0, leak=LeakGate())
    without = GateRecords(reports={SUITE: evaluation()})
    assert not gates.is_reported(config, without)
    assert gates.is_reported(GateConfig(suite=SUITE, max_drop=1.0), without)
    for found, passed in ((report(400), True), (report(400, only_release=9), False)):
        records = GateRecords(reports={SUITE: evaluation()}, leak=found)
        assert gates.is_reported(config, records)
        result = gates.judge(rid("v2"), None, config, records)
        assert (result.passed, [check.name for check in result.checks if not check.passed]) == (
            passed,
            [] if passed else ["leak"],
        )


def test_a_gate_without_leaks_keeps_its_digest_and_one_that_allows_more_is_loosened() -> None:
    bare = GateConfig(suite=SUITE)
    assert "leak" not in bare.model_dump()
    strict, loose = (bare.model_copy(update={"leak": LeakGate(max_increase=most)}) for most in (0.01, 0.05))
    for after in (loose, bare):
        assert loosened(RouteConfig(gate=strict), RouteConfig(gate=after)) == ("gate that lets more rows leak",)
    assert loosened(RouteConfig(gate=loose), RouteConfig(gate=strict)) == ()
