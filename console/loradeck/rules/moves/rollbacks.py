"""Backward moves: rollback, fallback and undo. Gates, freeze windows and quotas never apply to them.

Rollback and fallback quarantine the release that they leave; undo restores the state before. Here is also the request
that a preview stands for, whoever presses R, and whether a press that was decided on an older generation still stands:
what automation (the schedule of a candidate, guard) did since then must not turn the key into a refusal, and what
another person did must.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, Named, by_automation, check_reason, drafted, expect_generation, moved
from loradeck.rules.moves.rollback_target import NO_FACTS, PointerFacts, Target, breach_of, doubt_of, is_quarantined
from loradeck.schemas.ids import PointerKey, short
from loradeck.schemas.log import MOVES, Draft, Event, EventKind, PointerState, Quarantine
from loradeck.schemas.moves import FallbackRequest, RollbackRequest, UndoRequest
from loradeck.schemas.state import Preview, PreviewAction

_NOT_UNDOABLE = frozenset({EventKind.RECOVER, EventKind.CANDIDATE_ABORT})


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """The outcome of R while a prepare is pending: that job is cancelled and nothing moves."""

    prepare: str


def rollback(
    pointer: PointerState, request: RollbackRequest, target: Target, actor: Actor, *, name: Named = short
) -> Draft | Cancel:
    """Rolls a pointer back (R). `target` is `rollback_target`'s present answer, and the request must name it.

    The release that is left is quarantined (never the base alone), the pointer is held, and the stack below the target
    stays beneath. A candidate is out; where the live release stays, the candidate is what is left and quarantined.

    Raises: Refused: moved, target_changed, needs_confirmation, no_prior.
    """
    expect_generation(pointer, request.expected_generation)
    if target.action is PreviewAction.CANCEL_PREPARE and target.prepare is not None:
        if request.cancels != target.prepare:
            raise _target_changed(target, f"a promote is being prepared ({target.prepare}): R would cancel that")
        return Cancel(prepare=target.prepare)
    if request.cancels is not None:
        raise _target_changed(target, f"the prepare {request.cancels} is not pending any more")
    if target.action is not PreviewAction.ROLLBACK or target.release is None:
        skipped = ", ".join(f"{name(release)} {why}" for release, why in target.skipped)
        context = {"skipped": [list(s) for s in target.skipped]}
        raise _no_prior(target.action, target.refused, detail=skipped, context=context)
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
    if target.release == pointer.release and pointer.candidate is not None:
        left: str | None = pointer.candidate.release
        beneath, is_base = pointer.beneath, target.candidate_is_base
    else:
        beneath = pointer.beneath[pointer.beneath.index(target.release) + 1 :]
        left, is_base = pointer.release, target.live_is_base
    quarantined = pointer.quarantined if is_base else _quarantining(pointer, left)
    after = moved(pointer, release=target.release, beneath=beneath, held=True, quarantined=quarantined)
    return drafted(EventKind.ROLLBACK, pointer, after, actor, reason=request.reason, incident=request.incident)


def fallback(
    pointer: PointerState, request: FallbackRequest, actor: Actor, base_release_id: str, *, allowed: bool
) -> Draft:
    """Falls back to the base alone of the current release (F). The stack beneath stays, so that R later leaves the
    base.

    Raises: Refused: moved, nothing_live, already_live, fallback_not_allowed.
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
    after = moved(pointer, release=base_release_id, quarantined=_quarantining(pointer, pointer.release))
    return drafted(EventKind.FALLBACK, pointer, after, actor, reason=request.reason)


def undo_asks(event: Event, pointer: PointerState, facts: PointerFacts) -> str | None:
    """Why an undo of a pointer's last move asks for confirmation; None: nothing is known against its target.

    It would serve again what is quarantined, breached or doubted on this pointer, or what R has just left.
    """
    target = event.from_release
    if target is None or (event.pointer is not None and event.pointer.release == target):
        return None  # the live release stayed: a candidate began or ended
    breach, doubt = breach_of(target, pointer, facts), doubt_of(target, pointer, facts)
    reasons = ["quarantined"] if is_quarantined(target, pointer) else []
    reasons += [f"breached: {breach}"] if breach is not None else []
    reasons += [f"its answers were bad: {doubt}"] if doubt is not None else []
    reasons += ["left by R"] if event.kind is EventKind.ROLLBACK else []
    return ", ".join(reasons) or None


def undo(
    pointers: Mapping[PointerKey, PointerState],
    undone: Sequence[Event],
    before: Mapping[PointerKey, PointerState],
    request: UndoRequest,
    actor: Actor,
    *,
    facts: Callable[[PointerKey], PointerFacts] = lambda _: NO_FACTS,
    revoked: Mapping[str, str] | None = None,
    name: Named = short,
) -> list[Draft]:
    """Restores every pointer to its state before the undone events; all of them or none.

    Release and beneath are restored exactly. Held and quarantined are restored as far as the undone event changed them:
    a hold or a lift that a person made since stays. A candidate is never restored. An undo is itself an event, so
    undoing it is a redo.

    Args:
        before: each pointer's state before its undone event; absent if the pointer did not exist.
        facts: the facts of a pointer, for what an undo asks about.
        revoked: release id -> why it was revoked.

    Raises: Refused: bad_request, unknown_event, not_undoable, moved, revoked, reason_required, needs_confirmation.
    """
    if (request.event is not None) + (request.txn is not None) + bool(request.events) != 1:
        raise Refused(
            "bad_request", "an undo names one event, several events or one txn", fix="send `event`, `events` or `txn`"
        )
    if not undone or len(undone) < len(request.events):
        raise Refused("unknown_event", f"there is no {'txn' if request.txn else 'event'} to undo by that id")
    drafts = []
    asks = []
    for event in undone:
        after = event.pointer
        if event.kind not in MOVES or event.kind in _NOT_UNDOABLE or after is None:
            raise Refused(
                "not_undoable",
                f"a {event.kind.value} cannot be undone",
                detail=f"event {event.id}",
                fix="start the candidate again"
                if event.kind is EventKind.CANDIDATE_ABORT
                else "hold, lift, suspend and settings have their own opposites",
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
        check_reason(event, request.reason, "undoing")
        why = undo_asks(event, now, facts(after.key))
        if why is not None:
            asks.append(f"{after.tenant}/{after.route} {name(event.from_release)}: {why}")
        restored = moved(
            now,
            release=was.release,
            beneath=was.beneath,
            held=was.held if was.held != after.held else now.held,
            quarantined=_quarantined_before(now, was, after),
        )
        drafts.append(drafted(EventKind.UNDO, now, restored, actor, reason=request.reason, undoes=(event.id,)))
    if asks and not request.confirmed:
        raise Refused(
            "needs_confirmation",
            "the undo would serve again what was left for a reason",
            detail="; ".join(asks[:3]) + (f"; and {len(asks) - 3} more" if len(asks) > 3 else ""),
            fix="confirm it, or promote another release",
            context={"asks": asks},
        )
    return drafts


def _quarantined_before(now: PointerState, was: PointerState, after: PointerState) -> tuple[Quarantine, ...]:
    """Quarantines without those that the undone event set, and with those that it took away."""
    if now.quarantined == after.quarantined:
        return was.quarantined
    kept = tuple(q for q in now.quarantined if q in was.quarantined or q not in after.quarantined)
    back = tuple(q for q in was.quarantined if q not in after.quarantined and q not in kept)
    return kept + back


def _target_changed(target: Target, title: str) -> Refused:
    return Refused(
        "target_changed",
        title,
        fix="look at the preview again and decide anew",
        context={"action": target.action.value, "to": target.release, "prepare": target.prepare},
    )


def _no_prior(action: PreviewAction, refused: str | None, **facts: Any) -> Refused:
    """The refusal of R where it goes to no release. `facts`: `detail` and `context`."""
    fix = "fall back to the base alone" if action is PreviewAction.FALLBACK else "promote a fit release"
    return Refused("no_prior", refused or "there is no release to go back to", fix=fix, **facts)


def _quarantining(pointer: PointerState, release: str | None) -> tuple[Quarantine, ...]:
    if release is None:
        return pointer.quarantined
    return (*pointer.quarantined, Quarantine(release=release, event=""))


def rollback_request(
    preview: Preview,
    *,
    key: str,
    confirmed: bool | None = None,
    reason: str = "",
    incident: str | None = None,
    ticket: str | None = None,
) -> RollbackRequest:
    """Builds R from a row's preview: to its target, or against its pending prepare, at its generation.

    Args:
        key: the idempotency key, made before the first attempt and kept for every further one.
        confirmed: whether a person answered a question with yes; None confirms exactly what the preview asks.

    Raises: Refused: no_prior: R goes to no release and cancels nothing; the title is the preview's own reason.
    """
    cancels = preview.prepare if preview.action is PreviewAction.CANCEL_PREPARE else None
    target = preview.target if preview.action is PreviewAction.ROLLBACK else None
    if cancels is None and target is None:
        raise _no_prior(preview.action, preview.refused)
    return RollbackRequest(
        expected_generation=preview.generation,
        to=target.id if target else None,
        cancels=cancels,
        confirmed=preview.asks is not None if confirmed is None else confirmed,
        idempotency_key=key,
        reason=reason,
        incident=incident,
        ticket=ticket,
    )


@dataclass(frozen=True, kw_only=True)
class Already:
    """The outcome of R where automation was first: all callers get the target, by `event`, and nothing more moves."""

    event: Event


def rebase(
    request: RollbackRequest, pointer: PointerState, target: Target, since: Sequence[Event]
) -> RollbackRequest | Already:
    """Brings a press of R up to the pointer's present generation, for `rollback`.

    It stands if only automation has moved the pointer since, and R still goes where the person saw it go. Where all
    callers get that target already, the press has succeeded and never goes one further.

    Args:
        target: where R goes now.
        since: the pointer's events after the generation that the request expects, in order. If some are missing, the
            press does not stand: they could be a person's.

    Raises: Refused: moved, target_changed.
    """
    if request.expected_generation == pointer.generation:
        return request
    moves = [event for event in since if event.kind in MOVES]
    # Every move has a generation of its own, so as many as there are generations are all of them. The numbers are not
    # listed: a request may expect any generation, however far below.
    if len(moves) != pointer.generation - request.expected_generation or not all(map(by_automation, moves)):
        expect_generation(pointer, request.expected_generation)
    if request.to is not None and pointer.candidate is None and pointer.release == request.to:
        return Already(event=moves[-1])
    if request.to is None or target.action is not PreviewAction.ROLLBACK or target.release != request.to:
        raise _target_changed(target, "automation has moved the pointer since, and R goes elsewhere now")
    return request.model_copy(update={"expected_generation": pointer.generation})
