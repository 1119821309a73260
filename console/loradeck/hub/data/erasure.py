"""Erasure of rows: everything that descends from them is listed first, then blocked, and retired on request.

Attestations about a dataset are kept for ever; the text that somebody searched for is not kept at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from loradeck.artifacts import Blobs
from loradeck.hub.data.datasets import Datasets, called
from loradeck.hub.data.erasure_list import RETIRED
from loradeck.hub.data.lineage import Lineage
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.log import Log
from loradeck.rules.data.lineage import Descent
from loradeck.rules.errors import Refused, plan_changed
from loradeck.rules.moves.rollback_target import PointerFacts, rollback_target
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.dataset_ledger import (
    Erasure,
    ErasurePlan,
    ErasurePointer,
    ErasureRequest,
    Named,
    Place,
    WeightsPlace,
)
from loradeck.schemas.ids import digest_of, short
from loradeck.schemas.jobs import OVER, Job, TrainSpec
from loradeck.schemas.log import PointerState
from loradeck.schemas.manifest import DatasetManifest, Form, Release, SuiteManifest


@dataclass(eq=False, kw_only=True)
class Erasures:
    """Plans erasures and carries them out.

    `jobs` gives all jobs there ever were; `cancel` cancels the job with an id in the name of a person; `drop_erased`
    removes the files of datasets with erased rows.
    """

    log: Log
    catalogue: Catalogue
    attestations: Attestations
    datasets: Datasets
    lineage: Lineage
    blobs: Blobs
    fleet: Fleet
    jobs: Callable[[], Awaitable[list[Job]]]
    cancel: Callable[[str, str], Awaitable[Job]]
    drop_erased: Callable[..., Awaitable[None]]

    async def plan(self, request: ErasureRequest) -> ErasurePlan:
        """Lists everything that an erasure would do. Changes nothing.

        Raises: Refused: `invalid_request`, `unknown_tenant`; BadArtifact `bad_rows`.
        """
        return await self._plan(request, await self._search(request))

    async def carry_out(self, request: ErasureRequest, by: str) -> ErasurePlan:
        """Erases as planned. A plan that was carried out before changes nothing and is answered as done.

        Raises: Refused: `plan_required`, `reason_required`; `plan_changed`, it would do something else by now;
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
        search = await self._search(request)
        async with self.log.moving:  # no pointer moves between the plan and what follows from it
            datasets = {place.dataset for place in search.own}
            stated = [erasure for dataset in datasets for erasure in await self._erasures(dataset)]
            found = await self._plan(request, search)
            if all(erasure.request != request.plan for erasure in stated):
                if not found.rows:
                    fix = "loradeck dataset erase --containing TEXT --dry-run lists rows and their digests"
                    raise Refused("unknown_row", "no dataset has such a row", fix=fix)
                if found.digest != request.plan:
                    detail = f"plan {short(request.plan)}, now {short(found.digest)}"
                    raise plan_changed("the erasure would do something else by now", found, detail)
                await self.attestations.add_all(self._statements(found, search.others, request, by))
        for job in found.cancelled:
            await self.cancel(job, by)
        await self.drop_erased(stated=True)
        return found.model_copy(update={"done": True, "digest": request.plan})

    async def _search(self, request: ErasureRequest) -> _Search:
        """Looks for the rows in datasets at every tenant, and in suites of those that are selected."""
        if not request.rows and request.containing is None:
            raise Refused("invalid_request", "which rows?", detail="rows, containing", fix="send one of them")
        for tenant in request.tenants:
            self.log.state.tenant(tenant)
        files = await asyncio.to_thread(self.blobs.listed)
        here: list[DatasetManifest | SuiteManifest] = []
        unread = []
        known: dict[str, DatasetManifest | SuiteManifest] = {**self.catalogue.datasets, **self.catalogue.suites}
        for digest, manifest in sorted(known.items()):
            if request.tenants and manifest.tenant not in request.tenants and digest in self.catalogue.suites:
                continue
            if all(file.sha256 in files for file in manifest.files):
                here.append(manifest)
            else:
                unread.append(Named(id=digest, label=called(manifest)))
        erased = self.attestations.facts.erased
        places = await self.datasets.find(here, request.rows, request.containing)
        places += [
            Place(dataset=one.id, where="erased", row=row)
            for one in unread
            for row in sorted(erased.get(one.id, set()).intersection(request.rows))
        ]
        if request.near:
            places = [place.model_copy(update={"alike": False}) for place in places]
        selected = [p for p in places if not request.tenants or known[p.dataset].tenant in request.tenants]
        own, alike = ([p for p in selected if p.alike is said] for said in (False, True))
        rows = {place.row for place in own if place.dataset in self.catalogue.datasets}
        rest = set(places).difference(selected)
        rest = {place for place in rest if place.dataset in self.catalogue.datasets and not place.alike}
        others = [place for place in places if place in rest and place.row in rows]
        return _Search(own, others, unread, tuple(alike))

    async def _plan(self, request: ErasureRequest, search: _Search) -> ErasurePlan:
        catalogue = self.catalogue
        items = [place for place in search.own if place.dataset not in catalogue.datasets]
        places = [place for place in search.own if place.dataset in catalogue.datasets]
        holding = {place.dataset for place in places}
        found, releases = self.lineage.descent(holding), self.lineage.releases()
        runs = [
            (job, spec)
            for job in await self.jobs()
            if isinstance(spec := job.spec, TrainSpec) and _descends(spec, found)
        ]
        tenants = {catalogue.datasets[dataset].tenant for dataset in found.datasets}
        tenants |= {releases[release].tenant for release in found.releases}
        body = {
            "rows": sorted({place.row for place in places}),
            "places": [place.model_dump() for place in places],
            "datasets": [self._dataset(digest) for digest in sorted(holding)],
            "written": [self._dataset(digest) for digest in sorted(found.datasets - holding)],
            "elsewhere": [
                {"id": place.dataset, "label": f"{called(catalogue.datasets[place.dataset])}: {place.where}"}
                for place in search.others
            ],
            "unread": [one.model_dump() for one in search.unread],
            "runs": [{"id": job.id, "label": f"{spec.tenant}/{spec.name}"} for job, spec in runs],
            "cancelled": [job.id for job, _ in runs if job.state not in OVER],
            "bases": [{"id": base, "label": catalogue.base_label(base)} for base in sorted(found.bases)],
            "adapters": [
                {"id": v.digest, "label": f"{v.manifest.tenant}/{v.manifest.name} v{v.version}"}
                for digest, v in sorted(catalogue.adapters.items())
                if digest in found.adapters
            ],
            "releases": [
                {"id": release, "label": f"{releases[release].tenant} {self._called(releases[release])}"}
                for release in sorted(found.releases)
            ],
            "tenants": sorted(tenants),
            "pointers": [p.model_dump(mode="json") for p in self._pointers(found, request.retire)],
            "retire": request.retire,
        }
        weights = await self._weights(found)
        # Carried out by rows, a search finds no items that hold the text alone, or are alike alone: they stay anyway.
        labels = ((place, called(catalogue.suites[place.dataset])) for place in items)
        named = [{"id": place.dataset, "label": f"{suite}: {place.where}"} for place, suite in labels]
        beside = {"weights": weights, "alike": search.alike, "items": named}
        return ErasurePlan.model_validate({**body, **beside, "digest": digest_of(body)})

    async def _weights(self, found: Descent) -> list[WeightsPlace]:
        """The nodes that hold weights which descend.

        Merged weights of a node that was not heard since the hub started are known by the job that made them there. Of
        a base that was trained in full only its job is known.
        """
        made, jobs = self.attestations.facts.made, await self.jobs() if found.bases else []
        ran = {job.id: job.node for job in jobs}
        places = []
        for base in sorted(found.bases):
            label, makers = self.catalogue.base_label(base), {ran.get(o.job): o for o in made.get(base, ())}
            for name, node in sorted(self.fleet.nodes.items()):
                maker = makers.get(name)
                trained = maker is not None and maker.adapter is None
                managed = base in node.stored or (maker is not None and not trained and node.heard is None)
                if managed or trained or any(replica.base == base for replica in node.replicas):
                    place = WeightsPlace(base=base, label=label, node=name, linked=node.linked, managed=managed)
                    places.append(place)
        return places

    def _dataset(self, digest: str) -> dict[str, str]:
        return {"id": digest, "label": called(self.catalogue.datasets[digest])}

    def _called(self, release: Release) -> str:
        """A release as people name it. Base alone is named with its base."""
        called = self.catalogue.called(release.id)
        return called if release.form is not Form.BASE else f"base {self.catalogue.base_label(release.base)}"

    def _pointers(self, found: Descent, retire: bool) -> list[ErasurePointer]:
        """The pointers that serve a release which descends, or could go back to one."""
        result = []
        for key, pointer in sorted(self.log.state.pointers.items()):
            candidate = pointer.candidate.release if pointer.candidate is not None else None
            if found.releases.isdisjoint((pointer.release, candidate, *pointer.beneath)):
                continue
            served = next((r for r in (pointer.release, candidate) if r in found.releases), None)
            facts = self.attestations.facts.of(key)
            after = replace(facts, revoked={**facts.revoked, **dict.fromkeys(found.releases, "")}) if retire else facts
            result.append(
                ErasurePointer(
                    tenant=key[0],
                    route=key[1],
                    generation=pointer.generation,
                    live=self.catalogue.called(served) if served is not None else None,
                    way_back=self._way_back(pointer, facts),
                    way_back_after=self._way_back(pointer, after),
                )
            )
        return result

    def _way_back(self, pointer: PointerState, facts: PointerFacts) -> str | None:
        target = rollback_target(pointer, facts, fallback_allowed=True, live_is_base=False, pending_prepare=None)
        return self.catalogue.called(target.release) if target.release is not None else None

    async def _erasures(self, dataset: str) -> list[Erasure]:
        found = await self.attestations.find(kind=AttestationKind.ERASURE, subject=dataset)
        return [Erasure.model_validate(attestation.body) for attestation in found]

    def _statements(
        self, found: ErasurePlan, others: list[Place], request: ErasureRequest, by: str
    ) -> list[Attestation]:
        """Drafts a statement for each dataset, other tenants' too, and a revocation for each retired release."""
        catalogue, releases, draft = self.catalogue, self.lineage.releases(), self.attestations.draft
        statements = []
        for kind, places, retired in (
            (AttestationKind.ERASURE, found.places, request.retire),
            (AttestationKind.ERASED_ELSEWHERE, others, False),
        ):
            for dataset in sorted({place.dataset for place in places}):
                rows = tuple(sorted({place.row for place in places if place.dataset == dataset}))
                erasure = Erasure(rows=rows, retired=retired, reason=request.reason, request=found.digest)
                statements.append(draft(kind, dataset, catalogue.datasets[dataset].tenant, erasure, by))
        if request.retire:
            why = {"reason": f"{RETIRED}: {request.reason}"}
            statements += [
                draft(AttestationKind.REVOCATION, release.id, releases[release.id].tenant, why, by)
                for release in found.releases
            ]
            # Nodes remove weights of revoked bases; those of a base that nobody registered have no release.
            statements += [
                draft(AttestationKind.REVOCATION, base.id, owner, why, by)
                for base in found.bases
                for owner in sorted(self.lineage.makers(base.id))[:1]
            ]
        return statements


@dataclass(frozen=True)
class _Search:
    """Where rows were found: at the tenants that a request selects, and the same rows in datasets of others.

    `unread`: datasets and suites that could not be searched, because their files are gone. `alike`: rows of the
    selected tenants that are nearly the same as a found one.
    """

    own: list[Place]
    others: list[Place]
    unread: list[Named]
    alike: tuple[Place, ...]


def _descends(spec: TrainSpec, found: Descent) -> bool:
    return spec.parent in found.adapters or spec.base in found.bases or not found.datasets.isdisjoint(spec.datasets)
