"""Candidates of one pointer: start, finish and abort, which move it, and steps of the share, which do not."""

from functools import partial

from fastapi import APIRouter
from starlette.responses import Response

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.moves import actor_of, moved, prepared
from loradeck.hub.api.parameters import PAGE, Operator, Releaser, ThisHub, Wait
from loradeck.rules.errors import Refused
from loradeck.rules.moves import candidate
from loradeck.schemas import moves
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft

router = APIRouter(prefix="/v1", tags=["candidates"], route_class=Guarded)


@router.post(PAGE + "/candidate/start", response_model=moves.MoveResult)
async def start(
    tenant: str, route: str, body: moves.CandidateStartRequest, hub: ThisHub, caller: Releaser, wait: Wait
) -> Response:
    """Prepares a release as a promote does, then gives it to a share of the callers beside the live one."""
    return await prepared(hub, (tenant, route), body, caller, wait)


@router.post(PAGE + "/candidate/step", response_model=moves.MoveResult)
async def step(tenant: str, route: str, body: moves.CandidateStepRequest, hub: ThisHub, caller: Operator) -> Response:
    """Changes the candidate's share. To widen it needs the role releaser."""

    async def draft() -> Draft:
        out = hub.log.state.route(tenant, route)[2].candidate
        if out is not None and body.permille > out.permille and not caller.role.covers(Role.RELEASER):
            raise Refused("forbidden", "a wider share needs the releaser role", detail=f"{caller.actor}: {caller.role}")
        return await hub.promotions.check.stepped((tenant, route), body, actor_of(caller, body.ticket))

    return await moved(hub, caller, body.idempotency_key, draft)


@router.post(PAGE + "/candidate/compare", response_model=moves.MoveResult)
async def compare(
    tenant: str, route: str, body: moves.CandidateCompareRequest, hub: ThisHub, caller: Releaser
) -> Response:
    """Begins an A/B. Its result is attested at the horizon that is stated here, and moves nothing."""

    draft = partial(hub.promotions.check.compared, (tenant, route), body, actor_of(caller, body.ticket))
    return await moved(hub, caller, body.idempotency_key, draft)


@router.post(PAGE + "/candidate/hold", response_model=moves.MoveResult)
async def hold(tenant: str, route: str, body: moves.CandidateHoldRequest, hub: ThisHub, caller: Operator) -> Response:
    """Stops the steps that the hub makes by itself, or lets it go on. To let it go on needs the role releaser."""

    def draft() -> Draft:
        pointer = hub.log.state.route(tenant, route)[2]
        if not body.held and not caller.role.covers(Role.RELEASER):
            raise Refused(
                "forbidden", "to resume steps needs the releaser role", detail=f"{caller.actor}: {caller.role}"
            )
        return candidate.hold(pointer, body, actor_of(caller))

    return await moved(hub, caller, body.idempotency_key, draft)


@router.post(PAGE + "/candidate/finish", response_model=moves.MoveResult)
async def finish(
    tenant: str, route: str, body: moves.CandidateFinishRequest, hub: ThisHub, caller: Releaser, wait: Wait
) -> Response:
    """Makes the candidate the live release."""
    hub.log.state.route(tenant, route)

    draft = partial(hub.promotions.check.drafted, (tenant, route), body, actor_of(caller, body.ticket))
    return await moved(hub, caller, body.idempotency_key, draft, wait)


@router.post(PAGE + "/candidate/abort", response_model=moves.MoveResult)
async def abort(
    tenant: str, route: str, body: moves.CandidateAbortRequest, hub: ThisHub, caller: Operator, wait: Wait
) -> Response:
    """Ends the candidate: all callers get the live release."""

    def draft() -> Draft:
        return candidate.abort(hub.log.state.route(tenant, route)[2], body, actor_of(caller, body.ticket))

    return await moved(hub, caller, body.idempotency_key, draft, wait)
