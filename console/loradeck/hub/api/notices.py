"""Notices: what people were told outside the console, the channels, and silences."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Operator, ThisHub, Viewer
from loradeck.hub.hub import Hub
from loradeck.hub.notices.notifier import Notifier
from loradeck.rules.errors import Refused
from loradeck.schemas.notice import ChannelRef, Notice, NoticeList, Silence, SilenceRequest

router = APIRouter(prefix="/v1", tags=["notices"], route_class=Guarded)


def _notifier(hub: Hub) -> Notifier:
    """The hub's notifier. Raises: Refused `no_channels`."""
    if hub.notifier is None:
        fix = "start it with `loradeck hub --notices FILE`; docs/notices.md shows the file"
        raise Refused("no_channels", "this hub tells nobody anything: it has no file of channels", fix=fix)
    return hub.notifier


@router.get("/notices")
async def listed(hub: ThisHub, _: Viewer, limit: Annotated[int, Query(ge=1, le=2000)] = 50) -> NoticeList:
    """The newest notices, newest first, the channels without their addresses, and the silences."""
    return await _notifier(hub).listed(limit)


@router.post("/notices/test")
async def test(body: ChannelRef, hub: ThisHub, caller: Operator) -> Notice:
    """Tells one channel that this is a test."""
    return _notifier(hub).test(body.channel, caller.actor)


@router.post("/notices/retry")
async def retry(body: ChannelRef, hub: ThisHub, caller: Operator) -> int:
    """Gives a channel at once what waits for it or was given up; answers how many that are."""
    return _notifier(hub).outbox.again(body.channel)


@router.post("/silences")
async def silence(body: SilenceRequest, hub: ThisHub, caller: Operator) -> Silence:
    """Tells nobody of what matches for some time."""
    return await _notifier(hub).silence(body, caller.actor)


@router.delete("/silences/{silence_id}", status_code=204, response_class=Response)
async def unsilence(silence_id: str, hub: ThisHub, caller: Operator) -> Response:
    """Ends a silence."""
    await _notifier(hub).unsilence(silence_id)
    return Response(status_code=204)
