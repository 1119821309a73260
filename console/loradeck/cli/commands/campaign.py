"""Campaigns: routes moved to another base in waves and rewound together, or nodes to another engine build."""

from collections import Counter
from typing import Any, Literal

import click

from loradeck.cli.commands.candidate import step_plan
from loradeck.cli.commands.moves import rewound, show_plan
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.naming import base_named, pointer, release_named, seconds_of
from loradeck.cli.shared.options import dry_run_option, reason_option, yes_option
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.progress import MoveOptions, move_command
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.idempotency import new_key
from loradeck.schemas.campaign import (
    Campaign,
    CampaignChange,
    CampaignPlan,
    CampaignRequest,
    CampaignRewind,
    CampaignTarget,
    Stage,
)
from loradeck.schemas.candidate import MIN_STEP_S
from loradeck.schemas.ids import short

campaign = Noun("campaign")


@campaign.command("start")
@click.argument("name", metavar="CAMPAIGN")
@click.option("--base", "base_name", metavar="BASE", help="Base to move to, by label, model or digest.")
@click.option("--route", "routes", multiple=True, metavar="TENANT[/ROUTE]", help="Only this one; may be repeated.")
@click.option(
    "--to",
    "to",
    multiple=True,
    metavar="TENANT[/ROUTE]=RELEASE",
    help="Move it to this release, which is there already; may be repeated.",
)
@click.option(
    "--engine", default="", metavar="TEXT", help="Move nodes instead, to engine builds with this text in them."
)
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="With --engine: only this one; may be repeated.")
@click.option("--wave", type=click.IntRange(1, 1000), default=5, show_default=True, help="Under way together.")
@click.option("--gpu-hours", type=float, metavar="H", help="Most GPU hours of training; without it there is no bound.")
@click.option("--most-failed", type=click.IntRange(1), metavar="N", help="Stop where more than N routes fail.")
@click.option(
    "--tolerated",
    type=click.FloatRange(0, 50, min_open=True),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="Share of failing routes that may be; it stops once surely more fail.",
)
@click.option(
    "--patience", default="1d", show_default=True, metavar="SPAN", help="A wave goes on without a route after it."
)
@click.option(
    "--steps", metavar="PERCENT,...", help="Give it to a growing share of callers first; see candidate start."
)
@click.option(
    "--margin", type=click.FloatRange(0, 100, min_open=True), metavar="POINTS", help="With --steps: as of a candidate."
)
@click.option("--ungated", is_flag=True, help="Move routes without a gate, too.")
@dry_run_option
@reason_option()
@yes_option
@writes
async def start(
    s: Session,
    /,
    name: str,
    base_name: str | None,
    routes: tuple[str, ...],
    to: tuple[str, ...],
    nodes: tuple[str, ...],
    tolerated: float,
    patience: str,
    steps: str | None,
    margin: float | None,
    dry_run: bool,
    reason: str,
    yes: bool,
    **plan: Any,
) -> None:
    """Start a campaign: train, gate, canary and move routes in waves, or drain, wait for and prove nodes.

    Without --route and --to: every route that has an adapter on another base. Each is trained again by the recipe of
    the job that trained it, unless a later version on the base is registered. Each of its nodes needs an engine of the
    base. With --engine, nodes are drained until somebody has restarted their engines with the new build, and serve
    again then.
    """
    if (base_name is None and not to) is not bool(plan["engine"]):
        raise misused(
            "routes move to a base or to releases, and nodes to an engine build",
            where="--base, --to, --engine",
            fix="give --base BASE, --to for each route, or --engine TEXT",
        )
    named = {pointer(one): "" for one in routes}
    for one in to:
        where, equals, release = one.partition("=")
        if not equals:
            raise misused("a route moves to a release", where=repr(one), fix="--to TENANT[/ROUTE]=RELEASE")
        named[pointer(where)] = release
    targets = [
        CampaignTarget(
            tenant=at.tenant, route=at.route, release=(await release_named(s.api, at.tenant, text)).id if text else None
        )
        for at, text in named.items()
    ]
    base = (await base_named(s.api, base_name)).digest if base_name else None
    request = CampaignRequest(
        campaign=name,
        plan=CampaignPlan(
            base=base,
            tolerated=tolerated / 100,
            patience_s=seconds_of(patience, "--patience"),
            steps=step_plan(steps, margin, (), MIN_STEP_S / 60, finish=steps is not None),
            **plan,
        ),
        targets=tuple(targets),
        nodes=nodes,
        dry_run=True,
        idempotency_key=new_key(),
        reason=reason,
    )
    planned = await s.api.start_campaign(request)
    _routes(s, planned.campaign)
    for left, why in planned.left_out.items():
        s.out.say(f" left out  {left}: {why}")
    if dry_run:
        s.out.json(planned)
        return
    if not planned.campaign.units:
        raise refused("no route would move", fix="loradeck campaign start --dry-run", code="nothing_to_move")
    s.confirm(f"Start {name}, which moves {len(planned.campaign.units)} routes or nodes?", yes=yes)
    begun = await s.api.start_campaign(request.model_copy(update={"dry_run": False}))
    s.out.answer(begun, f"campaign {name} has begun: loradeck campaign show {name}")


@campaign.command("ls")
@hub_command
async def ls(s: Session) -> None:
    """List campaigns, the newest first."""
    s.out.listed(
        await s.api.campaigns(),
        ("CAMPAIGN", "STATE", "ROUTES", "BY", "SINCE", "WHY"),
        lambda one: (one.campaign, one.state.value, _counts(one), one.by, utc(one.started_ms), one.why or "-"),
        empty="no campaigns; loradeck campaign start CAMPAIGN --base BASE",
    )


@campaign.command()
@click.argument("name", metavar="CAMPAIGN")
@hub_command
async def show(s: Session, name: str) -> None:
    """Show how far each route of a campaign is."""
    one = await s.api.campaign(name)
    s.out.json(one)
    s.out.heading(f"{one.campaign}  {one.state.value}{f': {one.why}' if one.why else ''}  {_counts(one)}")
    spent = sum(unit.gpu_hours for unit in one.units.values() if unit.wave)
    budget = f" of {one.plan.gpu_hours:g}" if one.plan.gpu_hours is not None else ""
    s.out.say(f" waves of {one.plan.wave}; {spent:.1f}{budget} GPU hours, those to come as by their recipes")
    _routes(s, one)


def _counts(one: Campaign) -> str:
    counted = Counter(unit.stage for unit in one.units.values())
    return ", ".join(f"{counted[stage]} {stage.value}" for stage in Stage if counted[stage])


def _routes(s: Session, one: Campaign) -> None:
    s.out.table(
        ("ROUTE OR NODE", "WAVE", "STAGE", "RELEASE", "GPU HOURS", "WHY"),
        [
            (name, unit.wave or "-", unit.stage.value, short(unit.release), f"{unit.gpu_hours:.1f}", unit.why or "-")
            for name, unit in one.units.items()
        ],
        empty="no routes",
    )


async def _change(
    s: Session, name: str, what: Literal["pause", "resume", "stop"], reason: str, gpu_hours: float | None = None
) -> None:
    request = CampaignChange(idempotency_key=new_key(), reason=reason, gpu_hours=gpu_hours)
    one = await s.api.change_campaign(name, what, request)
    s.out.answer(one, f"campaign {name} is {one.state.value}: {_counts(one)}")


@campaign.command()
@click.argument("name", metavar="CAMPAIGN")
@reason_option()
@yes_option
@writes
async def pause(s: Session, name: str, reason: str, yes: bool) -> None:
    """Start nothing new; running work finishes. A candidate that is out keeps growing: loradeck candidate hold."""
    await _change(s, name, "pause", reason)


@campaign.command()
@click.argument("name", metavar="CAMPAIGN")
@click.option("--gpu-hours", type=float, metavar="H", help="Another budget from now on.")
@reason_option()
@yes_option
@writes
async def resume(s: Session, name: str, gpu_hours: float | None, reason: str, yes: bool) -> None:
    """Let a paused campaign go on."""
    await _change(s, name, "resume", reason, gpu_hours)


@campaign.command()
@click.argument("name", metavar="CAMPAIGN")
@reason_option()
@yes_option
@writes
async def stop(s: Session, name: str, reason: str, yes: bool) -> None:
    """Stop for good: cancel trainings and abort candidates. What is live stays live."""
    s.confirm(f"Stop {name} for good?", yes=yes)
    await _change(s, name, "stop", reason)


@campaign.command()
@click.argument("name", metavar="CAMPAIGN")
@dry_run_option
@move_command(timeout=30, incident=True)
async def rewind(s: Session, how: MoveOptions, name: str, dry_run: bool) -> None:
    """Put every route that is as the campaign has moved it back to what it had before, in one transaction."""
    request = CampaignRewind(idempotency_key=new_key(), incident=how.incident, **how.said)
    plan = await s.api.plan_campaign_rewind(name, request)
    show_plan(s, plan)
    if dry_run:
        s.out.json(plan)
        return
    moving = {f"{step.tenant}/{step.route}": step.generation for step in plan.steps if step.skipped is None}
    if not moving:
        raise refused("no route would move", where=name, fix="none is as it has moved it", code="nothing_to_rewind")
    s.confirm(f"Put {len(moving)} routes of {name} back to what they had before it?", yes=how.yes)
    done = request.model_copy(update={"dry_run": False, "generations": moving})
    rewound(s, await s.api.rewind_campaign(name, done, wait=how.wait, timeout=how.timeout), how)
