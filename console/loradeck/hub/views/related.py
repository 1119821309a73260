"""Who shares something with a pointer's live release: put together when somebody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradeck.rules.data import related
from loradeck.rules.data.related import Member
from loradeck.schemas.ids import short
from loradeck.schemas.log import PointerState
from loradeck.schemas.related import RelatedRelease, RelatedReleases, Shared, Tie

if TYPE_CHECKING:
    from loradeck.hub.hub import Hub

MOST = 200
"""Companions that are listed."""

_RANK = {what: rank for rank, what in enumerate(Shared)}


def company_of(hub: Hub, tenant: str, route: str) -> RelatedReleases:
    """Raises: Refused `unknown_route`."""
    hub.route(tenant, route)
    pointer = hub.ledger.pointers.get((tenant, route))
    one = _member(hub, pointer) if pointer is not None else None
    if pointer is None or one is None:
        return RelatedReleases(tenant=tenant, route=route, generation=pointer.generation if pointer else 0)
    found = []
    for key, other in hub.ledger.pointers.items():
        member = _member(hub, other) if key != pointer.key and key in hub.steer.entries else None
        ties = related.shared(one, member) if member is not None else []
        if ties:
            found.append((min(_RANK[what] for what, _ in ties), key, ties))
    found.sort()
    listed = []
    for _, key, ties in found[:MOST]:
        row = hub.rows.tenant(key)
        if row.live is not None:
            named = tuple(Tie(what=what, name=_named(hub, what, name)) for what, name in ties)
            listed.append(
                RelatedRelease(
                    tenant=key[0],
                    route=key[1],
                    live=row.live,
                    ties=named,
                    flags=row.flags,
                    bad_now=row.bad_now,
                    bad_n=row.bad_n,
                )
            )
    return RelatedReleases(
        tenant=tenant, route=route, generation=pointer.generation, total=len(found), companions=tuple(listed)
    )


def _member(hub: Hub, pointer: PointerState) -> Member | None:
    """None: nothing is served there, or what is served is not known here."""
    catalogue = hub.catalogue
    live = catalogue.release(pointer.release, pointer.tenant) if pointer.release else None
    if live is None:
        return None
    move = hub.last_move(pointer)
    left = catalogue.releases.get(move.from_release) if move is not None and move.from_release else None
    version = catalogue.version_of(live)
    return Member(
        datasets=frozenset(version.manifest.datasets) if version else frozenset(),
        recipe=version.manifest.config_hash if version else None,
        base=live.base,
        left_base=left.base if left else None,
        move=move,
    )


def _named(hub: Hub, what: Shared, name: str) -> str:
    """What is shared, for people."""
    if what is Shared.DATASET:
        dataset = hub.catalogue.datasets.get(name)
        return f"{dataset.tenant}/{dataset.name}" if dataset else short(name)
    if what is Shared.BASE_MOVE:
        return " > ".join(hub.catalogue.base_label(base) for base in name.split())
    return short(name) if what is Shared.RUN else name
