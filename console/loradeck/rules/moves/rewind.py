"""Rewind: every selected pointer goes back to its release at an earlier rev, in one transaction.

A dry run gives a plan. Executing sends the plan's generations back, so that exactly the moves that were shown are made:
a pointer that moved since, or that the plan lacks, stays and is listed.
"""

from collections.abc import Collection, Mapping

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, drafted, moved
from loradeck.rules.moves.rollback_target import NO_FACTS, PointerFacts, ruled_out
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Draft, EventKind, PointerState
from loradeck.schemas.moves import RewindPlan, RewindRequest, RewindStep


def plan(
    now: Mapping[PointerKey, PointerState],
    then: Mapping[PointerKey, PointerState],
    request: RewindRequest,
    facts: Mapping[PointerKey, PointerFacts],
    *,
    to_rev: int,
    at_ms: int | None,
    known: Collection[str],
    offboarded: Collection[str] = (),
) -> RewindPlan:
    """Plans a rewind to `to_rev`: the step of each pointer, sorted by name.

    Pointers that already serve the release of that time, to all callers, are left out.

    Args:
        then: pointers as they were at `to_rev`.
        at_ms: the time asked for, if the rewind was asked for by time.
        known: ids of releases that are still registered and kept.
        offboarded: tenants that are gone.

    Raises: Refused: plan_required: it is to be executed, and no plan was sent back.
    """
    steps, asked = [], frozenset(request.tenants)
    for key in sorted(now):
        pointer = now[key]
        if (asked and pointer.tenant not in asked) or pointer.tenant in offboarded:
            continue
        was = then.get(key)
        target = was.release if was is not None else None
        if target == pointer.release and pointer.candidate is None:
            continue
        skipped = _why_not(pointer, target, facts.get(key, NO_FACTS), request, known)
        steps.append(
            RewindStep(
                tenant=pointer.tenant,
                route=pointer.route,
                generation=pointer.generation,
                from_release=pointer.release,
                to_release=target,
                candidate=pointer.candidate.release if pointer.candidate is not None else None,
                skipped=skipped,
            )
        )
    if steps and not request.dry_run and not request.generations:
        raise Refused("plan_required", "executing a rewind sends its plan back", fix="ask for a dry run first")
    return RewindPlan(to_rev=to_rev, at_ms=at_ms, steps=tuple(steps))


def _why_not(
    pointer: PointerState, target: str | None, facts: PointerFacts, request: RewindRequest, known: Collection[str]
) -> str | None:
    if not request.dry_run:
        seen = request.generations.get(f"{pointer.tenant}/{pointer.route}")
        if seen is None:
            return "not in the plan"
        if seen != pointer.generation:
            return f"moved since the plan: generation {pointer.generation}, the plan saw {seen}"
    if target is None:
        return "nothing was live then"
    if target not in known:
        return "that release is no longer kept"
    return ruled_out(target, pointer, facts)


def drafts(
    plan: RewindPlan,
    now: Mapping[PointerKey, PointerState],
    then: Mapping[PointerKey, PointerState],
    request: RewindRequest,
    actor: Actor,
    *,
    known: Collection[str],
) -> list[Draft]:
    """The events of a plan, for one transaction. Release and beneath are those of that time; holds and quarantines
    stay, and a candidate is out.

    `known`: ids of the releases that are still registered; others are dropped from the stack beneath.
    """
    events = []
    for step in plan.steps:
        if step.skipped is not None:
            continue
        pointer, was = now[step.tenant, step.route], then[step.tenant, step.route]
        after = moved(pointer, release=was.release, beneath=tuple(r for r in was.beneath if r in known))
        payload: dict[str, object] = {"to_rev": plan.to_rev}
        why, incident = request.reason, request.incident
        events.append(drafted(EventKind.REWIND, pointer, after, actor, reason=why, incident=incident, payload=payload))
    return events
