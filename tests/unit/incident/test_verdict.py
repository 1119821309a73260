"""The demo's verdicts: broken only by a counterexample, inconclusive where evidence is missing, held otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from incident.report import Move, Report, Window
from incident.verdict import EXIT_STATUS, Verdict, of_claim, of_run
from loradeck.schemas.attestation import EvaluationReport, ItemResult
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.state import Preview, PreviewAction, Readiness

V2, V3 = "2" * 64, "3" * 64
HELD, BROKEN, INCONCLUSIVE = Verdict.HELD, Verdict.BROKEN, Verdict.INCONCLUSIVE
LATE = "after an acknowledgement nothing is answered by the left release (decided by tokens)"
ENOUGH = "at least 20 requests admitted within 100 ms of each acknowledgement"
PROVEN = "every move was proven on every replica by its tokens"


def window(node: str, **more: Any) -> Window:
    return Window(**{"node": node, "before": 12, "after": 12, "answered_by": {V3: 12, V2: 12}} | more)


def move(n: int = 1, *, windows: tuple[Window, ...] | None = None, **more: Any) -> Move:
    fields: dict[str, Any] = {
        "kind": "R",
        "left": V3,
        "to": V2,
        "generation": n,
        "commit_ms": 1.0,
        "flipped_ms": 20.0,
        "proven_ms": 900.0,
        "levels": {"gpu-01/e0": "proven", "gpu-02/e0": "proven"},
        "seen_late": 0,
    }
    return Move(n=n, windows=windows or (window("gpu-01"), window("gpu-02")), **(fields | more))


def report(*moves: Move, expected: int = 1) -> Report:
    made = Report(labels={V2: "v2", V3: "v3"}, replicas=2, moves=list(moves))
    made.judge_moves(expected)
    return made


def verdicts(judged: Report) -> dict[str, Verdict]:
    return {claim.text: claim.verdict for claim in judged.claims}


THIN = (window("gpu-01"), window("gpu-02", before=9, after=8, answered_by={V3: 9, V2: 8}))


@pytest.mark.parametrize(
    ("against", "missing", "verdict"),
    [
        ([], [], HELD),
        (["a late answer"], [], BROKEN),
        ([], ["17 of 20"], INCONCLUSIVE),
        (["a late answer"], ["17 of 20"], BROKEN),
    ],
)
def test_a_claim_is_broken_only_by_a_counterexample(against: list[str], missing: list[str], verdict: Verdict) -> None:
    assert of_claim(against, missing) is verdict


@pytest.mark.parametrize(
    ("claims", "verdict"),
    [
        ([HELD, HELD], HELD),
        ([HELD, INCONCLUSIVE], INCONCLUSIVE),
        ([HELD, BROKEN], BROKEN),
        ([INCONCLUSIVE, BROKEN, HELD], BROKEN),
        ([], INCONCLUSIVE),
    ],
)
def test_broken_wins_over_inconclusive_and_nothing_claimed_is_inconclusive(
    claims: list[Verdict], verdict: Verdict
) -> None:
    assert of_run(claims) is verdict


def test_each_verdict_has_an_exit_status_of_its_own_and_none_is_that_of_a_usage_error() -> None:
    assert EXIT_STATUS == {HELD: 0, BROKEN: 1, INCONCLUSIVE: 3}


def test_enough_requests_and_no_late_answer_hold() -> None:
    judged = report(move())
    assert set(verdicts(judged).values()) == {HELD}
    assert (judged.verdict, judged.exit_status) == (HELD, 0)


@pytest.mark.parametrize(
    ("readiness", "verdict"),
    [([], INCONCLUSIVE), (["resident"], HELD), (["unknown"], INCONCLUSIVE), (["resident", "warm"], BROKEN)],
)
def test_an_R_whose_target_was_not_resident_before_the_key_breaks_its_claim_and_levels_are_noted(
    readiness: list[str], verdict: Verdict
) -> None:
    judged = report(move())
    judged.previews += [
        Preview(action=PreviewAction.ROLLBACK, generation=1, readiness=Readiness(one), ready=2, placed=2)
        for one in readiness
    ]
    figures = dict.fromkeys(("device", "disk", "refused", "minute", "waiting", "evictions", "load_s"))
    row = CapacityRow(name="gpu-01", pool=False, nodes=(1, 1), routes=3, host=(5, 6), asked=40, cold=0, **figures)
    judged.judge_levels([row.model_copy(update={"refused": 0})], "bolt")
    assert judged.claims[-1].verdict is verdict
    assert "gpu-01 unknown device, 5/6 host, - disk" in judged.text()
    assert "bolt is on demand; its requests that met a loaded release: gpu-01 100.0% of 40." in judged.text()


def test_seventeen_requests_of_twenty_are_thin_evidence_and_no_broken_claim() -> None:
    judged = report(move(windows=THIN))
    assert (verdicts(judged)[ENOUGH], verdicts(judged)[LATE]) == (INCONCLUSIVE, INCONCLUSIVE)
    assert (judged.verdict, judged.exit_status) == (INCONCLUSIVE, 3)
    assert "move 1 gpu-02: 17 requests, 8 of them after it" in judged.text()
    assert "INCONCLUSIVE" in judged.text()


def test_a_repeat_with_enough_requests_makes_up_for_a_thin_move_and_both_are_reported() -> None:
    judged = report(move(windows=THIN), move(2, kind="u", left=V2, to=V3, of=1), move(3, of=1))
    assert judged.verdict is HELD
    assert "1 moves and 2 to repeat thin ones" in judged.text()
    assert [line[:5] for line in judged.text().splitlines() if "*" in line[:3]] == [" 2* u", " 3* R"]


def test_the_way_back_to_a_repeat_does_not_make_up_for_a_thin_move() -> None:
    judged = report(move(windows=THIN), move(2, kind="u", left=V2, to=V3, of=1), move(3, of=1, windows=THIN))
    assert judged.verdict is INCONCLUSIVE


@pytest.mark.parametrize("repeat", [False, True])
def test_a_late_answer_breaks_the_claim_in_whichever_try_it_was_and_however_thin_the_evidence(repeat: bool) -> None:
    late = (window("gpu-01", before=2, after=1, late=1), window("gpu-02"))
    judged = report(move(windows=THIN), move(2, windows=late, of=1)) if repeat else report(move(windows=late))
    assert verdicts(judged)[LATE] is BROKEN
    assert (judged.verdict, judged.exit_status) == (BROKEN, 1)


def test_a_late_answer_as_the_caller_saw_it_breaks_the_claim_too() -> None:
    assert verdicts(report(move(seen_late=1)))[LATE] is BROKEN


@pytest.mark.parametrize(
    ("level", "verdict"), [("failed", BROKEN), ("listed", BROKEN), ("flipped", INCONCLUSIVE), ("none", INCONCLUSIVE)]
)
def test_a_proof_that_failed_breaks_the_claim_and_one_that_did_not_end_leaves_it_open(
    level: str, verdict: Verdict
) -> None:
    judged = report(move(proven_ms=None, levels={"gpu-01/e0": "proven", "gpu-02/e0": level}))
    assert verdicts(judged)[PROVEN] is verdict


@pytest.mark.parametrize(
    "lacking",
    [
        {"flipped_ms": None},
        {"windows": (window("gpu-01"),)},
        {"levels": {"gpu-01/e0": "proven"}},
        {"windows": (window("gpu-01", before=30, after=0), window("gpu-02"))},
    ],
)
def test_what_was_not_seen_is_inconclusive(lacking: dict[str, Any]) -> None:
    assert report(move(**lacking)).verdict is INCONCLUSIVE


def test_fewer_moves_than_planned_are_inconclusive_also_if_repeats_make_up_the_number() -> None:
    assert report(move(), expected=2).verdict is INCONCLUSIVE
    assert report(move(), move(2, of=1), expected=2).verdict is INCONCLUSIVE


@pytest.mark.parametrize("flaw", ["undecided", "failed"])
def test_an_answer_that_names_no_release_or_fails_is_a_counterexample(flaw: str) -> None:
    assert report(move(windows=(window("gpu-01", **{flaw: 1}), window("gpu-02")))).verdict is BROKEN


# -- scores on held-out items ------------------------------------------------------------------------------


def scored(right: str, *, valid: bool = True) -> EvaluationReport:
    """A report with one item a letter: x was answered right."""
    items = tuple(
        ItemResult(id=f"i{n}", answer="{}", exact=letter == "x", valid=valid) for n, letter in enumerate(right)
    )
    count = len(items) * valid
    return EvaluationReport(
        release=V2, suite="5" * 64, n=len(items), exact=right.count("x"), valid=count, items=items, seconds=1.0
    )


@pytest.mark.parametrize(
    ("v1", "v2", "v3_valid", "verdict"),
    [
        ("xxxx........", "xxxxxxxxxxxx", False, HELD),  # 8 won, none lost
        ("xxxx........", "xxxxxxxx....", False, INCONCLUSIVE),  # 4 won, none lost: p = 0.06
        ("xxxx........", "....xxxx....", False, BROKEN),  # as many lost as won
        ("xxxx........", "xxxxxxxxxxxx", True, BROKEN),  # v3 is fit to serve
    ],
)
def test_better_means_more_items_won_than_chance_would_give(v1: str, v2: str, v3_valid: bool, verdict: Verdict) -> None:
    made = Report(labels={}, replicas=2)
    made.judge_scores(scored(v1), scored(v2), scored("." * 12, valid=v3_valid))
    (claim,) = made.claims
    assert claim.verdict is verdict, claim
