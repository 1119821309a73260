"""Incidents: what went wrong, from when to when, and who did and noted what."""

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter
from starlette.responses import Response

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.moves import actor_of, moved
from loradeck.hub.api.parameters import OperatorOfEach, ThisHub, ViewerOfEach
from loradeck.rules.errors import Refused
from loradeck.rules.moves import incidents
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import MOST_POINTERS, Incident, IncidentOpen, IncidentReport, IncidentText, Suspect
from loradeck.schemas.log import Draft
from loradeck.schemas.moves import MoveResult

router = APIRouter(prefix="/v1", tags=["incidents"], route_class=Guarded)


@router.get("/incidents")
async def listed(hub: ThisHub, caller: ViewerOfEach) -> list[Incident]:
    """Lists incidents, the newest first: all open ones, and the newest 500 that are closed."""
    every = [one for one in hub.incidents.all() if caller.sees(one.tenant)]
    return [
        one.model_copy(update={"pointers": tuple(at for at in one.pointers if caller.sees(at.tenant))}) for one in every
    ]


@router.get("/incidents/{incident}")
async def report(incident: str, hub: ThisHub, caller: ViewerOfEach) -> IncidentReport:
    """An incident with the events, the minutes and the notices of its time."""
    return await hub.incident_reports.of(hub.incidents.seen(incident, caller.sees), caller.sees)


@router.post("/incidents", response_model=MoveResult)
async def open_incident(body: IncidentOpen, hub: ThisHub, caller: OperatorOfEach) -> Response:
    """Opens an incident over some pointers, or adds them to one that is open. It moves nothing."""
    caller = caller.at(*(at.tenant for at in body.pointers))
    first = (body.pointers[0].tenant, body.pointers[0].route)
    incident_id = body.id or hub.incidents.new_id()

    async def decide() -> Sequence[Draft]:
        known = hub.incidents.get(incident_id)
        if known is not None and not caller.sees(known.tenant):
            raise Refused("incident_exists", "this id is taken", detail=incident_id, fix="choose another one")
        at: dict[PointerKey, Suspect | None] = {}
        for one in body.pointers:
            key = (one.tenant, one.route)
            pointer = hub.log.state.route(*key)[2]
            named = body.release if key == first else None
            if named is not None:
                hub.catalogue.known(one.tenant, named)
            at[key] = await hub.incidents.suspect(pointer, named)
        if body.relatives:
            begun = known.at(first) if known is not None else None
            for key in hub.related.keys(first, begun.suspect if begun is not None else at[first], caller.sees):
                at.setdefault(key, await hub.incidents.suspect(hub.log.state.pointer(key)))
        others = hub.incidents.open_at(first[0])
        return incidents.open_(
            incident_id, known, body, list(at.items())[:MOST_POINTERS], actor_of(caller), others=others
        )

    return await moved(hub, caller, body.idempotency_key, decide)


@router.post("/incidents/{incident}/notes", response_model=MoveResult)
async def note(incident: str, body: IncidentText, hub: ThisHub, caller: OperatorOfEach) -> Response:
    """Adds a note to an incident."""
    known = hub.incidents.seen(incident, caller.sees)
    caller = caller.at(known.tenant)
    return await moved(hub, caller, body.idempotency_key, partial(incidents.note, known, body, actor_of(caller)))


@router.post("/incidents/{incident}/close", response_model=MoveResult)
async def close(incident: str, body: IncidentText, hub: ThisHub, caller: OperatorOfEach) -> Response:
    """Closes an incident, with what came of it."""
    caller = caller.at(hub.incidents.seen(incident, caller.sees).tenant)

    def draft() -> Draft:
        return incidents.close(hub.incidents.seen(incident, caller.sees), body, actor_of(caller))

    return await moved(hub, caller, body.idempotency_key, draft)
