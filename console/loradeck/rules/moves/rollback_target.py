"""The target of R: where a rollback would go, and why, as the screen shows it before the key is pressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from loradeck.schemas.log import Lifted, PointerState
from loradeck.schemas.state import PreviewAction


@dataclass(frozen=True, kw_only=True)
class PointerFacts:
    """Facts about releases on one pointer that the log alone does not give.

    `attested`: releases attested on this pointer, newest first. `soaked`: those that served here long enough.
    `breached` and `revoked`: release id -> the reason, as text for a person. `breaches`: release id -> seq of the
    newest attestation of its breach, which distinguishes a breach that was lifted from a later one.
    """

    attested: tuple[str, ...] = ()
    soaked: frozenset[str] = frozenset()
    breached: Mapping[str, str] = field(default_factory=dict)
    revoked: Mapping[str, str] = field(default_factory=dict)
    breaches: Mapping[str, int] = field(default_factory=dict)


NO_FACTS = PointerFacts()
"""Facts of a pointer of which nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The outcome of pressing R now. `release` is set with ROLLBACK only, `prepare` with CANCEL_PREPARE only.

    `asks`: why R asks for confirmation first. `refused`: why R is refused, with NONE and FALLBACK (where F, not R,
    would go to the base alone). `skipped`: (release id, reason), newest first. `live_is_base`: the base alone is live,
    which is never quarantined; `candidate_is_base` likewise.
    """

    action: PreviewAction
    release: str | None = None
    asks: str | None = None
    refused: str | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    prepare: str | None = None
    live_is_base: bool = False
    candidate_is_base: bool = False


def breach_of(release: str, pointer: PointerState, facts: PointerFacts) -> str | None:
    """Why a release counts as breached on this pointer; None if it does not, or the breach was lifted."""
    lifted = lifted_of(release, pointer)
    if lifted is not None and facts.breaches.get(release, 0) <= lifted.breach:
        return None
    return facts.breached.get(release)


def lifted_of(release: str, pointer: PointerState) -> Lifted | None:
    """The newest lift of a release's breach on this pointer; None if there is none."""
    return next((lifted for lifted in pointer.lifted if lifted.release == release), None)


def ruled_out(release: str, pointer: PointerState, facts: PointerFacts) -> str | None:
    """Why R must not go to a release on this pointer (quarantined, revoked, breached); None if it may."""
    if is_quarantined(release, pointer):
        return "quarantined"
    if release in facts.revoked:
        return f"revoked: {facts.revoked[release]}"
    breach = breach_of(release, pointer, facts)
    return f"breached: {breach}" if breach is not None else None


def is_quarantined(release: str, pointer: PointerState) -> bool:
    """Whether a release was left by R or F on this pointer, and nobody has lifted that since."""
    return any(q.release == release for q in pointer.quarantined)


def liftable(release: str, pointer: PointerState, facts: PointerFacts) -> bool:
    """Whether lifting would clear a release: it is quarantined or breached, and not revoked."""
    held = is_quarantined(release, pointer) or breach_of(release, pointer, facts) is not None
    return held and release not in facts.revoked


def rollback_target(
    pointer: PointerState,
    facts: PointerFacts,
    *,
    fallback_allowed: bool,
    live_is_base: bool,
    pending_prepare: str | None,
    candidate_is_base: bool = False,
) -> Target:
    """Decides what R does on this pointer now. Gates, holds, freeze windows and suspension have no influence.

    With a candidate out R puts all callers back on the live release, or on one beneath if the live one is ruled out; it
    never goes to the candidate. Where nothing beneath is fit either, the live release is offered and asks.
    """
    if pending_prepare is not None:
        return Target(action=PreviewAction.CANCEL_PREPARE, prepare=pending_prepare)
    if pointer.release is None:
        return Target(action=PreviewAction.NONE, refused="nothing is live on this pointer")
    if pointer.candidate is None:
        return _beneath(pointer, facts, fallback_allowed=fallback_allowed, live_is_base=live_is_base)

    live, why = pointer.release, ruled_out(pointer.release, pointer, facts)
    beneath = _beneath(pointer, facts, fallback_allowed=fallback_allowed, live_is_base=live_is_base)
    if why is not None and beneath.action is PreviewAction.ROLLBACK:
        return replace(beneath, skipped=((live, why), *beneath.skipped), candidate_is_base=candidate_is_base)
    return Target(
        action=PreviewAction.ROLLBACK,
        release=live,
        asks=why,
        skipped=beneath.skipped if why is not None else (),
        live_is_base=live_is_base,
        candidate_is_base=candidate_is_base,
    )


def _beneath(pointer: PointerState, facts: PointerFacts, *, fallback_allowed: bool, live_is_base: bool) -> Target:
    """The target beneath the live release, or why there is none."""
    candidate = pointer.candidate.release if pointer.candidate is not None else None
    skipped: list[tuple[str, str]] = []
    unsoaked: list[str] = []
    for release in pointer.beneath:
        if release == pointer.release:
            continue
        why = ruled_out(release, pointer, facts)
        if why is None and release == candidate:
            why = "the candidate"
        if why is None and release not in facts.attested:
            why = "never attested here"
        if why is None and release in facts.soaked:
            above = [(r, "not soaked") for r in unsoaked]
            listed = _in_order(pointer.beneath, skipped + above)
            return Target(action=PreviewAction.ROLLBACK, release=release, skipped=listed, live_is_base=live_is_base)
        if why is None:
            unsoaked.append(release)
        else:
            skipped.append((release, why))
    if unsoaked:
        first, *rest = unsoaked
        listed = _in_order(pointer.beneath, skipped + [(r, "not soaked") for r in rest])
        return Target(
            action=PreviewAction.ROLLBACK,
            release=first,
            asks="not soaked",
            skipped=listed,
            live_is_base=live_is_base,
        )

    why_none = "no earlier release to go back to" if not skipped else "no earlier release is fit to go back to"
    if live_is_base:
        refused = f"{why_none}, and the base alone is live"
        return Target(action=PreviewAction.NONE, refused=refused, skipped=tuple(skipped), live_is_base=True)
    if not fallback_allowed:
        refused = f"{why_none}, and this route allows no fallback to the base alone"
        return Target(action=PreviewAction.NONE, refused=refused, skipped=tuple(skipped))
    return Target(action=PreviewAction.FALLBACK, refused=why_none, skipped=tuple(skipped))


def ways_back(pointer: PointerState, facts: PointerFacts) -> tuple[str, ...]:
    """Releases beneath the live one that R may ever go to: its present target first, then the others in order.

    Slots go to them in this order, so that the target on the screen is the release that stays loaded.
    """
    fit = [r for r in pointer.beneath if r != pointer.release and ruled_out(r, pointer, facts) is None]
    now = _beneath(pointer, facts, fallback_allowed=False, live_is_base=False).release
    return tuple(dict.fromkeys(([now] if now is not None else []) + fit))


def _in_order(beneath: tuple[str, ...], skipped: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(skipped, key=lambda s: beneath.index(s[0])))
