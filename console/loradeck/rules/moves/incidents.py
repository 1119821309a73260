"""Incidents in the log: an event opens one, or adds a pointer to it; further ones note something, and close it.

They move nothing. A move of a guard opens one by itself, and other moves may name one. `after` folds an incident.
"""

from collections.abc import Sequence
from typing import Any

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, is_guards, tenant_draft
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import (
    MOST_OPEN,
    MOST_POINTERS,
    Incident,
    IncidentOpen,
    IncidentPointer,
    IncidentText,
    Suspect,
)
from loradeck.schemas.log import Draft, Event, EventKind

_INCIDENT = "incident"
"""The name in an event's payload under which it says what it does to the incident that it names."""

_OPENS, _NOTES, _CLOSES = "open", "note", "close"


def opening(suspect: Suspect | None) -> dict[str, Any]:
    """The payload of an event that opens an incident, or adds its pointer to one."""
    found = suspect.model_dump(mode="json") if suspect is not None else None
    return {_INCIDENT: {"does": _OPENS, "suspect": found}}


def note_of(event: Event) -> str | None:
    """The text of a note for an incident; None: the event is none."""
    return event.reason if _does(event) == _NOTES else None


def _does(event: Event) -> str | None:
    said = event.payload.get(_INCIDENT)
    return said.get("does") if isinstance(said, dict) else None


def after(known: Incident | None, event: Event) -> Incident | None:
    """An incident after an event that names it; None: no event has opened it."""
    does = _does(event)
    if does == _OPENS and event.route is not None:
        suspect = event.payload[_INCIDENT]["suspect"]
        at = IncidentPointer(tenant=event.tenant, route=event.route, suspect=suspect, added_ms=event.at_ms)
        if known is None:
            known = Incident(
                id=event.incident or event.id, title=event.reason, by=event.actor, opened_ms=event.at_ms, pointers=(at,)
            )
        elif known.at(at.key) is None:
            known = known.model_copy(update={"pointers": (*known.pointers, at)})
    elif known is not None and does == _CLOSES:
        closed = {"closed_ms": event.at_ms, "closed_by": event.actor, "outcome": event.reason}
        known = known.model_copy(update=closed)
    if known is not None and known.closed_ms is None and is_guards(event) and not known.guard:
        known = known.model_copy(update={"guard": True})
    return known


def suspect_of(release: str, brought: Event | None) -> Suspect:
    """The release that an incident is about, with the move that brought it; None: that is not known."""
    if brought is None:
        return Suspect(release=release)
    return Suspect(
        release=release,
        left=brought.from_release,
        txn=brought.txn,
        by=brought.actor,
        promoted=brought.kind is EventKind.PROMOTE,
        at_ms=brought.at_ms,
    )


def open_(
    incident_id: str,
    known: Incident | None,
    request: IncidentOpen,
    at: Sequence[tuple[PointerKey, Suspect | None]],
    actor: Actor,
    *,
    others: int = 0,
) -> list[Draft]:
    """Opens an incident over some pointers, or adds those that it does not have.

    `others`: incidents that are open at the tenant of its first pointer.

    Raises: Refused: incident_closed, reason_required, too_many_incidents, too_many_pointers, no_change.
    """
    if known is not None and known.closed_ms is not None:
        raise Refused(
            "incident_closed", f"{incident_id} is closed", detail=known.outcome, fix="open another one, by another id"
        )
    if known is None and not request.reason:
        raise Refused("reason_required", "an incident needs a few words on what is wrong", fix="say it: --reason TEXT")
    if known is None and others >= MOST_OPEN:
        raise Refused("too_many_incidents", f"{others} incidents are open here", fix="close some: loradeck incident ls")
    new = [(key, suspect) for key, suspect in at if known is None or known.at(key) is None]
    if not new:
        fix = f"loradeck incident show {incident_id}"
        raise Refused("no_change", f"{incident_id} has these pointers already", fix=fix)
    if len(new) + (len(known.pointers) if known is not None else 0) > MOST_POINTERS:
        raise Refused("too_many_pointers", f"an incident has {MOST_POINTERS} pointers at most", fix="open another one")
    return [_draft(incident_id, key, actor, request.reason, opening(suspect)) for key, suspect in new]


def note(known: Incident, request: IncidentText, actor: Actor) -> Draft:
    """Adds a note to an incident, also to one that is closed."""
    return _draft(known.id, known.pointers[0].key, actor, request.text, {_INCIDENT: {"does": _NOTES}})


def close(known: Incident, request: IncidentText, actor: Actor) -> Draft:
    """Closes an incident, with what came of it. Raises: Refused: incident_closed."""
    if known.closed_ms is not None:
        raise Refused(
            "incident_closed",
            f"{known.id} is closed already",
            detail=f"by {known.closed_by}: {known.outcome}",
            fix=f"loradeck incident note {known.id} TEXT adds a note all the same",
        )
    return _draft(known.id, known.pointers[0].key, actor, request.text, {_INCIDENT: {"does": _CLOSES}})


def _draft(incident_id: str, key: PointerKey, actor: Actor, reason: str, payload: dict[str, Any]) -> Draft:
    return tenant_draft(EventKind.ANNOTATE, key[0], actor, reason, payload, route=key[1], incident=incident_id)
