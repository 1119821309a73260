"""Erasing rows: what descends from them is listed first, then blocked, and retired where that was asked for.

What is stated of a dataset is kept for ever; the text that somebody searched for is not kept at all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from loradeck.hub.data import datasets
from loradeck.hub.jobs.queue import OVER
from loradeck.rules.data.descent import Descent, descent
from loradeck.rules.errors import Refused
from loradeck.rules.moves.target import PointerFacts, rollback_target
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.dataset_ledger import Erasure, ErasurePlan, ErasurePointer, ErasureRequest, Named, Place
from loradeck.schemas.ids import digest_of, short
from loradeck.schemas.jobs import Job, TrainSpec
from loradeck.schemas.log import PointerState
from loradeck.schemas.manifest import DatasetManifest, SuiteManifest

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub

JOBS = 1_000_000
"""Jobs that are looked through: all."""


async def plan(hub: Hub, request: ErasureRequest) -> ErasurePlan:
    """What an erasure would do. Changes nothing.

    Raises:
        Refused: `invalid_request`, `unknown_tenant`; BadArtifact `bad_rows`.
    """
    places, unread = await _search(hub, request)
    return await _plan(hub, request, places, unread)


async def carry_out(hub: Hub, request: ErasureRequest, by: str) -> ErasurePlan:
    """Erase as planned. The same plan again changes nothing and is answered as done.

    Raises:
        Refused: `plan_required`, `reason_required`; `plan_changed`, it would do something else by now;
            `unknown_row`, there is no such row. Nothing was changed.
    """
    if request.plan is None or not request.rows or request.containing is not None:
        raise Refused(
            "plan_required",
            "an erasure sends back the rows and the digest of the plan it carries out",
            detail="rows, plan",
            fix="ask for the plan first (dry_run), and look at it",
        )
    if not request.reason:
        raise Refused("reason_required", "an erasure says why", detail="reason", fix="name the request it answers")
    places, unread = await _search(hub, request)
    async with hub.moving:  # no pointer moves between the plan and what follows from it
        stated = [erasure for dataset in {p.dataset for p in places} for erasure in await _erasures(hub, dataset)]
        found = await _plan(hub, request, places, unread)
        if any(erasure.request == request.plan for erasure in stated):
            return found.model_copy(update={"done": True, "digest": request.plan})
        if not found.rows:
            fix = "loradeck dataset erase --containing TEXT --dry-run lists rows and their digests"
            raise Refused("unknown_row", "no dataset has such a row", fix=fix)
        if found.digest != request.plan:
            raise Refused(
                "plan_changed",
                "the erasure would do something else by now",
                detail=f"plan {short(request.plan)}, now {short(found.digest)}",
                fix="look at the plan again",
                context={"plan": found.model_dump(mode="json")},
            )
        await hub.attest_all(_statements(hub, found, request, by))
    for job in found.cancelled:
        await hub.queue.cancel(job, by)
    return found.model_copy(update={"done": True})


async def _search(hub: Hub, request: ErasureRequest) -> tuple[list[Place], list[Named]]:
    """Where the rows stand, and which datasets could not be read."""
    if not request.rows and request.containing is None:
        raise Refused("invalid_request", "which rows?", detail="rows, containing", fix="send one of them")
    for tenant in request.tenants:
        hub.tenant(tenant)
    here: list[DatasetManifest | SuiteManifest] = []
    unread = []
    known: dict[str, DatasetManifest | SuiteManifest] = {**hub.catalogue.datasets, **hub.catalogue.suites}
    for digest, manifest in sorted(known.items()):
        if request.tenants and manifest.tenant not in request.tenants:
            continue
        if all(hub.blobs.has(file.sha256) for file in manifest.files):
            here.append(manifest)
        else:
            unread.append(Named(id=digest, label=datasets.called(manifest)))
    return await datasets.find(hub, here, request.rows, request.containing), unread


async def _plan(hub: Hub, request: ErasureRequest, places: list[Place], unread: list[Named]) -> ErasurePlan:
    catalogue = hub.catalogue
    items = [place for place in places if place.dataset not in catalogue.datasets]
    places = [place for place in places if place.dataset in catalogue.datasets]
    holding = {place.dataset for place in places}
    found = descent(holding, adapters=catalogue.adapters.values(), releases=catalogue.releases, ledger=hub.facts.ledger)
    runs = [(job, spec) for job, spec in await _train_jobs(hub) if _descends(spec, found)]
    tenants = {catalogue.datasets[dataset].tenant for dataset in found.datasets}
    tenants |= {catalogue.releases[release].tenant for release in found.releases}
    body = {
        "rows": sorted({place.row for place in places}),
        "places": [place.model_dump() for place in places],
        "datasets": [_dataset(hub, digest) for digest in sorted(holding)],
        "written": [_dataset(hub, digest) for digest in sorted(found.datasets - holding)],
        "items": [
            {"id": place.dataset, "label": f"{datasets.called(catalogue.suites[place.dataset])}: {place.where}"}
            for place in items
        ],
        "unread": [one.model_dump() for one in unread],
        "runs": [{"id": job.id, "label": f"{spec.tenant}/{spec.name}"} for job, spec in runs],
        "cancelled": [job.id for job, _ in runs if job.state not in OVER],
        "adapters": [
            {"id": v.digest, "label": f"{v.manifest.tenant}/{v.manifest.name} v{v.version}"}
            for digest, v in sorted(catalogue.adapters.items())
            if digest in found.adapters
        ],
        "releases": [
            {"id": release, "label": f"{catalogue.releases[release].tenant} {hub.called(release)}"}
            for release in sorted(found.releases)
        ],
        "tenants": sorted(tenants),
        "pointers": [p.model_dump(mode="json") for p in _pointers(hub, found, request.retire)],
        "retire": request.retire,
    }
    return ErasurePlan.model_validate({**body, "digest": digest_of(body)})


def _descends(spec: TrainSpec, found: Descent) -> bool:
    return spec.parent in found.adapters or not found.datasets.isdisjoint(spec.datasets)


async def _train_jobs(hub: Hub) -> list[tuple[Job, TrainSpec]]:
    """All there ever were, by id; what is in memory is newer."""
    jobs = {job.id: job for job in await hub.store(lambda s: s.jobs(limit=JOBS))}
    jobs.update({job.id: job for job in hub.queue.all()})
    return [(job, job.spec) for _, job in sorted(jobs.items()) if isinstance(job.spec, TrainSpec)]


def _dataset(hub: Hub, digest: str) -> dict[str, str]:
    return {"id": digest, "label": datasets.called(hub.catalogue.datasets[digest])}


def _pointers(hub: Hub, found: Descent, retire: bool) -> list[ErasurePointer]:
    """Those that serve a release which descends, or could go back to one."""
    result = []
    for key, pointer in sorted(hub.ledger.pointers.items()):
        if found.releases.isdisjoint((pointer.release, *pointer.beneath)):
            continue
        facts = hub.facts.of(key)
        after = replace(facts, revoked={**facts.revoked, **dict.fromkeys(found.releases, "")}) if retire else facts
        result.append(
            ErasurePointer(
                tenant=key[0],
                route=key[1],
                generation=pointer.generation,
                live=hub.called(pointer.release) if pointer.release in found.releases else None,
                way_back=_way_back(hub, pointer, facts),
                way_back_after=_way_back(hub, pointer, after),
            )
        )
    return result


def _way_back(hub: Hub, pointer: PointerState, facts: PointerFacts) -> str | None:
    target = rollback_target(pointer, facts, fallback_allowed=True, live_is_base=False, pending_prepare=None)
    return hub.called(target.release) if target.release is not None else None


async def _erasures(hub: Hub, dataset: str) -> list[Erasure]:
    kind = AttestationKind.ERASURE
    return [
        Erasure.model_validate(a.body) for a in await hub.store(lambda s: s.attestations(kind=kind, subject=dataset))
    ]


def _statements(hub: Hub, found: ErasurePlan, request: ErasureRequest, by: str) -> list[Attestation]:
    """One erasure a dataset, and one revocation a release that is retired."""
    catalogue = hub.catalogue

    def stated(kind: AttestationKind, subject: str, tenant: str, body: dict[str, Any]) -> Attestation:
        return Attestation(kind=kind, subject=subject, tenant=tenant, body=body, by=by, at_ms=hub.now_ms())

    statements = []
    for dataset in found.datasets:
        rows = tuple(sorted({place.row for place in found.places if place.dataset == dataset.id}))
        erasure = Erasure(rows=rows, retired=request.retire, reason=request.reason, request=found.digest)
        tenant = catalogue.datasets[dataset.id].tenant
        statements.append(stated(AttestationKind.ERASURE, dataset.id, tenant, erasure.model_dump(mode="json")))
    if request.retire:
        why = {"reason": f"descends from erased rows: {request.reason}"}
        statements += [
            stated(AttestationKind.REVOCATION, release.id, catalogue.releases[release.id].tenant, why)
            for release in found.releases
        ]
    return statements
