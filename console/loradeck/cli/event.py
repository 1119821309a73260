"""The log: who moved what, when and why, and whether its chain holds."""

from __future__ import annotations

import click

from loradeck.cli.exits import Exit
from loradeck.cli.naming import called, pointer
from loradeck.cli.noun import Noun
from loradeck.cli.output import utc
from loradeck.cli.session import Session, hub_command
from loradeck.schemas.ids import short


@click.group(cls=Noun)
def event() -> None:
    """List events of the log."""


@event.command("ls")
@click.argument("tenant", required=False)
@click.argument("route", required=False)
@click.option("--before", type=int, metavar="REV", help="Only events before this rev.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@hub_command
async def ls(s: Session, tenant: str | None, route: str | None, before: int | None, limit: int) -> None:
    """List events, newest first."""
    if tenant is not None and "/" in tenant:
        at = pointer(tenant, route)
        tenant, route = at.tenant, at.route
    events = await s.api.events(tenant=tenant, route=route, before=before, limit=limit)
    s.out.json(events)
    name = short if s.out.as_json else await called(s.api, events)
    s.out.table(
        ("REV", "TIME", "EVENT", "WHERE", "GEN", "FROM", "TO", "BY", "ID", "INCIDENT", "REASON"),
        [
            (
                e.rev,
                utc(e.at_ms),
                e.kind.value + (" OVERRIDE" if e.override else ""),
                f"{e.tenant}/{e.route}" if e.route else e.tenant,
                "-" if e.generation is None else e.generation,
                name(e.from_release),
                name(e.to_release),
                e.actor,
                e.id[:12],
                e.incident or "-",
                e.reason,
            )
            for e in events
        ],
        empty="no events",
    )


@click.group()
def audit() -> None:
    """Check the log."""


@audit.command()
@hub_command
async def verify(s: Session) -> None:
    """Recompute the log's chain of hashes. A break is exit 1."""
    verdict = await s.api.verify_audit()
    s.out.json(verdict)
    if verdict.ok:
        s.out.say(f"the chain holds up to rev {verdict.rev}, {verdict.hash}")
        return
    s.out.alarm(f"THE CHAIN IS BROKEN: {verdict.broken}")
    s.out.say("keep a copy of the hub's data folder before anything else, and compare with a backup")
    raise click.exceptions.Exit(Exit.REFUSED)
