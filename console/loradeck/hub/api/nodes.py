"""Nodes: their rows, the orders to drain and cordon them, and forgetting one."""

from fastapi import APIRouter
from starlette.responses import Response

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.moves import actor_of, moved
from loradeck.hub.api.parameters import Operator, Releaser, ThisHub, ViewerOfEach
from loradeck.hub.hub import Hub
from loradeck.rules.errors import Refused
from loradeck.rules.moves import forget as rules
from loradeck.schemas.log import Draft
from loradeck.schemas.moves import ForgetRequest, MoveResult
from loradeck.schemas.state import NodeRow, RelabelRequest

router = APIRouter(prefix="/v1", tags=["nodes"], route_class=Guarded)


@router.get("/nodes")
async def listed(hub: ThisHub, caller: ViewerOfEach) -> list[NodeRow]:
    """The rows of all nodes, by name."""
    return list(hub.seen.nodes(caller))


@router.post("/nodes/{node}/drain")
async def drain(node: str, hub: ThisHub, caller: Operator) -> NodeRow:
    """Drains a node: it gets no new jobs and lets go of the GPU driver, and routes of pools go elsewhere.

    Its replicas stay in the counts of what they serve.
    """
    return await _order(hub, node, cordoned=True, drained=True)


@router.post("/nodes/{node}/cordon")
async def cordon(node: str, hub: ThisHub, caller: Operator) -> NodeRow:
    """Cordons a node: it gets no new jobs and no new routes of pools."""
    return await _order(hub, node, cordoned=True)


@router.post("/nodes/{node}/uncordon")
async def uncordon(node: str, hub: ThisHub, caller: Operator) -> NodeRow:
    """Ends a node's cordon and drain."""
    return await _order(hub, node, cordoned=False, drained=False)


@router.post("/nodes/{node}/relabel")
async def relabel(node: str, body: RelabelRequest, hub: ThisHub, caller: Releaser) -> NodeRow:
    """Has a node placed by the labels that it says. It links again for it, and serves on meanwhile."""
    known = hub.fleet.known(node)
    if known.said is None or known.said == known.labels:
        raise Refused(
            "no_change",
            f"{node}'s agent reports the labels that it already has here: nothing to change",
            fix="edit the labels in agent.toml, restart the agent, then relabel",
        )
    if body.labels != known.said:
        raise Refused("moved", f"{node} says other labels now", detail=str(known.said), fix="look at it again")
    hub.fleet.allow(known, body.labels)
    await hub.flush()
    if known.link is not None:
        known.link.relabelled()
    return hub.rows.node(known)


@router.post("/nodes/{node}/forget", response_model=MoveResult)
async def forget(node: str, body: ForgetRequest, hub: ThisHub, caller: Operator) -> Response:
    """Forgets a node that is not linked: its replicas leave all counts, for a person vouches that it answers nobody."""

    def draft() -> Draft:
        known = hub.fleet.nodes.get(node)
        linked = known is not None and known.linked
        return rules.forget(node, body.reason, actor_of(caller), known=known is not None, linked=linked)

    return await moved(hub, caller, body.idempotency_key, draft)


async def _order(hub: Hub, name: str, *, cordoned: bool, drained: bool | None = None) -> NodeRow:
    node = hub.fleet.known(name)
    hub.fleet.order(node, cordoned=cordoned, drained=drained)
    await hub.flush()
    hub.node_events.ordered(node)
    return hub.rows.node(node)
