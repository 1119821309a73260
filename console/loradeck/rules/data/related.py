"""Which live releases share a dataset, a recipe, a move to another base, or the batch they were promoted in."""

from __future__ import annotations

from dataclasses import dataclass

from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.related import Shared

BATCH_MS = 10 * 60_000
"""Promotes of one actor that are no further apart are one batch."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A pointer's live release, and what it may share. `left_base`: the base that its last move left."""

    datasets: frozenset[str] = frozenset()
    recipe: str | None = None
    base: str
    left_base: str | None = None
    move: Event | None = None


def shared(one: Member, other: Member) -> list[tuple[Shared, str]]:
    """What two share, each with its id: a dataset's or recipe's digest, the two bases, the actor. [] for nothing."""
    found: list[tuple[Shared, str]] = [(Shared.DATASET, digest) for digest in sorted(one.datasets & other.datasets)]
    if one.recipe is not None and one.recipe == other.recipe:
        found.append((Shared.RUN, one.recipe))
    if one.left_base not in (None, one.base) and (one.left_base, one.base) == (other.left_base, other.base):
        found.append((Shared.BASE_MOVE, f"{one.left_base} {one.base}"))
    if one.move is not None and other.move is not None and _one_batch(one.move, other.move):
        found.append((Shared.BATCH, one.move.actor))
    return found


def _one_batch(one: Event, other: Event) -> bool:
    if one.txn == other.txn:
        return True
    promotes = one.kind is other.kind is EventKind.PROMOTE
    return promotes and one.actor == other.actor and abs(one.at_ms - other.at_ms) <= BATCH_MS
