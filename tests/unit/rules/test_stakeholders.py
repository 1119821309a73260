"""Acknowledgements: who still has to read how a release differs from what is live."""

from __future__ import annotations

import pytest

from loradeck.rules.quality.loosening import loosened
from loradeck.rules.quality.stakeholders import refusal
from loradeck.schemas.attestation import Acknowledgement
from loradeck.schemas.route import Controls, RouteConfig

LIVE, OTHER = "1" * 64, "2" * 64


def read(person: str, against: str | None = LIVE) -> Acknowledgement:
    return Acknowledgement(against=against, differences="d" * 64, person=person)


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
    stakeholders: tuple[str, ...], stated: tuple[Acknowledgement, ...], missing: list[str] | None
) -> None:
    found = refusal("v8", stakeholders, stated, LIVE)
    assert (found.context["missing"] if found else None) == missing


def test_a_stakeholder_less_is_looser() -> None:
    two, one = (RouteConfig(controls=Controls(stakeholders=who)) for who in (("ann", "bob"), ("ann",)))
    assert loosened(two, one) == ("a card that a stakeholder has not read",)
    assert loosened(one, two) == ()
