"""Tokens: created and withdrawn only over the hub's own socket."""

from collections.abc import Iterable

from fastapi import APIRouter, Request
from starlette.responses import Response

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Local, ThisHub
from loradeck.hub.hub import Hub
from loradeck.hub.log.audit import mark
from loradeck.rules.errors import Refused
from loradeck.schemas.responses import TokenCreated
from loradeck.schemas.tenant import TokenCreate, TokenRecord

router = APIRouter(prefix="/v1", tags=["tokens"], route_class=Guarded)


@router.post("/tokens")
async def create(body: TokenCreate, hub: ThisHub, request: Request, caller: Local) -> TokenCreated:
    """Creates a token."""
    for tenant in body.tenants or ():
        hub.log.state.tenant(tenant)
    record, token = hub.tokens.create(body, caller.actor)
    mark(
        request,
        token=record.id,
        record=record.digest,
        name=record.name,
        role=record.role,
        node=record.node or "",
    )
    await hub.store(lambda s: s.put_token(record))
    hub.tokens.put(record)
    return TokenCreated(id=record.id, token=token)


@router.get("/tokens")
async def listed(hub: ThisHub, caller: Local) -> list[TokenRecord]:
    """Lists all tokens ever created, by their hashes."""
    return hub.tokens.all()


@router.delete("/tokens/{token_id}", status_code=204, response_class=Response)
async def revoke(token_id: str, hub: ThisHub, caller: Local) -> Response:
    """Withdraws a token. Links and feeds that were opened with it end now.

    `oidc:` and a subject stands for all sign-ins of a person until now.
    """
    signed_in, _, subject = token_id.partition(":")
    if signed_in == "oidc" and hub.sign_ins is not None and hub.sign_ins.end_all(subject):
        await hub.save_sign_ins()
        hub.token_ended(token_id)
        return Response(status_code=204)
    record = hub.tokens.get(token_id)
    if record is None:
        raise Refused("unknown_token", "there is no such token", detail=token_id, fix="loradeck token ls")
    await revoke_all(hub, [record])
    return Response(status_code=204)


async def revoke_all(hub: Hub, records: Iterable[TokenRecord]) -> None:
    """Withdraws tokens and keys. Links and feeds that were opened with them end now."""
    for record in records:
        await _revoke(hub, record.model_copy(update={"revoked": True}))
    await hub.revocations.settle()


async def _revoke(hub: Hub, revoked: TokenRecord) -> None:
    await hub.store(lambda s: s.put_token(revoked))
    hub.tokens.put(revoked)
    hub.token_ended(revoked.id)
