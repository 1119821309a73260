"""Deprecation of an adapter version or of whole weights: the statement, and the pointers that still use them."""

from datetime import UTC, datetime

import click

from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.model_card import users
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Session
from loradeck.schemas.attestation import Attestation, AttestationKind, Deprecation
from loradeck.schemas.state import DeprecationRow

from_option = click.option(
    "--from", "day", type=click.DateTime(["%Y-%m-%d"]), required=True, help="Day (UTC) it is not promoted from."
)
until_option = click.option(
    "--until", type=click.DateTime(["%Y-%m-%d"]), help="Day (UTC) until which callers can count on it."
)


async def deprecate(
    s: Session,
    tenant: str,
    name: str,
    *,
    subject: str,
    release: str,
    day: datetime,
    until: datetime | None,
    reason: str,
) -> None:
    """States that something is not promoted from a day on, and prints what still uses it, and who still calls it.

    Args:
        name: what it is called in the output.
        subject: digest of the adapter or the weights.
        release: id of the release of it.
    """
    if until is not None and until < day:
        raise misused("--until is before --from", fix="leave it out, or give a later day")
    last = None if until is None else _ms(until)
    body = Deprecation(from_ms=_ms(day), until_ms=last, reason=reason)
    stated = await s.api.attest(Attestation.of(AttestationKind.DEPRECATION, subject, tenant, body))
    rows = await users(s.api, tenant, release)
    s.out.json({"deprecation": stated.model_dump(mode="json"), "users": [row.pointer.model_dump() for row in rows]})
    s.out.say(f"{name} is deprecated from {day:%Y-%m-%d}")
    s.out.table(
        ("STILL USED BY", "HOW", "CALLED BY, LAST"),
        [
            (
                f"{row.pointer.tenant}/{row.pointer.route}",
                "serves it" if row.pointer.release == release else "may go back to it",
                called_by(row.deprecated) if row.deprecated and row.pointer.release == release else "",
            )
            for row in rows
        ],
        empty="no pointer uses it",
    )


def called_by(deprecated: DeprecationRow) -> str:
    """Writes who has called a deprecated release since that was said, and when last: `k1 2026-12-01 09:30`."""
    return ", ".join(f"{one.key} {utc(one.last_ms)}" for one in deprecated.callers) or "nobody yet"


def _ms(day: datetime) -> int:
    return int(day.replace(tzinfo=UTC).timestamp() * 1000)
