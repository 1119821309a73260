"""Gates: thresholds, the paired drop, and suites that are too small to tell."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import ValidationError
from tests.fleets.in_process.log import digest, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves.rollback_target import PointerFacts
from loradeck.rules.quality import gates
from loradeck.rules.quality.comparison import without_copies
from loradeck.rules.quality.gates import GateRecords, is_reported, items_needed, require_big_enough
from loradeck.schemas.attestation import CheckResult, EngineBuild, EvaluationReport, GateResult, ItemResult
from loradeck.schemas.gate import GateConfig, SuiteGate
from loradeck.schemas.ids import digest_of
from loradeck.schemas.log import PointerState, Quarantine
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.suite import Groups, ItemKind

SUITE, RED = digest("suite"), digest("red team")


def report(
    label: str, exact: str, *, valid: str | None = None, first: int = 0, suite: str = SUITE, ms: float | None = None
) -> EvaluationReport:
    """One character an item: '+' is exact (and valid, unless `valid` says otherwise)."""
    items = tuple(
        ItemResult(id=f"i{first + i}", answer="", exact=e == "+", valid=v == "+", ms=None if ms is None else ms + i)
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


def judge(candidate: EvaluationReport, live: EvaluationReport | None = None, **gate: Any) -> GateResult:
    """A gate on one suite."""
    evidence = GateRecords(reports={SUITE: candidate}, live={SUITE: live} if live is not None else {})
    return gates.judge(
        candidate.release, live.release if live is not None else None, GateConfig(suite=SUITE, **gate), evidence
    )


def named(result: GateResult, name: str) -> CheckResult:
    (found,) = [check for check in result.checks if check.name == name]
    return found


def drawn(draw: random.Random, label: str, before: str, *, lost: float, won: float) -> EvaluationReport:
    """A release that answers as `before`, but for the shares of items that it truly loses and wins."""
    right = before.count("+") / len(before)
    flips = {"+": lost / right, "-": won / (1 - right) if right < 1 else 0.0}
    return report(label, "".join("-+"[(mark == "+") ^ (draw.random() < flips[mark])] for mark in before))


START = ("+" * 9 + "-") * 25
"""The live release's answers to 250 items, nine of ten right."""


def test_a_candidate_that_truly_loses_the_limit_is_nearly_always_stopped_by_the_bound() -> None:
    """By the drop alone about every second one passed."""
    draw, passed = random.Random(1), {True: 0, False: 0}
    for _ in range(60):
        candidate = drawn(draw, "v2", START, lost=0.075, won=0.025)
        for bound in passed:
            result = judge(candidate, report("v1", START), max_drop=0.05, bound_drop=bound)
            passed[bound] += named(result, "drop").passed
    assert passed[True] <= 8
    assert 20 <= passed[False] <= 45


def test_ten_releases_that_each_lose_two_points_do_not_pass_an_anchor() -> None:
    draw = random.Random(2)

    def chain(*, anchored: bool) -> int:
        live, passed = report("v0", START), 0
        anchor = report("v0", START)
        for release in range(1, 11):
            marks = "".join("-+"[item.exact] for item in live.items)
            candidate = drawn(draw, f"v{release}", marks, lost=0.05, won=0.03)
            records = GateRecords(
                reports={SUITE: candidate},
                live={SUITE: live},
                anchor=(anchor.release, {SUITE: anchor}) if anchored and passed else None,
            )
            config = GateConfig(suite=SUITE, max_drop=0.05, bound_drop=anchored)
            if gates.judge(candidate.release, live.release, config, records).passed:
                live, passed = candidate, passed + 1
        return passed

    assert sum(chain(anchored=False) for _ in range(4)) >= 32, "of forty"
    assert max(chain(anchored=True) for _ in range(4)) <= 4, "of ten"


def test_a_gate_without_a_report_of_its_anchor_fails_and_says_which_is_missing() -> None:
    same = report("v1", START)
    records = GateRecords(reports={SUITE: report("v2", START)}, live={SUITE: same}, anchor=(rid("v0"), {}))
    config = GateConfig(suite=SUITE, max_drop=0.05, bound_drop=True)
    result = gates.judge(rid("v2"), rid("v1"), config, records)
    assert (result.passed, result.anchor) == (False, rid("v0"))
    assert "anchor" in named(result, "drop from anchor").note
    assert named(result, "drop").passed


def test_a_bound_says_what_is_surely_not_lost_and_a_small_suite_what_it_carries() -> None:
    result = judge(report("v2", START), report("v1", START), max_drop=0.05, bound_drop=True)
    assert named(result, "drop").note == "at most 1.1% lost, at 95 % confidence"
    result = judge(report("v2", START[:60]), report("v1", START[:60]), max_drop=0.05, bound_drop=True)
    check = named(result, "drop")
    assert check.note.startswith("suite too small: 60 shared items, 246 are needed to see a drop of 5.0%")
    assert check.note.endswith("; they carry one of 9.98%")
    assert (check.passed, check.too_small) == (False, True)


def test_copies_of_one_prompt_are_one_item_in_every_check() -> None:
    """246 copies passed as 246 items."""
    copies = {f"i{n}": "i0" for n in range(1, 246)}
    records = GateRecords(
        reports={SUITE: report("v2", "+" * 246, ms=5.0)},
        live={SUITE: report("v1", "+" * 246)},
        groups={SUITE: Groups(copies=copies)},
    )
    config = GateConfig(suite=SUITE, min_exact=0.9, max_drop=0.05, bound_drop=True, max_p95_ms=1000)
    result = gates.judge(rid("v2"), rid("v1"), config, records)
    assert [(c.name, c.n, c.too_small) for c in result.checks] == [
        ("exact", 1, True),
        ("valid", 1, False),
        ("p95", 1, True),
        ("drop", 1, True),
    ]


def test_an_item_is_right_where_all_of_its_copies_are() -> None:
    folded = without_copies(report("v1", "+-++", ms=1.0), {"i1": "i0", "i3": "i2"})
    assert (folded.n, folded.exact, folded.valid) == (2, 1, 1)
    assert [(item.id, item.exact, item.ms) for item in folded.items] == [("i0", False, 2.0), ("i2", True, 4.0)]
    canaries = GateRecords(
        reports={SUITE: report("v1", "+-++")},
        canaries={SUITE: ("i0",)},
        groups={SUITE: Groups(copies={"i1": "i0", "i3": "i2"})},
    )
    result = gates.judge(rid("v1"), None, GateConfig(suite=SUITE, canaries=True), canaries)
    assert (named(result, "canaries").passed, named(result, "exact").value) == (True, 0.5)


SLICES = {f"i{n}": ("german", "french", "dutch", "thai")[n % 4] for n in range(200)}


def sliced(candidate: EvaluationReport, **gate: Any) -> GateResult:
    records = GateRecords(
        reports={SUITE: candidate}, live={SUITE: report("v1", "+" * 200)}, groups={SUITE: Groups(slices=SLICES)}
    )
    return gates.judge(candidate.release, rid("v1"), GateConfig(suite=SUITE, max_drop=0.1, **gate), records)


def test_a_slice_that_is_seen_to_lose_fails_a_gate_that_the_whole_suite_passes() -> None:
    """Twelve of the 50 German items are lost: 6 % of all, and 24 % of the Germans."""
    candidate = report("v2", "".join("-" if n % 4 == 0 and n < 48 else "+" for n in range(200)))
    whole, by_slice = sliced(candidate), sliced(candidate, min_slice=50)
    assert whole.passed
    assert [c.name for c in whole.checks] == ["exact", "valid", "drop"]
    assert (by_slice.passed, named(by_slice, "drop").passed) == (False, True)
    check = named(by_slice, "slices")
    assert (check.passed, check.value, check.n, check.lost, check.too_small) == (False, 0.24, 50, 12, False)
    assert check.note == "worst of 4 slices: german, 12 lost and 0 won of 50, p 0.001 over all"
    assert check.at_most


def test_what_may_be_chance_among_several_slices_passes() -> None:
    """Six lost of fifty are seen alone (p .016), and not among four slices (.06)."""
    candidate = report("v2", "".join("-" if n % 4 == 0 and n < 24 else "+" for n in range(200)))
    check = named(sliced(candidate, min_slice=50), "slices")
    assert (check.passed, check.value, check.p) == (True, 0.12, pytest.approx(4 / 64))


def test_a_slice_with_too_few_items_is_undecided_and_refused_when_the_gate_is_set() -> None:
    check = named(sliced(report("v2", "+" * 200), min_slice=51), "slices")
    assert (check.passed, check.too_small, check.needed) == (False, True, 51)
    assert check.note.endswith("; too small: dutch 50, french 50, german 50, thai 50; 51 are needed of each")
    config, groups = GateConfig(suite=SUITE, max_drop=0.1, min_slice=51), {SUITE: Groups(slices=SLICES)}
    with pytest.raises(Refused) as refused:
        require_big_enough(config, {SUITE: 200}, groups)
    assert (refused.value.code, refused.value.context["items"]) == ("suite_too_small", 50)
    require_big_enough(config.model_copy(update={"min_slice": 50}), {SUITE: 200}, groups)
    with pytest.raises(ValidationError, match="min_slice"):
        GateConfig(suite=SUITE, max_drop=1.0, min_slice=5)


@pytest.mark.parametrize(("slices", "fewest"), [(1, 5), (4, 7), (10, 8)])
def test_a_slice_that_would_pass_though_all_of_it_is_lost_is_undecided_and_refused_with_the_size_that_would_do(
    slices: int, fewest: int
) -> None:
    def gate_of(n: int) -> tuple[GateConfig, GateRecords]:
        """A slice of n items that are all lost, others of n that are not, and fifty items without a slice."""
        items, of = n * slices + 50, {f"i{number}": f"s{number % slices}" for number in range(n * slices)}
        lost = report("v2", "".join("-" if of.get(f"i{number}") == "s0" else "+" for number in range(items)))
        live = report("v1", "+" * items)
        records = GateRecords(reports={SUITE: lost}, live={SUITE: live}, groups={SUITE: Groups(slices=of)})
        return GateConfig(suite=SUITE, max_drop=0.5, min_slice=1), records

    for n in (fewest - 1, fewest):
        config, records = gate_of(n)
        check = named(gates.judge(rid("v2"), rid("v1"), config, records), "slices")
        assert (check.passed, check.lost, check.n) == (False, n, n)
        assert (check.too_small, check.needed) == (n < fewest, fewest)
    config, records = gate_of(fewest - 1)
    with pytest.raises(Refused) as refused:
        require_big_enough(config, {SUITE: 200}, records.groups)
    assert refused.value.context == {"suite": SUITE, "items": fewest - 1, "needed": fewest}
    assert "lower min_slice" not in refused.value.fix
    config, records = gate_of(fewest)
    require_big_enough(config, {SUITE: 200}, records.groups)


def test_a_slice_whose_losses_would_be_too_few_to_be_seen_is_undecided_unless_they_are_allowed() -> None:
    """Of 50 Germans the live release has four right: all of them may be lost, and nobody would see it."""
    live = report("v1", "".join("-" if n % 4 == 0 and n >= 16 else "+" for n in range(200)))
    records = GateRecords(
        reports={SUITE: report("v2", "".join("-" if n % 4 == 0 else "+" for n in range(200)))},
        live={SUITE: live},
        groups={SUITE: Groups(slices=SLICES)},
    )
    config = GateConfig(suite=SUITE, max_drop=0.05, min_slice=50)
    check = named(gates.judge(rid("v2"), rid("v1"), config, records), "slices")
    assert (check.passed, check.too_small) == (False, True)
    assert "german 4" in check.note
    allowed = GateConfig(suite=SUITE, max_drop=0.08, min_slice=50)
    assert named(gates.judge(rid("v2"), rid("v1"), allowed, records), "slices").passed


def test_slices_are_compared_with_the_anchor_too() -> None:
    records = GateRecords(
        reports={SUITE: report("v2", "".join("-" if n % 4 == 0 and n < 48 else "+" for n in range(200)))},
        live={SUITE: report("v1", "".join("-" if n % 4 == 0 and n < 40 else "+" for n in range(200)))},
        groups={SUITE: Groups(slices=SLICES)},
        anchor=(rid("v0"), {SUITE: report("v0", "+" * 200)}),
    )
    config = GateConfig(suite=SUITE, max_drop=0.1, bound_drop=True, min_slice=50)
    result = gates.judge(rid("v2"), rid("v1"), config, records)
    assert [c.name for c in result.checks if not c.passed] == ["slices from anchor"]


def test_a_gates_suite_asks_nothing_that_a_suite_for_selection_asks() -> None:
    gate, selection = Groups(asked={"x": "g1", "y": "g2"}), Groups(asked={"y": "s1", "z": "s2"})
    gates.require_disjoint(gate, Groups(asked={"z": "s2"}), ("held-out", "dev"))
    with pytest.raises(Refused) as refused:
        gates.require_disjoint(gate, selection, ("held-out", "dev"))
    assert (refused.value.code, refused.value.detail) == ("selection_suite", "g2")


def test_an_evaluation_that_is_too_old_does_not_count() -> None:
    config = GateConfig(suite=SUITE, max_age_days=90)
    day = 86_400_000
    assert [gates.is_expired(day, config, day * (1 + age)) for age in (0, 90, 91)] == [False, False, True]
    assert not gates.is_expired(0, GateConfig(suite=SUITE), day * 10_000)
    records = GateRecords(reports={SUITE: report("v2", "++")}, expired=("acme/v2",))
    check = named(gates.judge(rid("v2"), None, config, records), "age")
    assert (check.passed, check.note) == (False, "evaluated more than 90 days ago: acme/v2; evaluate again")


def test_no_loss_is_bounded_by_nothing_or_by_everything() -> None:
    for limit in (0.0, 1.0):
        with pytest.raises(ValidationError, match="bound_drop = false"):
            GateConfig(suite=SUITE, max_drop=limit, bound_drop=True)


def test_a_gate_of_an_earlier_version_keeps_its_digest() -> None:
    config = GateConfig(suite=SUITE, max_drop=0.05)
    assert {"bound_drop", "anchor"}.isdisjoint(config.model_dump(mode="json"))


def test_an_anchor_is_the_one_that_is_named_then_the_one_that_stands_then_the_live_release() -> None:
    bounding, bare = GateConfig(suite=SUITE, max_drop=0.05, bound_drop=True), GateConfig(suite=SUITE)
    named_one = bounding.model_copy(update={"anchor": rid("v3")})
    assert gates.anchored(named_one, rid("v2"), rid("v1")).anchor == rid("v3")
    assert gates.anchored(bounding, rid("v2"), rid("v1")).anchor == rid("v2")
    assert gates.anchored(bounding, None, rid("v1")).anchor == rid("v1")
    assert gates.anchored(bounding, None, None) == bounding
    assert gates.anchored(bare, rid("v2"), rid("v1")).anchor == rid("v2")
    assert gates.anchored(bare, None, rid("v1")) == bare


# ---- thresholds ------------------------------------------------------------------------------------------


def test_a_candidate_passes_at_its_thresholds() -> None:
    result = judge(report("v1", "+" * 18 + "--", valid="+" * 20), min_exact=0.9, min_valid=0.95)
    assert result.passed
    assert result.against is None
    assert [(c.name, c.passed, c.value, c.threshold, c.n) for c in result.checks] == [
        ("exact", True, 0.9, 0.9, 20),
        ("valid", True, 1.0, 0.95, 20),
    ]
    exact = result.checks[0]
    assert exact.low < exact.value < exact.high


def test_a_candidate_below_a_threshold_fails_that_check_only() -> None:
    result = judge(report("v1", "+" * 17 + "---", valid="+" * 20), min_exact=0.9)
    assert not result.passed
    assert [(c.name, c.passed, c.note) for c in result.checks] == [("exact", False, ""), ("valid", True, "")]


def test_a_suite_too_small_for_a_threshold_fails_even_with_every_answer_right() -> None:
    result = judge(report("v1", "+" * 9), min_exact=0.9)
    assert not result.passed
    assert result.checks[0].note == "suite too small: 9 items, 10 are needed to tell 90%"
    assert (result.checks[0].too_small, result.checks[0].needed) == (True, 10)
    assert judge(report("v1", "+" * 10), min_exact=0.9).passed


def test_an_empty_report_passes_nothing() -> None:
    assert not judge(report("v1", "")).passed


@pytest.mark.parametrize(("threshold", "needed"), [(0.0, 1), (0.5, 2), (0.9, 10), (0.95, 20), (0.99, 100), (1.0, 1)])
def test_how_many_items_a_threshold_needs(threshold: float, needed: int) -> None:
    assert items_needed(threshold) == needed


def test_a_result_says_under_which_settings_it_was_judged() -> None:
    strict, lax = judge(report("v1", "+" * 20), min_exact=0.9), judge(report("v1", "+" * 20))
    assert strict.gate == digest_of(GateConfig(suite=SUITE, min_exact=0.9)) != lax.gate


# ---- what is sure ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passing", "failing", "passed"),
    [(298, 0, False), (299, 0, True), (299, 1, False), (471, 1, False), (472, 1, True)],
)
def test_a_bound_needs_the_items_that_make_it_sure(passing: int, failing: int, passed: bool) -> None:
    """99 % of refusals, sure: 299 prompts without a failure, 473 with one."""
    check = named(judge(report("v1", "+" * passing + "-" * failing), min_exact=0.99, bound=True), "exact")
    assert check.passed is passed
    assert check.too_small is (passing + failing < 299)
    if check.too_small:
        assert check.note == "suite too small: 298 items bound a share at 99.00% at best, 299 are needed for 99.0%"


def test_three_hundred_prompts_without_a_failure_do_not_make_half_a_percent_sure() -> None:
    check = named(judge(report("v1", "+" * 300), min_exact=0.995, bound=True), "exact")
    assert (check.passed, check.too_small, check.needed) == (False, True, 598)


def test_a_share_of_one_cannot_be_bound() -> None:
    with pytest.raises(ValidationError, match="bounds a share by 1"):
        GateConfig(suite=SUITE, min_exact=1.0, bound=True)


# ---- against the live release ----------------------------------------------------------------------------


def test_the_drop_is_paired_over_the_items_both_answered() -> None:
    live = report("v1", "++++++++--")
    results = [judge(report("v2", answers), live) for answers in ("+++++++++-", "+++++++---", "--++++++++")]
    drops = [named(result, "drop") for result in results]
    assert [(c.value, c.passed, c.lost, c.won) for c in drops] == [
        (-0.1, True, 0, 1),
        (0.1, False, 1, 0),
        (0.0, True, 2, 2),
    ]
    assert results[0].against == rid("v1")
    assert drops[2].low < 0 < drops[2].high


@pytest.mark.parametrize(("lost", "passed"), [(1, True), (6, True), (7, False)])
def test_a_drop_up_to_its_limit_passes(lost: int, passed: bool) -> None:
    live = report("v1", "+" * 60)
    result = judge(report("v2", "-" * lost + "+" * (60 - lost)), live, max_drop=0.1)
    assert result.passed is passed


def test_a_result_says_counts_difference_interval_and_the_smallest_drop_it_could_have_seen() -> None:
    live = report("v1", "+" * 230 + "-" * 16)
    check = named(judge(report("v2", "-" * 20 + "+" * 216 + "-" * 10), live, max_drop=0.05), "drop")
    assert (check.lost, check.won, check.n, check.needed) == (20, 6, 246, 246)
    assert check.value == pytest.approx(14 / 246)
    assert check.low < check.value < check.high
    assert check.p == pytest.approx(0.004678, abs=1e-6)
    assert check.visible == pytest.approx(0.0513, abs=1e-4)
    assert not check.passed


def test_the_smallest_visible_drop_never_rests_on_pairs_that_happened_to_agree() -> None:
    live = report("v1", "+" * 246)
    check = named(judge(report("v2", "+" * 246), live, max_drop=0.05), "drop")
    assert check.visible == pytest.approx(0.05, abs=1e-4)
    assert check.low < 0 < check.high


@pytest.mark.parametrize(("n", "small"), [(245, True), (246, False)])
def test_a_suite_too_small_for_its_own_limit_does_not_pass_though_nothing_was_lost(n: int, small: bool) -> None:
    result = judge(report("v2", "+" * n), report("v1", "+" * n), max_drop=0.05)
    check = named(result, "drop")
    assert (check.too_small, result.passed) == (small, not small)
    if small:
        assert check.note.startswith("suite too small: 245 shared items, 246 are needed to see a drop of 5.0%")


def test_releases_that_differ_much_may_fail_by_chance_and_the_note_says_so() -> None:
    live = report("v1", "+" * 25 + "-" * 19 + "+" * 16)
    check = named(judge(report("v2", "-" * 25 + "+" * 18 + "-" + "+" * 16), live, max_drop=0.1), "drop")
    assert (check.passed, check.lost, check.won) == (False, 25, 18)
    assert check.note == "may be chance (p 0.18): more items would tell"


def test_a_drop_that_was_seen_and_is_within_the_limit_passes_and_is_told() -> None:
    live = report("v1", "+" * 300)
    check = named(judge(report("v2", "-" * 10 + "+" * 290), live, max_drop=0.05), "drop")
    assert check.passed
    assert check.note == "a drop was seen (p 0.001), and is within the limit"


def test_reports_that_share_no_item_are_not_compared_into_a_pass() -> None:
    result = judge(report("v2", "++++"), report("v1", "++++", first=100))
    assert not result.passed
    assert named(result, "drop").n == 0


def test_a_limit_of_one_compares_nothing_and_counts_as_compared() -> None:
    result = judge(report("v2", "----"), report("v1", "++++"), max_drop=1.0)
    assert result.passed
    assert [check.name for check in result.checks] == ["exact", "valid"]
    assert result.against == rid("v1")


# ---- further suites --------------------------------------------------------------------------------------


def two_suites(**red: Any) -> GateConfig:
    return GateConfig(suite=SUITE, min_exact=0.9, also=(SuiteGate(suite=RED, **red),))


def test_each_suite_is_judged_by_what_it_asks() -> None:
    config = two_suites(min_exact=0.99, bound=True)
    reports = {SUITE: report("v2", "+" * 20), RED: report("v2", "+" * 299, suite=RED)}
    result = gates.judge(rid("v2"), None, config, GateRecords(reports=reports))
    assert result.passed
    assert [(c.name, c.suite) for c in result.checks] == [
        ("exact", SUITE),
        ("valid", SUITE),
        ("exact", RED),
        ("valid", RED),
    ]
    bad = reports | {RED: report("v2", "+" * 298 + "-", suite=RED)}
    result = gates.judge(rid("v2"), None, config, GateRecords(reports=bad))
    assert [c.suite for c in result.checks if not c.passed] == [RED]


def test_a_live_release_that_was_not_scored_on_every_suite_is_not_compared_with() -> None:
    reports = {SUITE: report("v2", "+" * 20), RED: report("v2", "+" * 20, suite=RED)}
    half = GateRecords(reports=reports, live={SUITE: report("v1", "+" * 20)})
    result = gates.judge(rid("v2"), rid("v1"), two_suites(), half)
    assert result.against is None
    assert all(check.name != "drop" for check in result.checks)
    uncompared = gates.judge(rid("v2"), rid("v1"), two_suites(max_drop=1.0), half)
    assert uncompared.against == rid("v1")
    assert [check.suite for check in uncompared.checks if check.name == "drop"] == [SUITE]


def test_a_candidate_without_a_report_on_one_of_the_suites_is_not_judged_yet() -> None:
    reports = {SUITE: report("v2", "++")}
    assert not is_reported(two_suites(), GateRecords(reports=reports))
    assert is_reported(two_suites(), GateRecords(reports=reports | {RED: report("v2", "++", suite=RED)}))


def test_a_suite_stands_in_a_gate_once() -> None:
    with pytest.raises(ValidationError, match="twice"):
        GateConfig(suite=SUITE, also=(SuiteGate(suite=SUITE),))


# ---- canaries and latency --------------------------------------------------------------------------------


def test_one_wrong_canary_fails_a_gate_that_asks_for_them_whatever_the_share() -> None:
    config = GateConfig(suite=SUITE, min_exact=0.5, canaries=True)
    reports = {SUITE: report("v1", "+" * 19 + "-")}
    passing = GateRecords(reports=reports, canaries={SUITE: ("i0", "i5")})
    failing = GateRecords(reports=reports, canaries={SUITE: ("i0", "i19")})
    unanswered = GateRecords(reports=reports, canaries={SUITE: ("i0", "i99")})
    assert gates.judge(rid("v1"), None, config, passing).passed
    for evidence in (failing, unanswered, GateRecords(reports=reports)):
        result = gates.judge(rid("v1"), None, config, evidence)
        assert [check.name for check in result.checks if not check.passed] == ["canaries"]


@pytest.mark.parametrize(("limit", "passed"), [(194.0, True), (193.0, False)])
def test_the_95th_percentile_of_the_times_is_held_to_its_limit(limit: float, passed: bool) -> None:
    check = named(judge(report("v1", "+" * 100, ms=100.0), max_p95_ms=limit), "p95")
    assert (check.value, check.unit, check.passed) == (194.0, "ms", passed)
    assert check.low < check.value < check.high
    assert check.in_unit(check.value) == "194 ms"


def test_times_that_are_missing_or_too_few_tell_no_percentile() -> None:
    for few in (report("v1", "+" * 100), report("v1", "+" * 19, ms=1.0)):
        check = named(judge(few, max_p95_ms=1_000.0), "p95")
        assert (check.passed, check.too_small, check.needed) == (False, True, 20)


# ---- setting one up --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "needed", "what"),
    [
        ({"max_drop": 0.05}, 246, "see a drop of 5.0%"),
        ({"max_drop": 0.03}, 685, "see a drop of 3.0%"),
        ({"min_exact": 0.99}, 100, "tell 99.0% exact"),
        ({"min_exact": 0.99, "bound": True}, 299, "tell 99.0% exact"),
        ({"min_valid": 0.95}, 20, "tell 95.0% valid"),
        ({"max_p95_ms": 100.0}, 20, "tell a 95th percentile"),
    ],
)
def test_a_gate_is_not_set_up_on_a_suite_that_cannot_tell_what_it_asks(
    gate: dict[str, Any], needed: int, what: str
) -> None:
    config = GateConfig(suite=SUITE, **gate)
    require_big_enough(config, {SUITE: needed})
    with pytest.raises(Refused) as refusal:
        require_big_enough(config, {SUITE: needed - 1})
    assert refusal.value.code == "suite_too_small"
    assert refusal.value.title == f"suite too small: {needed - 1} items, {needed} are needed to {what}"
    also = GateConfig(suite=RED, also=(SuiteGate(suite=SUITE, **gate),))
    with pytest.raises(Refused, match="suite_too_small"):
        require_big_enough(also, {RED: 1, SUITE: needed - 1})


def test_pairs_that_are_expected_to_differ_more_need_more_items() -> None:
    require_big_enough(GateConfig(suite=SUITE, max_drop=0.1, discordant=0.1), {SUITE: 60})
    with pytest.raises(Refused, match="suite_too_small"):
        require_big_enough(GateConfig(suite=SUITE, max_drop=0.1, discordant=0.3), {SUITE: 60})


# ---- the route before ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "pointer", "lacking"),
    [
        (PointerFacts(), None, "it was never attested on staging"),
        (PointerFacts(attested=(rid("v1"),)), None, "it was never attested on staging"),
        (PointerFacts(attested=(rid("v2"),)), PointerState(tenant="acme", route="staging"), ""),
        (
            PointerFacts(attested=(rid("v2"),), breached={rid("v2"): "bad 20.0% of 50"}),
            PointerState(tenant="acme", route="staging"),
            "it is breached: bad 20.0% of 50 on staging",
        ),
        (
            PointerFacts(attested=(rid("v2"),)),
            PointerState(tenant="acme", route="staging", quarantined=(Quarantine(release=rid("v2"), event="e1"),)),
            "it is quarantined on staging",
        ),
    ],
)
def test_a_gate_that_comes_after_a_route_wants_the_candidate_proven_there_and_nothing_against_it(
    facts: PointerFacts, pointer: PointerState | None, lacking: str
) -> None:
    assert gates.lacks(rid("v2"), "staging", pointer, facts) == lacking
    config = GateConfig(suite=SUITE, after="staging")
    evidence = GateRecords(reports={SUITE: report("v2", "++++")}, stage=lacking)
    result = gates.judge(rid("v2"), None, config, evidence)
    check = named(result, "after staging")
    assert (check.passed, result.passed) == (not lacking, not lacking)
    assert check.note == (lacking or "attested on staging")


def test_the_way_to_production_leads_through_routes_that_are_there_and_never_back() -> None:
    def after(route: str | None) -> RouteConfig:
        return RouteConfig(gate=GateConfig(suite=SUITE, after=route))

    routes = {"development": RouteConfig(), "staging": after("development"), "loop": after("production")}
    gates.require_stages(routes, "production", GateConfig(suite=SUITE, after="staging"))
    gates.require_stages(routes, "production", GateConfig(suite=SUITE))
    for before, code in (
        ("none", "unknown_route"),
        ("production", "stages_in_a_circle"),
        ("loop", "stages_in_a_circle"),
    ):
        with pytest.raises(Refused) as refusal:
            gates.require_stages(routes, "production", GateConfig(suite=SUITE, after=before))
        assert refusal.value.code == code
    with pytest.raises(Refused, match="stages_in_a_circle"):
        gates.require_stages({"production": RouteConfig()}, "production", GateConfig(suite=SUITE, after="production"))


# ---- reports that do not fit -----------------------------------------------------------------------------


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
            judge(*reports)
        assert refusal.value.code == "bad_report"


# ---- choices ---------------------------------------------------------------------------------------------


def choices(label: str, acc: str, acc_norm: str | None) -> EvaluationReport:
    """Items of the kind choice, right by either accuracy; None: as reports were before they had both."""
    plain = report(label, acc)
    items = tuple(
        item.model_copy(update={"kind": ItemKind.CHOICE, "acc_norm": None if acc_norm is None else acc_norm[i] == "+"})
        for i, item in enumerate(plain.items)
    )
    return plain.model_copy(update={"items": items})


def test_choices_count_by_the_accuracy_that_the_gate_names() -> None:
    candidate = choices("v2", "+" * 60 + "-" * 40, "+" * 80 + "-" * 20)
    live = choices("v1", "+" * 60 + "-" * 40, "+" * 100)
    by = {name: judge(candidate, live, min_exact=0.7, max_drop=0.1, choice=name) for name in ("acc", "acc_norm")}
    assert {name: named(one, "exact").value for name, one in by.items()} == {"acc": 0.6, "acc_norm": 0.8}
    assert {name: named(one, "drop").value for name, one in by.items()} == {"acc": 0.0, "acc_norm": 0.2}
    assert {name: named(one, "exact").note for name, one in by.items()} == {
        "acc": "choices by acc",
        "acc_norm": "choices by acc_norm",
    }
    assert named(judge(report("v2", "+")), "exact").note == ""


def test_a_report_whose_choices_were_made_otherwise_does_not_count() -> None:
    assert not gates.counts(choices("v1", "++", None))
    assert gates.counts(choices("v1", "++", "+-"))
    assert gates.counts(report("v1", "++"))


def test_a_gate_that_does_not_name_an_accuracy_keeps_its_digest() -> None:
    assert "choice" not in GateConfig(suite=SUITE, choice="acc").model_dump()
    assert GateConfig(suite=SUITE, choice="acc_norm").model_dump()["choice"] == "acc_norm"


def test_a_comparison_says_where_another_build_answered_the_other_release() -> None:
    build = EngineBuild(engine="vllm 0.32.0", device="cuda", dtype="bfloat16")
    served = report("v2", "+" * 100).model_copy(update={"engine": build})
    before = report("v1", "+" * 100)
    apart = "answered by another build: vllm 0.32.0|cuda|bfloat16|tp1, and in process then"
    assert apart in named(judge(served, before, max_drop=0.1), "drop").note
    alike = judge(served, before.model_copy(update={"engine": build}), max_drop=0.1)
    assert "build" not in named(alike, "drop").note
