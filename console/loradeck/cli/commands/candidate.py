"""Candidates: a second release on a route that a share of its callers gets, beside the live one."""

from typing import Any

import click

from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.naming import Pointer, moment, on_pointer
from loradeck.cli.shared.options import reason_option
from loradeck.cli.shared.progress import (
    MoveOptions,
    because,
    changes,
    full,
    move,
    move_command,
    name,
    sent,
    title,
    to_place,
)
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.candidate_words import (
    arms_in_words,
    costs,
    gets,
    of_noise,
    of_pairs,
    percent_of,
    plan_in_words,
    result_in_words,
    who_goes_where,
)
from loradeck.client.idempotency import new_key
from loradeck.schemas import moves
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.candidate import Candidate, ComparisonResult, Figure, StepPlan
from loradeck.schemas.state import CandidateRow, TenantRow
from loradeck.schemas.table import LEASE_S, CohortUnit

candidate = Noun("candidate")


@candidate.command("start")
@click.argument("words", nargs=-1, required=True, metavar="TENANT [ROUTE] RELEASE")
@click.option("--share", type=float, default=0.0, show_default=True, metavar="PERCENT", help="Share of the callers.")
@click.option(
    "--shadow",
    type=float,
    metavar="PERCENT",
    help="Nobody gets it: it is asked this share of the requests too, behind all callers. The tenant has to allow it.",
)
@click.option(
    "--unit",
    type=click.Choice([unit.value for unit in CohortUnit]),
    default=CohortUnit.CALLER.value,
    show_default=True,
    help="What the share is of: a caller's key, the request's `user`, or its header x-loradeck-conversation.",
)
@click.option("--named", multiple=True, metavar="KEY", help="One that gets it whatever the share is; may be repeated.")
@click.option(
    "--lease",
    "lease_s",
    type=click.FloatRange(10, 86_400),
    default=LEASE_S,
    show_default=True,
    metavar="SECONDS",
    help="A router that hears no hub for so long gives it to nobody.",
)
@click.option(
    "--steps", metavar="PERCENT,...", help="Shares that the hub steps it through by itself, when the evidence says so."
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="POINTS",
    help="With --steps: a step needs to see that the candidate's share of bad ones is not larger by so much.",
)
@click.option(
    "--metric",
    multiple=True,
    type=click.Choice([figure.value for figure in Figure]),
    help="With --steps: bad answers or errors; may be repeated. Both by default.",
)
@click.option(
    "--min-minutes",
    type=click.FloatRange(0, 43_200),
    default=10.0,
    show_default=True,
    metavar="M",
    help="With --steps: minutes at the least between two.",
)
@click.option("--finish", is_flag=True, help="With --steps: the hub also makes it the live release after the last one.")
@move_command(timeout=120, forward=True, incident=True)
async def start(
    s: Session,
    how: MoveOptions,
    words: tuple[str, ...],
    share: float,
    shadow: float | None,
    steps: str | None,
    margin: float | None,
    metric: tuple[str, ...],
    min_minutes: float,
    finish: bool,
    **whom: Any,
) -> None:
    """Start a candidate, after preparing it on every replica.

    A share needs 50 callers. Users and conversations are counted from the start on, so start those without a share, and
    step it up. Callers are named by the ids of their keys. A fifth of a shadow's requests is asked of the live release
    again instead, to know how much two answers of one release differ.

    With --steps the hub widens the share by itself: the first time once there are 50 keys, and then each time that the
    candidate's arm has 20 keys and is seen to be worse than the live release by less than the margin. Then it waits for
    `finish`, unless --finish is given.
    """
    if shadow is not None and (share or whom["named"] or steps):
        raise misused("nobody gets a shadow", where="--shadow", fix="leave out --share, --named and --steps")
    whom["plan"] = step_plan(steps, margin, metric, min_minutes, finish=finish)
    at, row, release = await to_place(s, words)
    whom["permille"] = _permille(share if shadow is None else shadow)
    if shadow is not None:
        whom["shadow"] = True
        row = await s.api.row(at.tenant, at.route, shadow=whom["permille"])
    request = moves.CandidateStartRequest(release=release.id, incident=how.incident, **whom, **how.forward(row))
    split = {"permille": request.permille, "unit": request.unit, "named": request.named, "shadow": request.shadow}
    who = gets(Candidate.model_validate({"release": release.id, "generation": 1, "salt": "-" * 8, **split}))
    s.out.heading(title(s, at, row))
    s.out.say(f" {full(row.live)} stays; {full(release)} for {who}" + ("   OVERRIDE" if request.override else ""))
    if row.shadow_load is not None:
        s.out.say(f" COST       {costs(row.shadow_load)}")
    s.confirm(f"Start {name(release)} as the candidate of {at}?", yes=how.yes)
    await move(s, at, how, request, prepares=True)


@candidate.command("step")
@click.option(
    "--share", type=float, required=True, metavar="PERCENT", help="Of the callers; of a shadow, the requests."
)
@move_command(timeout=None, forward=True)
@on_pointer
async def step(s: Session, how: MoveOptions, at: Pointer, share: float) -> None:
    """Change the share of a candidate, or of a shadow. A wider share takes nobody out.

    What keeps a promote back keeps a wider share back: a freeze window, an incident about a related release and, for
    more than half of the callers, the A/B that the route's gate asks for.
    """
    permille = _permille(share)
    row, out, shown = await _out(s, at, permille)
    s.out.heading(title(s, at, row))
    said = how.forward(row)
    passes = "   OVERRIDE" if said["override"] else ""
    s.out.say(f" {name(shown.release)}: {percent_of(out.permille)} -> {percent_of(permille)}{passes}")
    if out.shadow and row.shadow_load is not None:
        s.out.say(f" COST       {costs(row.shadow_load)}")
    question = f"Let {name(shown.release)} shadow" if out.shadow else f"Give {name(shown.release)} to"
    s.confirm(f"{question} {percent_of(permille)} on {at}?", yes=how.yes)
    request = moves.CandidateStepRequest(expected_step=out.step, permille=permille, **said)
    result = await sent(s.api.send(at.tenant, at.route, request), request.idempotency_key)
    after = result.events[0].pointer
    who = gets(after.candidate) if after is not None and after.candidate is not None else "nobody"
    s.out.answer(result, f"{at}: {shown.release.label} for {who}, rev {result.rev}")


@candidate.command("compare")
@click.option(
    "--metric", type=click.Choice([figure.value for figure in Figure]), required=True, help="Bad answers or errors."
)
@click.option("--until", metavar="TIME", help="When it is over: 2026-03-01T14:05Z, 14:05Z.")
@click.option("--keys", type=int, metavar="N", help="Instead: it is over once each arm has had so many callers.")
@click.option("--share", type=float, metavar="PERCENT", help="Share of the callers from now on; 50 tells the most.")
@move_command(timeout=None, forward=True)
@on_pointer
async def compare(
    s: Session,
    how: MoveOptions,
    at: Pointer,
    metric: str,
    until: str | None,
    keys: int | None,
    share: float | None,
) -> None:
    """Compare a candidate with the live release by one metric, until a time that is stated now (A/B).

    Both arms are counted anew. At the end the hub records both shares, and the interval of their difference by callers,
    as an attestation that a gate can ask for; nothing moves. Another change of the share ends it without a result.
    """
    row, out, shown = await _out(s, at)
    until_ms = moment(until, interactive=s.interactive, ahead=True) if until is not None else None
    ends = f"until {until}" if until is not None else f"until each arm has had {keys} keys"
    s.out.heading(title(s, at, row))
    s.out.say(f" {name(shown.release)} against {name(row.live)} by {metric}, {ends}")
    s.confirm(f"Begin this A/B on {at}?", yes=how.yes)
    request = moves.CandidateCompareRequest(
        figure=Figure(metric),
        until_ms=until_ms,
        keys=keys,
        permille=None if share is None else _permille(share),
        expected_step=out.step,
        **how.forward(row),
    )
    result = await sent(s.api.send(at.tenant, at.route, request), request.idempotency_key)
    s.out.answer(result, f"{at}: {shown.release.label} is compared by {metric} {ends}, rev {result.rev}")


@candidate.command("hold")
@reason_option(required=True)
@writes
@on_pointer
async def hold(s: Session, at: Pointer, reason: str) -> None:
    """Stop the steps that the hub makes by itself. The share stays."""
    await _hold(s, at, held=True, reason=reason)


@candidate.command("resume")
@reason_option()
@writes
@on_pointer
async def resume(s: Session, at: Pointer, reason: str) -> None:
    """Let the hub step a candidate by itself again."""
    await _hold(s, at, held=False, reason=reason)


async def _hold(s: Session, at: Pointer, *, held: bool, reason: str) -> None:
    row, _, shown = await _out(s, at)
    request = moves.CandidateHoldRequest(
        held=held, expected_generation=row.pointer.generation, idempotency_key=new_key(), reason=reason
    )
    result = await sent(s.api.send(at.tenant, at.route, request), request.idempotency_key)
    s.out.answer(result, f"{at}: steps of {shown.release.label} {'held' if held else 'resumed'}, rev {result.rev}")


@candidate.command("finish")
@move_command(timeout=10, forward=True, incident=True)
@on_pointer
async def finish(s: Session, how: MoveOptions, at: Pointer) -> None:
    """Make the candidate the live release."""
    row, out, shown = await _out(s, at)
    s.out.heading(title(s, at, row))
    said = how.forward(row)
    s.out.say(changes(row.live, shown.release, override=said["override"]))
    found = await s.api.row(at.tenant, at.route, promote=out.release)
    s.confirm(f"Give {name(shown.release)} to all callers of {at}?{because(found.promote_asks)}", yes=how.yes)
    request = moves.CandidateFinishRequest(release=out.release, incident=how.incident, **said)
    await move(s, at, how, request)


@candidate.command("abort")
@move_command(timeout=10)
@on_pointer
async def abort(s: Session, how: MoveOptions, at: Pointer) -> None:
    """End a candidate: all callers get the live release. Nothing is held or quarantined, unlike with rollback."""
    row, _, shown = await _out(s, at)
    s.out.heading(title(s, at, row))
    s.out.say(changes(shown.release, row.live))
    s.confirm(f"End the candidate {name(shown.release)} of {at}?", yes=how.yes)
    await move(s, at, how, moves.CandidateAbortRequest(**how.on(row)))


@candidate.command("show")
@hub_command
@on_pointer
async def show(s: Session, at: Pointer) -> None:
    """Show a candidate: who gets it, how it answers, and where rollback would put them."""
    row, out, shown = await _out(s, at)
    again = row.again.model_dump(mode="json") if row.again is not None else None
    document = {"candidate": out.model_dump(mode="json"), "row": shown.model_dump(mode="json")}
    s.out.json({**document, "again": again} if out.shadow else document)
    s.out.heading(title(s, at, row))
    s.out.say(f" LIVE       {full(row.live)}")
    of = "" if out.shadow else f"   of {shown.keys} known"
    s.out.say(f" CANDIDATE  {full(shown.release)}   for {gets(out)}{of}   step {out.step}")
    if out.shadow:
        _say_shadow(s, row)
    else:
        s.out.say(f" LEASE      a router without a hub for {out.lease_s:g} s gives it to nobody")
    for label, counts in (("LIVE", row.minute), *([] if out.shadow else [("CANDIDATE", shown.minute)])):
        s.out.say(
            f" {label:<10} last minute: {counts.attempted} requests, {counts.failed} failed, "
            f"{counts.bad} bad of {counts.checked} checked"
        )
    for compared in shown.arms:
        s.out.say(f" {compared.figure.value.upper():<10} {arms_in_words(compared)}")
    if out.plan is not None:
        s.out.say(f" STEPS      {plan_in_words(out.plan)}")
    if out.plan is not None or shown.waits:
        s.out.say(f" AWAITED    {'; '.join(shown.waits) or 'nothing'}")
    found = await s.api.attestations(
        kind=AttestationKind.COMPARISON, subject=out.release, tenant=at.tenant, route=at.route
    )
    for one in found[-1:]:
        s.out.say(f" A/B        {result_in_words(ComparisonResult.model_validate(one.body))}")
    s.out.say(f" R ->       {who_goes_where(row) or row.preview.refused or 'cancels the pending promote'}")


def _say_shadow(s: Session, row: TenantRow) -> None:
    again = row.again
    if again is None:
        s.out.say(" SHADOW     no router has asked it yet: they lack shadows, or the tenant allows none any more")
        return
    counts = again.counts
    s.out.say(f" SHADOW     asked {counts.asked}, {counts.shed} not, since callers came first")
    s.out.say(f" PAIRS      {of_pairs(again)}; failed {counts.failed[1]} and {counts.failed[0]} of {counts.pairs}")
    s.out.say(f" NOISE      {of_noise(again) or 'the live release was not asked twice yet'}")


async def _out(s: Session, at: Pointer, shadow: int | None = None) -> tuple[TenantRow, Candidate, CandidateRow]:
    """The row of a pointer, and its candidate. `shadow`: a share to ask the load of. Raises: CliError: it has none."""
    row = await s.api.row(at.tenant, at.route, shadow=shadow)
    if row.pointer.candidate is None or row.candidate is None:
        raise refused(f"{at} has no candidate", fix=f"loradeck candidate start {at} RELEASE", code="no_candidate")
    return row, row.pointer.candidate, row.candidate


def step_plan(
    steps: str | None, margin: float | None, metric: tuple[str, ...], min_minutes: float, *, finish: bool
) -> StepPlan | None:
    """The plan that the options of a start give; None: the hub steps nothing. Raises: CliError: they are no plan."""
    if steps is None:
        if margin is not None or metric or finish:
            raise misused("without steps there is nothing to judge", where="--steps", fix="give --steps 5,20,50,100")
        return None
    if margin is None:
        raise misused("steps need a margin", where="--margin", fix="give --margin 2, in points of percent")
    figures = tuple(Figure(one) for one in dict.fromkeys(metric)) or tuple(Figure)
    try:
        shares = tuple(_permille(float(one)) for one in steps.split(","))
        return StepPlan(steps=shares, margin=margin / 100, figures=figures, min_s=60 * min_minutes, finish=finish)
    except ValueError:
        raise misused(
            "steps are percentages above 0, each larger than the one before, 20 at most",
            where=f"--steps {steps}",
            fix="give them as 5,20,50,100",
        ) from None


def _permille(share: float) -> int:
    """A share in percent as thousandths. Raises: CliError: it is not between 0 and 100 with one decimal."""
    permille = round(share * 10)
    if not 0 <= permille <= 1000 or abs(share * 10 - permille) > 1e-6:
        raise misused(
            "a share is a percentage with one decimal at most", where=f"--share {share:g}", fix="give 0 to 100"
        )
    return permille
