"""What the log records without moving a pointer, whose generation stays.

Holds and quarantines keep a pointer in place, or a release off it, and a person ends that. Pins were made on a node.
Notes are about an earlier event. A node is forgotten where a person vouches that it answers nobody.
"""

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, Named, check_reason, drafted, expect_generation, tenant_draft
from loradeck.rules.moves.rollback_target import NO_FACTS, PointerFacts, breach_of, doubt_of
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.ids import Role, short
from loradeck.schemas.log import FLEET, TICKET, Draft, Event, EventKind, Lifted, PointerState
from loradeck.schemas.moves import AnnotateRequest, HoldRequest, LiftRequest, UnpinRequest
from loradeck.schemas.table import Pin


def hold(pointer: PointerState, request: HoldRequest, actor: Actor, set_by: Event | None = None) -> Draft:
    """Holds a pointer, or clears its hold (`request.held` False), which only a person may do.

    A hold that the hub sets by itself ends a candidate's plan as well: who clears it decides whether that goes on.

    `set_by`: the event that has set the hold, where that is known. A guard's is cleared with a reason.

    Raises: Refused: moved, no_change, forbidden, reason_required.
    """
    expect_generation(pointer, request.expected_generation)
    if pointer.held == request.held:
        where, verb = f"{pointer.tenant}/{pointer.route}", "release-hold" if pointer.held else "hold"
        raise Refused(
            "no_change",
            f"{where} is held already" if pointer.held else f"{where} is not held",
            fix=f"loradeck {verb} {pointer.tenant} {pointer.route}",
        )
    if not request.held and actor.role is Role.AGENT:
        raise Refused("forbidden", "a person clears a hold, an agent cannot")
    if not request.held and set_by is not None:
        check_reason(set_by, request.reason, "clearing the hold of")
    kind = EventKind.HOLD if request.held else EventKind.RELEASE_HOLD
    after, out = pointer.model_copy(update={"held": request.held}), pointer.candidate
    if request.held and actor.automation and out is not None and out.plan is not None and not out.plan.held:
        after = after.model_copy(update={"candidate": out.with_plan_held(request.reason or actor.name)})
    return drafted(kind, pointer, after, actor, reason=request.reason)


def lift(
    pointer: PointerState,
    request: LiftRequest,
    actor: Actor,
    facts: PointerFacts = NO_FACTS,
    *,
    live: Counts = NO_COUNTS,
    total: Counts = NO_COUNTS,
    name: Named = short,
) -> Draft:
    """Lifts a release's quarantine and breach on this pointer.

    The event names the moves that had set the quarantine, and the breach. Counts up to now no longer speak against the
    release.

    Args:
        live: the release's counts in this generation, if it is current.
        total: its counts over all time.
        name: gives a release's name in messages.

    Raises: Refused: not_quarantined (and not breached either), reason_required.
    """
    ended = [q.event for q in pointer.quarantined if q.release == request.release]
    breach = breach_of(request.release, pointer, facts) or doubt_of(request.release, pointer, facts)
    if not ended and breach is None:
        raise Refused("not_quarantined", f"{name(request.release)} is neither quarantined nor breached on this pointer")
    if not request.reason:
        raise Refused("reason_required", "lifting a quarantine or a breach needs a reason")
    after = pointer.model_copy(
        update={"quarantined": tuple(q for q in pointer.quarantined if q.release != request.release)}
    )
    payload: dict[str, object] = {"release": request.release, "events": ended}
    if breach is not None:
        payload["breach"] = breach
        lifted = Lifted(
            release=request.release,
            breach=facts.breaches.get(request.release, 0),
            generation=pointer.generation,
            live=live.without_in_flight() if pointer.release == request.release else NO_COUNTS,
            total=total.without_in_flight(),
        )
        others = tuple(known for known in pointer.lifted if known.release != request.release)
        after = after.model_copy(update={"lifted": (*others, lifted)})
    return drafted(EventKind.LIFT, pointer, after, actor, reason=request.reason, payload=payload)


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
    """Drafts the record that a node was forgotten: a person vouches that it answers nobody. It leaves the counts.

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
