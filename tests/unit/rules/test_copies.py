"""What is still done while commits are on one server of the database alone."""

from __future__ import annotations

import pytest
from tests.contract.store.drafts import move, note

from loradeck.rules.moves.witness import marked, waits_for_standby
from loradeck.schemas.log import EventKind


@pytest.mark.parametrize(
    ("kind", "waits"),
    [
        (EventKind.ROLLBACK, False),
        (EventKind.FALLBACK, False),
        (EventKind.CANDIDATE_ABORT, False),
        (EventKind.HOLD, False),
        (EventKind.PIN, False),
        (EventKind.PROMOTE, True),
        (EventKind.UNDO, True),
        (EventKind.KEY, True),
        (EventKind.RECOVER, True),
    ],
)
def test_ways_back_and_records_go_on_with_one_copy_and_all_else_waits(kind: EventKind, waits: bool) -> None:
    assert waits_for_standby(kind, one_copy=True) is waits
    assert waits_for_standby(kind, one_copy=False) is False


def test_a_way_back_says_for_ever_that_one_server_alone_had_it() -> None:
    back = move().model_copy(update={"kind": EventKind.ROLLBACK, "payload": {"evidence": 1}})
    pin = note(EventKind.PIN, node="n1")
    assert [d.payload for d in marked([back, pin], one_copy=True)] == [{"evidence": 1, "copies": 1}, {"node": "n1"}]
    assert marked([back, pin], one_copy=False) == [back, pin]
