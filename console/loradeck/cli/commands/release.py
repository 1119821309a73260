"""Commands on releases: list, show, compare, register merged weights; card, sign and deprecate whole weights."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from loradeck.artifacts import signing
from loradeck.artifacts.harness_results import harness_report
from loradeck.cli.shared import deprecating
from loradeck.cli.shared import model_card as cards
from loradeck.cli.shared.exits import Exit, refused
from loradeck.cli.shared.files import checked, toml_of
from loradeck.cli.shared.naming import base_named, owned_named, release_named
from loradeck.cli.shared.options import reason_option
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.release_difference import parts
from loradeck.rules.quality.decision import payoff
from loradeck.schemas.attestation import Attestation, AttestationKind, EvaluationReport
from loradeck.schemas.decision import PayoffPrices
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import Form
from loradeck.schemas.moves import MergedRelease
from loradeck.schemas.state import ReleaseView


def _scalars(body: Mapping[str, Any]) -> Iterator[tuple[str, str | int | float | bool]]:
    """The plain values of an attestation, those of a merge's probe included."""
    for key, value in {**body, **body.get("probe", {})}.items():
        if isinstance(value, str | int | float | bool):
            yield key, f"{value:.3g}" if isinstance(value, float) else value


release = Noun("release")


@release.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@click.option("--merged", "base", required=True, metavar="BASE", help="The merged weights: label, model id or digest.")
@writes
async def add(s: Session, tenant: str, name: str, base: str) -> None:
    """Register an adapter's release as merged into its base: RELEASE is the adapter's.

    The merged weights lie on the nodes, each in the base folder of an engine of their own; `loradeck base add`
    registers them.
    """
    merged = (await base_named(s.api, base)).digest
    adapter = await release_named(s.api, tenant, name)
    view = await s.api.register_merged(MergedRelease(tenant=tenant, adapter=adapter.id, merged=merged))
    s.out.answer(view, f"release {view.label} {short(view.id)} on {view.base_label} {short(view.base)}")


@release.command("import-eval")
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@click.argument("file", type=click.Path(path_type=Path))
@writes
async def import_eval(s: Session, tenant: str, name: str, file: Path) -> None:
    """Keep with a release what lm-eval or inspect-ai measured, from the harness's own result file in JSON.

    It stands on the release's card as imported by you. No gate counts it: evaluations of gates come from jobs.
    """
    view = await release_named(s.api, tenant, name)
    report = await asyncio.to_thread(harness_report, file, view.id)
    stated = await s.api.attest(Attestation.of(AttestationKind.HARNESS, view.id, tenant, report))
    tasks = len({figure.task for figure in report.figures})
    named = f"{report.harness} {report.version}".strip()
    s.out.answer(
        stated, f"{len(report.figures)} figures of {tasks} tasks by {named} are kept with {tenant} {view.label}"
    )


@release.command("payoff")
@click.argument("tenant")
@click.argument("student", metavar="STUDENT")
@click.argument("teacher", metavar="TEACHER")
@click.option(
    "--suite", "suite_name", required=True, metavar="SUITE", help="By name or digest; both were evaluated on it."
)
@click.option(
    "--prices", required=True, type=click.Path(path_type=Path), help="TOML file of prices (docs/training.md)."
)
@hub_command
async def compare_payoff(s: Session, tenant: str, student: str, teacher: str, suite_name: str, prices: Path) -> None:
    """Say whether a student saves more than it costs: p99 and price of 1,000 tokens beside its teacher's.

    Both are from the newest evaluations that jobs made of them, by engines of one build. Exit 1: it saves less.
    """
    stated = checked(PayoffPrices, await asyncio.to_thread(toml_of, prices), where=str(prices), file=prices)
    suite = owned_named("suite", suite_name, tenant, await s.api.suites())
    found = payoff(await _evaluated(s, tenant, teacher, suite), await _evaluated(s, tenant, student, suite), stated)
    s.out.json(asdict(found) | {"pays": found.pays, "currency": stated.currency})
    s.out.table(
        ("", "RIGHT", "P99 MS", "TOKENS", f"{stated.currency}/1K TOKENS"),
        [(name, *one.cells) for name, one in ((teacher, found.teacher), (student, found.student))],
        empty="",
    )
    s.out.say("of one evaluation of each: intervals (95 %) are over its answers; TOKENS are of an answer")
    differ = f"{student} has {found.lost} wrong that {teacher} has right, and {found.won} right that it has wrong;"
    s.out.say(f"of {found.items} items {differ}")
    s.out.say(f"a loss of up to {found.bound:.1%} is not ruled out (95 %). The gate judges it, this does not.")
    s.out.heading(f"{found.verdict} ({stated.currency})")
    if not found.pays:
        raise click.exceptions.Exit(Exit.REFUSED)


async def _evaluated(s: Session, tenant: str, name: str, suite: str) -> EvaluationReport:
    """The newest evaluation of a release on a suite that a job made."""
    view = await release_named(s.api, tenant, name)
    stated = await s.api.attestations(kind=AttestationKind.EVALUATION, subject=view.id)
    bodies = [one.body for one in stated if one.is_from_a_job and one.body.get("suite") == suite]
    if not bodies:
        raise refused(
            "no job has evaluated it on this suite",
            where=f"{tenant} {view.label}",
            fix=f"loradeck job evaluate {tenant} {name} --suite {suite[:12]}",
            code="gate_missing",
        )
    return EvaluationReport.model_validate(bodies[-1])


@release.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@click.option(
    "--key", "key_file", required=True, type=click.Path(path_type=Path), help="Private key; KEY.pub beside it."
)
@writes
async def sign(s: Session, tenant: str, name: str, key_file: Path) -> None:
    """Sign the weights of a merged release or of a base alone, by the digests of their files; the hub keeps it.

    The weights themselves are not needed here: nodes compare their files with the signed digests.
    """
    view = await _whole(s, tenant, name, fix="loradeck adapter sign TENANT NAME VERSION")
    (weights,) = [entry.manifest for entry in await s.api.bases() if entry.digest == view.base]
    public = key_file.with_name(f"{key_file.name}.pub")
    signature = await asyncio.to_thread(signing.sign_weights, weights, key_file, public)
    stated = await s.api.attest(Attestation.of(AttestationKind.SIGNATURE, view.base, tenant, signature))
    s.out.answer(stated, f"{tenant} {view.label} is signed by {signing.key_id(signature.public_key)[:12]}")


@release.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@hub_command
async def card(s: Session, tenant: str, name: str) -> None:
    """Print the model card of whole weights, merged or trained, as Markdown, from the hub's records."""
    view = await _whole(s, tenant, name, fix="loradeck adapter card TENANT NAME VERSION")
    known = await cards.record_of_weights(s.api, tenant, view)
    s.out.json(cards.facts(known))
    for line in cards.markdown(known).splitlines():
        s.out.say(line)


@release.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@deprecating.from_option
@deprecating.until_option
@reason_option(required=True)
@writes
async def deprecate(s: Session, tenant: str, name: str, day: datetime, until: datetime | None, reason: str) -> None:
    """Deprecate a tenant's own weights: from a day on they are not promoted. Shows the pointers that still use them.

    Routes that serve them go on serving them. The day that was set last counts.
    """
    view = await _whole(s, tenant, name, fix="loradeck adapter deprecate TENANT NAME VERSION")
    called = f"{tenant} {view.label}"
    await deprecating.deprecate(
        s, tenant, called, subject=view.base, release=view.id, day=day, until=until, reason=reason
    )


async def _whole(s: Session, tenant: str, name: str, *, fix: str) -> ReleaseView:
    """A release of whole weights. `fix`: the command for what has an adapter. Raises: CliError: `not_merged`."""
    view = await release_named(s.api, tenant, name)
    if view.form is Form.ADAPTER:
        raise refused(
            "of a release with an adapter this is done to the adapter",
            where=f"{tenant} {view.label} is of form {view.form.value}",
            fix=fix,
            code="not_merged",
        )
    return view


@release.command("ls")
@click.argument("tenant", required=False)
@hub_command
async def ls(s: Session, tenant: str | None) -> None:
    """List releases, of one tenant or of all."""
    s.out.listed(
        await s.api.releases(tenant),
        ("RELEASE", "ID", "FORM", "BASE", "ADAPTER"),
        lambda v: (v.label, v.id[:12], v.form.value, f"{v.base_label} {short(v.base)}", short(v.adapter)),
        empty="no releases",
    )


@release.command()
@click.argument("tenant")
@click.argument("left", metavar="RELEASE")
@click.argument("right", metavar="RELEASE")
@hub_command
async def diff(s: Session, tenant: str, left: str, right: str) -> None:
    """Compare two releases of a tenant: base, data, recipe, size, why."""
    views = [await release_named(s.api, tenant, name) for name in (left, right)]
    one, other = [await s.api.release(view.id) for view in views]
    names = {entry.digest: f"{entry.manifest.tenant}/{entry.manifest.name}" for entry in await s.api.datasets()}
    found = parts(one, other, datasets=names)
    s.out.json({part.name: {"left": part.left, "right": part.right, "differs": part.differs} for part in found})
    s.out.table(
        ("", "PART", views[0].label, views[1].label),
        [("!" if part.differs else "", part.name, part.left, part.right) for part in found],
        empty="nothing is on record of them",
    )


@release.command()
@click.argument("tenant")
@click.argument("name", metavar="RELEASE")
@hub_command
async def show(s: Session, tenant: str, name: str) -> None:
    """Show a release: its parts and its attestations."""
    view = await release_named(s.api, tenant, name)
    detail = await s.api.release(view.id)
    s.out.json(detail)
    s.out.heading(f"{tenant} {view.label}  {view.id}")
    s.out.say(f"form        {view.form.value}")
    s.out.say(f"base        {view.base_label} {view.base}")
    s.out.say(f"adapter     {view.adapter or '-'}")
    signed = await s.api.attestations(kind=AttestationKind.SIGNATURE, subject=detail.release.signed_part)
    keys = [signing.key_id(one.body["public_key"])[:12] for one in signed]
    s.out.say(f"signed by   {' '.join(keys) or 'nobody'}")
    if detail.manifest is not None:
        s.out.say(f"name        {detail.manifest.name}, rank {detail.manifest.rank}")
        s.out.say(f"why weights {detail.manifest.decision.why_weights}")
    if s.out.as_json:
        return
    s.out.table(
        ("ATTESTATION", "ROUTE", "AT", "BY", "WHAT"),
        [
            (a.kind.value, a.route or "-", utc(a.at_ms), a.by, " ".join(f"{k}={v}" for k, v in _scalars(a.body)))
            for a in await s.api.attestations(subject=view.id)
        ],
        empty="nothing is attested of it yet",
    )
