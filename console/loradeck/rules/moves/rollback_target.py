"""The target of R: where a rollback would go, and why, as the screen shows it before the key is pressed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from loradeck.schemas.log import Lifted, PointerState
from loradeck.schemas.state import PreviewAction


@dataclass(frozen=True, kw_only=True)
class PointerFacts:
    """Facts about releases on one pointer that the log alone does not give.

    `attested`: releases attested on this pointer, newest first. `soaked`: those that served here long enough.
    `breached` and `revoked`: release id -> the reason, as text for a person. `doubted`: likewise, of releases whose
    answers were bad by a cause that nobody knows. `breaches`: release id -> seq of the newest attestation of its breach
    or doubt, which distinguishes one that was lifted from a later one.
    """

    attested: tuple[str, ...] = ()
    soaked: frozenset[str] = frozenset()
    breached: Mapping[str, str] = field(default_factory=dict)
    doubted: Mapping[str, str] = field(default_factory=dict)
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
    return None if _is_lifted(release, pointer, facts) else facts.breached.get(release)


def doubt_of(release: str, pointer: PointerState, facts: PointerFacts) -> str | None:
    """Says what a release is doubted for on this pointer; None if it is not, or the doubt was lifted."""
    return None if _is_lifted(release, pointer, facts) else facts.doubted.get(release)


def _is_lifted(release: str, pointer: PointerState, facts: PointerFacts) -> bool:
    lifted = lifted_of(release, pointer)
    return lifted is not None and facts.breaches.get(release, 0) <= lifted.breach


def lifted_of(release: str, pointer: PointerState) -> Lifted | None:
    """The newest lift of a release's breach on this pointer; None if there is none."""
    return next((lifted for lifted in pointer.lifted if lifted.release == release), None)


def ruled_out(release: str, pointer: PointerState, facts: PointerFacts) -> str | None:
    """Why a release must not serve this pointer unasked (revoked, quarantined, breached); None if it may."""
    if release in facts.revoked:
        return f"revoked: {facts.revoked[release]}"
    if is_quarantined(release, pointer):
        return "quarantined"
    breach = breach_of(release, pointer, facts)
    return f"breached: {breach}" if breach is not None else None


def is_quarantined(release: str, pointer: PointerState) -> bool:
    """Tells whether a release was left by R or F on this pointer, and nobody has lifted that since."""
    return any(q.release == release for q in pointer.quarantined)


def liftable(release: str, pointer: PointerState, facts: PointerFacts) -> bool:
    """Tells whether lifting would clear a release: it is quarantined, breached or doubted, and not revoked."""
    against = breach_of(release, pointer, facts) or doubt_of(release, pointer, facts)
    return (is_quarantined(release, pointer) or against is not None) and release not in facts.revoked


class Fitness(IntEnum):
    """How fit a release is for R, the best first. R asks from UNSOAKED on. NEVER: it is revoked, or the candidate.

    A doubt makes R ask, and no release less fit: R must not go further back in silence for what nobody knows.
    """

    FIT = 0
    UNSOAKED = 1
    BREACHED = 2
    UNATTESTED = 3
    QUARANTINED = 4
    NEVER = 5


class Way(NamedTuple):
    """A release that lies beneath, and what speaks against going back to it; None if nothing does."""

    release: str
    fitness: Fitness
    why: str | None


def way(release: str, pointer: PointerState, facts: PointerFacts) -> Way:
    """Judges a release as a target of R.

    Breaches, soaks and proofs are what nodes say: they decide how late a release comes, never that R has no target.
    """
    why = ruled_out(release, pointer, facts)
    if release in facts.revoked:
        return Way(release, Fitness.NEVER, why)
    if pointer.candidate is not None and release == pointer.candidate.release:
        return Way(release, Fitness.NEVER, why or "the candidate")
    if is_quarantined(release, pointer):
        return Way(release, Fitness.QUARANTINED, why)
    if release not in facts.attested:
        return Way(release, Fitness.UNATTESTED, why or "never attested here")
    if why is not None:
        return Way(release, Fitness.BREACHED, why)
    doubt = doubt_of(release, pointer, facts)
    why = f"its answers were bad: {doubt}" if doubt is not None else None
    if release in facts.soaked:
        return Way(release, Fitness.FIT, why)
    return Way(release, Fitness.UNSOAKED, why or "not soaked")


def ways(pointer: PointerState, facts: PointerFacts) -> list[Way]:
    """The releases beneath the live one, newest first, each judged."""
    return [way(release, pointer, facts) for release in pointer.beneath if release != pointer.release]


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

    It goes to the release beneath of the best `Fitness`, of equal ones to the newest, and asks if anything speaks
    against it. With a candidate out it puts all callers back on the live release, or on one beneath where the live one
    is ruled out and another stands better; it never goes to the candidate.
    """
    if pending_prepare is not None:
        return Target(action=PreviewAction.CANCEL_PREPARE, prepare=pending_prepare)
    if pointer.release is None:
        return Target(action=PreviewAction.NONE, refused="nothing is live on this pointer")

    beneath = ways(pointer, facts)
    best = min(beneath, key=lambda one: one.fitness, default=None)
    over: list[Way] = []
    if pointer.candidate is not None:
        live = way(pointer.release, pointer, facts)
        if ruled_out(live.release, pointer, facts) is None:
            live, beneath = Way(live.release, Fitness.FIT, None), []
        if best is None or live.fitness <= best.fitness:
            best = live
        else:
            over.append(live)
    if best is not None and (best.fitness is not Fitness.NEVER or best.release == pointer.release):
        fit = best.fitness is Fitness.FIT
        over += beneath[: beneath.index(best)] if fit and best in beneath else [one for one in beneath if one != best]
        return Target(
            action=PreviewAction.ROLLBACK,
            release=best.release,
            asks=best.why,
            skipped=_skipped(over),
            live_is_base=live_is_base,
            candidate_is_base=candidate_is_base,
        )

    why_none = "no earlier release to go back to" if not beneath else "no earlier release is fit to go back to"
    if live_is_base:
        refused = f"{why_none}, and the base alone is live"
        return Target(action=PreviewAction.NONE, refused=refused, skipped=_skipped(beneath), live_is_base=True)
    if not fallback_allowed:
        refused = f"{why_none}, and this route allows no fallback to the base alone"
        return Target(action=PreviewAction.NONE, refused=refused, skipped=_skipped(beneath))
    return Target(action=PreviewAction.FALLBACK, refused=why_none, skipped=_skipped(beneath))


def _skipped(over: Iterable[Way]) -> tuple[tuple[str, str], ...]:
    return tuple((one.release, one.why) for one in over if one.why is not None)


def ways_back(pointer: PointerState, facts: PointerFacts) -> tuple[str, ...]:
    """Releases beneath the live one that R may go to, in the order in which it would.

    Slots go to them in this order, so that the target on the screen is the release that stays loaded.
    """
    able = [one for one in ways(pointer, facts) if one.fitness is not Fitness.NEVER]
    return tuple(one.release for one in sorted(able, key=lambda one: one.fitness))
