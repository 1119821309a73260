"""How many servers of the database have a commit, where it should be two: what is still done with one.

A database that waits for a standby has each commit on two servers before it is acknowledged. With its only standby gone
it waits in vain. The operator has chosen what happens then: every commit is refused, or ways back are committed on the
one server that is left, and say so. Those are lost if that server is lost before a standby is back.
"""

from collections.abc import Sequence
from enum import StrEnum

from loradeck.rules.moves.witness import BACKWARD, RECORDS
from loradeck.schemas.log import Draft, EventKind

ONE_COPY = "one_copy"
"""The problem code of what waits until a standby is back."""


class WithoutStandby(StrEnum):
    """What a hub does when its database waits for a standby in vain."""

    REFUSE = "refuse"
    DEGRADE = "degrade"


def waits_for_standby(kind: EventKind, *, one_copy: bool) -> bool:
    """Tells whether an event waits until a standby is back. `one_copy`: commits are on one server alone now."""
    return one_copy and kind not in BACKWARD | RECORDS


def marked(drafts: Sequence[Draft], *, one_copy: bool) -> Sequence[Draft]:
    """The drafts as they are committed: those that go back say for ever that one server alone had them."""
    if not one_copy:
        return drafts
    return [
        draft.model_copy(update={"payload": {**draft.payload, "copies": 1}}) if draft.kind in BACKWARD else draft
        for draft in drafts
    ]
