"""Merged releases: registered by a person who made the weights, or by the merge job that did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loradeck.hub.jobs import gates
from loradeck.rules.errors import Refused
from loradeck.rules.serving import merge
from loradeck.schemas.attestation import Attestation, AttestationKind, MergeReport
from loradeck.schemas.jobs import Job, MergeSpec
from loradeck.schemas.manifest import BaseManifest
from loradeck.schemas.moves import MergedRelease
from loradeck.schemas.release import Form, Release
from loradeck.store.interface import Doc

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub


def mergeable(hub: Hub, tenant: str, release: str) -> Release:
    """An adapter's release of the tenant.

    Raises: Refused `unknown_release`, `unknown_adapter`.
    """
    adapted = hub.catalogue.known(tenant, release)
    if adapted.form is not Form.ADAPTER:
        raise Refused(
            "unknown_adapter",
            "only an adapter can be merged into its base",
            detail=f"{adapted.label} is of form {adapted.form.value}",
            fix="name the adapter's release",
        )
    return adapted


async def register(hub: Hub, body: MergedRelease, by: str) -> Release:
    """Merged weights as a release. Registering the same again answers the same.

    Raises: Refused `offboarded`, `unknown_release`, `unknown_adapter`, `unknown_base`, `wrong_base`.
    """
    if hub.tenant(body.tenant).offboarded:
        raise Refused("offboarded", f"{body.tenant} is offboarded")
    adapted = mergeable(hub, body.tenant, body.adapter)
    if body.merged not in hub.catalogue.bases:
        raise Refused(
            "unknown_base",
            "the merged weights are not registered",
            detail=body.merged,
            fix="loradeck base add DIR, with the folder of the merged weights, first",
        )
    if body.merged == adapted.base:
        raise Refused("wrong_base", "these are the weights of the base itself", detail=body.merged)
    release = Release(
        tenant=body.tenant,
        form=Form.MERGED,
        base=adapted.base,
        adapter=adapted.adapter,
        merged=body.merged,
        label=f"{adapted.label}m",
    )
    await hub.register(Doc.RELEASE, release.id, release.model_dump(mode="json"), tenant=body.tenant, by=by)
    return release


async def take_in(hub: Hub, job: Job, spec: MergeSpec, result: dict[str, Any]) -> dict[str, Any]:
    """A merge job's weights become a base, base and adapter a merged release, and its report an attestation.

    Raises: Refused `bad_report` when the report is on something else, or says that the weights are not near enough;
        ValidationError.
    """
    report = MergeReport.model_validate(result.get("report"))
    adapted = mergeable(hub, spec.tenant, spec.release)
    version = hub.catalogue.version_of(adapted)
    name = version.manifest.name if version else adapted.label
    manifest = BaseManifest.model_validate(
        {"model_id": f"{spec.tenant}/{name}", "revision": f"{adapted.label} merged", "files": result.get("files")}
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
    await hub.register(Doc.BASE, manifest.digest, manifest.model_dump(mode="json"), tenant=None, by=by)
    release = await register(hub, merged, by)
    body, now = report.model_dump(mode="json"), hub.now_ms()
    kind = AttestationKind.MERGE
    await gates.take_in(
        hub, Attestation(kind=kind, subject=release.id, tenant=spec.tenant, body=body, by=by, at_ms=now)
    )
    return {
        "release": release.id,
        "label": release.label,
        "merged": manifest.digest,
        "folder": str(result.get("folder", "")),
        "kl": report.probe.kl,
        "kl_base": report.probe.kl_base,
    }
