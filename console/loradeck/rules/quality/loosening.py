"""Loosening: what a change of a route's settings takes away of what stands between a release and its callers."""

from loradeck.schemas.gate import CompareGate, GateConfig, JudgeGate, ReviewGate, SuiteGate
from loradeck.schemas.ids import Digest, short
from loradeck.schemas.route import RouteConfig


def loosened(before: RouteConfig, after: RouteConfig, anchor: Digest | None = None) -> tuple[str, ...]:
    """Lists in words what a change of settings loosens: signers that change, and a gate that asks for less.

    `anchor`: the release that candidates are compared with by the gate as it stands; None: there is none.
    """
    found = []
    if before.signers and set(before.signers) != set(after.signers):
        found.append("other signers" if after.signers else "no signers")
    kept = {
        "author, validator and promoter as one person": before.controls.duties and not after.controls.duties,
        "moves without a change ticket": before.controls.tickets and not after.controls.tickets,
        "a card that a stakeholder has not read": bool(
            set(before.controls.stakeholders) - set(after.controls.stakeholders)
        ),
        "another standing ticket": _standing(before) not in (None, _standing(after)),
    }
    found += [what for what, loose in kept.items() if loose]
    if before.gate is not None:
        found += ["no gate"] if after.gate is None else _gate(before.gate, after.gate)
    if moves_anchor(after, anchor) and after.gate is not None:
        found.append(f"gate with the anchor {short(after.gate.anchor)} in place of {short(anchor)}")
    return tuple(found)


def moves_anchor(after: RouteConfig, anchor: Digest | None) -> bool:
    """Tells whether a change of settings takes the gate's anchor away, or puts another one in its place.

    Two people move an anchor, whatever the review asks: alone, somebody would move it after each small drop.
    """
    return anchor is not None and (after.gate is None or after.gate.anchor != anchor)


def needs_two(before: RouteConfig) -> bool:
    """Tells whether a route asks for two people to loosen what it asks of moves: where its gate's review does, and
    where it keeps duties apart.
    """
    review = before.gate.review if before.gate is not None else None
    return before.controls.duties or (review is not None and review.people > 1)


def _standing(config: RouteConfig) -> str | None:
    return config.controls.standing_ticket


def _gate(before: GateConfig, after: GateConfig) -> list[str]:
    parts = {part.suite: part for part in after.suites}
    found = []
    for part in before.suites:
        other = parts.get(part.suite)
        if other is None:
            found.append(f"gate without suite {short(part.suite)}")
        elif _asks_less(part, other):
            found.append(f"gate asks less of suite {short(part.suite)}")
    if before.max_age_days and not 0 < after.max_age_days <= before.max_age_days:
        found.append(f"gate by evaluations of more than {before.max_age_days} days")
    if before.after is not None and before.after != after.after:
        found.append(f"gate without the stage {before.after}")
    if before.review is not None and (after.review is None or _reviews_less(before.review, after.review)):
        found.append("gate with less of a review" if after.review is not None else "gate without a review")
    if before.leak is not None and (after.leak is None or after.leak.max_increase > before.leak.max_increase):
        found.append("gate that lets more rows leak")
    if before.judge is not None and (after.judge is None or _judges_less(before.judge, after.judge)):
        found.append("gate with another judge, or one that decides less" if after.judge else "gate without a judge")
    if before.compare is not None and (after.compare is None or _compares_less(before.compare, after.compare)):
        found.append("gate with less of an A/B" if after.compare is not None else "gate without an A/B")
    return found


def _compares_less(before: CompareGate, after: CompareGate) -> bool:
    elsewhere = (before.figure, before.route) != (after.figure, after.route)
    return elsewhere or after.margin > before.margin or after.keys < before.keys


def _judges_less(before: JudgeGate, after: JudgeGate) -> bool:
    floors = [0.0 if one.min_alpha is None else one.min_alpha for one in (before, after)]
    return (
        after.digest != before.digest
        or after.min_passed < before.min_passed
        or after.max_drop > before.max_drop
        or floors[1] > floors[0]  # a higher floor lets it decide less often
    )


def _asks_less(before: SuiteGate, after: SuiteGate) -> bool:
    slower = before.max_p95_ms is not None and (after.max_p95_ms is None or after.max_p95_ms > before.max_p95_ms)
    return (
        after.min_exact < before.min_exact
        or after.min_valid < before.min_valid
        or after.max_drop > before.max_drop
        or after.bound < before.bound
        or after.bound_drop < before.bound_drop
        or (before.min_slice is not None and (after.min_slice is None or after.min_slice < before.min_slice))
        or after.canaries < before.canaries
        or after.choice != before.choice
        or slower
    )


def _reviews_less(before: ReviewGate, after: ReviewGate) -> bool:
    return (
        after.items < before.items
        or after.max_bad > before.max_bad
        or after.people < before.people
        or (before.edges and not after.edges)
    )
