"""Acting alone where two people are asked for, and the word of somebody else that they have seen it."""

from __future__ import annotations

import pytest

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.forward import answers
from loradeck.rules.quality.break_glass import BROKE, check_alone, countersign, countersigned_by, was_alone
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.moves import CountersignRequest

HOST = Actor(name="root", role=Role.RELEASER, local=True)
BOB = Actor(name="bob", role=Role.RELEASER, token="t1")


def event(kind: EventKind, payload: dict[str, object], actor: str = "root") -> Event:
    return Event(
        id="e1", txn="t", rev=1, epoch=1, kind=kind, tenant="acme", route="production", actor=actor,
        role=Role.RELEASER, pointer=None, from_release=None, reason="", incident=None, override=False, undoes=(),
        payload=payload, at_ms=1, prev_hash="0" * 64, hash="1" * 64,
    )  # fmt: skip


def test_the_glass_is_broken_on_the_hubs_host_with_a_reason() -> None:
    check_alone(HOST, "the provider is down")
    with pytest.raises(Refused, match="local_only"):
        check_alone(BOB, "the provider is down")
    with pytest.raises(Refused, match="reason_required"):
        check_alone(HOST, "  ")


def test_somebody_else_countersigns_it_by_name_and_not_the_host() -> None:
    alone = event(EventKind.PROMOTE, {BROKE: True})
    request = CountersignRequest(event="e1", reason="seen", idempotency_key="12345678")
    draft = countersign(alone, request, BOB)
    said = event(draft.kind, dict(draft.payload), "bob")
    assert (was_alone(alone), was_alone(said), countersigned_by(said), countersigned_by(alone)) == (
        True, False, "e1", None,
    )  # fmt: skip
    assert (draft.actor, draft.token, draft.reason) == ("bob", "t1", "seen")
    for same in (HOST, Actor(name="root", role=Role.RELEASER, token="t2")):
        with pytest.raises(Refused, match="second_person"):
            countersign(alone, request, same)


def test_a_countersignature_answers_no_failed_promote() -> None:
    assert answers(event(EventKind.ANNOTATE, {"event": "e0"}))
    assert not answers(event(EventKind.ANNOTATE, {"event": "e1", "countersigns": "e1"}))
