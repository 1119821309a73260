"""Pins that were made on a node, their end, notes about an earlier event, and forgotten nodes: what the log only records.

None of it moves a pointer: its generation stays.
"""

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, drafted, tenant_draft
from loradeck.schemas.ids import Role
from loradeck.schemas.log import FLEET, TICKET, Draft, Event, EventKind, PointerState
from loradeck.schemas.moves import AnnotateRequest, UnpinRequest
from loradeck.schemas.table import Pin


def pinned(pin: Pin, node: str) -> Draft:
    """Drafts the record of a pin that was made on a node, as the node reports it. The pointer stays as it is.

    Only the node vouches for the author: a login name there, under the agent's role.
    """
    return Draft(
        kind=EventKind.PIN,
        tenant=pin.tenant,
        route=pin.route,
        from_release=pin.left,
        actor=f"{pin.actor[:100]}{f'(uid {pin.uid})' if pin.uid is not None else ''}@{node}",
        role=Role.AGENT,
        reason=pin.reason[:500],
        payload={"node": node, "release": pin.release.id, "over": list(pin.over), "at_ms": pin.at_ms},
    )


def unpin(pointer: PointerState, request: UnpinRequest, actor: Actor, *, until_ms: int | None = None) -> Draft:
    """Ends a node's pin of this pointer. The pointer stays as it is; the hub passes the event to the node.

    `until_ms`: when the pin was made, by its node's clock. A later pin, which the caller has not seen, stays.
    """
    payload: dict[str, object] = {"node": request.node}
    if until_ms is not None:
        payload["until_ms"] = until_ms
    return drafted(EventKind.UNPIN, pointer, pointer, actor, reason=request.reason, payload=payload)


def annotate(event: Event, request: AnnotateRequest, actor: Actor) -> Draft:
    """Adds an incident and a reason to a past event, as a new event that names it.

    Raises: Refused: bad_request: neither is given.
    """
    if not request.reason and not request.incident and not request.ticket:
        raise Refused("bad_request", "an annotation needs an incident, a ticket or a reason")
    under = {TICKET: request.ticket} if request.ticket else {}
    return note(event, request.reason, actor, incident=request.incident, **under)


def note(event: Event, reason: str, actor: Actor, *, incident: str | None = None, **more: str) -> Draft:
    """The draft of a note about a past event, with whatever `more` its payload says."""
    payload: dict[str, object] = {"event": event.id, **more}
    return tenant_draft(EventKind.ANNOTATE, event.tenant, actor, reason, payload, route=event.route, incident=incident)


def forget(node: str, reason: str, actor: Actor, *, known: bool, linked: bool) -> Draft:
    """Drafts the record that a node was forgotten: a person vouches that it answers nobody, so that it leaves the counts.

    Args:
        known: the hub knows the node.
        linked: it has a link now, so it runs and may answer.

    Raises: Refused: unknown_node, node_linked.
    """
    if not known:
        raise Refused("unknown_node", f"there is no node {node!r}", fix="loradeck node ls")
    if linked:
        raise Refused(
            "node_linked",
            f"{node} is linked now, so it runs and may answer",
            fix="on its host: loradeck-agent stop; or place its routes elsewhere, and it leaves their counts by itself",
        )
    return tenant_draft(EventKind.NODE_FORGET, FLEET, actor, reason, {"node": node})
