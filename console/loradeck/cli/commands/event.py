"""Commands on the log: list, annotate and countersign events, export a timeline, verify chain and audit trail."""

import asyncio
from pathlib import Path

import click

from loradeck.cli.commands.audit_forward import forward
from loradeck.cli.shared.exits import Exit, misused, refused
from loradeck.cli.shared.files import write_new
from loradeck.cli.shared.naming import Pointer, called, event_named, moment, on_pointer, pointer
from loradeck.cli.shared.options import incident_option, reason_option, ticket_option, yes_option
from loradeck.cli.shared.output import ago, utc
from loradeck.cli.shared.progress import sent
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.idempotency import new_key
from loradeck.client.timeline import as_json, as_markdown, timeline
from loradeck.rules.moves import tickets
from loradeck.schemas.audit import AuditLine
from loradeck.schemas.ids import short
from loradeck.schemas.log import Event
from loradeck.schemas.moves import AnnotateRequest, CountersignRequest

event = Noun("event")


@event.command("ls")
@click.argument("tenant", required=False)
@click.argument("route", required=False)
@click.option("--before", type=int, metavar="REV", help="Only events before this rev.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Most events to list.")
@click.option("--no-ticket", is_flag=True, help="Only moves that want a change ticket and have none; of all the log.")
@hub_command
async def ls(
    s: Session, tenant: str | None, route: str | None, before: int | None, limit: int, no_ticket: bool
) -> None:
    """List events, newest first."""
    if tenant is not None and "/" in tenant:
        at = pointer(tenant, route)
        tenant, route = at.tenant, at.route
    if no_ticket:
        found = await _between(s, tenant, route, None, None)
        has = tickets.given(found)
        events = [e for e in found if e.wants_ticket and e.id not in has and e.rev < (before or e.rev + 1)][:limit]
    else:
        events = await s.api.events(tenant=tenant, route=route, before=before, limit=limit)
    name = short if s.out.as_json else await called(s.api, events)
    s.out.listed(
        events,
        ("REV", "TIME", "EVENT", "WHERE", "GEN", "FROM", "TO", "BY", "ID", "INCIDENT", "TICKET", "REASON"),
        lambda e: (
            e.rev,
            utc(e.at_ms),
            e.kind.value + (" OVERRIDE" if e.override else "") + (" 1 COPY" if e.one_copy else ""),
            e.where,
            "-" if e.generation is None else e.generation,
            *map(name, e.path),
            e.actor,
            e.id[:12],
            e.incident or "-",
            e.ticket or ("wanted" if e.wants_ticket else "-"),
            e.reason,
        ),
        empty="no events",
    )


@event.command()
@click.option("--event", "event_id", metavar="ID", help="The event it is about; the route's last move by default.")
@incident_option
@ticket_option
@reason_option()
@writes
@on_pointer
async def annotate(
    s: Session, at: Pointer, event_id: str | None, incident: str | None, ticket: str | None, reason: str
) -> None:
    """Add an incident, a change ticket or a reason to a move, afterwards."""
    if not incident and not ticket and not reason:
        raise refused("there is nothing to add", where=str(at), fix="give --incident ID, --ticket ID or --reason TEXT")
    about = await event_named(s.api, at, event_id)
    request = AnnotateRequest(
        event=about.id, incident=incident, ticket=ticket, reason=reason, idempotency_key=new_key()
    )
    result = await s.api.send(at.tenant, at.route, request)
    when = f"{utc(about.at_ms)} ({ago(about.at_ms)})"
    s.out.moved(result, f"{at}: added to the {about.kind.value} of {when}")


@event.command()
@click.argument("event_id", metavar="EVENT")
@reason_option()
@yes_option
@writes
async def countersign(s: Session, event_id: str, reason: str, yes: bool) -> None:
    """Say that you have seen what somebody else did alone with --break-glass. Its route is red until then."""
    rows = (await s.api.state()).tenants
    found = next(((row, one) for row in rows for one in row.alone if one.event.startswith(event_id)), None)
    if found is None:
        raise refused("no such event waits to be countersigned", where=event_id, fix="loradeck --once: flag GLASS")
    row, one = found
    where = f"{row.tenant}/{row.route}"
    s.out.say(f"{where}: {one.kind.value} by {one.actor} alone, {utc(one.at_ms)}: {one.reason}")
    s.confirm(f"Say that you have seen it, as {(await s.api.me()).actor}?", yes=yes)
    request = CountersignRequest(event=one.event, reason=reason, idempotency_key=new_key())
    result = await sent(s.api.send(row.tenant, row.route, request), request.idempotency_key)
    s.out.answer(result, f"countersigned; {where} keeps the event")


@event.command()
@click.argument("tenant", required=False)
@click.argument("route", required=False)
@click.option("--since", metavar="TIME", help="From this time on: 14:05Z, '2h ago'.")
@click.option("--until", metavar="TIME", help="Up to this time.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="A new file, .md or .json.")
@hub_command
async def export(
    s: Session, tenant: str | None, route: str | None, since: str | None, until: str | None, out: Path | None
) -> None:
    """Write a timeline for the post-mortem: every event of the log, or a tenant's, oldest first.

    Markdown, or JSON with --json or a FILE that ends in .json. Each event is hashed again; a break is exit 1.
    """
    if out is not None and out.suffix.lower() not in (".md", ".json"):
        raise misused("the file's ending must be .md or .json", where=str(out), fix="rename it")
    if tenant is not None and "/" in tenant:
        at = pointer(tenant, route)
        tenant, route = at.tenant, at.route
    first = moment(since, interactive=s.interactive) if since is not None else None
    last = moment(until, interactive=s.interactive) if until is not None else None
    events = await _between(s, tenant, route, first, last)
    where = "/".join(part for part in (tenant, route) if part) or "every tenant"
    times = (f" since {utc(first)}" if first is not None else "") + (f" until {utc(last)}" if last is not None else "")
    status = (await s.api.state()).status
    made = timeline(events, hub=status.hub, made_ms=status.at_ms, scope=f"events of {where}{times}")
    as_document = s.out.as_json if out is None else out.suffix.lower() == ".json"
    text = (as_json if as_document else as_markdown)(made, await called(s.api, events))
    if out is None:
        s.out.raw(text.rstrip("\n"))
    else:
        await asyncio.to_thread(write_new, out, text)
        s.out.json({"file": str(out), "events": len(made.events), "intact": made.broken is None})
        s.out.say(f"{len(made.events):,} events in {out}; chain: {made.chain}")
    if made.broken is not None:
        raise click.exceptions.Exit(Exit.REFUSED)


async def _between(
    s: Session, tenant: str | None, route: str | None, first: int | None, last: int | None
) -> list[Event]:
    """Events between two times, both included, newest first. The log's times need not grow, so all of it is read."""
    found: list[Event] = []
    before: int | None = None
    while page := await s.api.events(tenant=tenant, route=route, before=before, limit=1000):
        found += [e for e in page if (first is None or e.at_ms >= first) and (last is None or e.at_ms <= last)]
        before = page[-1].rev
    return found


audit = Noun("audit")


@audit.command("ls")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="N", help="Only lines after this one.")
@click.option("--actor", help="Only what this person, token or node did.")
@hub_command
async def trail(s: Session, after: int, actor: str | None) -> None:
    """List the lines of the audit trail, oldest first."""
    lines: list[AuditLine] = []
    while page := await s.api.audit_trail(after=after):
        lines += [line for line in page if actor is None or line.actor == actor]
        after = page[-1].seq
    s.out.listed(
        lines,
        ("LINE", "TIME", "BY", "ROLE", "TOKEN", "CALL", "STATUS", "WHAT"),
        lambda line: (
            line.seq,
            utc(line.at_ms),
            line.actor or "-",
            line.role or "-",
            line.token or "-",
            line.call,
            line.status or "-",
            " ".join([*(f"{name}={value}" for name, value in line.subject.items()), line.detail]).strip(),
        ),
        empty="no lines",
    )


audit.add_command(forward)


@audit.command()
@click.option("--keys", is_flag=True, help="Print the keys that its signatures are checked with instead.")
@hub_command
async def checkpoint(s: Session, keys: bool) -> None:
    """Print the head of the audit trail as a signed note, for a witness to keep.

    The format is C2SP tlog-checkpoint, with the signatures of nodes beneath it (tlog-cosignature). Who keeps one can
    show later whether a line up to its size was changed.
    """
    text = await (s.api.audit_keys() if keys else s.api.audit_checkpoint())
    s.out.json({"keys": text.split()} if keys else {"checkpoint": text})
    for line in text.rstrip("\n").split("\n"):
        s.out.say(line)


@audit.command()
@hub_command
async def verify(s: Session) -> None:
    """Verify the log's hash chain and the audit trail. A break is exit 1."""
    verdict = await s.api.verify_audit()
    s.out.json(verdict)
    if verdict.ok:
        s.out.say(f"the chain holds up to rev {verdict.rev}, {verdict.hash}")
        s.out.say(f"the audit trail holds, {verdict.trail.size} lines, root {verdict.trail.root}")
        for one in verdict.cosigners:
            s.out.say(f"{one.node} has signed {one.size} lines{f', and no more: {one.refuses}' if one.refuses else ''}")
        return
    s.out.alarm(f"THE CHAIN IS BROKEN: {verdict.broken}")
    s.out.say("keep a copy of the hub's data folder before anything else, and compare with a backup")
    raise click.exceptions.Exit(Exit.REFUSED)
