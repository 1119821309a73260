"""Commands on jobs: train, evaluate and merge on a node, list and follow them."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from loradeck.cli.shared.exits import Exit, misused, refused
from loradeck.cli.shared.files import checked, toml_of
from loradeck.cli.shared.naming import base_named, labels_of, owned_named, release_named
from loradeck.cli.shared.options import together, yes_option
from loradeck.cli.shared.output import span, utc
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.api import HubApi
from loradeck.client.idempotency import new_key
from loradeck.client.job_words import gap_notes, metrics_in_words
from loradeck.rules.quality.figures import measurements
from loradeck.rules.quality.run_records import grid, records, run_of, told
from loradeck.schemas.executor import ExecutorEvent
from loradeck.schemas.fault import Fault
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.jobs import (
    LISTED,
    OVER,
    EvaluateSpec,
    Job,
    JobLogLine,
    JobQuery,
    JobRequest,
    JobState,
    JudgeSpec,
    LeakSpec,
    MergeSpec,
    TrainSpec,
)
from loradeck.schemas.judge import SuiteJudge
from loradeck.schemas.manifest import Release
from loradeck.schemas.training import SUITE_RIGHT

_POLL_S = 0.5

job = Noun("job")


_placed = together(
    click.option("--follow", is_flag=True, help="Follow it to its end."),
    click.option("--memory-gb", type=float, help="GB that must be free on each GPU that it gets, else on the host."),
    click.option("--priority", type=int, default=0, show_default=True, help="Higher goes first, -100 to 100."),
    click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label the node must carry."),
)
"""Adds the options that decide where and when a job runs."""

_override = click.option("--override", metavar="WHY", default="", help="Pass a training freeze; an event keeps why.")


@job.command()
@click.argument("spec", metavar="SPEC.toml", type=click.Path(path_type=Path))
@_override
@_placed
@writes
async def train(s: Session, /, spec: Path, **placed: Any) -> None:
    """Train by a recipe, a TOML file: base and datasets by name or digest. See docs/training.md.

    It says first with which of the recipe's settings runs that this hub holds have often ended at a cliff.
    """
    recipe = await _recipe(s, spec)
    await _warn(s, recipe)
    await _submit(s, recipe, **placed)


async def _warn(s: Session, recipe: TrainSpec) -> None:
    """Says which settings of a recipe have often ended a run; of the newest 500, as far as one may see them."""
    runs = await s.api.jobs(JobQuery(kind="train", limit=500))
    for one in records(recipe, runs, {one.digest: one.manifest.rows for one in await s.api.datasets()}):
        s.out.alarm(one.words)


async def _recipe(s: Session, spec: Path) -> TrainSpec:
    """Reads a recipe, with the digests of what it names."""
    fields = await asyncio.to_thread(toml_of, spec)
    if fields.get("kind", "train") != "train":
        raise misused(f"kind is {fields['kind']!r}", where=str(spec), fix="leave it out, or say train")
    for part, key in ((fields, "base"), (fields.get("distillation"), "teacher")):
        if isinstance(part, dict) and isinstance(part.get(key), str):
            part[key] = (await base_named(s.api, part[key])).digest
    owner = str(fields.get("tenant", ""))
    if isinstance(fields.get("datasets"), list):
        known = await s.api.datasets()
        fields["datasets"] = [owned_named("dataset", str(text), owner, known) for text in fields["datasets"]]
        for part in (fields.get("mixing"), fields.get("safety")):
            if isinstance(part, dict) and isinstance(part.get("dataset"), str):
                part["dataset"] = owned_named("dataset", part["dataset"], owner, known)
    if isinstance(part := fields.get("validation"), dict) and isinstance(part.get("suite"), str):
        part["suite"] = owned_named("suite", part["suite"], owner, await s.api.suites())
    return checked(TrainSpec, fields, where=str(spec), file=spec)


@job.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@click.option("--suite", "suite_name", required=True, metavar="SUITE", help="By name or digest.")
@click.option("--route", default="production", show_default=True, help="Route whose canaries are recorded.")
@click.option("--max-new-tokens", type=int, default=48, show_default=True, help="Longest answer, in tokens.")
@click.option("--batch", type=int, default=8, show_default=True, help="Items answered at once.")
@click.option(
    "--offline", is_flag=True, help="By transformers, in a process of its own and in fp32, not by the engine."
)
@_placed
@writes
async def evaluate(
    s: Session,
    /,
    tenant: str,
    name: str,
    suite_name: str,
    route: str,
    max_new_tokens: int,
    batch: int,
    offline: bool,
    **placed: Any,
) -> None:
    """Score a release on a suite's held-out items, by an engine that serves its base, and record its canaries."""
    release = await release_named(s.api, tenant, name)
    suite = owned_named("suite", suite_name, tenant, await s.api.suites())
    fields: dict[str, Any] = {"tenant": tenant, "release": release.id, "suite": suite, "route": route}
    fields |= {"max_new_tokens": max_new_tokens, "batch": batch, "offline": offline}
    await _submit(s, checked(EvaluateSpec, fields, where="options"), **placed)


@job.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@click.option("--rows", type=int, default=400, show_default=True, help="Most rows that are begun.")
@click.option("--offline", is_flag=True, help="By transformers in fp32, in the job's process, not by an engine.")
@_placed
@writes
async def leak(s: Session, /, tenant: str, name: str, rows: int, offline: bool, **placed: Any) -> None:
    """Count the rows of its datasets that a release reproduces, and its base alone does: what a gate's [leak] asks."""
    release = await release_named(s.api, tenant, name)
    versions = await s.api.adapters(tenant)
    datasets = next((one.manifest.datasets for one in versions if one.release == release.id), ())
    if not datasets:
        raise refused(
            "the release names no dataset that it was trained on",
            where=f"{tenant} {release.label}",
            fix="import its adapter with --dataset",
            code="no_dataset",
        )
    fields = {"tenant": tenant, "release": release.id, "datasets": datasets, "rows": rows, "offline": offline}
    await _submit(s, checked(LeakSpec, fields, where="options"), **placed)


@job.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@click.option("--route", default="production", show_default=True, help="Route whose gate names the judge.")
@click.option("--batch", type=int, default=8, show_default=True, help="Questions asked at once.")
@_placed
@writes
async def judge(s: Session, /, tenant: str, name: str, route: str, **rest: Any) -> None:
    """Have the judge of a route's gate ([judge]) look at a release's answers, alone and beside the live release's.

    Pairs are shown in both orders. The judge is asked of the items that people have judged, too: its verdicts count
    where it agrees with them. See docs/gates.md.
    """
    release, config = await release_named(s.api, tenant, name), (await s.api.tenant(tenant)).routes.get(route)
    gate = config.gate if config is not None else None
    if gate is None or gate.judge is None:
        raise misused(f"the gate of {tenant}/{route} names no judge", fix="docs/gates.md shows [judge]", code="no_gate")
    live = (await s.api.row(tenant, route)).pointer.release
    fields: dict[str, Any] = {"tenant": tenant, "release": release.id, "against": live if live != release.id else None}
    fields |= {"batch": rest.pop("batch"), "judge": gate.judge.model_dump(include=set(SuiteJudge.model_fields))}
    await _submit(s, checked(JudgeSpec, fields, where="options"), **rest)


@job.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@click.option("--route", default="production", show_default=True, help="Route whose canaries are compared too.")
@_placed
@writes
async def merge(s: Session, /, tenant: str, name: str, route: str, **placed: Any) -> None:
    """Merge an adapter's release into its base, and register the result as a merged release.

    The sums are in fp32, cast once. The weights stay on the node that made them, in the folder that the result names;
    a merge on another node gives identical bytes. Before they are registered, their distributions are compared with
    those of base + adapter (`loradeck release show` has the figures).
    """
    release = await release_named(s.api, tenant, name)
    fields = {"tenant": tenant, "release": release.id, "route": route}
    await _submit(s, checked(MergeSpec, fields, where="options"), **placed)


@job.command()
@click.argument("recipe", metavar="RECIPE.toml", type=click.Path(path_type=Path))
@_override
@_placed
@writes
async def generate(s: Session, /, recipe: Path, **placed: Any) -> None:
    """Have releases write rows by a recipe, a TOML file, and register those that pass its verifier as a dataset.

    The rows are synthetic: one deeper than what the releases were trained on. They are compared with the rows of people
    in the datasets `beside`, which stay what is trained on. See docs/synthetic.md.
    """
    await _submit(s, await _generation(s, recipe), **placed)


async def _generation(s: Session, recipe: Path) -> GenerateSpec:
    """Reads a recipe of rows, with the releases, bases and datasets that it names."""
    fields = await asyncio.to_thread(toml_of, recipe)
    if fields.get("kind", "generate") != "generate":
        raise misused(f"kind is {fields['kind']!r}", where=str(recipe), fix="leave it out, or say generate")
    owner, verifier = str(fields.get("tenant", "")), fields.get("verifier")
    asked = fields.get("sources")
    named = [*(asked if isinstance(asked, list) else ()), verifier.get("judge") if isinstance(verifier, dict) else None]
    for part in named:
        if not isinstance(part, dict):
            continue
        if isinstance(part.get("teacher"), str):  # a base alone
            base = (await base_named(s.api, part.pop("teacher"))).digest
            part |= {"base": base, "release": Release.of_base(owner, base).id}
        elif isinstance(part.get("release"), str):
            release = (await s.api.release((await release_named(s.api, owner, part["release"])).id)).release
            part |= {"base": release.served_base, "release": release.id}
    if isinstance(fields.get("beside"), list):
        known = await s.api.datasets()
        fields["beside"] = [owned_named("dataset", str(text), owner, known) for text in fields["beside"]]
    return checked(GenerateSpec, fields, where=str(recipe), file=recipe)


@job.command()
@click.argument("spec", metavar="SPEC.toml", type=click.Path(path_type=Path))
@click.option("--share", "shares", multiple=True, type=float, help="Share of general rows; several times.")
@click.option("--rank", "ranks", multiple=True, type=int, help="Rank; alpha goes with it. Several times.")
@_override
@_placed
@writes
async def sweep(
    s: Session, /, spec: Path, shares: tuple[float, ...], ranks: tuple[int, ...], follow: bool, **placed: Any
) -> None:
    """Train a recipe with each share of general rows and each rank, and compare the results (`job compare`).

    The recipe's validation names a suite for selection, so that the gate's is not looked at; its [safety] is held
    against the base in every run. With --follow it waits for all runs.
    """
    recipe = await _recipe(s, spec)
    recipes = grid(recipe, shares, ranks)
    await _warn(s, recipe)
    jobs = list[Job]()
    try:
        for recipe in recipes:
            jobs.append(await s.api.submit_job(_request(recipe, **placed)))
            s.out.say(f"job {jobs[-1].id} is {jobs[-1].state.value}")
    except Fault:
        s.out.json(jobs)  # they are queued, whatever becomes of the command
        raise
    if not follow:
        s.out.json(jobs)
        s.out.say(f"{len(jobs)} jobs are queued; loradeck job compare {' '.join(one.id for one in jobs)}")
        return
    while not all(one.state in OVER for one in jobs):
        await asyncio.sleep(_POLL_S)
        before, jobs = jobs, [one if one.state in OVER else await s.api.job(one.id) for one in jobs]
        for old, new in zip(before, jobs, strict=True):
            if (old.state, old.node) != (new.state, new.node) or (new.node is None and old.message != new.message):
                s.out.say(f"{new.id} {new.state.value}  {new.node or '-'}  {new.message}")
    _compared(s, jobs)


@job.command()
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@hub_command
async def compare(s: Session, job_ids: tuple[str, ...]) -> None:
    """Compare training jobs by what each measured of its base and of its published checkpoint, with n and intervals."""
    _compared(s, [await s.api.job(job_id) for job_id in job_ids])


def _compared(s: Session, jobs: list[Job]) -> None:
    runs = [run_of(one) for one in jobs]
    s.out.json({"runs": [asdict(run) for run in runs]})
    s.out.table(
        ("JOB", "SHARE", "RANK", "STATE", "STEP", "BEST OF", "RIGHT", "WHY"),
        [
            (
                run.job,
                "-" if run.share is None else f"{run.share:g}",
                run.rank,
                run.state.value,
                run.step if run.measured else "-",
                run.compared if run.measured else "-",
                next((told(one)[0] for one in run.measured if one.name == SUITE_RIGHT), "-"),
                run.why,
            )
            for run in runs
        ],
        empty="no jobs",
    )
    for run in runs:
        for one in run.measured:
            s.out.say(f"{run.job}  {one.name:24} {''.join(told(one))}")
    s.out.say("the best of several looks better on the suite it was chosen by than it is; the gate asks another one")


@job.command("ls")
@click.option("--tenant", default=None, help="Only jobs of this tenant.")
@click.option("--state", type=click.Choice([state.value for state in JobState]), default=None, help="In this state.")
@click.option(
    "--kind",
    type=click.Choice(["train", "evaluate", "leak", "judge", "merge", "generate", "prepare"]),
    default=None,
    help="Of this kind.",
)
@click.option("--match", default=None, metavar="TEXT", help="With this text in recipe, reason, code, log or result.")
@click.option("--before", default=None, metavar="JOB", help="Submitted before this job.")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=LISTED, show_default=True, metavar="N", help="Most jobs to list."
)
@hub_command
async def ls(s: Session, /, limit: int, **asked: str | None) -> None:
    """List jobs, newest first, of all that were ever submitted."""
    found = await s.api.jobs(checked(JobQuery, {"limit": limit, **asked}, where="options"))
    s.out.listed(
        found,
        ("JOB", "KIND", "TENANT", "STATE", "NODE", "STEP", "TOOK", "CREATED", "BY", "MESSAGE"),
        lambda j: (
            j.id,
            j.kind,
            j.tenant,
            j.state.value,
            j.node or "-",
            _step(j),
            _took(j),
            utc(j.created_ms),
            j.by,
            j.says,
        ),
        empty="no such jobs" if any(asked.values()) else "no jobs",
    )
    if len(found) == limit:
        s.out.say(f"there may be more: --before {found[-1].id}")


@job.command()
@click.argument("job_id", metavar="JOB")
@hub_command
async def show(s: Session, job_id: str) -> None:
    """Show a job, its specification and its result."""
    found = await s.api.job(job_id)
    s.out.json(found)
    rows = await s.api.nodes() if isinstance(found.spec, TrainSpec) and found.node and not s.out.as_json else []
    unproven = next((node.unproven for node in rows if node.node == found.node), "")
    s.out.heading(f"{found.kind} {found.tenant}  {found.state.value}  {found.id}")
    for label, value in (
        ("node", found.node or "-"),
        *([("training", unproven)] if unproven else []),
        *([("queue", found.scheduled.words)] if found.scheduled else []),
        ("step", _step(found)),
        ("took", _took(found)),
        ("attempt", str(found.attempt)),
        ("by", f"{found.by} {utc(found.created_ms)}"),
        ("metrics", metrics_in_words(found) or "-"),
        ("message", found.message or "-"),
        ("code", found.code or "-"),
        ("checkpt", f"after step {found.checkpoint.step}" if found.checkpoint else "-"),
        ("result", str(found.result or "-")),
        ("spec", str(found.spec.model_dump(mode="json"))),
    ):
        s.out.say(f"{label:8} {value}")
    if found.log:
        s.out.say(f"log      {found.log}")


@job.command()
@click.argument("job_id", metavar="JOB")
@hub_command
async def follow(s: Session, job_id: str) -> None:
    """Print a job's events until it ends. Failed or cancelled is exit 1."""
    await _follow(s, await s.api.job(job_id))


@job.command()
@click.argument("job_id", metavar="JOB")
@hub_command
async def log(s: Session, job_id: str) -> None:
    """Print the lines that a job's executor printed since the hub started, the newest thousand."""
    lines = await s.api.job_log(job_id)
    s.out.json(lines)
    before: JobLogLine | None = None
    for one in lines:
        for note in gap_notes(before, one):
            s.out.say(note)
        s.out.say(one.text)
        before = one
    if not lines:
        s.out.say("the hub has no line of it since it started; all of it is log.txt in the job's folder on its node")


@job.command()
@click.argument("job_id", metavar="JOB")
@yes_option
@writes
async def resume(s: Session, job_id: str, yes: bool) -> None:
    """Queue a failed or cancelled job again, as its next attempt.

    It goes to the node it was on if that is free, because its checkpoints are there.
    """
    found = await s.api.job(job_id)
    s.confirm(f"Resume this {found.kind} job of {found.tenant} ({found.state.value})?", yes=yes)
    resumed = await s.api.order_job(job_id, "resume")
    s.out.answer(resumed, f"job {resumed.id} is {resumed.state.value}; loradeck job follow {resumed.id}")


@job.command()
@click.argument("job_id", metavar="JOB")
@yes_option
@writes
async def cancel(s: Session, job_id: str, yes: bool) -> None:
    """Stop a job."""
    found = await s.api.job(job_id)
    s.confirm(f"Cancel this {found.kind} job of {found.tenant} by {found.by} ({found.state.value})?", yes=yes)
    cancelled = await s.api.order_job(job_id, "cancel")
    s.out.answer(cancelled, f"job {cancelled.id} is {cancelled.state.value}")


_Spec = TrainSpec | EvaluateSpec | LeakSpec | JudgeSpec | MergeSpec | GenerateSpec


def _request(
    spec: _Spec, *, labels: tuple[str, ...], priority: int, memory_gb: float | None, override: str = ""
) -> JobRequest:
    fields = {"labels": labels_of(labels), "priority": priority, "memory_gb": memory_gb, "override": override}
    return checked(JobRequest, {"spec": spec, "idempotency_key": new_key(), **fields}, where="options")


async def _submit(s: Session, spec: _Spec, *, follow: bool, **placed: Any) -> None:
    submitted = await s.api.submit_job(_request(spec, **placed))
    if follow:
        s.out.say(f"job {submitted.id} is {submitted.state.value}")
        await _follow(s, submitted)
        return
    s.out.answer(submitted, f"job {submitted.id} is {submitted.state.value}; loradeck job follow {submitted.id}")


async def over(api: HubApi, found: Job) -> Job:
    """Waits until a job has ended. Returns it as it is then."""
    while found.state not in OVER:
        found, _ = await asyncio.gather(api.job(found.id), asyncio.sleep(_POLL_S))
    return found


async def _follow(s: Session, found: Job) -> None:
    """Prints events as they come; with --json one line an event, and the job at the end."""
    seen: set[tuple[int, int]] = set()
    state = None
    while True:
        # The job is read before its events, so that all events of a finished job are there.
        found = await s.api.job(found.id)
        if found.state is not state:
            state = found.state
            s.out.say(f"{found.id} {state.value}" + (f" on {found.node}" if found.node else ""))
        for event in await s.api.job_events(found.id):
            if (event.attempt, event.seq) not in seen:
                seen.add((event.attempt, event.seq))
                s.out.json_line(event)
                s.out.say(_line(event))
        if found.state in OVER:
            break
        await asyncio.sleep(_POLL_S)
    s.out.json_line(found)
    if found.state is not JobState.DONE:
        if s.out.as_json:
            raise click.exceptions.Exit(Exit.REFUSED)
        raise refused(
            f"the job {found.state.value}" if found.state is JobState.FAILED else "the job was cancelled",
            where=found.message or found.id,
            fix=f"loradeck job show {found.id}",
            code=found.code or f"job_{found.state.value}",
        )
    s.out.say(f"{found.id} done in {_took(found)}")


def _line(event: ExecutorEvent) -> str:
    step = f" {event.step}/{event.of or '?'}" if event.step is not None else ""
    several, single = measurements(event.metrics)
    metrics = " ".join(f"{key}={said}" for key, said in (several | single).items())
    return f"{utc(int(event.ts * 1000))}  {event.type.value}{step}  {metrics}  {event.message}".rstrip()


def _step(found: Job) -> str:
    return "-" if found.step is None else f"{found.step}/{found.of or '?'}"


def _took(found: Job) -> str:
    ran_ms = found.ran_ms(None) if found.ended_ms is not None else 0
    return span(ran_ms / 1000) if ran_ms else "-"
