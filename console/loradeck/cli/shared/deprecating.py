"""Deprecation of an adapter version or of whole weights: the statement, and the pointers that still use them."""

from datetime import UTC, datetime

import click

from loradeck.cli.shared.model_card import users
from loradeck.cli.shared.session import Session
from loradeck.schemas.attestation import Attestation, AttestationKind, Deprecation

from_option = click.option(
    "--from", "day", type=click.DateTime(["%Y-%m-%d"]), required=True, help="Day (UTC) it is not promoted from."
)


async def deprecate(
    s: Session, tenant: str, name: str, *, subject: str, release: str, day: datetime, reason: str
) -> None:
    """States that something is not promoted from a day on, and prints what still uses it.

    Args:
        name: what it is called in the output.
        subject: digest of the adapter or the weights.
        release: id of the release of it.
    """
    body = Deprecation(from_ms=int(day.replace(tzinfo=UTC).timestamp() * 1000), reason=reason).model_dump(mode="json")
    kind = AttestationKind.DEPRECATION
    stated = await s.api.attest(Attestation(kind=kind, subject=subject, tenant=tenant, body=body, by=""))
    rows = await users(s.api, tenant, release)
    s.out.json({"deprecation": stated.model_dump(mode="json"), "users": [row.pointer.model_dump() for row in rows]})
    s.out.say(f"{name} is deprecated from {day:%Y-%m-%d}")
    s.out.table(
        ("STILL USED BY", "HOW"),
        [
            (
                f"{row.pointer.tenant}/{row.pointer.route}",
                "serves it" if row.pointer.release == release else "may go back to it",
            )
            for row in rows
        ],
        empty="no pointer uses it",
    )
