"""Breaking the glass: one person on the hub's host acts where a route asks for two, and another countersigns it later.

What was done alone is marked in its event. It needs a person until somebody else has countersigned that event.
"""

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.records import note
from loradeck.schemas.log import Draft, Event
from loradeck.schemas.moves import CountersignRequest

BROKE = "broke_glass"
"""The name in an event's payload under which it says that one person acted where two are asked for."""

COUNTERSIGNS = "countersigns"
"""The name in an event's payload of the event that it countersigns."""


def check_alone(actor: Actor, reason: str) -> None:
    """Checks that a caller may act alone: on the hub's host, with a reason. Raises: local_only, reason_required."""
    if not actor.local:
        raise Refused(
            "local_only",
            "the glass is broken on the hub's host alone",
            detail=f"{actor.name} came in over TCP or with a token",
            fix="run it on the hub's host, without --hub and without a token, or ask somebody to do the same as you",
        )
    if not reason.strip():
        raise Refused("reason_required", "breaking the glass needs a reason", fix="say why: --break-glass REASON")


def was_alone(event: Event) -> bool:
    """Tells whether one person did this where two are asked for."""
    return event.payload.get(BROKE) is True


def countersigned_by(event: Event) -> str | None:
    """The id of the event that this one countersigns; None: it countersigns nothing."""
    return str(event.payload[COUNTERSIGNS]) if COUNTERSIGNS in event.payload else None


def countersign(event: Event, request: CountersignRequest, actor: Actor) -> Draft:
    """Drafts somebody's word that they have seen what another one did alone.

    Raises: Refused: second_person: whoever did it, or the hub's host, which is nobody in particular.
    """
    if actor.local or actor.name == event.actor:
        raise Refused(
            "second_person",
            f"{event.actor} did this alone on the hub's host, and somebody else countersigns it",
            detail=event.id,
            fix="somebody else, with a token or sign-in of their own: loradeck event countersign",
        )
    return note(event, request.reason, actor, **{COUNTERSIGNS: event.id})
