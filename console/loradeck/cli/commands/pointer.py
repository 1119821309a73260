"""Commands that change a pointer without moving it: holds and lifts."""

import click

from loradeck.cli.shared.naming import Pointer, moment, on_pointer, pointer_and_release, release_named
from loradeck.cli.shared.options import reason_option, yes_option
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Session, writes
from loradeck.client.held_flags import held_flags, is_liftable
from loradeck.client.idempotency import new_key
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.flag import FlagCause
from loradeck.schemas.ids import short
from loradeck.schemas.moves import HoldRequest, LiftRequest


@click.command()
@reason_option()
@writes
@on_pointer
async def hold(s: Session, at: Pointer, reason: str) -> None:
    """Keep pipelines from promoting on a route."""
    await _hold(s, at, held=True, reason=reason, yes=True)


@click.command("release-hold")
@reason_option()
@yes_option
@writes
@on_pointer
async def release_hold(s: Session, at: Pointer, reason: str, yes: bool) -> None:
    """Let pipelines promote on a route again."""
    await _hold(s, at, held=False, reason=reason, yes=yes)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="TENANT [ROUTE] RELEASE")
@reason_option(required=True)
@yes_option
@writes
async def lift(s: Session, words: tuple[str, ...], reason: str, yes: bool) -> None:
    """End the quarantine and the breach of a release, with a reason.

    Lift a breach if the release was not at fault: its route's checks were wrong, or a node was broken. Counts up to
    then do not count against it any more.
    """
    at, name = pointer_and_release(words)
    release = await release_named(s.api, at.tenant, name)
    s.confirm(f"Lift quarantine and breach of {release.label} {short(release.id)} on {at}?", yes=yes)
    request = LiftRequest(release=release.id, idempotency_key=new_key(), reason=reason)
    result = await s.api.send(at.tenant, at.route, request)
    ended = {what for event in result.events for what in ("events", "breach") if event.payload.get(what)}
    words_for = {"events": "quarantined", "breach": "breached"}
    lifted = " or ".join(word for what, word in words_for.items() if what in ended)
    s.out.moved(result, f"{at}: {release.label} is no longer {lifted}")


@click.command("lift-flags")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--since", required=True, metavar="TIME", help="Flags whose answers were bad from this time on: 03:10Z.")
@click.option("--until", required=True, metavar="TIME", help="And until this time: 03:20Z, or 5m ago.")
@click.option(
    "--cause", type=click.Choice([FlagCause.RELEASE.value, FlagCause.UNKNOWN.value]), help="Only of this cause."
)
@reason_option(required=True)
@yes_option
@writes
async def lift_flags(
    s: Session, tenant: str | None, since: str, until: str, cause: str | None, reason: str, yes: bool
) -> None:
    """Lift what the flags of a time hold against releases, with a reason.

    For a time in which something else than the releases was at fault: `--since 03:10Z --until 03:20Z`. A release that
    somebody has rolled back from stays quarantined; lift it by its name.
    """
    first, last = moment(since, interactive=s.interactive), moment(until, interactive=s.interactive)
    flags = [
        flag
        for flag in held_flags(await s.api.attestations(kind=AttestationKind.FLAG, tenant=tenant))
        if first <= flag.record.since_ms <= last and cause in (None, flag.record.cause.value)
    ]
    states = {flag.key: (await s.api.row(*flag.key)).pointer for flag in flags}
    lifted = [flag for flag in flags if is_liftable(flag, states[flag.key])]
    s.out.table(
        ("TENANT", "ROUTE", "RELEASE", "SINCE", "FLAG"),
        ((*flag.key, short(flag.release), utc(flag.record.since_ms), str(flag.record)) for flag in lifted),
        empty="no flag of that time is held against a release",
    )
    if not lifted:
        return
    s.confirm(f"Lift what these {len(lifted)} flags hold against their releases?", yes=yes)
    for flag in lifted:
        request = LiftRequest(release=flag.release, idempotency_key=new_key(), reason=reason)
        result = await s.api.send(*flag.key, request)
        s.out.moved(result, f"{'/'.join(flag.key)}: {short(flag.release)} has nothing held against it by that flag")


async def _hold(s: Session, at: Pointer, *, held: bool, reason: str, yes: bool) -> None:
    row = await s.api.row(at.tenant, at.route)
    if not held:
        s.confirm(f"Let pipelines promote on {at} again (gen {row.pointer.generation})?", yes=yes)
    request = HoldRequest(
        held=held, expected_generation=row.pointer.generation, idempotency_key=new_key(), reason=reason
    )
    result = await s.api.send(at.tenant, at.route, request)
    s.out.moved(result, f"{at}: {'HELD: pipelines cannot promote' if held else 'hold released'}")
