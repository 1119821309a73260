"""The model card of an adapter version or of whole weights: all facts on record, as Markdown and as a comparison."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from loradeck.artifacts.signing import key_id
from loradeck.cli.shared.output import Output, span, utc
from loradeck.client.api import HubApi
from loradeck.rules.data.policy import qualities_in_words, toxic_in_words
from loradeck.rules.data.variety import tail_is_lost
from loradeck.rules.quality.figures import alpha, around, estimate, figure, measurements, share
from loradeck.rules.quality.run_records import RunOfSweep, run_of, told
from loradeck.schemas.attestation import (
    Attestation,
    AttestationKind,
    Deprecation,
    EvaluationReport,
    GateResult,
    LeakReport,
    Signature,
)
from loradeck.schemas.dataset_ledger import Assessment, Erasure, LedgerEntry, ScanReport, fits
from loradeck.schemas.decision import Worksheet
from loradeck.schemas.generation import GenerationReport, Share, Variety
from loradeck.schemas.ids import short
from loradeck.schemas.jobs import Job, JobQuery, TrainSpec
from loradeck.schemas.judge_report import JudgeReport
from loradeck.schemas.manifest import AdapterVersion, DatasetManifest
from loradeck.schemas.responses import BaseEntry
from loradeck.schemas.review import DRAWN, Drawn, Review
from loradeck.schemas.state import ReleaseView, TenantRow
from loradeck.schemas.suite import HarnessReport

M = TypeVar("M", bound=BaseModel)

_OF_ITS_OWN = frozenset({"kind", "tenant", "name", "base", "datasets", "decision", "parent"})
"""Fields of a recipe that the card shows elsewhere."""


class Fact(BaseModel):
    """One line of a card. `key` is unique within its section."""

    section: str
    key: str
    value: str


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """One adapter version, or whole weights that a job made."""

    title: str
    tenant: str
    release: str
    digest: str
    """Digest of the adapter or the weights."""

    trained_on: tuple[str, ...]
    """The datasets whose rows they were trained on."""

    version: AdapterVersion | None = None
    weights: BaseEntry | None = None
    run: Job | None


@dataclass(frozen=True, kw_only=True)
class Record(_Subject):
    """Everything that the hub has on one adapter version, or on whole weights that a job made."""

    base: str
    datasets: dict[str, DatasetManifest]
    suites: dict[str, str]
    stated: list[Attestation]
    rows: list[TenantRow]


async def record(api: HubApi, version: AdapterVersion) -> Record:
    """Collects everything that the hub has on a version."""
    manifest = version.manifest
    jobs = await api.jobs(JobQuery(kind="train", match=version.digest))
    subject = _Subject(
        title=f"{manifest.tenant}/{manifest.name} v{version.version}",
        tenant=manifest.tenant,
        release=version.release,
        digest=version.digest,
        trained_on=manifest.datasets,
        version=version,
        run=next((job for job in jobs if (job.result or {}).get("adapter") == version.digest), None),
    )
    return await _record(api, subject, manifest.base)


async def record_of_weights(api: HubApi, tenant: str, view: ReleaseView) -> Record:
    """Collects everything that the hub has on a release of whole weights."""
    bases = {entry.digest: entry for entry in await api.bases()}
    made = next((one for one in bases[view.base].made if one.tenant == tenant), None)
    version = next((v for v in await api.adapters(tenant) if v.digest == view.adapter), None)
    jobs = await api.jobs(JobQuery(match=made.job)) if made is not None else []
    subject = _Subject(
        title=f"{tenant} {view.label}",
        tenant=tenant,
        release=view.id,
        digest=view.base,
        trained_on=(made.datasets if made is not None else ()) or (version.manifest.datasets if version else ()),
        weights=bases[view.base],
        run=next((job for job in jobs if made is not None and job.id == made.job), None),
    )
    return await _record(api, subject, made.base if made is not None else view.base)


async def record_of_release(api: HubApi, tenant: str, view: ReleaseView) -> Record:
    """Collects everything that the hub has on a release of whichever form."""
    version = next((one for one in await api.adapters(tenant) if one.release == view.id), None)
    return await record(api, version) if version is not None else await record_of_weights(api, tenant, view)


async def _record(api: HubApi, of: _Subject, base: str) -> Record:
    bases, datasets, suites = await asyncio.gather(api.bases(), api.datasets(), api.suites())
    sheet = of.version.manifest.decision.worksheet if of.version is not None else None
    subjects = (of.digest, of.release, *of.trained_on, *((sheet,) if sheet is not None else ()))
    stated = await asyncio.gather(
        *(api.attestations(subject=subject) for subject in subjects),
        api.attestations(kind=AttestationKind.ASSESSMENT, tenant=of.tenant),
    )
    found = next((b for b in bases if b.digest == base), None)
    called = f"{found.label}: {found.manifest.model_id} {found.manifest.revision}" if found is not None else "-"
    return Record(
        **vars(of),
        base=f"{called} ({base})",
        datasets={entry.digest: entry.manifest for entry in datasets},
        suites={entry.digest: f"{entry.manifest.name} {short(entry.digest)}" for entry in suites},
        stated=[one for of_subject in stated for one in of_subject],
        rows=await users(api, of.tenant, of.release, all_rows=True),
    )


async def users(api: HubApi, name: str, release: str, *, all_rows: bool = False) -> list[TenantRow]:
    """Rows of a tenant's pointers that serve a release or have it beneath; with `all_rows`, of all its pointers."""
    tenant = await api.tenant(name)
    rows = await asyncio.gather(*(api.row(tenant.name, route) for route in sorted(tenant.routes)))
    return [row for row in rows if all_rows or release in (row.pointer.release, *row.pointer.beneath)]


def facts(known: Record) -> list[Fact]:
    """The card's lines, in order; equal records give equal lines."""
    made = [*(_adapter(known, known.version) if known.version is not None else _weights(known)), *_training(known)]
    for digest in known.trained_on:
        made += _dataset(known, digest)
    return [*made, *_evaluation(known), *_limitations(known), *_standing(known)]


def markdown(known: Record) -> str:
    """The model card as Markdown."""
    lines = [f"# {known.title}"]
    section = ""
    for fact in facts(known):
        if fact.section != section:
            section = fact.section
            lines += ["", f"## {section}", ""]
        lines.append(f"- {fact.key}: {fact.value}")
    lines += [
        "",
        "Put together from the hub's records. It says what was recorded and no more: a scan finds what has a form, and "
        "a suite shows what it asks.",
    ]
    return "\n".join(lines) + "\n"


def differences(before: Record, after: Record) -> list[tuple[str, str, str]]:
    """(line, before, after) of every line of two cards that differs; '-' if a card lacks it."""
    old = {(fact.section, fact.key): fact.value for fact in facts(before)}
    new = {(fact.section, fact.key): fact.value for fact in facts(after)}
    return [
        (f"{section}: {key}", old.get((section, key), "-"), new.get((section, key), "-"))
        for section, key in dict.fromkeys([*old, *new])
        if old.get((section, key)) != new.get((section, key))
    ]


def print_differences(out: Output, found: Iterable[tuple[str, str, str]]) -> None:
    """Prints lines that differ, as `differences` finds them."""
    for what, before, after in found:
        out.heading(what)
        out.say(f" - {before}")
        out.say(f" + {after}")


def _adapter(known: Record, version: AdapterVersion) -> list[Fact]:
    manifest = version.manifest
    decision = manifest.decision
    return _section(
        "Adapter",
        ("digest", version.digest),
        ("release", version.release),
        ("base", known.base),
        ("parent", manifest.parent or "none"),
        ("rank, alpha", f"{manifest.rank}, {manifest.alpha}"),
        ("modules", " ".join(manifest.target_modules)),
        ("size", f"{sum(file.size for file in manifest.files):,} bytes"),
        ("registered", f"{utc(version.created_ms)} by {version.created_by}"),
        ("why in weights", decision.why_weights),
        ("alternatives", decision.alternatives or "not stated"),
        ("cost", decision.cost or "not stated"),
        ("worksheet", _worksheet(known, decision.worksheet)),
    )


def _worksheet(known: Record, digest: str | None) -> str:
    """Says what `loradeck decide` measured before an adapter was trained, and what followed."""
    stated = next((one for one in known.stated if one.kind is AttestationKind.DECISION and one.subject == digest), None)
    if stated is None:
        return "none" if digest is None else digest
    sheet = Worksheet.model_validate(stated.body)
    arms = "; ".join(f"{arm.name} {figure(arm.right, '.1%')} right" for arm in sheet.arms)
    said = "; ".join((*(f"for: {why}" for why in sheet.reasons), *(f"against: {why}" for why in sheet.against)))
    return f"weights {'yes' if sheet.weights else 'NO'}, {sheet.choice} was to serve. {arms}. {said} ({digest})"


def _weights(known: Record) -> list[Fact]:
    entry, run = known.weights, known.run
    assert entry is not None
    decision = run.spec.decision if run is not None and isinstance(run.spec, TrainSpec) else None
    return _section(
        "Weights",
        ("digest", known.digest),
        ("release", known.release),
        ("model", f"{entry.label}: {entry.manifest.model_id} {entry.manifest.revision}"),
        ("made from", known.base if entry.made else "not stated: no job of this fleet made them"),
        *(("made by", f"job {one.job}") for one in entry.made),
        *(("merged in", f"adapter {one.adapter}") for one in entry.made if one.adapter is not None),
        ("size", f"{sum(file.size for file in entry.manifest.files):,} bytes"),
        ("of", ", ".join(entry.tenants) or "all tenants"),
        ("why in weights", decision.why_weights if decision is not None else "not stated"),
    )


def _training(known: Record) -> list[Fact]:
    run, recorded = known.run, [("recipe", known.version.manifest.config_hash)] if known.version is not None else []
    if run is None or not isinstance(run.spec, TrainSpec):
        return _section("Training", *recorded, ("run", "none that the hub still lists"))
    recipe = {k: v for k, v in run.spec.model_dump(mode="json").items() if k not in _OF_ITS_OWN and v is not None}
    return _section(
        "Training",
        *recorded,
        ("run", f"{run.id} on {run.node}, attempt {run.attempt}"),
        ("compute", _compute(run)),
        *((key, str(value)) for key, value in recipe.items()),
        *((f"last {key}", said) for of in measurements(run.metrics) for key, said in of.items()),
        *_chosen(run_of(run)),
    )


def _compute(run: Job) -> str:
    """Says what a run took, measured; what it waited between attempts is left out."""
    if not isinstance(run.spec, TrainSpec) or run.gpu_hours is None:
        return "not known: the run has not ended"
    processes = "one process" if run.spec.processes == 1 else f"{run.spec.processes} processes"
    took = f"{processes} for {span(run.ran_ms(None) / 1000)}, all attempts together"
    return f"{run.gpu_hours:.3g} GPU hours, where each process has a GPU: {took}"


def _limitations(known: Record) -> list[Fact]:
    """Lists what its owner says that it does not do well, what it failed, and what nobody has looked at."""
    run = known.run
    trained = run.spec.decision if run is not None and isinstance(run.spec, TrainSpec) else None
    decision = known.version.manifest.decision if known.version is not None else trained
    own = {one.kind for one in known.stated if one.subject == known.release}
    failed = {
        f"{check.name} on {known.suites.get(check.suite or '', short(check.suite))}"
        for result in _bodies(known, AttestationKind.GATE, known.release, GateResult)[-1:]
        for check in result.checks
        if not check.passed
    }
    looks = {
        AttestationKind.EVALUATION: "scores on a suite",
        AttestationKind.REVIEW: "answers, by people",
        AttestationKind.LEAK: "rows that it gives away",
    }
    return _section(
        "Limitations",
        ("stated", (decision.limitations if decision is not None else "") or "nothing"),
        ("failed in its newest gate", ", ".join(sorted(failed)) or "nothing"),
        ("not looked at", ", ".join(what for kind, what in looks.items() if kind not in own) or "nothing of these"),
    )


def _review(said: Review) -> str:
    why = "; ".join(f"{k} of {n} {DRAWN[one]}" for one, (k, n) in said.drawn.items())
    all_by_lot = not said.drawn or said.drawn.get(Drawn.LOT, (0, 0))[0] == len(said.items)
    share_of = share(said.bad, len(said.items)) if all_by_lot else "no share of all answers, as some were drawn"
    return f"{said.bad} of {len(said.items)} bad: {share_of}" + (f"; drawn: {why}" if why else "")


def _chosen(run: RunOfSweep) -> list[tuple[str, str]]:
    """Lines on the published checkpoint: what was measured of it, and of how many it is the best."""
    if not run.compared:
        return []
    figures = ((f"chosen {one.name}", "".join(told(one))) for one in run.measured)
    return [("checkpoint", f"after step {run.step}, the best of {run.compared} that were compared"), *figures]


def _dataset(known: Record, digest: str) -> list[Fact]:
    manifest = known.datasets.get(digest)
    called = f"Data: {manifest.tenant}/{manifest.name}" if manifest else f"Data: {digest[:12]}"
    lines = [("digest", digest)]
    for entry in _bodies(known, AttestationKind.LEDGER, digest, LedgerEntry)[:1]:
        lines += [
            (
                "rows",
                f"{entry.rows:,}: {entry.human:,} human, {entry.program:,} by programs, {entry.model:,} by models",
            ),
            ("synthetic depth", str(entry.deepest)),
            ("sources", f"{'; '.join(entry.sources)}{' ...' * (entry.distinct_sources > len(entry.sources))}"),
            ("licence", " ".join(entry.licence_classes)),
            ("consent", " ".join(entry.consents)),
            ("tier", " ".join(tier.value for tier in entry.tiers)),
            ("quality", qualities_in_words(entry)),
            ("known biases", "; ".join(entry.biases) or "none stated"),
            ("purposes", " ".join(entry.purposes) or "none in common"),
            ("impact assessments", _assessed(known, entry)),
            ("kept", f"{entry.retention_days} days" if entry.retention_days else "until erasure is asked for"),
        ]
    for made in _bodies(known, AttestationKind.GENERATION, digest, GenerationReport)[-1:]:
        lines += _generated(made)
    if len(lines) == 1:
        lines.append(("ledger", "NO ENTRY: its rows were never read"))
    for scan in _bodies(known, AttestationKind.SCAN, digest, ScanReport)[-1:]:
        found = "; ".join(f"{finding.kind} in {finding.rows} rows" for finding in scan.findings) or "nothing"
        lines += [
            ("scan found", found + (f"; accepted: {scan.accepted}" if scan.accepted else "")),
            ("looked for", f"{', '.join(scan.looked_for)}; secrets: {scan.secrets}"),
            ("not looked for", ", ".join(scan.not_looked_for)),
            ("toxic", toxic_in_words(scan)),
        ]
    erased = {row for one in _bodies(known, AttestationKind.ERASURE, digest, Erasure) for row in one.rows}
    if erased:
        lines.append(("ERASED", f"{len(erased)} rows: {', '.join(short(row) for row in sorted(erased))}"))
    return _section(called, *lines)


def _assessed(known: Record, entry: LedgerEntry) -> str:
    """Names the impact assessments that speak of sources of a dataset, and who signed them."""
    newest = {str(one.body.get("source")): one for one in known.stated if one.kind is AttestationKind.ASSESSMENT}
    signed = []
    for one, assessment in _of(newest.values(), Assessment):
        if not assessment.withdrawn and any(fits(assessment.source, source) for source in entry.sources):
            until = f" until {utc(assessment.until_ms)}" if assessment.until_ms else ""
            allowed = f"{assessment.source}, for {' '.join(assessment.purposes)}{until}"
            signed.append(f"{assessment.reference} ({allowed}), signed by {one.by}")
    return "; ".join(signed) or "none"


def _generated(made: GenerationReport) -> list[tuple[str, str]]:
    """Says what became of a generate job's answers, and how they compare with people's."""

    def of(one: Share) -> str:
        return share(one.k, one.n)

    def various(one: Variety) -> str:
        ones, twos = (one.distinct_1 / max(1, one.words), one.distinct_2 / max(1, one.words))
        spread = around(one.self_bleu / 1000, one.self_bleu_error / 1000, one.compared)
        bleu = estimate(one.self_bleu / 1000, *spread, one.compared or None, ".2f")
        return f"distinct-1 {ones:.2f}, distinct-2 {twos:.2f} of {one.texts:,} texts, self-BLEU {bleu}"

    near = "near-duplicates not looked for" if made.near is None else f"{made.near} near-duplicates"
    return [
        ("verified", f"{of(made.passed)} passed; {made.unfinished} unfinished, {made.sensitive} with personal data"),
        ("left out", f"{made.copies} copies, {near}, {made.contaminated} with items of suites"),
        ("variety", f"{various(made.variety)}; people's {various(made.people)}; on {made.variety.words:,} words each"),
        (
            "rare words",
            f"{of(made.tail)} of those of half of people's; people's other half, in as many words, "
            f"{of(made.tail_of_people)}{', which is more' * tail_is_lost(made.tail, made.tail_of_people)}",
        ),
    ]


def _evaluation(known: Record) -> list[Fact]:
    release = known.release
    lines = {}
    for report in _bodies(known, AttestationKind.EVALUATION, release, EvaluationReport):
        suite = known.suites.get(report.suite, short(report.suite))
        scored = f"exact {share(report.exact, report.n)}, valid {share(report.valid, report.n)}"
        lines[f"suite {suite}"] = f"{scored}; {_answered(report)}"
    for stated, imported in _stated(known, AttestationKind.HARNESS, release, HarnessReport):
        for one in imported.figures:
            measured = estimate(one.value, *around(one.value, one.stderr, one.n), one.n)
            called = f"{imported.harness} {imported.version} {one.task} {one.name}"
            lines[called] = f"{measured}; imported by {stated.by}, no gate counts it"
    for leaks in _bodies(known, AttestationKind.LEAK, release, LeakReport)[-1:]:
        own, alone = leaks.both + leaks.only_release, leaks.both + leaks.only_base
        lines["leaks"] = (
            f"{share(own, leaks.n)} of the rows of its datasets reproduced, {share(alone, leaks.n)} by the base alone; "
            f"{leaks.measure}"
        )
    for said in _bodies(known, AttestationKind.JUDGED, release, JudgeReport)[-1:]:
        people = [(one.kind, one.agreement) for one in said.people]
        alphas = [f"{kind}s {alpha(at)}" for kind, at in people if at.alpha is not None]
        lines["judge"] = (
            f"{share(said.passed.k, said.passed.n)} of answers passed by {said.model}, rubric {short(said.rubric)}; "
            f"{share(said.flipped.k, said.flipped.n)} of pairs flipped; alpha with people: "
            f"{', '.join(alphas) or 'none'}"
        )
    for stated, result in _stated(known, AttestationKind.GATE, release, GateResult):
        checks = ", ".join(
            f"{c.name} {c.measured} {'ok' if c.passed else 'FAILED'}"
            + (f" ({c.note})" if c.name.startswith("slices") else "")
            + (f" ({c.tries})" if c.tries else "")
            for c in result.checks
        )
        if result.looks is not None:
            checks += f"; {result.looks} different releases were evaluated on its suite"
        against = f" against {short(result.against)}" if result.against else ""
        lines[f"gate of {stated.route}"] = f"{'passed' if result.passed else 'FAILED'}{against}: {checks}"
    for stated, signed in _stated(known, AttestationKind.REVIEW, release, Review):
        lines[f"review of {stated.route} by {stated.by}"] = _review(signed)
    return _section("Evaluation", *(lines.items() or [("suites", "none: it was never evaluated")]))


def _answered(report: EvaluationReport) -> str:
    if report.harness:
        return f"asked and scored by {report.harness}"
    if report.engine is None:
        return "answered in process, by transformers"
    build = f"{report.engine.engine}, {report.engine.device}, {report.engine.dtype}"
    return f"answered by {build}" + (f", {report.offline} items in process" if report.offline else "")


def _standing(known: Record) -> list[Fact]:
    signed = _bodies(known, AttestationKind.SIGNATURE, known.digest, Signature)
    keys = sorted(key_id(s.public_key)[:12] for s in signed)
    lines = [("signed by", " ".join(keys) or "nobody")]
    for row in known.rows:
        pointer = row.pointer
        where = f"{pointer.tenant}/{pointer.route}"
        if pointer.release == known.release:
            lines.append((where, "serves it"))
        elif known.release in pointer.beneath:
            lines.append((where, f"may go back to it (place {pointer.beneath.index(known.release) + 1})"))
    lines += [
        ("deprecated", f"from {utc(one.from_ms)}{f' until {utc(one.until_ms)}' if one.until_ms else ''}: {one.reason}")
        for one in _bodies(known, AttestationKind.DEPRECATION, known.digest, Deprecation)[-1:]
    ]
    revoked = [one for one in known.stated if one.kind is AttestationKind.REVOCATION]
    lines += [("REVOKED", str(one.body.get("reason", ""))) for one in revoked[-1:]]
    return _section("Standing", *lines)


def _section(name: str, *lines: tuple[str, str]) -> list[Fact]:
    return [Fact(section=name, key=key, value=value) for key, value in lines]


def _bodies(known: Record, kind: AttestationKind, subject: str, model: type[M]) -> list[M]:
    return [body for _, body in _stated(known, kind, subject, model)]


def _stated(known: Record, kind: AttestationKind, subject: str, model: type[M]) -> Iterator[tuple[Attestation, M]]:
    return _of((one for one in known.stated if one.kind is kind and one.subject == subject), model)


def _of(stated: Iterable[Attestation], model: type[M]) -> Iterator[tuple[Attestation, M]]:
    """Attestations with their bodies as `model`; those written by another version of the hub are left out."""
    for one in stated:
        with suppress(ValidationError):
            yield one, model.model_validate(one.body)
