"""Releases of whole weights: merged ones, registered by a person or by their job, and those that a job has trained."""

from dataclasses import dataclass
from typing import Any

from loradeck.hub.data.lineage import Lineage
from loradeck.hub.jobs.gates import Gates
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Registry
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.serving import merge
from loradeck.schemas.attestation import AttestationKind, BaseLineage, MergeReport
from loradeck.schemas.ids import LINE
from loradeck.schemas.jobs import Job, MergeSpec, TrainSpec
from loradeck.schemas.manifest import BaseManifest, Form, Release
from loradeck.schemas.moves import MergedRelease
from loradeck.store.interface import Doc


@dataclass(eq=False)
class Merging:
    """Registers whole weights as releases."""

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
