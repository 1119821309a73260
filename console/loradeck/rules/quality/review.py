"""Reviews: spot checks of answers by people, how the sample is drawn, and when a gate's review is passed.

The sample follows from the reports and the suite alone: nobody picks it, and every reviewer sees the same answers.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loradeck.rules.errors import Refused
from loradeck.rules.quality.figures import share
from loradeck.schemas.attestation import CheckResult, EvaluationReport, ItemResult
from loradeck.schemas.gate import ReviewGate
from loradeck.schemas.ids import Digest, digest_of, short
from loradeck.schemas.review import Drawn, DrawnCounts, Review, SignedReview

Signed = tuple[str, Review]
"""Who signed a review, and the review."""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """What tells where a release fails first: the slice of each item of the suite, and the live release's report."""

    slices: Mapping[str, str] = field(default_factory=dict)
    live: EvaluationReport | None = None


NO_EDGES = Edges()

EdgesOf = Mapping[Digest | None, Edges]
"""By the release that was live; None: none was."""

EMPTY: EdgesOf = {}


def drawn(report: EvaluationReport, gate: ReviewGate, edges: Edges = NO_EDGES) -> dict[str, Drawn]:
    """The items that a review must look at -> why each was drawn: `gate.items`, or all if there are fewer.

    With `gate.edges` half of them come from the edges, in turn from each that there is; where those are too few, and
    for the other half, the lot decides.
    """
    found: dict[str, Drawn] = {}
    waiting = {why: iter(ids) for why, ids in _edges(report, edges).items()} if gate.edges else {}
    while waiting and len(found) < gate.items // 2:
        for why in list(waiting):
            one = next((item for item in waiting[why] if item not in found), None)
            if one is None:
                del waiting[why]
            elif len(found) < gate.items // 2:
                found[one] = why
    for item in _by_lot(report):
        if len(found) >= gate.items:
            break
        found.setdefault(item.id, Drawn.LOT)
    return found


def counts(report: EvaluationReport, gate: ReviewGate, edges: Edges) -> DrawnCounts:
    """Counts how many answers were drawn for each reason, and of how many items that it fits."""
    why, of = Counter(drawn(report, gate, edges).values()), _edges(report, edges) if gate.edges else {}
    return {one: (why[one], len(of[one]) if one in of else len(report.items)) for one in (Drawn.LOT, *of)}


def _edges(report: EvaluationReport, edges: Edges) -> dict[Drawn, list[str]]:
    """The items at each edge, in the order in which they are drawn."""
    items, tenth = _by_lot(report), len(report.items) / 10
    live = {item.id: (item.exact, item.valid) for item in edges.live.items} if edges.live is not None else {}
    differ = [item.id for item in items if item.id in live and live[item.id] != (item.exact, item.valid)]
    sure = sorted((item.margin, number, item.id) for number, item in enumerate(items) if item.margin is not None)
    sizes = Counter(edges.slices[item.id] for item in items if item.id in edges.slices)
    rare = [item.id for item in items if item.id in edges.slices and sizes[edges.slices[item.id]] <= tenth]
    return {
        Drawn.DIFFERS: differ,
        Drawn.CLOSE: [item for _, _, item in sure[: math.ceil(tenth)]],
        Drawn.RARE: sorted(rare, key=lambda item: sizes[edges.slices[item]]),
    }


def _by_lot(report: EvaluationReport) -> list[ItemResult]:
    def lot(item: ItemResult) -> str:
        return hashlib.sha256(f"{report.release} {report.suite} {item.id}".encode()).hexdigest()

    return sorted(report.items, key=lot)


def sample(report: EvaluationReport, gate: ReviewGate, edges: Edges = NO_EDGES) -> tuple[ItemResult, ...]:
    """The answers that a review must look at, in the report's order."""
    chosen = drawn(report, gate, edges)
    return tuple(item for item in report.items if item.id in chosen)


def by_lot(review: Review, why: Mapping[str, Drawn], now: Digest) -> tuple[int, int] | None:
    """Counts the bad ones of the answers drawn by lot, and all of these; None: it is of others than those of `now`."""
    found = [item.good for item in review.items if why.get(item.id) is Drawn.LOT]
    return (found.count(False), len(found)) if review.answers == now else None


def in_words(signed: SignedReview) -> str:
    """Says what somebody found: '3 of 20 bad; of those by lot 10.0% (1.8% to 40.4%, n = 10)'."""
    said = f"{signed.bad} of {signed.n} bad" + ("" if signed.current else ", of other answers")
    return said if signed.lot is None else f"{said}; of those by lot {share(*signed.lot)}"


def answers_digest(report: EvaluationReport, gate: ReviewGate, edges: Edges = NO_EDGES) -> Digest:
    """Digest of the sampled answers, word for word, which ties a review to them."""
    return digest_of({"answers": [[item.id, item.answer] for item in sample(report, gate, edges)]})


def require_fitting(review: Review, report: EvaluationReport, gate: ReviewGate, edges: Edges = NO_EDGES) -> None:
    """Checks that a review judges every sampled answer once, and no others.

    Raises: Refused: stale_review: the sampled answers have changed; bad_review.
    """
    if review.answers != answers_digest(report, gate, edges):
        raise Refused(
            "stale_review",
            "the sampled answers have changed since the review",
            detail=f"the review is of {short(review.answers)}",
            fix="look at the present ones: loradeck gate review",
        )
    judged, asked = [item.id for item in review.items], [item.id for item in sample(report, gate, edges)]
    if sorted(judged) != sorted(asked):
        wrong = sorted(set(asked) ^ set(judged)) or sorted({item for item in judged if judged.count(item) > 1})
        raise Refused(
            "bad_review",
            f"a review has one verdict on each of the {len(asked)} sampled items",
            detail=f"about {wrong[0]!r}",
            fix="judge each of them once, as good or bad",
            context={"items": wrong},
        )


def digests(
    report: EvaluationReport, gate: ReviewGate, reviews: Iterable[Review], edges: EdgesOf
) -> dict[Digest | None, Digest]:
    """The digests of the answers that are sampled now, by the release that was live when a review was signed."""
    return {live: answers_digest(report, gate, edges.get(live, NO_EDGES)) for live in {r.against for r in reviews}}


def in_force(
    report: EvaluationReport, gate: ReviewGate, signed: Sequence[Signed], edges: EdgesOf = EMPTY
) -> dict[str, Review]:
    """Each person's review that counts: the last one of the answers that are sampled now. `signed`: oldest first.

    `edges`: by the release that was live when a review was signed. What went live since makes no review stale.
    """
    now = digests(report, gate, (review for _, review in signed), edges)
    return {by: review for by, review in signed if review.answers == now[review.against]}


def review_check(
    report: EvaluationReport,
    gate: ReviewGate,
    signed: Sequence[Signed],
    authors: Collection[str] = (),
    edges: EdgesOf = EMPTY,
) -> CheckResult:
    """Checks whether enough people found the sampled answers good. `signed`: oldest first.

    Each person's last review counts, and one person who found too many bad answers fails the check, whatever others
    found. Those who had the release made (`authors`) do not pass it alone.
    """
    last = in_force(report, gate, signed, edges)
    against = {by: review.bad for by, review in last.items() if review.bad > gate.max_bad}
    n, people = min(gate.items, len(report.items)), len(last) - len(against)
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
