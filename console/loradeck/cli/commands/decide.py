"""The command `loradeck decide`: it measures prompts, retrieval and weights, and says whether weights should change."""

import asyncio
from pathlib import Path
from typing import Any

import click

from loradeck.cli.commands.job import over
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.files import checked, rows_of, toml_of
from loradeck.cli.shared.naming import base_named, owned_named, release_named
from loradeck.cli.shared.session import Session, writes
from loradeck.client.idempotency import new_key
from loradeck.rules.quality.figures import figure, percentile
from loradeck.schemas.decision import DecideRequest, MeasuredArm
from loradeck.schemas.jobs import EvaluateSpec, Job, JobRequest, JobState
from loradeck.schemas.manifest import Release
from loradeck.schemas.suite import Arm

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
