"""Change tickets: what is refused without one, what gets one afterwards, and what the hub moves under."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from tests.fakes import console_fleet as seed

from loradeck.rules.moves import tickets
from loradeck.rules.moves.draft import Actor, drafted
from loradeck.rules.moves.records import annotate
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft, Event, EventKind, PointerState
from loradeck.schemas.moves import AnnotateRequest, PromoteRequest
from loradeck.schemas.route import Controls, RouteConfig

ASKS = RouteConfig(controls=Controls(tickets=True, standing_ticket="CHG-STANDING"))
HERE = PointerState(tenant="acme", route="production")
ANN, GUARD = Actor(name="ann", role=Role.RELEASER), Actor(name="guard", role=Role.OPERATOR, automation=True)
UNDER = Actor(name="ann", role=Role.RELEASER, ticket="CHG-1")


def stamped(kind: EventKind, actor: Actor, config: RouteConfig = ASKS) -> dict[str, object]:
    draft = drafted(kind, HERE, HERE.model_copy(update={"generation": 1}), actor, reason="")
    return dict(tickets.stamped([draft], lambda key: config)[0].payload)


def test_forward_moves_wait_for_a_ticket_where_the_route_asks_for_tickets() -> None:
    refusal = tickets.refusal(ASKS, None)
    assert refusal is not None
    assert refusal.code == "ticket_required"
    assert tickets.refusal(ASKS, "CHG-1") is None
    assert tickets.refusal(RouteConfig(), None) is None


@pytest.mark.parametrize(
    "kind", [EventKind.ROLLBACK, EventKind.FALLBACK, EventKind.UNDO, EventKind.REWIND, EventKind.CANDIDATE_ABORT]
)
def test_a_move_back_without_a_ticket_is_made_and_says_that_one_is_wanted(kind: EventKind) -> None:
    assert stamped(kind, ANN) == {"ticket_wanted": True}
    assert stamped(kind, UNDER) == {"ticket": "CHG-1"}
    assert stamped(kind, ANN, RouteConfig()) == {}


def test_the_hub_moves_under_the_standing_ticket_and_nobody_else_does() -> None:
    assert stamped(EventKind.ROLLBACK, GUARD) == {"automation": True, "ticket": "CHG-STANDING"}
    without = RouteConfig(controls=Controls(tickets=True))
    assert stamped(EventKind.ROLLBACK, GUARD, without) == {"automation": True, "ticket_wanted": True}


def test_what_is_no_move_wants_none() -> None:
    assert stamped(EventKind.HOLD, ANN) == {}


def event(draft: Draft, rev: int) -> Event:
    fields = draft.model_dump(exclude={"expected_generation"})
    chain = {"prev_hash": "0" * 64, "hash": "0" * 64, "at_ms": seed.NOW_MS, "epoch": 1, "txn": "t"}
    return Event.model_validate({**fields, **chain, "rev": rev, "id": f"{rev:032x}"})


def test_an_annotation_gives_a_move_its_ticket_and_the_newest_counts() -> None:
    back = event(Draft(kind=EventKind.ROLLBACK, tenant="acme", route="production", actor="ann", role=Role.OPERATOR), 1)
    request = AnnotateRequest(event=back.id, ticket="CHG-2", idempotency_key="k" * 8)
    notes = [
        event(annotate(back, request.model_copy(update={"ticket": t}), ANN), n) for n, t in ((2, "X-1"), (3, "X-2"))
    ]
    assert tickets.given([*reversed(notes), back]) == {back.id: "X-2"}
    assert tickets.given([back]) == {}


@pytest.mark.parametrize("bad", ["", " CHG", "a b", "x" * 101, "CHG\n1", "-1"])
def test_a_ticket_is_one_short_word(bad: str) -> None:
    with pytest.raises(ValidationError):
        PromoteRequest(release="0" * 64, expected_generation=0, idempotency_key="k" * 8, ticket=bad)
