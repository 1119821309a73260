"""The results of finished jobs: reports become attestations, rows a dataset, weights a release."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from loradeck.artifacts.rows.personal_data import ILLNESS, NAME
from loradeck.hub.data.datasets import Datasets
from loradeck.hub.data.lineage import Lineage
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.jobs.gates import Gates, checked
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue, Registry
from loradeck.hub.log.runtime import Clock
from loradeck.rules.data import synthetic
from loradeck.rules.data.policy import check_teacher
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality.gates import counts
from loradeck.rules.serving import merge
from loradeck.rules.serving.training_proof import faults
from loradeck.schemas.attestation import AttestationKind, BaseLineage, EvaluationReport, LeakReport, MergeReport
from loradeck.schemas.dataset_ledger import LedgerEntry
from loradeck.schemas.generation import ROWS, GenerateSpec, GenerationReport
from loradeck.schemas.ids import LARGEST_INT, LINE
from loradeck.schemas.jobs import EvaluateSpec, Job, JudgeSpec, LeakSpec, Looked, MergeSpec, ProveSpec, TrainSpec
from loradeck.schemas.judge_report import JudgeReport
from loradeck.schemas.manifest import BaseManifest, DatasetManifest, FileEntry, Form, Provenance, Release
from loradeck.schemas.moves import MergedRelease
from loradeck.schemas.training import TrainingProof, Weights
from loradeck.store.interface import Doc

_TOLERATED = frozenset({ILLNESS, NAME})
"""Kinds of personal data that a generated dataset may hold: generate jobs leave out answers with any other kind."""


@dataclass(eq=False)
class Generation:
    """Checks generate jobs, and registers what they have written.

    The hub alone says where rows come from, how deep they are and what they may be used for; a node says what it wrote.
    """

    _state: FoldedLog
    _catalogue: Catalogue
    _attestations: Attestations
    _datasets: Datasets
    _lineage: Lineage
    _clock: Clock

    def check(self, spec: GenerateSpec, job: str = "-") -> Provenance:
        """Checks that a tenant may have rows written so, and returns their provenance.

        Raises: Refused: `unknown_release`, `wrong_base`, `wrong_tenant`, `erased_row`, `licence_forbidden`,
        `terms_not_accepted`, `no_depth`, `no_human_rows`, and what training on the datasets beside refuses.
        """
        tenant, catalogue = self._state.tenant(spec.tenant), self._catalogue
        for release_id, base in spec.asked.items():
            release = catalogue.known(spec.tenant, release_id)
            if release.served_base != base:
                raise Refused("wrong_base", "the release is served on another base", detail=f"{release_id}: {base}")
            self._lineage.check_use(spec.tenant, base)
            self._datasets.check_descent(base=base, release=release_id)
        learnt = set[str]()
        for source in spec.sources:
            check_teacher(source.licence, tenant.data)
            synthetic.check_terms(source, catalogue.called(source.release))
            learnt |= synthetic.trained_on(
                catalogue.known(spec.tenant, source.release),
                adapters=catalogue.adapters,
                releases=self._lineage.releases().values(),
                made=self._attestations.facts.made,
            )
        self._datasets.check_training(spec.tenant, spec.beside)
        ledger = self._attestations.facts.ledger
        return synthetic.provenance(spec, learnt, ledger, job=job, now_ms=self._clock.now_ms())

    async def written(self, job: Job, spec: GenerateSpec, result: dict[str, Any]) -> dict[str, Any]:
        """Registers the dataset that a job has written, with its report. Returns what is kept with the job.

        Raises:
            Refused: `bad_report`, and whatever `check` and the registration of a dataset refuse.
            BadArtifact: `bad_rows`, `ledger_incomplete`, `erased_row`.
        """
        report, file = (
            GenerationReport.model_validate(result.get("report")),
            FileEntry.model_validate(result.get("file")),
        )
        provenance = self.check(spec, job.id)
        if wrong := synthetic.disagreement(report, spec, job.id):
            raise Refused("bad_report", "the report is not of this job, or its counts disagree", detail=wrong)
        fields = {"tenant": spec.tenant, "name": spec.name, "rows": report.rows, "provenance": provenance}
        manifest = DatasetManifest.model_validate({**fields, "files": [file.model_copy(update={"path": ROWS})]})

        def as_written(entry: LedgerEntry) -> None:
            if wrong := synthetic.claims(entry, spec, provenance):
                raise Refused("bad_report", "rows say of themselves what the job did not make", detail=wrong)

        by = f"job {job.id}"
        await self._datasets.register(manifest, by, check=as_written, tolerated=_TOLERATED)
        await self._attestations.state(AttestationKind.GENERATION, manifest.digest, spec.tenant, report, by)
        passed = report.passed
        rate = {"passed": passed.k, "verified": passed.n, "low": passed.low / 1000, "high": passed.high / 1000}
        depth = provenance.synthetic_depth
        return {"dataset": manifest.digest, "name": spec.name, "rows": report.rows, "depth": depth, **rate}


@dataclass(eq=False)
class Merging:
    """Registers whole weights as releases: merged ones, of a person or a job, and those that a job has trained."""

    _state: FoldedLog
    _registry: Registry
    _attestations: Attestations
    _lineage: Lineage
    _gates: Gates

    def mergeable(self, tenant: str, release: str) -> Release:
        """An adapter's release of the tenant. Raises: Refused `unknown_release`, `unknown_adapter`."""
        adapted = self._registry.catalogue.known(tenant, release)
        if adapted.form is not Form.ADAPTER:
            raise Refused(
                "unknown_adapter",
                "only an adapter can be merged into its base",
                detail=f"{adapted.label} is of form {adapted.form.value}",
                fix="name the adapter's release",
            )
        return adapted

    async def register(self, body: MergedRelease, by: str) -> Release:
        """Registers merged weights as a release. Registering them once more gives the same release.

        Raises: Refused `offboarded`, `unknown_release`, `unknown_adapter`, `unknown_base`, `wrong_base`,
            `wrong_tenant`.
        """
        if self._state.tenant(body.tenant).offboarded:
            raise Refused("offboarded", f"{body.tenant} is offboarded")
        adapted = self.mergeable(body.tenant, body.adapter)
        if body.merged not in self._registry.catalogue.bases:
            raise Refused(
                "unknown_base",
                "the merged weights are not registered",
                detail=body.merged,
                fix="loradeck base add DIR, with the folder of the merged weights, first",
            )
        if body.merged == adapted.base:
            raise Refused("wrong_base", "these are the weights of the base itself", detail=body.merged)
        self._lineage.check_claim(body.tenant, body.merged)
        release = Release(
            tenant=body.tenant,
            form=Form.MERGED,
            base=adapted.base,
            adapter=adapted.adapter,
            merged=body.merged,
            label=f"{adapted.label}m",
        )
        await self._registry.register_release(release, by)
        return release

    async def trained(self, job: Job, spec: TrainSpec, manifest: BaseManifest) -> Release:
        """Registers what a job made by training every weight, as a base of its tenant's own and the release of it."""
        by, base = f"job {job.id}", manifest.digest
        await self._registry.register(Doc.BASE, base, manifest.model_dump(mode="json"), tenant=spec.tenant, by=by)
        release = Release.of_base(spec.tenant, base).model_copy(update={"label": f"{spec.name}-full"})
        await self._registry.register_release(release, by)
        return self._registry.catalogue.releases[release.id]

    async def merged(self, job: Job, spec: MergeSpec, result: dict[str, Any]) -> dict[str, Any]:
        """Registers a merge job's weights as a base and as a release, and attests its report. Returns the job's result.

        Raises: Refused `bad_report` when the report is on something else, or says that the weights are not near enough;
            ValidationError.
        """
        report = MergeReport.model_validate(result.get("report"))
        adapted = self.mergeable(spec.tenant, spec.release)
        version = self._registry.catalogue.version_of(adapted)
        name = version.manifest.name if version else adapted.label
        revision = f"{adapted.label} merged" + (f", dequantized from {found}" if (found := report.dequantized) else "")
        manifest = BaseManifest.model_validate(
            {"model_id": f"{spec.tenant}/{name}", "revision": revision, "files": result.get("files")}
        )
        by = f"job {job.id}"
        merged = MergedRelease(tenant=spec.tenant, adapter=spec.release, merged=manifest.digest)
        expected = Release(
            tenant=spec.tenant, form=Form.MERGED, base=adapted.base, adapter=adapted.adapter, merged=manifest.digest
        )
        if (report.adapter, report.merged, report.release) != (spec.release, manifest.digest, expected.id):
            raise Refused("bad_report", "the report is on another release, or on other weights, than the job's")
        if why := merge.fault(report.probe):
            raise Refused("bad_report", why)
        made = BaseLineage(tenant=spec.tenant, job=job.id, base=adapted.base, adapter=adapted.adapter)
        await self._lineage.record(manifest.digest, made)
        await self._registry.register(
            Doc.BASE, manifest.digest, manifest.model_dump(mode="json"), tenant=spec.tenant, by=by
        )
        release = await self.register(merged, by)
        await self._gates.attest(self._attestations.draft(AttestationKind.MERGE, release.id, spec.tenant, report, by))
        return {
            "release": release.id,
            "label": release.label,
            "merged": manifest.digest,
            "folder": str(result.get("folder", ""))[:LINE],
            "kl": report.probe.kl,
            "kl_base": report.probe.kl_base,
        }


@dataclass(eq=False)
class Results:
    """Registers and attests what jobs have made."""

    _catalogue: Catalogue
    _attestations: Attestations
    _gates: Gates
    _lineage: Lineage
    _merging: Merging
    _generation: Generation
    _fleet: Fleet
    _clock: Clock

    async def register(self, job: Job, result: dict[str, Any]) -> dict[str, Any]:
        """Makes a job's result durable. Returns what is kept with the job.

        Raises: Refused, BadArtifact, StoreError: it cannot be used.
        """
        try:
            if isinstance(job.spec, EvaluateSpec):
                result = await self._evaluated(job, job.spec, result)
            elif isinstance(job.spec, LeakSpec):
                result = await self._leaks(job, job.spec, result)
            elif isinstance(job.spec, JudgeSpec):
                result = await self._judged(job, job.spec, result)
            elif isinstance(job.spec, TrainSpec):
                result = await self._trained(job, job.spec, result)
            elif isinstance(job.spec, ProveSpec):
                result = self._proven(job, job.spec, result)
            elif isinstance(job.spec, GenerateSpec):
                result = await self._generation.written(job, job.spec, result)
            elif isinstance(job.spec, MergeSpec):
                result = await self._merging.merged(job, job.spec, result)
        except ValidationError as error:
            raise Refused("bad_report", str(error.errors()[0]["msg"])) from None
        return result

    async def _trained(self, job: Job, spec: TrainSpec, result: dict[str, Any]) -> dict[str, Any]:
        if spec.weights is Weights.FULL:
            base = str(result.get("base"))
            if not re.fullmatch("[0-9a-f]{64}", base) or base == spec.base:
                raise Refused("bad_report", "the job says it is done, and names no base that it made")
            made = BaseLineage(tenant=spec.tenant, job=job.id, base=spec.base, datasets=spec.datasets)
            if "manifest" not in result:  # an agent of an earlier version: a person registers the base
                await self._lineage.record(base, made)
                return _kept(result)
            manifest = BaseManifest.model_validate(result["manifest"])
            if manifest.digest != base:
                raise Refused("bad_report", "the manifest is of other weights than the job says it made")
            await self._lineage.record(base, made)
            release = await self._merging.trained(job, spec, manifest)
            return {**_kept(result), "release": release.id, "label": release.label}
        version = self._catalogue.adapters.get(str(result.get("adapter")))
        if version is None or version.manifest.tenant != spec.tenant or version.release != result.get("release"):
            raise Refused("bad_report", "the job says it is done, and its adapter version is not registered")
        return _kept(result)

    async def _evaluated(self, job: Job, spec: EvaluateSpec, result: dict[str, Any]) -> dict[str, Any]:
        if "report" not in result:
            raise Refused("bad_report", "the evaluation came without a report")
        by, body = f"job {job.id}", result["report"]
        draft = self._attestations.draft
        kind, route = (AttestationKind.EVALUATION, spec.route) if spec.arm is None else (AttestationKind.ARM, None)
        report = checked(draft(kind, spec.release, spec.tenant, body, by, route))
        if report.body["suite"] != spec.suite:
            raise Refused("bad_report", "the report is on another suite than the job's")
        if not counts(EvaluationReport.model_validate(report.body)):
            why = "the report scores choices as agents of before do, and no gate counts it;"
            raise Refused("bad_report", why, detail=f"update the agent of {job.node}, and evaluate again")
        if result.get("canary") is not None:
            canary = checked(draft(AttestationKind.CANARY, spec.release, spec.tenant, result["canary"], by))
            if canary.body.get("reason") or canary.body.get("withdraws"):  # a person's word counts above all nodes
                raise Refused("bad_report", "a job gives no reason for its canary record, and withdraws none")
            if canary.body["items"]:
                await self._gates.attest(canary)
        written = await self._gates.attest(report)
        gate = self._attestations.facts.gate((spec.tenant, spec.route), spec.release)
        summary = {"report": written.seq, "n": body["n"], "exact": body["exact"], "valid": body["valid"]}
        return {**summary, "gate": gate.model_dump(mode="json") if gate else None}

    def _proven(self, job: Job, spec: ProveSpec, result: dict[str, Any]) -> dict[str, Any]:
        proof = TrainingProof.model_validate(result.get("proof")).model_copy(update={"at_ms": self._clock.now_ms()})
        if job.node != spec.node or proof.base != spec.base:
            raise Refused("bad_report", "the trial was of another node or base than the job's")
        self._fleet.prove(spec.node, proof)
        return {"standing": "; ".join(faults(proof)) or "proven", "proof": proof.model_dump(mode="json")}

    async def _leaks(self, job: Job, spec: LeakSpec, result: dict[str, Any]) -> dict[str, Any]:
        report = LeakReport.model_validate(result.get("report"))
        counts = (report.both, report.only_release, report.only_base)
        if set(report.datasets) != set(spec.datasets) or min(counts) < 0 or sum(counts) > report.n:
            raise Refused("bad_report", "the report is on other datasets than the job's, or its counts disagree")
        draft = self._attestations.draft(AttestationKind.LEAK, spec.release, spec.tenant, report, f"job {job.id}")
        written = await self._gates.attest(draft)
        kept = {"report": written.seq, "n": report.n, "both": report.both}
        return {**kept, "only_release": report.only_release, "only_base": report.only_base}

    async def _judged(self, job: Job, spec: JudgeSpec, result: dict[str, Any]) -> dict[str, Any]:
        report = JudgeReport.model_validate(result.get("report"))
        asked = (spec.against, spec.judge.suite, spec.judge.digest)
        if (report.against, report.suite, report.judge) != asked:
            raise Refused("bad_report", "the report is by another judge, or on other answers, than the job's")
        draft = self._attestations.draft(AttestationKind.JUDGED, spec.release, spec.tenant, report, f"job {job.id}")
        written = await self._gates.attest(draft)
        kept = {"report": written.seq, "passed": report.passed.model_dump(), "flipped": report.flipped.model_dump()}
        return {**kept, "agreement": {one.kind: one.agreement.model_dump() for one in report.people}}


def _kept(result: dict[str, Any]) -> dict[str, Any]:
    """The part of a training's result that stands with its job, on every console."""
    known = {key: result.get(key) for key in ("adapter", "version", "release", "base", "folder")}
    numbers = {key: value for key, value in known.items() if isinstance(value, int) and value <= LARGEST_INT}
    kept: dict[str, Any] = {**numbers} | {key: value[:LINE] for key, value in known.items() if isinstance(value, str)}
    if isinstance(result.get("chosen"), dict):
        looks = result.get("looks")
        base = looks[0] if isinstance(looks, list) and looks else {}
        kept["looked"] = Looked.model_validate({**result, "base": base}).model_dump(mode="json")
    return kept
