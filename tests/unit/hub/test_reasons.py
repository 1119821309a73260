"""Personal data in reasons: not looked at, said, or refused; and R is made whatever its reason says."""

from __future__ import annotations

import pytest

from loradeck.hub.log.reasons import kept
from loradeck.rules.errors import Refused
from loradeck.schemas.dataset_ledger import DataPolicy, Reasons
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft, EventKind

WHY = "ann@example.org complained"


def logged(policy: Reasons, kind: EventKind, reason: str = WHY) -> Draft:
    draft = Draft(kind=kind, tenant="acme", route="production", actor="ann", role=Role.RELEASER, reason=reason)
    return kept([draft], lambda tenant: DataPolicy(reasons=policy))[0]


def test_without_a_policy_reasons_are_kept_as_they_are() -> None:
    draft = logged(Reasons.KEEP, EventKind.PROMOTE)
    assert (draft.reason, draft.payload) == (WHY, {})


def test_a_warning_says_what_kinds_the_reason_has() -> None:
    draft = logged(Reasons.WARN, EventKind.PROMOTE)
    assert (draft.reason, draft.payload) == (WHY, {"personal": ["e-mail"]})


@pytest.mark.parametrize("kind", [EventKind.PROMOTE, EventKind.ROUTE, EventKind.LIFT, EventKind.ANNOTATE])
def test_where_they_are_refused_nothing_is_done(kind: EventKind) -> None:
    with pytest.raises(Refused, match="personal_data"):
        logged(Reasons.REFUSE, kind)
    assert logged(Reasons.REFUSE, kind, "more refusals").reason == "more refusals"


@pytest.mark.parametrize(
    "kind", [EventKind.ROLLBACK, EventKind.FALLBACK, EventKind.UNDO, EventKind.REWIND, EventKind.HOLD]
)
def test_what_goes_back_is_done_and_its_reason_kept_without(kind: EventKind) -> None:
    draft = logged(Reasons.REFUSE, kind)
    assert (draft.reason, draft.payload) == ("[e-mail] complained", {"personal": ["e-mail"]})
