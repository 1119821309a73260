"""Forgetting a node: only one that is known and not linked, and the log keeps who vouched for it."""

from __future__ import annotations

import pytest

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.records import forget
from loradeck.schemas.ids import Role
from loradeck.schemas.log import FLEET, EventKind

ANN = Actor(name="ann", role=Role.OPERATOR)


def test_the_event_is_about_the_fleet_and_says_who_vouches_and_why() -> None:
    draft = forget("n1", "its disk burned", ANN, known=True, linked=False)
    assert (draft.kind, draft.tenant, draft.route, draft.pointer) == (EventKind.NODE_FORGET, FLEET, None, None)
    assert (draft.actor, draft.role, draft.reason) == ("ann", Role.OPERATOR, "its disk burned")
    assert draft.payload == {"node": "n1"}


@pytest.mark.parametrize(("known", "linked", "code"), [(False, False, "unknown_node"), (True, True, "node_linked")])
def test_a_node_that_is_unknown_or_linked_is_refused(known: bool, linked: bool, code: str) -> None:
    with pytest.raises(Refused) as refused:
        forget("n1", "its disk burned", ANN, known=known, linked=linked)
    assert refused.value.code == code
