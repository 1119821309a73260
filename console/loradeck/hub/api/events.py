"""The log: its events, and whether its chain holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from loradeck.hub.api.moves import Viewer, hub_of
from loradeck.hub.hub import Hub
from loradeck.rules.chain import verify
from loradeck.rules.fold import Ledger, LogGap
from loradeck.schemas.log import Event
from loradeck.store.interface import Unreadable

router = APIRouter(prefix="/v1", tags=["events"])

BATCH = 500
"""Events checked between two turns of the store's thread, so that a move does not wait for an audit."""


@router.get("/events")
async def listed(
    request: Request,
    caller: Viewer,
    tenant: str | None = None,
    route: str | None = None,
    before: Annotated[int | None, Query(ge=1, description="a rev")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Event]:
    """Newest first."""
    return await hub_of(request).store(lambda s: s.history(tenant=tenant, route=route, before_rev=before, limit=limit))


@router.get("/audit/verify")
async def audit(request: Request, caller: Viewer) -> dict[str, Any]:
    """Reads the whole log again: every hash, and what it adds up to against what this hub serves from."""
    hub = hub_of(request)
    ledger = Ledger()
    while True:
        rev, hash_ = ledger.rev, ledger.hash
        try:
            events = await hub.store(lambda s: s.since(ledger.rev, BATCH))
        except Unreadable as damaged:
            return _broken(rev, hash_, damaged.rev, str(damaged))
        if not events:
            return _compared(hub, ledger)
        broken = await asyncio.to_thread(_check, ledger, events)
        if broken is not None:
            return _broken(rev, hash_, *broken)


def _check(ledger: Ledger, events: Sequence[Event]) -> tuple[int, str] | None:
    """Verify the next events and fold them; (rev, why) of the first that does not fit."""
    broken = verify(events, prev_hash=ledger.hash, first_rev=ledger.rev + 1)
    if broken is not None:
        return broken.rev, broken.why
    for event in events:
        try:
            ledger.apply(event)
        except (LogGap, KeyError, ValueError) as error:
            return event.rev, f"it cannot be folded: {error}"
    return None


def _compared(hub: Hub, ledger: Ledger) -> dict[str, Any]:
    same = (ledger.rev, ledger.hash) == (hub.ledger.rev, hub.ledger.hash)
    if not same:
        return _broken(ledger.rev, ledger.hash, ledger.rev + 1, "the log ends before what this hub has committed")
    if ledger.pointers != hub.ledger.pointers or ledger.tenants != hub.ledger.tenants:
        return _broken(ledger.rev, ledger.hash, ledger.rev, "the log does not add up to what this hub serves from")
    return {"ok": True, "rev": ledger.rev, "hash": ledger.hash, "break": None}


def _broken(rev: int, hash_: str, at: int, why: str) -> dict[str, Any]:
    return {"ok": False, "rev": rev, "hash": hash_, "break": {"rev": at, "why": why}}
