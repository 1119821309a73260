"""Rows that have to go: where they are, what descends from them, and their erasure."""

from __future__ import annotations

from fastapi import APIRouter, Request

from loradeck.hub.api.moves import Releaser, hub_of
from loradeck.hub.data import erasure
from loradeck.schemas.dataset_ledger import ErasurePlan, ErasureRequest

router = APIRouter(prefix="/v1", tags=["registry"])


@router.post("/erasures")
async def erase(body: ErasureRequest, request: Request, caller: Releaser) -> ErasurePlan:
    """A dry run answers with a plan; executing sends its rows and digest back."""
    hub = hub_of(request)
    if body.dry_run:
        return await erasure.plan(hub, body)
    return await erasure.carry_out(hub, body, caller.actor)
