"""Nodes: looking at them, and telling them to take no more work."""

from __future__ import annotations

from fastapi import APIRouter, Request

from loradeck.hub.api.moves import Operator, Viewer, hub_of
from loradeck.hub.hub import Hub
from loradeck.rules.errors import Refused
from loradeck.schemas.link import NodeOrder
from loradeck.schemas.state import NodeRow

router = APIRouter(prefix="/v1", tags=["nodes"])


@router.get("/nodes")
async def listed(request: Request, caller: Viewer) -> list[NodeRow]:
    return list(hub_of(request).rows.nodes())


@router.post("/nodes/{node}/drain")
async def drain(node: str, request: Request, caller: Operator) -> NodeRow:
    """No new jobs; once it is no longer heard from, it is not counted as placed any more."""
    return await _order(hub_of(request), node, cordoned=True, drained=True)


@router.post("/nodes/{node}/cordon")
async def cordon(node: str, request: Request, caller: Operator) -> NodeRow:
    """No new jobs."""
    return await _order(hub_of(request), node, cordoned=True)


@router.post("/nodes/{node}/uncordon")
async def uncordon(node: str, request: Request, caller: Operator) -> NodeRow:
    """Ends a cordon and a drain."""
    return await _order(hub_of(request), node, cordoned=False, drained=False)


async def _order(hub: Hub, name: str, *, cordoned: bool, drained: bool | None = None) -> NodeRow:
    node = hub.fleet.nodes.get(name)
    if node is None:
        raise Refused("unknown_node", f"there is no node {name!r}", fix="loradeck node list")
    node.cordoned = cordoned
    node.drained = node.drained if drained is None else drained
    hub.fleet.order_changed(node)
    await hub.flush()
    if node.link is not None:
        node.link.put_message(NodeOrder(cordoned=node.cordoned, drained=node.drained))
    hub.node_changed(node)
    return hub.rows.node(node)
