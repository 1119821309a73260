"""The registry: bases, datasets, suites, adapter versions, the releases they make, and the erasure of rows."""

import asyncio

from fastapi import APIRouter

from loradeck.artifacts import Blobs
from loradeck.artifacts.adapters import verify_blobs
from loradeck.artifacts.blobs.store import unless_unknown
from loradeck.hub.access.auth import Caller
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Maker, Reader, ReaderOfEach, Releaser, ReleaserOfEach, ThisHub, ViewerOfEach
from loradeck.hub.hub import Hub
from loradeck.rules.data import quotas
from loradeck.rules.errors import Refused
from loradeck.schemas.dataset_ledger import ErasurePlan, ErasureRequest
from loradeck.schemas.ids import Name, Reason, Role
from loradeck.schemas.jobs import TrainSpec, rows_level
from loradeck.schemas.log import FLEET
from loradeck.schemas.manifest import (
    AdapterManifest,
    AdapterVersion,
    BaseManifest,
    DatasetManifest,
    FileEntry,
    Form,
    Release,
    SuiteManifest,
)
from loradeck.schemas.moves import MergedRelease
from loradeck.schemas.preference import PreferenceDataset
from loradeck.schemas.responses import BaseEntry, DatasetEntry, Registered, ReleaseDetail, SuiteEntry
from loradeck.schemas.state import ReleaseView
from loradeck.store.interface import Doc

router = APIRouter(prefix="/v1", tags=["registry"], route_class=Guarded)


# ---- bases -----------------------------------------------------------------------------------------------


@router.post("/bases")
async def register_base(
    body: BaseManifest, hub: ThisHub, caller: ReleaserOfEach, tenant: Name | None = None
) -> Registered:
    """Registers a base by the digest of its files, which stay on the nodes: for one tenant, or for all.

    What a tenant's job has made is registered by a releaser of that tenant, everything else by one of all tenants.
    """
    digest, owners = body.digest, hub.lineage.owners(body.digest)
    if not any(map(caller.sees, owners)):
        caller.at(FLEET)
    if tenant is not None:
        hub.log.state.tenant(tenant)
        hub.lineage.check_claim(tenant, digest)
    if digest not in hub.catalogue.bases:
        hub.datasets.check_descent(base=digest)
    elif tenant is not None and tenant not in owners:
        raise Refused("exists", "this base is for all tenants already", detail=hub.catalogue.base_label(digest))
    await hub.registry.register(Doc.BASE, digest, body.model_dump(mode="json"), tenant=tenant, by=caller.actor)
    return Registered(digest=digest, label=hub.catalogue.base_label(digest))


@router.get("/bases")
async def bases(hub: ThisHub, caller: ReaderOfEach) -> list[BaseEntry]:
    """Lists all bases that the caller sees, with whose they are and what jobs made them from."""
    return [hub.seen.base(caller, digest) for digest in hub.seen.bases(caller)]


# ---- datasets and suites ---------------------------------------------------------------------------------


@router.post("/datasets")
async def register_dataset(
    body: DatasetManifest, hub: ThisHub, caller: ReleaserOfEach, accept: Reason = ""
) -> Registered:
    """Registers rows for training. Their files must be here already; every row is read, scanned and counted.

    `accept`: why they are registered although personal data or secrets were found in them.
    """
    await _require_files(hub, caller, body)
    await hub.datasets.register(body, caller.actor, accept=accept)
    return Registered(digest=body.digest)


@router.post("/preferences")
async def register_preferences(
    body: PreferenceDataset, hub: ThisHub, caller: ReleaserOfEach, accept: Reason = ""
) -> Registered:
    """Registers a dataset that is made of judgements, which the hub makes anew; its file must be here already.

    `accept`: as of datasets.
    """
    await _require_files(hub, caller, body.manifest)
    await hub.datasets.register_made(body, caller.actor, accept=accept)
    return Registered(digest=body.manifest.digest)


@router.get("/datasets")
async def datasets(hub: ThisHub, caller: ReaderOfEach) -> list[DatasetEntry]:
    """Lists all datasets."""
    return [DatasetEntry(digest=d, manifest=m) for d, m in hub.catalogue.datasets.items() if _reads(hub, caller, m)]


def _reads(hub: Hub, caller: Caller, manifest: DatasetManifest | SuiteManifest) -> bool:
    """Tells whether a caller sees a dataset or suite, and can read it: agents of before know no quality and no biases,
    and would refuse the whole list.
    """
    node = hub.fleet.nodes.get(caller.node or "")
    return caller.sees(manifest.tenant) and (node is None or node.recipes >= rows_level(manifest.provenance))


@router.post("/suites")
async def register_suite(body: SuiteManifest, hub: ThisHub, caller: ReleaserOfEach, accept: Reason = "") -> Registered:
    """Registers held-out items to score candidates on. Their files must be here already; every item is scanned.

    `accept`: why they are registered although personal data or secrets were found in them.
    """
    await _require_files(hub, caller, body)
    await hub.gates.check_selection(body)
    await hub.datasets.register_suite(body, caller.actor, accept=accept)
    return Registered(digest=body.digest)


@router.get("/suites")
async def suites(hub: ThisHub, caller: ReaderOfEach) -> list[SuiteEntry]:
    """Lists all suites."""
    return [SuiteEntry(digest=d, manifest=m) for d, m in hub.catalogue.suites.items() if _reads(hub, caller, m)]


# ---- adapter versions ------------------------------------------------------------------------------------


@router.post("/adapters/{tenant}/{name}/versions")
async def register_adapter(
    tenant: Name, name: Name, body: AdapterManifest, hub: ThisHub, caller: Maker
) -> AdapterVersion:
    """Registers the next version of an adapter, and the release that serves it. Its files must be here already."""
    if (body.tenant, body.name) != (tenant, name):
        raise Refused(
            "manifest_mismatch",
            "the manifest is of another adapter than the address",
            detail=f"address {tenant}/{name}, manifest {body.tenant}/{body.name}",
        )
    state = hub.log.state.tenant(tenant)
    if state.offboarded:
        raise Refused("offboarded", f"{tenant} is offboarded")
    _only_own_job(hub, caller, body)
    _check_parts(hub, body)
    known = hub.catalogue.adapters.get(body.digest)
    if known is None:
        hub.lineage.check_use(tenant, body.base)
        hub.datasets.check_descent(body.datasets, base=body.base, parent=body.parent)
        quotas.check(state.quota, hub.catalogue.kept(tenant, hub.facts.deprecated), body)
        await asyncio.to_thread(_require_blobs, hub.blobs, body.files)
        async with hub.blobs.local(file.sha256 for file in body.files) as paths:
            await asyncio.to_thread(verify_blobs, paths, hub.blobs.scratch, body)
    release = Release(tenant=tenant, form=Form.ADAPTER, base=body.base, adapter=body.digest)
    async with hub.registry.one_more:
        if body.digest not in hub.catalogue.adapters:  # others may have been registered since the first look
            quotas.check(hub.log.state.tenant(tenant).quota, hub.catalogue.kept(tenant, hub.facts.deprecated), body)
        return await hub.registry.register_adapter(body, release, caller.node or caller.actor)


def _only_own_job(hub: Hub, caller: Caller, manifest: AdapterManifest) -> None:
    """An agent registers what a train job on its node has made, and nothing else."""
    if caller.role is not Role.AGENT:
        return
    own = (job.spec for job in hub.jobs.newest() if job.node == caller.node and job.ended_ms is None)
    made = {(spec.tenant, spec.name, spec.base) for spec in own if isinstance(spec, TrainSpec)}
    if (manifest.tenant, manifest.name, manifest.base) in made:
        return
    raise Refused(
        "forbidden",
        "an agent registers only what a job on its node has made",
        detail=f"{caller.node}: {manifest.tenant}/{manifest.name}",
        fix="a releaser may register it",
    )


def _check_parts(hub: Hub, manifest: AdapterManifest) -> None:
    hub.catalogue.check_base(manifest.base)
    for dataset in manifest.datasets:
        hub.catalogue.dataset(manifest.tenant, dataset)
    if manifest.parent is not None:
        parent = hub.catalogue.adapter(manifest.tenant, manifest.parent)
        if parent.manifest.base != manifest.base:
            raise Refused(
                "wrong_base",
                "the parent was trained on another base",
                detail=f"{parent.manifest.base}, not {manifest.base}",
            )


async def _require_files(hub: Hub, caller: Caller, manifest: DatasetManifest | SuiteManifest) -> None:
    """Checks that a tenant's files are here, and that the caller may register them."""
    caller.at(manifest.tenant)
    hub.log.state.tenant(manifest.tenant)
    await asyncio.to_thread(_require_blobs, hub.blobs, manifest.files)


def _require_blobs(blobs: Blobs, files: tuple[FileEntry, ...]) -> None:
    """Raises: Refused `unknown_blob` or `manifest_mismatch`."""
    for entry in files:
        size = None
        with unless_unknown():
            size = blobs.size(entry.sha256)
        if size is None:
            raise Refused(
                "unknown_blob",
                "a file of the manifest is not here",
                detail=f"{entry.path}: {entry.sha256}",
                fix=f"PUT /v1/blobs/{entry.sha256} first",
            )
        if size != entry.size:
            raise Refused(
                "manifest_mismatch",
                "a file's size is not the manifest's",
                detail=f"{entry.path}: {size} bytes, the manifest says {entry.size}",
            )


@router.get("/adapters")
async def adapters(hub: ThisHub, caller: ViewerOfEach, tenant: str | None = None) -> list[AdapterVersion]:
    """Every adapter version, or all of one tenant, in the order they were registered."""
    if tenant is not None:
        caller.at(tenant)
        hub.log.state.tenant(tenant)
    versions = (v for v in hub.catalogue.adapters.values() if tenant in (None, v.manifest.tenant))
    return [v for v in versions if caller.sees(v.manifest.tenant)]


@router.get("/adapters/{tenant}/{name}/versions")
async def versions(tenant: str, name: str, hub: ThisHub, caller: Reader) -> list[AdapterVersion]:
    """The versions of an adapter, oldest first."""
    hub.log.state.tenant(tenant)
    of_name = [v for v in hub.catalogue.adapters.values() if (v.manifest.tenant, v.manifest.name) == (tenant, name)]
    return sorted(of_name, key=lambda v: v.version)


# ---- releases --------------------------------------------------------------------------------------------


@router.get("/releases")
async def releases(hub: ThisHub, caller: ViewerOfEach, tenant: str | None = None) -> list[ReleaseView]:
    """The registered releases of all tenants, or all that one tenant has, base alone on every base that it may use
    included.
    """
    if tenant is None:
        seen = [(release_id, r) for release_id, r in hub.catalogue.releases.items() if caller.sees(r.tenant)]
        return [hub.catalogue.view(release_id, r.tenant) for release_id, r in seen]
    caller.at(tenant)
    hub.log.state.tenant(tenant)
    ids = [release_id for release_id, r in hub.catalogue.releases.items() if r.tenant == tenant]
    implied = [hub.catalogue.base_alone_id(tenant, base) for base in hub.seen.bases(caller)]
    return [hub.catalogue.view(release_id, tenant) for release_id in dict.fromkeys(ids + implied)]


@router.post("/releases")
async def register_merged(body: MergedRelease, hub: ThisHub, caller: ReleaserOfEach) -> ReleaseView:
    """Registers merged weights as a release. Registering them once more gives the same release."""
    caller.at(body.tenant)
    release = await hub.merging.register(body, caller.actor)
    return hub.catalogue.view(release.id, body.tenant)


@router.get("/releases/{release}")
async def release(release: str, hub: ThisHub, caller: ReaderOfEach) -> ReleaseDetail:
    """A release, and the manifest of its adapter."""
    found = hub.catalogue.release(release, tenants=hub.log.state.tenants)
    if found is None or not caller.sees(found.tenant):
        raise Refused("unknown_release", "there is no such release", detail=release, fix="loradeck release ls")
    version = hub.catalogue.version_of(found)
    return ReleaseDetail(release=found, manifest=version.manifest if version else None)


# ---- erasures --------------------------------------------------------------------------------------------


@router.post("/erasures")
async def erase(body: ErasureRequest, hub: ThisHub, caller: Releaser) -> ErasurePlan:
    """Erases rows. A dry run answers with a plan; executing sends its rows and digest back."""
    if body.dry_run:
        return await hub.erasures.plan(body)
    return await hub.erasures.carry_out(body, caller.actor)
