"""Collection: files of the hub that nothing can go back to any more, and those of datasets with erased rows.

Roots are `rules.retention.roots`. What an engine lists stays, what was registered lately stays, and only files of what
is collected go: a file that any other document names, or that no document names, is never touched.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from loradeck.hub.data import datasets
from loradeck.hub.jobs.queue import OVER
from loradeck.rules.data.policy import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.rules.serving import retention
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.dataset_ledger import CollectPlan, CollectRequest
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import EvaluateSpec, TrainSpec
from loradeck.schemas.log import Event, PointerState
from loradeck.schemas.release import Form
from loradeck.store.interface import Store

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub

PIECE = 100
"""Pointers whose earlier events are read at a time."""

Before = dict[str, PointerState | None]


async def plan(hub: Hub, request: CollectRequest) -> CollectPlan:
    """What would go. Changes nothing."""
    return _plan(hub, request, await _before(hub))


async def carry_out(hub: Hub, request: CollectRequest, by: str) -> CollectPlan:
    """Collect as planned: releases are revoked first, so that nothing goes back to one whose files are gone.

    Raises:
        Refused: `plan_required`, `plan_changed`; `node_unheard`, nobody knows what engines of a node list. Nothing
            was changed.
    """
    if request.plan is None:
        raise Refused("plan_required", "a collection sends back the digest of its plan", fix="ask for the plan first")
    known = await _before(hub)  # the most of it before moves have to wait
    async with hub.moving:
        found = _plan(hub, request, await _before(hub, known))
        if found.unheard:
            raise Refused(
                "node_unheard",
                "what the engines of some nodes list is not known",
                detail=", ".join(found.unheard),
                fix="bring them back, or drain those that are gone for good",
            )
        if found.digest != request.plan:
            raise Refused(
                "plan_changed",
                "other files would go by now",
                fix="look at the plan again",
                context={"plan": found.model_dump(mode="json")},
            )
        revoked = [
            Attestation(
                kind=AttestationKind.REVOCATION,
                subject=release.id,
                tenant=hub.catalogue.releases[release.id].tenant,
                body={"reason": "collected: its files are gone from the hub"},
                by=by,
                at_ms=hub.now_ms(),
            )
            for release in found.releases
            if release.id not in hub.facts.revoked
        ]
        if revoked:
            await hub.attest_all(revoked)
        files = _files(hub, {a.id for a in found.adapters}, {d.id for d in found.datasets})
    await asyncio.to_thread(_remove, [hub.blobs.path(sha256) for sha256 in files])
    return found.model_copy(update={"done": True})


async def _before(hub: Hub, known: Before | None = None) -> Before:
    """Each pointer as it was before its last move, by the id of that: where undo returns to.

    Read in pieces, behind every move that comes meanwhile. `known`: what was read already; only pointers that have
    moved since are read again.
    """
    known = known or {}
    lasts = [last for pointer in hub.ledger.pointers.values() if (last := hub.last_move(pointer)) is not None]
    found = {last.id: known[last.id] for last in lasts if last.id in known}
    missing = [last for last in lasts if last.id not in found]
    for at in range(0, len(missing), PIECE):
        found |= await hub.store(partial(_earlier, missing[at : at + PIECE]), background=True)
    return found


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


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _plan(hub: Hub, request: CollectRequest, before: Before) -> CollectPlan:
    catalogue, pointers = hub.catalogue, list(hub.ledger.pointers.values())
    since = hub.now_ms() - request.older_than_days * DAY_MS
    recent = {r for r, release in catalogue.releases.items() if _made_ms(hub, release.adapter) > since}
    roots = retention.roots(
        pointers,
        {pointer.key: hub.facts.of(pointer.key).attested for pointer in pointers},
        before=[pointer for pointer in before.values() if pointer is not None],
        also={*recent, *_in_use(hub)},
    )
    listed = {release for node in hub.fleet.nodes.values() for r in node.replicas for release in r.loaded}
    of_adapters = {r for r, release in catalogue.releases.items() if release.form is not Form.BASE}
    free = retention.collectable(of_adapters, roots, listed)
    releases_of: dict[str | None, list[str]] = defaultdict(list)
    for r, release in catalogue.releases.items():
        releases_of[release.adapter].append(r)
    adapters = {
        digest
        for digest, version in catalogue.adapters.items()
        if all(r in free for r in releases_of[digest])
        and any(hub.blobs.has(file.sha256) for file in version.manifest.files)
    }
    erased = {
        digest
        for digest in hub.facts.erased
        if any(hub.blobs.has(file.sha256) for file in catalogue.datasets[digest].files)
    }
    going = {r for r in free if catalogue.releases[r].adapter in adapters}
    files = _files(hub, adapters, erased)
    body = {
        "adapters": [_adapter(hub, digest) for digest in sorted(adapters)],
        "datasets": [{"id": d, "label": datasets.called(catalogue.datasets[d])} for d in sorted(erased)],
        "releases": [_release(hub, release) for release in sorted(going)],
        "listed": [_release(hub, release) for release in sorted((of_adapters - roots) & listed)],
        "roots": len(roots),
        "files": len(files),
        "size": sum(hub.blobs.size(sha256) for sha256 in files),
        "unheard": sorted(n.name for n in hub.fleet.nodes.values() if n.replicas and n.heard is None and not n.drained),
    }
    return CollectPlan.model_validate({**body, "digest": digest_of(body)})


def _made_ms(hub: Hub, adapter: str | None) -> int:
    version = hub.catalogue.adapters.get(adapter) if adapter else None
    return version.created_ms if version is not None else 0


def _in_use(hub: Hub) -> set[str]:
    """Releases that a pin, a prepare or an unfinished job holds on to."""
    held = {pin.release.id for node in hub.fleet.nodes.values() for pin in node.pins}
    held |= {release for key in hub.routes() if (release := hub.promotions.preparing(key)) is not None}
    for job in hub.queue.all():
        if job.state in OVER:
            continue
        if isinstance(job.spec, EvaluateSpec):
            held.add(job.spec.release)
        elif isinstance(job.spec, TrainSpec) and job.spec.parent is not None:
            held.add(hub.catalogue.adapters[job.spec.parent].release)
    return held


def _files(hub: Hub, adapters: set[str], erased: set[str]) -> set[str]:
    """Blobs of what goes which nothing that stays names."""
    catalogue = hub.catalogue
    going = {f.sha256 for d in adapters for f in catalogue.adapters[d].manifest.files}
    going |= {f.sha256 for d in erased for f in catalogue.datasets[d].files}
    staying = {f.sha256 for d, v in catalogue.adapters.items() if d not in adapters for f in v.manifest.files}
    staying |= {f.sha256 for d, m in catalogue.datasets.items() if d not in erased for f in m.files}
    staying |= {f.sha256 for suite in catalogue.suites.values() for f in suite.files}
    return {sha256 for sha256 in going - staying if hub.blobs.has(sha256)}


def _adapter(hub: Hub, digest: str) -> dict[str, str]:
    version = hub.catalogue.adapters[digest]
    return {"id": digest, "label": f"{version.manifest.tenant}/{version.manifest.name} v{version.version}"}


def _release(hub: Hub, release: str) -> dict[str, str]:
    return {"id": release, "label": f"{hub.catalogue.releases[release].tenant} {hub.called(release)}"}
