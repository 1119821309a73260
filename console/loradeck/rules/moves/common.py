"""The moves of a pointer. Each takes the state that is and what was asked, and gives the event to commit.

A pointer is a stack. promote (`forward`) pushes; rollback (`backward`) pops; fallback puts the base alone on top and
keeps the stack; undo puts back what was. Here is what they share, and what moves nothing: holds, lifts, pins and notes.
`generation` grows with every move and never comes back. A draft's `expected_generation` is the generation its state was
worked out from: the store compares it once more, inside the transaction.

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
"""What people call a release, given its id."""


NO_FACTS = PointerFacts()
NOTHING = Counts()


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who moves: the token's name or the login name, and the role it acts under."""

    name: str
    role: Role


def expect_generation(pointer: PointerState, expected: int) -> None:
    """Raises Refused `moved` unless the pointer is still where the caller saw it."""
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
    """The next state of a pointer."""
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
    """The event that takes a pointer from one state to another; its fence is the generation it was worked out from."""
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


# ---- what moves nothing ----------------------------------------------------------------------------------


def hold(pointer: PointerState, request: HoldRequest, actor: Actor) -> Draft:
    """Holds the pointer, or clears its hold (`request.held` False), which only a person may.

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
    """Ends what speaks against a release on this pointer: its quarantine, and its breach.

    The event names the moves that had set the quarantine, and what the breach was. What was counted until now
    no longer speaks against the release: `live` in this generation, if it is current, `total` in all its time.

    Raises:
        Refused: not_quarantined (it is not breached either), reason_required.
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
    """What a node says was chosen on it while nobody, or nobody else, could. The pointer stays as it is.

    Who did it is known by the node's word alone: a login name there, and the agent's role.
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
    """Ends a node's pin of this pointer. The pointer stays as it is; the hub tells the node.

    `until_ms`: when the pin that is meant was made, by its node's clock. What is pinned there later, unseen by
    who ends this one, stays.
    """
    payload: dict[str, object] = {"node": request.node}
    if until_ms is not None:
        payload["until_ms"] = until_ms
    return drafted(EventKind.UNPIN, pointer, pointer, actor, reason=request.reason, payload=payload)


def annotate(event: Event, request: AnnotateRequest, actor: Actor) -> Draft:
    """Adds an incident and a reason to an event of the past, as a new event that names it.

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
