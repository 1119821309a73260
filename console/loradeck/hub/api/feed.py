"""The WebSocket that consoles watch."""

import asyncio
import logging

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from loradeck.hub.access.auth import authenticated
from loradeck.hub.access.problems import problem_of, problem_response
from loradeck.hub.hub import Hub
from loradeck.hub.views.feed import listen
from loradeck.rules.access import Action
from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Resource, Role

log = logging.getLogger("loradeck.hub.api.feed")
router = APIRouter()

RESET = 4410
"""Close code of a feed whose console has to list again."""


@router.websocket("/v1/feed")
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
        elif writer.done():
            hub.metrics.feed_resets.inc()
            await socket.close(RESET, subscriber.reset or "")
    finally:
        hub.feed.unsubscribe(subscriber)
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)
