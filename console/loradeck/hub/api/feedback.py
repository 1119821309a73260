"""Feedback on answers: what nodes and people bring in, and who reads it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Maker, Releaser, ThisHub
from loradeck.hub.log.audit import draft_of, pass_over
from loradeck.rules.errors import Refused
from loradeck.schemas.feedback import FeedbackErase, FeedbackErased, FeedbackPage, FeedbackRows, FeedbackTaken
from loradeck.schemas.ids import LARGEST_INT, Name

router = APIRouter(prefix="/v1", tags=["feedback"], route_class=Guarded)

READING = "GET /v1/tenants/{tenant}/feedback"
"""The call of the audit trail's line about a reading."""


@router.post("/tenants/{tenant}/feedback")
async def put(tenant: Name, body: FeedbackRows, hub: ThisHub, request: Request, caller: Maker) -> FeedbackTaken:
    """Takes feedback that a router was given, or that a person imports. Taking it again changes nothing.

    It counts once the answer ledger has its request. What has none is dropped after a day.
    """
    node = caller.node
    if node is not None:
        keys = [key for key in hub.log.state.pointers if key[0] == tenant]
        if all(at.name != node for key in keys for at, _ in hub.replicas.placed(key)):
            raise Refused("forbidden", f"{node} serves no route of {tenant}", fix="only nodes that do bring feedback")
        pass_over(request)  # each row says which node it came over
    return await hub.feedback.take(tenant, body.rows, node or caller.actor, node=node is not None)


@router.get("/tenants/{tenant}/feedback", responses={503: {}, 507: {}})
async def listed(
    tenant: Name,
    hub: ThisHub,
    caller: Releaser,
    after: Annotated[int, Query(ge=0, le=LARGEST_INT, description="of the page before")] = 0,
    waiting: Annotated[bool, Query(description="only what nothing vouches for yet")] = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> FeedbackPage:
    """Lists a tenant's feedback, with its texts, oldest first. The audit trail has a reading before its answer goes."""
    page = await hub.feedback.page(tenant, after=after, waiting=waiting, limit=limit)
    await hub.audit.write(draft_of(caller, READING, {"tenant": tenant, "rows": str(len(page.rows))}))
    return page


@router.post("/tenants/{tenant}/feedback/erase")
async def erase(tenant: Name, body: FeedbackErase, hub: ThisHub, caller: Releaser) -> FeedbackErased:
    """Removes a tenant's feedback on one request, or whose words contain a text. The text is not kept anywhere.

    An attestation names the requests: nothing is trained on what was said of them.
    """
    which = {"request": body.request, "containing": body.containing}
    return FeedbackErased(removed=await hub.feedback.erase(tenant, caller.actor, **which))
