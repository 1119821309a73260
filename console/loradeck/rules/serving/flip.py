"""When a router flips, and to whom it admits a request in between.

A router keeps per (tenant, route) the newest entry it was told (durable) and the entry in force, which is the
newest one whose release was ready. (epoch, generation) is compared per entry; a removal is a tombstone.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum

from loradeck.schemas.route import Gap
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry

RETRY_AFTER_S = 2
"""Seconds a caller is told to wait where a release is not ready yet."""


class Verdict(StrEnum):
    FLIP = "flip"  # take it into force
    WAIT = "wait"  # newest desired, not ready: load it; the gap policy holds
    STALE = "stale"  # older than what is held, or another release under the same fence: drop it
    SAME = "same"  # in force already: take over its settings (keys, checks, gap), nothing to flip
    PINNED = "pinned"  # keep it as desired; a pin of this node is in force
    TOMBSTONE = "tombstone"  # removed: refuse requests, keep the fence


def decide(
    current: TableEntry | None,
    wanted: TableEntry,
    ready: bool,
    pin: Pin | None,
    *,
    waiting: TableEntry | None = None,
) -> Verdict:
    """What a router does with an entry that it is told, or that it holds and that has become ready.

    `current`: the entry in force; `waiting`: a newer one that was not ready; `ready`: the wanted release is
    loaded and listed in a running engine of its base, in this engine's lifetime.

    An entry and its tombstone share a fence: a pointer is withdrawn from a node, and placed there again, without
    having moved. Which of the two is the newer, the revision tells that they were sent under.
    """
    newest = max((e for e in (current, waiting) if e is not None), key=lambda e: e.fence, default=None)
    if newest is not None:
        if wanted.fence < newest.fence:
            return Verdict.STALE
        if wanted.fence == newest.fence and None not in (_id(wanted), _id(newest)) and _id(wanted) != _id(newest):
            return Verdict.STALE
    if pin is not None:
        return Verdict.PINNED
    if wanted.current is None:
        return Verdict.TOMBSTONE
    if current is not None and wanted.fence == current.fence and current.current is not None:
        return Verdict.SAME
    return Verdict.FLIP if ready else Verdict.WAIT


def _id(entry: TableEntry) -> str | None:
    return entry.current.id if entry.current else None


@dataclass(frozen=True, kw_only=True)
class Admission:
    """To whom a request is admitted: `release`, or the base alone (`base`), or nobody, for the reason `code`.

    `generation`: of the entry whose release answers; with a pin, of the entry it overrides. `gap`: the newest
    desired release is not ready, and this is what the tenant's policy puts in its place.
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
) -> Admission:
    """To whom a look-up admits now.

    `entry`: the newest desired one. `left`: the one in force before it, if this one was not ready yet.
    `ready`: ids of the releases an engine here can answer with. `hub_lost_s`: seconds without a hub, None
    while there is one.

    Codes: unknown_route, suspended, removed, hub_lost, not_ready.
    """
    if entry is None:
        return Admission(code="unknown_route")
    if entry.suspended:
        return Admission(generation=entry.generation, code="suspended")
    if hub_lost_s is not None and entry.refuse_after_s is not None and hub_lost_s >= entry.refuse_after_s:
        return Admission(generation=entry.generation, code="hub_lost", retry_after_s=RETRY_AFTER_S)
    wanted = pin.release if pin is not None else entry.current
    if wanted is None:
        return Admission(generation=entry.generation, code="removed")
    pinned = pin is not None
    if wanted.id in ready:
        return Admission(release=wanted, generation=entry.generation, pinned=pinned)
    if entry.gap is Gap.LEFT and left is not None and left.current is not None and left.current.id in ready:
        return Admission(release=left.current, generation=left.generation, gap=True)
    if entry.gap is Gap.BASE:
        return Admission(base=True, generation=entry.generation, gap=True)
    return Admission(generation=entry.generation, code="not_ready", retry_after_s=RETRY_AFTER_S, gap=True)
