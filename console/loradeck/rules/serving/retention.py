"""What may never be collected: an earlier release that is gone is no way back."""

from __future__ import annotations

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

    Per pointer: the current one, everything beneath (R may go there), the last attested ones (`attested`,
    newest first) and the quarantined ones (evidence, and what an undo of the rollback returns to). `before`:
    each pointer as it was before its last move, which undo returns to. `also`: what something else holds on
    to: pins, pending prepares, entries of unreachable nodes.
    """
    kept = set(also)
    for pointer in (*pointers, *before):
        if pointer.release is not None:
            kept.add(pointer.release)
        kept.update(pointer.beneath)
        kept.update(q.release for q in pointer.quarantined)
        kept.update(attested.get(pointer.key, ())[:KEPT_ATTESTED])
    return frozenset(kept)


def collectable(releases: Iterable[str], roots: frozenset[str], listed: Iterable[str]) -> frozenset[str]:
    """Which of these releases may go. Nothing that an engine lists ever does: it would die at the next request."""
    return frozenset(releases) - roots - frozenset(listed)
