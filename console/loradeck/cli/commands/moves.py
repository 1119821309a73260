"""Commands that move pointers: promote, rollback, undo, fallback, rewind. Each shows from -> to before it asks."""

from collections.abc import Callable

import click

from loradeck.cli.shared.exits import Exit, refused
from loradeck.cli.shared.naming import Pointer, called, event_named, moment, on_pointer, pointer
from loradeck.cli.shared.options import dry_run_option
from loradeck.cli.shared.output import ago, nearness, span, utc
from loradeck.cli.shared.progress import (
    MoveOptions,
    because,
    changes,
    full,
    in_time,
    move,
    move_command,
    name,
    sent,
    title,
    to_place,
)
from loradeck.cli.shared.session import Session, hub_command
from loradeck.client import capacity_words
from loradeck.client.candidate_words import gets, leaves, who_goes_where
from loradeck.client.idempotency import new_key
from loradeck.rules.errors import Refused
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.rules.quality.cause import of_ten_minutes, whose
from loradeck.rules.quality.health import OVERDUE
from loradeck.schemas.ids import short
from loradeck.schemas.log import MOVES, Event
from loradeck.schemas.moves import FallbackRequest, MoveResult, PromoteRequest, RewindPlan, RewindRequest, UndoRequest
from loradeck.schemas.state import PreviewAction, TenantRow


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="TENANT [ROUTE] RELEASE")
@move_command(timeout=120, forward=True, incident=True)
async def promote(s: Session, how: MoveOptions, words: tuple[str, ...]) -> None:
    """Put a release on a route, after preparing it on every replica."""
    at, row, release = await to_place(s, words)
    s.out.heading(title(s, at, row))
    said = how.forward(row)
    s.out.say(changes(row.live, release, override=said["override"]))
    if row.promote_fits is not None:
        s.out.say(f" capacity  {capacity_words.verdict(row.promote_fits)}")
        for line in capacity_words.lines(row.promote_fits, 3):
            s.out.say(f"           {line}")
    if how.yes and row.promote_asks is not None:  # nobody is asked, and all the same it is said
        s.out.alarm(row.promote_asks)
    s.confirm(f"Promote {at} from {name(row.live)} to {name(release)}?{because(row.promote_asks)}", yes=how.yes)
    request = PromoteRequest(release=release.id, incident=how.incident, on_demand=row.promote_on_demand, **said)
    await move(s, at, how, request, prepares=True)


@click.command()
@move_command(timeout=10, incident=True)
@on_pointer
async def rollback(s: Session, how: MoveOptions, at: Pointer) -> None:
    """Put a route back to the release its preview names."""
    row = await s.api.row(at.tenant, at.route)
    preview = row.preview
    s.out.heading(title(s, at, row))
    _preview(s, row)
    if row.held_back:
        where, fix = preview.refused or "", "loradeck hub recover, on the hub's host"
        raise refused(f"{at} waits for a recover", where=where, fix=fix, code="log_behind")
    try:
        request = rollback_request(preview, key=new_key(), incident=how.incident, **how.said)
    except Refused as error:
        fix = f"loradeck fallback {at}" if preview.action is PreviewAction.FALLBACK else f"loradeck event ls {at}"
        raise refused(f"{at} has nowhere to go back to", where=error.title, fix=fix, code=error.code) from error
    if request.cancels:
        question = f"Cancel the pending promote of {at} (job {preview.prepare})? {name(row.live)} stays."
    else:
        question = f"Roll back {at} from {name(leaves(row))} to {name(preview.target)}?"
    s.confirm(question + because(preview.asks), yes=how.yes)
    await move(s, at, how, request)


@click.command()
@click.argument("tenant", metavar="TENANT", required=False)
@click.argument("route", required=False)
@click.option("--event", metavar="ID", help="The event to undo; the route's last move by default.")
@click.option("--txn", metavar="ID", help="Undo every event of a transaction, such as a rewind.")
@move_command(timeout=10)
async def undo(
    s: Session, how: MoveOptions, tenant: str | None, route: str | None, event: str | None, txn: str | None
) -> None:
    """Undo a move: release, hold and quarantine as they were before it."""
    if (tenant is None) == (txn is None) or (txn is not None and event is not None):
        raise refused("what is to be undone?", fix="give TENANT [ROUTE] with or without --event, or --txn alone")
    if txn is not None:
        events = [e for e in await s.api.events(limit=1000) if e.txn == txn]
        if not events:
            raise refused("no such txn among the last 1,000 events", where=txn, fix="loradeck event ls --json")
        name = await called(s.api, events)
        for e in events:
            _undone(s, e, name)
        s.confirm(f"Undo {len(events)} events of txn {txn}?", yes=how.yes)
        request = UndoRequest(txn=txn, confirmed=True, idempotency_key=new_key(), **how.said)
        sending = s.api.undo_together(request, wait=how.wait, timeout=how.timeout)
        result = await sent(sending, request.idempotency_key)
        s.out.answer(result, f"undone: {len(result.events)} events, rev {result.rev}, {result.reached or 'committed'}")
        in_time(s, result.reached, how.wait)
        return
    at = pointer(tenant or "", route)
    row = await s.api.row(at.tenant, at.route)
    last = await event_named(s.api, at, event)
    s.out.heading(title(s, at, row))
    _undone(s, last, await called(s.api, [last]))
    if row.undo_asks is not None and row.last_event is not None and row.last_event.id == last.id:
        s.out.alarm(f"it would serve again what is {row.undo_asks}")
    s.confirm(f"Undo this {last.kind.value} of {at}?", yes=how.yes)
    request = UndoRequest(event=last.id, confirmed=True, idempotency_key=new_key(), **how.said)
    await move(s, at, how, request)


@click.command()
@move_command(timeout=10)
@on_pointer
async def fallback(s: Session, how: MoveOptions, at: Pointer) -> None:
    """Move a route to its base alone, if the route allows it."""
    row = await s.api.row(at.tenant, at.route)
    s.out.heading(title(s, at, row))
    base = f"the base {row.live.base_label} alone" if row.live else "the base alone"
    s.out.say(f" {full(row.live)} -> {base}")
    s.confirm(f"Put {at} from {name(row.live)} on {base}?", yes=how.yes)
    await move(s, at, how, FallbackRequest(**how.on(row)))


@click.command("move")
@click.argument("key")
@hub_command
async def outcome(s: Session, key: str) -> None:
    """Look up a move whose answer was lost, by its key."""
    result = await s.api.move(key)
    if result is None:
        raise refused(
            "this key never moved anything",
            where=key,
            fix="the move was not made; look at the row and decide anew",
            code="unknown_key",
        )
    s.out.json(result)
    name = await called(s.api, result.events)
    for event in result.events:
        s.out.say(
            f"{event.kind.value} {event.tenant}/{event.route} {' -> '.join(map(name, event.path))} "
            f"by {event.actor} {utc(event.at_ms)}  rev {event.rev}"
        )


def _preview(s: Session, row: TenantRow) -> None:
    """Prints the preview of R: its target, the reason, and how ready the target is."""
    preview = row.preview
    event = row.last_event
    by = (
        f"   {utc(event.at_ms)} ({ago(event.at_ms)}) {event.actor} {event.kind.value}"
        + (" OVERRIDE" if event.override else "")
        + (f' "{event.reason}"' if event.reason else "")
        if event and event.kind in MOVES
        else ""
    )
    s.out.say(f" NOW   {full(row.live)}{by}")
    if row.candidate is not None and row.pointer.candidate is not None:
        s.out.say(f"       with the candidate {full(row.candidate.release)} for {gets(row.pointer.candidate)}")
    live, minute, cause = row.cause.live, row.minute, row.cause
    since = f"{of_ten_minutes(cause)} since {utc(cause.bad_since_ms)}" if cause.bad_since_ms is not None else ""
    at_fault = whose(cause.verdict, cause.who)
    if cause.figure == OVERDUE:
        s.out.say(f" CAUSE {cause.overdue[0]} overdue of {cause.overdue[1]} answers{since}   => {at_fault}")
    elif cause.figure == "errors" and live.failed:
        s.out.say(f" CAUSE {live.failed} failed of {live.admitted} requests{since}   => {at_fault}")
    elif live.checked:
        why = f": {cause.why}" if cause.why else ""
        s.out.say(f" CAUSE {live.bad} bad of {live.checked} checked{since}{why}   => {at_fault}")
    if cause.against:
        s.out.say(f"       flagged before: {cause.against}")
    if row.units is not None:
        s.out.say(f"       {row.units} of {minute.attempted} requests of the last minute are units of evidence")
    if minute.refused:
        s.out.say(f"       {minute.refused} of {minute.attempted} requests of the last minute were refused by routers")
    if preview.action is PreviewAction.ROLLBACK and preview.target is not None:
        s.out.say(
            f" R ->  {full(preview.target)}   served {span(preview.served_s)}, {preview.served_requests} requests   "
            f"{nearness(preview)}"
        )
        if words := who_goes_where(row):
            s.out.say(f"       {words}")
    elif preview.prepare is not None:
        s.out.say(f" R ->  cancels the pending promote, job {preview.prepare}")
    else:
        s.out.say(f" R ->  none: {preview.refused or 'no release to go back to'}")
    for skipped in preview.skipped:
        s.out.say(f"       skipped {full(skipped.release)}: {skipped.reason}")


def _undone(s: Session, event: Event, name: Callable[[str | None], str]) -> None:
    s.out.say(
        f" {event.kind.value} {event.tenant}/{event.route} {' -> '.join(map(name, event.path))} "
        f"by {event.actor} {utc(event.at_ms)} ({ago(event.at_ms)})" + (f' "{event.reason}"' if event.reason else "")
    )


@click.command()
@click.option("--to", "to", required=True, metavar="REV|TIME", help="A rev, or a time: 14:05Z, '20m ago'.")
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant; may be repeated.")
@dry_run_option
@move_command(timeout=10, incident=True)
async def rewind(s: Session, how: MoveOptions, to: str, tenants: tuple[str, ...], dry_run: bool) -> None:
    """Put pointers back as they were at a rev or a time, all in one transaction."""
    to_rev = int(to) if to.isdecimal() else None
    time_ms = None if to_rev is not None else moment(to, interactive=s.interactive)
    key = new_key()
    request = RewindRequest(
        to_rev=to_rev, time_ms=time_ms, tenants=tenants, idempotency_key=key, incident=how.incident, **how.said
    )
    plan = await s.api.plan_rewind(request)
    if time_ms is not None:
        s.out.say(f"asked for {utc(time_ms)} ({ago(time_ms)})")
    s.out.heading(f"as at rev {plan.to_rev}, committed {utc(plan.at_ms)} ({ago(plan.at_ms)})")
    show_plan(s, plan)
    if dry_run:
        s.out.json(plan)
        return
    moving = [step for step in plan.steps if step.skipped is None]
    if not moving:
        raise refused(
            "no pointer would move",
            where=f"rev {plan.to_rev}",
            fix="every step is skipped for the reason shown (loradeck rewind --dry-run)",
            code="nothing_to_rewind",
        )
    s.confirm(
        f"Rewind {len(moving)} pointers to rev {plan.to_rev} of {utc(plan.at_ms)} ({ago(plan.at_ms)})?", yes=how.yes
    )
    result = await s.api.rewind(plan.carried_out(request), wait=how.wait, timeout=how.timeout)
    rewound(s, result, how)


def rewound(s: Session, result: MoveResult, how: MoveOptions) -> None:
    """Prints what a rewind has moved, and how far that is; exits with its status."""
    s.out.json(result)
    moved = [event for event in result.events if event.pointer is not None]
    for event in moved:
        s.out.say(f" {event.tenant}/{event.route} gen {event.generation}: {' -> '.join(map(short, event.path))}")
    for step in result.skipped:
        s.out.say(f" {step.tenant}/{step.route} stayed: {step.skipped}")
    if not moved:
        s.out.alarm("nothing moved: every pointer of the plan has moved meanwhile or may not go back")
        raise click.exceptions.Exit(Exit.REFUSED)
    s.out.say(
        f"rewound {len(moved)} pointers, rev {result.rev}, {result.reached or 'committed'}   "
        f"undo: loradeck undo --txn {moved[0].txn}"
    )
    in_time(s, result.reached, how.wait)


def show_plan(s: Session, plan: RewindPlan) -> None:
    """Prints what a rewind would move, and what it would not."""
    s.out.table(
        ("POINTER", "GEN", "FROM", "TO", "SKIPPED"),
        [
            (
                f"{step.tenant}/{step.route}",
                step.generation,
                step.from_label or short(step.from_release),
                step.to_label or short(step.to_release),
                step.skipped or "",
            )
            for step in plan.steps
        ],
        empty="no pointers",
    )
