"""The results of finished jobs: reports become attestations, rows a dataset, weights a release."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from loradeck.hub.data.lineage import Lineage
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.jobs.gates import Gates, checked
from loradeck.hub.jobs.generation import Generation
from loradeck.hub.jobs.merging import Merging
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.rules.errors import Refused
from loradeck.rules.quality.gates import counts
from loradeck.rules.serving.training_proof import faults
from loradeck.schemas.attestation import AttestationKind, BaseLineage, EvaluationReport, LeakReport
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.ids import LARGEST_INT, LINE
from loradeck.schemas.jobs import EvaluateSpec, Job, JudgeSpec, LeakSpec, Looked, MergeSpec, ProveSpec, TrainSpec
from loradeck.schemas.judge_report import JudgeReport
from loradeck.schemas.manifest import BaseManifest
from loradeck.schemas.training import TrainingProof, Weights


@dataclass(eq=False, kw_only=True)
class Results:
    """Registers and attests what jobs have made."""

    catalogue: Catalogue
    attestations: Attestations
    gates: Gates
    lineage: Lineage
    merging: Merging
    generation: Generation
    fleet: Fleet
    clock: Clock

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
                result = await self.generation.written(job, job.spec, result)
            elif isinstance(job.spec, MergeSpec):
                result = await self.merging.merged(job, job.spec, result)
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
                await self.lineage.record(base, made)
                return _kept(result)
            manifest = BaseManifest.model_validate(result["manifest"])
            if manifest.digest != base:
                raise Refused("bad_report", "the manifest is of other weights than the job says it made")
            await self.lineage.record(base, made)
            release = await self.merging.trained(job, spec, manifest)
            return {**_kept(result), "release": release.id, "label": release.label}
        version = self.catalogue.adapters.get(str(result.get("adapter")))
        if version is None or version.manifest.tenant != spec.tenant or version.release != result.get("release"):
            raise Refused("bad_report", "the job says it is done, and its adapter version is not registered")
        return _kept(result)

    async def _evaluated(self, job: Job, spec: EvaluateSpec, result: dict[str, Any]) -> dict[str, Any]:
        if "report" not in result:
            raise Refused("bad_report", "the evaluation came without a report")
        by, body = f"job {job.id}", result["report"]
        draft = self.attestations.draft
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
                await self.gates.attest(canary)
        written = await self.gates.attest(report)
        gate = self.attestations.facts.gate((spec.tenant, spec.route), spec.release)
        summary = {"report": written.seq, "n": body["n"], "exact": body["exact"], "valid": body["valid"]}
        return {**summary, "gate": gate.model_dump(mode="json") if gate else None}

    def _proven(self, job: Job, spec: ProveSpec, result: dict[str, Any]) -> dict[str, Any]:
        proof = TrainingProof.model_validate(result.get("proof")).model_copy(update={"at_ms": self.clock.now_ms()})
        if job.node != spec.node or proof.base != spec.base:
            raise Refused("bad_report", "the trial was of another node or base than the job's")
        self.fleet.prove(spec.node, proof)
        return {"standing": "; ".join(faults(proof)) or "proven", "proof": proof.model_dump(mode="json")}

    async def _leaks(self, job: Job, spec: LeakSpec, result: dict[str, Any]) -> dict[str, Any]:
        report = LeakReport.model_validate(result.get("report"))
        counts = (report.both, report.only_release, report.only_base)
        if set(report.datasets) != set(spec.datasets) or min(counts) < 0 or sum(counts) > report.n:
            raise Refused("bad_report", "the report is on other datasets than the job's, or its counts disagree")
        draft = self.attestations.draft(AttestationKind.LEAK, spec.release, spec.tenant, report, f"job {job.id}")
        written = await self.gates.attest(draft)
        kept = {"report": written.seq, "n": report.n, "both": report.both}
        return {**kept, "only_release": report.only_release, "only_base": report.only_base}

    async def _judged(self, job: Job, spec: JudgeSpec, result: dict[str, Any]) -> dict[str, Any]:
        report = JudgeReport.model_validate(result.get("report"))
        asked = (spec.against, spec.judge.suite, spec.judge.digest)
        if (report.against, report.suite, report.judge) != asked:
            raise Refused("bad_report", "the report is by another judge, or on other answers, than the job's")
        draft = self.attestations.draft(AttestationKind.JUDGED, spec.release, spec.tenant, report, f"job {job.id}")
        written = await self.gates.attest(draft)
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
