"""Tokens: created and withdrawn only over the hub's own socket."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from loradeck.hub.access.auth import Caller, new_token, own_socket
from loradeck.hub.api.moves import hub_of
from loradeck.rules.errors import Refused
from loradeck.schemas.tenant import TokenCreate, TokenRecord

router = APIRouter(prefix="/v1", tags=["tokens"])

Local = Annotated[Caller, Depends(own_socket)]


class TokenCreated(BaseModel):
    """A token. It is shown this once; the hub keeps its hash."""

    id: str
    token: str


@router.post("/tokens")
async def create(body: TokenCreate, request: Request, caller: Local) -> TokenCreated:
    """Creates a token."""
    hub = hub_of(request)
    record, token = new_token(body, caller.actor)
    await hub.store(lambda s: s.put_token(record))
    hub.tokens.put(record)
    return TokenCreated(id=record.id, token=token)


@router.get("/tokens")
async def listed(request: Request, caller: Local) -> list[TokenRecord]:
    """All tokens ever created, by their hashes."""
    return hub_of(request).tokens.all()


@router.delete("/tokens/{token_id}", status_code=204, response_class=Response)
async def revoke(token_id: str, request: Request, caller: Local) -> Response:
    """Withdraws a token. Links and feeds that were opened with it end now."""
    hub = hub_of(request)
    record = hub.tokens.get(token_id)
    if record is None:
        raise Refused("unknown_token", "there is no such token", detail=token_id, fix="loradeck token list")
    revoked = record.model_copy(update={"revoked": True})
    await hub.store(lambda s: s.put_token(revoked))
    hub.tokens.put(revoked)
    hub.changes.revoked(token_id)
    hub.links.revoked(token_id)
    return Response(status_code=204)
