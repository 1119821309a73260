"""Rules of feedback: which is well formed, and what vouches for the request that it is about.

Anybody with a tenant's key may say anything about any request id. So feedback counts once the answer ledger has a row
of that request on that route: a forged id has none, and is dropped after a day.
"""

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from loradeck.rules.clocks import HOUR_MS
from loradeck.rules.data.answer_ledger import SKEW_MS
from loradeck.rules.serving.request_ids import time_of
from loradeck.schemas.answer_ledger import LedgerRow
from loradeck.schemas.feedback import FeedbackKind, FeedbackRow, Said

WAIT_MS = 26 * HOUR_MS
"""How long feedback waits for its request: a node seals each hour, and may have been without a hub for a day."""

THUMBS = ("up", "down")


class Verdict(Enum):
    """What becomes of feedback."""

    KEEP = "keep"
    WAIT = "wait"
    REFUSE = "refuse"


class Tie(NamedTuple):
    """What becomes of feedback, why it is refused, and the ledger's row that vouches for it, if one does."""

    verdict: Verdict
    why: str = ""
    row: LedgerRow | None = None


def flaw_of(said: Said) -> str | None:
    """Says what is wrong with feedback by its kind; None: nothing is."""
    match said.kind:
        case FeedbackKind.THUMB:
            return None if said.value in THUMBS and not said.text else "a thumb has the value up or down, and no text"
        case FeedbackKind.CORRECTION:
            return None if said.text and not said.value else "a correction has the right answer as its text, no value"
        case _:
            return None if said.value and not said.text else f"{said.kind.value} has a value, and no text"


def corrects(kind: FeedbackKind, value: str) -> bool | None:
    """Tells whether feedback says that an answer was not right; None: it says neither."""
    match kind:
        case FeedbackKind.THUMB:
            return value == "down"
        case FeedbackKind.CORRECTION:
            return True
        case _:
            return None


def tie(
    row: FeedbackRow, found: Iterable[LedgerRow], *, ledger: bool, node: bool, received_ms: int, now_ms: int
) -> Tie:
    """Decides what becomes of feedback by what the answer ledger has of its request.

    Args:
        found: the ledger's rows of the request in the tenant's segments.
        ledger: whether the tenant keeps a ledger at all.
        node: whether it came over a node, which may remember the request; else a person imported it.
        received_ms: when the hub got it.
    """
    answered = [one for one in found if one.route == row.route and one.status == 200]
    if answered:
        return Tie(Verdict.KEEP, row=max(answered, key=lambda one: one.finished_ms))
    if not ledger:
        if node and row.release is not None:
            return Tie(Verdict.KEEP)
        return Tie(Verdict.REFUSE, "no router remembers the request, and the tenant keeps no answer ledger")
    said_ms = time_of(row.request)
    if said_ms is not None and said_ms > received_ms + SKEW_MS:
        return Tie(Verdict.REFUSE, "its id is of a time that has not come")
    since = max(received_ms, 0) if node or said_ms is None else min(received_ms, said_ms)
    if now_ms - since >= WAIT_MS:
        return Tie(Verdict.REFUSE, "the answer ledger has no such request")
    return Tie(Verdict.WAIT)
