"""Jobs: submit, look, cancel."""

from __future__ import annotations

from fastapi import APIRouter, Request

from loradeck.hub.api.moves import Operator, Releaser, Viewer, hub_of
from loradeck.schemas.jobs import ExecutorEvent, Job, JobRequest

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.post("/jobs")
async def submit(body: JobRequest, request: Request, caller: Releaser) -> Job:
    """Queue a train, evaluate or merge job."""
    return await hub_of(request).queue.submit(body, caller.actor)


@router.get("/jobs")
async def listed(request: Request, caller: Viewer) -> list[Job]:
    """Unfinished ones and the newest finished ones, newest first."""
    return hub_of(request).queue.all()


@router.get("/jobs/{job}")
async def one(job: str, request: Request, caller: Viewer) -> Job:
    return await hub_of(request).queue.known(job)


@router.get("/jobs/{job}/events")
async def events(job: str, request: Request, caller: Viewer) -> list[ExecutorEvent]:
    """What its executor said since this hub started, the newest thousand."""
    hub = hub_of(request)
    await hub.queue.known(job)
    return hub.queue.events(job)


@router.post("/jobs/{job}/cancel")
async def cancel(job: str, request: Request, caller: Operator) -> Job:
    """Stop a job. One that is over stays as it is."""
    return await hub_of(request).queue.cancel(job, caller.actor)
