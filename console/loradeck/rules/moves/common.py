"""Building blocks of moves, and the events that move nothing: holds, lifts, pins and annotations.

A pointer is a stack. promote (`forward`) pushes; rollback (`backward`) pops; fallback puts the base alone on top and
keeps the stack; undo restores an earlier state. Each takes a pointer's state and a request, and returns the event to
commit. `generation` grows with every move and never returns. A draft's `expected_generation` is the generation it was
computed from: the store compares it once more, inside the transaction.

A quarantine that a move sets is drafted with an empty `event`; `chain.seal` writes the event's id there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loradeck.rules.errors import Refused
from loradeck.rules.moves.target import PointerFacts, breach_of
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import Role, short
from loradeck.schemas.log import Draft, Event, EventKind, Lifted, PointerState
from loradeck.schemas.moves import AnnotateRequest, HoldRequest, LiftRequest, UnpinRequest
from loradeck.schemas.table import Pin

Named = Callable[[str | None], str]
"""Gives a release's name in messages, from its id."""


NO_FACTS = PointerFacts()
NOTHING = Counts()


@dataclass(frozen=True, kw_only=True)
class Actor:
    """The author of a move: the name of the token or login, and the role it acts under."""

    name: str
    role: Role


def expect_generation(pointer: PointerState, expected: int) -> None:
    """Checks that the pointer is still at the generation that the caller saw.

    Raises:
        Refused: moved.
    """
    if pointer.generation != expected:
        raise Refused(
            "moved",
            f"{pointer.tenant}/{pointer.route} has moved since: it is at generation {pointer.generation}",
            detail=f"the request expected generation {expected}",
            fix="look at it again and decide anew",
            context={
                "generation": pointer.generation,
                "expected_generation": expected,
                "release": pointer.release,
                "last_move": pointer.last_move,
            },
        )


def moved(pointer: PointerState, **update: object) -> PointerState:
    """The pointer's next state: its generation grows by one, and the given fields change."""
    return pointer.model_copy(update={"generation": pointer.generation + 1, **update})


def drafted(
    kind: EventKind,
    before: PointerState,
    after: PointerState,
    actor: Actor,
    *,
    reason: str,
    incident: str | None = None,
    override: bool = False,
    undoes: tuple[str, ...] = (),
    payload: dict[str, object] | None = None,
) -> Draft:
    """Drafts the event that takes a pointer from one state to another, fenced by the generation of the first."""
    return Draft(
        kind=kind,
        tenant=before.tenant,
        route=before.route,
        pointer=after,
        expected_generation=before.generation,
        from_release=before.release,
        actor=actor.name,
        role=actor.role,
        reason=reason,
        incident=incident,
        override=override,
        undoes=undoes,
        payload=payload or {},
    )


# ---- events that move nothing ----------------------------------------------------------------------------


def hold(pointer: PointerState, request: HoldRequest, actor: Actor) -> Draft:
    """Holds a pointer, or clears its hold (`request.held` False), which only a person may do.

    Raises:
        Refused: moved, no_change, forbidden.
    """
    expect_generation(pointer, request.expected_generation)
    if pointer.held == request.held:
        raise Refused("no_change", "it is held already" if request.held else "it is not held")
    if not request.held and actor.role is Role.AGENT:
        raise Refused("forbidden", "a person clears a hold, an agent cannot")
    kind = EventKind.HOLD if request.held else EventKind.RELEASE_HOLD
    after = pointer.model_copy(update={"held": request.held})
    return drafted(kind, pointer, after, actor, reason=request.reason)


def lift(
    pointer: PointerState,
    request: LiftRequest,
    actor: Actor,
    facts: PointerFacts = NO_FACTS,
    *,
    live: Counts = NOTHING,
    total: Counts = NOTHING,
    name: Named = short,
) -> Draft:
    """Lifts a release's quarantine and breach on this pointer.

    The event names the moves that had set the quarantine, and the breach. Counts up to now no longer speak against the
    release.

    Args:
        live: the release's counts in this generation, if it is current.
        total: its counts over all time.
        name: gives a release's name in messages.

    Raises:
        Refused: not_quarantined (and not breached either), reason_required.
    """
    ended = [q.event for q in pointer.quarantined if q.release == request.release]
    breach = breach_of(request.release, pointer, facts)
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
            live=live if pointer.release == request.release else NOTHING,
            total=total,
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
        actor=f"{pin.actor[:100]}@{node}",
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

    Raises:
        Refused: bad_request: neither is given.
    """
    if not request.reason and not request.incident:
        raise Refused("bad_request", "an annotation needs an incident or a reason")
    return Draft(
        kind=EventKind.ANNOTATE,
        tenant=event.tenant,
        route=event.route,
        actor=actor.name,
        role=actor.role,
        reason=request.reason,
        incident=request.incident,
        payload={"event": event.id},
    )
