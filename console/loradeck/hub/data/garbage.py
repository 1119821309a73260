"""Garbage collection: removes files of the hub that nothing can go back to, and those of datasets with erased rows.

Roots are `rules.serving.retention.roots`. A release that an engine lists or runs stays, one that was registered lately
stays, and only files of what is collected go: a file that another document names, or that no document names, is never
touched. Of whole weights the release is revoked, and the nodes remove the files.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from loradeck.artifacts import Blobs
from loradeck.artifacts.blobs.keyed import KeyedBlobs
from loradeck.hub.data.datasets import called
from loradeck.hub.data.erasure_list import ErasureList
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.attestations import Attestations
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.progress.target_lookup import Prepares
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.data.lineage import is_base_alone
from loradeck.rules.errors import Refused, plan_changed
from loradeck.rules.serving import retention
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.dataset_ledger import CollectPlan, CollectRequest
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import OVER, EvaluateSpec, Job, JudgeSpec, LeakSpec, TrainSpec
from loradeck.schemas.log import Event, PointerState
from loradeck.schemas.manifest import Form, Release
from loradeck.store.sql_log import Store

PIECE = 100
"""Pointers whose earlier events are read at a time."""

COLLECTED = "collected: its files are gone from the hub"
"""Why a release whose files are collected is revoked."""

ARRIVED_DAYS = 7
"""Days for which rows wait for their registration."""

log = logging.getLogger("loradeck.hub.data.garbage")

Before = dict[str, PointerState | None]


@dataclass(eq=False, kw_only=True)
class Garbage:
    """Plans which files are removed, and removes them. `jobs` gives the unfinished jobs, among others."""

    log: Log
    store: StoreThread
    catalogue: Catalogue
    attestations: Attestations
    fleet: Fleet
    prepares: Prepares
    blobs: Blobs
    clock: Clock
    jobs: Callable[[], Sequence[Job]]
    erasure_list: ErasureList
    _gone: set[str] = field(default_factory=set)
    """Files with erased rows that this process has removed."""
    _destroyed: set[str] = field(default_factory=set)
    """Datasets and tenants whose keys this process has destroyed."""

    async def plan(self, request: CollectRequest) -> CollectPlan:
        """Lists everything that a collection would remove. Changes nothing."""
        return self._plan(request, await self._before(), await asyncio.to_thread(self.blobs.listed))

    async def carry_out(self, request: CollectRequest, by: str) -> CollectPlan:
        """Collects as planned: releases are revoked first, so that nothing goes back to one whose files are gone.

        Raises: Refused: `plan_required`, `plan_changed`; `node_unheard`, nobody knows what engines of a node list.
        Nothing was changed.
        """
        if request.plan is None:
            raise Refused(
                "plan_required", "a collection sends back the digest of its plan", fix="ask for the plan first"
            )
        known = await self._before()  # the most of it before moves have to wait
        here = await asyncio.to_thread(self.blobs.listed)
        async with self.log.moving:
            found = self._plan(request, await self._before(known), here)
            if found.unheard:
                raise Refused(
                    "node_unheard",
                    "what the engines of some nodes list is not known",
                    detail=", ".join(found.unheard),
                    fix="bring them back, or drain those that are gone for good",
                )
            if found.digest != request.plan:
                raise plan_changed("other files would go by now", found)
            kind, why, draft = AttestationKind.REVOCATION, {"reason": COLLECTED}, self.attestations.draft
            revoked = [
                draft(kind, release.id, self.catalogue.releases[release.id].tenant, why, by)
                for release in found.releases
                if release.id not in self.attestations.facts.revoked
            ]
            if revoked:
                await self.attestations.add_all(revoked)
            files = self._files({a.id for a in found.adapters}, {d.id for d in found.datasets})
        await asyncio.to_thread(self.blobs.delete, files & here.keys())
        return found.model_copy(update={"done": True})

    async def drop_erased(self, *, stated: bool = False) -> None:
        """Destroys the keys of datasets with erased rows and of offboarded tenants, and removes the files with erased
        rows that nothing else names.

        `stated`: an erasure was stated since the last call.
        """
        erased = set(self.attestations.facts.erased)
        offboarded = {name for name, tenant in self.log.state.tenants.items() if tenant.offboarded}
        new = (erased | offboarded) - self._destroyed
        if stated or new:
            await self.erasure_list.agree()  # first: a restored log lacks them
        if new:
            await asyncio.to_thread(self.blobs.destroy, erased & new, offboarded & new)
            self._destroyed |= new
        if files := self._files(set(), erased) - self._gone:
            await asyncio.to_thread(self.blobs.delete, files)
            self._gone |= files

    async def drop_arrived(self) -> None:
        """Removes rows that nobody has registered within a week: no erasure would look for them."""
        if isinstance(self.blobs, KeyedBlobs):
            before_s = (self.clock.now_ms() - ARRIVED_DAYS * DAY_MS) / 1000
            gone = await asyncio.to_thread(self.blobs.drop_arrived, before_s, self.catalogue.rows_in)
            if gone:
                log.info("%d files of rows were removed that nobody has registered in %d days", gone, ARRIVED_DAYS)

    async def _before(self, known: Before | None = None) -> Before:
        """Event id of each pointer's last move -> the pointer before it: where undo returns to.

        It is read in pieces, behind every move that comes meanwhile. Of pointers that are in `known`, only those that
        have moved since are read again.
        """
        known = known or {}
        lasts = [
            last for pointer in self.log.state.pointers.values() if (last := self.log.last_move(pointer)) is not None
        ]
        found = {last.id: known[last.id] for last in lasts if last.id in known}
        missing = [last for last in lasts if last.id not in found]
        for at in range(0, len(missing), PIECE):
            found |= await self.store(partial(_earlier, missing[at : at + PIECE]), background=True)
        return found

    def _plan(self, request: CollectRequest, before: Before, here: Mapping[str, int]) -> CollectPlan:
        catalogue, pointers = self.catalogue, list(self.log.state.pointers.values())
        since = self.clock.now_ms() - request.older_than_days * DAY_MS
        recent = {r for r, release in catalogue.releases.items() if self._made_ms(release) > since}
        facts, config = self.attestations.facts, self.log.state.config
        anchors = {anchor for p in pointers if (anchor := facts.anchor(p.key, config(p.key).gate)) is not None}
        roots = retention.roots(
            pointers,
            {pointer.key: facts.of(pointer.key).attested for pointer in pointers},
            before=[pointer for pointer in before.values() if pointer is not None],
            also={*recent, *anchors, *self._in_use()},
        )
        replicas = [replica for node in self.fleet.nodes.values() for replica in node.replicas]
        made = self.attestations.facts.made
        ours = {r: release for r, release in catalogue.releases.items() if not is_base_alone(release, made)}
        weights = {r: release.served_base for r, release in ours.items() if release.form is not Form.ADAPTER}
        run, needed = {replica.base for replica in replicas}, self._bases_of(roots)
        listed = {release for replica in replicas for release in replica.loaded}
        listed |= {r for r, base in weights.items() if base in run or base in needed}
        free = retention.collectable(ours, roots, listed)
        releases_of: dict[str | None, list[str]] = defaultdict(list)
        for r, release in catalogue.releases.items():
            releases_of[release.adapter].append(r)
        adapters = {
            digest
            for digest, version in catalogue.adapters.items()
            if all(r in free for r in releases_of[digest])
            and any(file.sha256 in here for file in version.manifest.files)
        }
        erased = {
            digest
            for digest in self.attestations.facts.erased
            if digest in catalogue.datasets and any(f.sha256 in here for f in catalogue.datasets[digest].files)
        }
        going = {r for r in free if ours[r].adapter in adapters}
        going |= {r for r in free & weights.keys() if r not in self.attestations.facts.revoked}
        files = self._files(adapters, erased) & here.keys()
        body = {
            "adapters": [self._adapter(digest) for digest in sorted(adapters)],
            "datasets": [{"id": d, "label": called(catalogue.datasets[d])} for d in sorted(erased)],
            "releases": [self._release(release) for release in sorted(going)],
            "listed": [self._release(release) for release in sorted((ours.keys() - roots) & listed)],
            "roots": len(roots),
            "files": len(files),
            "size": sum(here[sha256] for sha256 in files),
            "unheard": sorted(
                n.name for n in self.fleet.nodes.values() if n.replicas and n.heard is None and not n.drained
            ),
        }
        return CollectPlan.model_validate({**body, "digest": digest_of(body)})

    def _made_ms(self, release: Release) -> int:
        version = self.catalogue.version_of(release)
        made = self.attestations.facts.made_ms.get(release.served_base, 0)
        return max(version.created_ms if version is not None else 0, made)

    def _bases_of(self, roots: Collection[str]) -> set[str]:
        """The bases under releases that stay, and under training jobs that are not over."""
        found = {self.catalogue.releases[r].base for r in roots if r in self.catalogue.releases}
        jobs = (job.spec for job in self.jobs() if job.state not in OVER)
        return found | {spec.base for spec in jobs if isinstance(spec, TrainSpec)}

    def _in_use(self) -> set[str]:
        """The releases that a pin, a prepare or an unfinished job needs."""
        held = {pin.release.id for node in self.fleet.nodes.values() for pin in node.pins}
        held |= self.prepares.releases()
        for job in self.jobs():
            if job.state in OVER:
                continue
            if isinstance(job.spec, EvaluateSpec | LeakSpec):
                held.add(job.spec.release)
            elif isinstance(job.spec, GenerateSpec | JudgeSpec):
                held.update(job.spec.asked)
            elif isinstance(job.spec, TrainSpec) and job.spec.parent is not None:
                held.add(self.catalogue.adapters[job.spec.parent].release)
        return held

    def _files(self, adapters: set[str], erased: set[str]) -> set[str]:
        """The blobs of everything that goes, without those that something else names."""
        catalogue = self.catalogue
        going = {f.sha256 for d in adapters for f in catalogue.adapters[d].manifest.files}
        known = erased & catalogue.datasets.keys()  # others were registered after the backup that this hub began with
        going |= {f.sha256 for d in known for f in catalogue.datasets[d].files}
        staying = {f.sha256 for d, v in catalogue.adapters.items() if d not in adapters for f in v.manifest.files}
        staying |= {f.sha256 for d, m in catalogue.datasets.items() if d not in erased for f in m.files}
        staying |= {f.sha256 for suite in catalogue.suites.values() for f in suite.files}
        return going - staying

    def _adapter(self, digest: str) -> dict[str, str]:
        version = self.catalogue.adapters[digest]
        return {"id": digest, "label": f"{version.manifest.tenant}/{version.manifest.name} v{version.version}"}

    def _release(self, release: str) -> dict[str, str]:
        return {"id": release, "label": f"{self.catalogue.releases[release].tenant} {self.catalogue.called(release)}"}


def _earlier(moves: Sequence[Event], store: Store) -> Before:
    return {move.id: _pointer_before(store, move) for move in moves}


def _pointer_before(store: Store, move: Event) -> PointerState | None:
    """The pointer before a move; None where that was its first."""
    before_rev = move.rev
    while page := store.history(tenant=move.tenant, route=move.route, before_rev=before_rev, limit=5):
        for event in page:
            if event.pointer is not None:
                return event.pointer
        before_rev = page[-1].rev
    return None
