"""The command `loradeck freshness`: it says whether a tenant's live adapters are still fresh, and what to do."""

import click

from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Session, hub_command
from loradeck.rules.quality.figures import figure
from loradeck.schemas.freshness import RouteFreshness, Sizing
from loradeck.schemas.ids import short


@click.command()
@click.argument("tenant")
@hub_command
async def freshness(s: Session, tenant: str) -> None:
    """Say what the freshness meters of a tenant's live releases show, and whether to train again.

    The unit is the day: the latest seven are compared with fourteen days of the route, which only newer rows move, and
    what is answered with the release's own first ones too. A recommendation is "nothing", "prompt", "retrieval" or
    "train"; nothing follows from it by itself.
    """
    found = await s.api.freshness(tenant)
    s.out.json(found)
    if found.frozen:
        s.out.say(found.frozen)
    for one in found.routes:
        _print(s, tenant, one)
    if not found.routes:
        s.out.say(f"nothing of {tenant} is live")


def _print(s: Session, tenant: str, one: RouteFreshness) -> None:
    s.out.heading(f"{tenant}/{one.route}: {one.label}, live since {utc(one.since_ms)}")
    s.out.table(
        ("METER", "", "SAYS", "P"),
        [
            (
                meter.kind.value,
                "SIGNAL" if meter.signal else "",
                meter.says,
                "-" if meter.p is None else f"{meter.p:.2g}",
            )
            for meter in one.meters
        ],
        empty="nothing is measured",
    )
    if (told := one.replayed) is not None:
        s.out.say(f"{told.days} days were replayed ({told.first} to {told.last}), imported by {told.by}: {told.reason}")
    if one.sizing is not None:
        s.out.say(_sized(one.sizing))
    if (loop := one.loop) is not None:
        rows = f"{loop.rows:,} rows of the backlog in {loop.name} {short(loop.dataset)}"
        s.out.say(f"loop: {rows}: {loop.step.value} {loop.by}".rstrip())
    s.out.say(f"recommended: {one.recommendation.remedy.value}")
    for reason in one.recommendation.reasons:
        s.out.say(f"  for: {reason}")
    for reason in one.recommendation.against:
        s.out.say(f"  against: {reason}")


def _sized(sizing: Sizing) -> str:
    rows = f"rows past refreshes added: {figure(sizing.rows)}"
    hours = f"GPU hours: {figure(sizing.gpu_hours)}"
    gain = f"share of items past refreshes won: {figure(sizing.gain)}"
    prompt = f"a better prompt wins: {figure(sizing.prompt)}"
    here = f"{sizing.corrections} corrections since its rows came in; {sizing.items} held-out items"
    return "training again: " + "; ".join((rows, hours, gain, prompt, here)) + " (-: not measured here)"
