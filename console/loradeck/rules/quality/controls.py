"""What a route's controls and signers ask of moves forward. Nothing of it concerns moves that go back.

- Separation of duties: whoever made a release, whoever reviewed it and whoever moves it forward are different people.
- Acknowledgements: stakeholders of a route have read how a release's card differs from the live one's. What they have
  read is bound to what was attested of both releases and their data then, and stands in the cards: if that has changed,
  they read again. Gates, reviews and how a release serves follow from it, and are no part of it.
- Signatures: to a route with signers only releases are promoted that one of them has signed. F still goes to the base
  of the live release, and the ways back stay: they are left for what is worse.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import Acknowledgement, Attestation, AttestationKind
from loradeck.schemas.ids import Digest, digest_of
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.route import RouteConfig

ASKS_PEOPLE = "its route asks for stakeholders, that author and promoter differ, or for tickets without a standing one"


def asks_people(config: RouteConfig) -> bool:
    """Tells whether a route wants its releases let out by people, so that the hub lets out none by itself."""
    controls = config.controls
    return controls.duties or bool(controls.stakeholders) or (controls.tickets and controls.standing_ticket is None)


@dataclass(frozen=True, kw_only=True)
class Involved:
    """Who had a release made, and who has reviewed it and found it good: name -> who that is where people sign in."""

    authors: Collection[str]
    validators: Mapping[str, str]


def duties_refusal(called: str, involved: Involved, name: str, person: str) -> Refused | None:
    """The refusal of a move forward by somebody who made or reviewed the release, or where nobody else has reviewed it.

    None: all three are different people. A review by somebody who had the release made counts for nothing here.

    Args:
        called: the release's name.
        name, person: of whoever moves it.
    """
    reviewed = any(name == by or person == who for by, who in involved.validators.items())
    others = sorted(involved.validators.keys() - set(involved.authors))
    if name in involved.authors:
        why, fix = f"{name} had {called} made", "somebody who neither made nor reviewed it moves it"
    elif reviewed:
        why, fix = f"{name} has reviewed {called}", "somebody who neither made nor reviewed it moves it"
    elif not others:
        why = f"nobody who had no part in making {called} has reviewed it and found it good"
        fix = "somebody else reviews it: loradeck gate review, where the route's gate has [review]"
    else:
        return None
    return Refused(
        "duties_not_separate",
        "this route asks that author, validator and promoter are different people",
        detail=why,
        fix=f"{fix}; or, on the hub's host, --break-glass REASON",
        context={"authors": sorted(involved.authors), "validators": others},
    )


ON_THE_CARD = frozenset(
    {
        *(AttestationKind.EVALUATION, AttestationKind.HARNESS, AttestationKind.LEAK, AttestationKind.JUDGED),
        *(AttestationKind.LEDGER, AttestationKind.SCAN, AttestationKind.AGREEMENT, AttestationKind.GENERATION),
        AttestationKind.ASSESSMENT,
        *(AttestationKind.ERASURE, AttestationKind.ERASED_ELSEWHERE, AttestationKind.LINEAGE),
        *(AttestationKind.DECISION, AttestationKind.DEPRECATION, AttestationKind.REVOCATION),
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


def unread_refusal(
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


def check_signed(release: Release, signers: Collection[str], signed_by: Collection[str], called: str) -> None:
    """Checks that a release may be served on a route with these signers (public keys). No signers allow everything.

    Args:
        signed_by: public keys whose signatures of the release's adapter, or of its weights without one, were verified.
        called: the release's name in messages.

    Raises: Refused: `unsigned`.
    """
    if not signers:
        return
    if not {key.strip() for key in signers} & {key.strip() for key in signed_by}:
        raise Refused(
            "unsigned",
            f"{called} carries no signature of a signer of this route",
            detail=f"{len(signers)} signers, {len(signed_by)} signatures by others" if signed_by else "not signed",
            fix="loradeck adapter sign TENANT NAME VERSION --key FILE"
            if release.form is Form.ADAPTER
            else "loradeck release sign TENANT RELEASE --key FILE",
        )
