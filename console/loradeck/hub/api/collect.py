"""Garbage collection of the hub's files: what nothing can go back to is removed, after a plan of it was read."""

from fastapi import APIRouter

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Local, ThisHub
from loradeck.schemas.dataset_ledger import CollectPlan, CollectRequest

router = APIRouter(prefix="/v1", tags=["backup"], route_class=Guarded)


@router.post("/collect")
async def collect(body: CollectRequest, hub: ThisHub, caller: Local) -> CollectPlan:
    """Removes files that nothing can go back to. A dry run answers with a plan; executing sends its digest back."""
    if body.dry_run:
        return await hub.garbage.plan(body)
    return await hub.garbage.carry_out(body, caller.actor)
