"""Recovery: a hub restored from an older copy of its log learns the lost moves from its agents' tables.

The routers still serve by the lost part of the log, and their tables are durable. So the highest (epoch, generation) of
each entry on any agent wins over the older hub, and no router is pulled back.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from loradeck.rules.moves.draft import Actor, drafted, tenant_draft
from loradeck.rules.moves.witness import Witnessed, route_settings, step
from loradeck.schemas.ids import PointerKey, digest_of
from loradeck.schemas.log import Draft, EventKind, PointerState
from loradeck.schemas.lost_tail import LostTail
from loradeck.schemas.moves import RecoveryMove, RecoveryNode, RecoveryPlan, RecoveryStep
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import TableEntry
from loradeck.schemas.tenant import CallerKey, TenantState


def version_of(label: str) -> int | None:
    """The number of an adapter's version in the label of its release, "v7" or "v7m"; None: the label has none."""
    number = label.removeprefix("v").removesuffix("m")
    is_number = label.startswith("v") and number.isascii() and number.isdecimal() and len(number) < 10
    return int(number) if is_number else None


def newest(entries: Iterable[TableEntry]) -> dict[PointerKey, TableEntry]:
    """The entry with the highest (epoch, generation) in all agents' tables, for each (tenant, route).

    Among entries of equal fence a tombstone counts less: a node on which a pointer is no longer placed holds one, while
    others still serve it.
    """
    best: dict[PointerKey, TableEntry] = {}
    for entry in entries:
        known = best.get(entry.key)
        if known is None or _order(entry) > _order(known):
            best[entry.key] = entry
    return best


def _order(entry: TableEntry) -> tuple[tuple[int, int], bool, int]:
    return entry.fence, entry.current is not None, step(entry.candidate)


def drafts(
    now: Mapping[PointerKey, PointerState],
    entries: Iterable[TableEntry],
    *,
    tenants: Mapping[str, TenantState],
    actor: Actor,
    reason: str,
    ahead: Iterable[TableEntry] = (),
    lacking: Iterable[Witnessed] = (),
) -> tuple[list[Draft], int]:
    """The events that bring an older log up to the agents' tables, and the epoch that the new one must exceed.

    An entry wins over its pointer if its (epoch, generation) is above that of the pointer's last move, or if both are
    equal and the release differs, on this node or on another. The recovered move gets a generation above both, so that
    no number ever stands for two moves. No candidate is restored: one whose steps were lost is out. The pointer is
    held: the quarantines of the lost part are unknown, so a person looks before automation promotes. A quarantine of
    the release being served was lifted in the lost part, so it goes. Tenants and routes that the older log lacks are
    created again, without gate and placement, which no table carries; a suspension in a table is kept.

    The caller registers the releases of the entries (`TableEntry.current`, `beneath`) before committing.

    Args:
        ahead: the entries of tables whose rev this log lacks, the newest table's first. Their callers' keys, suspension
            and settings replace those of tenants and routes that the older log has: a key that was withdrawn in the
            lost part stays withdrawn.
        lacking: the moves that nodes hold and the log does not know. Each that is not adopted gets an event that says
            so, so that no move that was ever acknowledged is gone without a line.
    """
    entries = list(entries)
    best = newest(entries)
    forked = _forked(entries, best)
    epoch_above = max((entry.epoch for entry in best.values()), default=0)
    events: list[Draft] = []
    created: set[str] = set()
    suspended: set[str] = set()
    for key, entry in sorted(best.items()):
        pointer = now.get(key) or PointerState(tenant=entry.tenant, route=entry.route)
        release = entry.current.id if entry.current else None
        if not _wins(entry, pointer, release, forked=key in forked):
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
            events.append(tenant_draft(EventKind.TENANT_SUSPEND, entry.tenant, actor, reason))
        after = pointer.model_copy(
            update={
                "generation": max(entry.generation, pointer.generation) + 1,
                "release": release,
                "beneath": tuple(ref.id for ref in entry.beneath),
                "held": True,
                "candidate": None,
                "quarantined": tuple(q for q in pointer.quarantined if q.release != release),
            }
        )
        payload: dict[str, object] = {"epoch": entry.epoch, "generation": entry.generation}
        event = drafted(EventKind.RECOVER, pointer, after, actor, reason=reason, payload=payload)
        events.append(event if key in now else event.model_copy(update={"expected_generation": None}))
    seen: set[str] = set()
    routes: set[PointerKey] = set()
    for entry in ahead:
        tenant = tenants.get(entry.tenant)
        if tenant is None or tenant.offboarded:
            continue
        if entry.tenant not in seen:
            seen.add(entry.tenant)
            events.extend(_keys_as(entry, tenant, actor, reason))
            if entry.suspended != tenant.suspended and entry.tenant not in suspended:
                kind = EventKind.TENANT_SUSPEND if entry.suspended else EventKind.TENANT_RESUME
                events.append(tenant_draft(kind, entry.tenant, actor, reason))
        if entry.route in tenant.routes and entry.key not in routes:
            routes.add(entry.key)
            config = tenant.routes[entry.route].model_copy(update=route_settings(entry))
            if config != tenant.routes[entry.route]:
                events.append(_route_as(config, entry, actor, reason))
    adopted = {_fence_of(draft): draft for draft in events if draft.kind is EventKind.RECOVER}
    for move in lacking:
        taken = adopted.get((*move.key, *move.fence))
        if taken is not None and taken.pointer is not None and taken.pointer.release == move.release:
            taken.payload["nodes"] = list(move.nodes)
        else:
            events.append(_dropped(move, actor, reason))
    return events, epoch_above


def plan(
    events: Sequence[Draft],
    above: int,
    *,
    now: Mapping[PointerKey, PointerState],
    nodes: Sequence[RecoveryNode],
    rev: int,
    lost: Sequence[LostTail] = (),
    name: Callable[[str | None], str],
) -> RecoveryPlan:
    """The events and the epoch of `drafts` in words: what the log has, what is adopted, what is dropped and why.

    Its digest covers the events and the nodes that did not answer. It does not cover who asks and why, nor the epoch,
    which a hub raises by itself when it finds that a node is ahead, and which changes nothing of what is done.
    """
    steps: dict[PointerKey, RecoveryStep] = {}
    further = []
    for draft in events:
        if draft.kind not in (EventKind.RECOVER, EventKind.DROPPED):
            further.append(f"{draft.kind.value} {'/'.join(filter(None, (draft.tenant, draft.route)))}")
            continue
        tenant, route, epoch, generation = _fence_of(draft)
        key = (tenant, route)
        pointer = now.get(key) or PointerState(tenant=tenant, route=route)
        step = steps.get(key) or RecoveryStep(
            tenant=tenant,
            route=route,
            epoch=pointer.moved_epoch,
            generation=pointer.generation,
            release=pointer.release,
            label=name(pointer.release),
        )
        adopted = draft.kind is EventKind.RECOVER and draft.pointer is not None
        release = draft.pointer.release if draft.pointer is not None else draft.payload["release"]
        move = RecoveryMove(
            epoch=epoch,
            generation=generation,
            release=release,
            label=name(release),
            nodes=draft.payload.get("nodes", ()),
            why="the newest that anybody has seen"
            if adopted
            else "a newer one is adopted"
            if step.adopted is not None
            else "the log has moved since",
        )
        update = {"adopted": move} if adopted else {"dropped": (*step.dropped, move)}
        steps[key] = step.model_copy(update=update)
    body = {
        "events": [draft.model_dump(mode="json", exclude={"actor", "role", "reason"}) for draft in events],
        "silent": sorted(node.node for node in nodes if node.state == "silent"),
    }
    return RecoveryPlan(
        digest=digest_of(body),
        rev=rev,
        epoch_above=above,
        steps=tuple(step for _, step in sorted(steps.items())),
        further=tuple(further),
        nodes=tuple(nodes),
        lost=tuple(lost),
    )


def _fence_of(draft: Draft) -> tuple[str, str, int, int]:
    """The pointer and the fence of the move that an event of a recover adopts or drops."""
    return draft.tenant, str(draft.route), int(draft.payload["epoch"]), int(draft.payload["generation"])


def _dropped(move: Witnessed, actor: Actor, reason: str) -> Draft:
    """The event that says that a witnessed move is not adopted. It moves nothing."""
    epoch, generation = move.fence
    payload: dict[str, object] = {"epoch": epoch, "generation": generation}
    payload |= {"release": move.release, "nodes": list(move.nodes)}
    return tenant_draft(EventKind.DROPPED, move.key[0], actor, reason, payload, route=move.key[1])


def _forked(entries: Iterable[TableEntry], best: Mapping[PointerKey, TableEntry]) -> set[PointerKey]:
    """The pointers of which nodes hold two releases under the newest fence: two copies of the log have moved them."""
    held: dict[PointerKey, set[str]] = {}
    for entry in entries:
        if entry.current is not None and entry.fence == best[entry.key].fence:
            held.setdefault(entry.key, set()).add(entry.current.id)
    return {key for key, releases in held.items() if len(releases) > 1}


def _wins(entry: TableEntry, pointer: PointerState, release: str | None, *, forked: bool) -> bool:
    if (entry.fence, release) == ((pointer.moved_epoch, pointer.generation), pointer.release):
        # A router drops another release under the fence that it holds. So where nodes hold two, the log's own needs a
        # new number as well, or those that serve the other one would never leave it.
        return forked or step(entry.candidate) > step(pointer.candidate)
    if release is None and entry.fence == (pointer.moved_epoch, pointer.generation):
        return False  # a tombstone of the pointer's last move, withdrawn from that node: not a move
    return entry.fence >= (pointer.moved_epoch, pointer.generation)


def _tenant_again(entry: TableEntry, actor: Actor, reason: str) -> list[Draft]:
    return [
        tenant_draft(EventKind.TENANT_CREATE, entry.tenant, actor, reason),
        *(_key_again(sha, entry, actor, reason) for sha in entry.keys),
    ]


def _keys_as(entry: TableEntry, tenant: TenantState, actor: Actor, reason: str) -> list[Draft]:
    """Events that make a tenant's keys equal to an entry's."""
    known = {key.sha256 for key in tenant.keys}
    return [
        *(_key_again(sha, entry, actor, reason) for sha in entry.keys if sha not in known),
        *(
            tenant_draft(EventKind.KEY, entry.tenant, actor, reason, {"remove": key.id})
            for key in tenant.keys
            if key.sha256 not in entry.keys
        ),
    ]


def _key_again(sha256: str, entry: TableEntry, actor: Actor, reason: str) -> Draft:
    """Adds a key of which only the hash is known; its id is new."""
    key = CallerKey(id=sha256[:12], sha256=sha256)
    return tenant_draft(EventKind.KEY, entry.tenant, actor, reason, {"add": key.model_dump(mode="json")})


def _route_again(entry: TableEntry, actor: Actor, reason: str) -> Draft:
    return _route_as(RouteConfig().model_copy(update=route_settings(entry)), entry, actor, reason)


def _route_as(config: RouteConfig, entry: TableEntry, actor: Actor, reason: str) -> Draft:
    payload: dict[str, object] = {"config": config.model_dump(mode="json")}
    return tenant_draft(EventKind.ROUTE, entry.tenant, actor, reason, payload, route=entry.route)
