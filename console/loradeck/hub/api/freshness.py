"""Freshness of a tenant's adapters: counts that nodes bring in, and what the meters say."""

from fastapi import APIRouter, Request

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Maker, ThisHub, Viewer
from loradeck.hub.log.audited_calls import pass_over
from loradeck.rules.errors import Refused
from loradeck.schemas.freshness import Freshness
from loradeck.schemas.ids import Name
from loradeck.schemas.input_counts import InputCounts

router = APIRouter(prefix="/v1", tags=["tenants"], route_class=Guarded)


@router.post("/tenants/{tenant}/inputs")
async def put(tenant: Name, body: InputCounts, hub: ThisHub, request: Request, caller: Maker) -> None:
    """Adds what a node has counted of a route's requests to that day. Nobody is shown the counts themselves."""
    served = caller.node is not None and any(
        at.name == caller.node for at, _ in hub.replicas.placed((tenant, body.route))
    )
    if not served:
        raise Refused("forbidden", "counts of inputs come from nodes that serve the route", detail=caller.actor)
    pass_over(request)
    await hub.input_days.take(tenant, body)


@router.get("/tenants/{tenant}/freshness")
async def one(tenant: Name, hub: ThisHub, caller: Viewer) -> Freshness:
    """Says what the freshness meters of a tenant's live releases show, and what is recommended: figures, no texts."""
    return await hub.freshness.of(tenant)
