"""Acknowledgements: stakeholders of a route have read how a release's card differs from the live one's.

What they have read is bound to what was attested of both releases and their data then, and stands in the cards: if that
has changed, they read again. Gates, reviews and how a release serves follow from it, and are no part of it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import Acknowledgement, Attestation, AttestationKind
from loradeck.schemas.ids import Digest, digest_of

ON_THE_CARD = frozenset(
    {
        AttestationKind.EVALUATION,
        AttestationKind.HARNESS,
        AttestationKind.LEAK,
        AttestationKind.JUDGED,
        AttestationKind.LEDGER,
        AttestationKind.SCAN,
        AttestationKind.AGREEMENT,
        AttestationKind.GENERATION,
        AttestationKind.ASSESSMENT,
        AttestationKind.ERASURE,
        AttestationKind.ERASED_ELSEWHERE,
        AttestationKind.LINEAGE,
        AttestationKind.DECISION,
        AttestationKind.DEPRECATION,
        AttestationKind.REVOCATION,
    }
)
"""Kinds of attestations that change what a card says. A ledger entry of a dataset has its known biases."""


class Card(NamedTuple):
    """The contents of two releases' cards, by digest. `newest`: seq of the newest attestation there; 0: it has none."""

    digest: Digest
    newest: int


class Read(NamedTuple):
    """An acknowledgement, and the seq under which it was attested."""

    seq: int
    said: Acknowledgement


def card(stated: Iterable[Attestation]) -> Card:
    """Says what stands in the cards by these attestations, in whatever order and however often they are given."""
    shown = [one for one in stated if one.kind in ON_THE_CARD]
    parts = sorted({digest_of({"kind": one.kind.value, "subject": one.subject, "body": one.body}) for one in shown})
    return Card(digest_of({"card": parts}), max((one.seq for one in shown), default=0))


def refusal(
    called: str, stakeholders: Sequence[str], stated: Iterable[Read], live: str | None, now: Card
) -> Refused | None:
    """The refusal of a move forward to a release that not all stakeholders have acknowledged; None: all have.

    What somebody read counts as long as the release is live that it was compared with, and the cards say the same. An
    acknowledgement from before it was bound to a card counts until something newer than itself stands there.

    Args:
        called: the release's name.
        stated: the acknowledgements of the release on the route.
        live: the release that is live there; None: none is.
        now: what the cards of both say now.
    """
    compared = [one for one in stated if one.said.against == live]
    read = {one.said.person for one in compared if _is_of(one, now)}
    missing = [who for who in stakeholders if who not in read]
    if not missing:
        return None
    stale = {one.said.person for one in compared} - read
    return Refused(
        "not_acknowledged",
        f"not everybody whom this route names has read how {called} differs from what is live",
        detail=", ".join(f"{who} (the card has changed since)" if who in stale else who for who in missing),
        fix="each does: loradeck gate acknowledge TENANT RELEASE; or, on the hub's host, --break-glass REASON",
        context={"missing": missing, "card": now.digest},
    )


def _is_of(one: Read, now: Card) -> bool:
    return one.said.card == now.digest if one.said.card is not None else one.seq > now.newest
