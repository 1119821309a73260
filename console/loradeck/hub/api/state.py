"""What a console begins with: who its caller is, everything it lists, at one rev, and the feed that it then watches."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from fastapi import APIRouter, Request, WebSocket
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocketDisconnect

from loradeck.hub.access.auth import authenticated, bearer_of
from loradeck.hub.access.problems import problem_of, problem_response
from loradeck.hub.access.routes import Guarded
from loradeck.hub.access.sign_ins import is_signed_in
from loradeck.hub.api.parameters import ReaderOfEach, ThisHub, ViewerOfEach
from loradeck.hub.hub import Hub
from loradeck.hub.views.feed import listen
from loradeck.rules.access import Action
from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Resource, Role
from loradeck.schemas.state import HubState, Me

log = logging.getLogger("loradeck.hub.api.state")

router = APIRouter(prefix="/v1", tags=["state"], route_class=Guarded)

K = TypeVar("K")

BATCH = 10
"""Rows serialised between two turns of the event loop, so that a move does not wait for a list."""

NEWEST_EVENTS = 200


@router.get("/state", response_model=HubState)
async def state(hub: ThisHub, caller: ViewerOfEach) -> Response:
    """The list that a console starts with; it then watches `/v1/feed?since=epoch:rev`."""
    # Taken before the first row: what changes meanwhile comes again over the feed.
    status = hub.status.now().model_dump_json()
    newest = [event for event in hub.log.recent if event.is_listed and caller.sees(event.tenant)][-NEWEST_EVENTS:]
    events = ",".join(e.model_dump_json() for e in newest)
    me = hub.seen.me(caller).model_dump_json()
    keys = sorted(key for key in hub.tables.entries if caller.sees(key[0]) and hub.feed.is_listed(key))

    async def parts() -> AsyncIterator[str]:
        # In pieces, as they are built: for a large fleet that takes seconds, and a reader may time out.
        yield f'{{"status":{status},"me":{me},"events":[{events}],"tenants":['
        async for piece in _joined(keys, hub.feed.row):
            yield piece
        yield '],"nodes":['
        async for piece in _joined(sorted(hub.seen.node_names(caller)), lambda name: hub.seen.node(caller, name)):
            yield piece
        jobs = ",".join(job.model_dump_json() for job in hub.jobs.newest() if caller.sees(job.tenant))
        yield f'],"jobs":[{jobs}]}}'

    return StreamingResponse(parts(), media_type="application/json")


async def _joined(keys: Sequence[K], row: Callable[[K], str | BaseModel]) -> AsyncIterator[str]:
    """The rows of an array, some at a time, with a turn of the event loop after them."""
    for at in range(0, len(keys), BATCH):
        rows = (row(key) for key in keys[at : at + BATCH])
        text = ",".join(one if isinstance(one, str) else one.model_dump_json() for one in rows)
        yield text if at == 0 else f",{text}"
        await asyncio.sleep(0)


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


RESET = 4410
"""Close code of a feed whose console has to list again."""


@router.websocket("/feed")
async def feed(socket: WebSocket, since: str = "", seq: int | None = None) -> None:
    """Sends a console everything after its cursor, and then every change, until it leaves or has to list again."""
    hub: Hub = socket.app.state.hub
    try:
        caller = authenticated(socket).checked(Action(resource=Resource.STATE, least=Role.VIEWER))
    except Refused as refused:
        await socket.send_denial_response(problem_response(problem_of(refused)))
        return
    await socket.accept()
    subscriber = hub.feed.subscribe(caller, since, seq)
    reader = asyncio.ensure_future(listen(subscriber, socket))
    writer = asyncio.ensure_future(hub.feed.send(subscriber, socket))
    try:
        await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        error = writer.exception() if writer.done() and not writer.cancelled() else None
        if isinstance(error, TimeoutError):
            log.warning("feed too slow actor=%s: disconnected", caller.actor)
            hub.metrics.feed_resets.inc()
        elif error is not None and not isinstance(error, WebSocketDisconnect):
            log.error("feed failed actor=%s", caller.actor, exc_info=error)
        elif writer.done() and error is None:
            hub.metrics.feed_resets.inc()
            await socket.close(RESET, subscriber.reset or "")
    finally:
        hub.changes.subscribers.discard(subscriber)
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)
