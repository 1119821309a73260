"""Freshness of a tenant's adapters: counts that nodes bring in, and what the meters say."""

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Maker, Releaser, ThisHub, Viewer, ViewerOfEach
from loradeck.hub.log.audit import pass_over
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import Attestation
from loradeck.schemas.counts import InputCounts
from loradeck.schemas.freshness import Freshness, LoopRow, Replay
from loradeck.schemas.ids import Name

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


@router.post("/tenants/{tenant}/routes/{route}/replay")
async def replay(tenant: Name, route: Name, body: Replay, hub: ThisHub, caller: Releaser) -> Attestation:
    """Imports days of a release that were counted elsewhere, or replayed. Meters say so wherever they count."""
    return await hub.replays.take((tenant, route), body, caller.actor)


@router.get("/loop", response_model=list[LoopRow])
async def loop(hub: ThisHub, caller: ViewerOfEach, tenant: Name | None = None) -> Response:
    """Lists where each tenant stands between a signal and new weights; of one tenant as of now. Figures, no texts."""
    names = [tenant] if tenant is not None else sorted(hub.log.state.tenants)
    if tenant is not None:
        caller.at(tenant)
        hub.log.state.tenant(tenant)

    async def parts() -> AsyncIterator[str]:
        # In pieces, as they are made: with many tenants that takes seconds, and a reader may time out.
        before = "["
        for name in names:
            if caller.sees(name) and name in hub.log.state.tenants:
                for row in await hub.freshness.loop(name, now=tenant is not None):
                    yield before + row.model_dump_json()
                    before = ","
        yield "[]" if before == "[" else "]"

    return StreamingResponse(parts(), media_type="application/json")
