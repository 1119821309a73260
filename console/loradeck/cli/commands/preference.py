"""Commands on preferences: judgements in, how far raters agree, adjudications, datasets of them, and a rater out."""

import tempfile
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from loradeck.artifacts.rows.barred_rows import row_digest
from loradeck.artifacts.rows.contamination import folded_words
from loradeck.artifacts.rows.dataset_rows import rows_in
from loradeck.artifacts.rows.judgements import campaign_in, text_of
from loradeck.cli.commands.dataset import show_erasure
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.files import checked, write_new
from loradeck.cli.shared.naming import owned_named
from loradeck.cli.shared.options import dry_run_option, reason_option, together, yes_option
from loradeck.cli.shared.output import cut
from loradeck.cli.shared.registered_rows import accept_option, provenance_of, provenance_options, register
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.blobs import download
from loradeck.client.errors import ClientError
from loradeck.rules.data import preferences as rules
from loradeck.rules.errors import Refused
from loradeck.rules.quality.agreement import GOLD_FLOOR
from loradeck.rules.quality.figures import alpha, counted
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.dataset_ledger import ErasureRequest
from loradeck.schemas.fault import Fault
from loradeck.schemas.manifest import DatasetManifest, Provenance
from loradeck.schemas.preference import (
    Adjudication,
    Campaign,
    Disputed,
    PreferenceBuild,
    PreferenceReport,
)
from loradeck.schemas.responses import Registered

WIDTH = 50
"""Characters of a text that a list shows."""

_rubric_option = click.option("--rubric", metavar="NAME@VERSION", help="By which was judged; needed if by several.")

_each = click.option("--each", type=click.IntRange(1, 20), default=2, show_default=True, help="Raters an item needs.")

_without = click.option("--without", multiple=True, metavar="RATER", help="Leave this rater out; may be repeated.")

_options = together(_rubric_option, _without, _each)

preference = Noun("preference")


@preference.command("import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--tenant", required=True, help="Tenant that owns them.")
@click.option("--name", required=True, help="Their name; one name may have many digests.")
@accept_option
@provenance_options
@writes
async def import_(
    s: Session, /, files: Sequence[Path], tenant: str, name: str, accept: str, sidecar: Path | None, **given: Any
) -> None:
    """Import judgements: rubrics, raters, items and what was chosen, one JSON object a line, in one file or several.

    All files together are one dataset of judgements: what a later wave adds is imported with what was there. The hub
    reads and scans the lines as it does those of other datasets. docs/preferences.md has the fields.
    """
    provenance = provenance_of(files[0], sidecar, given)
    campaign = campaign_in({str(file): file for file in files})
    rows = [row for _, row in rows_in({str(file): file for file in files})]
    s.out.json(await _registered(s, rows, tenant, name, provenance, accept))
    counts = f"{len(campaign.items)} items, {len(campaign.raters)} raters, {len(campaign.judgements)} judgements"
    s.out.say(f" {counts} by {', '.join(sorted(campaign.rubrics))}")


@preference.command()
@click.argument("tenant")
@click.argument("name")
@_options
@hub_command
async def agreement(s: Session, /, tenant: str, name: str, **which: Any) -> None:
    """Show how far raters agree, what stands out of each, and what a dataset of their judgements would leave out.

    It ends with what is too low to train on, if anything is.
    """
    async with _judgements(s, tenant, name) as here:
        report = here.built(here.build(**which)).report
    policy = (await s.api.tenant(here.manifest.tenant)).data
    s.out.json(report)
    _print(s, report)
    try:
        rules.check_floors(report)
        rules.check_rated_twice(report, policy, name)
    except Refused as low:
        s.out.alarm(f"too low to train on: {low.detail}")


@preference.command()
@click.argument("tenant")
@click.argument("name")
@_options
@hub_command
async def queue(s: Session, /, tenant: str, name: str, **which: Any) -> None:
    """List the items on which raters differ, for somebody who did not rate them: `loradeck preference decide`."""
    async with _judgements(s, tenant, name) as here:
        found = here.built(here.build(**which)).disputed
    s.out.json(found)
    _list(s, found, "nothing waits for an adjudication")


@preference.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("item")
@click.argument("choice")
@_rubric_option
@reason_option(required=True)
@writes
async def decide(
    s: Session, /, tenant: str, name: str, item: str, choice: str, rubric: str | None, reason: str
) -> None:
    """Decide what is right of an item: a, b or tie; good or bad; or the label. It counts above the raters' choices.

    Whoever rated the item decides nothing of it. A later decision of the same item replaces this one.
    """
    async with _judgements(s, tenant, name) as here:
        build = here.build(rubric)
        known = here.campaign.items.get(item)
        if known is None:
            raise refused(f"{name} has no item {item!r}", fix="loradeck preference queue", code="unknown_item")
        if not known.takes(choice, here.campaign.rubrics[build.rubric].scale):
            raise misused(f"{choice!r} is no choice of this item", fix="a, b or tie; good or bad; a label of the scale")
        me = (await s.api.me()).actor
        if (item, me) in rules.judges(here.campaign):
            fix = "ask somebody else"
            raise refused("you rated this item yourself", where=f"{item}: {me}", fix=fix, code="own_judgement")
        said = Adjudication(rubric=build.rubric, choice=choice, reason=reason)
        stated = here.adjudication(item, said)
    s.out.answer(await s.api.attest(stated), f"{item}: {choice}, by {build.rubric}")


@preference.command()
@click.argument("tenant")
@click.argument("name")
@click.option("--as", "made", required=True, metavar="NAME", help="Name of the dataset that is made.")
@_options
@accept_option
@writes
async def build(s: Session, /, tenant: str, name: str, made: str, accept: str, **which: Any) -> None:
    """Build a dataset of what raters agree on, or somebody has decided; it is refused where they agree too little.

    The hub makes the rows from the judgements once more before it registers them. Provenance is that of the judgements,
    with the days that are left of their retention. Only pairs that were built like this are trained on by dpo and ipo.
    """
    async with _judgements(s, tenant, name) as here:
        registered, report = await here.register(here.build(**which), made, accept)
    s.out.json(registered)
    _print(s, report)


@preference.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("one", metavar="RUBRIC")
@click.argument("other", metavar="RUBRIC")
@_each
@hub_command
async def differ(s: Session, /, tenant: str, name: str, one: str, other: str, each: int) -> None:
    """Show the items that raters decide one way by one rubric and another way by another, such as yours and taste."""
    async with _judgements(s, tenant, name) as here:
        found = rules.differing(here.campaign, here.build(one, each=each), here.build(other, each=each))
    s.out.json(found)
    _list(s, found.differ, "they come to the same throughout")
    s.out.say(f"the same: {counted(found.agree)}")


@preference.command()
@click.argument("tenant")
@click.argument("name")
@click.argument("rater")
@click.option("--retire", is_flag=True, help="Revoke the releases that descend from them too: R steps over those.")
@dry_run_option
@reason_option(required=True)
@yes_option
@writes
async def remove(
    s: Session, /, tenant: str, name: str, rater: str, retire: bool, dry_run: bool, reason: str, yes: bool
) -> None:
    """Remove a rater's judgements: a new version without them is registered, and nothing that descends is promoted.

    All descendants are listed first, as those of erased rows are. The rater's own line goes too. The newest dataset
    that was built of the judgements is built anew, where the others agree enough.
    """
    async with _judgements(s, tenant, name) as here:
        rows = [row for _, row in rows_in(here.paths)]
        gone = {row_digest(row) for row in rows if row.get("rater") == rater and "choice" in row}
        line = {row_digest(row) for row in rows if row.get("rater") == rater} - gone
        if not gone | line:
            fix = "loradeck preference agreement lists who has"
            raise refused(f"{rater!r} has judged nothing in {name}", fix=fix, code="unknown_rater")
        request = ErasureRequest(rows=tuple(sorted(gone | line)), tenants=(tenant,), retire=retire, reason=reason)
        plan = await s.api.plan_erasure(request)
        judged = {place.dataset for place in plan.places if place.row in gone} | {here.manifest.digest}
        if gone and (plan.elsewhere or {place.dataset for place in plan.places} - judged):
            # The same line stands in datasets that hold none of these judgements, and those would be lost.
            request = request.model_copy(update={"rows": tuple(sorted(gone))})
            plan = await s.api.plan_erasure(request)
            s.out.say(f" other datasets name {rater} in the same words, and keep that: remove {rater} there too")
        show_erasure(s, plan)
        if dry_run:
            s.out.json(plan)
            return
        s.confirm(f"Remove {len(gone)} judgements of {rater}, for ever?", yes=yes)
        left = [row for row in rows if row.get("rater") != rater]
        why, digest = f"without a rater: {reason}"[:500], ""
        try:
            provenance = here.provenance
        except Refused as over:
            s.out.alarm(f" no version without {rater} is registered: {over.title}")
        else:
            digest = (await _registered(s, left, tenant, here.manifest.name, provenance, why)).digest
        built = await s.api.attestations(kind=AttestationKind.AGREEMENT, tenant=tenant)
        last = next((one for one in built[::-1] if one.body["build"]["judgements"] == here.manifest.digest), None)
        names = {one.digest: one.manifest.name for one in await s.api.datasets()}
        undone = rules.undone_with(here.campaign, rater, here.stated) if rater in here.campaign.raters else []
        try:
            for rubric, item in undone:
                body = Adjudication(rubric=rubric, choice="", reason="whoever decided it had judged the item")
                await s.api.attest(here.adjudication(item, body))
            done = await s.api.erase(request.model_copy(update={"plan": plan.digest, "dry_run": False}))
        except ClientError:
            again = f"loradeck preference remove {tenant} {here.manifest.digest} {rater} --reason WHY"
            s.out.alarm(f" {rater}'s judgements are not known to be erased; once it can be: {again}")
            raise
    if digest and last is not None:
        before = PreferenceReport.model_validate(last.body).build
        await _build_anew(s, tenant, digest, names[last.subject], before, [rater], why)
    s.out.json(done)
    s.out.say(f"removed: {len(gone)} judgements of {rater}; {len(done.releases)} releases descend from them")
    if undone:
        s.out.say(f" {len(undone)} decisions of items that {rater} had judged are taken back")


async def _build_anew(
    s: Session, tenant: str, judgements: str, made: str, before: PreferenceBuild, gone: Collection[str], why: str
) -> None:
    """Builds a dataset of the judgements that are left, or says why not and what makes it.

    The judgements of raters who are `gone` are erased by now: so no refusal ends the command.
    """
    without = [one for one in before.without if one not in gone]
    try:
        async with _judgements(s, tenant, judgements) as others:
            await others.register(others.build(before.rubric, without, before.each), made, why)
    except Fault as fault:
        build = f"loradeck preference build {tenant} {judgements} --as {made} --rubric {before.rubric}"
        build += "".join(f" --without {one}" for one in without) + f" --each {before.each}"
        s.out.alarm(f" {made} is not built anew: {fault.sentence}; later: {build}")


@dataclass(frozen=True)
class _Judgements:
    """A dataset of judgements whose files are on this machine."""

    s: Session
    manifest: DatasetManifest
    paths: dict[str, Path]
    campaign: Campaign
    stated: Sequence[Attestation]
    kept_ms: int

    @property
    def provenance(self) -> Provenance:
        """That of what is made of them. Raises: Refused: `retention_over`."""
        return rules.inherited(self.manifest.provenance, self.kept_ms)

    def adjudication(self, item: str, body: Adjudication) -> Attestation:
        """States what somebody decides of an item, or that nobody does."""
        return Attestation.of(AttestationKind.ADJUDICATION, self.campaign.digests[item], self.manifest.tenant, body)

    def build(self, rubric: str | None, without: Sequence[str] = (), each: int = 2) -> PreferenceBuild:
        """Says how a dataset is to be made of them. Raises: Refused: the rubric or a rater is not there."""
        known = sorted({one.rubric for one in self.campaign.judgements})
        if rubric is None and len(known) != 1:
            have = ", ".join(known) or "nothing was judged"
            raise misused("by which rubric?", where=f"{self.manifest.name}: {have}", fix="--rubric NAME@VERSION")
        fields = {"judgements": self.manifest.digest, "rubric": rubric or known[0], "without": without, "each": each}
        made = checked(PreferenceBuild, fields, where="options")
        rules.check_build(self.campaign, made)
        return made

    def built(self, build: PreferenceBuild) -> rules.Built:
        """Makes the rows of a dataset of them. Raises: Refused: as `rules.built`."""
        return rules.built(self.campaign, build, self.stated, folded_words)

    async def register(self, build: PreferenceBuild, name: str, accept: str) -> tuple[Registered, PreferenceReport]:
        """Makes a dataset of them and registers that. Raises: Refused: `agreement_low`; and as `register`."""
        rows, report, _ = self.built(build)
        rules.check_floors(report)
        return await _registered(self.s, rows, self.manifest.tenant, name, self.provenance, accept, build), report


@asynccontextmanager
async def _judgements(s: Session, tenant: str, text: str) -> AsyncIterator[_Judgements]:
    """A dataset of judgements by its name or digest, with its files in a folder that goes afterwards."""
    known = await s.api.datasets()
    digest = owned_named("dataset", text, tenant, known)
    manifest = next(one.manifest for one in known if one.digest == digest)
    (entry, *_) = await s.api.attestations(kind=AttestationKind.LEDGER, subject=digest)
    kept_ms = int(time.time() * 1000) - entry.at_ms
    stated = await s.api.attestations(kind=AttestationKind.ADJUDICATION, tenant=manifest.tenant)
    with tempfile.TemporaryDirectory(prefix="loradeck-") as folder:
        paths = {file.path: Path(folder, file.sha256) for file in manifest.files}
        for file in manifest.files:
            await download(s.api, file.sha256, paths[file.path])
        yield _Judgements(s, manifest, paths, campaign_in(paths), stated, kept_ms)


async def _registered(
    s: Session,
    rows: Sequence[dict[str, Any]],
    tenant: str,
    name: str,
    provenance: Provenance,
    accept: str,
    build: PreferenceBuild | None = None,
) -> Registered:
    """Registers lines of judgements, or the rows that were built of them."""
    with tempfile.TemporaryDirectory(prefix="loradeck-") as folder:
        file = Path(folder, "judgements.jsonl" if build is None else "preferences.jsonl")
        write_new(file, text_of(rows))
        return await register(s, file, tenant, name, provenance, accept, needed=(), build=build)


def _print(s: Session, report: PreferenceReport) -> None:
    found, floor = report.agreement, rules.FLOORS[report.kind]
    s.out.heading(f"{report.rows} rows by {report.build.rubric}, of which {report.adjudicated} were adjudicated")
    s.out.say(f" alpha {alpha(found)} of items judged twice or more; at least {floor}, and {rules.OVERLAPS} items")
    s.out.say(f" gold {counted(report.gold)}; at least {GOLD_FLOOR:.0%}")
    twice = ", ".join(f"{n:,} by two with {what!r}" if what else f"{n:,}" for what, n in report.twice.items())
    s.out.say(f" judged by two persons or more: {twice or 0} of {report.rows:,} rows")
    if report.kind == "pair":
        s.out.say(
            f" shown in both orders {counted(report.both_orders)}; the longer answer won {counted(report.longer)}"
        )
    rows = []
    for one in report.raters:
        shares = map(counted, (one.agrees, one.gold, one.first, one.early, one.late))
        rows.append((one.rater, one.judgements, *shares, alpha(one.without), " ".join(one.flags) or "-"))
    titles = ("RATER", "JUDGED", "AGREES", "GOLD", "FIRST SHOWN", "EARLY", "LATE", "ALPHA WITHOUT", "STANDS OUT")
    s.out.table(titles, rows, empty="nobody has judged")
    for left in report.left_out:
        s.out.say(f" left out: {left.words}")


def _list(s: Session, found: Sequence[Disputed], empty: str) -> None:
    rows = []
    for one in found:
        votes = " ".join(f"{who}:{choice}" for who, choice in one.votes.items())
        texts = (cut(text, WIDTH) for text in (one.item.prompt, one.item.a or one.item.answer, one.item.b))
        rows.append((one.item.item, votes, *texts))
    s.out.table(("ITEM", "CHOICES", "PROMPT", "A", "B"), rows, empty=empty)
