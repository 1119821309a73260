"""Nodes: how they join and renew their certificates, their rows, orders to drain and cordon them, and forgetting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from loradeck.hub.access.auth import bearer_of, certificate_of
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.moves import actor_of, moved
from loradeck.hub.api.parameters import Local, Maker, Operator, Releaser, ThisHub, ViewerOfEach
from loradeck.hub.api.tokens import revoke_all
from loradeck.hub.hub import Hub
from loradeck.hub.log.audit import mark
from loradeck.rules.errors import Refused
from loradeck.rules.moves import records as rules
from loradeck.schemas.log import Draft
from loradeck.schemas.membership import AuthorityState, Invitation, Joined, JoinRequest, JoinToken, Revoked
from loradeck.schemas.moves import ForgetRequest, MoveResult
from loradeck.schemas.state import NodeRow, RelabelRequest

if TYPE_CHECKING:
    from loradeck.hub.access.membership import Membership


router = APIRouter(prefix="/v1", tags=["nodes"], route_class=Guarded)


@router.get("/nodes")
async def listed(hub: ThisHub, caller: ViewerOfEach) -> list[NodeRow]:
    """The rows of all nodes, by name."""
    return [hub.seen.node(caller, name) for name in sorted(hub.seen.node_names(caller))]


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


@router.post("/join-tokens")
async def invite(body: Invitation, hub: ThisHub, request: Request, caller: Local) -> JoinToken:
    """Makes a join token for a node: good once, and for its lifetime."""
    made, record = await _membership(hub).invite(body, caller.actor)
    mark(request, token=made.id, record=record.digest, node=body.node)
    return made


@router.post("/join")
async def join(body: JoinRequest, request: Request, hub: ThisHub, caller: Maker) -> Joined:
    """Gives a node its first certificate, for a join token. Keys that were bound to its name count no more."""
    mark(request, node=body.node)
    joined, key, used, before = await _membership(hub).join(bearer_of(request), body)
    withdrawn = " ".join(record.id for record in (used, *before))
    mark(request, node=body.node, token=key.id, record=key.digest, withdrawn=withdrawn)
    await revoke_all(hub, before)
    return joined


@router.post("/renew")
async def renew(request: Request, hub: ThisHub, caller: Maker) -> Joined:
    """Gives a node a new certificate for the key whose certificate it shows, also where that has expired."""
    shown = certificate_of(request)
    if shown is None:
        raise Refused("unauthenticated", "only a node's own certificate renews one", fix="use the nodes' listener")
    return await _membership(hub).renew(shown)


@router.post("/authority/rotate")
async def rotate(hub: ThisHub, request: Request, caller: Local, force: bool = False) -> AuthorityState:
    """Takes the next step of replacing the authority: trusts another one, lets it sign, or drops the old one.

    Linked nodes are told, and renew their certificates.
    """
    state = _membership(hub).rotate(force=force)
    mark(request, token=state.roots[0])
    hub.tell_roots(hub.links)
    return state


@router.post("/nodes/{node}/revoke")
async def revoke(node: str, hub: ThisHub, request: Request, caller: Local) -> Revoked:
    """Revokes every key and token of a node. Its link ends now; what it serves it serves on."""
    found = [record for record in hub.tokens.of_node(node) if not record.revoked]
    if not found:
        raise Refused("unknown_node", f"no key or token of a node {node!r} is valid", fix="loradeck token ls")
    mark(request, withdrawn=" ".join(record.id for record in found))
    await revoke_all(hub, found)
    return Revoked(node=node, ids=tuple(record.id for record in found))


def _membership(hub: Hub) -> Membership:
    if hub.membership is None:
        fix = "start it with --nodes HOST:PORT"
        raise Refused("no_authority", "this hub has no listener for nodes that join", fix=fix)
    return hub.membership
