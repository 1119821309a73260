"""What a judge's verdicts come to, and when they count at a gate."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import pearsonr

from loradeck.rules.errors import Refused
from loradeck.rules.quality import gate_judge, gates
from loradeck.rules.quality.agreement import counted
from loradeck.rules.quality.gate_judge import chosen_by_people, correlation, held, settled
from loradeck.rules.quality.gates import GateRecords
from loradeck.rules.quality.loosening import loosened
from loradeck.schemas.attestation import CheckResult, EngineBuild, EvaluationReport, ItemResult
from loradeck.schemas.gate import GateConfig, JudgeGate
from loradeck.schemas.judge_report import Held, JudgedItem, JudgeReport
from loradeck.schemas.preference import Campaign, Item, Judgement, Rubric
from loradeck.schemas.route import RouteConfig

RELEASE, LIVE, SUITE, JUDGE = ("c" * 64, "d" * 64, "e" * 64, "f" * 64)
GATE = JudgeGate(suite=SUITE, rubric="It is right.", release=JUDGE, min_passed=0.8, max_drop=0.1)
AGREED = ["good", "bad"] * 60
SAYS = [choice == "good" for choice in AGREED]


def report(passed: int = 90, lost: int = 0, flipped: int = 0, **changes: Any) -> JudgeReport:
    """Of a hundred items: so many passed, lost to the live release and flipped; the others are ties.

    All answers of a pair are equally long.
    """
    pairs: list[Any] = ["lost"] * lost + ["flipped"] * flipped + ["tie"] * (100 - lost - flipped)
    fields: dict[str, Any] = {
        "release": RELEASE,
        "against": LIVE,
        "suite": SUITE,
        "judge": GATE.digest,
        "rubric": "0" * 64,
        "model": "m",
        "items": tuple(JudgedItem(id=f"i{n}", passed=n < passed, pair=pairs[n], words=0) for n in range(100)),
        "passed": counted(passed, 100),
        "unclear": 0,
        "flipped": counted(flipped, flipped + lost),
        "first": counted(0, 0),
        "longer": counted(0, lost),
        "length": correlation([]),
        "people": (held("answer", AGREED, SAYS, SUITE), held("pair", ["a", "b"] * 60, ["won", "lost"] * 60, SUITE)),
        "engine": EngineBuild(engine="embedded", device="cpu", dtype="float32"),
        "seconds": 1.0,
        **changes,
    }
    return JudgeReport.model_validate(fields)


def checks(one: JudgeReport, live: str | None = LIVE, **changes: Any) -> dict[str, CheckResult]:
    return {check.name: check for check in gate_judge.checks(GATE.model_copy(update=changes), one, live)}


def test_a_winner_counts_where_both_orders_name_it() -> None:
    assert settled("first", "second") == "won"
    assert settled("second", "first") == "lost"
    assert settled("first", "first") == settled("second", "second") == "flipped"
    assert settled("tie", "second") == settled("first", "tie") == settled("tie", "tie") == "tie"
    assert settled(None, "second") == settled("tie", None) == "unclear"


def test_the_correlation_with_length_is_pearsons_with_fishers_interval() -> None:
    verdicts = [(n % 3 == 0, n % 7 + n // 5) for n in range(40)]
    found, wanted = correlation(verdicts), pearsonr([float(p) for p, _ in verdicts], [w for _, w in verdicts])
    interval = wanted.confidence_interval(0.95)
    assert (found.r, found.low, found.high) == pytest.approx((wanted.statistic, interval.low, interval.high))
    assert correlation([(True, n) for n in range(40)]).r is None


def test_people_who_judged_by_another_rubric_or_do_not_agree_among_themselves_are_left_out() -> None:
    rubrics = {name: Rubric(rubric=name, text=text) for name, text in (("r@1", "old"), ("r@2", "new"))}
    items = {name: Item(item=name, prompt="p", answer="a") for name in ("i1", "i2")}

    def said(item: str, rater: str, choice: str, rubric: str = "r@2") -> Judgement:
        fields = {"item": item, "rater": rater, "rubric": rubric, "choice": choice, "at": "2026-01-01T00:00:00Z"}
        return Judgement.model_validate(fields)

    judgements = [
        said("i1", "x", "good"),
        said("i1", "y", "bad", "r@1"),
        said("i2", "x", "good"),
        said("i2", "y", "bad"),
    ]
    campaign = Campaign(rubrics, {}, items, judgements, {})
    assert chosen_by_people(campaign, "new") == {"i1": "good"}
    assert chosen_by_people(campaign, "another") == {}


def test_a_judge_that_agrees_with_people_decides_by_what_it_passes_and_by_pairs() -> None:
    good, bad = checks(report()), checks(report(passed=79, lost=20, flipped=10))
    assert (good["judge"].passed, good["drop by judge"].passed) == (True, True)
    assert (bad["judge"].passed, bad["drop by judge"].passed) == (False, False)
    drop = bad["drop by judge"]
    assert (drop.lost, drop.won, drop.n, drop.at_most) == (20, 0, 100, True)
    assert "flipped with the order: 33.3% (19.2% to 51.2%, n = 30)" in drop.note
    assert "alpha 1.00" in bad["judge"].note


def test_a_judge_that_is_known_to_agree_too_little_decides_nothing() -> None:
    guesses = [n % 3 == 0 for n in range(len(AGREED))]
    check = checks(report(passed=10, people=(held("answer", AGREED, guesses, SUITE),)))["judge"]
    assert check.passed
    assert check.note.startswith("does not decide: its agreement with people on answers is alpha ")


@pytest.mark.parametrize(
    ("people", "why"),
    [
        ((), "nobody has judged answers to its questions of which some are better than others"),
        ((held("answer", AGREED, SAYS),), "nobody has judged answers to its questions"),
        ((held("answer", AGREED, SAYS, "1" * 64),), "nobody has judged answers to its questions"),
        ((held("answer", ["good"] * 60, [True] * 60, SUITE),), "nobody has judged answers to its questions"),
        ((held("answer", AGREED[:6], SAYS[:6], SUITE),), "may be above 0.67 or below it"),
    ],
    ids=["nobody", "any questions", "another suite's", "all alike", "six"],
)
def test_a_judge_whose_agreement_on_this_suite_is_not_known_passes_nothing_and_says_what_to_do(
    people: tuple[Held, ...], why: str
) -> None:
    check = checks(report(passed=100, people=people))["judge"]
    assert not check.passed
    assert check.note.startswith("its agreement with people on answers of this suite is not known, since ")
    assert why in check.note
    assert "loradeck preference import" in check.note


def test_a_gate_whose_judge_names_no_judgements_of_people_is_refused_when_it_is_set() -> None:
    gate_judge.require_known(None)
    gate_judge.require_known(GATE.model_copy(update={"people": (JUDGE,)}))
    with pytest.raises(Refused) as refused:
        gate_judge.require_known(GATE)
    assert (refused.value.code, refused.value.context) == ("judge_not_known", {"suite": SUITE})
    assert "loradeck preference import" in refused.value.fix


def test_a_report_that_does_not_say_how_long_the_answers_are_passes_no_pairs() -> None:
    before = tuple(JudgedItem(id=f"i{n}", passed=True, pair="won") for n in range(100))
    check = checks(report(items=before))["drop by judge"]
    assert (check.passed, check.won, check.n, check.effective) == (False, 100, 100, 0)
    assert "the report does not say how long the answers are: judge it again" in check.note


def test_a_check_of_pairs_says_what_was_adjusted_and_how_many_pairs_it_is_worth() -> None:
    """Of 80 longer answers half win and none lose; the 20 shorter ones tie."""
    pairs: list[Any] = ["won"] * 40 + ["tie"] * 60
    items = tuple(
        JudgedItem(id=f"i{n}", passed=True, pair=pair, words=10 if n < 80 else -10) for n, pair in enumerate(pairs)
    )
    check = checks(report(items=items))["drop by judge"]
    assert (check.won, check.lost, check.n, check.effective) == (40, 0, 100, 64)
    assert check.value == pytest.approx(-0.25), "the mean of longer and shorter answers, not -0.4"
    assert (
        "adjusted for length, before that -40.0%; the candidate's answer is the longer one in 80 of 100" in check.note
    )


def test_a_candidate_that_is_longer_throughout_does_not_pass_and_the_note_says_why() -> None:
    items = tuple(JudgedItem(id=f"i{n}", passed=True, pair="won", words=10 + n) for n in range(100))
    check = checks(report(items=items))["drop by judge"]
    assert (check.passed, check.bound, check.effective) == (False, 1.0, 0)
    assert "length and quality cannot be told apart" in check.note


def test_a_judge_that_gives_no_verdicts_opens_no_gate_whatever_it_says_of_people() -> None:
    for kinds in (report().people, ()):
        nothing = tuple(JudgedItem(id=f"i{n}", passed=None, pair="unclear") for n in range(100))
        found = checks(report(0, items=nothing, people=kinds), people=(JUDGE,))
        assert [check.passed for check in found.values()] == [False, False]
        assert "100 of 100 verdicts on pairs are none" in found["drop by judge"].note
    evasive = tuple(JudgedItem(id=f"i{n}", passed=n < 85 or None, pair="tie", words=0) for n in range(100))
    found = checks(report(items=evasive), people=(JUDGE,))
    assert (found["judge"].passed, found["drop by judge"].passed) == (False, True)


def test_a_report_beside_another_release_than_the_live_one_fails() -> None:
    check = checks(report(against="0" * 64))["drop by judge"]
    assert (check.passed, check.n) == (False, 0)
    assert "judge it again" in check.note
    assert "drop by judge" not in checks(report(), live=None)
    assert "drop by judge" not in checks(report(), max_drop=1.0)


def test_a_gate_with_a_judge_waits_for_its_report_and_shows_it_among_the_checks() -> None:
    gate = GateConfig(suite=SUITE, max_drop=1.0, judge=GATE)
    items = (ItemResult(id="i", answer="", exact=True, valid=True),)
    scored = EvaluationReport(release=RELEASE, suite=SUITE, n=1, exact=1, valid=1, items=items, seconds=1.0)
    assert not gates.is_reported(gate, GateRecords(reports={SUITE: scored}))
    records = GateRecords(reports={SUITE: scored}, judged=report(passed=10))
    assert gates.is_reported(gate, records)
    result = gates.judge(RELEASE, LIVE, gate, records)
    assert [check.name for check in result.checks if not check.passed] == ["judge"]


def test_another_judge_a_higher_floor_or_none_loosens_a_gate() -> None:
    def told(**changes: Any) -> tuple[str, ...]:
        after = GATE.model_copy(update=changes) if changes else None
        gates = [GateConfig(suite=SUITE, judge=judge) for judge in (GATE, after)]
        return loosened(RouteConfig(gate=gates[0]), RouteConfig(gate=gates[1]))

    assert told() == ("gate without a judge",)
    for changes in (
        {"rubric": "It is."},
        {"min_passed": 0.7},
        {"max_drop": 0.2},
        {"min_alpha": 0.9},
        {"people": (JUDGE,)},
        {"max_new_tokens": 1},
    ):
        assert told(**changes) == ("gate with another judge, or one that decides less",), changes
    assert told(min_passed=0.9, max_drop=0.05) == ()


def test_a_judge_is_a_release_or_an_address() -> None:
    for ways in ({}, {"release": JUDGE, "address": "house"}):
        with pytest.raises(ValueError, match="a release or an address"):
            JudgeGate(suite=SUITE, rubric="r", **ways)  # type: ignore[arg-type]
