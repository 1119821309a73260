"""Recover: a hub restored from an older copy of its log learns from its agents what it has forgotten.

The routers serve what the lost part of the log said, and their tables are durable. So per entry the newest
(epoch, generation) seen on any agent wins over an older hub, and nothing pulls a router back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from loradeck.rules.fold import Key
from loradeck.rules.moves import Actor
from loradeck.schemas.log import Draft, EventKind, PointerState
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import TableEntry
from loradeck.schemas.tenant import CallerKey, TenantState


def newest(entries: Iterable[TableEntry]) -> dict[Key, TableEntry]:
    """Per (tenant, route) the entry with the highest (epoch, generation) of all agents' tables."""
    best: dict[Key, TableEntry] = {}
    for entry in entries:
        known = best.get(entry.key)
        if known is None or entry.fence > known.fence:
            best[entry.key] = entry
    return best


def drafts(
    now: Mapping[Key, PointerState],
    entries: Iterable[TableEntry],
    *,
    tenants: Mapping[str, TenantState],
    actor: Actor,
    reason: str,
) -> tuple[list[Draft], int]:
    """The events that bring an older log up to what the agents hold, and the epoch that the new one must exceed.

    An entry wins over its pointer where its (epoch, generation) is above that of the pointer's last move and
    generation or release differ, or where both are equal and the release differs. The recovered move gets a
    generation above both, so that no number ever stands for two moves. It is held: which quarantines were set
    in the lost part is not known, so a person looks before automation promotes. What is being served had its
    quarantine lifted there, if it had one. Tenants and routes that the older log does not know are created
    again, without gate and placement, which no table carries; a suspension that a table carries is kept.

    The caller registers the releases of the entries (`TableEntry.current`, `beneath`) before committing.
    """
    best = newest(entries)
    epoch_above = max((entry.epoch for entry in best.values()), default=0)
    events: list[Draft] = []
    created: set[str] = set()
    suspended: set[str] = set()
    for key, entry in sorted(best.items()):
        pointer = now.get(key) or PointerState(tenant=entry.tenant, route=entry.route)
        release = entry.current.id if entry.current else None
        if not _wins(entry, pointer, release):
            continue
        tenant = tenants.get(entry.tenant)
        if tenant is not None and tenant.offboarded:
            continue
        if tenant is None and entry.tenant not in created:
            created.add(entry.tenant)
            events.extend(_tenant_again(entry, actor, reason))
        if tenant is None or entry.route not in tenant.routes:
            events.append(_route_again(entry, actor, reason))
        if entry.suspended and not (tenant and tenant.suspended) and entry.tenant not in suspended:
            suspended.add(entry.tenant)
            events.append(_draft(EventKind.TENANT_SUSPEND, entry, actor, reason))
        after = pointer.model_copy(
            update={
                "generation": max(entry.generation, pointer.generation) + 1,
                "release": release,
                "beneath": tuple(ref.id for ref in entry.beneath),
                "held": True,
                "quarantined": tuple(q for q in pointer.quarantined if q.release != release),
            }
        )
        events.append(
            Draft(
                kind=EventKind.RECOVER,
                tenant=entry.tenant,
                route=entry.route,
                pointer=after,
                expected_generation=pointer.generation if key in now else None,
                from_release=pointer.release,
                actor=actor.name,
                role=actor.role,
                reason=reason,
                payload={"epoch": entry.epoch, "generation": entry.generation},
            )
        )
    return events, epoch_above


def behind(*, epoch: int, rev: int, hub_epoch: int, has_hash: bool) -> bool:
    """Whether an agent's hello shows that this hub's log lacks what the agent has seen.

    `epoch`, `rev`: what the agent durably holds (rev 0: it is new). `hub_epoch`: the hub's own, raised when it
    took its lease; an agent that has seen a higher one would drop all it is told, even where the logs agree.
    `has_hash`: this log holds the agent's hash at its rev.
    """
    return epoch > hub_epoch or (rev > 0 and not has_hash)


def _wins(entry: TableEntry, pointer: PointerState, release: str | None) -> bool:
    if (entry.generation, release) == (pointer.generation, pointer.release):
        return False
    return entry.fence >= (pointer.moved_epoch, pointer.generation)


def _tenant_again(entry: TableEntry, actor: Actor, reason: str) -> list[Draft]:
    keys = [CallerKey(id=sha[:12], sha256=sha) for sha in entry.keys]
    return [
        _draft(EventKind.TENANT_CREATE, entry, actor, reason),
        *(_draft(EventKind.KEY, entry, actor, reason, {"add": key.model_dump(mode="json")}) for key in keys),
    ]


def _route_again(entry: TableEntry, actor: Actor, reason: str) -> Draft:
    config = RouteConfig(
        gap=entry.gap,
        streams=entry.streams,
        checks=entry.checks,
        canaries=entry.canaries,
        refuse_after_s=entry.refuse_after_s,
    )
    payload: dict[str, object] = {"config": config.model_dump(mode="json")}
    return _draft(EventKind.ROUTE, entry, actor, reason, payload, route=entry.route)


def _draft(
    kind: EventKind,
    entry: TableEntry,
    actor: Actor,
    reason: str,
    payload: dict[str, object] | None = None,
    *,
    route: str | None = None,
) -> Draft:
    return Draft(
        kind=kind,
        tenant=entry.tenant,
        route=route,
        actor=actor.name,
        role=actor.role,
        reason=reason,
        payload=payload or {},
    )
