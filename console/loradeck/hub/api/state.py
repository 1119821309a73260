"""`GET /v1/state`: everything a console lists, at one rev."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from loradeck.hub.api.moves import hub_of
from loradeck.hub.auth import Caller, allow
from loradeck.schemas.ids import Role
from loradeck.schemas.state import HubState, Me

router = APIRouter(prefix="/v1", tags=["state"])

Viewer = Annotated[Caller, Depends(allow(Role.VIEWER))]

BATCH = 10
"""Rows put together between two turns of the event loop, so that a move does not wait for a list."""

NEWEST_EVENTS = 200


@router.get("/state", response_model=HubState)
async def state(request: Request, caller: Viewer) -> Response:
    """The list that a console starts from; it then watches `/v1/feed?since=epoch:rev`."""
    hub = hub_of(request)
    # Taken before the first row: what changes meanwhile comes again over the feed.
    status = hub.status().model_dump_json()
    events = ",".join(e.model_dump_json() for e in list(hub.recent)[-NEWEST_EVENTS:])
    me = Me(actor=caller.actor, role=caller.role, local=caller.local).model_dump_json()
    rows: list[str] = []
    for i, key in enumerate(sorted(filter(hub.is_listed, hub.steer.entries))):
        rows.append(hub.feeds.row(key))
        if i % BATCH == BATCH - 1:
            await asyncio.sleep(0)
    nodes = ",".join(row.model_dump_json() for row in hub.rows.nodes())
    jobs = ",".join(job.model_dump_json() for job in hub.queue.all())
    return Response(
        f'{{"status":{status},"me":{me},"tenants":[{",".join(rows)}],"nodes":[{nodes}],"jobs":[{jobs}],"events":[{events}]}}',
        media_type="application/json",
    )
