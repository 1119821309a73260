"""Jobs: submit, look, cancel, resume."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.moves import actor_of, move
from loradeck.hub.api.parameters import OperatorOfEach, Releaser, ReleaserOfEach, ThisHub, ViewerOfEach
from loradeck.rules.errors import Refused
from loradeck.rules.moves.tenants import override_training
from loradeck.schemas.decision import Decided, DecideRequest
from loradeck.schemas.executor import ExecutorEvent
from loradeck.schemas.ids import Name
from loradeck.schemas.jobs import Job, JobLogLine, JobQuery, JobRequest, ProveSpec
from loradeck.schemas.log import FLEET

router = APIRouter(prefix="/v1", tags=["jobs"], route_class=Guarded)

Attempt = Annotated[int, Query(ge=0)]


@router.post("/jobs")
async def submit(body: JobRequest, hub: ThisHub, caller: ReleaserOfEach) -> Job:
    """Queues a train, evaluate, merge or prove job. An `override` passes the freezes of now, and each is an event."""
    caller.at(FLEET if isinstance(body.spec, ProveSpec) else body.spec.tenant)

    async def overridden(job: str, frozen: tuple[Refused, ...]) -> None:
        tenant, actor = hub.log.state.tenant(body.spec.tenant), actor_of(caller)
        drafted = partial(override_training, tenant, job, actor=actor, reason=body.override)
        await move(hub, caller, f"training {job}", lambda: [drafted(one) for one in frozen])

    return await hub.queue.submit(body, caller.actor, overridden)


@router.post("/tenants/{tenant}/decisions", responses={404: {}})
async def decide(tenant: Name, body: DecideRequest, hub: ThisHub, caller: Releaser) -> Decided:
    """Makes a worksheet of evaluate jobs that are done, and keeps it. The same jobs and prices give the same one."""
    digest, made = await hub.decisions.decide(tenant, body, caller.actor)
    return Decided(digest=digest, worksheet=made)


@router.get("/jobs")
async def listed(query: Annotated[JobQuery, Query()], hub: ThisHub, caller: ViewerOfEach) -> list[Job]:
    """The jobs that fit, of all that were ever submitted, newest first; `before` a job continues the list."""
    return await hub.jobs.find(query, caller.sees)


@router.get("/jobs/{job}")
async def one(job: str, hub: ThisHub, caller: ViewerOfEach) -> Job:
    """Returns one job by its id."""
    return await hub.jobs.known(job, caller.sees)


@router.get("/jobs/{job}/events")
async def events(
    job: str, hub: ThisHub, caller: ViewerOfEach, attempt: Attempt = 0, seq: Annotated[int, Query(ge=-1)] = -1
) -> list[ExecutorEvent]:
    """The newest thousand events of its executor since the hub started, after the event (attempt, seq)."""
    await hub.jobs.known(job, caller.sees)
    return hub.jobs.events(job, attempt=attempt, seq=seq)


@router.get("/jobs/{job}/log")
async def log(
    job: str, hub: ThisHub, caller: ViewerOfEach, attempt: Attempt = 0, number: Annotated[int, Query(ge=0)] = 0
) -> list[JobLogLine]:
    """The newest thousand lines that its executor printed since the hub started, after the line (attempt, number)."""
    await hub.jobs.known(job, caller.sees)
    return hub.queue.logs.after(job, attempt, number)


@router.post("/jobs/{job}/cancel")
async def cancel(job: str, hub: ThisHub, caller: OperatorOfEach) -> Job:
    """Stops a job. One that is over stays as it is."""
    await hub.jobs.known(job, caller.sees)
    return await hub.queue.cancel(job, caller.actor)


@router.post("/jobs/{job}/resume")
async def resume(job: str, hub: ThisHub, caller: OperatorOfEach) -> Job:
    """Queues a failed or cancelled job again, as its next attempt. An unfinished job stays as it is."""
    await hub.jobs.known(job, caller.sees)
    return await hub.queue.resume(job, caller.actor)
