"""The caller's own sign-in: who it is here, and its end."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from loradeck.hub.access.auth import bearer_of
from loradeck.hub.access.routes import Guarded
from loradeck.hub.access.sign_ins import is_signed_in
from loradeck.hub.api.parameters import ReaderOfEach, ThisHub, ViewerOfEach
from loradeck.rules.errors import Refused
from loradeck.schemas.state import Me

router = APIRouter(prefix="/v1", tags=["state"], route_class=Guarded)


@router.get("/me")
async def me(hub: ThisHub, caller: ReaderOfEach) -> Me:
    """Says who the caller is here, with its roles."""
    return hub.seen.me(caller)


@router.delete("/me/sign-in", status_code=204, response_class=Response)
async def sign_out(hub: ThisHub, caller: ViewerOfEach, request: Request) -> Response:
    """Ends the sign-in whose token this call shows. Feeds that this person has open end now."""
    bearer = bearer_of(request)
    if hub.sign_ins is None or bearer is None or not is_signed_in(caller.token):
        raise Refused(
            "forbidden",
            "only a person who has signed in can sign out",
            detail=caller.actor,
            fix="withdraw a token on the hub's host: loradeck token revoke ID",
        )
    hub.sign_ins.end(bearer)
    await hub.save_sign_ins()
    hub.token_ended(caller.token or "")
    return Response(status_code=204)
