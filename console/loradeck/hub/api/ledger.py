"""The answer ledger: segments from nodes, and what stood behind an answer."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Maker, ThisHub, ViewerOfEach
from loradeck.rules.errors import Refused
from loradeck.schemas.answer_ledger import Explained
from loradeck.schemas.ids import LARGEST_INT, Digest, Name
from loradeck.schemas.ledger_segment import SegmentKept

router = APIRouter(prefix="/v1", tags=["tenants"], route_class=Guarded)


@router.put("/ledger/{tenant}/{sha256}")
async def put(tenant: Name, sha256: Digest, hub: ThisHub, request: Request, caller: Maker) -> SegmentKept:
    """Takes a segment of the answer ledger from the node that made it. Taking it again changes nothing."""
    if caller.node is None:
        raise Refused("forbidden", "segments of the answer ledger come from nodes", detail=caller.actor)
    return SegmentKept(kept=await hub.ledger.take(caller.node, tenant, sha256, await request.body()))


@router.get("/requests/{request_id}", responses={409: {}})
async def explain(
    request_id: Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,64}$")],
    hub: ThisHub,
    caller: ViewerOfEach,
    tenant: Name | None = None,
    at_ms: Annotated[int | None, Query(ge=0, le=LARGEST_INT, description="about when it was asked")] = None,
) -> Explained:
    """Explains an answer by the x-request-id that its caller got: release, base, data, gate, move, and their proof.

    Without `tenant` all that the caller sees are searched; without `at_ms` the time that the id begins with, or the
    last two days where it has none.
    """
    if tenant is not None:
        caller.at(tenant)
    return await hub.explanations.of(request_id, tenant=tenant, at_ms=at_ms, sees=caller.sees)
