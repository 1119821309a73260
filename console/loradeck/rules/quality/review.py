"""Spot checks by people: which answers are looked at, and when a gate's review is done.

The sample follows from release, suite and item alone: nobody picks it, and everybody who reviews sees the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import CheckResult, EvaluationReport, ItemResult
from loradeck.schemas.gate import ReviewGate
from loradeck.schemas.ids import Digest, digest_of, short
from loradeck.schemas.review import Review

Signed = tuple[str, Review]
"""Who signed, and what."""


def sample(report: EvaluationReport, count: int) -> tuple[ItemResult, ...]:
    """The answers to look at: all where there are fewer, in the report's order."""

    def lot(item: ItemResult) -> str:
        return hashlib.sha256(f"{report.release} {report.suite} {item.id}".encode()).hexdigest()

    drawn = {item.id for item in sorted(report.items, key=lot)[:count]}
    return tuple(item for item in report.items if item.id in drawn)


def answers_digest(report: EvaluationReport, count: int) -> Digest:
    """What a review is a review of: the sampled answers, word for word."""
    return digest_of({"answers": [[item.id, item.answer] for item in sample(report, count)]})


def require_fitting(review: Review, report: EvaluationReport, gate: ReviewGate) -> None:
    """A review says something of every sampled answer, and of nothing else.

    Raises:
        Refused: stale_review, the answers are others by now; bad_review.
    """
    if review.answers != answers_digest(report, gate.items):
        raise Refused(
            "stale_review",
            "these are not the answers that are sampled now",
            detail=f"the review is of {short(review.answers)}",
            fix="look at the present ones: loradeck gate review",
        )
    said, asked = [item.id for item in review.items], [item.id for item in sample(report, gate.items)]
    if sorted(said) != sorted(asked):
        wrong = sorted(set(asked) ^ set(said)) or sorted({item for item in said if said.count(item) > 1})
        raise Refused(
            "bad_review",
            f"a review has one verdict on each of the {len(asked)} sampled items",
            detail=f"about {wrong[0]!r}",
            fix="say of each whether it is good",
            context={"items": wrong},
        )


def review_check(report: EvaluationReport, gate: ReviewGate, signed: Sequence[Signed]) -> CheckResult:
    """Whether enough people found the sampled answers good. Of one person the last word counts, and one person who
    found too many bad ones stops it, whatever others say.

    `signed`: oldest first.
    """
    now = answers_digest(report, gate.items)
    last = {by: review for by, review in signed if review.answers == now}
    against = {by: review.bad for by, review in last.items() if review.bad > gate.max_bad}
    n, people = len(sample(report, gate.items)), len(last) - len(against)
    if against:
        note = ", ".join(f"{by} found {bad} of {n} bad" for by, bad in sorted(against.items()))
    elif last:
        note = f"signed off by {', '.join(sorted(last))}"
        note += "" if people >= gate.people else "; somebody else must sign, too"
    else:
        note = "nobody has looked at these answers yet"
    return CheckResult(
        name="review",
        passed=not against and people >= gate.people,
        value=people,
        threshold=gate.people,
        n=n,
        low=people,
        high=people,
        note=note,
        suite=report.suite,
        unit="people",
    )
