"""Joining: join tokens, certificates for nodes that have one, and their renewal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request

from loradeck.hub.access.auth import bearer_of, certificate_of
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Local, Maker, ThisHub
from loradeck.hub.api.tokens import revoke_all
from loradeck.hub.hub import Hub
from loradeck.hub.log.audit import mark
from loradeck.rules.errors import Refused
from loradeck.schemas.membership import AuthorityState, Invitation, Joined, JoinRequest, JoinToken, Revoked

if TYPE_CHECKING:
    from loradeck.hub.access.membership import Membership

router = APIRouter(prefix="/v1", tags=["nodes"], route_class=Guarded)


@router.post("/join-tokens")
async def invite(body: Invitation, hub: ThisHub, request: Request, caller: Local) -> JoinToken:
    """Makes a join token for a node: good once, and for its lifetime."""
    made = await _membership(hub).invite(body, caller.actor)
    mark(request, token=made.id, node=body.node)
    return made


@router.post("/join")
async def join(body: JoinRequest, request: Request, hub: ThisHub, caller: Maker) -> Joined:
    """Gives a node its first certificate, for a join token. Keys that were bound to its name count no more."""
    mark(request, node=body.node)
    joined, key, used, before = await _membership(hub).join(bearer_of(request), body)
    mark(request, node=body.node, token=key.id, withdrawn=" ".join(record.id for record in (used, *before)))
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
