"""Candidates: start, finish and abort, which are moves, and steps of the share, which are not.

A candidate lies on top of a pointer's stack, and a share of the callers gets it, or as a shadow nobody: it is asked a
share of the requests too. Only a start gives a pointer one, and every other move ends it (`draft.moved`); undo, rewind
and recovery never bring one back. A step leaves the generation as it is, so that a press of R which was decided before
it still stands.

What binds a promote (`forward.check_promote`) binds a start and a finish as well, and is checked by the caller first. A
wider share obeys the part of it that may have changed since the start (`check_wider`).
"""

from collections.abc import Mapping, Sequence

from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, Named, drafted, expect_generation, moved
from loradeck.rules.moves.forward import (
    check_none_out,
    forward_draft,
    freeze_refusal,
    gate_refusal,
    overridden_payload,
    passed,
    stack_beneath,
)
from loradeck.rules.moves.rollback_target import PointerFacts, ruled_out
from loradeck.schemas.attestation import GateResult
from loradeck.schemas.candidate import Candidate, Comparison
from loradeck.schemas.ids import short
from loradeck.schemas.log import Draft, EventKind, PointerState
from loradeck.schemas.moves import (
    CandidateAbortRequest,
    CandidateCompareRequest,
    CandidateFinishRequest,
    CandidateHoldRequest,
    CandidateStartRequest,
    CandidateStepRequest,
)
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import Split
from loradeck.schemas.tenant import TenantState

FEWEST_OF_ARM = 20
"""Keys of an arm below which it is compared with nothing."""

FEWEST_KEYS = 50
"""Keys below which a share is refused: with 3 keys a share of 10 % is empty 73 % of the time."""


def check_start(
    pointer: PointerState, facts: PointerFacts, candidate: Candidate, tenant: TenantState, *, lacking: Sequence[str]
) -> None:
    """Checks what a start needs beyond the conditions of a promote.

    `lacking`: nodes whose router does not announce the feature `candidate` and on which the pointer is placed.

    Raises: Refused: candidate_out, candidate_unfit, shadow_not_allowed, shadow_steps, feature_missing.
    """
    where = f"{pointer.tenant}/{pointer.route}"
    check_none_out(pointer)
    _check_fit(pointer, facts, candidate.release, short)
    check_consent(candidate, tenant)
    if candidate.shadow and candidate.plan is not None:
        raise Refused(
            "shadow_steps", "nobody gets a shadow, so there are no arms to step it by", fix="start it without"
        )
    if lacking:
        raise Refused(
            "feature_missing",
            f"routers that serve {where} cannot divide its callers",
            detail=", ".join(lacking[:8]) + (f" and {len(lacking) - 8} more" if len(lacking) > 8 else ""),
            fix="upgrade their nodes first",
            context={"nodes": list(lacking)},
        )


def check_consent(split: Split, tenant: TenantState) -> None:
    """Checks that a shadow may be asked what the tenant's callers ask. Raises: Refused: shadow_not_allowed."""
    if split.shadow and not tenant.data.shadow:
        raise Refused(
            "shadow_not_allowed",
            f"{tenant.name} does not allow that a candidate is asked what its callers ask",
            fix=f"loradeck tenant data {tenant.name} --shadow --reason WHY, once the tenant has agreed",
        )


def check_keys(split: Split, keys: int) -> None:
    """Checks that a share of so few keys means anything. `keys`: how many different ones were seen lately.

    Raises: Refused: too_few_keys.
    """
    if split.permille and not split.named and not split.shadow and keys < FEWEST_KEYS:
        raise Refused(
            "too_few_keys",
            f"{keys} keys are too few for a share: it could be empty, or one caller",
            detail=f"at least {FEWEST_KEYS}",
            fix="name those that get the candidate, or let it shadow the live release (--shadow PERCENT), or start "
            "without a share: from then on the routers count the keys",
        )


MOST_BEFORE_AB = 500
"""Thousandths of the callers that a candidate gets at the most before the A/B that its gate asks for: half tells the
most, and of more nobody would be left to compare it with.
"""


def needs_ab(config: RouteConfig, permille: int, *, shadow: bool) -> bool:
    """Tells whether a share needs the A/B that the route's gate asks for, as a finish does."""
    asks = config.gate is not None and config.gate.compare is not None
    return asks and not shadow and permille > MOST_BEFORE_AB


def check_wider(
    pointer: PointerState,
    wider: Candidate,
    config: RouteConfig,
    actor: Actor,
    *,
    tenant: TenantState,
    gate_results: Sequence[GateResult],
    held_up: Refused | None,
    now_ms: int,
    override: bool,
    reason: str,
    name: Named = short,
) -> tuple[str, ...]:
    """Checks that a candidate may have a wider share: more callers get it, as by a promote.

    Returns the codes that an override has passed.

    Args:
        wider: the candidate with that share.
        gate_results: those of its release, oldest first; looked at only where the share `needs_ab`.
        held_up: `related_incident`, where an open incident is about a related release.

    Raises: Refused: shadow_not_allowed, frozen, related_incident, those of a gate, forbidden, reason_required.
    """
    check_consent(wider, tenant)
    refusals = [freeze_refusal(config, now_ms), held_up]
    if needs_ab(config, wider.permille, shadow=wider.shadow):
        refusals.append(gate_refusal(pointer, wider.release, config, gate_results, name))
    return passed(refusals, actor, override=override, reason=reason)


def start(
    pointer: PointerState,
    candidate: Candidate,
    request: CandidateStartRequest,
    actor: Actor,
    *,
    keys: int,
    overridden: Sequence[str] = (),
) -> Draft:
    """Puts a candidate on top of the stack; its generation is the one that this move gives the pointer.

    Raises: Refused: moved, nothing_live, already_live, candidate_out, held, too_few_keys.
    """
    expect_generation(pointer, request.expected_generation)
    where = f"{pointer.tenant}/{pointer.route}"
    if pointer.release is None:
        raise Refused("nothing_live", f"nothing is live on {where}", fix="promote a release")
    if pointer.release == candidate.release:
        raise Refused("already_live", f"that release is live on {where} already")
    check_none_out(pointer)
    _check_not_held(pointer)
    check_keys(candidate, keys)
    begun = candidate.model_copy(update={"generation": pointer.generation + 1, "step": 0})
    return forward_draft(
        EventKind.CANDIDATE_START, pointer, moved(pointer, candidate=begun), request, actor, overridden
    )


def step(
    pointer: PointerState,
    facts: PointerFacts,
    request: CandidateStepRequest,
    actor: Actor,
    *,
    keys: int,
    evidence: Mapping[str, object] | None = None,
    overridden: Sequence[str] = (),
) -> Draft:
    """Changes the candidate's share. The generation stays; a smaller share is never refused for what is known.

    A person who narrows a share means it: its plan is held then.

    Args:
        evidence: why the hub makes the step by itself; the event keeps it.
        overridden: the codes that `check_wider` returned; the event keeps them.

    Raises: Refused: moved, no_candidate, no_change; to widen also held, candidate_unfit, too_few_keys.
    """
    expect_generation(pointer, request.expected_generation)
    candidate, permille = _candidate_of(pointer), request.permille
    _expect_step(pointer, candidate, request.expected_step)
    if permille == candidate.permille:
        raise Refused("no_change", f"the share is {permille / 10:g} % already")
    after = candidate.model_copy(update={"permille": permille, "step": candidate.step + 1, "comparison": None})
    if permille < candidate.permille and candidate.plan is not None and not actor.automation:
        after = after.with_plan_held(f"{actor.name} has narrowed the share")
    _check_room(pointer, facts, candidate, after, keys)
    said: dict[str, object] = {"evidence": evidence} if evidence is not None else {}
    return _changed(pointer, after, actor, request.reason, said, overridden)


def hold(pointer: PointerState, request: CandidateHoldRequest, actor: Actor) -> Draft:
    """Has the hub step a candidate no more by its plan, or again. Share, step and generation stay.

    Raises: Refused: moved, no_candidate, no_plan, no_change.
    """
    expect_generation(pointer, request.expected_generation)
    candidate, held = _candidate_of(pointer), request.held
    if candidate.plan is None:
        raise Refused(
            "no_plan",
            f"the candidate of {pointer.tenant}/{pointer.route} is not stepped by the hub",
            fix="change its share with: loradeck candidate step",
        )
    if bool(candidate.plan.held) == held:
        raise Refused("no_change", "its steps are held already" if held else "its steps are not held")
    after = candidate.with_plan_held(f"{actor.name}: {request.reason}" if held else "")
    return _changed(pointer, after, actor, request.reason, {"steps": "held" if held else "resumed"})


MOST_MS = 90 * DAY_MS
"""Milliseconds that an A/B takes at the most."""


def compare(
    pointer: PointerState,
    facts: PointerFacts,
    request: CandidateCompareRequest,
    actor: Actor,
    *,
    keys: int,
    now_ms: int,
    overridden: Sequence[str] = (),
) -> Draft:
    """Begins an A/B: routers count both arms anew, and at a horizon that is stated now the hub attests what it sees.

    A plan of the candidate is held, since its steps would end the comparison.

    Args:
        keys: how many different ones were seen lately.
        overridden: the codes that `check_wider` returned; the event keeps them.

    Raises: Refused: moved, no_candidate, no_arms, bad_horizon; to widen also held, candidate_unfit, too_few_keys.
    """
    expect_generation(pointer, request.expected_generation)
    candidate, until_ms, of_each = _candidate_of(pointer), request.until_ms, request.keys
    _expect_step(pointer, candidate, request.expected_step)
    share = candidate.permille if request.permille is None else request.permille
    if candidate.shadow or not 0 < share < 1000:
        raise Refused(
            "no_arms",
            "an A/B needs callers with the candidate and callers with the live release",
            fix="give it a share above 0 and under 100 %: --share",
        )
    most = min(share, 1000 - share) // 2
    ahead = until_ms is not None and now_ms < until_ms <= now_ms + MOST_MS
    enough = of_each is not None and FEWEST_OF_ARM <= of_each <= most
    if (until_ms is None) is (of_each is None) or not (ahead or enough):
        raise Refused(
            "bad_horizon",
            "the end of an A/B is stated before it starts: a time, or keys that each arm must have had",
            detail=f"within 90 days; or {FEWEST_OF_ARM} to {most} keys at a share of {share / 10:g} %",
            fix="give --until TIME or --keys N",
        )
    step_ = candidate.step + 1
    begun = Comparison(figure=request.figure, step=step_, from_ms=now_ms, until_ms=until_ms, keys=of_each)
    after = candidate.model_copy(update={"permille": share, "step": step_, "comparison": begun})
    if candidate.plan is not None and not candidate.plan.held:
        after = after.with_plan_held(f"{actor.name} has begun an A/B")
    _check_room(pointer, facts, candidate, after, keys)
    return _changed(pointer, after, actor, request.reason, {"compares": request.figure.value}, overridden)


def finish(
    pointer: PointerState,
    facts: PointerFacts,
    request: CandidateFinishRequest,
    actor: Actor,
    *,
    overridden: Sequence[str] = (),
    name: Named = short,
) -> Draft:
    """Makes the candidate the live release, as a promote does: the one that was live goes beneath.

    Raises: Refused: moved, no_candidate, held, candidate_unfit.
    """
    candidate = _candidate_of(pointer)
    if candidate.release != request.release:
        raise Refused(
            "no_candidate",
            f"{name(request.release)} is not the candidate of {pointer.tenant}/{pointer.route}",
            detail=f"{name(candidate.release)} is",
            fix="look at it again and decide anew",
        )
    expect_generation(pointer, request.expected_generation)
    _check_not_held(pointer)
    _check_fit(pointer, facts, candidate.release, name)
    beneath = stack_beneath(pointer, candidate.release, facts.attested)
    after = moved(pointer, release=candidate.release, beneath=beneath)
    return forward_draft(EventKind.CANDIDATE_FINISH, pointer, after, request, actor, overridden)


def abort(pointer: PointerState, request: CandidateAbortRequest, actor: Actor) -> Draft:
    """Ends the candidate: all callers get the live release. Nothing is held or quarantined, unlike with R.

    Raises: Refused: moved, no_candidate.
    """
    expect_generation(pointer, request.expected_generation)
    _candidate_of(pointer)
    return drafted(EventKind.CANDIDATE_ABORT, pointer, moved(pointer), actor, reason=request.reason)


def _expect_step(pointer: PointerState, candidate: Candidate, expected_step: int) -> None:
    if candidate.step != expected_step:
        raise Refused(
            "moved",
            f"the share has changed since: it is {candidate.permille / 10:g} %, at step {candidate.step}",
            detail=f"the request expected step {expected_step}",
            fix="look at it again and decide anew",
            context={"generation": pointer.generation, "step": candidate.step},
        )


def _check_room(pointer: PointerState, facts: PointerFacts, before: Candidate, after: Candidate, keys: int) -> None:
    """Checks what no override passes of a wider share. Raises: Refused: held, candidate_unfit, too_few_keys."""
    if after.permille > before.permille:
        _check_not_held(pointer)
        _check_fit(pointer, facts, after.release, short)
        check_keys(after, keys)


def _changed(
    pointer: PointerState,
    candidate: Candidate,
    actor: Actor,
    reason: str,
    payload: dict[str, object],
    overridden: Sequence[str] = (),
) -> Draft:
    """The draft of a change of the candidate that leaves the generation as it is."""
    state, said = pointer.model_copy(update={"candidate": candidate}), payload | overridden_payload(overridden)
    return drafted(
        EventKind.CANDIDATE_STEP, pointer, state, actor, reason=reason, override=bool(overridden), payload=said
    )


def _candidate_of(pointer: PointerState) -> Candidate:
    if pointer.candidate is None:
        raise Refused("no_candidate", f"{pointer.tenant}/{pointer.route} has no candidate", fix="start one")
    return pointer.candidate


def _check_not_held(pointer: PointerState) -> None:
    if pointer.held:
        raise Refused(
            "held",
            f"{pointer.tenant}/{pointer.route} is held: no candidate goes forward until a person clears it",
            fix="release the hold, or abort the candidate",
        )


def _check_fit(pointer: PointerState, facts: PointerFacts, release: str, name: Named) -> None:
    why = ruled_out(release, pointer, facts)
    if why is not None:
        raise Refused(
            "candidate_unfit",
            f"{name(release)} is {why}",
            fix="abort the candidate, or lift its quarantine or breach: loradeck lift",
        )
