"""Related releases: live releases that share a dataset, a recipe, a move to another base, or a batch of promotes."""

from dataclasses import dataclass

from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.related import Shared

BATCH_MS = 10 * 60_000
"""Longest time between promotes of one actor that count as one batch, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A pointer's live release and the facts it may share with others. `left_base`: the base its last move left."""

    datasets: frozenset[str] = frozenset()
    recipe: str | None = None
    base: str
    left_base: str | None = None
    move: Event | None = None


def shared(one: Member, other: Member) -> list[tuple[Shared, str]]:
    """Lists what two releases share, each with its id: a dataset's or recipe's digest, the two bases, or the actor."""
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
