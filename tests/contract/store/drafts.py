"""Drafts for the store's contract suite, built by hand so that the suite does not lean on the rules."""

from __future__ import annotations

from typing import Any

from loradeck.schemas.ids import Role
from loradeck.schemas.log import MOVES, Draft, EventKind, PointerState


def digest(n: int) -> str:
    return f"{n:064x}"


def move(
    tenant: str = "acme",
    *,
    to: int = 1,
    generation: int = 1,
    route: str = "production",
    kind: EventKind = EventKind.PROMOTE,
    expected: int | None = -1,
    **fields: Any,
) -> Draft:
    """A move to release `to` that makes `generation`; it expects the one before unless told otherwise."""
    pointer = PointerState(tenant=tenant, route=route, generation=generation, release=digest(to))
    before = generation - 1 if kind in MOVES else generation
    return Draft(
        kind=kind,
        tenant=tenant,
        route=route,
        pointer=pointer,
        expected_generation=before if expected == -1 else expected,
        actor="ann",
        role=Role.OPERATOR,
        **fields,
    )


def note(kind: EventKind, tenant: str = "acme", route: str | None = None, **payload: Any) -> Draft:
    """An event that touches no pointer."""
    return Draft(kind=kind, tenant=tenant, route=route, actor="ann", role=Role.RELEASER, payload=payload)
