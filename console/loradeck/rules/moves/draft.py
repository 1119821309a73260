"""Drafts of moves: who moves, the check of the generation, the pointer's next state, and the event to commit.

A pointer is a stack. promote (`forward`) pushes; rollback (`rollbacks`) pops; fallback puts the base alone on top and
keeps the stack; undo restores an earlier state. Each takes a pointer's state and a request, and returns the event to
commit. `generation` grows with every move and never returns. A draft's `expected_generation` is the generation it was
computed from: the store compares it once more, inside the transaction.

A quarantine that a move sets is drafted with an empty `event`; `chain.seal` writes the event's id there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Role
from loradeck.schemas.log import AUTOMATION, CANDIDATE_ENDED, TICKET, Draft, Event, EventKind, PointerState

Named = Callable[[str | None], str]
"""Gives a release's name in messages, from its id."""


@dataclass(frozen=True, kw_only=True)
class Actor:
    """The author of a move: the name of the token or login, the role it acts under, and the token's id."""

    name: str
    role: Role
    token: str | None = None
    automation: bool = False
    """The hub moves by itself, as a schedule or guard: its events say so, and a press of R is rebased over them."""
    local: bool = False
    """It came over the hub's own socket, without a token."""
    ticket: str | None = None
    """The change ticket under which it moves."""


def expect_generation(pointer: PointerState, expected: int) -> None:
    """Checks that the pointer is still at the generation that the caller saw. Raises: Refused: moved."""
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
    """The pointer's next state: its generation grows by one, a candidate is out, and the given fields change."""
    return pointer.model_copy(update={"generation": pointer.generation + 1, "candidate": None, **update})


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
    """Drafts the event that takes a pointer from one state to another, fenced by the generation of the first.

    Its payload says whether automation moved, and which candidate has ended without becoming the live release.
    """
    facts = dict(payload or {})
    if actor.automation:
        facts[AUTOMATION] = True
    if actor.ticket is not None:
        facts[TICKET] = actor.ticket
    if before.candidate is not None and after.candidate is None and after.release != before.candidate.release:
        facts[CANDIDATE_ENDED] = before.candidate.release
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
        payload=facts,
        token=actor.token,
    )


def by_automation(event: Event) -> bool:
    """Tells whether the hub made a move by itself."""
    return event.payload.get(AUTOMATION) is True


def is_guards(event: Event) -> bool:
    """Tells whether a guard has rolled back or held a pointer by this event."""
    return by_automation(event) and event.kind in (EventKind.ROLLBACK, EventKind.HOLD)


def check_reason(event: Event, reason: str, verb: str) -> None:
    """Checks that whoever undoes what a guard did says why. Raises: Refused: reason_required."""
    if is_guards(event) and not reason.strip():
        raise Refused(
            "reason_required",
            f"{verb} what a guard did needs a reason",
            detail=event.reason,
            fix="say why: --reason TEXT; the event keeps it for ever",
            context={"event": event.id},
        )


def tenant_draft(
    kind: EventKind,
    tenant: str,
    actor: Actor,
    reason: str,
    payload: dict[str, object] | None = None,
    *,
    route: str | None = None,
    pointer: PointerState | None = None,
    incident: str | None = None,
) -> Draft:
    """The draft of an event that moves nothing: about a tenant, or about one of its routes."""
    return Draft(
        kind=kind,
        tenant=tenant,
        route=route,
        pointer=pointer,
        actor=actor.name,
        role=actor.role,
        reason=reason,
        incident=incident,
        payload=payload or {},
        token=actor.token,
    )
