"""Acknowledgements: who still has to read how a release differs from what is live."""

from __future__ import annotations

import pytest

from loradeck.rules.quality.loosening import loosened
from loradeck.rules.quality.stakeholders import Read, card, refusal
from loradeck.schemas.attestation import Acknowledgement, Attestation, AttestationKind
from loradeck.schemas.route import Controls, RouteConfig

LIVE, OTHER = "1" * 64, "2" * 64


def of(kind: AttestationKind, seq: int, **body: object) -> Attestation:
    return Attestation(seq=seq, kind=kind, subject=OTHER, tenant="acme", body=body, by="job j1")


EVALUATED = of(AttestationKind.EVALUATION, 3, score=1)
CARD = card([EVALUATED])


def read(person: str, against: str | None = LIVE, shown: str | None = CARD.digest, seq: int = 5) -> Read:
    return Read(seq, Acknowledgement(against=against, differences="d" * 64, person=person, card=shown))


@pytest.mark.parametrize(
    ("stakeholders", "stated", "missing"),
    [
        ((), (), None),
        (("ann", "bob"), (), ["ann", "bob"]),
        (("ann", "bob"), (read("bob"), read("cid")), ["ann"]),
        (("ann",), (read("ann", OTHER),), ["ann"]),
        (("ann",), (read("ann", None),), ["ann"]),
        (("ann",), (read("ann", OTHER), read("ann")), None),
    ],
)
def test_each_stakeholder_has_read_what_differs_from_the_live_release(
    stakeholders: tuple[str, ...], stated: tuple[Read, ...], missing: list[str] | None
) -> None:
    found = refusal("v8", stakeholders, stated, LIVE, CARD)
    assert (found.context["missing"] if found else None) == missing


def test_a_stakeholder_less_is_looser() -> None:
    two, one = (RouteConfig(controls=Controls(stakeholders=who)) for who in (("ann", "bob"), ("ann",)))
    assert loosened(two, one) == ("a card that a stakeholder has not read",)
    assert loosened(one, two) == ()


def test_what_was_read_counts_until_the_card_says_something_else() -> None:
    again = card([EVALUATED, EVALUATED, of(AttestationKind.GATE, 6, passed=True), of(AttestationKind.REVIEW, 7)])
    assert again.digest == CARD.digest  # gates and reviews come after what is on the card, and follow from it
    for later in (AttestationKind.EVALUATION, AttestationKind.LEDGER, AttestationKind.LEAK):
        changed = card([of(later, 6, biases=["few night calls"]), EVALUATED])
        assert changed == card([EVALUATED, of(later, 6, biases=["few night calls"])])
        found = refusal(
            "v8", ("ann", "bob"), [read("ann"), read("bob"), read("bob", shown=changed.digest)], LIVE, changed
        )
        assert found is not None
        assert (found.detail, found.context) == (
            "ann (the card has changed since)",
            {"missing": ["ann"], "card": changed.digest},
        )


def test_an_acknowledgement_from_before_cards_counts_until_something_newer_stands_there() -> None:
    old = [read("ann", shown=None, seq=5)]
    assert refusal("v8", ("ann",), old, LIVE, CARD) is None
    changed = card([EVALUATED, of(AttestationKind.LEAK, 6)])
    assert refusal("v8", ("ann",), old, LIVE, changed) is not None
    assert refusal("v8", ("ann",), old, OTHER, CARD) is not None
    assert refusal("v8", ("ann",), old, LIVE, card([])) is None
