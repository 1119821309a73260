"""Rules of feedback: what is well formed, and what vouches for a request."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.data.feedback import WAIT_MS, Verdict, flaw_of, tie
from loradeck.rules.serving.request_ids import request_id
from loradeck.schemas.answer_ledger import LedgerRow
from loradeck.schemas.feedback import FeedbackRow, Said

NOW = 1_800_000_000_000
R = "a" * 64


def said(**fields: Any) -> Said:
    return Said.model_validate({"request": "r-1"} | fields)


def row(**fields: Any) -> FeedbackRow:
    told = {"request": "r-1", "kind": "thumb", "value": "up", "route": "production", "at_ms": NOW, "caller": "c"}
    return FeedbackRow.model_validate(told | fields)


def answer(**fields: Any) -> LedgerRow:
    told = {
        "request": "r-1",
        "route": "production",
        "release": R,
        "generation": 3,
        "replica": "n1/e0",
        "admitted_ms": NOW - 9,
        "finished_ms": NOW - 5,
        "status": 200,
    }
    return LedgerRow.model_validate(told | fields)


def judged(given: FeedbackRow, *found: LedgerRow, **how: Any) -> Any:
    return tie(given, found, **({"ledger": True, "node": True, "received_ms": NOW, "now_ms": NOW} | how))


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({"kind": "thumb", "value": "up"}, True),
        ({"kind": "thumb", "value": "sideways"}, False),
        ({"kind": "thumb", "value": "up", "text": "nice"}, False),
        ({"kind": "correction", "text": "The right answer."}, True),
        ({"kind": "correction", "value": "yes"}, False),
        ({"kind": "label", "value": "refund"}, True),
        ({"kind": "label"}, False),
        ({"kind": "outcome", "value": "solved"}, True),
        ({"kind": "outcome", "text": "solved"}, False),
    ],
)
def test_each_kind_takes_a_value_or_a_text(fields: dict[str, str], fits: bool) -> None:
    assert (flaw_of(said(**fields)) is None) is fits


def test_the_ledgers_row_of_the_request_vouches_for_it() -> None:
    given = judged(row(), answer(), answer(finished_ms=NOW - 1, generation=4))
    assert given.verdict is Verdict.KEEP
    assert given.row.generation == 4  # what answered last, where it was admitted twice


@pytest.mark.parametrize("fields", [{"route": "staging"}, {"status": 499}, {"status": 0}])
def test_another_routes_row_or_one_that_was_not_answered_vouches_for_nothing(fields: dict[str, Any]) -> None:
    assert judged(row(), answer(**fields)).verdict is Verdict.WAIT


def test_what_the_ledger_never_gets_is_refused_after_a_day() -> None:
    assert judged(row(), now_ms=NOW + WAIT_MS - 1).verdict is Verdict.WAIT
    assert judged(row(), now_ms=NOW + WAIT_MS).verdict is Verdict.REFUSE


def test_an_imported_id_of_long_ago_that_the_ledger_does_not_have_is_refused_at_once() -> None:
    old = row(request=request_id(NOW - WAIT_MS - 1, b"0123456789"))
    assert judged(old, node=False).verdict is Verdict.REFUSE
    assert judged(old).verdict is Verdict.WAIT  # a node may have been without a hub


def test_an_id_of_a_time_that_has_not_come_is_refused() -> None:
    assert judged(row(request=request_id(NOW + 3_600_000, b"0123456789"))).verdict is Verdict.REFUSE


def test_without_a_ledger_only_a_router_that_remembers_the_request_vouches_for_it() -> None:
    assert judged(row(release=R), ledger=False).verdict is Verdict.KEEP
    assert judged(row(), ledger=False).verdict is Verdict.REFUSE
    assert judged(row(release=R), ledger=False, node=False).verdict is Verdict.REFUSE
