"""Retention: which releases garbage collection must keep, since a collected release is no rollback target any more."""

from collections.abc import Iterable, Mapping, Sequence

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState

KEPT_ATTESTED = 3
"""Attested releases kept per pointer beside the current one."""


def roots(
    pointers: Iterable[PointerState],
    attested: Mapping[PointerKey, Sequence[str]],
    *,
    before: Iterable[PointerState] = (),
    also: Iterable[str] = (),
) -> frozenset[str]:
    """Ids of the releases that must stay, with their adapters and bases.

    Per pointer: the current one, its candidate, everything beneath (R may go there), the last attested ones and the
    quarantined ones (evidence, and the target of an undo of the rollback).

    Args:
        attested: newest first.
        before: each pointer's state before its last move, to which undo returns.
        also: releases that something else needs: pins, pending prepares, entries of unreachable nodes.
    """
    kept = set(also)
    for pointer in (*pointers, *before):
        if pointer.release is not None:
            kept.add(pointer.release)
        if pointer.candidate is not None:
            kept.add(pointer.candidate.release)
        kept.update(pointer.beneath)
        kept.update(q.release for q in pointer.quarantined)
        kept.update(attested.get(pointer.key, ())[:KEPT_ATTESTED])
    return frozenset(kept)


def collectable(releases: Iterable[str], roots: frozenset[str], listed: Iterable[str]) -> frozenset[str]:
    """Releases that garbage collection may remove; none that an engine lists: it would fail at the next request."""
    return frozenset(releases) - roots - frozenset(listed)
