"""Whether the hub lives, whether it moves anything, and its figures."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import ThisHub, ViewerOfEach
from loradeck.hub.views.metrics import dated_metrics, node_metrics, pointer_metrics, pool_metrics
from loradeck.hub.views.status import lease_status
from loradeck.schemas.log import FLEET
from loradeck.schemas.state import LeaseStatus

router = APIRouter(tags=["health"], route_class=Guarded)


@router.get("/healthz")
async def healthz() -> dict[str, Any]:
    """Answers as long as the process lives."""
    return {"ok": True}


@router.get("/readyz", responses={503: {"description": "moves are refused", "content": {"application/json": {}}}})
async def readyz(hub: ThisHub) -> Response:
    """200 while moves are made, else 503 with the code that they get. `waiting`: forward moves get that code."""
    state, refusing, waiting = hub.log.state, hub.moves_allowed.refusing, hub.moves_allowed.waiting
    body = {"ready": refusing is None, "refusing": refusing, "waiting": waiting, "epoch": state.epoch, "rev": state.rev}
    return JSONResponse(body, 200 if refusing is None else 503)


@router.get("/v1/lease")
async def lease(hub: ThisHub, _: ViewerOfEach) -> LeaseStatus:
    """Tells whether this hub is active or stands by, who holds the lease, and how far it has folded the log."""
    head = await hub.store(lambda s: s.read_head())
    return lease_status(
        head,
        hub=hub.status.now().hub,
        active=not hub.log.lease_lost,
        folded=hub.log.state.rev,
        read_s=0.0,
        left_s=head.remaining_s,
        lost=hub.lost.revs,
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(hub: ThisHub, caller: ViewerOfEach) -> Response:
    """The hub's own metrics, and those of all pointers that alerts are made from, as Prometheus text.

    A token that is for some tenants gets those of their pointers alone.
    """
    entries = hub.tables.entries
    seen = tuple(key for key in entries if caller.sees(key[0]))
    pointers = await pointer_metrics(hub.rows.tenant(key) for key in seen if key in entries)
    own = b""
    if caller.sees(FLEET):
        nodes = node_metrics(hub.fleet.nodes.values(), hub.votes.dropped, hub.links.refusals)
        own = hub.metrics.text() + nodes + pool_metrics(hub.capacities.pools())
    dated = dated_metrics(one for one in hub.dated.near() if caller.sees(one.subject.tenant or FLEET))
    return Response(own + dated + pointers, media_type="text/plain; version=0.0.4; charset=utf-8")
