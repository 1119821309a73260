"""Commands on incidents: what went wrong, from when to when, and who did and noted what."""

import asyncio
import contextlib
from pathlib import Path

import click

from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.files import write_new
from loradeck.cli.shared.naming import Pointer, on_pointer, pointer, release_named
from loradeck.cli.shared.options import reason_option
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.progress import sent
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.errors import ApiError
from loradeck.client.idempotency import new_key
from loradeck.client.post_mortem import as_html, name_of, said
from loradeck.rules.moves.incidents import note_of
from loradeck.schemas.incident import Incident, IncidentOpen, IncidentText

incident = Noun("incident")


@incident.command("open")
@click.option("--id", "incident_id", metavar="ID", help="Its id, such as INC-2210; one that is open gets the pointers.")
@click.option("--also", multiple=True, metavar="TENANT/ROUTE", help="A further route; may be repeated.")
@click.option("--relatives", is_flag=True, help="Add the routes whose live release is related to the one it is about.")
@click.option("--release", metavar="RELEASE", help="What it is about; by default what was left last, or is live.")
@reason_option()
@writes
@on_pointer
async def open_(
    s: Session,
    at: Pointer,
    incident_id: str | None,
    also: tuple[str, ...],
    relatives: bool,
    release: str | None,
    reason: str,
) -> None:
    """Open an incident on a route, or add routes to one. It moves nothing.

    A guard that acts opens one by itself. While one is open, guards hold up promotes of related releases.
    """
    every = dict.fromkeys((at, *(pointer(one) for one in also)))
    about = (await release_named(s.api, at.tenant, release)).id if release is not None else None
    request = IncidentOpen.model_validate(
        {
            "id": incident_id,
            "pointers": [{"tenant": one.tenant, "route": one.route} for one in every],
            "relatives": relatives,
            "release": about,
            "reason": reason,
            "idempotency_key": new_key(),
        }
    )
    result = await sent(s.api.open_incident(request), request.idempotency_key)
    named = ", ".join(event.where for event in result.events[:5])
    more = f" and {len(result.events) - 5} more" if len(result.events) > 5 else ""
    s.out.moved(result, f"{result.events[0].incident}: {named}{more}")


@incident.command("ls")
@click.option("--all", "every", is_flag=True, help="Closed ones too.")
@hub_command
async def ls(s: Session, every: bool) -> None:
    """List open incidents, the newest first."""
    found = [one for one in await s.api.incidents() if every or one.closed_ms is None]
    s.out.listed(
        found,
        ("ID", "OPENED", "BY", "CLOSED", "ROUTES", "WHAT"),
        lambda one: (
            one.id,
            utc(one.opened_ms),
            one.by,
            utc(one.closed_ms) if one.closed_ms is not None else "-",
            _routes(one),
            one.title,
        ),
        empty="no incident" if every else "no open incident",
    )


def _routes(one: Incident) -> str:
    first = f"{one.pointers[0].tenant}/{one.pointers[0].route}"
    return f"{first} +{len(one.pointers) - 1}" if len(one.pointers) > 1 else first


@incident.command()
@click.argument("incident_id", metavar="ID")
@hub_command
async def show(s: Session, incident_id: str) -> None:
    """Show an incident: its routes, the events of its time, notes, and what people were told."""
    found = await s.api.incident(incident_id)
    s.out.json(found)
    one = found.incident
    closed = f"closed {utc(one.closed_ms)} by {one.closed_by}: {one.outcome}" if one.closed_ms is not None else "open"
    s.out.heading(f"{one.id}  {one.title}")
    s.out.say(f"opened {utc(one.opened_ms)} by {one.by}; {closed}")
    for at in one.pointers:
        s.out.say(f"  {at.tenant}/{at.route}: {name_of(found, at.suspect.release if at.suspect else None)}")
    if found.more:
        s.out.say(f"{found.more:,} earlier events are left out")
    s.out.table(
        ("TIME", "WHAT", "WHERE", "FROM > TO", "BY", "WHY"),
        [
            (utc(e.at_ms), said(found, e)[0], e.where, said(found, e)[1], e.actor, note_of(e) or e.reason)
            for e in found.events
        ],
        empty="no events",
    )
    for notice in found.notices:
        s.out.say(f"told {utc(notice.at_ms)} {notice.severity.value}: {notice.title}")


@incident.command()
@click.argument("incident_id", metavar="ID")
@click.argument("text")
@writes
async def note(s: Session, incident_id: str, text: str) -> None:
    """Add a note to an incident."""
    request = IncidentText(text=text, idempotency_key=new_key())
    s.out.moved(await sent(s.api.note_incident(incident_id, request), request.idempotency_key), f"{incident_id}: noted")


@incident.command()
@click.argument("incident_id", metavar="ID")
@reason_option(required=True)
@writes
async def close(s: Session, incident_id: str, reason: str) -> None:
    """Close an incident, with what came of it. Promotes of related releases are free again."""
    request = IncidentText(text=reason, idempotency_key=new_key())
    s.out.moved(
        await sent(s.api.close_incident(incident_id, request), request.idempotency_key), f"{incident_id}: closed"
    )


@incident.command()
@click.argument("incident_id", metavar="ID")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="A new file, .html or .json.")
@hub_command
async def export(s: Session, incident_id: str, out: Path | None) -> None:
    """Write a post-mortem: figures, charts with the moves drawn in, and who did what, in one HTML file.

    Or all of it as JSON, with --json or a FILE that ends in .json.
    """
    if out is not None and out.suffix.lower() not in (".html", ".json"):
        raise misused("the file's ending must be .html or .json", where=str(out), fix="rename it")
    found = await s.api.incident(incident_id)
    if s.out.as_json if out is None else out.suffix.lower() == ".json":
        text = found.model_dump_json(indent=2) + "\n"
    else:
        first, related, traced = found.incident.pointers[0], None, None
        with contextlib.suppress(ApiError):  # its route is gone by now
            related = await s.api.related(first.tenant, first.route)
            if first.suspect is not None:
                traced = await s.api.traces(first.tenant, first.route, release=first.suspect.release, last=2000)
        of_it = related is not None and related.incident == incident_id
        text = as_html(found, related if of_it else None, traced)
    if out is None:
        s.out.raw(text.rstrip("\n"))
        return
    await asyncio.to_thread(write_new, out, text)
    s.out.json({"file": str(out), "events": len(found.events)})
    s.out.say(f"{len(found.events):,} events in {out}")
