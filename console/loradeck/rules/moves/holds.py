"""Holds and quarantines: what keeps a pointer in place, or a release off it, and how a person ends that.

Neither moves the pointer: its generation stays.
"""

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, Named, check_reason, drafted, expect_generation
from loradeck.rules.moves.rollback_target import NO_FACTS, PointerFacts, breach_of
from loradeck.schemas.counts import NO_COUNTS, Counts
from loradeck.schemas.ids import Role, short
from loradeck.schemas.log import Draft, Event, EventKind, Lifted, PointerState
from loradeck.schemas.moves import HoldRequest, LiftRequest


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
            live=live.without_in_flight() if pointer.release == request.release else NO_COUNTS,
            total=total.without_in_flight(),
        )
        others = tuple(known for known in pointer.lifted if known.release != request.release)
        after = after.model_copy(update={"lifted": (*others, lifted)})
    return drafted(EventKind.LIFT, pointer, after, actor, reason=request.reason, payload=payload)
