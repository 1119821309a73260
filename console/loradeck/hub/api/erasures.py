"""Erasures: where rows stand, what descends from them, and their erasure."""

from __future__ import annotations

from fastapi import APIRouter

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Releaser, ThisHub
from loradeck.schemas.dataset_ledger import ErasurePlan, ErasureRequest

router = APIRouter(prefix="/v1", tags=["registry"], route_class=Guarded)


@router.post("/erasures")
async def erase(body: ErasureRequest, hub: ThisHub, caller: Releaser) -> ErasurePlan:
    """Erases rows. A dry run answers with a plan; executing sends its rows and digest back."""
    if body.dry_run:
        return await hub.erasures.plan(body)
    return await hub.erasures.carry_out(body, caller.actor)
