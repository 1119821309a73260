"""Forward moves: the conditions of a promote, the promote itself, and those that failed while they were prepared.

A promote that failed moved nothing, and the release before it serves on. The pointer needs a person until it is
promoted again or moves, or a person holds it, releases its hold or annotates one of its events.
"""

from collections.abc import Collection, Container, Iterable, Sequence

from loradeck.rules.clocks import utc
from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, Named, drafted, expect_generation, moved
from loradeck.rules.moves.rollback_target import PointerFacts
from loradeck.rules.quality.break_glass import countersigned_by
from loradeck.rules.quality.gates import FROM_ANCHOR, IMPORTED
from loradeck.schemas.attestation import GateResult
from loradeck.schemas.ids import PointerKey, Role, short
from loradeck.schemas.jobs import Job, JobState, PrepareSpec
from loradeck.schemas.log import MOVES, Draft, Event, EventKind, PointerState
from loradeck.schemas.manifest import Release
from loradeck.schemas.moves import CandidateFinishRequest, PromoteRequest
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import RouteResidency
from loradeck.schemas.tenant import TenantState

BENEATH_LIMIT = 10
"""Releases kept beneath the current one. Each event carries them, so the stack must not grow without bound."""


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
    memory_short: str = "",
    left_behind: Sequence[str] = (),
    held_up: Refused | None = None,
    name: Named = short,
) -> tuple[str, ...]:
    """Checks that a promote may go ahead, or a candidate's start or finish; called before its prepare and again before
    its commit.

    An override (role releaser, with a reason) passes the gate, the freeze window, `related_incident`, `no_memory` and
    `left_behind`, and nothing else; a reason alone passes `gate_imported`. Returns the codes that were passed; empty if
    none were.

    Args:
        release: the registered release with the requested id; None if there is none.
        gate_results: oldest first; the newest one of this release against the live one on the route's suite decides.
        slots_ok: every placed replica has a slot for the candidate and, on an `always` route, for the release it would
            leave (`rules.serving.residency.prior_room`).
        base_placed: a placed replica runs the candidate's base.
        memory_short: which nodes lack memory for the candidate's engine beside those that must run; '' if none.
        left_behind: nodes that serve the pointer now and have no engine of the candidate's base.
        held_up: `related_incident`, where an open incident is about a related release (`rules.data.related.freezes`).
        name: gives a release's name in messages.

    Raises: Refused: offboarded, suspended, moved, candidate_out, unknown_release, wrong_tenant, already_live,
    quarantined, revoked, held, wrong_base, no_slot, forbidden, reason_required, frozen, gate_missing, gate_failed,
    gate_imported, suite_too_small, no_memory, left_behind, related_incident.
    """
    where = f"{pointer.tenant}/{pointer.route}"
    if tenant.offboarded:
        raise Refused("offboarded", f"{tenant.name} is offboarded", fix="create a new tenant")
    if tenant.suspended:
        raise Refused("suspended", f"{tenant.name} is suspended: nothing is promoted", fix="resume the tenant first")
    expect_generation(pointer, request.expected_generation)
    if not isinstance(request, CandidateFinishRequest):
        check_none_out(pointer)
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
    why_revoked = facts.revoked.get(request.release)
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
            fix=share_slots(pointer, config),
        )
    refusals = (
        freeze_refusal(config, now_ms),
        held_up,
        gate_refusal(pointer, request.release, config, gate_results, name),
        _memory_refusal(memory_short),
        _left_behind_refusal(where, left_behind),
    )
    return passed(refusals, actor, override=request.override, reason=request.reason)


def share_slots(pointer: PointerState, config: RouteConfig) -> str:
    """Says what to do where a promote finds no slot. A route's first release would find none on demand either."""
    itself = config.residency is RouteResidency.ALWAYS and pointer.generation > 0
    who, route = ("it", f"{pointer.tenant}/{pointer.route}") if itself else ("other routes there", "TENANT ROUTE")
    return f"let {who} share slots: loradeck route set {route} --residency on-demand; or raise the engine's slots"


def passed(refusals: Iterable[Refused | None], actor: Actor, *, override: bool, reason: str) -> tuple[str, ...]:
    """The codes of the refusals that an override passes (role releaser, with a reason), or a reason alone.

    Raises: Refused: the first that is not passed; forbidden, reason_required.
    """
    if override:
        if actor.role is not Role.RELEASER:
            raise Refused("forbidden", "an override needs the releaser role", detail=f"{actor.name}: {actor.role}")
        if not reason:
            raise Refused("reason_required", "an override needs a reason", fix="say why; the event keeps it for ever")
    codes = []
    for refusal in refusals:
        if refusal is not None:
            if not override and not (refusal.code == "gate_imported" and reason):
                raise refusal
            codes.append(refusal.code)
    return tuple(codes)


def promote(
    pointer: PointerState,
    request: PromoteRequest,
    actor: Actor,
    *,
    attested: Container[str],
    overridden: Sequence[str] = (),
) -> Draft:
    """Pushes a release onto a pointer's stack.

    Args:
        attested: the releases that were attested on this pointer.
        overridden: the codes that `check_promote` returned; the event keeps them.

    Raises: Refused: moved.
    """
    expect_generation(pointer, request.expected_generation)
    beneath = stack_beneath(pointer, request.release, attested)
    after = moved(pointer, release=request.release, beneath=beneath)
    return forward_draft(EventKind.PROMOTE, pointer, after, request, actor, overridden)


def forward_draft(
    kind: EventKind,
    before: PointerState,
    after: PointerState,
    request: PromoteRequest,
    actor: Actor,
    overridden: Sequence[str],
) -> Draft:
    """The draft of a promote, or of a candidate's start or finish. `overridden`: the codes that its override passed."""
    return drafted(
        kind,
        before,
        after,
        actor,
        reason=request.reason,
        incident=request.incident,
        override=request.override,
        payload=overridden_payload(overridden),
    )


def opens_gate(overridden: Collection[str]) -> bool:
    """Tells whether an override that passes these codes opens the route's gate, and not another safeguard alone."""
    return any(code.startswith("gate_") or code == "suite_too_small" for code in overridden)


def overridden_payload(overridden: Sequence[str]) -> dict[str, object]:
    """The payload of an event whose override passed these codes."""
    return {"overridden": list(overridden)} if overridden else {}


def check_none_out(pointer: PointerState) -> None:
    """Checks that the pointer has no candidate. Raises: Refused: candidate_out."""
    if pointer.candidate is not None:
        raise Refused(
            "candidate_out",
            f"{pointer.tenant}/{pointer.route} has a candidate already",
            fix="finish or abort it first",
            context={"candidate": pointer.candidate.release},
        )


def stack_beneath(pointer: PointerState, release: str, attested: Container[str]) -> tuple[str, ...]:
    """The stack beneath a release that is pushed onto a pointer: the live one, then what was there.

    The live one goes beneath though it may never have been attested: nodes attest, and what they say must not take a
    way back away. A release is in the stack once: R never goes to the live one, and ten moves to and fro between two
    releases must not push out the third. A full stack drops the oldest that was never attested, else the oldest.
    """
    pushed = (pointer.release,) if pointer.release is not None else ()
    stack = pushed + tuple(r for r in pointer.beneath if r != release and r not in pushed)
    while len(stack) > BENEATH_LIMIT:
        dropped = next((r for r in reversed(stack) if r not in attested), stack[-1])
        stack = tuple(r for r in stack if r != dropped)
    return stack


def freeze_refusal(config: RouteConfig, now_ms: int) -> Refused | None:
    """The refusal of what goes forward in a freeze window; None: the route is in none."""
    for start, end in config.freeze:
        if start <= now_ms < end:
            return Refused(
                "frozen",
                "this route is in a freeze window",
                detail=f"{utc(start)} to {utc(end)}",
                fix="wait until it ends, or override with a reason",
                context={"from_ms": start, "to_ms": end},
            )
    return None


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
        fix="start an engine of that base there, place the route elsewhere, or override with a reason: the gap policy "
        "then decides how these nodes answer",
        context={"nodes": list(nodes)},
    )


def gate_refusal(
    pointer: PointerState, release: str, config: RouteConfig, results: Sequence[GateResult], name: Named = short
) -> Refused | None:
    """The refusal of a release that has not passed its route's gate; None: it has, or there is no gate.

    `results`: oldest first; the newest one of this release against the live one on the route's suite decides.
    """
    if config.gate is None:
        return None
    fitting = [
        r for r in results if r.release == release and r.suite == config.gate.suite and r.against == pointer.release
    ]
    if not fitting:
        leak = " and have its leaks counted (loradeck job leak)" if config.gate.leak is not None else ""
        judge = ", have its answers judged (loradeck job judge)" if config.gate.judge is not None else ""
        return Refused(
            "gate_missing",
            f"{name(release)} has no gate result on this route's suite against the live release",
            detail=f"suite {short(config.gate.suite)}, live {name(pointer.release)}",
            fix=f"evaluate both on that suite{leak}{judge}, or override with a reason",
        )
    newest = fitting[-1]
    if newest.passed:
        return None
    failed = [c for c in newest.checks if not c.passed]
    if failed and all(c.name == IMPORTED for c in failed):
        return Refused(
            "gate_imported",
            f"{name(release)} passes its gate only if reports uploaded by people count; "
            "reports of evaluation jobs alone do not suffice",
            detail="; ".join(c.note for c in failed),
            fix="evaluate it with a job (loradeck job evaluate), or say why these reports count: --reason",
        )
    if failed and all(c.name == FROM_ANCHOR and not c.n for c in failed):
        return Refused(
            "gate_missing",
            f"{name(release)} has no gate result against this route's anchor {name(newest.anchor)}",
            detail="; ".join(c.note for c in failed),
            fix="evaluate the anchor on that suite (loradeck job evaluate), or override with a reason",
        )
    detail = "; ".join(c.note or f"{c.name} {c.measured}, threshold {c.in_unit(c.threshold)}" for c in failed)
    context = {"checks": [c.model_dump(mode="json") for c in failed]}
    if failed and all(c.too_small for c in failed):
        return Refused(
            "suite_too_small",
            f"a suite is too small to say whether {name(release)} passes: {', '.join(c.name for c in failed)}",
            detail=detail,
            fix="evaluate on a larger suite, or override with a reason",
            context=context,
        )
    tries = next((c.tries for c in failed if c.tries), "")
    selection = (
        "choose among candidates by a suite of other items (loradeck suite add --for selection), " if tries else ""
    )
    return Refused(
        "gate_failed",
        f"{name(release)} failed its gate: {', '.join(c.name for c in failed)}",
        detail="; ".join(filter(None, (detail, tries))),
        fix=f"{selection}train a better one, or override with a reason",
        context=context,
    )


ANSWERED_BY = "answered_by"
"""Key in the result of a failed prepare: the id of the event that answered it."""

_NOTES = frozenset({EventKind.HOLD, EventKind.RELEASE_HOLD, EventKind.ANNOTATE})


def answers(event: Event) -> bool:
    """Tells whether an event answers a failed promote of its pointer: it moved it, or a person held or annotated it."""
    noted = event.kind in _NOTES and event.role is not Role.AGENT and countersigned_by(event) is None
    return event.kind in MOVES or noted


def unanswered(jobs: Iterable[Job]) -> dict[PointerKey, Job]:
    """The failed prepares that still need a person, by pointer; `jobs` in the order they were begun.

    Only the newest prepare of a pointer counts: one that R cancelled, or that committed, leaves nothing to answer.
    """
    newest = {(job.spec.tenant, job.spec.route): job for job in jobs if isinstance(job.spec, PrepareSpec)}
    return {
        key: job
        for key, job in newest.items()
        if job.state is JobState.FAILED and ANSWERED_BY not in (job.result or {})
    }
