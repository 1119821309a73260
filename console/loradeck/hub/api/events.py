"""The log: its events, and whether its chain holds."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import ThisHub, Viewer, ViewerOfEach
from loradeck.schemas.ids import LARGEST_INT
from loradeck.schemas.log import Event
from loradeck.store.interface import Store
from loradeck.store.log_audit import LogAudit

router = APIRouter(prefix="/v1", tags=["events"], route_class=Guarded)


@router.get("/events")
async def listed(
    hub: ThisHub,
    caller: ViewerOfEach,
    tenant: str | None = None,
    route: str | None = None,
    before: Annotated[int | None, Query(ge=1, le=LARGEST_INT, description="a rev")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Event]:
    """The events of the log, newest first."""
    if tenant is not None:
        caller.at(tenant)
    tenants = [tenant] if tenant is not None or caller.tenants is None else sorted(filter(caller.sees, caller.tenants))
    found: list[Event] = []
    for one in tenants:
        found += await hub.store(partial(_history, one, route, before, limit))
    return sorted(found, key=lambda event: -event.rev)[:limit]


def _history(tenant: str | None, route: str | None, before: int | None, limit: int, store: Store) -> list[Event]:
    return store.history(tenant=tenant, route=route, before_rev=before, limit=limit)


@router.get("/audit/verify")
async def audit(hub: ThisHub, caller: Viewer) -> dict[str, Any]:
    """Audits the whole log: every hash is checked, and the log is folded and compared with the store's own state."""
    checking = LogAudit()
    while (report := await hub.store(checking.step, background=True)) is None:
        pass
    return report.as_json()
