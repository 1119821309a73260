"""`GET /v1/state`: everything a console lists, at one rev."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import ThisHub, ViewerOfEach
from loradeck.schemas.state import HubState

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
