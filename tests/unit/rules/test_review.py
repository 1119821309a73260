"""Spot checks: who samples, what a review is a review of, and when enough people have signed."""

from __future__ import annotations

import pytest
from tests.fleets.in_process.log import digest, rid

from loradeck.rules.errors import Refused
from loradeck.rules.quality.review import Edges, answers_digest, counts, drawn, require_fitting, review_check, sample
from loradeck.schemas.attestation import EvaluationReport, ItemResult
from loradeck.schemas.gate import ReviewGate
from loradeck.schemas.review import Drawn, Review, ReviewedItem

SUITE = digest("suite")


def report(label: str = "v2", n: int = 50, answer: str = "fine") -> EvaluationReport:
    items = tuple(ItemResult(id=f"i{i}", answer=f"{answer} {i}", exact=True, valid=True) for i in range(n))
    return EvaluationReport(release=rid(label), suite=SUITE, n=n, exact=n, valid=n, items=items, seconds=1.0)


def review(of: EvaluationReport, gate: ReviewGate, bad: int = 0) -> Review:
    items = tuple(ReviewedItem(id=item.id, good=number >= bad) for number, item in enumerate(sample(of, gate)))
    return Review(release=of.release, suite=SUITE, answers=answers_digest(of, gate), items=items)


def test_the_sample_follows_from_release_suite_and_item_and_nobody_picks_it() -> None:
    first = sample(report(), ReviewGate(items=20))
    assert len({item.id for item in first}) == 20
    assert sample(report(), ReviewGate(items=20)) == first
    assert [item.id for item in first] == sorted((item.id for item in first), key=lambda text: int(text[1:]))
    shuffled = report().model_copy(update={"items": report().items[::-1]})
    assert {item.id for item in sample(shuffled, ReviewGate(items=20))} == {item.id for item in first}
    assert {item.id for item in sample(report("v3"), ReviewGate(items=20))} != {item.id for item in first}
    assert len(sample(report(n=7), ReviewGate(items=20))) == 7


def test_one_signature_passes_where_one_is_asked_for() -> None:
    gate = ReviewGate(items=10)
    nobody = review_check(report(), gate, [])
    assert (nobody.passed, nobody.note) == (False, "nobody has looked at these answers yet")
    check = review_check(report(), gate, [("ann", review(report(), gate))])
    assert (check.passed, check.value, check.n, check.note) == (True, 1, 10, "signed off by ann")


def test_a_second_person_is_somebody_else() -> None:
    gate = ReviewGate(items=10, people=2)
    said = review(report(), gate)
    twice = review_check(report(), gate, [("ann", said), ("ann", said)])
    assert (twice.passed, twice.value) == (False, 1)
    assert twice.note == "signed off by ann; somebody else must sign, too"
    assert review_check(report(), gate, [("ann", said), ("bob", said)]).passed


def test_one_who_found_too_many_bad_ones_stops_it_until_the_same_person_says_otherwise() -> None:
    gate = ReviewGate(items=10, max_bad=1)
    good, bad = review(report(), gate, bad=1), review(report(), gate, bad=2)
    check = review_check(report(), gate, [("ann", good), ("bob", bad)])
    assert (check.passed, check.note) == (False, "bob found 2 of 10 bad")
    assert review_check(report(), gate, [("ann", good), ("bob", bad), ("bob", good)]).passed
    assert not review_check(report(), gate, [("ann", good), ("ann", bad)]).passed


def test_a_review_of_other_answers_says_nothing_of_these() -> None:
    gate = ReviewGate(items=10)
    before, now = report(answer="old"), report(answer="new")
    assert not review_check(now, gate, [("ann", review(before, gate))]).passed
    with pytest.raises(Refused) as refusal:
        require_fitting(review(before, gate), now, gate)
    assert refusal.value.code == "stale_review"
    unsampled = now.items[next(i for i, item in enumerate(now.items) if item not in sample(now, gate))]
    others = tuple(i if i != unsampled else i.model_copy(update={"answer": "changed"}) for i in now.items)
    require_fitting(review(now, gate), now.model_copy(update={"items": others}), gate)


def test_a_review_says_something_of_every_sampled_answer_once() -> None:
    gate = ReviewGate(items=10)
    whole = review(report(), gate)
    require_fitting(whole, report(), gate)
    strange = ReviewedItem(id="nobody", good=True)
    for items in (
        whole.items[1:],
        (*whole.items, strange),
        (*whole.items[1:], strange),
        (*whole.items, whole.items[0]),
    ):
        with pytest.raises(Refused) as refusal:
            require_fitting(whole.model_copy(update={"items": items}), report(), gate)
        assert refusal.value.code == "bad_review"


SLICES = {f"i{i}": "big" if i < 90 else "small" if i < 97 else "tiny" for i in range(100)}


def edged(*, margins: bool = True) -> EvaluationReport:
    found = report("v9", n=100)
    items = (item.model_copy(update={"margin": int(item.id[1:]) / 10 if margins else None}) for item in found.items)
    return found.model_copy(update={"items": tuple(items)})


def live() -> EvaluationReport:
    """The live release has four items wrong which the candidate has right."""
    found = report("v8", n=100)
    items = (item.model_copy(update={"exact": item.id not in {"i40", "i41", "i42", "i43"}}) for item in found.items)
    return found.model_copy(update={"items": tuple(items)})


def test_half_of_a_sample_comes_from_the_edges_in_turn_and_the_review_says_how_many_of_how_many() -> None:
    gate, edges = ReviewGate(items=20, edges=True), Edges(slices=SLICES, live=live())
    found = drawn(edged(), gate, edges)
    assert counts(edged(), gate, edges) == {
        Drawn.LOT: (10, 100),
        Drawn.DIFFERS: (4, 4),
        Drawn.CLOSE: (3, 10),
        Drawn.RARE: (3, 10),
    }
    assert {item for item, why in found.items() if why is Drawn.DIFFERS} == {"i40", "i41", "i42", "i43"}
    assert {item for item, why in found.items() if why is Drawn.CLOSE} == {"i0", "i1", "i2"}
    assert {item for item, why in found.items() if why is Drawn.RARE} == {"i97", "i98", "i99"}  # the rarest slice first
    assert [item.id for item in sample(edged(), gate, edges)] == sorted(found, key=lambda item: int(item[1:]))


def test_where_nothing_is_known_of_edges_the_lot_draws_all() -> None:
    gate, plain = ReviewGate(items=20, edges=True), ReviewGate(items=20)
    assert counts(edged(margins=False), gate, Edges())[Drawn.LOT] == (20, 100)
    assert sample(edged(margins=False), gate) == sample(edged(margins=False), plain)
    assert counts(edged(), plain, Edges(slices=SLICES, live=live())) == {Drawn.LOT: (20, 100)}


def test_a_review_stays_in_force_when_another_release_goes_live_and_is_stale_when_the_answers_change() -> None:
    gate, then = ReviewGate(items=20, edges=True), Edges(slices=SLICES, live=live())
    chosen = sample(edged(), gate, then)
    said = Review(
        release=edged().release,
        suite=SUITE,
        answers=answers_digest(edged(), gate, then),
        items=tuple(ReviewedItem(id=item.id, good=True) for item in chosen),
        against=rid("v8"),
    )
    require_fitting(said, edged(), gate, then)
    edges = {rid("v8"): then, rid("v10"): Edges(slices=SLICES)}
    assert review_check(edged(), gate, [("ann", said)], edges=edges).passed
    assert not review_check(
        edged(), gate, [("ann", said.model_copy(update={"against": rid("v10")}))], edges=edges
    ).passed
    changed = edged().model_copy(update={"items": report("v9", n=100, answer="other").items})
    assert not review_check(changed, gate, [("ann", said)], edges=edges).passed
