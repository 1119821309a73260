"""Author, validator and promoter: who may move a release forward where a route keeps them apart."""

from __future__ import annotations

from loradeck.rules.quality.duties import Involved, refusal
from loradeck.rules.quality.loosening import loosened, needs_two
from loradeck.schemas.route import Controls, RouteConfig


def asked(who: str, *, authors: tuple[str, ...] = ("ann",), person: str = "", **validators: str) -> str | None:
    found = refusal("v2", Involved(authors=authors, validators=validators), who, person or who)
    return found and f"{found.code}: {found.detail}"


def test_three_people_may() -> None:
    assert asked("cem", bob="") is None
    assert asked("cem", ann="", bob="") is None


def test_an_author_does_not_promote_whoever_reviewed() -> None:
    assert asked("ann", bob="", dan="") == "duties_not_separate: ann had v2 made"


def test_a_validator_does_not_promote_even_where_another_reviewed_too() -> None:
    assert asked("bob", bob="", dan="") == "duties_not_separate: bob has reviewed v2"


def test_a_validator_is_known_by_the_sign_in_under_another_name() -> None:
    assert asked("robert", person="oidc:s-2", bob="oidc:s-2") == "duties_not_separate: robert has reviewed v2"


def test_a_review_by_an_author_is_none() -> None:
    nobody = "duties_not_separate: nobody who had no part in making v2 has reviewed it and found it good"
    assert asked("cem") == nobody
    assert asked("cem", ann="") == nobody


def test_to_let_duties_or_tickets_go_is_a_loosening_and_takes_two_where_duties_are_apart() -> None:
    strict = RouteConfig(controls=Controls(duties=True, tickets=True, standing_ticket="CHG-9"))
    assert loosened(strict, RouteConfig()) == (
        "author, validator and promoter as one person",
        "moves without a change ticket",
        "another standing ticket",
    )
    assert loosened(RouteConfig(), strict) == ()
    assert (needs_two(strict), needs_two(RouteConfig(controls=Controls(tickets=True)))) == (True, False)
