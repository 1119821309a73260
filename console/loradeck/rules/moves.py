"""The moves of a pointer. Each takes the state that is and what was asked, and gives the event to commit.

A pointer is a stack. promote pushes; rollback pops; fallback puts the base alone on top and keeps the stack;
undo puts back what was. `generation` grows with every move and never comes back. A draft's
`expected_generation` is the generation its state was worked out from: the store compares it once more, inside
the transaction.

A quarantine that a move sets is drafted with an empty `event`; `chain.seal` writes the event's id there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from loradeck.rules.errors import Refused
from loradeck.rules.fold import Key
from loradeck.rules.target import PointerFacts, Target, breach_of
from loradeck.schemas.attestation import GateResult
from loradeck.schemas.health import Health
from loradeck.schemas.ids import Role, short
from loradeck.schemas.log import MOVES, Draft, Event, EventKind, Lifted, PointerState, Quarantine
from loradeck.schemas.moves import (
    AnnotateRequest,
    FallbackRequest,
    HoldRequest,
    LiftRequest,
    PromoteRequest,
    RollbackRequest,
    UndoRequest,
    UnpinRequest,
)
from loradeck.schemas.release import Release
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.table import Pin
from loradeck.schemas.tenant import TenantState

BENEATH_LIMIT = 10
"""Releases kept beneath the current one. Each event carries them, so the stack must not grow for ever."""


Named = Callable[[str | None], str]
"""What people call a release, given its id."""


NO_FACTS = PointerFacts()
NOTHING = Health()


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who moves: the token's name or the login name, and the role it acts under."""

    name: str
    role: Role


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """R met a pending prepare: that job is cancelled and nothing moves."""

    prepare: str


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


# ---- back ------------------------------------------------------------------------------------------------


def rollback(
    pointer: PointerState, request: RollbackRequest, target: Target, actor: Actor, *, name: Named = short
) -> Draft | Cancel:
    """R. `target` is what `rollback_target` says now; the request must name the same one.

    The left release is quarantined (never base alone), the pointer is held, and what lay under the target
    stays beneath.

    Raises:
        Refused: moved, target_changed, needs_confirmation, no_prior.
    """
    expect_generation(pointer, request.expected_generation)
    if target.action is PreviewAction.CANCEL_PREPARE and target.prepare is not None:
        if request.cancels != target.prepare:
            raise _target_changed(target, f"a promote is being prepared ({target.prepare}): R would cancel that")
        return Cancel(prepare=target.prepare)
    if request.cancels is not None:
        raise _target_changed(target, f"the prepare {request.cancels} is no longer pending")
    if target.action is not PreviewAction.ROLLBACK or target.release is None:
        raise Refused(
            "no_prior",
            target.refused or "there is no release to go back to",
            detail=", ".join(f"{name(release)} {why}" for release, why in target.skipped),
            fix="fall back to the base alone" if target.action is PreviewAction.FALLBACK else "promote a fit release",
            context={"skipped": [list(s) for s in target.skipped]},
        )
    if request.to != target.release:
        asked = f"the request names {name(request.to)}" if request.to else "the request names no target"
        raise _target_changed(target, f"R now goes to {name(target.release)}; {asked}")
    if target.asks is not None and not request.confirmed:
        raise Refused(
            "needs_confirmation",
            f"R goes to a release that is {target.asks}",
            detail=f"target {name(target.release)}",
            fix="confirm it, or fall back to the base alone",
            context={"to": target.release, "asks": target.asks},
        )
    depth = pointer.beneath.index(target.release)
    after = _moved(
        pointer,
        release=target.release,
        beneath=pointer.beneath[depth + 1 :],
        held=True,
        quarantined=pointer.quarantined if target.live_is_base else _quarantining_live(pointer),
    )
    return _move(EventKind.ROLLBACK, pointer, after, actor, reason=request.reason, incident=request.incident)


def fallback(
    pointer: PointerState, request: FallbackRequest, actor: Actor, base_release_id: str, *, allowed: bool
) -> Draft:
    """F: to the base alone of the current release. The stack beneath stays, so that R later leaves the base.

    Raises:
        Refused: moved, nothing_live, already_live, fallback_not_allowed.
    """
    expect_generation(pointer, request.expected_generation)
    if pointer.release is None:
        raise Refused("nothing_live", f"nothing is live on {pointer.tenant}/{pointer.route}", fix="promote a release")
    if pointer.release == base_release_id:
        raise Refused("already_live", "the base alone is live already")
    if not allowed:
        raise Refused(
            "fallback_not_allowed",
            f"{pointer.tenant}/{pointer.route} allows no fallback to the base alone",
            fix="set `fallback` in the route's settings, or roll back",
        )
    after = _moved(pointer, release=base_release_id, quarantined=_quarantining_live(pointer))
    return _move(EventKind.FALLBACK, pointer, after, actor, reason=request.reason)


def undo(
    pointers: Mapping[Key, PointerState],
    undone: Sequence[Event],
    before: Mapping[Key, PointerState],
    request: UndoRequest,
    actor: Actor,
    *,
    revoked: Mapping[str, str] | None = None,
    name: Named = short,
) -> list[Draft]:
    """Puts every pointer back to what it was before the undone events; all of them or none.

    `before` is each pointer's state before its undone event (absent: it did not exist). Release and beneath
    come back exactly. Held and quarantined come back as far as the undone event changed them: a hold or a
    lift that a person made since is theirs, and stays. An undo is itself an event, so undoing it is a redo.

    Raises:
        Refused: bad_request, unknown_event, not_undoable, moved, revoked.
    """
    if (request.event is None) == (request.txn is None):
        raise Refused("bad_request", "an undo names one event or one txn", fix="send `event` or `txn`, not both")
    if not undone:
        raise Refused("unknown_event", f"there is no {'event' if request.event else 'txn'} to undo by that id")
    drafts = []
    for event in undone:
        after = event.pointer
        if event.kind not in MOVES or event.kind is EventKind.RECOVER or after is None:
            raise Refused(
                "not_undoable",
                f"a {event.kind.value} cannot be undone",
                detail=f"event {event.id}",
                fix="hold, lift, suspend and settings have their own opposites",
            )
        now = pointers.get(after.key)
        if now is None or now.last_move != event.id:
            raise Refused(
                "moved",
                f"{after.tenant}/{after.route} has moved since",
                detail=f"event {event.id} is not its last move",
                fix="undo its last move, or roll back",
                context={
                    "generation": now.generation if now else None,
                    "release": now.release if now else None,
                    "last_move": now.last_move if now else None,
                },
            )
        was = before.get(after.key) or PointerState(tenant=after.tenant, route=after.route)
        if was.release is not None and was.release in (revoked or {}):
            raise Refused(
                "revoked",
                f"{name(was.release)}, which was live before, is revoked",
                detail=(revoked or {})[was.release],
                fix="roll back instead",
            )
        restored = _moved(
            now,
            release=was.release,
            beneath=was.beneath,
            held=was.held if was.held != after.held else now.held,
            quarantined=_quarantined_before(now, was, after),
        )
        drafts.append(_move(EventKind.UNDO, now, restored, actor, reason=request.reason, undoes=(event.id,)))
    return drafts


def _quarantined_before(now: PointerState, was: PointerState, after: PointerState) -> tuple[Quarantine, ...]:
    """Without those that the undone event set, with those that it took away."""
    if now.quarantined == after.quarantined:
        return was.quarantined
    kept = tuple(q for q in now.quarantined if q in was.quarantined or q not in after.quarantined)
    back = tuple(q for q in was.quarantined if q not in after.quarantined and q not in kept)
    return kept + back


# ---- forward ---------------------------------------------------------------------------------------------


def check_promote(
    pointer: PointerState,
    request: PromoteRequest,
    facts: PointerFacts,
    config: RouteConfig,
    *,
    actor: Actor,
    release: Release | None,
    gate_results: Sequence[GateResult],
    tenant: TenantState,
    now_ms: int,
    slots_ok: bool,
    base_placed: bool,
    revoked: str | None = None,
    memory_short: str = "",
    left_behind: Sequence[str] = (),
    name: Named = short,
) -> tuple[str, ...]:
    """Whether a promote may go ahead; asked before its prepare and again before its commit.

    `release`: what the registry holds under the requested id. `gate_results`: oldest first; the newest one
    of this release against the live one on the route's suite decides. `slots_ok`: every placed replica has a
    slot for the candidate and for what it would leave. `base_placed`: a placed replica runs its base.
    `revoked`: why the candidate was revoked.

    `memory_short`: where memory does not hold the candidate's engine beside those that must run. `left_behind`:
    nodes that serve the pointer now and have no engine of the candidate's base.

    An override (releaser, with a reason) passes the gate, the freeze window, `no_memory` and `left_behind`, and
    nothing else. Returns the codes it passed: () where none was needed.

    Raises:
        Refused: offboarded, suspended, moved, unknown_release, wrong_tenant, already_live, quarantined,
            revoked, held, wrong_base, no_slot, forbidden, reason_required, frozen, gate_missing, gate_failed,
            suite_too_small, no_memory, left_behind.
    """
    where = f"{pointer.tenant}/{pointer.route}"
    if tenant.offboarded:
        raise Refused("offboarded", f"{tenant.name} is offboarded", fix="create a new tenant")
    if tenant.suspended:
        raise Refused("suspended", f"{tenant.name} is suspended: nothing is promoted", fix="resume the tenant first")
    expect_generation(pointer, request.expected_generation)
    if release is None or release.id != request.release:
        raise Refused(
            "unknown_release", f"no release {name(request.release)} is registered", fix="register its adapter version"
        )
    if release.tenant != pointer.tenant:
        raise Refused("wrong_tenant", f"{name(request.release)} is a release of {release.tenant}", detail=where)
    if pointer.release == request.release:
        raise Refused("already_live", f"{name(request.release)} is live on {where} already")
    for quarantine in pointer.quarantined:
        if quarantine.release == request.release:
            raise Refused(
                "quarantined",
                f"{name(request.release)} is quarantined on {where}",
                detail=f"since event {quarantine.event}",
                fix=f"loradeck lift {where} {short(request.release)} --reason WHY; no override passes it",
                context={"event": quarantine.event},
            )
    why_revoked = revoked if revoked is not None else facts.revoked.get(request.release)
    if why_revoked is not None:
        raise Refused("revoked", f"{name(request.release)} is revoked", detail=why_revoked, fix="promote another one")
    if pointer.held:
        raise Refused(
            "held",
            f"{where} is held: nothing is promoted until a person clears it",
            fix="release the hold",
            context={"last_move": pointer.last_move},
        )
    if not base_placed:
        raise Refused(
            "wrong_base",
            f"no replica placed for {where} runs the base of {name(request.release)}",
            detail=f"base {short(release.served_base)}",
            fix="start an engine with that base on a node with the route's labels",
        )
    if not slots_ok:
        raise Refused(
            "no_slot",
            "a placed replica has no slot for the candidate beside the release it would leave",
            detail=where,
            fix="raise the engine's slots, or move a tenant away",
        )
    if request.override:
        if actor.role is not Role.RELEASER:
            raise Refused("forbidden", "an override needs the releaser role", detail=f"{actor.name}: {actor.role}")
        if not request.reason:
            raise Refused("reason_required", "an override needs a reason", fix="say why; the event keeps it for ever")
    passed = []
    for refusal in (
        _freeze_refusal(config, now_ms),
        _gate_refusal(pointer, request.release, config, gate_results, name),
        _memory_refusal(memory_short),
        _left_behind_refusal(where, left_behind),
    ):
        if refusal is not None:
            if not request.override:
                raise refusal
            passed.append(refusal.code)
    return tuple(passed)


def promote(
    pointer: PointerState, request: PromoteRequest, actor: Actor, *, live_attested: bool, overridden: Sequence[str] = ()
) -> Draft:
    """Pushes the release. `live_attested`: the left one was attested on this pointer, so it goes beneath.

    `overridden` is what `check_promote` returned; the event keeps it.

    Raises:
        Refused: moved.
    """
    expect_generation(pointer, request.expected_generation)
    pushed = (pointer.release,) if pointer.release is not None and live_attested else ()
    # A release stands in the stack once: R never goes to the one that is live, and ten moves to and fro
    # between two releases must not bury the third.
    under = tuple(r for r in pointer.beneath if r != request.release and r not in pushed)
    after = _moved(pointer, release=request.release, beneath=(pushed + under)[:BENEATH_LIMIT])
    return _move(
        EventKind.PROMOTE,
        pointer,
        after,
        actor,
        reason=request.reason,
        incident=request.incident,
        override=request.override,
        payload={"overridden": list(overridden)} if overridden else {},
    )


def _freeze_refusal(config: RouteConfig, now_ms: int) -> Refused | None:
    for start, end in config.freeze:
        if start <= now_ms < end:
            return Refused(
                "frozen",
                "this route is in a freeze window",
                detail=f"{_utc(start)} to {_utc(end)}",
                fix="wait until it ends, or override with a reason",
                context={"from_ms": start, "to_ms": end},
            )
    return None


def _utc(ms: int) -> str:
    """'2026-12-24 18:00 UTC'; a time beyond the calendar in milliseconds since 1970."""
    try:
        return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"


def _memory_refusal(memory_short: str) -> Refused | None:
    if not memory_short:
        return None
    return Refused(
        "no_memory",
        "memory does not hold the engine of its base beside those that must run",
        detail=memory_short,
        fix="override with a reason: the live release's engine is then stopped for it, nothing answers meanwhile, and "
        "the way back is cold",
    )


def _left_behind_refusal(where: str, nodes: Sequence[str]) -> Refused | None:
    if not nodes:
        return None
    return Refused(
        "left_behind",
        f"nodes that serve {where} have no engine of its base",
        detail=", ".join(nodes[:8]) + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else ""),
        fix="start an engine of that base there, place the route elsewhere, or override with a reason: what they "
        "answer with is then up to the gap policy",
        context={"nodes": list(nodes)},
    )


def _gate_refusal(
    pointer: PointerState, release: str, config: RouteConfig, results: Sequence[GateResult], name: Named
) -> Refused | None:
    if config.gate is None:
        return None
    fitting = [
        r for r in results if r.release == release and r.suite == config.gate.suite and r.against == pointer.release
    ]
    if not fitting:
        return Refused(
            "gate_missing",
            f"{name(release)} has no gate result on this route's suite against the live release",
            detail=f"suite {short(config.gate.suite)}, live {name(pointer.release)}",
            fix="evaluate both on that suite, or override with a reason",
        )
    newest = fitting[-1]
    if newest.passed:
        return None
    failed = [c for c in newest.checks if not c.passed]
    detail = "; ".join(c.note or f"{c.name} {c.value:.3f}, threshold {c.threshold:.3f}, n {c.n}" for c in failed)
    context = {"checks": [c.model_dump(mode="json") for c in failed]}
    if failed and all(c.too_small for c in failed):
        return Refused(
            "suite_too_small",
            f"a suite is too small to say whether {name(release)} passes: {', '.join(c.name for c in failed)}",
            detail=detail,
            fix="evaluate on a larger suite, or override with a reason",
            context=context,
        )
    return Refused(
        "gate_failed",
        f"{name(release)} failed its gate: {', '.join(c.name for c in failed)}",
        detail=detail,
        fix="train a better one, or override with a reason",
        context=context,
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
    return _move(kind, pointer, after, actor, reason=request.reason)


def lift(
    pointer: PointerState,
    request: LiftRequest,
    actor: Actor,
    facts: PointerFacts = NO_FACTS,
    *,
    live: Health = NOTHING,
    total: Health = NOTHING,
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
    return _move(EventKind.LIFT, pointer, after, actor, reason=request.reason, payload=payload)


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
    return _move(EventKind.UNPIN, pointer, pointer, actor, reason=request.reason, payload=payload)


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


# ---- shared ----------------------------------------------------------------------------------------------


def _target_changed(target: Target, title: str) -> Refused:
    return Refused(
        "target_changed",
        title,
        fix="look at the preview again and decide anew",
        context={"action": target.action.value, "to": target.release, "prepare": target.prepare},
    )


def _quarantining_live(pointer: PointerState) -> tuple[Quarantine, ...]:
    if pointer.release is None:
        return pointer.quarantined
    return (*pointer.quarantined, Quarantine(release=pointer.release, event=""))


def _moved(pointer: PointerState, **update: object) -> PointerState:
    return pointer.model_copy(update={"generation": pointer.generation + 1, **update})


def _move(
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
