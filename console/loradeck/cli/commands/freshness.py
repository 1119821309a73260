"""Commands on whether to train: meters of freshness, how far each tenant is to new weights, and `loradeck decide`."""

import asyncio
from pathlib import Path
from typing import Any

import click

from loradeck.cli.commands.job import over
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.files import checked, rows_of, toml_of
from loradeck.cli.shared.naming import base_named, owned_named, release_named
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Session, hub_command, writes
from loradeck.client import loop_words as words
from loradeck.client.idempotency import new_key
from loradeck.rules.quality.figures import figure, percentile
from loradeck.schemas.decision import DecideRequest, MeasuredArm
from loradeck.schemas.freshness import LoopRow, RouteFreshness, Sizing
from loradeck.schemas.ids import short
from loradeck.schemas.jobs import EvaluateSpec, Job, JobRequest, JobState
from loradeck.schemas.manifest import Release
from loradeck.schemas.suite import Arm


@click.command()
@click.argument("tenant")
@hub_command
async def freshness(s: Session, tenant: str) -> None:
    """Say what the freshness meters of a tenant's live releases show, and whether to train again.

    The unit is the day: the latest seven are compared with the first fourteen after the release became live. A
    recommendation is "nothing", "prompt", "retrieval" or "train"; nothing follows from it by itself.
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


@click.command()
@click.argument("tenant", required=False)
@hub_command
async def loop(s: Session, tenant: str | None) -> None:
    """Show where each tenant stands between a signal and new weights, and what is next.

    TENANT alone is looked at now. WRONG are answers that feedback or a check calls wrong, since the newest
    dataset of the backlog was built. With many tenants the rows are some minutes old.
    """
    s.out.listed(
        await s.api.loop(tenant),
        ("ROUTE", "LIVE", "AS OF", "SIGNALS", "ADVICE", "WRONG", "LABELLED", "STEP", "GATE", "CANDIDATE", "NEXT"),
        _cells,
        empty="nothing is live",
    )


def _cells(row: LoopRow) -> tuple[object, ...]:
    frozen = f"; {row.frozen}" if row.frozen else ""
    return (
        *(f"{row.tenant}/{row.route}", row.label, utc(row.at_ms), words.signals(row), row.remedy.value, row.wrong),
        *(words.labelled(row), words.step(row), words.gate(row), words.candidate(row)),
        f"{words.next_step(row)}{frozen}",
    )


_SPEC = ("max_new_tokens", "batch", "offline")


@click.command()
@click.argument("tenant")
@click.argument("file", metavar="FILE.toml", type=click.Path(path_type=Path))
@writes
async def decide(s: Session, tenant: str, file: Path) -> None:
    """Measure prompts, retrieved text and weights on one suite, and say whether to train: see docs/decide.md.

    FILE names the suite, the arms and the prices. Each arm is an evaluate job, which no gate counts. The worksheet is
    kept, and recipes name it: decision.worksheet.
    """
    fields = await asyncio.to_thread(toml_of, file)
    suite = owned_named("suite", str(fields.get("suite", "")), tenant, await s.api.suites())
    spec = {"tenant": tenant, "suite": suite} | {name: fields.pop(name) for name in _SPEC if name in fields}
    asked = {name: fields[name] for name in fields if name not in ("suite", "arm")}
    requests = dict[str, JobRequest]()
    names = [str(arm.get("name", number)) for number, arm in enumerate(fields.get("arm", ()), start=1)]
    asked["arms"] = [{"name": name, "job": "-"} for name in names]
    request = checked(DecideRequest, asked, where=str(file), file=file)
    for number, arm in enumerate(fields.get("arm", ()), start=1):
        where = f"{file}, arm {number}"
        put = {name: arm[name] for name in arm if name not in ("name", "base", "release", "shots")}
        if "shots" in arm:
            path = file.parent / str(arm["shots"])
            rows = await asyncio.to_thread(list, rows_of(path, ("prompt", "answer")))
            put["shots"] = [{"prompt": row["prompt"], "answer": row["answer"]} for row in rows]
        given = spec | {"release": await _release(s, tenant, arm, where), "arm": checked(Arm, put, where=where)}
        job_of = {"spec": checked(EvaluateSpec, given, where=where), "idempotency_key": new_key()}
        requests[names[number - 1]] = checked(JobRequest, job_of, where=where)
    jobs = dict[str, Job]()
    for name, one in requests.items():
        jobs[name] = await s.api.submit_job(one)
        s.out.say(f"{name}: job {jobs[name].id}")
    for name, job in jobs.items():
        done = await over(s.api, job)
        if done.state is not JobState.DONE:
            raise refused(f"{name} was not measured", where=f"job {job.id}: {done.message}", code="no_arms")
    arms = tuple(MeasuredArm(name=name, job=job.id) for name, job in jobs.items())
    made = await s.api.decide(tenant, request.model_copy(update={"arms": arms}))
    s.out.json(made)
    sheet = made.worksheet
    s.out.table(
        ("ARM", "RELEASE", "RIGHT", "CHANGED TRUTHS", "CITED", "TOKENS", "P95 MS", "TRAINED H", "MB", "COST OF 1,000"),
        [
            (
                arm.name,
                arm.label,
                *(figure(one, ".1%") for one in (arm.right, arm.changed, arm.cited)),
                " + ".join(map(figure, arm.tokens or (None, None), (".0f", ".0f"), (arm.tokens_in, arm.tokens_out))),
                percentile(arm.p95_ms, 0.95),
                "-" if arm.train_hours is None else f"{arm.train_hours:.3f} (one run)",
                f"{arm.bytes / 1e6:.1f}",
                f"{figure(arm.cost_of, '.3g', arm.cost)} {sheet.request.prices.currency}",
            )
            for arm in sheet.arms
        ],
        empty="no arms",
    )
    s.out.say("each arm was asked once, greedily: intervals are over its requests, and not over runs or trainings")
    s.out.say(f"weights: {'yes' if sheet.weights else 'no'}; {sheet.choice} is to serve. Worksheet {made.digest}")
    for word, reasons in (("for", sheet.reasons), ("against", sheet.against)):
        for reason in reasons:
            s.out.say(f"  {word} weights: {reason}")


async def _release(s: Session, tenant: str, arm: dict[str, Any], where: str) -> str:
    """The release of an arm: the one that it names, or the base alone that it names."""
    if "base" in arm:
        base = (await base_named(s.api, str(arm["base"]))).digest
        return Release.of_base(tenant, base).id
    if "release" not in arm:
        raise misused("an arm names a base or a release", where=where, fix='base = "B1", or release = "v3"')
    return (await release_named(s.api, tenant, str(arm["release"]))).id
