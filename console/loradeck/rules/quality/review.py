"""Reviews: spot checks of answers by people, how the sample is drawn, and when a gate's review is passed.

The sample follows from release, suite and item alone: nobody picks it, and every reviewer sees the same answers.
"""

import hashlib
from collections.abc import Collection, Sequence

from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import CheckResult, EvaluationReport, ItemResult
from loradeck.schemas.gate import ReviewGate
from loradeck.schemas.ids import Digest, digest_of, short
from loradeck.schemas.review import Review

Signed = tuple[str, Review]
"""Who signed a review, and the review."""


def sample(report: EvaluationReport, count: int) -> tuple[ItemResult, ...]:
    """The answers that a review must look at, in the report's order: `count` of them, or all if there are fewer."""

    def lot(item: ItemResult) -> str:
        return hashlib.sha256(f"{report.release} {report.suite} {item.id}".encode()).hexdigest()

    drawn = {item.id for item in sorted(report.items, key=lot)[:count]}
    return tuple(item for item in report.items if item.id in drawn)


def answers_digest(report: EvaluationReport, count: int) -> Digest:
    """Digest of the sampled answers, word for word, which ties a review to them."""
    return digest_of({"answers": [[item.id, item.answer] for item in sample(report, count)]})


def require_fitting(review: Review, report: EvaluationReport, gate: ReviewGate) -> None:
    """Checks that a review judges every sampled answer once, and no others.

    Raises: Refused: stale_review: the sampled answers have changed; bad_review.
    """
    if review.answers != answers_digest(report, gate.items):
        raise Refused(
            "stale_review",
            "the sampled answers have changed since the review",
            detail=f"the review is of {short(review.answers)}",
            fix="look at the present ones: loradeck gate review",
        )
    judged, asked = [item.id for item in review.items], [item.id for item in sample(report, gate.items)]
    if sorted(judged) != sorted(asked):
        wrong = sorted(set(asked) ^ set(judged)) or sorted({item for item in judged if judged.count(item) > 1})
        raise Refused(
            "bad_review",
            f"a review has one verdict on each of the {len(asked)} sampled items",
            detail=f"about {wrong[0]!r}",
            fix="judge each of them once, as good or bad",
            context={"items": wrong},
        )


def in_force(report: EvaluationReport, gate: ReviewGate, signed: Sequence[Signed]) -> dict[str, Review]:
    """Each person's review that counts: the last one of the answers that are sampled now. `signed`: oldest first."""
    now = answers_digest(report, gate.items)
    return {by: review for by, review in signed if review.answers == now}


def review_check(
    report: EvaluationReport, gate: ReviewGate, signed: Sequence[Signed], authors: Collection[str] = ()
) -> CheckResult:
    """Checks whether enough people found the sampled answers good. `signed`: oldest first.

    Each person's last review counts, and one person who found too many bad answers fails the check, whatever others
    found. Those who had the release made (`authors`) do not pass it alone.
    """
    last = in_force(report, gate, signed)
    against = {by: review.bad for by, review in last.items() if review.bad > gate.max_bad}
    n, people = len(sample(report, gate.items)), len(last) - len(against)
    others = last.keys() - against.keys() - set(authors)
    if against:
        note = ", ".join(f"{by} found {bad} of {n} bad" for by, bad in sorted(against.items()))
    elif last:
        note = f"signed off by {', '.join(sorted(last))}"
        note += "" if others else ", who had it made"
        note += "" if others and people >= gate.people else "; somebody else must sign, too"
    else:
        note = "nobody has looked at these answers yet"
    return CheckResult(
        name="review",
        passed=not against and bool(others) and people >= gate.people,
        value=people,
        threshold=gate.people,
        n=n,
        low=people,
        high=people,
        note=note,
        suite=report.suite,
        unit="people",
    )
