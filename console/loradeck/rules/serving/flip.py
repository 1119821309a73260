"""Flips: when a router changes the release of a pointer, and how it admits requests until then.

A router keeps two entries per (tenant, route): the newest one it received (durable) and the entry in force, which is
the newest one whose release was ready. (epoch, generation) is compared per entry; a removal is a tombstone.
"""

from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum

from loradeck.schemas.table import Gap, Pin, ReleaseRef, RouteResidency, TableEntry

RETRY_AFTER_S = 2
"""Retry-After for callers while a release is not ready yet, in seconds."""


class Verdict(StrEnum):
    """What a router does with an entry."""

    FLIP = "flip"  # put it in force
    WAIT = "wait"  # the newest desired entry is not ready: load it; the gap policy applies
    STALE = "stale"  # older than the newest known entry, or another release under its fence: drop it
    SAME = "same"  # in force already: adopt its settings (keys, checks, gap), nothing to flip
    PINNED = "pinned"  # keep it as desired; a pin of this node is in force
    TOMBSTONE = "tombstone"  # removed: refuse requests, keep the fence


def decide(
    current: TableEntry | None,
    wanted: TableEntry,
    ready: bool,
    pin: Pin | None,
    *,
    waiting: TableEntry | None = None,
    engine: bool = True,
) -> Verdict:
    """Decides what a router does with an entry that it received, or that it holds and that has become ready.

    Args:
        current: the entry in force.
        ready: the wanted release is loaded and listed in a running engine of its base, in this engine's lifetime.
        waiting: a newer entry that was not ready.
        engine: an engine of the wanted release's base runs here.

    An entry and its tombstone may share a fence: a pointer is withdrawn from a node, and placed there again, without
    having moved. The revision under which each was sent decides which of the two is newer.

    An on-demand route flips at once where an engine can load its release, and the load starts with the flip.
    """
    newest = max((e for e in (current, waiting) if e is not None), key=lambda e: e.fence, default=None)
    if newest is not None:
        if wanted.fence < newest.fence:
            return Verdict.STALE
        if wanted.fence == newest.fence and None not in (_id(wanted), _id(newest)) and _id(wanted) != _id(newest):
            return Verdict.STALE
    if any(_has_later_step(known, wanted) for known in (current, waiting) if known is not None):
        return Verdict.STALE
    if pin is not None:
        return Verdict.PINNED
    if wanted.current is None:
        return Verdict.TOMBSTONE
    if current is not None and wanted.fence == current.fence and current.current is not None:
        return Verdict.SAME
    at_once = wanted.residency is RouteResidency.ON_DEMAND and engine
    return Verdict.FLIP if ready or at_once else Verdict.WAIT


def _has_later_step(known: TableEntry, wanted: TableEntry) -> bool:
    """Tells whether an entry of the same fence has a later share of the candidate."""
    if known.fence != wanted.fence or known.candidate is None or wanted.candidate is None:
        return False
    return known.candidate.step > wanted.candidate.step


def _id(entry: TableEntry) -> str | None:
    return entry.current.id if entry.current else None


def gap_after_flip(gap: Gap, residency: RouteResidency) -> Gap:
    """The gap policy that holds after a flip, until the release is loaded.

    An on-demand route flips before it loads, and from then on nobody is admitted to the left release: a stored `left`
    means `refuse` there.
    """
    return Gap.REFUSE if gap is Gap.LEFT and residency is RouteResidency.ON_DEMAND else gap


@dataclass(frozen=True, kw_only=True)
class AdmissionDecision:
    """The release that a request is admitted to, or the base alone (`base`), or a refusal with the reason `code`.

    `generation`: of the entry whose release answers; with a pin, of the entry it overrides. `gap`: the newest desired
    release is not ready, and the tenant's gap policy chose this instead.
    """

    release: ReleaseRef | None = None
    base: bool = False
    generation: int = 0
    code: str | None = None
    retry_after_s: int | None = None
    gap: bool = False
    pinned: bool = False


def in_force(
    entry: TableEntry | None,
    pin: Pin | None,
    ready: Container[str],
    *,
    left: TableEntry | None = None,
    hub_lost_s: float | None = None,
) -> AdmissionDecision:
    """Decides where a request is admitted now.

    Args:
        entry: the newest desired entry.
        ready: ids of the releases that an engine here can answer with.
        left: the entry in force before, if this one was not ready yet.
        hub_lost_s: seconds without a hub; None while there is one.

    Returns:
        An admission, or a refusal with one of the codes unknown_route, suspended, removed, not_here (other nodes serve
        it), hub_lost, not_ready.
    """
    if entry is None:
        return AdmissionDecision(code="unknown_route")
    if entry.suspended:
        return AdmissionDecision(generation=entry.generation, code="suspended")
    if hub_lost_s is not None and entry.refuse_after_s is not None and hub_lost_s >= entry.refuse_after_s:
        return AdmissionDecision(generation=entry.generation, code="hub_lost", retry_after_s=RETRY_AFTER_S)
    wanted = pin.release if pin is not None else entry.current
    if wanted is None:
        return AdmissionDecision(generation=entry.generation, code="not_here" if entry.elsewhere else "removed")
    pinned = pin is not None
    if wanted.id in ready:
        return AdmissionDecision(release=wanted, generation=entry.generation, pinned=pinned)
    gap = gap_after_flip(entry.gap, entry.residency)
    if gap is Gap.LEFT and left is not None and left.current is not None and left.current.id in ready:
        return AdmissionDecision(release=left.current, generation=left.generation, gap=True)
    if gap is Gap.BASE:
        return AdmissionDecision(base=True, generation=entry.generation, gap=True)
    return AdmissionDecision(generation=entry.generation, code="not_ready", retry_after_s=RETRY_AFTER_S, gap=True)
